"""Batches of any loader, as two arrays: inputs and labels. Does not know where they come from.

Shapes: B rows, T inputs in a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch

from mt_core.windows import IGNORE

ShiftedBy = Literal["loader", "model"]
_INPUT_NAMES = ("input_ids", "inputs", "tokens", "x")
_LABEL_NAMES = ("labels", "targets", "target", "y")


def inputs_and_labels(batch: Any, *, shifted_by: ShiftedBy = "loader") -> tuple[np.ndarray, np.ndarray]:
    """Two int64 arrays (B, T): `labels[b, t]` is what is to be predicted from `inputs[b, t]`; -100 for nothing.

    Args:
        batch: a mapping or object with `input_ids` and `labels` (or the like), a pair (x, y), a list of rows of
            those, or arrays or lists of token ids without labels, whose labels are their own next tokens.
        shifted_by: "model" for labels that stand under their inputs because the model shifts them.

    Raises:
        ValueError: a batch of another kind.

    >>> inputs_and_labels({"input_ids": [[5, 6]], "labels": [[6, 7]]})
    (array([[5, 6]]), array([[6, 7]]))
    >>> inputs_and_labels([[5, 6, 7]])
    (array([[5, 6]]), array([[6, 7]]))
    """
    if shifted_by not in get_args(ShiftedBy):
        raise ValueError(f"shifted_by={shifted_by!r}, it must be one of {', '.join(get_args(ShiftedBy))}")
    found = _split(batch)
    if found is None and isinstance(batch, Sequence) and batch:  # a list of rows, each with its own labels
        rows = [_split(row) for row in batch]
        if all(row is not None and row[1] is not None for row in rows):
            found = tuple([row[part] for row in rows] for part in (0, 1))  # type: ignore[index, assignment]
        elif all(row is not None for row in rows):
            found = [row[0] for row in rows], None  # type: ignore[index]
    if found is None:
        raise ValueError(
            f"a batch is {_described(batch)}: input_ids and labels, a pair (x, y) or rows of token ids are known; "
            "pass adapt=, a function that takes a batch and gives (input_ids, labels)"
        )
    inputs = _as_rows(found[0])
    labels = inputs if found[1] is None else _as_rows(found[1])
    if labels.shape != inputs.shape:
        raise ValueError(f"input_ids have shape {inputs.shape}, labels {labels.shape}: both must be (B, T)")
    if found[1] is None or shifted_by == "model":
        inputs, labels = inputs[:, :-1], labels[:, 1:]
    return inputs, labels


def _split(batch: Any) -> tuple[Any, Any] | None:
    """(inputs, labels or None) of a batch or a row; None if that is not what it is."""
    if isinstance(batch, Mapping):
        named = batch
    elif hasattr(batch, "input_ids"):
        named = vars(batch)
    elif isinstance(batch, torch.Tensor | np.ndarray):
        return batch, None
    elif isinstance(batch, Sequence) and len(batch) == 2 and all(_is_array(part) for part in batch):
        return batch[0], batch[1]
    elif isinstance(batch, Sequence) and batch and all(_is_ids(row) for row in batch):
        return batch, None
    else:
        return None
    inputs = next((named[name] for name in _INPUT_NAMES if name in named), None)
    labels = next((named[name] for name in _LABEL_NAMES if name in named), None)
    return None if inputs is None else (inputs, labels)


def _is_array(part: Any) -> bool:
    return isinstance(part, torch.Tensor | np.ndarray) and part.ndim > 0


def _is_ids(row: Any) -> bool:
    """Whether it is one token id, or a list of them."""
    whole = int | np.integer
    return isinstance(row, whole) or (isinstance(row, Sequence) and all(isinstance(one, whole) for one in row))


def _as_rows(values: Any) -> np.ndarray:
    """int64 (B, T); one row becomes (1, T), and rows of unequal length are filled up with -100."""
    if isinstance(values, Sequence) and values and not isinstance(values[0], int | np.integer):
        rows = [np.asarray(row).reshape(-1) for row in values]
        longest = max(len(row) for row in rows)
        array = np.full((len(rows), longest), IGNORE, dtype=np.int64)
        for filled, row in zip(array, rows, strict=True):
            filled[: len(row)] = row
        return array
    array = np.asarray(values)
    if array.ndim not in (1, 2) or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"got {_described(values)}: whole numbers of shape (B, T) are needed; pass adapt=")
    return np.atleast_2d(array).astype(np.int64)


def _described(value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, Mapping):
        return f"a {kind} with {', '.join(map(str, value)) or 'nothing in it'}"
    if hasattr(value, "shape"):
        return f"a {kind} of shape {tuple(value.shape)} and type {value.dtype}"
    if isinstance(value, Sequence) and value:
        return f"a {kind} of {len(value)}, the first of them a {type(value[0]).__name__}"
    return f"a {kind}"
