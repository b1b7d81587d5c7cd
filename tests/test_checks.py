"""Checks of predictions and exercises: right answers pass, wrong ones are explained in the learner's terms."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mt_core.lab import checks
from mt_core.lab.checks.explained import UntouchedError, WrongError, as_items, as_list, as_number

Rows = list[tuple[list[int], list[int]]]
Say = Callable[..., str]


@pytest.mark.parametrize(
    ("guess", "answer", "expected"),
    [
        (None, 7, "The answer is 7. You have made no guess"),
        (..., 7, "The answer is 7. You have made no guess"),
        (7, 7, "Your guess is right: 7."),
        (7.0, 7, "Your guess is right: 7."),
        (6.5, 7, "Your guess, 6.5, is close: the answer is 7."),
        (5, 7, "You guessed 5; the answer is 7."),
        (6.24, 6.2383, "Your guess is right: 6.24."),
        (0, 0.0, "Your guess is right: 0."),
        (True, True, "Your guess is right: yes."),
        ("Yes ", True, "Your guess is right: yes."),
        ("no", True, "You guessed no; the answer is yes."),
        (False, 0, "You guessed no; the answer is 0."),
        (",", ",", "Your guess is right: ','."),
        (" ", " ", "Your guess is right: ' '."),
        ("e", "E", "You guessed 'e'; the answer is 'E'."),
        ("Right", "right", "Your guess is right: 'right'."),
        ("maybe", True, "You guessed 'maybe'; the answer is yes."),
        ([6, 7], torch.tensor([6, 7]), "Your guess is right: [6, 7]."),
        (range(6, 8), np.array([6, 7]), "Your guess is right: [6, 7]."),
        ((6,), [6, 7], "You guessed [6]; the answer is [6, 7]."),
        ([np.int64(6), torch.tensor(8)], [6, 7], "You guessed [6, 8]; the answer is [6, 7]."),
        ("seven", 7, "You guessed 'seven'; the answer is 7."),
        ("750", 750, "Your guess is right: 750. Numbers need no quotes."),
        ("6.2", 6.24, "Your guess, 6.2, is close: the answer is 6.24. Numbers need no quotes."),
        ("9", 7, "You guessed 9; the answer is 7. Numbers need no quotes."),
        ("37%", 0.37, "Your guess is right: 0.37. Numbers need no quotes."),
        ("nan", 7, "You guessed 'nan'; the answer is 7."),
        ("7", "7", "Your guess is right: '7'."),
        pytest.param(
            10**400, 0.5, "You guessed a number of about 400 digits; the answer is 0.5.", id="no float holds it"
        ),
        pytest.param(
            -(10**5000), 7, "You guessed a number of about 5000 digits; the answer is 7.", id="str refuses it"
        ),
    ],
)
def test_a_guess_is_set_beside_the_answer_in_one_line(say: Say, guess: Any, answer: Any, expected: str) -> None:
    printed = say(checks.compare_guess, guess, answer)
    assert printed.startswith(expected)
    assert printed.count("\n") == 1 and printed.endswith("\n")


def test_a_unit_follows_the_answer(say: Say) -> None:
    assert say(checks.compare_guess, 12, 13, unit="rows") == "Your guess, 12, is close: the answer is 13 rows.\n"


def test_a_percentage_in_quotes_is_read_as_percent_where_the_answer_is_in_percent(say: Say) -> None:
    said = "Your guess is right: 37 %. Numbers need no quotes.\n"
    assert say(checks.compare_guess, "37%", 37, unit="%") == said


def cut(ids: list[int], size: int, *, shift: int = 1, width: int | None = None) -> Rows:
    """Plain slices; whole rows alone."""
    starts = range(0, len(ids) - size - shift + 1, width or size)
    return [(ids[s : s + size], ids[s + shift : s + shift + size]) for s in starts]


def rows_right(ids: list[int], size: int) -> Rows:
    last = len(ids) - 1 - size
    if last < 0:
        raise ValueError("too few tokens")
    rows, asked = [], 1
    for start in [*range(0, last, size), last]:
        labels, done = ids[start + 1 : start + 1 + size], asked - start - 1
        rows.append((ids[start : start + size], [-100] * done + labels[done:]))
        asked = start + 1 + size
    return rows


def rows_repeated_at_the_end(ids: list[int], size: int) -> Rows:
    last = len(ids) - 1 - size
    return [(ids[s : s + size], ids[s + 1 : s + 1 + size]) for s in [*range(0, last, size), last]]


def rows_that_count_upwards(ids: list[int], size: int) -> Rows:
    return [
        (inputs, [i + 1 if label != -100 else -100 for i, label in zip(inputs, labels, strict=True)])
        for inputs, labels in rows_right(ids, size)
    ]


def rows_without_refusal(ids: list[int], size: int) -> Rows:
    return rows_right(ids, size) if len(ids) > size else []


def rows_with_a_short_end(ids: list[int], size: int) -> Rows:
    return [(ids[s : s + size][: len(ids) - 1 - s], ids[s + 1 : s + 1 + size]) for s in range(0, len(ids) - 1, size)]


@pytest.mark.parametrize(
    ("answer", "explained"),
    [
        (lambda ids, size: None, "returns nothing yet"),
        (lambda ids, size: ..., "returns nothing yet"),
        (lambda ids, size: cut(ids, size, shift=0), "each place is asked for the token it is shown"),
        (lambda ids, size: cut(ids, size, shift=2), "shifted twice"),
        (lambda ids, size: cut(ids, size, width=size + 1), "rows must share one token"),
        (cut, "what is left at the end needs a row too"),
        (lambda ids, size: cut(ids, size, width=1), "a row starts seq_length tokens after the one before it"),
        (rows_repeated_at_the_end, "become -100"),
        (rows_with_a_short_end, "row 2 has 1 inputs and 1 labels, 4 of each are needed"),
        (rows_that_count_upwards, "not by adding 1 to an id"),
        (rows_without_refusal, "raise a ValueError that says so"),
        (lambda ids, size: rows_right(ids, size)[::-1], "the rows are not those of the package"),
        (lambda ids, size: [list(range(size))] * 3, "a list of pairs (input_ids, labels) is needed"),
        (lambda ids, size: [(ids[: size + 1], "abcd")], "whole numbers is needed"),
        (lambda ids, size: 1 / 0, "stopped with ZeroDivisionError"),
    ],
)
def test_wrong_rows_are_explained(say: Say, answer: Callable[..., Any], explained: str) -> None:
    printed = say(checks.alignment.rows, answer)
    assert explained in printed
    assert "Right" not in printed


def test_right_rows_pass_as_lists_or_tensors(say: Say) -> None:
    def as_tensors(ids: list[int], size: int) -> list[tuple[Tensor, Tensor]]:
        return [(torch.tensor(inputs), torch.tensor(labels)) for inputs, labels in rows_right(ids, size)]

    for answer in (rows_right, as_tensors):
        assert say(checks.alignment.rows, answer).startswith("Right: the same rows as TransformerDataset for 7 streams")


def in_place(labels: Tensor, n_prompt: int) -> Tensor:
    labels[: max(n_prompt - 1, 0)] = -100
    return labels


def masked(labels: Tensor, end: int | None) -> Tensor:
    labels = labels.clone()
    labels[:end] = -100
    return labels


@pytest.mark.parametrize(
    ("answer", "explained"),
    [
        (lambda labels, n: None, "returns nothing yet"),
        (lambda labels, n: masked(labels, n), "the label at place 2 is token 3, the first token after the prompt"),
        (lambda labels, n: masked(labels, n - 1), "all but the last"),
        (lambda labels, n: labels.clone(), "Nothing is ignored"),
        (in_place, "were changed themselves"),
        (lambda labels, n: labels[n - 1 :], "is needed"),
        (lambda labels, n: labels.float(), "a tensor or list of whole numbers is needed"),
        (lambda labels: labels, "stopped with TypeError"),
    ],
)
def test_wrong_prompt_labels_are_explained(say: Say, answer: Callable[..., Any], explained: str) -> None:
    printed = say(checks.alignment.prompt_labels, answer)
    assert explained in printed
    assert "Right" not in printed


def test_right_prompt_labels_pass(say: Say) -> None:
    assert say(checks.alignment.prompt_labels, lambda labels, n: masked(labels, max(n - 1, 0))).startswith("Right")


@pytest.mark.parametrize(
    ("answer", "explained"),
    [
        (lambda input_ids, labels: None, "returns nothing yet"),
        (lambda input_ids, labels: labels, "the token after the next"),
        (lambda input_ids, labels: input_ids, "targets that were -100 are asked again"),
        (lambda input_ids, labels: labels[:-1], "you returned 4 labels, the row has 5 places"),
        (lambda input_ids, labels: labels.roll(-1), "the model asks place 0, 1, … for"),
        (lambda input_ids, labels: labels.fill_(1), "were changed themselves"),
    ],
)
def test_wrong_self_shifting_labels_are_explained(say: Say, answer: Callable[..., Any], explained: str) -> None:
    printed = say(checks.alignment.self_shifting_labels, answer)
    assert explained in printed
    assert "Right" not in printed


def test_right_self_shifting_labels_pass_whatever_stands_at_place_0(say: Say) -> None:
    for first in (lambda ids: ids[:1], lambda ids: torch.tensor([-100])):
        printed = say(
            checks.alignment.self_shifting_labels, lambda ids, labels, first=first: torch.cat([first(ids), labels[:-1]])
        )
        assert printed.startswith("Right")


@pytest.mark.parametrize(
    ("answer", "explained"),
    [
        (lambda logits, labels: None, "returns nothing yet"),
        (
            lambda logits, labels: cross_entropy(logits.view(-1, logits.size(-1)), labels.view(-1)),
            "no error: that works",
        ),
        (lambda logits, labels: cross_entropy(logits.view(-1, 4), labels.view(-1)), "with another error"),
        (lambda logits, labels: logits.nothing, "stopped with AttributeError"),
    ],
)
def test_a_loss_that_was_not_broken_is_explained(say: Say, answer: Callable[..., Any], explained: str) -> None:
    printed = say(checks.alignment.unflattened_loss, answer)
    assert explained in printed
    assert "torch says" not in printed


def test_the_broken_loss_shows_the_error_and_the_case_without_one(say: Say) -> None:
    printed = say(checks.alignment.unflattened_loss, cross_entropy)
    assert "torch says: Expected target size [2, 16], got [2, 8]" in printed
    assert "With V=8, as large as T, nothing complains" in printed


# -- one answer, in the forms in which a reader may return it


@pytest.mark.parametrize(
    "same",
    [
        [3, 1, 4],
        (3, 1, 4),
        np.array([3, 1, 4], dtype=np.uint16),
        torch.tensor([3, 1, 4]),
        [np.int64(3), np.int32(1), 4],
        [torch.tensor(3), torch.tensor(1), torch.tensor(4)],
        (n for n in (3, 1, 4)),
        map(np.int64, (3, 1, 4)),
    ],
)
def test_whole_numbers_may_come_in_many_forms(same: Any) -> None:
    assert [(n, type(n)) for n in as_list(same, "pi")] == [(3, int), (1, int), (4, int)]


@pytest.mark.parametrize("other", [3, "314", [3.0], [True], [[3], [1]], {3: 1}, [np.float32(3)], [torch.tensor(True)]])
def test_what_is_no_list_of_whole_numbers_is_refused(other: Any) -> None:
    with pytest.raises(WrongError, match=r"pi: you returned .*, a tensor or list of whole numbers is needed"):
        as_list(other, "pi")


def test_a_generator_without_end_is_cut_off() -> None:
    assert len(as_list(itertools.count(), "pi")) == 100_000


@pytest.mark.parametrize("same", [2, 2.0, np.int64(2), np.float32(2), torch.tensor(2), torch.tensor([2.0])])
def test_a_number_may_come_in_many_forms(same: Any) -> None:
    assert as_number(same, "two") == 2 and type(as_number(same, "two")) in (int, float)


@pytest.mark.parametrize("other", ["2", True, np.bool_(True), [2], torch.tensor([2, 2]), np.array([2, 2]), 2j])
def test_what_is_no_number_is_refused(other: Any) -> None:
    with pytest.raises(WrongError, match=r"two: you returned .*, one number is needed"):
        as_number(other, "two", "one number")


@pytest.mark.parametrize("read", [as_items, lambda answer: as_list(answer, ""), lambda answer: as_number(answer, "")])
def test_nothing_is_no_answer(read: Callable[[Any], Any]) -> None:
    for nothing in (None, ...):
        with pytest.raises(UntouchedError):
            read(nothing)


def test_lists_in_lists_and_strings_stay_what_they_are() -> None:
    assert as_items(([np.int64(1), 2], torch.tensor([3]))) == [[1, 2], [3]]
    assert as_items(word for word in (" the", "yes", b"no")) == [" the", "yes", b"no"]
