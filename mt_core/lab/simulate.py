"""What a data path would do, by arithmetic: a discrete-event model of PyTorch's DataLoader. Measures nothing.

A `Pipeline` says how long each piece of work takes, `simulate` plays it as the loader would and gives a `Timeline`,
as `timeline.record` does by measuring; `bounds` is what can be said without playing it.

Left out: how workers start, disks and memory that all share, and the lock that lets one thread at a time run Python
within a process. The device's queue has no limit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from mt_core.arguments import check_count
from mt_core.lab.played_loader import play
from mt_core.lab.spans import DEVICE, MAIN, PIN, Kind, Span, Timeline


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """How long each piece of work on a batch takes, in seconds when nothing else wants the processor.

    Args:
        fetch: to read the rows of a batch and collate them.
        compute: the step.
        num_workers: processes that fetch. 0: the main process does one thing after the other.
        prefetch_factor: index lists that each worker holds at the start; each delivery sends one more.
        fetch_spread, compute_spread: standard deviation over mean, of gamma distributions. 0: always the mean.
        transfer: a worker's work to send a batch off, before it starts on the next.
        receive: work to take a batch out of the workers' queue: of the pin thread if there is one, or of the main
            process. Transfer and receive only count where there are workers.
        pin: to page-lock a batch, in a thread of its own if there are workers; None: not pinned.
        copy: to move a batch to the device. From pinned memory the main process does not wait for it.
        launch: the main process hands the step to a device in this time, and the device computes meanwhile; a step
            that reads its loss waits, so its launch is as long as its compute. None: the main process computes.
        cores: that the processes share evenly; None: as many as they want. May be a fraction.
        fetch_cores: share of the fetch that needs a core, 0 to 1: a fetch that waits for a disk needs none.
        compute_cores: how many cores the step keeps busy.

    Raises:
        ValueError: a setting that cannot be.

    >>> Pipeline(num_workers=2, fetch=0.03, compute=0.01).num_workers
    2
    """

    fetch: float
    compute: float
    num_workers: int = 0
    prefetch_factor: int = 2
    fetch_spread: float = 0.0
    compute_spread: float = 0.0
    transfer: float = 0.0
    receive: float = 0.0
    pin: float | None = None
    copy: float = 0.0
    launch: float | None = None
    cores: float | None = None
    fetch_cores: float = 1.0
    compute_cores: float = 1.0

    def __post_init__(self) -> None:
        check_count("num_workers", self.num_workers, least=0)
        check_count("prefetch_factor", self.prefetch_factor)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("num_workers", "prefetch_factor") or (value is None and field.default is None):
                continue
            is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
            if not is_number or not 0 <= value < float("inf"):
                raise ValueError(f"{field.name}={value!r}, a number from 0 is needed")
        if self.fetch_cores > 1:
            raise ValueError(f"fetch_cores={self.fetch_cores}, a share from 0 to 1 is needed: one process fetches")
        if self.cores == 0:
            raise ValueError("cores=0, more than 0 is needed, or None for as many as are wanted")
        if not self.fetch + self.compute > 0:
            raise ValueError("fetch=0 and compute=0 would take no time at all: one must be more than 0 seconds")

    @classmethod
    def from_timeline(cls, timeline: Timeline, *with_workers: Timeline, **changes: Any) -> Pipeline:
        """The settings that a measured timeline shows: means, as they decide throughput, but for transfer and receive.

        Take `timeline` without workers: only there is nothing shared while a fetch is timed. What it costs to pass
        a batch from process to process shows in timelines of the same loader with workers: `transfer` where the
        step waits for the workers, `receive` where batches lie ready: medians. Where none shows it, it is 0.

        Args:
            timeline: gives everything but transfer and receive, and those too if it has workers.
            with_workers: more timelines to take transfer and receive from. One worker shows them best.
            changes: settings to set or replace, such as `num_workers` and `cores`.

        Raises:
            ValueError: the timeline has no fetch or no compute, or a change that cannot be.
        """
        on_device = DEVICE in timeline.lanes()
        place = DEVICE if on_device else MAIN
        fetched, computed = timeline.seconds("fetch"), timeline.seconds("compute", place)
        copied, pinned = timeline.seconds("copy", place), timeline.seconds("pin")
        for kind, found in (("fetch", fetched), ("compute", computed)):
            if not len(found):
                raise ValueError(f"the timeline has no {kind} spans: record a DataLoader, and a step that does work")
        settings: dict[str, Any] = {
            "fetch": float(fetched.mean()),
            "compute": float(computed.mean()),
            "fetch_spread": _spread(fetched),
            "compute_spread": _spread(computed),
            "num_workers": timeline.num_workers,
            "prefetch_factor": timeline.prefetch_factor or cls.prefetch_factor,
        }
        if len(copied):
            settings["copy"] = float(copied.mean())
        if len(pinned):
            settings["pin"] = float(pinned.mean())
        if on_device:
            settings["launch"] = float(timeline.seconds("compute", MAIN).mean())
        sent, received = [], []
        for each in (timeline, *with_workers):
            sent += _transfers(each)
            received += _receipts(each)
        if sent:
            settings["transfer"] = float(np.median(sent))
        if received:
            settings["receive"] = float(np.median(received))
        return cls(**settings | changes)


def bounds(pipeline: Pipeline) -> dict[str, float]:
    """Batches a second that each part of the pipeline could do if it never had to wait; the least one decides.

    "workers" each fetch and send one batch after the other; "prefetch": num_workers * prefetch_factor batches are
    under way at most; "cores" is the work of all processes. Where nothing varies and there are cores enough,
    `simulate` comes to exactly the least of them, but for a first and a last batch.

    >>> bounds(Pipeline(num_workers=3, fetch=0.3, compute=0.05))
    {'workers': 10.0, 'prefetch': 20.0, 'main process': 20.0}
    """
    p, workers = pipeline, pipeline.num_workers
    pin = p.pin or 0.0
    handed = p.transfer + p.receive if workers else 0.0
    waits_for_copy = p.copy if p.launch is None or p.pin is None else 0.0
    main = waits_for_copy + (p.compute if p.launch is None else p.launch)
    seconds = {}  # for each batch
    if workers == 0:
        main += p.fetch + pin
    else:
        seconds["workers"] = (p.fetch + p.transfer) / workers
        seconds["prefetch"] = (p.fetch + handed + pin) / (workers * p.prefetch_factor)
        if p.pin is None:
            main += p.receive
        else:
            seconds["pin thread"] = p.receive + pin
    seconds["main process"] = main
    if p.launch is not None:
        seconds["device"] = p.copy + p.compute
    if p.cores is not None:
        step = p.copy + p.compute * p.compute_cores if p.launch is None else p.launch
        seconds["cores"] = (p.fetch * p.fetch_cores + handed + pin + step) / p.cores
    return {part: 1 / each for part, each in seconds.items() if each > 0}


def bound(pipeline: Pipeline) -> float:
    """Batches a second that the pipeline cannot exceed in the long run: the least of `bounds`."""
    return min(bounds(pipeline).values())


def simulate(pipeline: Pipeline, n_batches: int = 100, *, seed: int = 0, skip: int | None = None) -> Timeline:
    """Play the pipeline and say what was done when.

    As PyTorch's loader does it: index lists go to the workers in turns, num_workers * prefetch_factor of them at
    first and one more at each delivery; batches are delivered in order, so a late one holds up those behind it.

    Args:
        pipeline: what is played.
        n_batches: how many batches the timeline holds.
        seed: of the fetch and compute times, a whole number from 0. With the same `skip`, the same batch has the
            same times whatever the number of workers.
        skip: batches that pass before the timeline starts; None for two and all that workers prepare ahead.

    Raises:
        ValueError: no pipeline, or a number out of its range.

    >>> timeline = simulate(Pipeline(num_workers=1, fetch=0.03, compute=0.02), 10)
    >>> round(timeline.throughput, 1), round(timeline.stall, 2)
    (33.3, 0.33)
    """
    if not isinstance(pipeline, Pipeline):
        kind = type(pipeline).__name__
        raise ValueError(f"got a {kind}, a Pipeline is needed: Pipeline(fetch=…, compute=…), or from_timeline of it")
    check_count("n_batches", n_batches)
    check_count("seed", seed, least=0)
    ahead = pipeline.num_workers * pipeline.prefetch_factor
    if skip is None:
        skip = 2 + ahead
    check_count("skip", skip, least=0)
    n = skip + n_batches
    fetch = _draw(np.random.default_rng((seed, 0)), pipeline.fetch, pipeline.fetch_spread, n + ahead)
    compute = _draw(np.random.default_rng((seed, 1)), pipeline.compute, pipeline.compute_spread, n)
    return play(pipeline, fetch, compute, skip)


def _draw(random: np.random.Generator, mean: float, spread: float, n: int) -> list[float]:
    if not spread:
        return [mean] * n
    return random.gamma(1 / spread**2, mean * spread**2, n).tolist()


# -- what a measured timeline shows --------------------------------------------------------------------------


def _spread(seconds: np.ndarray) -> float:
    mean = seconds.mean()
    return float(seconds.std() / mean) if mean > 0 else 0.0


def _by_batch(timeline: Timeline, kind: Kind) -> dict[int, Span]:
    return {span.batch: span for span in timeline.spans if span.kind == kind}


def _transfers(timeline: Timeline) -> list[float]:
    """Seconds from the end of a fetch to the start of the worker's next, where that one's index list was there."""
    if not timeline.num_workers or timeline.prefetch_factor is None:
        return []
    fetches, waits = _by_batch(timeline, "fetch"), _by_batch(timeline, "wait")
    found = []
    for batch, done in fetches.items():
        following = fetches.get(batch + timeline.num_workers)
        # The list of a batch is sent when the one num_workers * prefetch_factor before it is delivered.
        sent = waits.get(batch - timeline.num_workers * (timeline.prefetch_factor - 1))
        if following and sent and sent.end <= done.end and following.lane == done.lane:
            found.append(following.start - done.end)
    return found


def _receipts(timeline: Timeline) -> list[float]:
    """Seconds waited for each batch that was there before the one ahead of it was even asked for."""
    if PIN in timeline.lanes():  # the pin thread receives, unseen
        return []
    fetches, waits = _by_batch(timeline, "fetch"), _by_batch(timeline, "wait")
    return [
        wait.seconds
        for batch, wait in waits.items()
        if batch in fetches and batch - 1 in waits and fetches[batch].end <= waits[batch - 1].start
    ]
