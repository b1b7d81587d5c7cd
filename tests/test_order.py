"""(seed, epoch, position) to row: a true shuffle, the same on every machine, that can be entered anywhere."""

import hashlib
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt_core.order import EpochSampler, epoch_rows, permute


def order(n: int, seed: int, epoch: int) -> list[int]:
    return epoch_rows(0, n, n, seed=seed, epoch=epoch, shuffle=True).tolist()


def test_these_orders_never_change() -> None:
    """Golden values: a release that changed them would quietly change every run that is resumed or repeated."""
    assert order(10, seed=0, epoch=0) == [3, 6, 8, 0, 4, 2, 5, 9, 1, 7]
    assert order(10, seed=0, epoch=1) == [9, 2, 8, 6, 0, 4, 3, 1, 7, 5]
    large = epoch_rows(0, 100_003, 100_003, seed=1234, epoch=5, shuffle=True)
    assert large[:5].tolist() == [30257, 70953, 23137, 23801, 73344]
    assert hashlib.sha256(large.astype("<i8").tobytes()).hexdigest()[:16] == "c76d5946022df117"
    edges = np.concatenate([order(n, seed=3, epoch=1) for n in (8, 4096, 4097)])  # where bits and rounds change
    assert hashlib.sha256(edges.astype("<i8").tobytes()).hexdigest()[:16] == "774d28051cb6c838"


@pytest.mark.parametrize("k", [*range(1, 14), 16, 17, 18])
def test_every_row_comes_exactly_once_around_powers_of_two(k: int) -> None:
    """Where the number of bits changes; 2**16 + 1 once went wrong in a well-known library."""
    for n in (2**k - 1, 2**k, 2**k + 1):
        assert np.array_equal(np.sort(permute(np.arange(n), n, (3, k))), np.arange(n)), n


@given(st.integers(1, 3000), st.integers(0, 2**63), st.integers(0, 2**40))
def test_every_row_comes_exactly_once(n: int, seed: int, epoch: int) -> None:
    assert sorted(order(n, seed, epoch)) == list(range(n))


@pytest.mark.parametrize("n", [2**31 - 1, 2**31 + 1, 2**32 + 1, 2**40 + 7, 2**62])
def test_corpora_larger_than_memory(n: int) -> None:
    some = np.concatenate([np.arange(1000), np.arange(n - 1000, n)])
    rows = permute(some, n, (0, 0))
    assert rows.min() >= 0 and rows.max() < n and len(set(rows.tolist())) == 2000
    assert (rows > n // 2).mean() == pytest.approx(0.5, abs=0.06)


@given(st.integers(1, 2000), st.data())
def test_a_stretch_is_a_slice_of_the_whole(n: int, data: st.DataObject) -> None:
    start, stop = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))
    for shuffle in (True, False):
        whole = epoch_rows(0, n, n, seed=5, epoch=2, shuffle=shuffle)
        assert np.array_equal(epoch_rows(start, stop, n, seed=5, epoch=2, shuffle=shuffle), whole[start:stop])


def test_seed_and_epoch_are_never_added_up() -> None:
    """With `seed + epoch`, seed 1 in epoch 0 reads what seed 0 reads in epoch 1: repeats meant as fresh runs."""
    orders = {(seed, epoch): tuple(order(50, seed, epoch)) for seed in range(20) for epoch in range(20)}
    assert len(set(orders.values())) == 400
    assert order(50, seed=2**32, epoch=0) != order(50, seed=0, epoch=1)
    assert order(50, seed=2**32, epoch=1) != order(50, seed=0, epoch=2**32 + 1)


def test_without_shuffling_every_epoch_is_in_order() -> None:
    for epoch in (0, 1):
        assert epoch_rows(2, 6, 10, seed=9, epoch=epoch, shuffle=False).tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("n", [3, 4])
def test_every_order_of_a_few_rows_comes_equally_often(n: int) -> None:
    """Chi-square over all n! orders, 60 draws each: a fair shuffle stays under 3 standard deviations above its mean."""
    possible = list(itertools.permutations(range(n)))
    counts = Counter(tuple(order(n, seed, 0)) for seed in range(60 * len(possible)))
    chi_square = sum((counts[one] - 60) ** 2 / 60 for one in possible)
    freedom = len(possible) - 1
    assert chi_square < freedom + 3 * (2 * freedom) ** 0.5


def test_neighbours_do_not_stay_together() -> None:
    """In a shuffle of n rows one pair of neighbours is expected to stay so; and a row says nothing of its place."""
    rows = np.array(order(10_000, seed=0, epoch=0))
    assert (np.diff(rows) == 1).sum() < 6
    assert abs(np.corrcoef(rows, np.arange(10_000))[0, 1]) < 0.04
    other = np.array(order(10_000, seed=0, epoch=1))
    assert (rows == other).sum() < 6


def test_positions_keep_their_shape_and_are_not_changed() -> None:
    positions = np.arange(12).reshape(3, 4)
    assert permute(positions, 12, (0, 0)).shape == (3, 4)
    assert positions.ravel().tolist() == list(range(12))


@pytest.mark.parametrize("n_rows, position", [(10, 0), (10, 3), (10, 10), (20_000, 0), (20_000, 9_000)])
def test_the_sampler_gives_the_rest_of_its_epoch(n_rows: int, position: int) -> None:
    """Also where it works in blocks, and in blocks of any size."""
    sampler = EpochSampler(n_rows, seed=1, shuffle=True)
    sampler.epoch, sampler.position = 2, position
    expected = order(n_rows, 1, 2)[position:]
    assert list(sampler) == expected and all(type(row) is int for row in itertools.islice(sampler, 3))
    blocks = list(sampler.blocks(7))
    assert np.concatenate([*blocks, []]).tolist() == expected
    assert all(len(block) == 7 for block in blocks[:-1])
    assert len(sampler) == n_rows
