"""Checks of notebook 12: right answers pass, wrong ones are explained in the learner's terms."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mt_core import TokenLoader
from mt_core.distributed import SPLIT, ranks_of
from mt_core.lab.checks import ranks

Say = Callable[..., str]


def weighted(means: list[float], counts: list[int]) -> float:
    return sum(m * n for m, n in zip(means, counts, strict=True) if n) / sum(counts)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda means, counts: ..., "returns nothing yet"),
        (lambda means, counts: sum(means) / len(means), "2, the mean is 2.5; that is the mean of the means"),
        (
            lambda m, n: sum(a * b for a, b in zip(m, n, strict=True)) / sum(n),
            "you returned nan. A rank with no target",
        ),
        (lambda means, counts: weighted(means, counts) * sum(counts), "40 targets have a sum of 100"),
        (lambda means, counts: [weighted(means, counts)], "one number is needed"),
        (lambda means, counts: 1 / 0, "stopped with ZeroDivisionError"),
    ],
)
def test_wrong_means_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(ranks.mean, answer)
    assert words in printed and "Right" not in printed


def test_a_right_mean_passes(say: Say) -> None:
    assert say(ranks.mean, weighted).startswith("Right")
    assert say(ranks.mean, lambda m, n: np.float64(weighted(m, n))).startswith("Right")
    assert math.isclose(weighted([1.0, math.nan], [8, 0]), 1.0)


def share(order: list[int], batch_size: int, rank: int, world_size: int, delivered: int) -> list[list[int]]:
    left, each, batches = order[delivered:], batch_size // world_size, []
    for start in range(0, len(left), batch_size):
        batch = left[start : start + batch_size]
        batch += [-1] * (batch_size - len(batch))
        batches.append(batch[rank * each : (rank + 1) * each])
    return batches


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda *given: None, "returns nothing yet"),
        (lambda o, b, r, w, d: share(o, b, r, w, 0), "22 rows, batches of 8, 8 delivered, 1 rank: the ranks have [3]"),
        (lambda o, b, r, w, d: share(o, b, r, w, d * w), "counts the rows of all ranks together"),
        (lambda o, b, r, w, d: share(o, b, w - 1 - r, w, d), "dealt out in another order"),
        (lambda o, b, r, w, d: share(o[::-1], b, r, w, d), "global batch 0 of the epoch is"),
        (lambda o, b, r, w, d: [[x for x in one if x >= 0] for one in share(o, b, r, w, d)], "-1 fills"),
        (lambda o, b, r, w, d: o[d:], "a list of batches is needed"),
        (lambda o, b, r, w, d: [["a"] for _ in share(o, b, r, w, d)], "whole numbers is needed"),
    ],
)
def test_wrong_shares_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(ranks.resumed, answer)
    assert words in printed and "Right" not in printed


def test_right_shares_pass(say: Say) -> None:
    assert say(ranks.resumed, share).startswith("Right: 24 cases")
    assert say(ranks.resumed, lambda *given: np.array(share(*given))).startswith("Right")


def data_rank(names: tuple[str, ...], shape: tuple[int, ...], rank: int) -> tuple[int, int]:
    found, world_size = 0, 1
    for name, size, place in zip(names, shape, np.unravel_index(rank, shape), strict=True):
        if name in SPLIT:
            found, world_size = found * size + int(place), world_size * size
    return found, world_size


def backwards(names: tuple[str, ...], shape: tuple[int, ...], rank: int) -> tuple[int, int]:
    return data_rank(names[::-1], shape[::-1], rank)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda *given: ..., "returns nothing yet"),
        (lambda names, shape, rank: (rank, math.prod(shape)), "do not split the rows: leave them out"),
        (lambda names, shape, rank: (0, 1), "every dimension that begins with dp splits the rows"),
        (backwards, "the last data dimension runs fastest"),
        (lambda n, s, r: data_rank(n, s, r)[0], "a tensor or list of whole numbers is needed"),
        (lambda n, s, r: (*data_rank(n, s, r), 1), "two numbers are needed"),
    ],
)
def test_wrong_data_ranks_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(ranks.mesh, answer)
    assert words in printed and "Right" not in printed


def test_the_answers_are_those_of_the_package() -> None:
    names, shape = ("pp", "dp_replicate", "tp", "dp_shard"), (2, 3, 2, 2)
    for place in np.ndindex(shape):
        mesh: Any = SimpleNamespace(mesh_dim_names=names, shape=shape, ndim=4, get_coordinate=lambda place=place: place)
        assert ranks._data_rank(names, shape, place) == ranks_of(mesh)


def test_right_data_ranks_pass(say: Say) -> None:
    assert say(ranks.mesh, data_rank).startswith("Right: 6 meshes, 46 processes")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda rows: ..., "returns nothing yet"),
        (lambda rows: TokenLoader(rows, batch_size=8, rank=0, world_size=4), "no error: batch_size=8 is a multiple"),
        (lambda rows: TokenLoader(rows, batch_size=8, rank=4, world_size=4), "it fails, with another error (rank=4"),
        (lambda rows: [rows], "you returned list, a TokenLoader is needed"),
    ],
)
def test_loaders_that_were_to_fail_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(ranks.not_shared, answer)
    assert words in printed and "mt_core says" not in printed


@pytest.mark.parametrize(
    ("batch_size", "world_size", "works"),
    [
        (
            10,
            4,
            ["With 8 it works: each rank reads 2 rows a step.", "With 12 it works: each rank reads 3 rows a step."],
        ),
        (3, 8, ["With 8 it works: each rank reads 1 row a step."]),
    ],
)
def test_a_batch_that_cannot_be_shared_has_its_error_read(say: Say, batch_size, world_size, works) -> None:
    printed = say(
        ranks.not_shared, lambda rows: TokenLoader(rows, batch_size=batch_size, rank=0, world_size=world_size)
    )
    assert printed.startswith(f"mt_core says: batch_size={batch_size} cannot be shared equally by {world_size} ranks")
    assert [line for line in printed.splitlines() if line.startswith("With")] == works
