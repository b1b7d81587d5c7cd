"""One training run from files to a run directory: `python -m mt_core.training --help`. Does not draw pictures.

On several processes: `torchrun --nproc-per-node=2 -m mt_core.training …`, with the same settings.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
import tyro

from mt_core.arguments import check_choice, check_count, check_flag, check_number, check_path, check_seed
from mt_core.checkpoints import save_model
from mt_core.corpus import read_documents
from mt_core.dataset import Chunking
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
from mt_core.presets import PRESETS
from mt_core.records import Record, Sample
from mt_core.token_loader import TokenLoader
from mt_core.tokenizer import MicroTransformerTokenizer
from mt_core.training import History, TrainConfig, fit


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """One training run. Records, checkpoints, the tokenizer and the final weights go to `out`."""

    train: Path
    """JSONL or plain-text file, or the folder of a token store, to train on."""
    val: Path
    """The same, to evaluate on."""
    tokenizer: Path | None = None
    """Folder of a saved tokenizer; left out, one is trained on `train`."""
    out: Path = Path("runs/run")
    """The run directory. If it holds a checkpoint, the run goes on from there."""
    vocab_size: int = 1024
    """Entries of the tokenizer that is trained when none is named."""
    batch_size: int = 32
    """Rows in a batch, of all processes together."""
    seq_length: int = 128
    """Tokens in a row."""
    chunking: Chunking = "contiguous"
    """How rows are cut from documents."""
    token_budget: int | None = None
    """Rows of about one length together, so many tokens in a batch, instead of `batch_size`."""
    num_workers: int = 0
    """Processes that build batches."""
    preset: Literal["1m", "5m", "20m", "124m"] = "1m"
    """Shape of the model, by about how many parameters it has."""
    n_layer: int | None = None
    """Blocks of the model, if not those of the preset."""
    n_head: int | None = None
    """Attention heads, if not those of the preset."""
    n_embd: int | None = None
    """Width of the model, if not that of the preset."""
    seed: int = 0
    """Chooses the initial weights and the order of rows."""
    device: str = "auto"
    """"cpu", "cuda" and so on; "auto" takes an accelerator if there is one."""
    threads: int | None = None
    """CPU threads; PyTorch's own choice if left out. It is not measured: sums in another order would change the losses
    of a run that goes on. On a busy machine try 1."""
    export: bool = False
    """Also write a folder that `transformers` opens as a Llama model."""
    tensorboard: bool = False
    """Also write the records for TensorBoard: `pip install -e ".[tensorboard]"`."""
    timeout_minutes: float = 10.0
    """How long one of several processes waits for the others before it gives up."""
    training: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        for name in ("train", "val", "out"):
            check_path(name, getattr(self, name))
        if self.tokenizer is not None:
            check_path("tokenizer", self.tokenizer)
        for name in ("vocab_size", "batch_size", "seq_length"):
            check_count(name, getattr(self, name))
        for name in ("token_budget", "n_layer", "n_head", "n_embd", "threads"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        check_count("num_workers", self.num_workers, 0)
        check_seed(self.seed)
        check_choice("chunking", self.chunking, get_args(Chunking))
        check_choice("preset", self.preset, tuple(PRESETS))
        for name in ("export", "tensorboard"):
            check_flag(name, getattr(self, name))
        if not isinstance(self.device, str) or not self.device:
            raise ValueError(f"device={self.device!r}, a name is needed, such as cpu or auto")
        check_number("timeout_minutes", self.timeout_minutes, lambda minutes: 0 < minutes < 1e6, "a number above 0")
        if not isinstance(self.training, TrainConfig):
            raise ValueError(f"training={self.training!r}, a TrainConfig is needed")


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
        save_model(model, out / "model.safetensors")
        if settings.export and not (exported := out / f"export-{history.steps[-1].step}").exists():
            export_pretrained(model, tokenizer, exported)
        described = json.dumps({**_described(settings), "model": model.settings()}, indent=2)
        (out / "settings.json").write_text(described + "\n", encoding="utf-8", newline="\n")
    return Run(settings, model, tokenizer, train_loader, val_loader, history)


@contextmanager
def tensorboard_records(run_dir: Path) -> Iterator[Callable[[Record], None]]:
    """What writes records to `run_dir/tensorboard`; the file is closed at the end.

    A run that goes on writes its own steps anew: from its first record on, what is there from before is void.

    Raises:
        ValueError: the package is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError('TensorBoard is not installed: pip install -e ".[tensorboard]", or leave --tensorboard out')
    from torch.utils.tensorboard import SummaryWriter

    with ExitStack() as stack:
        writers: list[SummaryWriter] = []

        def write(record: Record) -> None:
            if not writers:
                made = SummaryWriter(str(run_dir / "tensorboard"), purge_step=record.step)  # type: ignore[no-untyped-call]
                writers.append(stack.enter_context(made))
            if isinstance(record, Sample):
                writers[0].add_text("sample", record.text, record.step)  # type: ignore[no-untyped-call]
                return
            for name, value in asdict(record).items():
                if name not in ("step", "epoch", "n_targets") and value is not None:
                    writers[0].add_scalar(f"{type(record).__name__.lower()}/{name}", value, record.step)  # type: ignore[no-untyped-call]

        yield write


def _tokenizer(settings: RunSettings) -> MicroTransformerTokenizer:
    """The one that is named, or one trained on the text; it is trained once, by the main process."""
    if settings.tokenizer is not None:
        return MicroTransformerTokenizer.from_pretrained(settings.tokenizer)
    if not is_main():
        return MicroTransformerTokenizer.from_pretrained(settings.out / "tokenizer")
    return MicroTransformerTokenizer.train(read_documents(settings.train), vocab_size=settings.vocab_size)


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
    steps = run.history.steps
    speed = tokens_per_second(run.history)
    return [
        ("model", f"{run.model.n_parameters():,} parameters, vocabulary {len(run.tokenizer):,}"),
        ("trained on", f"{len(rows.store):,} tokens in {len(rows):,} rows of {rows.seq_length}"),  # type: ignore
        ("steps", f"{steps[-1].step:,} of {run.settings.batch_size} rows, {steps[-1].tokens:,} tokens"),
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run; a problem that the user can mend ends in one line, not in a stack trace."""
    try:
        settings = tyro.cli(RunSettings, args=arguments, prog="python -m mt_core.training")
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    try:
        result = run(settings)
    except (ValueError, FloatingPointError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(f"\nstopped; the same command goes on from the last checkpoint in {settings.out}") from None
    if started_by_torchrun() and os.environ["RANK"] != "0":
        return
    print(table(summary(result)))
    for sample in result.history.samples[-1:]:
        print(f"\na text by the model:\n{sample.text}")
