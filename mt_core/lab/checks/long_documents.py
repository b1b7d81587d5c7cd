"""The exercises of notebook 10: masks and positions inside a row, packing as documents arrive, a budget too small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mt_core.dataset import TransformerDataset
from mt_core.lab.checks.explained import WrongError, as_list, explained, touched
from mt_core.store import TokenStore
from mt_core.token_loader import TokenLoader

# Two rows of documents, -1 for padding.
_ROWS = torch.tensor([[4, 4, 4, 7, 7, 2, -1], [1, 3, 3, 3, 3, 3, 3]])


def mask(my_mask: Callable[[Tensor], Any]) -> None:
    """Check `my_mask(document_ids)`: bool (B, T, T), True where place t may look at place j."""
    with explained(my_mask):
        got = touched(my_mask(_ROWS.clone()))
        if not isinstance(got, Tensor) or got.dtype != torch.bool:
            what = got.dtype if isinstance(got, Tensor) else type(got).__name__
            raise WrongError(f"you returned {what}, a tensor of truth values (torch.bool) is needed")
        n, length = _ROWS.shape
        if tuple(got.shape) != (n, length, length):
            raise WrongError(
                f"document_ids (2, 7): you returned shape {tuple(got.shape)}, (2, 7, 7) is needed, a square for each "
                "row: compare document_ids[:, :, None] with document_ids[:, None, :]"
            )
        documents = _ROWS.tolist()
        for b in range(n):
            for t in range(length):
                for j in range(length):
                    _judge_square(bool(got[b, t, j]), documents[b], t, j)
        print(
            "Right: of the 49 squares that a causal mask opens for these tokens, 32 stay open, inside a document each."
        )


def _judge_square(is_open: bool, documents: list[int], t: int, j: int) -> None:
    """One square: place t looks at place j."""
    if documents[t] < 0:
        return  # what padding looks at does not matter
    same, ahead = documents[t] == documents[j], j > t
    row = f"document_ids {documents}: place {t} (document {documents[t]})"
    if is_open and ahead:
        raise WrongError(f"{row} looks at place {j}, which is ahead of it: keep the lower triangle, .tril()")
    if is_open and not same:
        raise WrongError(f"{row} looks at place {j}, which is of document {documents[j]}: both must be of one document")
    if not is_open and same and not ahead:
        what = "itself" if t == j else f"place {j} of its own document"
        raise WrongError(f"{row} does not look at {what}: that square must be open")


def positions(my_positions: Callable[[list[int]], Any]) -> None:
    """Check `my_positions(document_ids)`: places counted from 0 in each document of a row; padding is not judged."""
    with explained(my_positions):
        for documents in ([0, 0, 0, 1, 1, 2], [5, 5, 3, 3, 3, -1, -1], [2], [9, 9, 9, 9], [1, 4, 4, 0, -1]):
            case = f"document_ids {documents}"
            given = list(documents)
            found = as_list(my_positions(given), case)
            if given != documents:
                raise WrongError(f"{case}: the list you were given was changed itself: build a new one")
            if len(found) != len(documents):
                raise WrongError(
                    f"{case}: you returned {len(found)} positions, one for each of {len(documents)} places"
                )
            wanted = [t - documents.index(document) for t, document in enumerate(documents)]
            real = [t for t, document in enumerate(documents) if document >= 0]
            if all(found[t] == wanted[t] for t in real):
                continue
            hint = f"you returned {found}, {wanted} is needed"
            if found == list(range(len(documents))):
                hint += ". That counts from 0 in the row: begin anew where the document changes"
            elif all(found[t] == wanted[t] + 1 for t in real):
                hint += ". Positions count from 0"
            elif all(found[t] == wanted[t] for t in real if documents[t] == documents[0]):
                hint += ". The first document is right: where the next begins, so does the count"
            raise WrongError(f"{case}: {hint}")
        print("Right: each document counts from 0, wherever it stands in the row, and padding may hold anything.")


def stream_pack(my_stream_pack: Callable[[list[int], int, int], Any]) -> None:
    """Check `my_stream_pack(lengths, capacity, n_open)`: a row for each document as it arrives, few rows open at once.

    The rule: a document goes into the open row where the least room is left over; where it fits none, a new row is
    opened, and if n_open are open, the fullest is closed before.
    """
    with explained(my_stream_pack):
        dice = np.random.default_rng(0)
        many = dice.integers(1, 41, 300).tolist()
        for lengths, capacity, n_open in (
            ([4, 3, 2, 3], 6, 2),
            ([5, 5, 1, 1], 6, 2),
            ([6, 6, 6], 6, 1),
            ([5, 3, 4, 3], 6, 2),
            ([3, 4, 3, 4], 8, 1),
            (many, 64, 1),
            (many, 64, 4),
            (many, 64, 300),
        ):
            shown = f"lengths {lengths}" if len(lengths) < 10 else "300 lengths from 1 to 40"
            case = f"{shown}, capacity={capacity}, n_open={n_open}"
            rows = as_list(my_stream_pack(list(lengths), capacity, n_open), case)
            _judge_rows(rows, lengths, capacity, n_open, case)
        shares = [sum(many) / 64 / (max(_streamed(many, 64, n)) + 1) for n in (1, 4, 300)]
        print("Right: no row too full, never more open than allowed, and as few rows as the rule gives.")
        words = ", ".join(f"{share:.0%} with {n} open" for n, share in zip((1, 4, 300), shares, strict=True))
        print(f"300 lengths from 1 to 40 in rows of 64, unsorted: {words}.")


def _judge_rows(rows: list[int], lengths: Sequence[int], capacity: int, n_open: int, case: str) -> None:
    if len(rows) != len(lengths):
        raise WrongError(f"{case}: you returned {len(rows)} row numbers, one for each of {len(lengths)} documents")
    if sorted(set(rows)) != list(range(len(set(rows)))):
        raise WrongError(f"{case}: rows are numbered 0, 1, 2, … as they are opened, yours are {sorted(set(rows))[:8]}")
    for row in range(max(rows) + 1):
        inside = [length for length, at in zip(lengths, rows, strict=True) if at == row]
        if sum(inside) > capacity:
            raise WrongError(f"{case}: row {row} gets lengths {inside}, {sum(inside)} in all: more than it holds")
    first = {row: rows.index(row) for row in set(rows)}
    last = {row: len(rows) - 1 - rows[::-1].index(row) for row in set(rows)}
    for at in range(len(rows)):
        used = [row for row in first if first[row] <= at <= last[row]]
        if len(used) > n_open:
            raise WrongError(
                f"{case}: when document {at} arrives, rows {used} all hold a document and get another later on: "
                f"{len(used)} are open, {n_open} may be. Close the fullest before you open a new one"
            )
    wanted = _streamed(lengths, capacity, n_open)
    if rows == wanted:
        return
    at = next(i for i, (got, right) in enumerate(zip(rows, wanted, strict=True)) if got != right)
    hint = f"document {at} (length {lengths[at]}) goes into row {rows[at]}, row {wanted[at]} is needed"
    if wanted[at] > max([*wanted[:at], -1]):
        hint += ", a new one: the fullest row was closed for it, or none has room"
    elif rows[at] > max([*wanted[:at], -1]):
        hint += ": that one has room and is still open, as only the fullest is ever closed"
    else:
        hint += ": of the open rows with room it is the one where least is left over (the older of two alike)"
    raise WrongError(f"{case}: {hint}")


def _streamed(lengths: Sequence[int], capacity: int, n_open: int) -> list[int]:
    room: dict[int, int] = {}  # of the open rows
    rows: list[int] = []
    for length in lengths:
        fits = [row for row in room if room[row] >= length]
        if fits:
            row = min(fits, key=lambda r: room[r])
        else:
            if len(room) == n_open:
                del room[min(room, key=lambda r: room[r])]
            row = max(rows, default=-1) + 1
            room[row] = capacity
        room[row] -= length
        rows.append(row)
    return rows


def budget(my_loader: Callable[[TransformerDataset], Any]) -> None:
    """Check `my_loader(dataset)`, which is meant to fail: a token budget that does not hold the longest row."""
    with explained(my_loader):
        store = TokenStore.from_token_ids(range(60), vocab_size=60, document_ends=[9, 30, 35, 60])
        dataset = TransformerDataset(store, seq_length=32, chunking="per_document", length_buckets=4)
        try:
            loader = my_loader(dataset)
        except ValueError as error:
            message = str(error).splitlines()[0]
            if "does not hold one row" not in message:
                raise WrongError(
                    f"it fails, with another error ({message}): give TokenLoader a token_budget from 1 to 31"
                ) from None
        else:
            touched(loader)
            if not isinstance(loader, TokenLoader):
                raise WrongError(f"no error, and you returned {type(loader).__name__}: make a TokenLoader")
            raise WrongError("no error: that works. Break it: token_budget smaller than the longest bucket, 32")
        print(f"mt_core says: {message}")
        shapes = [tuple(batch["input_ids"].shape) for batch in TokenLoader(dataset, token_budget=32)]
        print(f"With 32 it works; shapes, rows by length: {shapes}.")
        print("Each stays within 32 places. The longest row sets the least budget; short rows then share a batch.")
