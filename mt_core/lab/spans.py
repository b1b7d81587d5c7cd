"""What a data path did and when: spans of time in lanes, and what follows from them. Measures nothing by itself.

`timeline.record` makes them by measuring, `simulate` by arithmetic; both are read and drawn alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Kind = Literal["fetch", "pin", "wait", "copy", "compute"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MAIN, PIN, DEVICE = "main", "pin thread", "device"


def worker_lane(worker: int) -> str:
    """The lane of a worker process, counted from 0."""
    return f"worker {worker}"


@dataclass(frozen=True, kw_only=True)
class Span:
    """One piece of work on one batch, in seconds from the start of the timeline.

    `lane` is "main", "pin thread", "device" or "worker 0" and so on. `kind` is "fetch" (rows read and collated),
    "pin" (the batch page-locked), "wait" (the main process has nothing to do but wait for the batch), "copy" (to
    the device) or "compute" (the step).
    """

    lane: str
    kind: Kind
    batch: int
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """What `n_batches` batches went through, from the moment the first was asked for to the end of the last step.

    Args:
        spans: in no particular order. Batches are numbered from 0; work that was done ahead lies before 0.
        n_batches: how many were delivered and computed on.
        wall: seconds from the first request to the end of the last step.
        num_workers, prefetch_factor: of the loader; None where it has none.
    """

    spans: tuple[Span, ...]
    n_batches: int
    wall: float
    num_workers: int = 0
    prefetch_factor: int | None = None

    @property
    def throughput(self) -> float:
        """Batches for each second of wall time."""
        return self.n_batches / self.wall

    @property
    def stall(self) -> float:
        """Share of the wall time in which the step had to wait for data: 0 to 1.

        The main process is fetching, pinning or waiting, and the device, where there is one, has nothing to do.
        """
        waits = [(s.start, s.end) for s in self.spans if s.lane == MAIN and s.kind in ("fetch", "pin", "wait")]
        busy = [(s.start, s.end) for s in self.spans if s.lane == DEVICE]
        return _length(_without(waits, busy)) / self.wall

    def lanes(self) -> list[str]:
        """The lanes that are used, workers first, then the pin thread, the main process and the device."""
        used = {span.lane for span in self.spans}
        workers = sorted(used - {MAIN, PIN, DEVICE}, key=lambda lane: int(lane.removeprefix("worker ")))
        return workers + [lane for lane in (PIN, MAIN, DEVICE) if lane in used]

    def columns(self) -> tuple[list[str], list[Kind], list[int], list[float], list[float]]:
        """Lanes, kinds, batches, starts and ends of the spans, as `plot_lanes` takes them."""
        s = sorted(self.spans, key=lambda span: span.start)
        return [x.lane for x in s], [x.kind for x in s], [x.batch for x in s], [x.start for x in s], [x.end for x in s]

    def seconds(self, kind: Kind, lane: str | None = None) -> np.ndarray:
        """How long each span of a kind took, in the order of the batches: float64 (n,). `lane` picks one lane.

        Raises:
            ValueError: there is no such kind.
        """
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}, it must be one of {', '.join(KINDS)}")
        found = [s for s in self.spans if s.kind == kind and lane in (None, s.lane)]
        return np.array([s.seconds for s in sorted(found, key=lambda s: s.batch)])

    def queued(self) -> np.ndarray:
        """Seconds each batch lay ready, from the end of its fetch (or pinning) to its delivery: float64 (n,).

        Of batches that workers fetched; empty without workers. Includes the way from process to process.
        """
        ready: dict[int, float] = {}
        taken: dict[int, float] = {}
        for span in self.spans:
            if span.lane == MAIN and span.kind == "wait":
                taken[span.batch] = span.end
            elif span.lane != MAIN and span.kind in ("fetch", "pin"):
                ready[span.batch] = max(span.end, ready.get(span.batch, span.end))
        return np.array([taken[b] - ready[b] for b in sorted(taken) if b in ready])

    def words(self) -> str:
        """What the timeline shows: throughput, the median of each kind of work, the stall."""
        parts = [f"{self.n_batches} batches in {self.wall:.2f} s, {self.throughput:.0f} a second."]
        for kind in KINDS:
            took = self.seconds(kind)
            if len(took):
                parts.append(f"{kind}: {1000 * np.median(took):.2f} ms at the median.")
        return " ".join([*parts, f"The step waited for data {self.stall:.0%} of the time."])


def _length(intervals: list[tuple[float, float]]) -> float:
    return sum(end - start for start, end in intervals)


def _without(intervals: list[tuple[float, float]], taken: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """What is left of disjoint intervals when other intervals are cut out of them."""
    left = list(intervals)
    for start, end in taken:
        left = [piece for a, b in left for piece in ((a, min(b, start)), (max(a, end), b)) if piece[0] < piece[1]]
    return left
