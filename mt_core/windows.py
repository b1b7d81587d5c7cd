"""Tokens to rows: which stretch of the stream each training row holds. Does not shuffle, batch or make tensors.

Shapes: B rows asked for, T = seq_length, N tokens in the stream.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from mt_core.store import TokenStore

IGNORE = -100  # the label that torch.nn.functional.cross_entropy leaves out of the loss
Rows = dict[str, np.ndarray]


class ContiguousRows:
    """Rows cut from one continuous stream, whatever documents they cross.

    Row i starts at token `i * stride` and holds T inputs and, one place further on, their T labels. With
    `stride == seq_length` neighbours share one token and every target is seen exactly once. If the last row would
    run out of the stream, it is moved back until it fits, and what it holds before its own place is masked.

    >>> rows = ContiguousRows(TokenStore.from_token_ids(range(8), vocab_size=8), seq_length=4)
    >>> rows.gather(np.arange(len(rows)))["labels"].tolist()
    [[1, 2, 3, 4], [-100, 5, 6, 7]]
    """

    def __init__(self, store: TokenStore, seq_length: int, stride: int | None = None) -> None:
        n_tokens = len(store)
        if n_tokens < 2:
            raise ValueError(
                f"corpus has {n_tokens} token{'' if n_tokens == 1 else 's'}, at least 2 are needed for one input "
                "and its label: add text"
            )
        if n_tokens < seq_length + 1:
            raise ValueError(
                f"corpus has {n_tokens} tokens, one row of seq_length={seq_length} needs {seq_length + 1}: "
                f"lower seq_length to {n_tokens - 1} or less, or add text"
            )
        self.seq_length = seq_length
        self.stride = seq_length if stride is None else stride
        self._last_start = n_tokens - 1 - seq_length
        # Enough rows to reach the end, but none that would have to be moved back by its whole length.
        last_row = min(-(-self._last_start // self.stride), (n_tokens - 2) // self.stride)
        self._n_rows = last_row + 1
        self._masked = max(last_row * self.stride - self._last_start, 0)  # by how much the last row is moved back
        self._windows = sliding_window_view(store.token_ids, seq_length + 1)

    def __len__(self) -> int:
        return self._n_rows

    def starts(self, rows: np.ndarray) -> np.ndarray:
        """int64 (B,): the stream position of the first input of each row."""
        return np.minimum(rows * self.stride, self._last_start)

    def positions(self, rows: np.ndarray) -> np.ndarray:
        """int64 (B, T): the stream position of each input of rows int64 (B,); its label is one further on."""
        return self.starts(rows)[:, None] + np.arange(self.seq_length)

    def gather(self, rows: np.ndarray) -> Rows:
        """`input_ids` and `labels`, int64 (B, T), of rows int64 (B,)."""
        window = self._windows[self.starts(rows)]  # (B, T + 1), a copy in the store's narrow type
        labels = window[:, 1:].astype(np.int64)
        if self._masked and rows.max() == self._n_rows - 1:
            labels[rows == self._n_rows - 1, : self._masked] = IGNORE
        return {"input_ids": window[:, :-1].astype(np.int64), "labels": labels}


class DocumentRows:
    """Rows that never cross a document: each begins a document, or goes on where the last row of it stopped.

    Rows longer than what is left of their document are padded; padding has label -100, `document_ids` -1.

    >>> store = TokenStore.from_token_ids([5, 6, 7, 8, 9], vocab_size=10, document_ends=[2, 5])
    >>> DocumentRows(store, seq_length=3).gather(np.array([0, 1]))["input_ids"].tolist()
    [[5, 0, 0], [7, 8, 0]]
    """

    def __init__(self, store: TokenStore, seq_length: int) -> None:
        ends = store.document_ends.astype(np.int64)
        lengths = np.diff(ends, prepend=0)
        rows_each = -(-np.maximum(lengths - 1, 0) // seq_length)  # a document of one token has no target, so no row
        self.seq_length = seq_length
        self.pad_token_id = store.pad_token_id
        self._token_ids = store.token_ids
        self._ends = ends
        self._row_ends = np.cumsum(rows_each)
        if not len(self):
            raise ValueError("no document has two tokens, one input and its label: add text")

    def __len__(self) -> int:
        return int(self._row_ends[-1])

    def positions(self, rows: np.ndarray) -> np.ndarray:
        """int64 (B, T): the stream position of each input of rows int64 (B,), -1 for padding. Labels: one on."""
        where, inside, _ = self._locate(rows)
        return np.where(inside, where[:, :-1], -1)

    def _locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Stream positions (B, T + 1), which of the T labels are in the row's document (B, T), that document (B,)."""
        document = np.searchsorted(self._row_ends, rows, side="right")
        first_row = np.where(document > 0, self._row_ends[document - 1], 0)
        first_token = np.where(document > 0, self._ends[document - 1], 0)
        start = first_token + (rows - first_row) * self.seq_length
        where = start[:, None] + np.arange(self.seq_length + 1)
        return where, where[:, 1:] < self._ends[document][:, None], document

    def gather(self, rows: np.ndarray) -> Rows:
        """`input_ids`, `labels`, `position_ids` (from 0 in each row) and `document_ids`, int64 (B, T)."""
        where, inside, document = self._locate(rows)
        window = self._token_ids[np.minimum(where, self._ends[document][:, None] - 1)].astype(np.int64)
        positions = np.broadcast_to(np.arange(self.seq_length), inside.shape)
        return {
            "input_ids": np.where(inside, window[:, :-1], self.pad_token_id),
            "labels": np.where(inside, window[:, 1:], IGNORE),
            "position_ids": positions.copy(),
            "document_ids": np.where(inside, document[:, None], -1),
        }
