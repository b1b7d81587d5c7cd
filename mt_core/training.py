"""Logits to loss: the training loop, evaluation and its records. Does not read text or draw pictures.

Losses are in nats per token (natural logarithm, as `cross_entropy` returns) unless a name says bits.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from mt_core.checkpoints import CheckpointError, latest_checkpoint, load_checkpoint, read_state, save_checkpoint
from mt_core.loaders import TokenLoader
from mt_core.model import MicroTransformer, generate
from mt_core.tokenizer import MicroTransformerTokenizer
from mt_core.windows import IGNORE


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train. Checked when made.

    Args:
        epochs: passes over the training loader.
        max_steps: stop after this many optimizer steps, even in the middle of an epoch; None for all.
        optimizer: "adamw", or "muon" for the matrices inside the blocks and AdamW for the rest.
        learning_rate: the highest, reached after the warmup.
        warmup_steps: steps of linear rise from 0; the rate then falls linearly to 0 at the last step, as
            `transformers.get_linear_schedule_with_warmup` has it.
        weight_decay: on matrices alone, not on embeddings or norms.
        betas: AdamW's decay rates.
        clip_norm: the gradient is scaled down to this norm; None leaves it.
        accumulate: batches whose gradients are averaged into one step.
        evaluate_every: steps between evaluations; None evaluates after each epoch. The last step always is.
        checkpoint_every: steps between checkpoints in `run_dir`; None writes one after each epoch.
        precision: "float32", or "bfloat16" for autocast; None takes bfloat16 on CUDA.
    """

    epochs: int = 3
    max_steps: int | None = None
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float | None = 1.0
    accumulate: int = 1
    evaluate_every: int | None = None
    checkpoint_every: int | None = None
    precision: Literal["float32", "bfloat16"] | None = None

    def __post_init__(self) -> None:
        counts = {"epochs": self.epochs, "accumulate": self.accumulate}
        counts |= {
            n: v for n in ("max_steps", "evaluate_every", "checkpoint_every") if (v := getattr(self, n)) is not None
        }
        for name, value in counts.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r}, a whole number of at least 1 is needed")
        if not 0 < self.learning_rate < math.inf or not self.warmup_steps >= 0 or not self.weight_decay >= 0:
            raise ValueError(
                f"learning_rate={self.learning_rate}, warmup_steps={self.warmup_steps}, "
                f"weight_decay={self.weight_decay}: the first must be above 0, the others at least 0"
            )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm={self.clip_norm}, a number above 0 is needed, or None to leave gradients")
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f"optimizer={self.optimizer!r}, it must be 'adamw' or 'muon'")
        if self.precision not in (None, "float32", "bfloat16"):
            raise ValueError(f"precision={self.precision!r}, it must be 'float32', 'bfloat16' or None")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer step: loss over its batches (nats per token), gradient norm before clipping, and counts so far."""

    step: int
    epoch: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A pass over a validation loader. `bits_per_byte` is None without a tokenizer, `step` outside training."""

    nats_per_token: float
    n_targets: int
    bits_per_byte: float | None = None
    step: int | None = None
    epoch: int | None = None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A text that the model wrote after `step` steps."""

    step: int
    text: str


Record = Step | Evaluation | Sample


@dataclass
class History:
    """What a run recorded, in order."""

    steps: list[Step] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def add(self, record: Record) -> None:
        kinds: dict[type, list[Any]] = {Step: self.steps, Evaluation: self.evaluations, Sample: self.samples}
        kinds[type(record)].append(record)

    @classmethod
    def read(cls, run_dir: str | Path) -> History:
        """The history of a run from its `log.jsonl`, one record a line; a half-written last line is left out."""
        history, kinds = cls(), {"step": Step, "evaluation": Evaluation, "sample": Sample}
        for values in _read_log(Path(run_dir) / "log.jsonl"):
            history.add(kinds[values.pop("kind")](**values))
        return history


def loss_of(
    model: Callable[[Tensor], Tensor], batch: dict[str, Tensor], *, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Cross entropy (nats) over a batch, the mean of its targets or their sum; labels of -100 are left out."""
    logits = model(batch["input_ids"])  # (B, T, V)
    labels = batch["labels"].view(-1)
    return F.cross_entropy(logits.view(-1, logits.size(-1)), labels, ignore_index=IGNORE, reduction=reduction)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Iterable[dict[str, Tensor]],
    *,
    tokenizer: MicroTransformerTokenizer | None = None,
    per_row: list[float] | None = None,
) -> Evaluation:
    """Mean loss over every target of a loader.

    Args:
        tokenizer: gives the bytes each target stands for, and so bits per byte: bits spent on all targets,
            end marks included, over the bytes of text they hold.
        per_row: a list to which each row's summed loss (nats) is appended, for comparing documents one by one.

    Raises:
        ValueError: the loader has no target.
    """
    device = next(model.parameters()).device
    byte_lengths = None if tokenizer is None else torch.from_numpy(tokenizer.token_byte_lengths()).to(device)
    was_training = model.training
    model.eval()
    nats, targets, n_bytes = 0.0, 0, 0
    try:
        for batch in loader:
            input_ids, labels = batch["input_ids"].to(device), batch["labels"].to(device)
            logits = model(input_ids).float()
            losses = F.cross_entropy(
                logits.view(-1, logits.size(-1)), labels.view(-1), reduction="none", ignore_index=IGNORE
            )
            rows = losses.view(labels.shape).sum(1, dtype=torch.float64)
            nats += rows.sum().item()
            if per_row is not None:
                per_row += rows.tolist()
            real = labels != IGNORE
            targets += int(real.sum())
            if byte_lengths is not None:
                n_bytes += int(byte_lengths[labels[real]].sum())
    finally:
        model.train(was_training)
    if targets == 0:
        raise ValueError("the loader has no target to evaluate: every label is -100, or there is no batch")
    bits_per_byte = nats / math.log(2) / n_bytes if n_bytes else None
    return Evaluation(nats_per_token=nats / targets, n_targets=targets, bits_per_byte=bits_per_byte)


def create_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101) with decay on matrices alone; with "muon", Muon
    (Jordan et al. 2024) for the matrices inside the blocks, its rate scaled to match AdamW's (arXiv:2502.16982)."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if p.dim() == 2 and "embed" not in name and "lm_head" not in name]
    others = [p for _, p in named if not any(p is m for m in matrices)]
    rate, decay = config.learning_rate, config.weight_decay
    groups: list[dict[str, Any]] = [{"params": others, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = []
    if config.optimizer == "muon":
        optimizers.append(torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    elif matrices:
        groups.append({"params": matrices, "weight_decay": decay})
    return [torch.optim.AdamW(groups, lr=rate, betas=config.betas, fused=True), *optimizers]


def linear_schedule(warmup_steps: int, total_steps: int) -> Callable[[int], float]:
    """The share of the learning rate at each step: linear from 0 to 1 over the warmup, then linear to 0.

    >>> [linear_schedule(2, 6)(step) for step in range(7)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    """

    def share(step: int) -> float:
        if step < warmup_steps:
            return step / max(1, warmup_steps)
        return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))

    return share


def fit(
    model: MicroTransformer,
    train_loader: TokenLoader,
    val_loader: Iterable[dict[str, Tensor]] | None = None,
    config: TrainConfig | None = None,
    *,
    tokenizer: MicroTransformerTokenizer | None = None,
    run_dir: str | Path | None = None,
    progress: bool = True,
) -> History:
    """Train on the device the model is on, and return what was recorded.

    With a `run_dir`, records go to `run_dir/log.jsonl` and checkpoints to `run_dir/checkpoints`. If a checkpoint
    is there the run goes on from it: on a CPU, bit for bit as if it had never stopped.

    Args:
        val_loader: evaluated after each epoch and after the last step; None for no evaluation.
        tokenizer: for bits per byte and a sample of text after each evaluation.
        progress: show a progress bar.

    Raises:
        CheckpointError, LoaderStateError: the checkpoint in `run_dir` is damaged, or belongs to other settings
            or other data. The model is left as it was.
        FloatingPointError: the loss or a gradient is no longer a number. The model is left as before that step.
    """
    history = History()
    records = training_steps(model, train_loader, val_loader, config, tokenizer=tokenizer, run_dir=run_dir)
    with tqdm(total=total_steps(train_loader, config or TrainConfig()), unit="step", disable=not progress) as bar:
        for record in records:
            history.add(record)
            if isinstance(record, Step):
                bar.update(record.step - bar.n)
                bar.set_postfix(loss=f"{record.loss:.3f}", refresh=False)
    return history if run_dir is None else History.read(run_dir)


def total_steps(train_loader: TokenLoader, config: TrainConfig) -> int:
    """Optimizer steps of a whole run."""
    steps = len(train_loader) // config.accumulate * config.epochs
    if steps == 0:
        raise ValueError(
            f"an epoch has {len(train_loader)} batches, fewer than accumulate={config.accumulate}: lower accumulate"
        )
    return steps if config.max_steps is None else min(steps, config.max_steps)


def training_steps(
    model: MicroTransformer,
    train_loader: TokenLoader,
    val_loader: Iterable[dict[str, Tensor]] | None = None,
    config: TrainConfig | None = None,
    *,
    tokenizer: MicroTransformerTokenizer | None = None,
    run_dir: str | Path | None = None,
) -> Iterator[Record]:
    """The loop behind `fit`, one record at a time, for callers that look on: steps, evaluations, samples of text.

    Arguments and errors are those of `fit`.
    """
    config = config or TrainConfig()
    device = next(model.parameters()).device
    optimizers = create_optimizers(model, config)
    last = total_steps(train_loader, config)
    schedulers = [LambdaLR(o, linear_schedule(config.warmup_steps, last)) for o in optimizers]
    precision = config.precision or ("bfloat16" if device.type == "cuda" else "float32")
    folder = None if run_dir is None else Path(run_dir)
    step = tokens = 0
    seconds = 0.0
    steps_per_epoch = len(train_loader) // config.accumulate
    recipe = {
        **asdict(config),
        "model": model.settings(),
        "batch_size": train_loader.batch_size,
        "total_steps": last,
    }
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = latest_checkpoint(folder / "checkpoints")
        if checkpoint is not None:
            state = read_state(checkpoint)
            _check_same_recipe(checkpoint, state["recipe"], recipe)
            train_loader.load_state_dict(state["loader"])
            load_checkpoint(checkpoint, model, optimizers)
            for scheduler, saved in zip(schedulers, state["schedulers"], strict=True):
                scheduler.load_state_dict(saved)
            step, tokens, seconds = state["step"], state["tokens"], state["seconds"]
        _truncate_log(folder, step)

    def save() -> None:
        if folder is not None:
            state = {
                "recipe": recipe,
                "loader": train_loader.state_dict(),
                "schedulers": [scheduler.state_dict() for scheduler in schedulers],
                "tokens": tokens,
                "seconds": seconds,
            }
            save_checkpoint(folder / "checkpoints", step, model, optimizers, state)

    def record(entry: Record) -> Record:
        if folder is not None:
            with (folder / "log.jsonl").open("a", encoding="utf-8", newline="\n") as log:
                log.write(_log_line(entry))
        return entry

    while step < last:
        began = time.perf_counter() - seconds
        model.train()
        batches = iter(train_loader)
        while step < last:
            group = [batch for _, batch in zip(range(config.accumulate), batches, strict=False)]
            if len(group) < config.accumulate:
                break  # the epoch is over
            group = [{name: tensor.to(device, non_blocking=True) for name, tensor in b.items()} for b in group]
            loss = _backward(model, group, precision)
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm or math.inf).item()
            if not math.isfinite(loss + norm):
                raise FloatingPointError(
                    f"the loss is {loss} and the gradient norm {norm} at step {step + 1}: "
                    "lower learning_rate, or raise warmup_steps"
                )
            rate = float(schedulers[0].get_last_lr()[0])
            for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            step += 1
            tokens += sum(batch["input_ids"].numel() for batch in group)
            seconds = time.perf_counter() - began
            yield record(
                Step(
                    step=step,
                    epoch=train_loader.epoch,
                    loss=loss,
                    learning_rate=rate,
                    gradient_norm=norm,
                    tokens=tokens,
                    seconds=round(seconds, 3),
                )
            )
            due = config.evaluate_every is not None and step % config.evaluate_every == 0
            if due and step < last:
                yield from _evaluated(model, val_loader, tokenizer, step, train_loader.epoch, record)
            ends = step == last or step % steps_per_epoch == 0  # then it is saved below, after the evaluation
            if config.checkpoint_every is not None and step % config.checkpoint_every == 0 and not ends:
                save()
            began = time.perf_counter() - seconds  # evaluating and saving are not training time
        if step == last or config.evaluate_every is None:
            yield from _evaluated(model, val_loader, tokenizer, step, train_loader.epoch, record)
        save()


def _backward(model: nn.Module, group: list[dict[str, Tensor]], precision: str) -> float:
    """Gradients of the mean loss over all targets of a group of batches; returns that loss."""
    device = group[0]["input_ids"].device
    autocast = torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()
    targets = [(batch["labels"] != IGNORE).sum() for batch in group]
    total = torch.stack(targets).sum().clamp(min=1)
    loss = torch.zeros((), device=device)
    for batch in group:
        with autocast:
            part = loss_of(model, batch, reduction="sum") / total  # each target weighs the same: as one large batch
        part.backward()
        loss += part.detach()
    return loss.item()


def _evaluated(
    model: MicroTransformer,
    val_loader: Iterable[dict[str, Tensor]] | None,
    tokenizer: MicroTransformerTokenizer | None,
    step: int,
    epoch: int,
    record: Callable[[Record], Record],
) -> Iterator[Record]:
    if val_loader is not None:
        yield record(replace(evaluate(model, val_loader, tokenizer=tokenizer), step=step, epoch=epoch))
    if tokenizer is not None:
        yield record(Sample(step=step, text=sample_text(model, tokenizer, seed=step)))


def sample_text(
    model: MicroTransformer, tokenizer: MicroTransformerTokenizer, *, seed: int = 0, max_new_tokens: int = 200
) -> str:
    """A text from the model, from [CLS] until it draws [SEP]; the same seed draws the same."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    start = torch.tensor([[tokenizer.cls_token_id]], device=device)
    ids = generate(
        model, start, max_new_tokens=max_new_tokens, stop_token_id=tokenizer.sep_token_id, generator=generator
    )
    return tokenizer.decode(ids[0].tolist())


def _check_same_recipe(path: Path, saved: dict[str, Any], ours: dict[str, Any]) -> None:
    ours = json.loads(json.dumps(ours))
    different = [name for name in ours if saved.get(name) != ours[name]]
    if different:
        name = different[0]
        raise CheckpointError(
            f"{path} was made with {name}={saved.get(name)!r}, this run has {name}={ours[name]!r}: "
            "resume with the same settings, or choose another run_dir"
        )


def _truncate_log(folder: Path, step: int) -> None:
    """Keep the records up to the step that is resumed from."""
    path, new = folder / "log.jsonl", folder / "log.jsonl.new"
    kept = [values for values in _read_log(path) if values["step"] <= step] if path.exists() else []
    new.write_text("".join(json.dumps(values) + "\n" for values in kept), encoding="utf-8", newline="\n")
    new.replace(path)  # at once: a run killed here still has its records


def _read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log, in order, up to a line that was only half written."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def _log_line(record: Record) -> str:
    return json.dumps({"kind": type(record).__name__.lower(), **asdict(record)}) + "\n"


if __name__ == "__main__":
    from mt_core.command_line import main

    main()
