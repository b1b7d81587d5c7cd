"""Shuffle quality: expected values and error bars agree with every permutation there is, and tell orders apart."""

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt_core.lab.shuffling import (
    Statistic,
    distance_moved,
    document_mixing,
    order_statistics,
    serial_correlation,
    shuffle_blocks,
    shuffle_fully,
    shuffle_with_buffer,
)
from mt_core.order import epoch_rows

DOCUMENTS = np.array([0, 0, 0, 1, 1, 2, 3])
IN_ORDER = np.arange(1000)
ORDERS: dict[str, np.ndarray] = {
    "none": IN_ORDER,
    "block": shuffle_blocks(IN_ORDER, block_size=50, seed=1),
    "buffer": shuffle_with_buffer(IN_ORDER, buffer_size=50, seed=1),
    "block and buffer": shuffle_with_buffer(shuffle_blocks(IN_ORDER, block_size=50, seed=1), buffer_size=200, seed=1),
    "full": shuffle_fully(IN_ORDER, seed=1),
    "ours": epoch_rows(0, 1000, 1000, seed=1, epoch=0, shuffle=True),
}


# By hand.


def test_four_rows_in_order_by_hand() -> None:
    # Less their mean: -1.5 -0.5 0.5 1.5. Neighbours: 0.75 - 0.25 + 0.75 = 1.25; squares: 2.25 + 0.25 + 0.25 + 2.25 = 5.
    assert serial_correlation(np.arange(4)).value == 0.25
    assert serial_correlation(np.arange(4)).expected == -0.25
    assert distance_moved(np.arange(4)).value == 0
    assert distance_moved(np.array([3, 2, 1, 0])).value == (3 + 1 + 1 + 3) / 16
    assert distance_moved(np.array([30, 20, 10, 0])).value == (3 + 1 + 1 + 3) / 16  # positions of rows do as well
    assert document_mixing(np.array([7, 7, 9, 9]), 2).value == 1
    assert document_mixing(np.array([7, 9, 9, 7]), 2).value == 0
    assert document_mixing(np.array([7, 9, 9, 7]), 2).expected == pytest.approx(1 / 3)  # each row has one mate in three


# The formulas against all orders of seven rows.


@pytest.mark.parametrize(
    "statistic",
    [
        serial_correlation,
        distance_moved,
        lambda order: serial_correlation(np.array([0, 1, 4, 5, 7, 9, 30])[order]),
        lambda order: document_mixing(DOCUMENTS[order], 2),
        lambda order: document_mixing(DOCUMENTS[order], [4, 0, 3]),
    ],
    ids=["serial correlation", "distance moved", "uneven positions", "mixing in pairs", "mixing in two batches"],
)
def test_mean_and_deviation_are_those_of_all_permutations(statistic: Callable[[np.ndarray], Statistic]) -> None:
    found = [statistic(np.array(order)) for order in permutations(range(7))]
    values = np.array([one.value for one in found])
    assert {round(one.expected, 12) for one in found} == {round(values.mean(), 12)}
    assert {round(one.deviation, 12) for one in found} == {round(values.std(), 12)}


@given(batch_size=st.integers(1, 9), documents=st.lists(st.integers(0, 3), min_size=4, max_size=30))
def test_mixing_equals_counting_pairs(batch_size: int, documents: list[int]) -> None:
    pairs = same = 0
    for start in range(0, len(documents), batch_size):
        batch = documents[start : start + batch_size]
        for i, one in enumerate(batch):
            for other in batch[:i]:
                pairs += 1
                same += one == other
    assert document_mixing(np.array(documents), batch_size).value == pytest.approx(same / pairs if pairs else 0)


# What the numbers say.


def test_only_a_full_shuffle_looks_like_one() -> None:
    numbers = {name: order_statistics(order, documents=order // 20, batches=16) for name, order in ORDERS.items()}
    alike = [name for name, statistics in numbers.items() if statistics.like_a_full_shuffle]
    assert alike == ["full", "ours"]
    mixing = {name: statistics.document_mixing.value for name, statistics in numbers.items()}  # type: ignore[union-attr]
    assert mixing["none"] > mixing["block"] > mixing["buffer"] > mixing["block and buffer"] > mixing["full"]
    # A buffer moves rows no further than its size, for the most part: 5 % of an epoch.
    assert numbers["buffer"].distance_moved.value < 0.06
    # Blocks move whole neighbourhoods: far, but together.
    assert abs(numbers["block"].distance_moved.z) < 4 < numbers["block"].serial_correlation.z


def test_our_orders_spread_as_full_shuffles_do() -> None:
    z = np.array(
        [
            [serial_correlation(order).z, distance_moved(order).z, document_mixing(order // 20, 16).z]
            for epoch in range(300)
            for order in [epoch_rows(0, 500, 500, seed=3, epoch=epoch, shuffle=True)]
        ]
    )
    # 300 draws: the mean of z within 4 / sqrt(300) of 0, its deviation within 4 / sqrt(600) of 1.
    assert np.abs(z.mean(axis=0)).max() < 0.24 and np.abs(z.std(axis=0) - 1).max() < 0.17


@pytest.mark.parametrize("name", ORDERS)
def test_each_order_holds_every_row_once(name: str) -> None:
    assert np.array_equal(np.sort(ORDERS[name]), IN_ORDER) and ORDERS[name].dtype == np.int64


@given(n=st.integers(0, 60), size=st.integers(1, 70), seed=st.integers(0, 99))
def test_blocks_stay_whole_and_a_buffer_looks_ahead_no_further_than_its_size(n: int, size: int, seed: int) -> None:
    blocks = shuffle_blocks(np.arange(n), block_size=size, seed=seed)
    assert np.array_equal(np.sort(blocks), np.arange(n))
    broken = np.flatnonzero(np.diff(blocks) != 1)
    assert np.all(blocks[broken + 1] % size == 0)  # a new stretch begins only where a block does
    buffered = shuffle_with_buffer(np.arange(n), buffer_size=size, seed=seed)
    assert np.array_equal(np.sort(buffered), np.arange(n))
    assert np.all(buffered - np.arange(n) < size)


def test_a_buffer_of_everything_is_a_full_shuffle() -> None:
    orders = {tuple(shuffle_with_buffer(np.arange(4), buffer_size=9, seed=seed).tolist()) for seed in range(400)}
    assert len(orders) == 24
    assert len({tuple(shuffle_blocks(np.arange(6), block_size=2, seed=seed).tolist()) for seed in range(99)}) == 6


def test_orders_are_not_changed_in_place_and_repeat_with_their_seed() -> None:
    before = np.arange(40)
    for shuffle in (
        lambda: shuffle_fully(before, seed=5),
        lambda: shuffle_blocks(before, block_size=7, seed=5),
        lambda: shuffle_with_buffer(before, buffer_size=7, seed=5),
    ):
        assert np.array_equal(shuffle(), shuffle()) and np.array_equal(before, np.arange(40))


# Edges and refusals.


def test_where_all_orders_are_alike_nothing_is_remarkable() -> None:
    one_document = document_mixing(np.zeros(10), 5)
    assert (one_document.value, one_document.expected, one_document.z) == (1, 1, 0)
    assert document_mixing(np.arange(10), 1).z == 0  # no two rows share a batch
    assert serial_correlation(np.full(10, 3)).z == 0
    assert Statistic(value=1, expected=0, deviation=0).z == np.inf


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\), row numbers \(R,\) with R of at least 4"):
        order_statistics(np.arange(3))
    with pytest.raises(ValueError, match="batches hold 9 rows, documents name 10"):
        document_mixing(np.arange(10), [5, 4])
    with pytest.raises(ValueError, match="buffer_size=0"):
        shuffle_with_buffer(np.arange(4), buffer_size=0, seed=0)
    with pytest.raises(ValueError, match=r"block_size=2\.5"):
        shuffle_blocks(np.arange(4), block_size=2.5, seed=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batches=-1"):
        document_mixing(np.arange(10), -1)


def test_the_words() -> None:
    said = str(order_statistics(IN_ORDER, documents=IN_ORDER // 20, batches=16))
    assert said.splitlines() == [
        "serial correlation 0.997 (full shuffle: -0.001 ± 0.032)",
        "distance moved 0.000 (full shuffle: 0.333 ± 0.007)",
        "same document within a batch 0.736 (full shuffle: 0.019 ± 0.002)",
    ]
