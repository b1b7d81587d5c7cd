"""Tokens to rows: which stretch of the stream each training row holds. Does not shuffle, batch or make tensors.

Shapes: B rows asked for, T = seq_length, N tokens in the stream.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from mt_core.packing import pack
from mt_core.store import StoreError, TokenStore

IGNORE = -100  # the label that torch.nn.functional.cross_entropy leaves out of the loss
Rows = dict[str, np.ndarray]


class ContiguousRows:
    """Rows cut from one continuous stream, whatever documents they cross.

    Row i starts at token `i * stride` and holds T inputs and, one place further on, their T labels. With
    `stride == seq_length` neighbours share one token and every target is seen exactly once. If the last row would
    run out of the stream, it is moved back until it fits, and what it holds before its own place is masked.
    With `mask_documents` a row also says which document each input is of, so that a model can keep them apart.

    >>> rows = ContiguousRows(TokenStore.from_token_ids(range(8), vocab_size=8), seq_length=4)
    >>> rows.gather(np.arange(len(rows)))["labels"].tolist()
    [[1, 2, 3, 4], [-100, 5, 6, 7]]
    """

    def __init__(
        self, store: TokenStore, seq_length: int, stride: int | None = None, *, mask_documents: bool = False
    ) -> None:
        n_tokens = len(store)
        if n_tokens < 2:
            raise ValueError(
                f"corpus has {n_tokens} token{'' if n_tokens == 1 else 's'}, at least 2 are needed for one input "
                f"and its label: add text{_which(store)}"
            )
        if n_tokens < seq_length + 1:
            raise ValueError(
                f"corpus has {n_tokens} tokens, one row of seq_length={seq_length} needs {seq_length + 1}: "
                f"lower seq_length to {n_tokens - 1} or less, or add text{_which(store)}"
            )
        self.seq_length = seq_length
        self.stride = seq_length if stride is None else stride
        self._last_start = n_tokens - 1 - seq_length
        # Enough rows to reach the end, but none that would have to be moved back by its whole length.
        last_row = min(-(-self._last_start // self.stride), (n_tokens - 2) // self.stride)
        self._n_rows = last_row + 1
        self._masked = max(last_row * self.stride - self._last_start, 0)  # by how much the last row is moved back
        self._windows = _windows(store.token_ids, seq_length + 1)
        self._document_ends = store.document_ends if mask_documents else None

    def __len__(self) -> int:
        return self._n_rows

    def starts(self, rows: np.ndarray) -> np.ndarray:
        """int64 (B,): the stream position of the first input of each row."""
        return np.minimum(rows * self.stride, self._last_start)

    def positions(self, rows: np.ndarray) -> np.ndarray:
        """int64 (B, T): the stream position of each input of rows int64 (B,); its label is one further on."""
        return self.starts(rows)[:, None] + np.arange(self.seq_length)

    def gather(self, rows: np.ndarray) -> Rows:
        """`input_ids` and `labels`, int64 (B, T), of rows int64 (B,); with `mask_documents` the other two as well."""
        batch = self._read(self.starts(rows))
        if self._masked and rows.max() == self._n_rows - 1:
            batch["labels"][rows == self._n_rows - 1, : self._masked] = IGNORE
        return batch

    def _read(self, starts: np.ndarray) -> Rows:
        window = self._windows[starts]  # (B, T + 1), a copy in the store's narrow type
        batch = {"input_ids": window[:, :-1].astype(np.int64), "labels": window[:, 1:].astype(np.int64)}
        if self._document_ends is not None:
            where = starts[:, None] + np.arange(self.seq_length)
            documents = np.searchsorted(self._document_ends, where, side="right")
            begins = np.where(documents > 0, self._document_ends[documents - 1].astype(np.int64), 0)
            batch["position_ids"] = where - np.maximum(begins, where[:, :1])
            batch["document_ids"] = documents
        return batch


class JitteredRows(ContiguousRows):
    """Contiguous rows whose cuts lie elsewhere in each epoch: all `offset` tokens earlier, the first row shorter.

    Row k is asked the targets from `k * T - offset` on, T of them, the first and the last row fewer; what else such a
    row holds has label -100. So every target is still asked exactly once, whatever the offset. There is one row more
    than without jitter, and each has at least one target.

    >>> rows = JitteredRows(TokenStore.from_token_ids(range(9), vocab_size=9), seq_length=4)
    >>> rows.gather(np.arange(len(rows)), offsets=np.full(3, 1))["labels"].tolist()
    [[1, 2, 3, -100], [4, 5, 6, 7], [-100, -100, -100, 8]]
    """

    def __init__(self, store: TokenStore, seq_length: int, *, mask_documents: bool = False) -> None:
        super().__init__(store, seq_length, mask_documents=mask_documents)
        self._n_rows += seq_length > 1  # rows of one token cannot be shifted

    def _targets_before(self, rows: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """How many targets the earlier rows are asked; each of the later ones is left one at least."""
        left = self._last_start + self.seq_length - (self._n_rows - rows)
        return np.where(rows > 0, np.minimum(rows * self.seq_length - offsets, left), 0)

    def positions(self, rows: np.ndarray, offsets: np.ndarray | None = None) -> np.ndarray:
        """As for contiguous rows, with the offset of each row, int64 (B,), from 0 to T - 1; None is 0."""
        begins = self._targets_before(rows, np.zeros_like(rows) if offsets is None else offsets)
        return np.minimum(begins, self._last_start)[:, None] + np.arange(self.seq_length)

    def gather(self, rows: np.ndarray, offsets: np.ndarray | None = None) -> Rows:
        """As for contiguous rows, with the offset of each row, int64 (B,), from 0 to T - 1; None is 0."""
        offsets = np.zeros_like(rows) if offsets is None else offsets
        begins, ends = (self._targets_before(some, offsets)[:, None] for some in (rows, rows + 1))
        where = self.positions(rows, offsets)
        batch = self._read(where[:, 0])
        batch["labels"][(where < begins) | (where >= ends)] = IGNORE
        return batch


class _PieceRows:
    """Rows made of pieces of documents, one after the other, and padding after the last.

    Piece p is `lengths[p]` inputs from stream position `starts[p]` on, and their labels, one place further on each; the
    first `masked[p]` labels are -100. Row r has the pieces `pieces_until[r - 1]` to `pieces_until[r]`.
    """

    def __init__(
        self,
        store: TokenStore,
        seq_length: int,
        *,
        starts: np.ndarray,
        lengths: np.ndarray,
        documents: np.ndarray,
        pieces_until: np.ndarray,
        masked: np.ndarray | None = None,
    ) -> None:
        if not len(starts):
            raise ValueError(f"no document has two tokens, one input and its label: add text{_which(store)}")
        self.seq_length, self.pad_token_id, self._token_ids = seq_length, store.pad_token_id, store.token_ids
        self._starts, self._lengths, self._documents, self._masked = starts, lengths, documents, masked
        self._until = np.concatenate(([0], pieces_until))

    def __len__(self) -> int:
        return len(self._until) - 1

    def fill(self) -> float:
        """Share of all places that hold a token, 0 to 1: the rest is padding."""
        return int(self._lengths.sum()) / (len(self) * self.seq_length)

    def row_lengths(self) -> np.ndarray:
        """int64 (rows,): how many places of each row hold a token; padding comes after them."""
        return np.add.reduceat(self._lengths, self._until[:-1])

    def positions(self, rows: np.ndarray) -> np.ndarray:
        """int64 (B, T): the stream position of each input of rows int64 (B,), -1 for padding. Labels: one on."""
        return self._laid_out(rows)[0]

    def _laid_out(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Stream positions, places inside a piece and pieces, int64 (B, T) each; -1, 0 and -1 for padding."""
        counts = self._until[rows + 1] - self._until[rows]  # pieces in each row
        pieces = np.arange(counts.sum()) + np.repeat(self._until[rows] - (np.cumsum(counts) - counts), counts)
        lengths = self._lengths[pieces]
        inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        piece_of = np.repeat(pieces, lengths)
        of_row = np.repeat(np.arange(len(rows)), counts)  # row of each piece
        filled = np.bincount(of_row, weights=lengths, minlength=len(rows)).astype(np.int64)
        there = np.arange(self.seq_length) < filled[:, None]  # (B, T), True in the order of the flat arrays above
        where, place, piece = np.full(there.shape, -1), np.zeros(there.shape, np.int64), np.full(there.shape, -1)
        where[there], place[there], piece[there] = self._starts[piece_of] + inside, inside, piece_of
        return where, place, piece

    def gather(self, rows: np.ndarray) -> Rows:
        """`input_ids`, `labels`, `position_ids` (from 0 in each piece) and `document_ids`, int64 (B, T)."""
        where, place, piece = self._laid_out(rows)
        padding = where < 0
        read = np.where(padding, where[:, :1], where)  # for padding a token of the row: no other document is touched
        input_ids, labels = self._token_ids[np.stack((read, read + 1))].astype(np.int64)
        hidden = padding if self._masked is None else padding | (place < self._masked[piece])
        labels[hidden] = IGNORE
        input_ids[padding] = self.pad_token_id
        documents = np.where(padding, -1, self._documents[piece])
        return {"input_ids": input_ids, "labels": labels, "position_ids": place, "document_ids": documents}


class DocumentRows(_PieceRows):
    """Rows that never cross a document: each begins a document, or goes on in one that is longer than a row.

    With a stride below T the rows of a long document overlap, so that each label has at least T - stride inputs before
    it, unless its document begins there; labels that an earlier row has asked are -100. Rows longer than what is left
    of their document are padded; padding has label -100, `document_ids` -1.

    >>> store = TokenStore.from_token_ids([5, 6, 7, 8, 9], vocab_size=10, document_ends=[2, 5])
    >>> DocumentRows(store, seq_length=3).gather(np.array([0, 1]))["input_ids"].tolist()
    [[5, 0, 0], [7, 8, 0]]
    """

    def __init__(self, store: TokenStore, seq_length: int, stride: int | None = None) -> None:
        stride = seq_length if stride is None else stride
        if stride > seq_length:
            raise ValueError(
                f"stride={stride} is more than seq_length={seq_length}: targets between the rows would never be asked; "
                f"use {seq_length} or less"
            )
        first, targets = _documents(store)
        # Rows of a document: the first, and one more for each stride of targets that it does not reach.
        counts = np.where(targets > 0, 1 + -(-np.maximum(targets - seq_length, 0) // stride), 0)
        documents = np.repeat(np.arange(len(counts)), counts)
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # within its document
        overlapping = stride < seq_length
        offsets = number * stride
        if overlapping:  # the last row is moved back until it is full: more to read, at no cost
            offsets = np.minimum(offsets, np.maximum(targets[documents] - seq_length, 0))
        asked = np.where(number > 0, seq_length + (number - 1) * stride, 0)  # targets the rows before have asked
        super().__init__(
            store,
            seq_length,
            starts=first[documents] + offsets,
            lengths=np.minimum(targets[documents] - offsets, seq_length),
            documents=documents,
            pieces_until=np.arange(1, len(documents) + 1),
            masked=asked - offsets if overlapping else None,
        )


class PackedRows(_PieceRows):
    """Whole documents packed into rows, best fit decreasing; only a document longer than a row is cut.

    A document longer than T inputs first fills rows of its own; what is left of it is packed like a document. In a row,
    `document_ids` tell the documents apart and `position_ids` begin at 0 in each: a model that keeps attention
    inside a document sees each as if it stood alone (Ding et al. 2024, arXiv:2404.10830).

    >>> store = TokenStore.from_token_ids(range(9), vocab_size=9, document_ends=[3, 7, 9])
    >>> PackedRows(store, seq_length=3).gather(np.array([0, 1]))["document_ids"].tolist()
    [[1, 1, 1], [0, 0, 2]]
    """

    def __init__(self, store: TokenStore, seq_length: int) -> None:
        first, targets = _documents(store)
        counts = -(-targets // seq_length)
        documents = np.repeat(np.arange(len(counts)), counts)
        offsets = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * seq_length
        lengths = np.minimum(targets[documents] - offsets, seq_length)
        row_of = pack(lengths, seq_length)
        order = np.argsort(row_of, kind="stable")  # pieces by row, and in a row as in the corpus
        super().__init__(
            store,
            seq_length,
            starts=(first[documents] + offsets)[order],
            lengths=lengths[order],
            documents=documents[order],
            pieces_until=np.cumsum(np.bincount(row_of)),
        )


def _which(store: TokenStore) -> str:
    """What tells the training corpus from the validation corpus in an error."""
    return "" if store.path is None else f" (the corpus is {store.path})"


def _windows(token_ids: np.ndarray, width: int) -> np.ndarray:
    """What gives, indexed by starts int64 (B,), the tokens (B, width) from each start on."""
    if isinstance(token_ids, np.ndarray):
        return sliding_window_view(token_ids, width)
    return token_ids.windows(width)  # tokens that are made when asked for, see `mt_core.on_the_fly`


def _documents(store: TokenStore) -> tuple[np.ndarray, np.ndarray]:
    """The first token of each document and how many targets it has, one fewer than tokens: int64 (D,) each."""
    ends = store.document_ends.astype(np.int64)
    lengths = np.diff(ends, prepend=0)
    if ends.size and (ends.min() < 0 or lengths.min() < 0):  # opening a store cannot look at all of them
        raise StoreError(f"{store}: its document ends do not increase: it is damaged, prepare the corpus again")
    return ends - lengths, np.maximum(lengths - 1, 0)
