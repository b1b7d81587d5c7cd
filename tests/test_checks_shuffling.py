"""Checks of notebook 05: right answers pass, wrong ones are explained in the learner's terms."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from mt_core.lab import checks
from mt_core.lab.shuffling import shuffle_blocks, shuffle_fully, shuffle_with_buffer

Say = Callable[..., str]


def untouched(*arguments: Any) -> Any: ...


@pytest.mark.parametrize("name", ["orders", "block_then_buffer", "buffer", "two_orders"])
def test_an_untouched_stub_is_met_kindly(say: Say, name: str) -> None:
    printed = say(getattr(checks.shuffling, name), untouched)
    assert printed == "untouched returns nothing yet: replace the ... by your own lines and run both cells again.\n"


def shuffled(n: int, key: Any) -> np.ndarray:
    return np.random.default_rng(key).permutation(n)


def with_global_seed(n: int, seed: int, epoch: int) -> np.ndarray:
    np.random.seed([seed, epoch])
    return np.random.permutation(n)


@pytest.mark.parametrize(
    ("answer", "explained"),
    [
        (lambda n, seed, epoch: shuffled(n, seed + epoch), "seed=1, epoch=0 has the order of seed=0, epoch=1"),
        (lambda n, seed, epoch: shuffled(n, 1000 * seed + epoch), "seed=0, epoch=1000 has the order of seed=1"),
        (lambda n, seed, epoch: shuffled(n, int(f"{seed}{epoch}")), "has the order of"),
        (lambda n, seed, epoch: shuffled(n, seed), "has the order of seed=0, epoch=0"),
        (lambda n, seed, epoch: shuffled(n, None), "asked twice, you gave two orders"),
        (with_global_seed, "global generator"),
        (lambda n, seed, epoch: np.random.default_rng((seed, epoch)).integers(n, size=n), "never comes"),
        (lambda n, seed, epoch: shuffled(n - 1, (seed, epoch)), "you returned 49 rows, 50 are needed"),
        (lambda n, seed, epoch: shuffled(n, (seed, epoch)) + 1, "row 50 does not exist"),
        (lambda n, seed: shuffled(n, seed), "stopped with TypeError"),
    ],
)
def test_wrong_orders_are_explained(say: Say, answer: Callable[..., Any], explained: str) -> None:
    printed = say(checks.shuffling.orders, answer)
    assert printed.startswith("Not yet.") and explained in printed


def test_right_orders_pass(say: Say) -> None:
    printed = say(checks.shuffling.orders, lambda n, seed, epoch: shuffled(n, (seed, epoch)))
    assert printed == "Right: 25 pairs of seed and epoch, as many orders, each the same when asked again.\n"


def corgi(order: np.ndarray, block_size: int, buffer_size: int, seed: int) -> np.ndarray:
    blocks = shuffle_blocks(order, block_size=block_size, seed=seed)
    return shuffle_with_buffer(blocks, buffer_size=buffer_size, seed=seed)


def other_way_round(order: np.ndarray, block_size: int, buffer_size: int, seed: int) -> np.ndarray:
    mixed = shuffle_with_buffer(order, buffer_size=buffer_size, seed=seed)
    return shuffle_blocks(mixed, block_size=block_size, seed=seed)


@pytest.mark.parametrize(
    ("answer", "explained"),
    [
        (other_way_round, "first shuffle the blocks"),
        (lambda o, block, size, seed: shuffle_blocks(o, block_size=block, seed=seed), "shuffle_with_buffer is missing"),
        (lambda o, block, size, seed: shuffle_with_buffer(o, buffer_size=size, seed=seed), "shuffle_blocks is missing"),
        (lambda o, block, size, seed: shuffle_fully(o, seed=seed), "blocks of 10 must come whole"),
        (lambda o, block, size, seed: corgi(o, block, 2 * size - 1, seed), "at most 9 places early"),
        (lambda o, block, size, seed: corgi(o, block, size, 0), "pass seed on to both steps"),
        (lambda o, block, size, seed: corgi(o, block, size, 0)[:-1], "999 rows"),
        (
            lambda o, block, size, seed: shuffle_with_buffer(
                shuffle_blocks(o, block_size=block, seed=0), buffer_size=size, seed=seed
            ),
            "pass seed on to both steps",
        ),
    ],
)
def test_wrong_blocks_and_buffers_are_explained(say: Say, answer: Callable[..., Any], explained: str) -> None:
    printed = say(checks.shuffling.block_then_buffer, answer)
    assert printed.startswith("Not yet.") and explained in printed


def test_right_blocks_and_buffers_pass_with_any_use_of_the_seed(say: Say) -> None:
    def two_seeds(order: np.ndarray, block_size: int, buffer_size: int, seed: int) -> np.ndarray:
        blocks = shuffle_blocks(order, block_size=block_size, seed=2 * seed)
        return shuffle_with_buffer(blocks, buffer_size=buffer_size, seed=2 * seed + 1)

    for answer in (corgi, two_seeds):
        assert say(checks.shuffling.block_then_buffer, answer).startswith("Right: blocks of 10, then a buffer of 50")


def right_buffer(rows: Iterator[int], buffer_size: int, seed: int) -> Iterator[int]:
    random, waiting = np.random.default_rng(seed), []
    for row in rows:
        waiting.append(row)
        if len(waiting) == buffer_size:
            yield waiting.pop(random.integers(len(waiting)))
    while waiting:
        yield waiting.pop(random.integers(len(waiting)))


def one_too_large(rows: Iterator[int], buffer_size: int, seed: int) -> Iterator[int]:
    return right_buffer(rows, buffer_size + 1, seed)


def forgets_the_rest(rows: Iterator[int], buffer_size: int, seed: int) -> Iterator[int]:
    random, waiting = np.random.default_rng(seed), []
    for row in rows:
        waiting.append(row)
        if len(waiting) == buffer_size:
            yield waiting.pop(random.integers(len(waiting)))


def reads_to_the_end(rows: Iterator[int], buffer_size: int, seed: int) -> Iterator[int]:
    yield from shuffle_with_buffer(np.array(list(rows), dtype=np.int64), buffer_size=buffer_size, seed=seed).tolist()


def first_out(rows: Iterator[int], buffer_size: int, seed: int) -> Iterator[int]:
    yield from rows


def fresh_chance(rows: Iterator[int], buffer_size: int, seed: int) -> Iterator[int]:
    return right_buffer(rows, buffer_size, np.random.SeedSequence().entropy % 2**32)


def always_seed_0(rows: Iterator[int], buffer_size: int, seed: int) -> Iterator[int]:
    return right_buffer(rows, buffer_size, 0)


def each_full_buffer_by_itself(rows: Iterator[int], buffer_size: int, seed: int) -> Iterator[int]:
    random, waiting = np.random.default_rng(seed), []
    for row in rows:
        waiting.append(row)
        if len(waiting) == buffer_size:
            random.shuffle(waiting)
            yield from waiting
            waiting = []
    random.shuffle(waiting)
    yield from waiting


def leaves_the_rest(rows: Iterator[int], buffer_size: int, seed: int) -> Iterator[int]:
    random, waiting = np.random.default_rng(seed), []
    for row in rows:
        waiting.append(row)
        if len(waiting) == buffer_size:
            yield waiting.pop(random.integers(len(waiting)))
    yield from waiting


def never_ends(rows: Iterator[int], buffer_size: int, seed: int) -> Iterator[int]:
    yield from rows
    yield from count()


@pytest.mark.parametrize(
    ("answer", "explained"),
    [
        (one_too_large, "places early"),
        (forgets_the_rest, "you returned 17 rows, 20 are needed"),
        (reads_to_the_end, "a stream without end"),
        (each_full_buffer_by_itself, "buffer_size=50: no row came more than 49 places late"),
        (leaves_the_rest, "buffer_size=50: the last 49 rows come in their own order"),
        (first_out, "the rows come in their own order"),
        (fresh_chance, "asked twice with seed=0"),
        (always_seed_0, "over 60 seeds"),
        (never_ends, "more than 20 rows come out"),
        (lambda rows, size, seed: list(rows), "you returned list, a generator is needed"),
    ],
)
def test_wrong_buffers_are_explained(say: Say, answer: Callable[..., Any], explained: str) -> None:
    printed = say(checks.shuffling.buffer, answer)
    assert printed.startswith("Not yet.") and explained in printed


def test_a_right_buffer_passes(say: Say) -> None:
    assert say(checks.shuffling.buffer, right_buffer).startswith("Right: each row once")


@pytest.mark.parametrize(
    ("answer", "explained"),
    [
        (
            lambda data, sampler: DataLoader(data, sampler=sampler),
            "no error: Backwards decides. Break it: shuffle=True",
        ),
        (lambda data, sampler: DataLoader(data, shuffle=True), "RandomSampler decides. Break it: the sampler is"),
        (lambda data, sampler: DataLoader(data), "SequentialSampler decides. Break it: both"),
        (lambda data, sampler: DataLoader(data, batch_size=-1), "with another error"),
        (lambda data, sampler: data.nothing, "stopped with AttributeError"),
    ],
)
def test_a_loader_that_was_not_broken_is_explained(say: Say, answer: Callable[..., Any], explained: str) -> None:
    printed = say(checks.shuffling.two_orders, answer)
    assert printed.startswith("Not yet.") and explained in printed


def test_the_broken_loader_shows_the_error_and_the_mend(say: Say) -> None:
    printed = say(checks.shuffling.two_orders, lambda data, sampler: DataLoader(data, sampler=sampler, shuffle=True))
    assert printed.startswith("torch says: sampler option is mutually exclusive with shuffle\n")
    assert "[5, 4, 3, 2, 1, 0]" in printed
