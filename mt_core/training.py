"""Batches to a trained model: the training loop and its records. Does not read text or draw pictures.

Losses are in nats per token (natural logarithm, as `cross_entropy` returns) unless a name says bits.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from mt_core.checkpoints import CheckpointError, latest_checkpoint, load_checkpoint, read_state, save_checkpoint
from mt_core.evaluation import evaluate, logits_of, loss_of, on_device, sample_text
from mt_core.model import MicroTransformer
from mt_core.parallel import OneProcess, check_same, is_main, parallelize
from mt_core.recipe import TrainConfig, create_optimizers, length_pieces, linear_schedule, schedule_of, shortened
from mt_core.records import Evaluation, History, Record, Sample, Step, log_line, truncate_log
from mt_core.token_loader import TokenLoader
from mt_core.tokenizer import MicroTransformerTokenizer

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = [
    "CheckpointError",
    "Evaluation",
    "History",
    "TrainConfig",
    "create_optimizers",
    "evaluate",
    "fit",
    "linear_schedule",
    "logits_of",
    "loss_of",
    "sample_text",
    "shortened",
    "total_steps",
    "training_steps",
]


def fit(
    model: MicroTransformer,
    train_loader: TokenLoader,
    val_loader: Iterable[dict[str, Tensor]] | None = None,
    config: TrainConfig | None = None,
    *,
    tokenizer: MicroTransformerTokenizer | None = None,
    run_dir: str | Path | None = None,
    mesh: DeviceMesh | None = None,
    progress: bool = True,
    on_record: Callable[[Record], None] | None = None,
) -> History:
    """Train on the device the model is on, and return what was recorded.

    With a `run_dir`, records go to `run_dir/log.jsonl` and checkpoints to `run_dir/checkpoints`. If a checkpoint
    is there the run goes on from it: on a CPU, bit for bit as if it had never stopped.

    On many processes all of them call this, with loaders that read as `mt_core.distributed.ranks_of(mesh)` says, and
    all see one `run_dir`. Rank 0 alone writes, and shows progress. In the end each has the whole trained model.

    Args:
        val_loader: evaluated after each epoch and after the last step; None for no evaluation.
        tokenizer: for bits per byte and a sample of text after each evaluation.
        mesh: processes by the names of its dimensions, for `config.parallel`; None is the usual one of that kind.
        progress: show a progress bar.
        on_record: called with each record as it comes, on rank 0 alone; for TensorBoard, say.

    Raises:
        ValueError: processes, loaders, model or settings do not fit the kind of parallelism, or the corpus does not fit
            the model or the tokenizer.
        CheckpointError, LoaderStateError: the checkpoint in `run_dir` is damaged, or belongs to other settings
            or other data. The model is left as it was.
        FloatingPointError: the loss or a gradient is no longer a number. The model is left as before that step.
    """
    history = History()
    records = training_steps(model, train_loader, val_loader, config, tokenizer=tokenizer, run_dir=run_dir, mesh=mesh)
    steps, shown = total_steps(train_loader, config or TrainConfig()), progress and is_main()
    with tqdm(total=steps, unit="step", disable=not shown) as bar:
        for record in records:
            history.add(record)
            if on_record is not None and is_main():
                on_record(record)
            if isinstance(record, Step):
                bar.update(record.step - bar.n)
                bar.set_postfix(loss=f"{record.loss:.3f}", refresh=False)
    return history if run_dir is None or not is_main() else History.read(run_dir)


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
    mesh: DeviceMesh | None = None,
) -> Iterator[Record]:
    """The loop behind `fit`, one record at a time, for callers that look on: steps, evaluations, samples of text.

    Arguments and errors are those of `fit`. Kinds of parallelism that spread the model bring the weights back into
    `model` for evaluations, checkpoints and at the end; between those it is as it was then.
    """
    config = config or TrainConfig()
    device = next(model.parameters()).device
    optimizers = create_optimizers(model, config)
    last = total_steps(train_loader, config)
    folder = None if run_dir is None else Path(run_dir)
    step = tokens = 0
    seconds = 0.0
    steps_per_epoch = len(train_loader) // config.accumulate
    recipe = {**asdict(config), "model": model.settings(), "batch_size": train_loader.global_batch_size}
    recipe["total_steps"] = last
    store = getattr(getattr(train_loader, "dataset", None), "store", None)
    if store is not None:
        _check_vocabulary(store, model, tokenizer)
    recipe["tokenizer"] = None if store is None else store.tokenizer_hash
    del recipe["parallel"], recipe["compile"]  # they may change from one part of a run to the next
    state: dict[str, Any] | None = None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = latest_checkpoint(folder / "checkpoints")
        if checkpoint is not None:
            state = read_state(checkpoint)
            _check_same_recipe(checkpoint, state["recipe"], recipe)
            train_loader.load_state_dict(state["loader"])
            load_checkpoint(checkpoint, model, optimizers)
            step, tokens, seconds = state["step"], state["tokens"], state["seconds"]
        check_same(step, f"the newest step in {folder}")
        if is_main():
            truncate_log(folder, step)
    trainer = parallelize(model, optimizers, config, mesh)
    del optimizers  # spread over processes, or the trainer's own
    _check_loader(train_loader, trainer)
    schedulers = [LambdaLR(o, schedule_of(config, last)) for o in trainer.optimizers]
    if state is not None:
        for scheduler, saved in zip(schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
            for settings, rate in zip(scheduler.optimizer.param_groups, saved["_last_lr"], strict=True):
                settings["lr"] = rate  # which making the scheduler has set back

    def save() -> None:
        if folder is None:
            return
        trainer.collect()
        whole = trainer.whole_optimizers()
        state = {
            "recipe": recipe,
            "loader": train_loader.state_dict(),
            "schedulers": [scheduler.state_dict() for scheduler in schedulers],
            "tokens": tokens,
            "seconds": seconds,
        }
        if is_main():
            save_checkpoint(folder / "checkpoints", step, model, whole, state)

    def record(entry: Record) -> Record:
        if folder is not None and is_main():
            with (folder / "log.jsonl").open("a", encoding="utf-8", newline="\n") as log:
                log.write(log_line(entry))
        return entry

    def evaluated() -> Iterator[Record]:
        trainer.collect()
        if val_loader is not None:
            found = evaluate(model, val_loader, tokenizer=tokenizer, mesh=mesh)
            yield record(replace(found, step=step, epoch=train_loader.epoch))
        if tokenizer is not None and is_main():
            yield record(Sample(step=step, text=sample_text(model, tokenizer, seed=step)))

    while step < last:
        began = time.perf_counter() - seconds
        model.train()
        batches = iter(train_loader)
        while step < last:
            group = [batch for _, batch in zip(range(config.accumulate), batches, strict=False)]
            if len(group) < config.accumulate:
                break  # the epoch is over
            group = [shortened(batch, length_pieces(step, config.length_warmup_steps)) for batch in group]
            group = [on_device(batch, device) for batch in group]
            loss = trainer.backward(group)
            norm = trainer.clip(config.clip_norm or math.inf)
            if not math.isfinite(loss + norm):
                trainer.collect()
                raise FloatingPointError(
                    f"the loss is {loss} and the gradient norm {norm} at step {step + 1}: "
                    "lower learning_rate, or raise warmup_steps"
                )
            rate = float(schedulers[0].get_last_lr()[0])
            for optimizer, scheduler in zip(trainer.optimizers, schedulers, strict=True):
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            step += 1
            tokens += sum(batch["input_ids"].numel() for batch in group) * trainer.world_size
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
                yield from evaluated()
            ends = step == last or step % steps_per_epoch == 0  # then it is saved below, after the evaluation
            if config.checkpoint_every is not None and step % config.checkpoint_every == 0 and not ends:
                save()
            began = time.perf_counter() - seconds  # evaluating and saving are not training time
        if step == last or config.evaluate_every is None:
            yield from evaluated()
        save()
    trainer.collect()


def _check_vocabulary(store: Any, model: MicroTransformer, tokenizer: MicroTransformerTokenizer | None) -> None:
    if store.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"the corpus has a vocabulary of {store.vocab_size:,}, the model one of {model.config.vocab_size:,}: make "
            "the model with vocab_size=tokenizer.get_vocab_size()"
        )
    if tokenizer is not None and store.tokenizer_hash not in (None, tokenizer.fingerprint()):
        raise ValueError(
            "the corpus was made with another tokenizer, so bits per byte and samples of text would be wrong: give fit "
            "the tokenizer that create_dataloaders was given, or none"
        )


def _check_loader(loader: TokenLoader, trainer: OneProcess) -> None:
    ours = (trainer.rank, trainer.world_size)
    theirs = (getattr(loader, "rank", 0), getattr(loader, "world_size", 1))
    if ours != theirs and type(trainer) is not OneProcess:
        raise ValueError(
            f"train_loader reads as rank {theirs[0]} of {theirs[1]}, this process is data rank {ours[0]} of {ours[1]}: "
            "give create_dataloaders rank and world_size as mt_core.distributed.ranks_of(mesh) says"
        )


def _check_same_recipe(path: Path, saved: dict[str, Any], ours: dict[str, Any]) -> None:
    ours = json.loads(json.dumps(ours))
    different = [name for name in ours if saved.get(name) != ours[name]]
    if different:
        name = different[0]
        raise CheckpointError(
            f"{path} was made with {name}={saved.get(name)!r}, this run has {name}={ours[name]!r}: "
            "resume with the same settings, or choose another run_dir"
        )


if __name__ == "__main__":
    from mt_core.command_line import main

    main()
