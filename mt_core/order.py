"""Which row comes when: (seed, epoch, position) to row number. Does not read rows.

The order is arithmetic, not a stored shuffle: any stretch of any epoch can be computed by itself, in memory
that does not grow with the corpus, and resuming is starting at another position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

NO_ROW = -(1 << 62)  # in place of a row number: this rank has no row here
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


class _Order:
    """Where a pass starts, and who reads it: the `TokenLoader` it belongs to, or another loader around its sampler.

    Frameworks such as Accelerate take a loader apart and build their own around what is inside; they say with
    `set_epoch` which epoch comes.
    """

    world_size: int
    # "anyone", without a TokenLoader; else "nobody" yet, "loader" (it begins a pass), "resumed" (it is to) or "other"
    reader = "anyone"
    epoch = position = 0
    told: int | None = None  # the epoch that a framework says comes

    def begin(self, epoch: int, position: int) -> None:
        """The next pass is one of the `TokenLoader` that this belongs to."""
        self.epoch, self.position, self.reader, self.told = epoch, position, "loader", None

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next pass of another loader; `TokenLoader` knows its own, and compares."""
        self.told = epoch

    def _start(self) -> None:
        """A pass starts at `epoch` and `position`.

        Raises:
            ValueError: it is another loader's, which would give other rows than it should.
        """
        if self.reader == "loader":
            self.reader = "nobody"
        elif self.reader != "anyone":
            if self.world_size > 1:
                raise ValueError(
                    f"another loader reads through this one, which deals out its rows to {self.world_size} ranks "
                    "already: they would be dealt out twice. Use this loader as it is, without Accelerate's prepare; "
                    "or make it with rank=0, world_size=1 and DataLoaderConfiguration(split_batches=True)"
                )
            if self.reader == "resumed":
                raise ValueError(
                    "another loader reads through this one and would not start from the state that was loaded: resume "
                    "with the other's means, such as Accelerate's set_epoch and skip_first_batches"
                )
            if self.told is None:
                raise ValueError(
                    "another loader reads through this one and did not say which epoch: call its set_epoch(epoch), or "
                    "this one's, before each pass"
                )
            self.epoch, self.position, self.reader, self.told = self.told, 0, "other", None


class EpochSampler(_Order, Sampler[int]):
    """The rows of one epoch from a position on. `TokenLoader` says which, and from where, before each pass.

    With several ranks, the rows of a global batch are dealt out in slices, the first `batch_size / world_size` of them
    to rank 0 and so on. All ranks take equally many steps: what the last batch lacks is `NO_ROW`.

    Args:
        n_rows: rows in an epoch.
        batch_size: rows of all ranks together in one step; a multiple of world_size.
        drop_last: leave out the steps that are not full.
        rank, world_size: which slice, of how many.
        with_epoch: give `epoch * n_rows + row` for each row, for datasets whose rows differ from epoch to epoch: the
            number is all that reaches a worker that stays.
    """

    def __init__(
        self,
        n_rows: int,
        *,
        seed: int,
        shuffle: bool,
        batch_size: int = 1,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        with_epoch: bool = False,
    ) -> None:
        self.n_rows, self.seed, self.shuffle, self.with_epoch = n_rows, seed, shuffle, with_epoch
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.n_steps = n_rows // batch_size if drop_last else -(-n_rows // batch_size)

    def __len__(self) -> int:
        return self.n_rows if self.world_size == 1 else self.n_steps * self.batch_size // self.world_size

    def __iter__(self) -> Iterator[int]:
        self._start()
        for block in self.blocks(_BLOCK // self.batch_size or 1):
            yield from block.tolist()

    def blocks(self, n_steps: int) -> Iterator[np.ndarray]:
        """The same rows as int64 arrays of `n_steps` steps' each, the last one shorter."""
        epoch, done = self.epoch, self.position // self.batch_size
        for first in range(done, self.n_steps, n_steps):
            stop = min(first + n_steps, self.n_steps)
            start, end = first * self.batch_size, min(stop * self.batch_size, self.n_rows)
            rows = self._numbers(start, end, epoch)
            yield rows if self.world_size == 1 else self._slices(rows, stop - first)

    def _numbers(self, start: int, stop: int, epoch: int) -> np.ndarray:
        """What stands for the rows at some positions of an epoch, int64 (stop - start,)."""
        rows = epoch_rows(start, stop, self.n_rows, seed=self.seed, epoch=epoch, shuffle=self.shuffle)
        return rows + epoch * self.n_rows if self.with_epoch else rows

    def _slices(self, rows: np.ndarray, n_steps: int) -> np.ndarray:
        """This rank's part of the rows of some steps."""
        whole = np.full(n_steps * self.batch_size, NO_ROW)
        whole[: len(rows)] = rows
        return whole.reshape(n_steps, self.world_size, -1)[:, self.rank].ravel()


class BucketBatches(_Order, Sampler[list[int]]):
    """The batches of one epoch, each of rows of about one length, so that little is padded; from a batch on.

    A batch holds rows of one bucket alone, as many as fit a budget of tokens, so only a few shapes occur. Both the rows
    of a bucket and the order of all batches are shuffled anew each epoch.

    Args:
        row_lengths: int64 (rows,), tokens in each row.
        buckets: the lengths rows are filled up to, increasing; the last holds the longest row.
        token_budget: rows times bucket length stays within it in each batch of all ranks.
        seed, shuffle, drop_last, rank, world_size, with_epoch: as for `EpochSampler`.

    Raises:
        ValueError: the budget is less than one row of each rank in the longest bucket.
    """

    def __init__(
        self,
        row_lengths: np.ndarray,
        buckets: Sequence[int],
        token_budget: int,
        *,
        seed: int,
        shuffle: bool,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        with_epoch: bool = False,
    ) -> None:
        if token_budget < buckets[-1] * world_size:
            raise ValueError(
                f"token_budget={token_budget} does not hold one row of {buckets[-1]} tokens for each of "
                f"{world_size} rank{'s' * (world_size > 1)}: give at least {buckets[-1] * world_size}"
            )
        self.seed, self.shuffle, self.rank, self.world_size = seed, shuffle, rank, world_size
        self._per_epoch = len(row_lengths) if with_epoch else 0
        bucket_of = np.searchsorted(buckets, row_lengths)
        self._rows = [np.flatnonzero(bucket_of == b) for b in range(len(buckets))]
        self._sizes = [token_budget // length // world_size * world_size for length in buckets]
        counts = [
            len(rows) // size if drop_last else -(-len(rows) // size)
            for rows, size in zip(self._rows, self._sizes, strict=True)
        ]
        self._firsts = np.cumsum([0, *counts])  # number of the first batch of each bucket
        # Rows in the largest batch, and batches, of each bucket: where these are others, so is the stream.
        self.layout = [
            [min(size, len(rows)), count] for size, rows, count in zip(self._sizes, self._rows, counts, strict=True)
        ]
        self._samples = (-1, self._firsts)  # an epoch and its samples: a prefetcher asks at each batch

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def samples(self, epoch: int) -> np.ndarray:
        """int64 (batches + 1,): rows delivered before each batch of an epoch, by all ranks, and after the last."""
        if self._samples[0] != epoch:
            bucket, chunk = self._located(np.arange(len(self)), epoch)
            sizes, lengths = np.array(self._sizes)[bucket], np.array([len(rows) for rows in self._rows])[bucket]
            self._samples = epoch, np.concatenate(([0], np.cumsum(np.minimum(sizes, lengths - chunk * sizes))))
        return self._samples[1]

    def __iter__(self) -> Iterator[list[int]]:
        self._start()
        epoch = self.epoch
        first = int(np.searchsorted(self.samples(epoch), self.position))  # position: rows of earlier batches
        for bucket, chunk in zip(*self._located(np.arange(first, len(self)), epoch), strict=True):
            rows, size = self._rows[bucket], self._sizes[bucket]
            positions = np.arange(chunk * size, min((chunk + 1) * size, len(rows)))
            if self.shuffle:
                positions = permute(positions, len(rows), (self.seed, epoch, 1 + int(bucket)))
            chosen = rows[positions] + epoch * self._per_epoch
            if self.world_size > 1:
                filled = np.concatenate((chosen, np.full(size - len(chosen), NO_ROW)))
                chosen = filled.reshape(self.world_size, -1)[self.rank]
            yield chosen.tolist()

    def _located(self, batches: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Bucket, and number inside it, of the batches at some places of an epoch's order."""
        if self.shuffle:
            batches = permute(batches, len(self), (self.seed, epoch, 0))
        bucket = np.searchsorted(self._firsts, batches, side="right") - 1
        return bucket, batches - self._firsts[bucket]


def data_ranks(rank: int | None = None, world_size: int | None = None) -> tuple[int, int]:
    """Which data-parallel rank this process is, of how many, both given or both as `torch.distributed` says.

    Without `torch.distributed` there is one rank. Processes that have to read the same rows, as those of tensor and
    pipeline parallelism do, are given the same rank: see `mt_core.distributed`.

    Raises:
        ValueError: one of the two is missing, or there is no such rank.
    """
    if rank is None and world_size is None:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return 0, 1
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    fits = all(isinstance(value, int) and not isinstance(value, bool) for value in (rank, world_size))
    if not fits or not 0 <= rank < world_size:  # type: ignore[operator]
        raise ValueError(
            f"rank={rank!r}, world_size={world_size!r}: whole numbers with 0 <= rank < world_size are needed"
        )
    return rank, world_size  # type: ignore[return-value]
