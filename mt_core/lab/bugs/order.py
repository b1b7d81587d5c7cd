"""Exhibits about order: what decides which row comes when, and who must know of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mt_core.lab.bugs.exhibit import Exhibit, FaultError, Source, WrongMend, call, numbers, short

# -- epochs that do not reach the workers ----------------------------------------------------------------------


class DeafWorkers:
    """A dataset whose order is decided in a worker that stays alive between epochs."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed, self.epoch = n, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called in the main process before each epoch."""
        self.epoch = epoch

    def message(self) -> Any:
        """Made in the main process at the start of each epoch and sent to the worker."""
        return "start"

    def rows(self, message: Any) -> list[int]:
        """Called in the worker, on the copy of this object that it was started with."""
        return np.random.default_rng((self.seed, self.epoch)).permutation(self.n).tolist()


class _Messengers(DeafWorkers):
    def message(self) -> Any:
        return self.epoch

    def rows(self, message: Any) -> list[int]:
        return np.random.default_rng((self.seed, message)).permutation(self.n).tolist()


class _CountingWorkers(DeafWorkers):
    def rows(self, message: Any) -> list[int]:
        order = super().rows(message)
        self.epoch += 1
        return order


class _FreshChance(DeafWorkers):
    def message(self) -> Any:
        return int(np.random.default_rng().integers(2**63))

    def rows(self, message: Any) -> list[int]:
        return np.random.default_rng((self.seed, message)).permutation(self.n).tolist()


def _epochs(candidate: Callable[..., Any], epochs: list[int], seed: int = 0) -> list[list[int]]:
    main = call(candidate, 40, seed)
    worker = copy.deepcopy(main)  # what a worker process is started with
    orders = []
    for epoch in epochs:
        main.set_epoch(epoch)
        orders.append(numbers(worker.rows(copy.deepcopy(main.message())), "the order"))
        if sorted(orders[-1]) != list(range(40)):
            raise FaultError(f"epoch {epoch}: {short(orders[-1])} is no order of 40 rows")
    return orders


def _look_epochs(candidate: Callable[..., Any]) -> str:
    orders = _epochs(candidate, [0, 1, 2])
    for epoch in (1, 2):
        if orders[epoch] in orders[:epoch]:
            raise FaultError(
                f"epoch {epoch} comes in the order of epoch {orders.index(orders[epoch])}, {short(orders[0], 5)}: "
                "set_epoch was called, and the worker never heard of it"
            )
    return "3 epochs of one worker come in 3 orders"


def _examine_epochs(candidate: Callable[..., Any]) -> str:
    seen = _look_epochs(candidate)
    third = _epochs(candidate, [0, 1, 2])[2]
    if _epochs(candidate, [0, 1, 2])[2] != third:
        raise FaultError(f"{seen}, but a second run with the same seed has another epoch 2: it cannot be repeated")
    if _epochs(candidate, [2])[0] != third:
        raise FaultError(f"{seen}, but a run that is resumed at epoch 2 has another order than one that began at 0")
    if _epochs(candidate, [0], seed=1) == _epochs(candidate, [0], seed=0):
        raise FaultError(f"{seen}, but seeds 0 and 1 give the same orders")
    return f"{seen}, the same in every run and after a resume"


DEAF_WORKERS = Exhibit(
    name="deaf_workers",
    title="Workers that hear nothing",
    question="set_epoch(0), set_epoch(1), set_epoch(2): how many orders does a worker that stays alive make of them?",
    task=(
        "A class made with (n, seed) that has set_epoch(epoch), message() and rows(message). Each epoch has its own "
        "order, the same in every run with that seed, also in a run that starts at that epoch."
    ),
    source=Source(
        where="huggingface/datasets#6673",
        title="IterableDataset `set_epoch` is ignored when DataLoader `persistent_workers=True`",
        link="https://github.com/huggingface/datasets/issues/6673",
    ),
    broken=DeafWorkers,
    symptom="No error. Every epoch reads the corpus in the order of the first, batch by batch the same.",
    tool="orders compared",
    look=_look_epochs,
    examine=_examine_epochs,
    hints=(
        "Compare the orders of two epochs.",
        "Two processes, two copies of the object. Which of them does set_epoch change?",
        "Whatever the worker has to know about this epoch must travel in the message.",
    ),
    mend=_Messengers,
    wrong_mends=(
        WrongMend(candidate=_CountingWorkers, mistake="the worker counts for itself, from 0 after every restart"),
        WrongMend(candidate=_FreshChance, mistake="sends fresh chance: no run can be repeated"),
    ),
)


# -- a permutation that is none --------------------------------------------------------------------------------


def walk(row: int, n: int, seed: int, bits: int) -> int:
    """A permutation of the numbers of `bits` bits (one more if odd), applied until the result is below n."""
    half = (bits + 1) // 2
    low = (1 << half) - 1
    while True:
        left, right = row >> half & low, row & low
        for turn in range(4):
            left, right = right, left ^ ((right * 0x9E3779B1 + seed * 7919 + turn * 104729) >> 3) & low
        row = left << half | right
        if row < n:
            return row


def colliding_rows(row: int, n: int, seed: int) -> int:
    """Where row stands in a shuffled order of n rows, without storing the order."""
    return walk(row, n, seed, bits=math.ceil(math.log2(n - 1)))


def _whole_number_bits(row: int, n: int, seed: int) -> int:
    return walk(row, n, seed, bits=(n - 1).bit_length())


def _log_of_n(row: int, n: int, seed: int) -> int:
    return walk(row, n, seed, bits=math.ceil(math.log2(n)))


def _remainder(row: int, n: int, seed: int) -> int:
    return walk(row, 1 << 62, seed, bits=62) % n


def _one_bit_more(row: int, n: int, seed: int) -> int:
    return walk(row, n, seed, bits=math.ceil(math.log2(n - 1)) + 1)


def _places(candidate: Callable[..., Any], n: int, rows: list[int], seed: int) -> str:
    places: dict[int, int] = {}
    for row in rows:
        place = numbers([call(candidate, row, n, seed)], f"n={n:,}: the place of row {row:,}")[0]
        if not 0 <= place < n:
            raise FaultError(f"n={n:,}: row {row:,} goes to {place:,}, a place from 0 to {n - 1:,} is needed")
        if place in places:
            raise FaultError(
                f"n={n:,}: rows {places[place]:,} and {row:,} both go to place {place:,}: one of them is read twice "
                "and another never"
            )
        places[place] = row
    return f"n={n:,}: {len(rows):,} rows go to {len(places):,} places"


def _look_places(candidate: Callable[..., Any]) -> str:
    for n in (15, 16, 17, 65_535, 65_536, 65_537):
        seen = _places(candidate, n, list(range(n)) if n < 100 else [*range(50), *range(n - 50, n)], 0)
    return seen


def _examine_places(candidate: Callable[..., Any]) -> str:
    _look_places(candidate)
    sizes = sorted({*range(1, 20), *(2**k + d for k in range(5, 10) for d in (-1, 0, 1))})
    for n in sizes:
        _places(candidate, n, list(range(n)), seed=n)
    for n in (2**53 + 1, 2**60 + 1):
        _places(candidate, n, [0, 1, 2, n // 2, n - 2, n - 1], seed=1)
    if [candidate(row, 500, 0) for row in range(500)] == [candidate(row, 500, 1) for row in range(500)]:
        raise FaultError("seeds 0 and 1 give the same order of 500 rows")
    return f"{len(sizes)} sizes up to 513 whole, and samples up to 2**60 + 1: no two rows share a place"


COLLIDING_ROWS = Exhibit(
    name="colliding_rows",
    title="One row too many",
    question="For n = 65,536 this is a permutation. And for n = 65,537?",
    task="place(row, n, seed) returns a place from 0 to n - 1, a different one for each row, from n = 1 to 2**61.",
    source=Source(
        where="google/grain: grain/_src/python/experimental/index_shuffle/index_shuffle.cc",
        title="The block size comes from ceil(log2(max_index)), one bit too few where max_index is a power of 2",
        link="https://github.com/google/grain/blob/3a5796bae4d134e02d42e9dfb03f3a4f33b493d4/grain/_src/python/experimental/index_shuffle/index_shuffle.cc",
    ),
    broken=colliding_rows,
    shown=(walk,),
    symptom="None. For some sizes of corpus one row is read twice an epoch, and another never.",
    tool="coverage of all places",
    look=_look_places,
    examine=_examine_places,
    hints=(
        "Try sizes around a power of two, and count the different places.",
        "How many bits does the largest row number have? And 16, and 17?",
        "A logarithm is a float; Python's whole numbers know their own length in bits.",
    ),
    mend=_whole_number_bits,
    wrong_mends=(
        WrongMend(candidate=_log_of_n, mistake="right for small n; as a float, log2(2**60 + 1) is exactly 60"),
        WrongMend(candidate=_remainder, mistake="takes a remainder instead of walking on: rows collide"),
        WrongMend(candidate=_one_bit_more, mistake="a bit to spare: right, until n = 1, where log2(0) fails"),
    ),
)

EXHIBITS = (DEAF_WORKERS, COLLIDING_ROWS)
