"""Which row comes when: (seed, epoch, position) to row number. Does not read rows.

The order is arithmetic, not a stored shuffle: any stretch of any epoch can be computed by itself, in memory
that does not grow with the corpus, and resuming is starting at another position.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

_BLOCK = 1 << 13  # positions computed at a time; affects speed alone


def permute(positions: np.ndarray, n: int, key: tuple[int, ...]) -> np.ndarray:
    """A pseudo-random permutation of range(n), evaluated at some positions: int64 array of the same shape.

    A Feistel network (Luby and Rackoff 1988) permutes the numbers of as many bits as n - 1 has; results that
    fall outside range(n) are walked on until they fall inside (Black and Rogaway 2002).

    Args:
        positions: int64, each in range(n).
        n: how many there are, up to 2**62.
        key: whole numbers from 0, below 2**64, that choose the permutation; (1, 0) and (0, 1) choose differently.

    >>> sorted(permute(np.arange(5), 5, (0, 0)).tolist())
    [0, 1, 2, 3, 4]
    """
    bits = max((n - 1).bit_length(), 2)
    low = bits // 2  # bits of the right half; the left half has as many, or one more
    # Measured: with 6 rounds some orders of 6 rows come 2 times as often as others, with 18 all equally often.
    # SeedSequence joins the 32-bit words of its numbers: (2**32, 0) and (0, 1) would be the same without high words.
    words = [part & 0xFFFFFFFF for part in key] + [part >> 32 for part in key]
    keys = np.random.SeedSequence(words).generate_state(6 if bits > 12 else 18, np.uint32)
    # An even number of rounds brings each half back to its own side, so halves of unequal width need no care.
    rounds = [(round_key, np.uint32(32 - (low if i % 2 else bits - low))) for i, round_key in enumerate(keys)]

    def once(values: np.ndarray) -> np.ndarray:
        left = (values >> low).astype(np.uint32)
        right = (values & ((1 << low) - 1)).astype(np.uint32)
        for round_key, shift in rounds:
            mixed = right ^ round_key  # the finalizer of MurmurHash3, then as many of its high bits as left has
            mixed *= np.uint32(0x85EBCA6B)
            mixed ^= mixed >> np.uint32(13)
            mixed *= np.uint32(0xC2B2AE35)
            mixed >>= shift
            mixed ^= left
            left, right = right, mixed
        return (left.astype(np.int64) << low) | right

    positions = np.asarray(positions, dtype=np.int64)
    values = once(positions.ravel())
    outside = np.flatnonzero(values >= n)
    while outside.size:
        values[outside] = again = once(values[outside])
        outside = outside[again >= n]
    return values.reshape(positions.shape)


def epoch_rows(start: int, stop: int, n_rows: int, *, seed: int, epoch: int, shuffle: bool) -> np.ndarray:
    """int64 (stop - start,): the row numbers at positions start to stop of one epoch over n_rows rows."""
    positions = np.arange(start, stop)
    return permute(positions, n_rows, (seed, epoch)) if shuffle else positions


class EpochSampler(Sampler[int]):
    """The rows of one epoch from a position on. `TokenLoader` sets `epoch` and `position` before each pass."""

    def __init__(self, n_rows: int, *, seed: int, shuffle: bool) -> None:
        self.n_rows, self.seed, self.shuffle = n_rows, seed, shuffle
        self.epoch = self.position = 0

    def __len__(self) -> int:
        return self.n_rows

    def __iter__(self) -> Iterator[int]:
        for block in self.blocks(_BLOCK):
            yield from block.tolist()

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """The same rows as int64 arrays of `size`, the last one shorter."""
        epoch, position = self.epoch, self.position
        for start in range(position, self.n_rows, size):
            stop = min(start + size, self.n_rows)
            yield epoch_rows(start, stop, self.n_rows, seed=self.seed, epoch=epoch, shuffle=self.shuffle)
