"""Measure what any loader does, batch by batch: fetch, pin, wait, copy, compute. Changes nothing about its order.

The dataset and the collate function of a copy of the loader are wrapped, so each batch carries the times of its
fetch from the worker to the main process; nothing of PyTorch is replaced.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate, get_worker_info

from mt_core.arguments import check_count
from mt_core.lab.any_batch import check_loader
from mt_core.lab.spans import DEVICE, MAIN, PIN, Kind, Span, Timeline, worker_lane
from mt_core.prefetch import each_tensor

_Raw = tuple[str, Kind, int, float, float]  # lane, kind, batch, start and end by the clock: a span in the making
_END = object()
_clock = time.perf_counter  # of the whole system: workers and the main process read the same one


def record(
    loader: Iterable[Any],
    step: Callable[[Any], Any],
    n_batches: int = 50,
    *,
    device: str | torch.device | None = None,
    skip: int | None = None,
) -> Timeline:
    """Run `step` on the batches of one pass over `loader` and say what took how long.

    A `torch.utils.data.DataLoader` of any kind is seen into: what each worker and the pin thread did. Of another
    iterable of batches, what the main process waited is all that can be seen. The loader is not changed; a sampler
    that draws from a generator of its own draws a pass from it, and a loader with a position stays where it was.

    Args:
        loader: gives batches. No pass over it should be running.
        step: called with each batch; what it returns is let go.
        n_batches: how many batches to measure, 2 at least; fewer, if the loader ends before.
        device: where tensors are copied before the step; None leaves them where they are. On a CUDA device, copy and
            compute are timed by events on the device; on others the device is waited for after each batch.
        skip: batches to let pass first, so that workers have started and their queue is as it will be; None for two
            and all that workers prepare ahead.

    Raises:
        ValueError: a number out of its range, no loader or no step, or a loader that ends before there are two
            batches to measure.
    """
    check_count("n_batches", n_batches, least=2)
    if skip is not None:
        check_count("skip", skip, least=0)
    check_loader(loader, "one loader is needed, record(loader, step)")
    if not callable(step):
        raise ValueError(f"step is a {type(step).__name__}, a function that is called with each batch is needed")
    workers, ahead = getattr(loader, "num_workers", 0), getattr(loader, "prefetch_factor", None)
    if skip is None:
        skip = 2 + workers * (ahead or 0)
    place = None if device is None else torch.device(device)
    work = _CudaWork(place) if place is not None and place.type == "cuda" else _Work(place)
    spans: list[_Raw] = []
    batches = iter(_timed(loader))
    zero, number = 0.0, 0
    try:
        while number < skip + n_batches:
            if number == skip:
                work.finish()  # nothing of the warm-up is left to be done
            before = _clock()
            batch = next(batches, _END)
            after = _clock()
            if batch is _END:
                break
            if number == skip:
                zero = before
            if isinstance(batch, _TimedBatch):
                spans += _loader_spans(batch, number, before, after, workers)
                batch = batch.batch
            else:
                spans.append((MAIN, "wait" if workers else "fetch", number, before, after))
            work.run(step, batch, number)
            number += 1
    finally:
        end = work.finish()
        batch = None
        del batches  # workers end here
    if number < skip + 2:
        raise ValueError(
            f"the loader gave {number} batches, {skip} to warm up and at least 2 to measure are needed: "
            "lower skip, or give it more data"
        )
    return Timeline(
        spans=tuple(
            Span(lane=lane, kind=kind, batch=batch - skip, start=start - zero, end=stop - zero)
            for lane, kind, batch, start, stop in (*spans, *work.spans)
            if batch >= skip
        ),
        n_batches=number - skip,
        wall=end - zero,
        num_workers=workers,
        prefetch_factor=ahead,
    )


def _loader_spans(timed: _TimedBatch, number: int, before: float, after: float, workers: int) -> Iterator[_Raw]:
    """What the loader did with a batch, and what of it the main process saw."""
    if workers == 0:  # the main process does it all, one thing after the other
        yield MAIN, "fetch", number, before, timed.pin[0] if timed.pin else after
        if timed.pin:
            yield MAIN, "pin", number, *timed.pin
        return
    if timed.fetch:
        yield worker_lane(timed.worker), "fetch", number, *timed.fetch
    if timed.pin:
        yield PIN, "pin", number, *timed.pin
    yield MAIN, "wait", number, before, after


# -- the loader, timed -------------------------------------------------------------------------------------------


def _timed(loader: Iterable[Any]) -> Iterable[Any]:
    """The loader with its dataset and collate function wrapped, where there is something to see inside."""
    if not isinstance(loader, DataLoader) or not (loader.num_workers or loader.pin_memory):
        return copy.copy(loader) if isinstance(loader, DataLoader) else loader
    started = _Started()
    wrap = _TimedStream if isinstance(loader.dataset, IterableDataset) else _TimedDataset
    twin = copy.copy(loader)
    # Into its dictionary, past the guard that keeps a loader's parts from being exchanged by mistake. Not persistent,
    # so that it starts workers of its own instead of taking over those of the original.
    vars(twin).update(
        dataset=wrap(loader.dataset, started),
        collate_fn=_TimedCollate(loader.collate_fn or default_collate, started),
        persistent_workers=False,
    )
    return twin


class _Started:
    """When the fetch that is going on in this process began; shared by the dataset and the collate function."""

    def __init__(self) -> None:
        self.at: float | None = None

    def mark(self) -> None:
        if self.at is None:
            self.at = _clock()

    def take(self) -> float | None:
        at, self.at = self.at, None
        return at


class _Proxy:
    """Has whatever the wrapped dataset has, and gives it whatever it is given, as by a `worker_init_fn`."""

    def __init__(self, inner: Any, started: _Started) -> None:
        self.inner, self.started = inner, started

    def __getattr__(self, name: str) -> Any:
        if name in ("inner", "started") or name.startswith("__"):
            raise AttributeError(name)  # while unpickling, and for what Python asks of every object
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("inner", "started"):
            super().__setattr__(name, value)
        else:
            setattr(self.inner, name, value)


class _TimedDataset(_Proxy, Dataset[Any]):
    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: Any) -> Any:
        self.started.mark()
        return self.inner[index]

    def __getitems__(self, indices: Sequence[Any]) -> Any:
        self.started.mark()
        whole = getattr(self.inner, "__getitems__", None)
        return whole(indices) if whole else [self.inner[index] for index in indices]


class _TimedStream(_Proxy, IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        items = iter(self.inner)
        while True:
            self.started.mark()
            try:
                item = next(items)
            except StopIteration:
                return
            yield item


class _TimedCollate:
    def __init__(self, inner: Callable[[Any], Any], started: _Started) -> None:
        self.inner, self.started = inner, started

    def __call__(self, rows: Any) -> _TimedBatch:
        batch, worker = self.inner(rows), get_worker_info()
        start = self.started.take()
        end = _clock()
        return _TimedBatch(batch, (end if start is None else start, end), 0 if worker is None else worker.id)


class _TimedBatch:
    """A batch with the times of what was done to it. Read by name, it is the batch."""

    def __init__(self, batch: Any, fetch: tuple[float, float] | None = None, worker: int = 0) -> None:
        self.batch, self.fetch, self.worker = batch, fetch, worker
        self.pin: tuple[float, float] | None = None

    def __getitem__(self, name: Any) -> Any:
        return self.batch[name]

    def pin_memory(self) -> _TimedBatch:
        """Called by PyTorch's loader, in its pin thread or in the main process."""
        start = _clock()
        self.batch = each_tensor(self.batch, Tensor.pin_memory)
        self.pin = (start, _clock())
        return self


# -- copy and compute --------------------------------------------------------------------------------------------


class _Work:
    """Copies each batch and runs the step, on the processor or on a device without events."""

    def __init__(self, device: torch.device | None) -> None:
        self.device = device
        self.waits = device is not None and device.type != "cpu"
        self.spans: list[_Raw] = []

    def run(self, step: Callable[[Any], Any], batch: Any, number: int) -> None:
        start = _clock()
        if self.device is not None:
            batch = each_tensor(batch, lambda tensor: tensor.to(self.device))
        copied = _clock()
        step(batch)
        if self.waits:
            torch.accelerator.synchronize()
        end = _clock()
        if self.device is not None:
            self.spans.append((MAIN, "copy", number, start, copied))
        self.spans.append((MAIN, "compute", number, copied, end))

    def finish(self) -> float:
        """Wait for all that is going on; returns when it was done."""
        return _clock()


class _CudaWork(_Work):
    """The same on a CUDA device, which works on its own: events on it say when it copied and computed."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._events: list[tuple[Any, ...]] = []  # the batch's number and three events
        torch.cuda.synchronize(device)
        self._zero = torch.cuda.Event(enable_timing=True)
        self._zero.record(torch.cuda.current_stream(device))
        torch.cuda.synchronize(device)
        self._zero_at = _clock()

    def run(self, step: Callable[[Any], Any], batch: Any, number: int) -> None:
        stream = torch.cuda.current_stream(self.device)
        events = tuple(torch.cuda.Event(enable_timing=True) for _ in range(3))
        start = _clock()
        events[0].record(stream)
        batch = each_tensor(batch, lambda tensor: tensor.to(self.device, non_blocking=True))
        events[1].record(stream)
        copied = _clock()
        step(batch)
        events[2].record(stream)
        end = _clock()
        self._events.append((number, *events))
        self.spans.append((MAIN, "copy", number, start, copied))
        self.spans.append((MAIN, "compute", number, copied, end))

    def finish(self) -> float:
        torch.cuda.synchronize(self.device)
        end = _clock()
        for number, *events in self._events:
            at = [self._zero_at + self._zero.elapsed_time(event) / 1000 for event in events]
            self.spans.append((DEVICE, "copy", number, at[0], at[1]))
            self.spans.append((DEVICE, "compute", number, at[1], at[2]))
        self._events.clear()
        return end
