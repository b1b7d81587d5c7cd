"""Does the simulator predict what loaders do on this machine? `python benchmarks/bench_simulator.py`.

Each setting is first measured without workers and with one, which sets the simulator's sliders; then it is predicted
with its own number of workers, and measured. All of this is done anew in each round; the figure is the median over
the rounds of predicted over measured throughput. Other programs disturb it: on Linux each measurement waits for a
quiet moment, and rounds in which other programs took cores away are also counted apart. No test looks at a figure.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import tyro
from torch.utils.data import DataLoader, Dataset

from mt_core import MicroTransformerTokenizer, TokenStore, TransformerDataset
from mt_core.dataset import collate_rows
from mt_core.lab.simulate import Pipeline, bound, bounds, simulate
from mt_core.lab.slow_rows import TokenizedRows, WaitingRows
from mt_core.lab.spans import Timeline
from mt_core.lab.timeline import record
from mt_core.workers import choose_workers

ALLOWED = 0.15  # predicted over measured, off by at most this
SKIP = 16  # batches before each measurement, the same for all: so all see the same rows
SPIN = 0.2  # seconds for which the cores are counted
SIMULATED = 2000  # batches
QUIET = 0.9  # share of the processors that other programs leave


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Compare predicted with measured throughput."""

    rounds: int = 5
    """Rounds, at least 1; in each, every setting is measured and predicted."""
    batches: int = 60
    """Batches for each measurement, at least 10."""
    patience: float = 30.0
    """Seconds to wait, at most, for other programs to be quiet before each measurement. Linux only."""
    out: Path = Path("runs/bench/simulator.json")
    """The JSON file with every figure."""

    def __post_init__(self) -> None:
        for name, needed in (("rounds", 1), ("batches", 10)):
            if getattr(self, name) < needed:
                raise ValueError(f"{name}={getattr(self, name)}, at least {needed} is needed: raise --{name}")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A loader and a step. `fetch_cores`: whether the fetch works (1) or waits (0), see `Pipeline`."""

    name: str
    rows: Dataset[Any]
    collate: Callable[[Any], Any] | None
    batch_size: int
    compute: float
    fetch_cores: float
    num_workers: int
    prefetch_factor: int = 2


class UnevenWaits(Dataset[Any]):
    """The rows of another dataset, each batch after a wait that is drawn from a gamma distribution by its first row."""

    def __init__(self, rows: TransformerDataset, *, mean: float, spread: float) -> None:
        self.rows, self.mean, self.spread = rows, mean, spread

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> Any:
        random = np.random.default_rng(indices[0])
        time.sleep(random.gamma(1 / self.spread**2, self.mean * self.spread**2))
        return self.rows.__getitems__(indices)


def create_settings() -> list[Setting]:
    """Five loaders over the words of a made-up language: what bounds each is in its name."""
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("aeioulmnrst"), size)) for size in random.integers(2, 9, 500)]
    texts = [" ".join(random.choice(words, 60)) for _ in range(2000)]
    tokenizer = MicroTransformerTokenizer.train(texts, vocab_size=400)
    tokenized = TokenizedRows(texts * 100, tokenizer, 255)
    ids = random.integers(0, 400, 2_000_000, dtype=np.uint16)
    stored = TransformerDataset(TokenStore.from_token_ids(ids, vocab_size=400), seq_length=64)
    working = {"rows": tokenized, "collate": None, "fetch_cores": 1.0}
    uneven = UnevenWaits(stored, mean=0.050, spread=1.0)
    return [
        Setting(name="fetch-bound, tokenizing", batch_size=64, compute=0.002, num_workers=2, **working),
        Setting(name="compute-bound, tokenizing", batch_size=16, compute=0.030, num_workers=1, **working),
        Setting(name="balanced, tokenizing", batch_size=64, compute=0.018, num_workers=1, **working),
        Setting(
            name="fetch-bound, waiting",
            rows=WaitingRows(stored, 0.080),
            collate=collate_rows,
            batch_size=16,
            compute=0.008,
            fetch_cores=0.0,
            num_workers=4,
        ),
        Setting(
            name="high variance, waiting",
            rows=uneven,
            collate=collate_rows,
            batch_size=16,
            compute=0.020,
            fetch_cores=0.0,
            num_workers=2,
        ),
    ]


# -- measuring -----------------------------------------------------------------------------------------------


def work_for(seconds: float) -> Callable[[Any], None]:
    """A step of matrix products that takes about so long when nothing else runs, and always the same work."""
    matrix = torch.eye(160) * 0.5
    times = []
    for _ in range(200):
        start = time.perf_counter()
        _ = matrix @ matrix
        times.append(time.perf_counter() - start)
    repeats = max(1, round(seconds / median(times)))

    def step(batch: Any) -> None:
        for _ in range(repeats):
            _ = matrix @ matrix

    return step


def spin(seconds: float) -> int:
    """How far this process counts in this time."""
    end, count = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        count += 1
    return count


def count_cores(pool: ProcessPoolExecutor, processes: int) -> float:
    """How much more this many processes get done than one alone."""
    alone = pool.submit(spin, SPIN).result()
    together = [pool.submit(spin, SPIN) for _ in range(processes)]
    return sum(each.result() for each in together) / alone


def wait_for_quiet(patience: float) -> None:
    """Until the processors are idle, or for `patience` seconds."""
    source, end = Path("/proc/stat"), time.monotonic() + patience
    if not source.exists():
        return

    def read() -> np.ndarray:
        return np.array(source.read_text(encoding="utf-8").split("\n", 1)[0].split()[1:], dtype=float)

    while time.monotonic() < end:
        before = read()
        time.sleep(0.4)
        passed = read() - before
        if passed[3] + passed[4] >= QUIET * passed.sum():  # idle, or idle but for a disk
            return


def measure(
    setting: Setting, num_workers: int, step: Callable[[Any], Any], n_batches: int, patience: float
) -> Timeline:
    """The timeline of a setting with this many workers."""
    wanted = "spawn" if sys.platform == "win32" else None  # or none would be started there
    method = choose_workers(num_workers, start_method=wanted).start_method
    context = multiprocessing.get_context(method) if method else None
    if method == "forkserver":
        context.set_forkserver_preload(["mt_core.lab.timeline"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # more workers than processors
        loader = DataLoader(
            setting.rows,
            batch_size=setting.batch_size,
            collate_fn=setting.collate,
            num_workers=num_workers,
            multiprocessing_context=context,
            prefetch_factor=setting.prefetch_factor if num_workers else None,
        )
        wait_for_quiet(patience)
        return record(loader, step, n_batches, skip=SKIP)


def compare(setting: Setting, pool: ProcessPoolExecutor, config: BenchConfig) -> dict[str, Any]:
    """One round of a setting: the sliders, the predictions, the measurement."""
    workers = {"num_workers": setting.num_workers, "prefetch_factor": setting.prefetch_factor}
    processes = min(setting.num_workers + 1, os.cpu_count() or 1)
    counted: list[float] = []

    def count_and_measure(num_workers: int, step: Callable[[Any], Any], n_batches: int) -> Timeline:
        timeline = measure(setting, num_workers, step, n_batches, config.patience)
        counted.append(count_cores(pool, processes))
        return timeline

    wait_for_quiet(config.patience)
    step = work_for(setting.compute)
    alone = count_and_measure(0, step, config.batches)
    one = count_and_measure(1, step, config.batches // 2)
    nap = 2 * float(alone.seconds("fetch").mean()) + 0.01
    idle = count_and_measure(1, lambda batch: time.sleep(nap), 20)  # each batch lies ready
    found = count_and_measure(setting.num_workers, step, config.batches)
    cores = float(np.mean(counted))
    pipeline = Pipeline.from_timeline(alone, one, idle, cores=cores, fetch_cores=setting.fetch_cores, **workers)
    naive = replace(pipeline, transfer=0.0, receive=0.0)
    least = bounds(pipeline)
    return {
        "setting": setting.name,
        "quiet": min(counted) >= QUIET * processes,
        "pipeline": asdict(pipeline),
        "measured": found.throughput,
        "predicted": simulate(pipeline, SIMULATED).throughput,
        "predicted_without_handover": simulate(naive, SIMULATED).throughput,
        "bound": bound(pipeline),
        "bound_by": min(least, key=lambda part: least[part]),
        "without_workers": {"measured": alone.throughput, "predicted": bound(replace(pipeline, num_workers=0))},
        "stall": {"measured": found.stall, "predicted": simulate(pipeline, SIMULATED).stall},
    }


def run(config: BenchConfig) -> dict[str, Any]:
    """All rounds of all settings; what is returned is what the JSON file holds."""
    torch.set_num_threads(1)
    settings = create_settings()
    most = max(setting.num_workers for setting in settings) + 1
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(most, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(spin, [0.2] * most))  # all of them have started
        for number in range(config.rounds):
            for setting in settings:
                row = {"round": number} | compare(setting, pool, config)
                rows.append(row)
                words = "" if row["quiet"] else ", not quiet"
                ratio = row["predicted"] / row["measured"]
                print(f"round {number + 1}, {setting.name}: {ratio:.2f} of measured{words}", flush=True)
    found = []
    for setting in settings:
        own = [row for row in rows if row["setting"] == setting.name]
        ratios = [row["predicted"] / row["measured"] for row in own]
        quiet = [row["predicted"] / row["measured"] for row in own if row["quiet"]]
        without = [row["predicted_without_handover"] / row["measured"] for row in own]
        middle = {key: median(row[key] for row in own) for key in ("measured", "predicted", "bound")}
        sliders = {
            key: median(row["pipeline"][key] for row in own)
            for key in ("fetch", "fetch_spread", "compute", "transfer", "receive", "cores")
        }
        found.append(
            {
                "setting": setting.name,
                "num_workers": setting.num_workers,
                **middle,
                **sliders,
                "ratio": median(ratios),
                "ratio_range": (min(ratios), max(ratios)),
                "ratio_without_handover": median(without),
                "stall_measured": median(row["stall"]["measured"] for row in own),
                "stall_predicted": median(row["stall"]["predicted"] for row in own),
                "quiet_rounds": sum(row["quiet"] for row in own),
                "ratio_quiet": median(quiet) if quiet else None,
                "passes": abs(median(ratios) - 1) <= ALLOWED,
            }
        )
    return {"cpus": os.cpu_count(), "torch": torch.__version__, "settings": found, "rounds": rows}


def report(result: dict[str, Any]) -> str:
    """The figures as a table."""
    lines = [
        f"Simulator benchmark: medians over the rounds; {result['cpus']} processors, torch {result['torch']}",
        "",
        f"{'':<28}{'cores':>7}{'fetch':>9}{'spread':>8}{'step':>8}{'send':>7}{'take':>7}"
        f"{'measured':>11}{'predicted':>11}{'ratio':>8}{'range':>14}  within {ALLOWED:.0%}",
        f"{'setting, workers':<28}{'':>7}{'ms':>9}{'':>8}{'ms':>8}{'ms':>7}{'ms':>7}"
        f"{'batches/s':>11}{'batches/s':>11}{'':>8}{'of rounds':>14}",
    ]
    for row in result["settings"]:
        milliseconds = [1000 * row[key] for key in ("compute", "transfer", "receive")]
        spread = "{:.2f} – {:.2f}".format(*row["ratio_range"])
        lines.append(
            f"{row['setting'] + ', ' + str(row['num_workers']):<28}{row['cores']:>7.2f}{1000 * row['fetch']:>9.1f}"
            f"{row['fetch_spread']:>8.2f}{milliseconds[0]:>8.1f}{milliseconds[1]:>7.1f}{milliseconds[2]:>7.1f}"
            f"{row['measured']:>11.1f}{row['predicted']:>11.1f}{row['ratio']:>8.2f}{spread:>14}"
            f"  {'yes' if row['passes'] else 'NO'}"
        )
    lines += ["", "What else it says:"]
    for row in result["settings"]:
        lines.append(
            f"  {row['setting'] + ',':<27} stall {row['stall_measured']:.0%}, predicted {row['stall_predicted']:.0%}; "
            f"by the closed form {row['bound'] / row['measured']:.2f} of measured; "
            f"without send and take {row['ratio_without_handover']:.2f}; "
            f"{row['quiet_rounds']} quiet rounds" + (f": {row['ratio_quiet']:.2f}" if row["quiet_rounds"] else "")
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print the table, write the JSON."""
    start = time.perf_counter()
    try:
        config = tyro.cli(BenchConfig, args=arguments, prog="python benchmarks/bench_simulator.py")
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    result = run(config)
    print(report(result))
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8", newline="\n")
    print(f"\n{time.perf_counter() - start:.0f} s; every figure is in {config.out}")


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    main()
