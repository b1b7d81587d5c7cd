"""Our loaders inside other people's training loops: the same rows as without them, over epochs and resumed midway.

Lightning's and Accelerate's packages come with the extra `clients`.
"""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import starts_workers
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from mt_core import (
    LoaderStateError,
    MicroTransformer,
    TokenLoader,
    TokenStore,
    TransformerDataset,
    evaluate,
    export_pretrained,
    load_pretrained,
    token_loader,
    unshift_labels,
)

GUIDE = (Path(__file__).parents[1] / "docs" / "experimenters.md").read_text(encoding="utf-8")
V = 257
ENDS = [3, 10, 11, 12, 40, 55, 100, 101, 180, 200, V - 4]
EPOCHS = 2


class StoppedError(Exception):
    """The training loop ends here, as if it were killed."""


def client(name: str) -> Any:
    return pytest.importorskip(name, reason=f"needs {name}: pip install microtransformer[clients]")


def create(kind: str = "contiguous", num_workers: int = 0, **settings: Any) -> TokenLoader:
    """A loader over 253 different tokens: 15 batches of 4 rows and some left over, or batches of several lengths."""
    store = TokenStore.from_token_ids(range(4, V), vocab_size=V, document_ends=ENDS)
    settings = {"shuffle": True, "drop_last": True, "seed": 3, "num_workers": num_workers} | settings
    if num_workers and sys.platform == "win32":
        settings["start_method"] = "spawn"
    if kind == "buckets":
        rows = TransformerDataset(store, seq_length=16, chunking="per_document", length_buckets=4)
        return TokenLoader(rows, token_budget=32, **settings | {"drop_last": False})
    return TokenLoader(TransformerDataset(store, seq_length=4), batch_size=4, **settings)


def ids(batch: dict[str, Any]) -> list[list[int]]:
    return batch["input_ids"].tolist()


def without(kind: str = "contiguous", epochs: int = EPOCHS) -> list[list[list[list[int]]]]:
    """The rows of each batch of each epoch, in a plain loop."""
    loader = create(kind)
    return [[ids(batch) for batch in loader] for _ in range(epochs)]


def flat(epochs: list[list[Any]]) -> list[Any]:
    return [batch for epoch in epochs for batch in epoch]


def program(words: str) -> str:
    """The guide's example that has these words in it."""
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL) if words in block)
    return block


# -- models that shift labels themselves -------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder from which our model and `transformers`' Llama are read, with the same large weights."""
    torch.manual_seed(0)
    model = MicroTransformer(vocab_size=V, n_layer=2, n_head=2, n_embd=16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3) if parameter.dim() == 2 else parameter.uniform_(0.5, 1.5)
    return export_pretrained(model, None, tmp_path_factory.mktemp("exported") / "model")


def ours(exported: Path) -> MicroTransformer:
    return load_pretrained(exported)[0].double()


def llama(exported: Path, attention: str = "sdpa") -> Any:
    return LlamaForCausalLM.from_pretrained(exported, attn_implementation=attention).double()


def our_loss(model: MicroTransformer, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    documents = {name: batch[name] for name in ("position_ids", "document_ids") if name in batch}
    logits = model(batch["input_ids"], **documents).float()  # as transformers does
    return cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mask_documents": True},
        {"chunking": "packed"},
        {"chunking": "per_document"},
        {"chunking": "sliding", "length_buckets": 4},
    ],
    ids=str,
)
def test_the_loss_is_ours(exported: Path, settings: dict[str, Any], attention: str) -> None:
    model, other = ours(exported), llama(exported, attention)
    store = TokenStore.from_token_ids([i * i * 7919 % V for i in range(V - 4)], vocab_size=V, document_ends=ENDS)
    twice = []
    for batch in TokenLoader(TransformerDataset(store, seq_length=12, **settings), batch_size=3):
        batch["input_ids"][:, ::5] = 7  # as masking does: inputs that are not the labels before them
        expected = our_loss(model, batch)
        assert other(**unshift_labels(batch)).loss.item() == pytest.approx(expected.item(), rel=1e-6)
        documents = {"position_ids": batch["position_ids"], "use_cache": False} if "position_ids" in batch else {}
        shifted_again = other(input_ids=batch["input_ids"], labels=batch["labels"], **documents).loss
        twice.append(abs(shifted_again - expected).item())
    assert max(twice) > 0.1, "shifted twice, it is another loss"


def test_no_target_is_lost_and_what_is_ignored_stays_so() -> None:
    batch = {
        "input_ids": torch.tensor([[5, 6, 7], [8, 9, 0]]),
        "labels": torch.tensor([[6, 7, 8], [9, -100, -100]]),
        "position_ids": torch.tensor([[0, 1, 2], [0, 1, 0]]),
        "document_ids": torch.tensor([[0, 0, 0], [1, 1, -1]]),
        "provenance": torch.zeros(2, 4),
    }
    adapted = unshift_labels(batch)
    assert adapted.pop("use_cache") is False  # with a cache, transformers does not keep documents apart
    assert {name: tensor.tolist() for name, tensor in adapted.items()} == {
        "input_ids": [[5, 6, 7, 8], [8, 9, 0, 0]],
        "labels": [[-100, 6, 7, 8], [-100, 9, -100, -100]],
        "position_ids": [[0, 1, 2, 3], [0, 1, 0, 1]],
    }


def test_what_cannot_be_adapted_is_refused() -> None:
    batch = next(iter(create("buckets")))
    for wrong, message in (
        ({"input_ids": batch["input_ids"]}, r"the batch has \['input_ids'\], no labels"),
        (batch | {"labels": batch["labels"][:, 1:]}, r"input_ids are of shape \(\d+, \d+\), labels \(\d+, \d+\)"),
        ({name: tensor[0] for name, tensor in batch.items()}, r"must be \(B, T\)"),
        (unshift_labels(batch), "adapted already"),
    ):
        with pytest.raises(ValueError, match=message):
            unshift_labels(wrong)


# -- the Trainer of transformers ---------------------------------------------------------------------------


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step == self.step:
            raise StoppedError


@pytest.fixture
def accelerate() -> Iterator[ModuleType]:
    """The module; what it remembers of a process is forgotten before and after."""
    module = client("accelerate")
    for _ in range(2):
        module.state.AcceleratorState._reset_state(reset_partial_state=True)
        module.state.GradientState._reset_state()
        if _ == 0:
            yield module


@pytest.mark.parametrize("kind, prepared", [("contiguous", True), ("contiguous", False), ("buckets", True)])
def test_trainer(tmp_path: Path, exported: Path, accelerate: ModuleType, kind: str, prepared: bool) -> None:
    """Killed in its second epoch and resumed, it has the rows and the losses of a plain loop around our model."""
    seen: list[Any] = []
    losses: list[float] = []

    def trainer(**arguments: Any) -> Trainer:
        val_loader = create(shuffle=False, drop_last=False)
        names: dict[str, Any] = {"Trainer": Trainer, "train_loader": create(kind), "val_loader": val_loader}
        names["unshift_labels"] = unshift_labels
        exec(program("class TokenTrainer"), names)
        token_trainer: Any = names["TokenTrainer"]

        class Recording(token_trainer):
            def get_train_dataloader(self) -> Any:
                return super().get_train_dataloader() if prepared else names["train_loader"]

            def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
                loss = super().training_step(model, inputs, *rest)
                seen.append([row[:-1] for row in ids(inputs)])
                losses.append(loss.item())
                return loss

        options: dict[str, Any] = {"num_train_epochs": EPOCHS, "save_strategy": "no", "logging_strategy": "no"}
        options |= {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
        options["per_device_eval_batch_size"] = 4  # it weighs the batches of evaluate by this
        options |= {"use_cpu": True, "disable_tqdm": True, "report_to": [], "output_dir": str(tmp_path)} | arguments
        return Recording(model=llama(exported), args=TrainingArguments(**options))

    rows = without(kind)
    at = len(rows[0]) + 3
    first = trainer(save_strategy="steps", save_steps=at)
    first.add_callback(StopAt(at))
    with pytest.raises(StoppedError):
        first.train()
    assert seen == flat(rows)[:at]
    second = trainer()
    second.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
    assert seen == flat(rows)

    model, loader, expected = ours(exported), create(kind), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for batch in (batch for _ in range(EPOCHS) for batch in loader):
        optimizer.zero_grad()
        loss = our_loss(model, batch)
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert losses == pytest.approx(expected, rel=1e-6)
    evaluated = evaluate(model, create(shuffle=False, drop_last=False)).nats_per_token
    assert second.evaluate()["eval_loss"] == pytest.approx(evaluated, abs=1e-5)


# -- Accelerate --------------------------------------------------------------------------------------------


def prepared(accelerate: ModuleType, loader: TokenLoader, **config: Any) -> tuple[Any, Any]:
    accelerator = accelerate.Accelerator(cpu=True, dataloader_config=accelerate.utils.DataLoaderConfiguration(**config))
    return accelerator, accelerator.prepare(loader)


@starts_workers
@pytest.mark.parametrize("kind, num_workers", [("contiguous", 0), ("contiguous", 2), ("buckets", 0)])
def test_accelerate(accelerate: ModuleType, kind: str, num_workers: int) -> None:
    """The guide's loop, whole and resumed in either epoch."""
    rows = without(kind)
    _, loader = prepared(accelerate, create(kind, num_workers))
    assert [[ids(batch) for batch in loader] for _ in range(EPOCHS)] == rows, "nothing has to be set"
    for epoch, step in ((0, 0), (0, 5), (1, 2))[2 if num_workers else 0 :]:
        accelerator = accelerate.Accelerator(cpu=True)
        seen: list[Any] = []

        def train_step(batch: dict[str, Any], seen: list[Any] = seen) -> None:
            seen.append([row[:-1] for row in ids(batch)])

        names = {"accelerator": accelerator, "train_loader": create(kind, num_workers), "train_step": train_step}
        names |= {"unshift_labels": unshift_labels, "start_epoch": epoch, "start_step": step, "epochs": EPOCHS}
        exec(program("skip_first_batches"), names)
        assert seen == flat(rows[epoch:])[step:]


@pytest.mark.parametrize("kind", ["contiguous", "buckets"])
def test_accelerate_deals_out_the_batches_of_one_rank(accelerate: ModuleType, kind: str) -> None:
    """Two processes with split_batches: what our own two ranks read."""
    accelerate.PartialState(cpu=True)
    for rank in range(2) if kind == "contiguous" else ():
        theirs = accelerate.data_loader.prepare_data_loader(
            create(kind, rank=0, world_size=1), num_processes=2, process_index=rank, split_batches=True
        )
        loader = create(kind, rank=rank, world_size=2)
        for _ in range(EPOCHS):
            assert [ids(batch) for batch in theirs] == [ids(batch) for batch in loader]
    with pytest.raises(ValueError, match=r"deals out its rows to 2 ranks already.*DataLoaderConfiguration"):
        next(iter(accelerate.Accelerator(cpu=True).prepare(create(kind, rank=1, world_size=2))))


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata's affair
@pytest.mark.parametrize("kind", ["contiguous", "buckets"])
def test_accelerate_with_stateful_loaders(accelerate: ModuleType, kind: str) -> None:
    client("torchdata")
    rows = without(kind)
    for epoch in range(EPOCHS):
        _, loader = prepared(accelerate, create(kind), use_stateful_dataloader=True)
        loader.set_epoch(epoch)
        running = iter(loader)
        seen = [ids(next(running)) for _ in range(4)]
        state = loader.state_dict()
        _, loader = prepared(accelerate, create(kind), use_stateful_dataloader=True)
        loader.set_epoch(epoch)
        loader.load_state_dict(state)
        assert seen + [ids(batch) for batch in loader] == rows[epoch]


@pytest.mark.parametrize("kind", ["contiguous", "buckets"])
def test_a_place_that_only_the_other_loader_knows_is_refused(accelerate: ModuleType, kind: str) -> None:
    loader = create(kind)
    _, theirs = prepared(accelerate, loader)
    theirs.set_epoch(2)
    next(iter(theirs))
    assert loader.epoch == 2
    with pytest.raises(LoaderStateError, match="only it knows which batches it delivered"):
        loader.state_dict()
    assert ids(next(iter(loader))) == without(kind, 4)[3][0], "read by itself again, it goes on with the next epoch"
    state = loader.state_dict()
    assert state["epoch"] == 3
    fresh = create(kind)
    fresh.load_state_dict(state)
    with pytest.raises(ValueError, match="would not start from the state that was loaded"):
        next(iter(prepared(accelerate, fresh)[1]))
    assert ids(next(iter(fresh))) == without(kind, 4)[3][1]


@pytest.mark.parametrize("kind", ["contiguous", "buckets"])
def test_a_loader_made_by_hand_has_to_say_the_epoch(kind: str) -> None:
    loader = create(kind)
    by_hand: DataLoader[Any] = DataLoader(
        loader.dataset, batch_sampler=loader.batch_sampler, collate_fn=loader.collate_fn
    )
    with pytest.raises(ValueError, match=r"did not say which epoch: call its set_epoch\(epoch\), or this one's"):
        next(iter(by_hand))
    loader.set_epoch(1)
    assert [ids(batch) for batch in by_hand] == without(kind)[1]


# -- Lightning ---------------------------------------------------------------------------------------------


@pytest.fixture
def lightning() -> ModuleType:
    return client("lightning.pytorch")


@pytest.fixture
def lightning_trainer(lightning: ModuleType, tmp_path: Path) -> Callable[..., Any]:
    """`lightning_trainer(**settings)`: two epochs on a CPU, without a log; callbacks are functions of the trainer."""

    def make(**settings: Any) -> Any:
        quiet = {name: False for name in ("logger", "enable_progress_bar", "enable_model_summary")}
        options = {"enable_checkpointing": False, "max_epochs": EPOCHS, "default_root_dir": str(tmp_path)}
        return lightning.Trainer(accelerator="cpu", **{"devices": 1} | quiet | options | settings)

    return make


def recorder(lightning: ModuleType, loader: Callable[[], TokenLoader] | None = None) -> Any:
    """A module that trains on nothing and keeps the rows it was given; `loader` makes them in its own hook."""

    class Recorder(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.seen: list[Any] = []

        def training_step(self, batch: dict[str, Any], _: int) -> torch.Tensor:
            self.seen.append(ids(batch))
            return self.weight * 1.0

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    if loader is not None:
        Recorder.train_dataloader = lambda self: loader()
    return Recorder()


theirs = [
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    starts_workers,
]


def marked(test: Any) -> Any:
    for mark in theirs:
        test = mark(test)
    return test


@marked
@pytest.mark.parametrize("kind, workers", [("contiguous", (0, 2)), ("contiguous", (2, 0)), ("buckets", (0, 0))])
def test_lightning(
    lightning: ModuleType, lightning_trainer: Any, tmp_path: Path, kind: str, workers: tuple[int, int]
) -> None:
    """Nothing has to be set; killed in the second epoch and resumed with other workers, not a row is other."""
    rows = without(kind)
    at = len(rows[0]) + 3

    class Kill(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, *others: Any) -> None:
            if trainer.global_step == at:
                raise StoppedError

    def validates(module: Any) -> Any:
        validated: list[Any] = []
        type(module).validation_step = lambda self, batch, _: validated.extend(ids(batch))
        module.validated = validated
        return module

    save = lightning.callbacks.ModelCheckpoint(tmp_path, filename="place", every_n_train_steps=at)
    val = create(shuffle=False, drop_last=False)
    module, second = validates(recorder(lightning)), validates(recorder(lightning))
    with pytest.raises(StoppedError):
        trainer = lightning_trainer(enable_checkpointing=True, callbacks=[save, Kill()])
        trainer.fit(module, create(kind, workers[0]), val)
    assert module.seen == flat(rows)[:at]
    lightning_trainer(num_sanity_val_steps=0).fit(
        second, create(kind, workers[1]), val, ckpt_path=tmp_path / "place.ckpt", weights_only=True
    )
    assert module.seen + second.seen == flat(rows)
    assert sorted(second.validated) == [list(range(start, start + 4)) for start in range(4, V - 4, 4)]


@marked
@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled train dataloader shuffling")
def test_lightning_may_not_put_another_order_in_place_of_ours(
    lightning: ModuleType, lightning_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "RANK"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)  # and at the end, what Lightning sets is gone
    with pytest.raises(ValueError, match=r"got SequentialSampler in place.*leave out overfit_batches"):
        lightning_trainer(overfit_batches=2).fit(recorder(lightning), create())
    try:
        with pytest.raises(ValueError, match=r"got DistributedSamplerWrapper in place.*use_distributed_sampler=False"):
            lightning_trainer(strategy="ddp").fit(recorder(lightning, create))
        module = recorder(lightning, create)
        lightning_trainer(strategy="ddp", use_distributed_sampler=False).fit(module)
        assert module.seen == flat(without())
    finally:
        torch.distributed.destroy_process_group()


@marked
def test_a_checkpoint_without_our_place_is_refused(
    lightning: ModuleType, lightning_trainer: Any, tmp_path: Path
) -> None:
    """Written after a fit that max_steps ended, it says that the epoch is over, and nothing of the loader."""
    trainer = lightning_trainer(max_steps=20)
    trainer.fit(recorder(lightning), create())
    trainer.save_checkpoint(tmp_path / "late.ckpt")
    with pytest.raises(LoaderStateError, match="a framework begins epoch 2, this loader epoch 0, and rows would be"):
        lightning_trainer(max_epochs=3).fit(
            recorder(lightning), create(), ckpt_path=tmp_path / "late.ckpt", weights_only=True
        )
    module, loader = recorder(lightning), create()
    loader.set_epoch(2)
    lightning_trainer(max_epochs=3).fit(module, loader, ckpt_path=tmp_path / "late.ckpt", weights_only=True)
    assert module.seen == without(epochs=3)[2]


def test_a_loader_made_before_there_were_ranks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    early, told = create(), create(rank=0, world_size=1)
    monkeypatch.setattr(token_loader, "data_ranks", lambda: (1, 2))
    with pytest.raises(LoaderStateError, match="made as rank 0 of 1, this process is rank 1 of 2: make it after"):
        next(iter(early))
    next(iter(told))
