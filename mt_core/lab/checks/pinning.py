"""The exercises of notebook 06: a dtype for the journey, time for a batch, a prefetcher that waits, a short batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mt_core.lab.checks.explained import UntouchedError, WrongError, as_number, explained, touched
from mt_core.lab.checks.guesses import in_words
from mt_core.lab.copy_engine import CopyEngine

WAYS = ("blocking", "one stream", "two streams")
_UNSIGNED = {torch.uint8, torch.uint16, torch.uint32, torch.uint64}


def travel_dtype(my_travel_dtype: Callable[[int], Any]) -> None:
    """Check `my_travel_dtype(vocab_size)` -> the smallest signed dtype that holds every id, and -100."""
    with explained(my_travel_dtype):
        for vocab_size in (128, 129, 1024, 32768, 32769, 50257, 65536, 1 << 20, 1 << 31, (1 << 31) + 1):
            case, wanted = f"vocab_size={vocab_size:,}", _travel_dtype(vocab_size)
            got = touched(my_travel_dtype(vocab_size))
            if not isinstance(got, torch.dtype):
                raise WrongError(f"{case}: a dtype such as torch.int16 is needed, you returned {got!r}")
            if got in _UNSIGNED:
                arrives = int(torch.tensor([-100]).to(got).to(torch.int64))
                raise WrongError(
                    f"{case}: {got} has no negative numbers. The label -100 would arrive as {arrives:,} and no longer "
                    "be left out of the loss: choose a signed type"
                )
            if got.is_floating_point or got.is_complex or got == torch.bool:
                raise WrongError(f"{case}: {got} holds no whole numbers of that size exactly: choose an integer type")
            largest = torch.iinfo(got).max
            if largest < vocab_size - 1:
                raise WrongError(
                    f"{case}: the largest id is {vocab_size - 1:,}, {got} ends at {largest:,}; a cast beyond that "
                    "wraps round and says nothing"
                )
            if got != wanted:
                raise WrongError(f"{case}: {got} holds all ids, but {wanted}, which is smaller, does too")
        print("Right: the smallest signed type for 10 vocabularies, each largest id and -100 included.")


def _travel_dtype(vocab_size: int) -> torch.dtype:
    types = (torch.int8, torch.int16, torch.int32, torch.int64)
    return next(dtype for dtype in types if vocab_size - 1 <= torch.iinfo(dtype).max)


def period(my_period: Callable[..., Any]) -> None:
    """Check `my_period(way, fetch, copy, compute)` -> time for a batch once it runs, in the unit of the three times."""
    with explained(my_period):
        times = [(6, 3, 5), (1, 3, 5), (20, 3, 5), (1, 9, 5), (4, 3, 5), (7, 3, 5), (2, 2, 2)]
        for way, (fetch, copy, compute) in itertools.product(WAYS, times):
            case = f"{way!r}, fetch {fetch}, copy {copy}, compute {compute}"
            wanted = _period(way, fetch, copy, compute)
            got = as_number(my_period(way, fetch, copy, compute), case)
            if abs(got - wanted) > 1e-9:
                raise WrongError(f"{case}: you returned {in_words(got)}, right is {in_words(wanted)}. {_WHY[way]}")
        print(f"Right: {len(times)} sets of times, three ways each.")


_WHY = {
    "blocking": "The next fetch begins when the copy has ended, and so does the step; the next copy needs both done",
    "one stream": "Copy and step go one after the other on the device; the fetch goes on beside them",
    "two streams": "All three go on at once, each on another batch: the slowest sets the pace",
}


def _period(way: str, fetch: float, copy: float, compute: float) -> float:
    if way == "blocking":
        return max(fetch, compute) + copy
    return max(fetch, copy + compute) if way == "one stream" else max(fetch, copy, compute)


def prefetcher(my_prefetcher: Callable[..., Any]) -> None:
    """Check `my_prefetcher(batches, engine, n_buffers)`: yields each batch's copies, from buffers it guards."""
    with explained(my_prefetcher):
        batches = [
            {"input_ids": 100 * n + torch.arange(rows * 3).view(rows, 3), "labels": torch.full((rows, 3), n)}
            for n, rows in enumerate([4] * 9 + [3])
        ]
        one_row = [*batches[:3], {name: rows[:1] for name, rows in batches[4].items()}]
        for n_buffers, behind in itertools.product((1, 2, 3), (0, 1, 2, 3, 4, 7, 100)):
            _check_run(my_prefetcher, batches, n_buffers, behind)
        _check_run(my_prefetcher, one_row, 2, 1)
        print("Right: 22 runs, engines up to 100 copies behind, 1 to 3 buffers, short last batches; no needless wait.")


class _Watched(CopyEngine):
    """Remembers which memory it was asked to read."""

    def __init__(self, behind: int) -> None:
        super().__init__(behind)
        self.sources: dict[int, Tensor] = {}  # kept alive, so that no address comes twice

    def copy(self, source: Tensor) -> Tensor:
        if isinstance(source, Tensor):
            self.sources[source.untyped_storage().data_ptr()] = source
        return super().copy(source)


def _check_run(
    my_prefetcher: Callable[..., Any], batches: list[dict[str, Tensor]], n_buffers: int, behind: int
) -> None:
    case = f"n_buffers={n_buffers}, an engine {behind} copies behind"
    given = [{name: rows.clone() for name, rows in batch.items()} for batch in batches]
    with _Watched(behind) as engine:
        returned = touched(my_prefetcher(given, engine, n_buffers))
        if not hasattr(returned, "__next__"):
            what = type(returned).__name__
            raise WrongError(f"{case}: you returned {what}, a generator is needed: hand each batch out with yield")
        arrived = list(itertools.islice(returned, len(batches) + 1))
        waits = engine.n_waits
    if len(arrived) != len(batches):
        more = "more than" if len(arrived) > len(batches) else f"{len(arrived)} of"
        raise WrongError(f"{case}: {more} {len(batches)} batches came out, one for each is needed, the last ones too")
    for number, (got, sent) in enumerate(zip(arrived, batches, strict=True)):
        _check_batch(got, sent, batches, f"{case}: batch {number}")
    pieces, allowed = len(engine.sources), n_buffers * len(batches[0])
    if pieces > allowed:
        raise WrongError(
            f"{case}: the engine read {pieces} pieces of memory, {n_buffers} for each of the names "
            f"{', '.join(batches[0])} are {allowed}. Copy every batch into a buffer first, and use the buffers again"
        )
    if waits > (needed := _waits(len(batches), len(batches[0]), n_buffers, behind)):
        raise WrongError(
            f"{case}: all batches are right, but you waited {waits} times and {needed} are enough. Wait for one thing "
            "only: the event of the buffer you are about to fill, just before you fill it"
        )


def _check_batch(got: Any, sent: dict[str, Tensor], batches: list[dict[str, Tensor]], case: str) -> None:
    if not isinstance(got, dict) or set(got) != set(sent):
        raise WrongError(f"{case}: a dictionary with {', '.join(sent)} is needed, you yielded {type(got).__name__}")
    for name, rows in sent.items():
        if not isinstance(got[name], Tensor):
            raise WrongError(f"{case}, {name}: a tensor is needed, you yielded {type(got[name]).__name__}")
        if got[name].shape != rows.shape:
            shapes = f"{tuple(got[name].shape)} arrived, {tuple(rows.shape)} was sent"
            raise WrongError(
                f"{case}, {name}: {shapes}. The last batch is shorter: fill and copy only part of a buffer"
            )
        if not torch.equal(got[name], rows):
            whose = [n for n, other in enumerate(batches) if other[name].shape == rows.shape]
            whose = [n for n in whose if torch.equal(batches[n][name], got[name])]
            what = f"holds those of batch {whose[0]}" if whose else "holds a mixture"
            raise WrongError(
                f"{case}: its {name} tensor {what}: the buffer was filled again before the engine had read it. Wait "
                "for an event that was recorded after the last copy from that buffer"
            )


def _waits(n_batches: int, n_names: int, n_buffers: int, behind: int) -> int:
    """How often a prefetcher has to wait that waits for the buffer it fills, and for nothing else."""
    with CopyEngine(behind) as engine:
        events = [engine.record_event()] * n_buffers
        for number in range(n_batches):
            events[number % n_buffers].synchronize()
            for _ in range(n_names):
                engine.copy(torch.zeros(1))
            events[number % n_buffers] = engine.record_event()
        return engine.n_waits


def short_batch(my_fill: Callable[[Tensor, Tensor], Any]) -> None:
    """Check `my_fill(buffer, rows)`, which is meant to fail: 8 rows into a buffer of 16. Explains the error."""
    with explained(my_fill):
        buffer = torch.zeros(16, 4, dtype=torch.int64)
        try:
            returned = my_fill(buffer, torch.ones(8, 4, dtype=torch.int64))
        except RuntimeError as error:
            message = str(error).splitlines()[0]
        else:
            if not buffer.any() and (returned is None or returned is ...):
                raise UntouchedError
            raise WrongError(
                "no error: 8 rows went in, or none. Copy them with copy_ into the whole buffer, without slicing"
            )
        row = torch.arange(4)[None]
        try:
            my_fill(buffer, row)
        except RuntimeError:
            pass  # counted as 0 rows
        same = int((buffer == row).all(dim=1).sum())
        if same == 0:
            raise WrongError(
                f"an error, but of another kind: {message}; with a batch of 1 row it must work, and 0 rows of the "
                "buffer hold it. Copy rows into the whole buffer, buffer.copy_(rows)"
            )
        print(f"torch says: {message}")
        print("A buffer of 16 rows, a batch of 8: a validation loader keeps its last, incomplete batch.")
        print(f"With a batch of 1 row nothing complains: it now stands in {same} rows of the buffer.")
