"""Checks of notebook 11: right answers pass, wrong ones are explained in the learner's terms."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mt_core import FillInTheMiddle, OffsetJitter, TokenDropping, TokenMasking
from mt_core.lab.checks import augmentation
from mt_core.mixing import Mix

Say = Callable[..., str]


def from_third(input_ids: torch.Tensor, labels: torch.Tensor, mark: int, shift: int = 0) -> torch.Tensor:
    third = int((input_ids == mark).nonzero().flatten()[2]) + shift
    return torch.cat([torch.full_like(labels[:third], -100), labels[third:]])


def in_place(input_ids: torch.Tensor, labels: torch.Tensor, mark: int) -> torch.Tensor:
    labels[: int((input_ids == mark).nonzero()[2])] = -100
    return labels


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda inputs, labels, mark: None, "returns nothing yet"),
        (lambda inputs, labels, mark: ..., "returns nothing yet"),
        (lambda inputs, labels, mark: labels, "All targets are still asked"),
        (lambda *row: from_third(*row, shift=1), "is asked for the first token after it: its label counts"),
        (lambda *row: from_third(*row, shift=-1), "is asked for the mark itself"),
        (lambda inputs, labels, mark: labels[3:], "one for each of 15 places"),
        (in_place, "were changed themselves"),
        (lambda inputs, labels, mark: "labels", "a tensor or list of whole numbers is needed"),
        (lambda inputs, labels: labels, "stopped with TypeError"),
    ],
)
def test_wrong_middles_are_explained(say: Say, answer: Callable[..., Any], why: str) -> None:
    printed = say(augmentation.middle_only, answer)
    assert why in printed and "Right" not in printed


@pytest.mark.parametrize("kind", [torch.Tensor.tolist, torch.clone])
def test_right_middles_pass(say: Say, kind: Callable[..., Any]) -> None:
    assert say(augmentation.middle_only, lambda *row: kind(from_third(*row))).startswith("Right: 5 rows")


def powers(sizes: list[int], alpha: float) -> list[float]:
    return [size**alpha / sum(other**alpha for other in sizes) for size in sizes]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda sizes, alpha: None, "returns nothing yet"),
        (lambda sizes, alpha: [size / sum(sizes) for size in sizes], "shares of the sizes themselves"),
        (lambda sizes, alpha: [size**alpha for size in sizes], "divide by the sum"),
        (lambda sizes, alpha: powers(sizes, 1 / alpha), "which makes the large source larger"),
        (lambda sizes, alpha: powers(sizes, alpha)[:1], "[0.75, 0.25] is needed"),
        (lambda sizes, alpha: 0.75, "a list of numbers is needed"),
        (lambda sizes: sizes, "stopped with TypeError"),
    ],
)
def test_wrong_weights_are_explained(say: Say, answer: Callable[..., Any], why: str) -> None:
    printed = say(augmentation.weights, answer)
    assert why in printed and "Right" not in printed


def test_right_weights_pass_and_the_figures_are_right(say: Say) -> None:
    assert "3 to 1" in say(augmentation.weights, powers)
    assert say(augmentation.weights, lambda sizes, alpha: np.array(powers(sizes, alpha))).startswith("Right")
    assert powers([900, 100], 0.5) == [0.75, 0.25] and round(750 / 900, 2) == 0.83 and 250 / 100 == 2.5


def dealt(sizes: list[int], weights: list[int], batch_size: int, step: int) -> list[tuple[int, ...]]:
    sources, earlier = Mix(weights).at(np.arange(step * batch_size, (step + 1) * batch_size))
    return [(s, *divmod(n, sizes[s])) for s, n in zip(sources.tolist(), earlier.tolist(), strict=True)]


def from_the_start(sizes: list[int], weights: list[int], batch_size: int, step: int) -> list[tuple[int, ...]]:
    return dealt(sizes, weights, batch_size, step % 10)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda *mix: None, "returns nothing yet"),
        (lambda *mix: dealt(*mix)[1:], "you returned 2 rows, 3 are needed"),
        (lambda *mix: [one[:2] for one in dealt(*mix)], "three numbers for each row are needed"),
        (lambda *mix: 7, "a list of (source, epoch, row) is needed"),
        (lambda *mix: [(0, 0, 0)] * mix[2], "The source is wrong"),
        (lambda sizes, *mix: dealt([10**9] * len(sizes), *mix), "Source 1 has 2 rows: begin its next epoch"),
        (lambda *mix: [(s, 0, row) for s, _, row in dealt(*mix)], "how often this source has been read to its end"),
        (
            lambda *mix: [(s, e, (row + 1) % mix[0][s]) for s, e, row in dealt(*mix)],
            "Count how many rows of this source came before",
        ),
        (from_the_start, "count from the step, not from what came before"),
        (lambda sizes: [], "stopped with TypeError"),
    ],
)
def test_wrong_batches_are_explained(say: Say, answer: Callable[..., Any], why: str) -> None:
    printed = say(augmentation.batch, answer)
    assert why in printed and "Right" not in printed


def test_right_batches_pass(say: Say) -> None:
    assert say(augmentation.batch, dealt).startswith("Right: 30 batches")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda: None, "returns nothing yet"),
        (lambda: [FillInTheMiddle(rate=0.5), TokenMasking(rate=0.1)], "[FillInTheMiddle, TokenMasking] works"),
        (lambda: [], "[nothing] works"),
        (lambda: ["mask"], "with another error (augment holds 'mask'"),
        (lambda: [FillInTheMiddle(rate=0.5), OffsetJitter(), OffsetJitter()], "with another error"),
        (lambda: [TokenMasking(rate=2)], "stopped with ValueError"),
    ],
)
def test_an_order_that_was_not_broken_is_explained(say: Say, answer: Callable[..., Any], why: str) -> None:
    printed = say(augmentation.order, answer)
    assert why in printed and "mt_core says" not in printed


@pytest.mark.parametrize("other", [TokenMasking(rate=0.1), TokenDropping(rate=0.1), FillInTheMiddle(rate=0.1)])
def test_the_broken_order_shows_the_error_and_why(say: Say, other: Any) -> None:
    printed = say(augmentation.order, lambda: [other, FillInTheMiddle(rate=0.5)])
    assert "mt_core says: FillInTheMiddle turns rows as they stand in the text: put it before the others" in printed
    assert say(augmentation.order, lambda: (other, FillInTheMiddle(rate=0.5))) == printed
