"""Checks of notebook 06: right answers pass, wrong ones are explained in the learner's terms."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from mt_core.lab.checks import pinning
from mt_core.lab.copy_engine import CopyEngine

Say = Callable[..., str]
Batch = dict[str, Tensor]


def smallest(vocab_size: int) -> torch.dtype:
    types = (torch.int8, torch.int16, torch.int32, torch.int64)
    return types[sum(vocab_size > 1 << bits for bits in (7, 15, 31))]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda vocab_size: ..., "returns nothing yet"),
        (lambda vocab_size: torch.int64, "torch.int8, which is smaller, does too"),
        (lambda vocab_size: torch.uint16, "-100 would arrive as 65,436"),
        (lambda vocab_size: torch.uint8, "-100 would arrive as 156"),
        (lambda vocab_size: torch.int8 if vocab_size < 129 else torch.int16, "the largest id is 32,768"),
        (lambda vocab_size: torch.int16 if vocab_size < 1 << 15 else torch.int32, "torch.int8, which is smaller"),
        (lambda vocab_size: smallest(vocab_size + 1), "torch.int8, which is smaller"),
        (lambda vocab_size: smallest(max(vocab_size - 1, 1)), "the largest id is 128, torch.int8 ends at 127"),
        (lambda vocab_size: torch.float16, "no whole numbers of that size exactly"),
        (lambda vocab_size: "int16", "a dtype such as torch.int16 is needed"),
    ],
)
def test_wrong_dtypes_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(pinning.travel_dtype, answer)
    assert words in printed and "Right" not in printed


def test_a_right_dtype_passes(say: Say) -> None:
    assert say(pinning.travel_dtype, smallest).startswith("Right")


def period(way: str, fetch: float, copy: float, compute: float) -> float:
    both = {"blocking": copy + max(fetch, compute), "one stream": max(copy + compute, fetch)}
    return both.get(way, max(fetch, copy, compute))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda way, fetch, copy, compute: None, "returns nothing yet"),
        (
            lambda way, fetch, copy, compute: fetch + copy + compute,
            "you returned 14, right is 9. The next fetch begins",
        ),
        (lambda way, fetch, copy, compute: period("blocking", fetch, copy, compute), "'one stream', fetch 6"),
        (lambda way, *times: period("one stream" if way[0] == "t" else way, *times), "'two streams', fetch 6"),
        (lambda way, fetch, copy, compute: "9", "you returned '9', a number is needed"),
    ],
)
def test_wrong_periods_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(pinning.period, answer)
    assert words in printed and "Right" not in printed


def test_a_right_period_passes(say: Say) -> None:
    assert say(pinning.period, period).startswith("Right")


def prefetch(
    batches: list[Batch],
    engine: CopyEngine,
    n_buffers: int,
    *,
    guarded: bool = True,
    early_event: bool = False,
    whole: bool = False,
    used: int | None = None,
) -> Iterator[Batch]:
    """The right prefetcher, and the ways to get it wrong."""
    buffers: dict[tuple[int, str], Tensor] = {}
    events: dict[int, Any] = {}
    for number, batch in enumerate(batches):
        slot, arrives = number % (used or n_buffers), {}
        if guarded and slot in events:
            events[slot].synchronize()
        for name, rows in batch.items():
            buffer = buffers.setdefault((slot, name), torch.empty_like(rows))
            part = buffer if whole else buffer[: len(rows)]
            part.copy_(rows)
            arrives[name] = engine.copy(part)
            if not early_event or name == "input_ids":
                events[slot] = engine.record_event()
        yield arrives


def straight(batches: list[Batch], engine: CopyEngine, n_buffers: int) -> Iterator[Batch]:
    for batch in batches:
        yield {name: engine.copy(rows) for name, rows in batch.items()}


def waiting(batches: list[Batch], engine: CopyEngine, n_buffers: int) -> Iterator[Batch]:
    for arrives in prefetch(batches, engine, n_buffers):
        engine.synchronize()
        yield arrives


def with_(**settings: Any) -> Callable[..., Any]:
    return lambda batches, engine, n_buffers: prefetch(batches, engine, n_buffers, **settings)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda batches, engine, n_buffers: ..., "returns nothing yet"),
        (
            with_(guarded=False),
            "n_buffers=1, an engine 2 copies behind: batch 0: its input_ids tensor holds those of batch 1",
        ),
        (with_(guarded=False, used=2), "the engine read 4 pieces of memory"),
        (with_(early_event=True), "its labels tensor holds those of batch 1"),
        (with_(whole=True), "stopped with RuntimeError"),
        (with_(used=1), "you waited 9 times and 0 are enough"),
        (straight, "the engine read 20 pieces of memory, 1 for each"),
        (waiting, "all batches are right, but you waited"),
        (lambda batches, engine, n: islice(prefetch(batches, engine, n), 9), "9 of 10 batches came out"),
        (lambda batches, engine, n: prefetch(batches + batches, engine, n), "more than 10 batches came out"),
        (lambda *given: list(prefetch(*given)), "you returned list, a generator is needed"),
        (lambda batches, engine, n: (b["labels"] for b in prefetch(batches, engine, n)), "you yielded Tensor"),
    ],
)
def test_wrong_prefetchers_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(pinning.prefetcher, answer)
    assert words in printed and "Right" not in printed


def test_a_batch_of_one_row_in_a_whole_buffer_is_seen(say: Say) -> None:
    def spread(batches: list[Batch], engine: CopyEngine, n_buffers: int) -> Iterator[Batch]:
        short = len(batches[-1]["labels"]) == 1
        return prefetch(batches, engine, n_buffers, whole=short)  # copy_ spreads the row over the buffer

    printed = say(pinning.prefetcher, spread)
    assert "(4, 3) arrived, (1, 3) was sent. The last batch is shorter" in printed


def test_a_right_prefetcher_passes(say: Say) -> None:
    assert say(pinning.prefetcher, prefetch).startswith("Right")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda buffer, rows: ..., "returns nothing yet"),
        (lambda buffer, rows: buffer[: len(rows)].copy_(rows), "no error: 8 rows went in"),
        (lambda buffer, rows: rows.copy_(buffer), "with a batch of 1 row it must work, and 0 rows"),
        (lambda buffer, rows: buffer + rows, "with a batch of 1 row it must work, and 0 rows"),
        (lambda buffer, rows: buffer.wrong, "stopped with AttributeError"),
    ],
)
def test_fills_that_do_not_fail_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(pinning.short_batch, answer)
    assert words in printed and "torch says" not in printed


def test_a_short_batch_has_its_error_read(say: Say) -> None:
    printed = say(pinning.short_batch, lambda buffer, rows: buffer.copy_(rows))
    assert "(16) must match the size of tensor b (8)" in printed and "stands in 16 rows" in printed
