"""Items into bins of one size, by best fit decreasing. Knows nothing of tokens or documents."""

from __future__ import annotations

import numpy as np


def pack(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Bins for items by best fit decreasing: int64 (n,), the bin of each item, numbered from 0 as they are opened.

    The longest item comes first; each goes where the least room is left over, into a new bin where it fits none.
    Items of equal length are placed together, so that time grows with the distinct lengths more than with the items.

    Args:
        lengths: int64 (n,), each from 1 to `capacity`.

    >>> pack(np.array([2, 3, 4, 1]), 5).tolist()
    [1, 1, 0, 0]
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    if lengths.size and not 1 <= lengths.min() <= lengths.max() <= capacity:
        raise ValueError(f"lengths go from {lengths.min()} to {lengths.max()}, 1 to capacity={capacity} is needed")
    bins = np.empty(len(lengths), dtype=np.int64)
    if not lengths.size:
        return bins
    capacity = min(capacity, int(lengths.sum()))  # one bin that holds them all is as good as a larger one
    by_length = np.argsort(-lengths, kind="stable")
    sizes, firsts = np.unique(-lengths[by_length], return_index=True)
    room: list[list[np.ndarray]] = [[] for _ in range(capacity + 1)]  # open bins by the room that is left in them
    has_room = np.zeros(capacity + 1, dtype=bool)
    n_bins = 0
    for size, items in zip((-sizes).tolist(), np.split(by_length, firsts[1:]), strict=True):
        while len(items):
            left = size + int(np.argmax(has_room[size:])) if has_room[size:].any() else 0
            if left:
                free = np.concatenate(room[left])
                room[left], has_room[left] = [], False
            else:
                left = capacity
                free = np.arange(n_bins, n_bins - (-len(items) // (capacity // size)))
                n_bins += len(free)
            each = left // size  # one item into a bin leaves the best fit for the next, until it is full
            n_full, rest = divmod(len(items), each)
            full, free = free[:n_full], free[n_full:]
            n_placed = len(full) * each
            bins[items[:n_placed]] = np.repeat(full, each)
            _put(room, has_room, left - each * size, full)
            items = items[n_placed:]
            if len(free) and len(items):  # fewer items than one bin can take
                bins[items] = free[0]
                _put(room, has_room, left - rest * size, free[:1])
                free, items = free[1:], items[:0]
            _put(room, has_room, left, free)
    return bins


def _put(room: list[list[np.ndarray]], has_room: np.ndarray, left: int, bins: np.ndarray) -> None:
    if left and len(bins):
        room[left].append(bins)
        has_room[left] = True
