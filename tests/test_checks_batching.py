"""Checks of notebook 04: right answers pass, wrong ones are explained in the learner's terms."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import default_collate

from mt_core.lab.checks import batching
from mt_core.training import loss_of

Say = Callable[..., str]


def total(means: list[float], targets: list[int]) -> float:
    return sum(mean * count for mean, count in zip(means, targets, strict=True))


def mean_right(means: list[float], targets: list[int]) -> float:
    pairs = [(mean, count) for mean, count in zip(means, targets, strict=True) if count]
    return sum(mean * count for mean, count in pairs) / sum(targets)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda means, targets: None, "returns nothing yet"),
        (lambda means, targets: ..., "returns nothing yet"),
        (lambda means, targets: sum(means) / len(means), "a small batch weighs as much as a large one"),
        (lambda means, targets: total(means, targets), "divide it by their number"),
        (lambda means, targets: total(means, targets) / len(targets), "not by the number of batches"),
        (lambda means, targets: total(means, targets) / sum(targets), "leave such a batch out"),
        (lambda means, targets: max(means), "2.5 is needed, you returned 4"),
        (lambda means, targets: means, "one number is needed"),
        (lambda means: means, "stopped with TypeError"),
    ],
)
def test_wrong_means_are_explained(say: Say, answer: Callable[..., Any], why: str) -> None:
    printed = say(batching.mean_over_targets, answer)
    assert why in printed and "Right" not in printed


@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_a_right_mean_passes(say: Say, kind: Callable[[float], Any]) -> None:
    assert say(batching.mean_over_targets, lambda m, t: kind(mean_right(m, t))).startswith("Right: each target weighs")


def accumulate(weigh: Callable[[list[int], list[int]], list[float]], *, clear: str = "first") -> Callable[..., None]:
    """An answer that weighs the pieces' mean losses by `weigh(targets, rows)`, clearing .grad when told."""

    def answer(model: Any, pieces: list[Any]) -> None:
        targets = [int((piece["labels"] != -100).sum()) for piece in pieces]
        if clear == "first":
            model.zero_grad()
        for piece, weight in zip(pieces, weigh(targets, [len(piece["labels"]) for piece in pieces]), strict=True):
            if clear == "each":
                model.zero_grad()
            (weight * loss_of(model, piece)).backward()

    return answer


def shares(targets: list[int], rows: list[int]) -> list[float]:
    return [count / sum(targets) for count in targets]


def all_at_once(model: Any, pieces: list[Any]) -> None:
    model.zero_grad()
    loss_of(model, {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}).backward()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda model, pieces: None, "returns nothing yet"),
        (lambda model, pieces: ..., "returns nothing yet"),
        (lambda model, pieces: [loss_of(model, piece) for piece in pieces], "a parameter has no .grad"),
        (accumulate(lambda targets, rows: [1 / len(targets)] * len(targets)), "both pieces weigh the same"),
        (accumulate(lambda targets, rows: [n / sum(rows) for n in rows]), "weighed by rows"),
        (accumulate(lambda targets, rows: [1.0] * len(targets)), "added up, not averaged"),
        (accumulate(lambda targets, rows: [float(n) for n in targets]), "divide by the 15 targets"),
        (accumulate(shares, clear="each"), "only the last piece is left"),
        (accumulate(lambda targets, rows: [1.0] * len(targets), clear="each"), "only the last piece is left"),
        (accumulate(shares, clear="never"), "the first call is right and the second is not"),
        (accumulate(lambda targets, rows: [0.9, 0.1]), "the gradient is not that of the one batch"),
        (all_at_once, "the model was given 3 rows at once"),
        (lambda model, pieces: pieces[2], "stopped with IndexError"),
    ],
)
def test_wrong_accumulation_is_explained(say: Say, answer: Callable[..., Any], why: str) -> None:
    printed = say(batching.accumulated, answer)
    assert why in printed and "Right" not in printed


def test_right_accumulation_passes_and_leaves_the_global_dice_alone(say: Say) -> None:
    before = torch.get_rng_state()
    assert say(batching.accumulated, accumulate(shares)).startswith("Right: pieces of 2 and 13 targets")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda rows: None, "returns nothing yet"),
        (lambda rows: rows, "no error: that works"),
        (lambda rows: torch.zeros(2) + torch.zeros(3), "with another error"),
        (lambda rows: rows["input_ids"], "stopped with TypeError"),
    ],
)
def test_a_stack_that_was_not_broken_is_explained(say: Say, answer: Callable[..., Any], why: str) -> None:
    printed = say(batching.stacked, answer)
    assert why in printed and "torch says" not in printed


def test_the_broken_stack_shows_the_error_and_the_case_without_one(say: Say) -> None:
    for answer in (default_collate, lambda rows: torch.stack([row["input_ids"] for row in rows])):
        printed = say(batching.stacked, answer)
        assert "torch says: stack expects each tensor to be equal size, but got [8] at entry 0 and [5] at" in printed
        assert "[0, 1, 2] and [3, 4, 5] become [[0, 3], [1, 4], [2, 5]]" in printed


def pad(rows: list[Any], pad_id: int, *, label: int = -100, left: bool = False, width: Any = max) -> Any:
    size = width(len(row["labels"]) for row in rows)

    def fill(name: str, filler: int) -> torch.Tensor:
        lines = []
        for row in rows:
            line = row[name].tolist()[:size]
            more = [filler] * (size - len(line))
            lines.append(more + line if left else line + more)
        return torch.tensor(lines)

    return {"input_ids": fill("input_ids", pad_id), "labels": fill("labels", label)}


def in_place(rows: list[Any], pad_id: int) -> Any:
    out = pad(rows, pad_id)
    rows[0]["labels"][0] = -100
    return out


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda rows, pad_id: None, "returns nothing yet"),
        (lambda rows, pad_id: ..., "returns nothing yet"),
        (lambda rows, pad_id: pad(rows, pad_id, label=pad_id), "the model is taught to write padding"),
        (lambda rows, pad_id: pad(rows, pad_id, left=True), "Padding stands on the right"),
        (lambda rows, pad_id: pad(rows, pad_id, width=min), "what is cut off is never learned"),
        (lambda rows, pad_id: pad(rows, pad_id, width=lambda _: 144), "has shape (3, 144), (3, 5) is needed"),
        (lambda rows, pad_id: pad(rows, 0), "row 0 of input_ids is [0, 0, 0, 0, 0, 0], [0, 9, 9, 9, 9, 9] is needed"),
        (lambda rows, pad_id: pad(rows[::-1], pad_id), "row 0 of input_ids"),
        (lambda rows, pad_id: {n: t.float() for n, t in pad(rows, pad_id).items()}, "is torch.float32"),
        (lambda rows, pad_id: {n: t.tolist() for n, t in pad(rows, pad_id).items()}, "is list, a tensor of int64"),
        (lambda rows, pad_id: dict.fromkeys(("input_ids", "labels"), torch.tensor(0)), "has shape ()"),
        (lambda rows, pad_id: pad(rows, pad_id)["labels"], "a dict with input_ids and labels is needed"),
        (in_place, "were changed themselves"),
        (lambda rows, pad_id: default_collate(rows), "stopped with RuntimeError"),
    ],
)
def test_wrong_padding_is_explained(say: Say, answer: Callable[..., Any], why: str) -> None:
    printed = say(batching.padded, answer)
    assert why in printed and "Right" not in printed


def test_right_padding_passes(say: Say) -> None:
    assert say(batching.padded, pad).startswith("Right: padded to the longest row")


def test_nan_is_what_a_batch_without_targets_has_as_its_mean() -> None:
    logits, labels = torch.zeros(2, 3), torch.full((2,), -100)
    assert math.isnan(torch.nn.functional.cross_entropy(logits, labels).item())
