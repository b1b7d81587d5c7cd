"""The exercises of notebook 02: right answers pass, wrong ones are explained in the learner's terms."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import embedding

from mt_core.lab import checks

Rows = list[tuple[list[int], list[int]]]
Say = Callable[..., str]


@pytest.mark.parametrize(
    ("answer", "explained"),
    [
        (lambda n, size: None, "returns nothing yet"),
        (lambda n, size: ..., "returns nothing yet"),
        (lambda n, size: list(range(0, n - size, size + 1)), "target 9 is never asked"),
        (lambda n, size: list(range(0, n - size, size)), "Right: for 6 streams"),
        (lambda n, size: np.arange(0, n - size, size), "Right: for 6 streams"),
        (lambda n, size: tuple(np.arange(0, n - size, size)), "Right: for 6 streams"),
        (lambda n, size: list(range(0, n, size)), "a row at 32 needs the tokens 32 to 40"),
        (lambda n, size: list(range(0, n - size + 1, size)), "a row at 32 needs the tokens 32 to 40"),
        (lambda n, size: list(range(n - size)), "target 2 is asked 2 times (37 more than once)"),
        (lambda n, size: list(range(0, n - size, size))[::-1], "the starts must rise"),
        (lambda n, size: list(range(0, n - 2 * size, size)), "target 25 is never asked (8 of 32 missing)"),
        (lambda n, size: [0.5], "whole numbers is needed"),
        (lambda n, size: n / 0, "stopped with ZeroDivisionError"),
    ],
)
def test_starts(say: Say, answer: Any, explained: str) -> None:
    assert explained in say(checks.dataset.starts, answer)


def _shuffled_for_good(n: int, size: int, generator: np.random.Generator) -> Any:
    return np.random.default_rng(5).permutation(np.arange(0, n - size, size))


def _shuffled_elsewhere(n: int, size: int, generator: np.random.Generator) -> Any:
    return random.Random().sample(range(0, n - size, size), k=len(range(0, n - size, size)))


@pytest.mark.parametrize(
    ("answer", "explained"),
    [
        (lambda n, size, g: None, "returns nothing yet"),
        (lambda n, size, g: g.permutation(np.arange(0, n - size, size)), "Right: random order"),
        (lambda n, size, g: list(g.permutation(np.arange(0, n - size, size))), "Right: random order"),
        (lambda n, size, g: g.integers(0, n - size, (n - 1) // size), "no row comes twice"),
        (lambda n, size, g: g.permutation(n - size)[: (n - 1) // size], "times ("),
        (lambda n, size, g: np.arange(0, n - size, size), "in the order of the stream"),
        (_shuffled_for_good, "seeds 0 and 1 give the same order"),
        (_shuffled_elsewhere, "you returned two orders"),
        (lambda n, size, g: g.permutation(np.arange(0, n - size, size + 1)), "is never asked"),
        (lambda n, size, g: g.permutation(np.arange(1, n - size, size)), "target 1 is never asked"),
    ],
)
def test_shuffled_starts(say: Say, answer: Any, explained: str) -> None:
    assert explained in say(checks.dataset.shuffled_starts, answer)


def counts_of(rows: Rows, n: int) -> list[int]:
    counts = [0] * n
    for _, labels in rows:
        for label in labels:
            if label != -100:
                counts[label] += 1
    return counts


def coverage_right(rows: Rows, n: int) -> tuple[int, int, int]:
    counts = counts_of(rows, n)[1:]
    return counts.count(1), sum(count > 1 for count in counts), counts.count(0)


def coverage_with_token_0(rows: Rows, n: int) -> tuple[int, int, int]:
    once, repeated, never = coverage_right(rows, n)
    return once, repeated, never + 1


def coverage_of_questions(rows: Rows, n: int) -> tuple[int, int, int]:
    counts = counts_of(rows, n)[1:]
    once, repeated, never = coverage_right(rows, n)
    return once, repeated + sum(max(count - 1, 0) for count in counts), never


def coverage_of_masked(rows: Rows, n: int) -> tuple[int, int, int]:
    counts = [0] * 200
    for _, labels in rows:
        for label in labels:
            counts[label if label >= 0 else 3] += 1
    counts = counts[1:n]
    return counts.count(1), sum(count > 1 for count in counts), counts.count(0)


@pytest.mark.parametrize(
    ("answer", "explained"),
    [
        (lambda rows, n: None, "returns nothing yet"),
        (coverage_right, "Right: your audit"),
        (lambda rows, n: list(coverage_right(rows, n)), "Right: your audit"),
        (lambda rows, n: np.array(coverage_right(rows, n)), "Right: your audit"),
        (coverage_with_token_0, "Token 0 has no token before it"),
        (coverage_of_questions, "Count targets, not questions"),
        (coverage_of_masked, "3 labels are -100"),
        (lambda rows, n: coverage_right(rows, n)[:2], "three numbers are needed"),
        (lambda rows, n: (0, 0, n - 1), "(once, more often, never) is [16, 0, 0]"),
        (lambda rows, n: (rows.clear(), coverage_right(rows, n))[1], "you returned [0, 0, 16]"),
        (lambda rows, n: len(rows), "whole numbers is needed"),
    ],
)
def test_coverage(say: Say, answer: Any, explained: str) -> None:
    assert explained in say(checks.dataset.coverage, answer)


@pytest.mark.parametrize(
    ("answer", "explained"),
    [
        (lambda ids, weight: None, "returns nothing yet"),
        (lambda ids, weight: embedding(torch.from_numpy(ids), weight), "got CPUUInt16Type"),
        (lambda ids, weight: embedding(torch.from_numpy(ids.astype(np.int64)), weight), "no error: the ids were cast"),
        (lambda ids, weight: embedding(ids, weight), "it fails, with another error (TypeError"),
        (lambda ids, weight: 1 / 0, "it fails, with another error (ZeroDivisionError"),
    ],
)
def test_uncast_lookup(say: Say, answer: Any, explained: str) -> None:
    assert explained in say(checks.dataset.uncast_lookup, answer)


def test_the_error_of_a_lookup_is_explained(say: Say) -> None:
    printed = say(checks.dataset.uncast_lookup, lambda ids, weight: embedding(torch.from_numpy(ids), weight))
    assert printed.startswith("torch says: ") and "shape (3, 4)" in printed
