"""PyTorch's DataLoader, played in simulated time: its processes, queues and lanes. Draws no times, sums nothing up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mt_core.lab.simulated_time import Machine, Process, Queue, Work
from mt_core.lab.spans import DEVICE, MAIN, PIN, Kind, Span, Timeline, worker_lane

if TYPE_CHECKING:
    from mt_core.lab.simulate import Pipeline


def play(pipeline: Pipeline, fetch: Sequence[float], compute: Sequence[float], skip: int) -> Timeline:
    """The timeline of these fetch and compute times, one a batch, without the first `skip` batches."""
    player = _Player(pipeline, fetch, compute, skip)
    player.machine.run(player.main())
    zero = player.asked[skip]
    moved = (
        Span(lane=lane, kind=kind, batch=batch - skip, start=start - zero, end=end - zero)
        for lane, kind, batch, start, end in player.spans
    )
    return Timeline(
        spans=tuple(span for span in moved if 0 <= span.batch < len(compute) - skip),  # what was delivered
        n_batches=len(compute) - skip,
        wall=player.machine.now - zero,
        num_workers=pipeline.num_workers,
        prefetch_factor=pipeline.prefetch_factor if pipeline.num_workers else None,
    )


class _Player:
    """The processes of a pipeline and what they did."""

    def __init__(self, pipeline: Pipeline, fetch: Sequence[float], compute: Sequence[float], skip: int) -> None:
        self.pipeline, self.fetch, self.compute, self.skip = pipeline, fetch, compute, skip
        self.machine = Machine(pipeline.cores)
        self.spans: list[tuple[str, Kind, int, float, float]] = []
        self.asked: list[float] = []
        self.index_lists = [Queue() for _ in range(pipeline.num_workers)]
        self.fetched, self.pinned = Queue(), Queue()
        self.handed, self.copied, self.computed = Queue(), Queue(), Queue()  # to the device, and back

    def main(self) -> Process:
        """The main process: asks for each batch and computes on it."""
        machine, p = self.machine, self.pipeline
        for worker in range(p.num_workers):
            machine.start(self.worker(worker))
        if p.num_workers and p.pin is not None:
            machine.start(self.pin_thread())
        if p.launch is not None:
            machine.start(self.device())
        for batch in range(p.num_workers * p.prefetch_factor):
            self.send(batch)
        arrived: set[int] = set()
        computing = 0  # steps that the device has not done yet
        for batch in range(len(self.compute)):
            if batch == self.skip:
                for _ in range(computing):
                    yield self.computed
                computing = 0
            start = machine.now
            self.asked.append(start)
            if p.num_workers:
                yield from self.receive(batch, arrived)
                self.send(batch + p.num_workers * p.prefetch_factor)
                self.done(MAIN, "wait", batch, start)
            else:
                yield from self.read(MAIN, batch)
                if p.pin is not None:
                    yield from self.work(MAIN, "pin", batch, p.pin)
            if p.launch is None:
                yield from self.work(MAIN, "copy", batch, p.copy)
                yield from self.work(MAIN, "compute", batch, self.compute[batch], p.compute_cores)
                continue
            start = machine.now
            machine.put(self.handed, batch)
            computing += 1
            if p.pin is None:  # from memory that may move, the main process has to wait for the copy
                yield self.copied
                self.done(MAIN, "copy", batch, start)
            yield from self.work(MAIN, "compute", batch, p.launch)
        for _ in range(computing):
            yield self.computed

    def send(self, batch: int) -> None:
        """Send the index list of a batch to the worker whose turn it is."""
        if batch < len(self.fetch):
            self.machine.put(self.index_lists[batch % self.pipeline.num_workers], batch)

    def receive(self, batch: int, arrived: set[int]) -> Process:
        """Take batches out of the queue, whichever come, until this one is there."""
        while batch not in arrived:
            if self.pipeline.pin is None:
                arrived.add((yield self.fetched))
                yield Work(self.pipeline.receive, 1)
            else:
                arrived.add((yield self.pinned))
        arrived.remove(batch)

    def worker(self, worker: int) -> Process:
        while True:
            batch = yield self.index_lists[worker]
            yield from self.read(worker_lane(worker), batch)
            yield Work(self.pipeline.transfer, 1)
            self.machine.put(self.fetched, batch)

    def pin_thread(self) -> Process:
        while True:
            batch = yield self.fetched
            yield Work(self.pipeline.receive, 1)
            yield from self.work(PIN, "pin", batch, self.pipeline.pin or 0.0)
            self.machine.put(self.pinned, batch)

    def device(self) -> Process:
        while True:
            batch = yield self.handed
            yield from self.work(DEVICE, "copy", batch, self.pipeline.copy, 0)
            if self.pipeline.pin is None:
                self.machine.put(self.copied, batch)
            yield from self.work(DEVICE, "compute", batch, self.compute[batch], 0)
            self.machine.put(self.computed, batch)

    def read(self, lane: str, batch: int) -> Process:
        """A fetch: first the part that only takes time, then the part that needs a core."""
        start, seconds = self.machine.now, self.fetch[batch]
        yield Work(seconds * (1 - self.pipeline.fetch_cores), 0)
        yield Work(seconds * self.pipeline.fetch_cores, 1)
        self.done(lane, "fetch", batch, start)

    def work(self, lane: str, kind: Kind, batch: int, seconds: float, cores: float = 1) -> Process:
        start = self.machine.now
        yield Work(seconds, cores)
        self.done(lane, kind, batch, start)

    def done(self, lane: str, kind: Kind, batch: int, start: float) -> None:
        """Note a span that ends now. A copy that takes no time is none."""
        if kind != "copy" or self.machine.now > start:
            self.spans.append((lane, kind, batch, start, self.machine.now))
