"""How fast batches come out of a corpus on disk, as ratios: `python benchmarks/bench_loader.py --help`.

Three questions, each answered by figures and a verdict:
1. speed: tokens per second of `TokenLoader` and of other loaders (`peers.py`), divided by those of a bare NumPy
   gather measured in the same round. Each batch ends as int64 `input_ids` and `labels`.
2. opening: does a larger prepared corpus take longer to open?
3. memory: does a larger corpus take more private memory while it is iterated?

Corpora are random ids in a temporary folder that is removed. Does not fail when a figure is poor: it is for
reading, and no test looks at a time. Does not measure workers, pinning or cold disks.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from peers import IN_MEMORY_TOKENS, NEEDED_RATIO, SHAPES, measure_speed, token_loader

from mt_core import TokenLoader, TokenStore, TransformerDataset

VOCAB_SIZE = 50_257  # GPT-2's: ids fill uint16 as those of most tokenizers do
DOCUMENT_TOKENS = 512
OPENS = 101  # times each store is opened
# Largest over smallest, from which a table says "grows". Stores differ 200 times for opening, 20 times for memory.
OPENING_GROWTH = 3.0  # the first batch costs up to twice as much where rows are just over a power of two
MEMORY_GROWTH = 1.1


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Measure the loaders on this machine. Needs ten bytes of temporary disk for each of `tokens`."""

    tokens: int = 50_000_000
    """Tokens in the corpus of the speed table, at least 200,000. Opening and memory go up to 4 times as many."""
    rounds: int = 61
    """Rounds; in each, every contender runs once. At least 3."""
    seconds: float = 0.03
    """About how long each contender runs in a round."""
    quick: bool = False
    """A fifth of the tokens and half the rounds."""
    out: Path = Path("runs/bench/loader.json")
    """The JSON file with every figure."""

    def __post_init__(self) -> None:
        least = {"tokens": 200_000 * (5 if self.quick else 1), "rounds": 3 * (2 if self.quick else 1)}
        for name, needed in least.items():
            if getattr(self, name) < needed:
                raise ValueError(f"{name}={getattr(self, name)}, at least {needed:,} are needed: raise --{name}")
        if not self.seconds > 0:
            raise ValueError(f"seconds={self.seconds}, more than 0 is needed: raise --seconds")


def random_ids(n_tokens: int, seed: int) -> np.ndarray:
    """uint16 (n_tokens,): ids below VOCAB_SIZE."""
    return np.random.default_rng(seed).integers(0, VOCAB_SIZE, n_tokens, dtype=np.uint16)


def write_store(folder: Path, token_ids: np.ndarray) -> TokenStore:
    """A store of these ids on disk, in documents of 512 tokens, mapped."""
    n_tokens = len(token_ids)
    ends = np.append(np.arange(DOCUMENT_TOKENS, n_tokens, DOCUMENT_TOKENS), n_tokens)
    store = TokenStore.from_token_ids(token_ids, vocab_size=VOCAB_SIZE, document_ends=ends)
    folder.mkdir()
    store.token_ids.tofile(folder / "token_ids.bin")
    store.document_ends.tofile(folder / "document_ends.bin")
    (folder / "header.json").write_text(json.dumps(store.header), encoding="utf-8", newline="\n")
    return TokenStore.open(folder)


# -- opening -----------------------------------------------------------------------------------------------


def measure_opening(folders: dict[int, Path]) -> dict[str, Any]:
    """Median seconds to open each store, and to open it and take a first batch; stores take turns."""
    opened: dict[int, list[float]] = {n_tokens: [] for n_tokens in folders}
    first: dict[int, list[float]] = {n_tokens: [] for n_tokens in folders}
    for _ in range(OPENS):
        for n_tokens, folder in folders.items():
            start = time.perf_counter()
            store = TokenStore.open(folder)
            opened[n_tokens].append(time.perf_counter() - start)
            batches = token_loader(store, *SHAPES[0])
            next(batches)
            first[n_tokens].append(time.perf_counter() - start)
            del store, batches  # unmapped here, outside the measured time
    smallest, largest = min(folders), max(folders)
    growth = float(np.median(np.array(opened[largest]) / np.array(opened[smallest])))
    growth_first = float(np.median(np.array(first[largest]) / np.array(first[smallest])))
    return {
        "stores": [
            {
                "tokens": n_tokens,
                "open_seconds": float(np.median(opened[n_tokens])),
                "first_batch_seconds": float(np.median(first[n_tokens])),
            }
            for n_tokens in folders
        ],
        "largest_over_smallest": growth,
        "first_batch_largest_over_smallest": growth_first,
        "passes": max(growth, growth_first) < OPENING_GROWTH,
    }


# -- memory ------------------------------------------------------------------------------------------------


def measure_memory(small: Path, large: Path) -> dict[str, Any] | None:
    """Memory of a fresh process over one shuffled epoch of a small and of a large store; None where the system
    does not tell. The control reads the large one into memory first: it shows that growth would be seen."""
    if not Path("/proc/self/smaps_rollup").exists():
        return None
    cases = (("small", small, False), ("large", large, False), ("control", large, True))
    found: dict[str, Any] = {}
    for name, folder, into_memory in cases:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found[name] = pool.submit(memory_of_epoch, folder, into_memory).result()
    growth = found["large"]["private_bytes"] / found["small"]["private_bytes"]
    return {**found, "largest_over_smallest": growth, "passes": growth < MEMORY_GROWTH}


def memory_of_epoch(folder: Path, into_memory: bool) -> dict[str, int]:
    """Bytes before opening, and the highest seen in one epoch, of the process that calls this."""
    before = read_memory()
    store = TokenStore.open(folder)
    if into_memory:
        store = TokenStore(np.array(store.token_ids), np.array(store.document_ends), store.header)
    dataset = TransformerDataset(store, seq_length=1024)
    loader = TokenLoader(dataset, batch_size=32, shuffle=True, drop_last=True, pin_memory=False)
    highest = before
    for number, _ in enumerate(loader):
        if number % 200 == 0 or number == len(loader) - 1:
            highest = {name: max(value, highest[name]) for name, value in read_memory().items()}
    return {
        "tokens": len(store),
        "private_bytes_before": before["Anonymous"],
        "private_bytes": highest["Anonymous"],
        "file_bytes": highest["Rss"] - highest["Anonymous"],
        "uss_bytes": highest["Private_Clean"] + highest["Private_Dirty"],
    }


def read_memory() -> dict[str, int]:
    """Bytes by kind, from the Linux kernel. `Anonymous` is what only this process holds and no file backs.

    USS, the sum of the `Private_` lines, is another thing: it counts pages of a file that a single process
    maps as that process's own, though the system takes them back whenever it needs room.
    """
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    return {name.rstrip(":"): int(value) * 1024 for name, value, _ in map(str.split, lines)}


# -- all of it ---------------------------------------------------------------------------------------------


def run(config: BenchConfig) -> dict[str, Any]:
    """Measure everything; what is returned is what the JSON file holds."""
    torch.set_num_threads(1)
    # The C library on Linux returns freed blocks of a megabyte to the system, and each new batch then waits for
    # fresh pages, until it has seen a larger block freed. Every contender, the bare gather first, gains from this:
    # measured, up to 7 times at (64, 2048), as chance has it. So it happens here, before anything is measured.
    np.empty(31 << 20, dtype=np.uint8)
    start = time.perf_counter()
    tokens, rounds = (config.tokens // 5, config.rounds // 2) if config.quick else (config.tokens, config.rounds)
    sizes = (tokens // 50, tokens // 5, tokens, 4 * tokens)
    with tempfile.TemporaryDirectory(prefix="mt-bench-", ignore_cleanup_errors=True) as name:
        needed, free = round(2.1 * (sum(sizes) + IN_MEMORY_TOKENS)), shutil.disk_usage(name).free
        if free < needed:
            raise ValueError(
                f"{name} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed: lower --tokens, or set "
                "TMPDIR to a folder on a larger disk"
            )
        folders = {size: Path(name) / str(size) for size in sizes}
        stores = {
            size: write_store(folder, random_ids(size, seed)) for seed, (size, folder) in enumerate(folders.items())
        }
        small = write_store(Path(name) / "small", random_ids(min(tokens, IN_MEMORY_TOKENS), len(sizes)))
        available = available_memory()
        for store in stores.values():  # warm: every page is read once
            store.token_ids.sum()
        del store
        speed, skipped = measure_speed(stores[tokens], small, rounds=rounds, seconds=config.seconds)
        del stores, small
        opening = measure_opening(folders)
        memory = measure_memory(folders[sizes[1]], folders[sizes[3]])
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "system": platform.system(),
            "processor": processor(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "torch_threads": torch.get_num_threads(),
        },
        "settings": {
            "tokens": tokens,
            "rounds": rounds,
            "seconds": config.seconds,
            "corpus_bytes": 2 * tokens,
            "available_bytes": available,
            "fits_in_page_cache": None if available is None else 2 * tokens < available,
            "needed_ratio": NEEDED_RATIO,
        },
        "speed": speed,
        "skipped": skipped,
        "opening": opening,
        "memory": memory,
        "took_seconds": time.perf_counter() - start,
    }


def available_memory() -> int | None:
    """Bytes that are free or can be freed, page cache included; None where the system does not tell."""
    source = Path("/proc/meminfo")
    lines = source.read_text(encoding="utf-8").splitlines() if source.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def processor() -> str:
    """The name of the processor, as far as the system tells."""
    source = Path("/proc/cpuinfo")
    lines = source.read_text(encoding="utf-8").splitlines() if source.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def report(result: dict[str, Any]) -> str:
    """The figures as aligned tables."""
    machine, settings = result["machine"], result["settings"]
    fits = {True: "fits in", False: "DOES NOT FIT in", None: "not known whether it fits in"}
    lines = [
        f"Loader benchmark: {settings['tokens']:,} tokens ({settings['corpus_bytes'] / 1e6:,.0f} MB), "
        f"{settings['rounds']} rounds in turns, one thread, num_workers=0",
        f"{machine['system']}, {machine['processor']}, Python {machine['python']}, NumPy {machine['numpy']}, "
        f"torch {machine['torch']}",
        f"The corpus was read once before; {fits[settings['fits_in_page_cache']]} the page cache.",
        "",
        f"{'1. Speed':<31}{'corpus tokens':>14}{'Mtoken/s':>11}{'of bare':>10}{'quartiles':>17}"
        f"  {settings['needed_ratio']} of bare",
    ]
    shape = None
    for row in result["speed"]:
        if shape != (shape := (row["batch_size"], row["seq_length"])):
            lines.append(f"batches of {shape}")
        quartiles = "{:.3f} – {:.3f}".format(*row["ratio_quartiles"]) if row["passes"] is not None else ""
        lines.append(
            f"  {row['contender']:<29}{row['corpus_tokens']:>14,}{row['tokens_per_second'] / 1e6:>11.1f}"
            f"{row['ratio']:>10.3f}{quartiles:>17}  {verdict(row['passes'], 'below')}"
        )
    lines += [f"  {name:<29}  skipped: not installed" for name in result["skipped"]]
    opening, memory = result["opening"], result["memory"]
    lines += ["", f"{'2. Opening':<31}{'corpus tokens':>14}{'open, ms':>11}{'and first batch, ms':>22}"]
    for row in opening["stores"]:
        milliseconds = (row["open_seconds"] * 1e3, row["first_batch_seconds"] * 1e3)
        lines.append(f"{'':<31}{row['tokens']:>14,}{milliseconds[0]:>11.2f}{milliseconds[1]:>22.2f}")
    growth = (opening["largest_over_smallest"], opening["first_batch_largest_over_smallest"])
    end = verdict(opening["passes"], "grows")
    lines.append(f"{'  largest / smallest':<45}{growth[0]:>11.2f}{growth[1]:>22.2f}  {end}")
    lines.append("")
    if memory is None:
        return "\n".join([*lines, "3. Private memory while iterating: not measured here (it is read from Linux)"])
    lines.append(
        f"{'3. Memory over an epoch':<31}{'corpus tokens':>14}{'private MB':>11}{'file pages MB':>15}{'USS MB':>8}"
    )
    names = {"small": "mapped", "large": "mapped", "control": "control: read into memory"}
    for key, name in names.items():
        row = memory[key]
        private, file, uss = (row[field] / 1e6 for field in ("private_bytes", "file_bytes", "uss_bytes"))
        lines.append(f"  {name:<29}{row['tokens']:>14,}{private:>11.0f}{file:>15.0f}{uss:>8.0f}")
    end = verdict(memory["passes"], "grows")
    lines.append(f"{'  larger / smaller, mapped':<45}{memory['largest_over_smallest']:>11.2f}{'':>23}  {end}")
    lines += [
        "File pages are the system's cache of the corpus, taken back when room is needed; USS counts those that no",
        "other process maps as private.",
    ]
    return "\n".join(lines)


def verdict(passes: bool | None, otherwise: str) -> str:
    return "-" if passes is None else "PASS" if passes else otherwise


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print the tables, write the JSON."""
    try:
        config = tyro.cli(BenchConfig, args=arguments, prog="python benchmarks/bench_loader.py")
        result = run(config)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    print(report(result))
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8", newline="\n")
    print(f"\n{result['took_seconds']:.0f} s; every figure is in {config.out}")


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    main()
