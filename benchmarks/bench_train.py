"""Our training recipe against the well-known character model, on one text: `make bench-train DATA=my.txt`.

Both learn from the first nine tenths of the text and are judged on the last, in bits per byte; both run in this
process, on the same cores, one after the other, each with the number of threads that suits it. Four questions:
1. How good is ours after an eighth of the time that the character model takes for its whole recipe?
2. How good is ours after all of that time?
3. Which schedule is better in an eighth of the time, and does a moving average of the weights help?
4. At equal size, batch and vocabulary: how many tokens per second, as a ratio in one run, as it is and compiled?
Only training is timed, compiling is not. No test looks at a figure.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import char_gpt
import torch
import tyro
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mt_core import (
    MicroTransformer,
    MicroTransformerTokenizer,
    TokenLoader,
    TokenStore,
    TransformerDataset,
    create_dataloaders,
)
from mt_core.command_line import RunSettings, run
from mt_core.lab.corpora import resolve
from mt_core.lab.step_speed import stepper
from mt_core.recipe import TrainConfig
from mt_core.records import Step
from mt_core.training import evaluate, training_steps

# Rows in a batch, tokens in a row, blocks: less of all where there is time for few steps. On this text and 160 to 260
# steps' worth of arithmetic, 4, 3 and 2 blocks ended at 2.71, 2.64 and 2.58 bits per byte; on 500 to 900 at 2.20, 2.19
# and 2.21, and in batches of 8 3 blocks at 2.17. A rate of 0.024 was 0.02 to 0.05 worse than this one.
SHORT, LONG = (8, 64, 2), (8, 128, 3)
RATE = 0.04
EMA_DECAY = 0.95  # of a hundred or two steps: an average over about the last twenty
TIMED_STEPS = 12  # to choose the threads and to foresee how many steps fit into a time


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Train both on one text."""

    data: Path | None = None
    """A plain text in UTF-8, of a megabyte or so; without one tinyshakespeare, from the catalogue of corpora, which is
    downloaded and checked."""
    seed: int = 0
    """Chooses weights and order of both."""
    out: Path = Path("runs/bench/train.json")
    """The JSON file with every figure."""
    steps: int = char_gpt.STEPS
    """Steps of the character model; fewer only to try the program."""


def seconds_for(step: Callable[[], object], n_steps: int = TIMED_STEPS) -> float:
    """Median seconds of a step, the first ones left out."""
    for _ in range(3):
        step()
    taken = []
    for _ in range(n_steps):
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    return median(taken)


def choose_threads(step: Callable[[], object]) -> tuple[int, float]:
    """The number of threads with the shortest step, from 1 to the cores, and that time; fewer if as fast."""
    best = (1, float("inf"))
    for threads in range(1, (os.cpu_count() or 1) + 1):
        torch.set_num_threads(threads)
        seconds = seconds_for(step)
        if seconds < 0.95 * best[1]:
            best = (threads, seconds)
    torch.set_num_threads(best[0])
    return best


def train_characters(train: Tensor, val: Tensor, vocab_size: int, config: BenchConfig) -> dict[str, float]:
    """The character model's whole recipe: seconds of training, threads, bits per character."""
    torch.manual_seed(config.seed)
    model, generator = char_gpt.CharGPT(vocab_size), torch.Generator().manual_seed(config.seed)
    optimizer = char_gpt.create_optimizer(model)
    spare = char_gpt.CharGPT(vocab_size)
    spare_optimizer = char_gpt.create_optimizer(spare)
    batch = char_gpt.draw_batch(train, torch.Generator())
    threads, _ = choose_threads(lambda: char_gpt.train_step(spare, spare_optimizer, batch, 0))
    start = time.perf_counter()
    for step in range(config.steps):
        char_gpt.train_step(model, optimizer, char_gpt.draw_batch(train, generator), step)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "threads": threads, "bits": char_gpt.bits_per_character(model, val)}


def recipe(steps: int, schedule: str = "linear") -> TrainConfig:
    """Ours, for so many steps."""
    return TrainConfig(
        epochs=10_000,
        max_steps=steps,
        learning_rate=RATE,
        schedule=schedule,  # type: ignore[arg-type]
        decay_share=0.5,
        warmup_steps=min(100, max(2, steps // 10)),
        optimizer="muon",
        evaluate_every=1_000_000,
    )


def train_ours(
    folder: Path, tokenizer: Path, seconds: float, shape: tuple[int, int, int], config: BenchConfig
) -> dict[str, float]:
    """Our recipe for about so many seconds of training: what it took, and bits per byte."""
    seconds_a_step, threads = ours_a_step(tokenizer, shape)
    settings = RunSettings(
        train=folder / "train.txt",
        val=folder / "val.txt",
        tokenizer=tokenizer,
        out=folder / "run{}-{}-{}".format(*shape),
        batch_size=shape[0],
        seq_length=shape[1],
        n_layer=shape[2],
        seed=config.seed,
        device="cpu",
        threads=threads,
        training=recipe(max(10, int(0.97 * seconds / seconds_a_step))),
    )
    done = run(settings, progress=False)
    last, steps = done.history.evaluations[-1], done.history.steps
    assert last.bits_per_byte is not None
    return {"seconds": steps[-1].seconds, "steps": steps[-1].step, "threads": threads, "bits": last.bits_per_byte}


def ours_a_step(tokenizer: Path, shape: tuple[int, int, int]) -> tuple[float, int]:
    """Seconds of a step of our recipe, and the threads it is fastest with."""
    vocab_size = MicroTransformerTokenizer.from_pretrained(tokenizer).get_vocab_size()
    model = MicroTransformer(vocab_size=vocab_size, n_layer=shape[2])
    ids = torch.randint(model.config.vocab_size, (shape[0], shape[1] + 1))
    batch = {"input_ids": ids[:, :-1].contiguous(), "labels": ids[:, 1:].contiguous()}
    step = stepper(model, TrainConfig(optimizer="muon"))
    threads, seconds = choose_threads(lambda: step(batch))
    return seconds, threads


def schedules(folder: Path, tokenizer: Path, steps: int, config: BenchConfig) -> dict[str, dict[str, float]]:
    """Bits per byte after so many steps, by schedule: of the weights as they are, and of their moving average."""
    loaded, found = MicroTransformerTokenizer.from_pretrained(tokenizer), {}
    for schedule in ("linear", "wsd"):
        train, val = create_dataloaders(folder / "train.txt", folder / "val.txt", loaded, *SHORT[:2], seed=config.seed)
        torch.manual_seed(config.seed)
        model = MicroTransformer(vocab_size=loaded.get_vocab_size(), n_layer=SHORT[2])
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
        for record in training_steps(model, train, None, recipe(steps, schedule)):
            if isinstance(record, Step):
                average.update_parameters(model)
        bits = {}
        for name, judged in (("as they are", model), ("averaged", average.module)):
            bits[name] = evaluate(judged, val, tokenizer=loaded).bits_per_byte or 0.0
        found[schedule] = bits
    return found


def equal_size(train: Tensor, vocab_size: int, rounds: int = 15) -> dict[str, list[float]]:
    """Tokens per second of our model and loop over those of the character model, equal in size; one ratio a round."""
    theirs = char_gpt.CharGPT(vocab_size)
    their_optimizer = char_gpt.create_optimizer(theirs)
    generator = torch.Generator().manual_seed(0)
    inner = 344  # near 8/3 of the width, and a multiple of 8, which suits the matrix kernels
    ours = MicroTransformer(
        vocab_size=vocab_size, n_layer=char_gpt.LAYERS, n_head=char_gpt.HEADS, n_embd=char_gpt.WIDTH, n_inner=inner
    )
    store = TokenStore.from_token_ids(train.numpy(), vocab_size=vocab_size)
    loader = TokenLoader(TransformerDataset(store, seq_length=char_gpt.LENGTH), batch_size=char_gpt.ROWS, shuffle=True)
    batches = (batch for _ in iter(int, 1) for batch in loader)

    def their_step() -> None:
        char_gpt.train_step(theirs, their_optimizer, char_gpt.draw_batch(train, generator), 1000)

    as_it_is = stepper(ours, TrainConfig())
    steps: dict[str, Callable[[], object]] = {"theirs": their_step, "as it is": lambda: as_it_is(next(batches))}
    if shutil.which("cl" if os.name == "nt" else os.environ.get("CXX", "c++")):
        compiled = stepper(ours, TrainConfig(compile=True))
        steps["compiled"] = lambda: compiled(next(batches))
    choose_threads(their_step)
    ratios: dict[str, list[float]] = {name: [] for name in steps if name != "theirs"}
    for turn in range(rounds):
        names = list(steps) if turn % 2 else list(steps)[::-1]
        took = {name: seconds_for(steps[name], 30) for name in names}
        for name in ratios:
            ratios[name].append(took["theirs"] / took[name])
    sizes = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
    assert abs(sizes[0] / sizes[1] - 1) < 0.02, sizes
    return ratios


def main() -> None:
    """Run all three and print a table with verdicts."""
    config = tyro.cli(BenchConfig)
    try:
        data = config.data or resolve("tinyshakespeare").train
        text = data.read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit(f"error: {config.data or 'the text'} cannot be read ({error}): name one with --data") from None
    if len(text) < 20_000:
        raise SystemExit(f"error: {data} has {len(text)} characters, at least 20,000 are needed")
    cut = len(text) * 9 // 10
    alphabet = {character: i for i, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([alphabet[character] for character in text])
    bytes_a_character = len(text[cut:].encode("utf-8")) / len(text[cut:])
    with tempfile.TemporaryDirectory(prefix="mt-bench-") as name:
        folder = Path(name)
        for part, words in (("train", text[:cut]), ("val", text[cut:])):
            (folder / f"{part}.txt").write_text(words, encoding="utf-8", newline="")
        tokenizer = MicroTransformerTokenizer.train([text[:cut]], vocab_size=1024)
        tokenizer.save_pretrained(folder / "tokenizer")
        theirs = train_characters(ids[:cut], ids[cut:], len(alphabet), config)
        theirs["bits"] /= bytes_a_character
        print(f"{'':<34}{'time':>7}{'threads':>9}{'bits per byte':>15}")

        def row(what: str, got: dict[str, float]) -> None:
            share = got["seconds"] / theirs["seconds"]
            print(f"{what:<34}{share:>7.3f}{got['threads']:>9.0f}{got['bits']:>15.3f}", flush=True)

        row(f"character model, {config.steps:,} steps", theirs)
        short = train_ours(folder, folder / "tokenizer", theirs["seconds"] / 8, SHORT, config)
        row(f"ours, {short['steps']:,.0f} steps", short)
        full = train_ours(folder, folder / "tokenizer", theirs["seconds"], LONG, config)
        row(f"ours, {full['steps']:,.0f} steps", full)
        by_schedule = schedules(folder, folder / "tokenizer", int(short["steps"]), config)
        ratios = equal_size(ids[:cut], len(alphabet))
    print(f"\nbetter than the character model after an eighth of its time: {short['bits'] < theirs['bits']}")
    print(f"bits per byte in the same time, over its own: {full['bits'] / theirs['bits']:.3f}")
    for schedule, bits in by_schedule.items():
        said = ", ".join(f"{name} {value:.3f}" for name, value in bits.items())
        print(f"bits per byte after {short['steps']:,.0f} steps, schedule {schedule!r}, weights {said}")
    for name, values in ratios.items():
        low, _, high = quantiles(values, n=4)
        print(f"tokens per second at equal size, {name}: {median(values):.2f} (quartiles {low:.2f} to {high:.2f})")
    config.out.parent.mkdir(parents=True, exist_ok=True)
    figures = {
        "theirs": theirs,
        "short": short,
        "full": full,
        "schedules": by_schedule,
        "equal_size": ratios,
        "torch": torch.__version__,
    }
    config.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8", newline="\n")
    print(f"every figure: {config.out}")


if __name__ == "__main__":
    main()
