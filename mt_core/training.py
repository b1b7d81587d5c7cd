"""Logits to loss: the training loop, evaluation and its records. Does not read text or draw pictures.

Losses are in nats per token (natural logarithm, as `cross_entropy` returns) unless a name says bits.
"""

from __future__ import annotations

import inspect
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
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
from mt_core.recipe import TrainConfig, create_optimizers, length_pieces, linear_schedule
from mt_core.records import Evaluation, History, Record, Sample, Step, log_line, truncate_log
from mt_core.tokenizer import MicroTransformerTokenizer
from mt_core.windows import IGNORE


def loss_of(
    model: Callable[..., Tensor], batch: dict[str, Tensor], *, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Cross entropy (nats) over a batch, the mean of its targets or their sum; labels of -100 are left out."""
    logits = logits_of(model, batch)
    labels = batch["labels"].view(-1)
    return F.cross_entropy(logits.view(-1, logits.size(-1)), labels, ignore_index=IGNORE, reduction=reduction)


def logits_of(model: Callable[..., Tensor], batch: dict[str, Tensor]) -> Tensor:
    """Logits (B, T, V) of a batch. A model that takes `document_ids` gets them, and `position_ids`, where there are."""
    documents = {name: batch[name] for name in ("position_ids", "document_ids") if name in batch}
    if documents and not _takes_documents(model):
        documents = {}
    return model(batch["input_ids"], **documents)


def _takes_documents(model: Callable[..., Tensor]) -> bool:
    inner = getattr(model, "_orig_mod", model)  # inside torch.compile's and then a parallel wrapper
    inner = getattr(inner, "module", inner)
    return "document_ids" in inspect.signature(getattr(inner, "forward", inner)).parameters


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
            batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            logits, labels = logits_of(model, batch).float(), batch["labels"]
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
        "batch_size": train_loader.global_batch_size,
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
        truncate_log(folder, step)

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
                log.write(log_line(entry))
        return entry

    while step < last:
        began = time.perf_counter() - seconds
        model.train()
        batches = iter(train_loader)
        while step < last:
            group = [batch for _, batch in zip(range(config.accumulate), batches, strict=False)]
            if len(group) < config.accumulate:
                break  # the epoch is over
            group = [shortened(batch, length_pieces(step, config.length_warmup_steps)) for batch in group]
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


def shortened(batch: dict[str, Tensor], pieces: int) -> dict[str, Tensor]:
    """Each row (T,) cut into `pieces` rows of equal length, or half as many where T does not allow it, and so on.

    The targets are the same, with shorter prefixes.

    >>> {name: t.tolist() for name, t in shortened({"labels": torch.tensor([[1, 2, 3, 4]])}, 2).items()}
    {'labels': [[1, 2], [3, 4]]}
    """
    length = batch["labels"].size(1)
    while length % pieces:
        pieces //= 2
    if pieces == 1:
        return batch
    whole = {name: tensor for name, tensor in batch.items() if name != "provenance"}  # which is of whole rows
    return {name: tensor.reshape(len(tensor) * pieces, -1) for name, tensor in whole.items()}


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


if __name__ == "__main__":
    from mt_core.command_line import main

    main()
