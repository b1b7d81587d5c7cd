"""Record what training does on a device: `python -m mt_core.lab.record_run`. Draws nothing.

From text to samples within a budget of minutes: a tokenizer and a store, the largest batch that fits, throughput and
waiting by the timeline (plain rows and packed ones), copies to the device, and then a training run for the time that is
left. Figures go to `data/runs/<device>-<date>`, whole or not at all; weights and checkpoints to `runs/recorded`.
"""

from __future__ import annotations

import itertools
import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from mt_core.arguments import check_count
from mt_core.command_line import Run, RunSettings, choose_device, run, tokens_per_second
from mt_core.corpus import read_documents
from mt_core.dataset import TransformerDataset
from mt_core.evaluation import sample_text
from mt_core.flops import mfu, peak_flops
from mt_core.generation import generate
from mt_core.lab import generated_code, record_files, recorded, transfers
from mt_core.lab.corpora import resolve
from mt_core.lab.step_speed import largest_batch, measure_steps, release_memory
from mt_core.lab.train import split_file
from mt_core.model import MicroTransformer
from mt_core.recipe import TrainConfig
from mt_core.tokenizer import MicroTransformerTokenizer

_ROOT = Path(__file__).resolve().parents[2]
_RESERVE = 0.2  # of the time that is left for the run: evaluating, writing, and a machine that slows down
_TEXTS = 4


@dataclass(frozen=True, kw_only=True)
class RecordSettings:
    """Record a run from text to samples on this machine."""

    corpus: str = "python:110MB"
    """A corpus by name, a folder with train.jsonl and val.jsonl, or a file."""
    budget_minutes: float = 10.0
    """For all of it, from text to samples."""
    preset: Literal["1m", "5m", "20m", "124m"] = "124m"
    """Shape of the model."""
    seq_length: int = 1024
    """Tokens in a row."""
    vocab_size: int = 50_304
    """Entries of the tokenizer: GPT-2's 50,257, rounded up to a multiple of 128, which suits matrix kernels."""
    tokenizer_megabytes: float = 30.0
    """How much of the text the tokenizer is trained on."""
    batch_sizes: tuple[int, ...] = (64, 48, 32, 24, 16, 8, 4)
    """Rows in a batch; the first that fits into memory is taken."""
    learning_rate: float = 6e-4
    """nanoGPT's for 124m; smaller models take more."""
    measured_steps: int = 30
    """Steps in each measurement by the timeline."""
    functions: int = 64
    """Texts that the model is asked to write a function in, where the corpus is Python."""
    max_steps: int | None = None
    """At most so many training steps, to try the program."""
    device: str = "cuda"
    """"cpu" tries the program where there is no such device."""
    seed: int = 0
    """Chooses the initial weights and the order of rows."""
    runs: Path = recorded.RUNS
    """Where the folder of the record goes."""
    out: Path = _ROOT / "runs" / "recorded"
    """Where the folder of the run goes: weights, checkpoints, tokenizer."""


def record_run(settings: RecordSettings) -> Path:
    """Train, measure, write; returns the folder of the record. What is done is printed line by line.

    Raises:
        ValueError: a setting, corpus or device that cannot work, or a budget that is used up before training.
    """
    begin = time.perf_counter()
    check_count("measured_steps", settings.measured_steps)
    if not settings.batch_sizes or min(settings.batch_sizes) < 1 or not settings.budget_minutes > 0:
        raise ValueError("batch_sizes needs at least one number of rows, budget_minutes must be above 0")
    device = choose_device(settings.device)
    on_cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_cuda else device.type
    folder = recorded.new_folder(name, date.today().isoformat(), settings.runs)
    work = recorded.new_folder(name, date.today().isoformat(), settings.out)
    stages: dict[str, float] = {}

    def stage(what: str, words: str) -> None:
        stages[what] = round(time.perf_counter() - begin - sum(stages.values()), 1)
        print(f"{what:<10} {stages[what]:7.1f} s  {words}", flush=True)

    train, val, title = _files(settings.corpus, work / "data")
    tokenizer = _tokenizer(train, settings, work / "tokenizer")
    store = TransformerDataset(train, tokenizer, settings.seq_length).store
    stage("text", f"{title}: {len(store):,} tokens, vocabulary {len(tokenizer):,}")

    def create_model() -> MicroTransformer:
        torch.manual_seed(settings.seed)
        return MicroTransformer.preset(settings.preset, vocab_size=len(tokenizer)).to(device)

    config = TrainConfig(learning_rate=settings.learning_rate)
    kinds = {"n_steps": settings.measured_steps, "seed": settings.seed}
    rows = TransformerDataset(store, seq_length=settings.seq_length)
    found = largest_batch(rows, create_model, config, settings.batch_sizes, **kinds)
    batch_size, plain = found.batch_size, found.timeline
    speed = plain.throughput * batch_size * settings.seq_length
    stage("plain", f"{batch_size} rows fit; {speed:,.0f} tokens/s, waiting for data {plain.stall:.2%}")
    release_memory()
    packed_rows = TransformerDataset(store, seq_length=settings.seq_length, chunking="packed", mask_documents=True)
    packed = measure_steps(packed_rows, create_model, config, batch_size, **kinds).timeline
    ratio = packed.throughput / plain.throughput
    fill = packed_rows.rows.fill()  # type: ignore[union-attr]
    stage("packed", f"{ratio:.2f} of that, rows {fill:.1%} full")
    release_memory()
    copies = transfers.measure() if on_cuda else None
    stage("transfers", "measured" if copies else "left out: no CUDA device")

    left = 60 * settings.budget_minutes - (time.perf_counter() - begin) - found.first_step
    steps = min(int(left * (1 - _RESERVE) * plain.throughput), settings.max_steps or sys.maxsize)
    if steps < 2:
        raise ValueError(
            f"{settings.budget_minutes:g} minutes leave time for {max(0, steps)} training steps, 2 are needed: raise "
            "budget_minutes, or take a smaller preset or corpus. Nothing was recorded"
        )
    trained = run(_run_settings(settings, train, val, work, batch_size, steps), progress=False)
    last = trained.history.evaluations[-1]
    stage("training", f"{steps:,} steps; validation {last.nats_per_token:.3f} nats per token")
    functions = _functions(trained, val, settings) if _is_python(train) else None
    longest = min(400, settings.seq_length)
    texts = [sample_text(trained.model, tokenizer, seed=n, max_new_tokens=longest) for n in range(_TEXTS)]
    stage("samples", functions["words"] if functions else f"{_TEXTS} texts")

    trained_speed = tokens_per_second(trained.history)
    peak = peak_flops(name, torch.bfloat16) if on_cuda else None
    figures = {
        "device": name,
        "date": date.today().isoformat(),
        "preset": settings.preset,
        "parameters": trained.model.n_parameters(),
        "seq_length": settings.seq_length,
        "batch_size": batch_size,
        "corpus": title,
        "corpus_bytes": sum(path.stat().st_size for path in (train, val)),
        "corpus_tokens": len(store),
        "steps": steps,
        "tokens": trained.history.steps[-1].tokens,
        "tokens_per_second": trained_speed,
        "mfu": mfu(trained_speed, trained.model.config, settings.seq_length, peak),
        "stall": plain.stall,
        "packed_ratio": ratio,
        "packed_fill": float(fill),
        "validation": last.nats_per_token,
        "bits_per_byte": last.bits_per_byte,
        "functions": functions,
        "stages": stages,
        "minutes": round((time.perf_counter() - begin) / 60, 2),
    }
    files = {
        "README.md": record_files.readme(figures, record_files.command(settings)),
        "run.json": recorded.as_json(figures),
        "settings.json": recorded.as_json(_described(settings, trained)),
        "curve.csv": record_files.curve(trained.history.steps),
        "evaluations.csv": recorded.as_csv(
            ("step", "nats_per_token", "bits_per_byte"),
            [(e.step, e.nats_per_token, e.bits_per_byte) for e in trained.history.evaluations],
        ),
        "samples.csv": recorded.as_csv(("number", "text"), list(enumerate(texts))),
        "timeline.csv": record_files.spans({"plain": plain, "packed": packed}),
    }
    if copies:
        files["transfers.json"] = recorded.as_json(copies)
    recorded.write_folder(folder, files)
    print(f"\nrecorded in {folder}; weights and checkpoints in {work}", *record_files.verdicts(figures), sep="\n")
    return folder


# -- text ------------------------------------------------------------------------------------------------------------


def _files(word: str, folder: Path) -> tuple[Path, Path, str]:
    corpus = resolve(word)
    if corpus.val is not None:
        return corpus.train, corpus.val, corpus.title
    return *split_file(corpus.train, folder), corpus.title


def _tokenizer(train: Path, settings: RecordSettings, folder: Path) -> MicroTransformerTokenizer:
    def some() -> Iterator[str]:
        left = settings.tokenizer_megabytes * 1e6
        for text in read_documents(train):
            yield text
            left -= len(text)
            if left < 0:
                return

    tokenizer = MicroTransformerTokenizer.train(some(), vocab_size=settings.vocab_size)
    folder.mkdir(parents=True)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _is_python(train: Path) -> bool:
    """Whether the documents say that they are Python files, as those of the corpus `python` do."""
    with train.open(encoding="utf-8", errors="replace") as file:
        try:
            return str(json.loads(file.readline()).get("path", "")).endswith(".py")
        except (ValueError, AttributeError):
            return False


# -- training --------------------------------------------------------------------------------------------------------


def _run_settings(
    settings: RecordSettings, train: Path, val: Path, work: Path, batch_size: int, steps: int
) -> RunSettings:
    return RunSettings(
        train=train,
        val=val,
        tokenizer=work / "tokenizer",
        out=work,
        batch_size=batch_size,
        seq_length=settings.seq_length,
        preset=settings.preset,
        seed=settings.seed,
        device=settings.device,
        export=True,
        training=TrainConfig(
            epochs=1_000,
            max_steps=steps,
            learning_rate=settings.learning_rate,
            schedule="wsd",
            warmup_steps=min(100, max(1, steps // 10)),
            evaluate_every=-(-steps // 2),
            checkpoint_every=steps,
        ),
    )


# -- what is written -------------------------------------------------------------------------------------------------


def _functions(trained: Run, val: Path, settings: RecordSettings) -> dict[str, Any]:
    """How many functions the model writes, how many of them parse, and by the same rule those of held-out files."""
    model, tokenizer = trained.model, trained.tokenizer
    device = next(model.parameters()).device
    start = torch.tensor([tokenizer.encode(generated_code.PROMPT)["input_ids"][:-1]], device=device)
    ids = generate(
        model,
        start.expand(settings.functions, -1),
        max_new_tokens=max(1, min(512, settings.seq_length - start.size(1))),
        temperature=0.8,
        stop_token_id=tokenizer.sep_token_id,
        generator=torch.Generator(device).manual_seed(settings.seed),
    ).tolist()
    counts = generated_code.count_functions((tokenizer.decode(row), row[-1] == tokenizer.sep_token_id) for row in ids)
    real = generated_code.count_functions((text, True) for text in itertools.islice(read_documents(val), 200))
    return {"generated": counts, "real": real, "temperature": 0.8, "words": generated_code.words(counts, real)}


def _described(settings: RecordSettings, trained: Run) -> dict[str, Any]:
    """Settings and versions; of places on this machine the last name alone."""
    given = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name not in ("runs", "out")}
    return {
        **given,
        "corpus": Path(settings.corpus).name,
        "model": trained.model.settings(),
        "training": vars(trained.settings.training),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "system": platform.system(),
        "machine": platform.machine(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and record."""
    settings = tyro.cli(RecordSettings, args=arguments, prog="python -m mt_core.lab.record_run")
    try:
        record_run(settings)
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("\nstopped; nothing was recorded") from None


if __name__ == "__main__":
    main(sys.argv[1:])
