"""Checks of notebook 10: right answers pass, wrong ones are explained in the learner's terms."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mt_core import TokenLoader
from mt_core.lab.checks import long_documents
from mt_core.model import document_mask

Say = Callable[..., str]


def same(ids: torch.Tensor) -> torch.Tensor:
    return ids[:, :, None] == ids[:, None, :]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda ids: None, "returns nothing yet"),
        (lambda ids: ..., "returns nothing yet"),
        (lambda ids: same(ids), "which is ahead of it"),
        (
            lambda ids: torch.ones_like(same(ids)).tril(),
            "place 3 (document 7) looks at place 0, which is of document 4",
        ),
        (lambda ids: same(ids).tril(-1), "does not look at itself"),
        (lambda ids: same(ids).tril().triu(-1), "place 2 (document 4) does not look at place 0 of its own document"),
        (lambda ids: same(ids).tril()[0], "returned shape (7, 7), (2, 7, 7) is needed"),
        (lambda ids: same(ids).tril().float(), "you returned torch.float32"),
        (lambda ids: same(ids).tolist(), "you returned list"),
        (lambda ids: ids[:, :, :, None], "stopped with IndexError"),
    ],
)
def test_wrong_masks_are_explained(say: Say, answer: Callable[..., Any], why: str) -> None:
    printed = say(long_documents.mask, answer)
    assert why in printed and "Right" not in printed


@pytest.mark.parametrize(
    "answer",
    [
        lambda ids: same(ids).tril(),
        lambda ids: document_mask(ids)[:, 0],
        lambda ids: same(ids).tril() & (ids[:, :, None] >= 0),
    ],
)
def test_right_masks_pass_whatever_padding_looks_at(say: Say, answer: Callable[..., Any]) -> None:
    assert say(long_documents.mask, answer).startswith("Right: of the 49 squares")


def test_the_numbers_a_right_mask_is_praised_with() -> None:
    real = long_documents._ROWS >= 0
    causal = torch.ones(2, 7, 7, dtype=torch.bool).tril()
    assert int(causal[real].sum()) == 49 and int((same(long_documents._ROWS) & causal)[real].sum()) == 32


def counted(documents: list[int], begin: int = 0) -> list[int]:
    return [t - documents.index(document) + begin for t, document in enumerate(documents)]


def first_only(documents: list[int]) -> list[int]:
    found, first = counted(documents), documents[0]
    return [n if document == first else 7 for n, document in zip(found, documents, strict=True)]


def in_place(documents: list[int]) -> list[int]:
    found = counted(documents)
    documents[0] = 99
    return found


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda documents: None, "returns nothing yet"),
        (lambda documents: list(range(len(documents))), "begin anew where the document changes"),
        (lambda documents: counted(documents, 1), "Positions count from 0"),
        (first_only, "where the next begins, so does the count"),
        (lambda documents: [0] * len(documents), "[0, 1, 2, 0, 1, 0] is needed"),
        (lambda documents: counted(documents)[:-1], "one for each of 6 places"),
        (in_place, "was changed itself"),
        (lambda documents: "012", "a tensor or list of whole numbers is needed"),
        (lambda documents: documents[9], "stopped with IndexError"),
    ],
)
def test_wrong_positions_are_explained(say: Say, answer: Callable[..., Any], why: str) -> None:
    printed = say(long_documents.positions, answer)
    assert why in printed and "Right" not in printed


@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_right_positions_pass_whatever_padding_holds(say: Say, kind: Callable[..., Any]) -> None:
    def answer(documents: list[int]) -> Any:
        return kind([-5 if document < 0 else n for n, document in zip(counted(documents), documents, strict=True)])

    assert say(long_documents.positions, answer).startswith("Right: each document counts from 0")


def streamed(lengths: list[int], capacity: int, n_open: int, *, close: Any = min, choose: Any = min) -> list[int]:
    room: dict[int, int] = {}
    rows: list[int] = []
    for length in lengths:
        fits = [row for row in room if room[row] >= length]
        if not fits and close and len(room) == n_open:
            del room[close(room, key=room.get)]
        if not fits:
            room[max(rows, default=-1) + 1] = capacity
        row = choose(fits, key=room.get) if fits else max(room)
        room[row] -= length
        rows.append(row)
    return rows


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda lengths, capacity, n_open: None, "returns nothing yet"),
        (lambda lengths, capacity, n_open: [0] * len(lengths), "row 0 gets lengths [4, 3, 2, 3], 12 in all"),
        (lambda lengths, capacity, n_open: list(range(len(lengths))), "that one has room and is still open"),
        (lambda lengths, capacity, n_open: streamed(lengths, capacity, n_open, close=None), "are open, 1 may be"),
        (
            lambda lengths, capacity, n_open: streamed(lengths, capacity, n_open, close=max),
            "row 1 is needed: that one has room and is still open, as only the fullest",
        ),
        (lambda lengths, capacity, n_open: streamed(lengths, capacity, n_open, choose=max), "where least is left over"),
        (lambda lengths, capacity, n_open: streamed(lengths, capacity, n_open)[1:], "for each of 4 documents"),
        (lambda lengths, capacity, n_open: [r + 1 for r in streamed(lengths, capacity, n_open)], "numbered 0, 1, 2"),
        (lambda lengths, capacity, n_open: [], "you returned 0 row numbers"),
        (lambda lengths, capacity: [], "stopped with TypeError"),
    ],
)
def test_wrong_packing_is_explained(say: Say, answer: Callable[..., Any], why: str) -> None:
    printed = say(long_documents.stream_pack, answer)
    assert why in printed and "Right" not in printed


def test_many_lengths_are_not_called_lengths_twice(say: Say) -> None:
    def alone(lengths: list[int], capacity: int, n_open: int) -> list[int]:
        return streamed(lengths, capacity, n_open) if len(lengths) < 300 else list(range(300))

    assert "Not yet. 300 lengths from 1 to 40, capacity=64, n_open=1: " in say(long_documents.stream_pack, alone)


def test_right_packing_passes(say: Say) -> None:
    printed = say(long_documents.stream_pack, streamed)
    assert printed.startswith("Right: no row too full")
    assert "with 1 open" in printed and "with 300 open" in printed


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda dataset: None, "returns nothing yet"),
        (lambda dataset: TokenLoader(dataset, token_budget=32), "no error: that works"),
        (lambda dataset: TokenLoader(dataset, batch_size=2), "no error: that works"),
        (lambda dataset: dataset, "make a TokenLoader"),
        (lambda dataset: TokenLoader(dataset, token_budget=0), "with another error"),
        (lambda dataset: dataset["rows"], "stopped with TypeError"),
    ],
)
def test_a_budget_that_was_not_broken_is_explained(say: Say, answer: Callable[..., Any], why: str) -> None:
    printed = say(long_documents.budget, answer)
    assert why in printed and "mt_core says" not in printed


def test_the_broken_budget_shows_the_error_and_what_works(say: Say) -> None:
    printed = say(long_documents.budget, lambda dataset: TokenLoader(dataset, token_budget=31))
    assert (
        "mt_core says: token_budget=31 does not hold one row of 32 tokens for each of 1 rank: give at least 32"
        in printed
    )
    assert "shapes, rows by length: [(" in printed
