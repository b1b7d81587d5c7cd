"""Batches of any loader, as two arrays: inputs and labels. Does not know where they come from.

Shapes: B rows, T inputs in a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch.utils.data import DataLoader

from mt_core.windows import IGNORE

ShiftedBy = Literal["loader", "model"]
_ADAPT = "pass adapt=, a function that takes a batch and gives (input_ids, labels)"
_INPUT_NAMES = ("input_ids", "inputs", "tokens", "x")
_LABEL_NAMES = ("labels", "targets", "target_ids", "target", "label", "y")


def check_loader(loader: Any, needed: str) -> None:
    """Refuse what gives no batches one after the other; `needed` says what does.

    Raises:
        ValueError: nothing to iterate over, a mapping, or a tuple of loaders, as `create_dataloaders` returns.
    """
    several = isinstance(loader, tuple) and any(isinstance(part, DataLoader) for part in loader)
    gives = hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")
    if several or not gives or isinstance(loader, str | Mapping):
        raise ValueError(f"got {_described(loader)}: {needed}")


def inputs_and_labels(batch: Any, *, shifted_by: ShiftedBy = "loader") -> tuple[np.ndarray, np.ndarray]:
    """Two int64 arrays (B, T): `labels[b, t]` is what is to be predicted from `inputs[b, t]`; -100 for nothing.

    Args:
        batch: a mapping or object with `input_ids` and `labels` (or the like), a pair (x, y), a list of rows of
            those, or arrays or lists of token ids without labels, whose labels are their own next tokens. Two lists
            of ids are a pair in a tuple, and two rows in a list.
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
    while isinstance(batch, list | tuple) and len(batch) == 1 and not _is_ids(batch[0]):
        (batch,) = batch  # as PyTorch's loader gives the rows of TensorDataset(ids)
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
            f"{_ADAPT}"
        )
    inputs = _as_rows(found[0])
    labels = inputs if found[1] is None else _as_rows(found[1])
    if labels.shape != inputs.shape:
        raise ValueError(f"input_ids have shape {inputs.shape}, labels {labels.shape}: both must be (B, T); {_ADAPT}")
    if found[1] is None or shifted_by == "model":
        inputs, labels = inputs[:, :-1], labels[:, 1:]
    return inputs, labels


def _split(batch: Any) -> tuple[Any, Any] | None:
    """(inputs, labels or None) of a batch or a row; None if that is not what it is."""
    if isinstance(batch, Mapping):
        named = batch
    elif hasattr(batch, "input_ids"):
        named = {name: getattr(batch, name) for name in _INPUT_NAMES + _LABEL_NAMES if hasattr(batch, name)}
    elif isinstance(batch, torch.Tensor | np.ndarray):
        return batch, None
    elif isinstance(batch, Sequence) and len(batch) == 2 and all(_is_array(part) for part in batch):
        return batch[0], batch[1]
    elif isinstance(batch, tuple) and len(batch) == 2 and all(_is_ids(part) or _is_rows(part) for part in batch):
        return batch[0], batch[1]
    elif _is_rows(batch) or _is_ids(batch):
        return batch, None
    else:
        return None
    inputs = next((named[name] for name in _INPUT_NAMES if name in named), None)
    labels = next((named[name] for name in _LABEL_NAMES if name in named), None)
    return None if inputs is None else (inputs, labels)


def _is_array(part: Any) -> bool:
    return isinstance(part, torch.Tensor | np.ndarray) and part.ndim > 0


def _is_ids(row: Any) -> bool:
    """Whether it is a list of token ids, one at least."""
    return isinstance(row, Sequence) and len(row) > 0 and all(isinstance(one, int | np.integer) for one in row)


def _is_rows(rows: Any) -> bool:
    """Whether it is a list of lists of token ids, of which some may be empty."""
    return isinstance(rows, Sequence) and any(map(_is_ids, rows)) and all(_is_ids(row) or row == [] for row in rows)


def _as_rows(values: Any) -> np.ndarray:
    """int64 (B, T); one row becomes (1, T), and rows of unequal length are filled up with -100."""
    if isinstance(values, Sequence) and values and not isinstance(values[0], int | np.integer):
        rows = [_as_row(row) for row in values]
        longest = max(len(row) for row in rows)
        array = np.full((len(rows), longest), IGNORE, dtype=np.int64)
        for filled, row in zip(array, rows, strict=True):
            filled[: len(row)] = row
        return array
    array = _as_array(values)
    if array.ndim not in (1, 2) or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"got {_described(values)}: whole numbers of shape (B, T) are needed; {_ADAPT}")
    return np.atleast_2d(array).astype(np.int64)


def _as_row(values: Any) -> np.ndarray:
    """Whole numbers (T,), from these or (1, T)."""
    array = _as_array(values)
    row = array[0] if array.ndim == 2 and len(array) == 1 else array
    if row.ndim != 1 or not (np.issubdtype(row.dtype, np.integer) or row.size == 0):
        raise ValueError(f"a row is {_described(values)}: whole numbers of shape (T,) are needed; {_ADAPT}")
    return row


def _as_array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _described(value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, Mapping):
        return f"a {kind} with {', '.join(map(str, value)) or 'nothing in it'}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"a {kind} of shape {tuple(value.shape)} and type {value.dtype}"
    if isinstance(value, Sequence) and value:
        first = _described(value[0]) if hasattr(value[0], "shape") else f"a {type(value[0]).__name__}"
        return f"a {kind} of {len(value)}, the first of them {first}"
    return f"a {kind}"
