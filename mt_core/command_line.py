"""One training run from files to a run directory: `python -m mt_core.training --help`. Does not draw pictures.

On several processes: `torchrun --nproc-per-node=2 -m mt_core.training …`, with the same settings.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from mt_core.checkpoints import CheckpointError, latest_checkpoint, save_model
from mt_core.corpus import read_documents
from mt_core.distributed import (
    create_mesh,
    default_parallel,
    is_main,
    main_first,
    processes,
    ranks_of,
    started_by_torchrun,
)
from mt_core.export import export_pretrained
from mt_core.flops import mfu, peak_flops
from mt_core.loaders import create_dataloaders
from mt_core.model import MicroTransformer
from mt_core.run_settings import RunSettings as RunSettings  # also a name of this module
from mt_core.tensorboard import tensorboard_records
from mt_core.token_loader import TokenLoader
from mt_core.tokenizer import MicroTransformerTokenizer
from mt_core.training import History, fit


@dataclass
class Run:
    """What `run` made."""

    settings: RunSettings
    model: MicroTransformer
    tokenizer: MicroTransformerTokenizer
    train_loader: TokenLoader
    val_loader: TokenLoader
    history: History


def run(settings: RunSettings, *, progress: bool = True) -> Run:
    """Text files to a trained model in `settings.out`.

    Raises:
        ValueError: a setting or file that cannot work, and what to do.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device = choose_device(settings.device)
    if settings.device == "auto" and started_by_torchrun() and device.type != "cuda":
        device = torch.device("cpu")  # the one other device on which processes can talk
    with processes(device.type, timeout_minutes=settings.timeout_minutes):
        return _run(settings, device, progress)


def _run(settings: RunSettings, device: torch.device, progress: bool) -> Run:
    out = settings.out
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={str(out)!r} is a file, the name of a folder is needed")
    mesh = create_mesh(settings.training.parallel or default_parallel(), device.type)
    rank, world_size = (0, 1) if mesh is None else ranks_of(mesh)
    with main_first():
        tokenizer = _tokenizer(settings)
        train_loader, val_loader = create_dataloaders(
            settings.train,
            settings.val,
            tokenizer,
            settings.batch_size,
            settings.seq_length,
            settings.num_workers,
            chunking=settings.chunking,
            token_budget=settings.token_budget,
            seed=settings.seed,
            rank=rank,
            world_size=world_size,
        )
        if is_main():
            _check_tokenizer(out, tokenizer)
            out.mkdir(parents=True, exist_ok=True)
            tokenizer.save_pretrained(out / "tokenizer")
    torch.manual_seed(settings.seed)
    changes = {name: v for name in ("n_layer", "n_head", "n_embd") if (v := getattr(settings, name)) is not None}
    model = MicroTransformer.preset(settings.preset, vocab_size=tokenizer.get_vocab_size(), **changes).to(device)
    with tensorboard_records(out) if settings.tensorboard and is_main() else nullcontext() as on_record:
        history = fit(
            model,
            train_loader,
            val_loader,
            settings.training,
            tokenizer=tokenizer,
            run_dir=out,
            mesh=mesh,
            progress=progress,
            on_record=on_record,
        )
    if is_main():
        if not history.steps or not history.evaluations:
            raise ValueError(
                f"{out} holds a finished run, but not its records, {out / 'log.jsonl'}: copy that file back, or remove "
                f"{out / 'checkpoints'} to train anew"
            )
        save_model(model, out / "model.safetensors")
        if settings.export and not (exported := out / f"export-{history.steps[-1].step}").exists():
            export_pretrained(model, tokenizer, exported)
        described = json.dumps({**_described(settings), "model": model.settings()}, indent=2)
        (out / "settings.json").write_text(described + "\n", encoding="utf-8", newline="\n")
    return Run(settings, model, tokenizer, train_loader, val_loader, history)


def _tokenizer(settings: RunSettings) -> MicroTransformerTokenizer:
    """The one that is named, or one trained on the text; it is trained once, by the main process."""
    if settings.tokenizer is not None:
        return MicroTransformerTokenizer.from_pretrained(settings.tokenizer)
    if not is_main():
        return MicroTransformerTokenizer.from_pretrained(settings.out / "tokenizer")
    if settings.train.is_dir():
        raise ValueError(
            f"train={str(settings.train)!r} is a folder: of a token store the tokenizer it was made with has to be "
            "named, with --tokenizer"
        )
    return MicroTransformerTokenizer.train(read_documents(settings.train), vocab_size=settings.vocab_size)


def _check_tokenizer(out: Path, tokenizer: MicroTransformerTokenizer) -> None:
    """Before anything is written: a run that is there keeps its tokenizer, without which its weights are worth nothing.

    Raises:
        CheckpointError: it has another one.
    """
    if latest_checkpoint(out / "checkpoints") is None or not (out / "tokenizer").is_dir():
        return
    kept = MicroTransformerTokenizer.from_pretrained(out / "tokenizer")
    if kept.fingerprint() != tokenizer.fingerprint():
        raise CheckpointError(
            f"{out} holds a run with another tokenizer (it has {len(kept):,} entries, this one {len(tokenizer):,}): "
            "resume with the same tokenizer, or without one with the same train and vocab_size, or choose another out"
        )


def choose_device(name: str) -> torch.device:
    """The device of a name; "auto" is the accelerator if there is one, else the CPU.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        if device.type == "cuda" and started_by_torchrun():
            if device.index is not None:
                raise ValueError(f"device={name!r}, but each process takes a GPU of its own: --device cuda")
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # or else all would take room on the first one
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={name!r} cannot be used here ({reason}): try --device cpu") from None
    return device


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values in two aligned columns.

    >>> print(table([("loss", "1.25"), ("bits per byte", "0.5")]))
    loss           1.25
    bits per byte  0.5
    """
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def summary(run: Run) -> list[tuple[str, str]]:
    """The table of a run: what was trained on what, how far it came and how fast."""
    rows, last = run.train_loader.dataset, run.history.evaluations[-1]
    steps, settings = run.history.steps, run.settings
    each = f"{settings.training.accumulate * settings.batch_size:,} rows"
    if settings.token_budget is not None:
        each = f"up to {settings.training.accumulate * settings.token_budget:,} tokens"
    speed = tokens_per_second(run.history)
    return [
        ("model", f"{run.model.n_parameters():,} parameters, vocabulary {len(run.tokenizer):,}"),
        ("trained on", f"{len(rows.store):,} tokens in {len(rows):,} rows of {rows.seq_length}"),  # type: ignore
        ("steps", f"{steps[-1].step:,} of {each}, {steps[-1].tokens:,} tokens"),
        ("time", f"{steps[-1].seconds:.0f} s training, {speed:,.0f} tokens/s in its second half"),
        ("MFU", _mfu_words(run, speed)),
        ("training loss", f"{sum(s.loss for s in steps[-20:]) / len(steps[-20:]):.3f} nats per token, last 20 steps"),
        ("validation loss", f"{last.nats_per_token:.4f} nats per token over {last.n_targets:,} targets"),
        ("", f"{last.bits_per_byte:.4f} bits per byte"),
    ]


def tokens_per_second(history: History) -> float:
    """Over the second half of the steps: the first has what is done once, compiling for instance."""
    first, last = history.steps[len(history.steps) // 2 - 1], history.steps[-1]
    if len(history.steps) == 1:
        return last.tokens / last.seconds
    return (last.tokens - first.tokens) / (last.seconds - first.seconds)


def _mfu_words(run: Run, speed: float) -> str:
    """Model FLOPs utilisation of one device, by the count of `mt_core.flops`, if the device's peak is known."""
    device = next(run.model.parameters()).device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    dtype = torch.float32 if run.settings.training.precision == "float32" else torch.bfloat16
    share = mfu(
        speed / int(os.environ.get("WORLD_SIZE", 1)),
        run.model.config,
        run.settings.seq_length,
        peak_flops(name, dtype),
    )
    return f"unknown, for want of a peak rate of {name}" if share is None else f"{share:.1%} of the peak of {name}"


def _described(settings: RunSettings) -> dict[str, Any]:
    """Settings as JSON, with the versions and the kind of machine that a reader of the run needs."""
    values = {name: str(v) if isinstance(v, Path) else v for name, v in vars(settings).items() if name != "training"}
    versions = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
    return {**values, "training": vars(settings.training), **versions, "torch_threads": torch.get_num_threads()}


@contextmanager
def in_one_line(out: Path) -> Iterator[None]:
    """A problem that the user can mend, or Ctrl-C, ends the program in one line, not in a stack trace.

    Args:
        out: the run directory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        raise SystemExit(
            f"error: {reason}: halve --batch-size and double --accumulate, which trains the same, or take shorter rows "
            "or a smaller model"
        ) from None
    except (ValueError, FloatingPointError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(f"\nstopped; {_how_to_go_on(out)}") from None


def _how_to_go_on(out: Path) -> str:
    newest = latest_checkpoint(out / "checkpoints")
    if newest is None:
        return "there is no checkpoint yet, so the same command begins anew; --checkpoint-every writes them more often"
    return f"the same command goes on from {newest}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    try:
        settings = tyro.cli(RunSettings, args=arguments, prog="python -m mt_core.training")
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    with in_one_line(settings.out):
        result = run(settings)
    if started_by_torchrun() and os.environ["RANK"] != "0":
        return
    print(table(summary(result)))
    for sample in result.history.samples[-1:]:
        print(f"\na text by the model:\n{sample.text}")
