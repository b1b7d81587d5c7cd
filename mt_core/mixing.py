"""Several datasets as one, by weight: which source comes when is arithmetic. Does not read rows itself.

At every place of the stream each source has come in proportion to its weight, rounded down or up. Each source has
epochs of its own: a small one begins its second while a large one is in its first. Which source, in which of its
epochs, which of its rows stands at place n needs no history, so resuming and sharing among ranks are arithmetic, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mt_core.arguments import check_count
from mt_core.dataset import Batch, RowBatch, TransformerDataset, row_number
from mt_core.order import NO_ROW, EpochSampler, permute

_LONGEST_CYCLE = 1 << 16


class MixedDataset(Dataset[Batch]):
    """Datasets, each with a weight, to be read by `TokenLoader` in these proportions.

    Indexed by itself it is the sources one after another: row i of the second is row `len(first) + i`. The weights
    are for the order, which the loader asks for.

    Args:
        sources: pairs of a dataset and its weight, a positive number. Weights are taken to the nearest fraction with
            a denominator up to 1000, and then as the smallest whole numbers in the same proportions.
        n_samples: rows in an epoch of the mix; by default as many as give each row of the first source once.

    Raises:
        ValueError: weights that cannot be used, or datasets whose rows do not go into one batch.

    >>> from mt_core.store import TokenStore
    >>> one, other = (TransformerDataset(TokenStore.from_token_ids(range(9), vocab_size=9), seq_length=2) for _ in "ab")
    >>> mixed = MixedDataset([(one, 0.75), (other, 0.25)])
    >>> mixed.weights, mixed.n_samples
    ((3, 1), 5)
    """

    def __init__(
        self, sources: Sequence[tuple[TransformerDataset, float | Fraction]], *, n_samples: int | None = None
    ) -> None:
        if not isinstance(sources, Sequence) or not sources:
            raise ValueError("there is nothing to mix: pass [(dataset, weight), (dataset, weight)]")
        for pair in sources:
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], TransformerDataset):
                raise ValueError(
                    f"a mix holds {pair!r}: pairs of a TransformerDataset and a weight are needed, [(dataset, 3), …]"
                )
        self.sources = tuple(dataset for dataset, _ in sources)
        self.weights = whole_weights([weight for _, weight in sources])
        _check_alike(self.sources)
        first = self.sources[0]
        self.seq_length, self.provenance, self.seed = first.seq_length, first.provenance, first.seed
        self.augment = tuple(one for source in self.sources for one in source.augment)
        self.starts = np.cumsum([0, *map(len, self.sources)])  # number of the first row of each source, and their sum
        if n_samples is None:
            n_samples = Mix(self.weights).position(0, len(first) - 1) + 1
        check_count("n_samples", n_samples)
        self.n_samples = int(n_samples)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> Batch:
        return {name: tensor[0] for name, tensor in self.gather(row_number(index, len(self))).items()}

    def __getitems__(self, numbers: Sequence[int]) -> RowBatch:
        """The rows of a batch; PyTorch's loaders call this with a list of what the order gave."""
        return RowBatch(self.gather(np.asarray(numbers, dtype=np.int64)))

    def locate(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Source, epoch of that source and row of it, int64 (B,) each, for numbers int64 (B,) that the order gave."""
        epochs, rows = np.divmod(numbers, len(self))
        sources = np.searchsorted(self.starts, rows, side="right") - 1
        return sources, epochs, rows - self.starts[sources]

    def gather(self, numbers: np.ndarray) -> Batch:
        """Tensors (B, T), in the order of `numbers`, int64 (B,): `epoch * len(mixed) + row`, or `NO_ROW`.

        With provenance, `row` counts through all sources, and `epoch` is that of the source; see `locate`.
        """
        missing = numbers == NO_ROW
        sources, epochs, rows = self.locate(np.where(missing, 0, numbers))
        batch: Batch = {}
        for source in np.unique(sources).tolist():
            dataset, here = self.sources[source], np.flatnonzero(sources == source)
            wanted = rows[here] + (epochs[here] * len(dataset) if dataset.augment else 0)
            part = dataset.gather(np.where(missing[here], NO_ROW, wanted))
            if self.provenance:
                there = torch.from_numpy(~missing[here])
                part["provenance"][there, 0] += int(self.starts[source])
                part["provenance"][there, 1] = torch.from_numpy(epochs[here])[there]
            for name, tensor in part.items():
                batch.setdefault(name, tensor.new_empty((len(numbers), *tensor.shape[1:])))[here] = tensor
        return batch

    def create_sampler(self, **order: Any) -> MixedSampler:
        """The order of this mix for `TokenLoader`; the arguments are those of `EpochSampler`."""
        return MixedSampler(self, **order)

    def buckets(self) -> tuple[np.ndarray, tuple[int, ...]]:
        """Raises ValueError: batches by length would upset the proportions."""
        raise ValueError("token_budget does not go with several sources: batches by length would upset their weights")

    def settings(self) -> dict[str, Any]:
        """What decides the stream: weights, samples of an epoch, and the settings of each source."""
        sources = [{"weight": w, **s.settings()} for w, s in zip(self.weights, self.sources, strict=True)]
        return {"mix": sources, "n_samples": self.n_samples}


class MixedSampler(EpochSampler):
    """The order of a mix: `epoch * len(mixed) + row` for each place, with the source's epoch."""

    def __init__(self, mixed: MixedDataset, **order: Any) -> None:
        super().__init__(mixed.n_samples, **order)
        self._mix, self._starts = Mix(mixed.weights), mixed.starts

    def _numbers(self, start: int, stop: int, epoch: int) -> np.ndarray:
        sources, earlier = self._mix.at(np.arange(start, stop) + epoch * self.n_rows)
        numbers = np.empty(stop - start, np.int64)
        for source, first in enumerate(self._starts[:-1].tolist()):
            here, n = sources == source, int(self._starts[source + 1]) - first
            epochs, rows = np.divmod(earlier[here], n)
            if self.shuffle:
                for one in np.unique(epochs).tolist():
                    same = epochs == one
                    rows[same] = permute(rows[same], n, (self.seed, one, source))
            numbers[here] = epochs * self._starts[-1] + first + rows
        return numbers


class Mix:
    """Which source stands where, by whole weights w with sum W: after n places one of weight w came n w / W times,
    rounded down or up.

    The order repeats after W places, and one such cycle is worked out once. The j-th sample of a source may come when
    floor((j - 1) W / w) places are taken, and must have come when ceil(j W / w) are; of those that may, the one that
    must come first is taken, the first listed among equals. Taking the earliest deadline meets all deadlines that can
    be met (Horn 1974), and these can: giving each source its exact share of every place meets them.

    >>> Mix((3, 1)).at(np.arange(8))[0].tolist()
    [0, 0, 0, 1, 0, 0, 0, 1]
    """

    def __init__(self, weights: Sequence[int]) -> None:
        self.weights, self.cycle = np.array(weights, np.int64), sum(weights)
        taken = [0] * len(weights)
        order = []
        for place in range(self.cycle):
            may = [i for i, w in enumerate(weights) if taken[i] * self.cycle < (place + 1) * w]
            source = min(may, key=lambda i: -(-(taken[i] + 1) * self.cycle // weights[i]))
            order.append(source)
            taken[source] += 1
        self._order = np.array(order)
        came = self._order[:, None] == np.arange(len(weights))
        self._earlier = (np.cumsum(came, axis=0) - came)[np.arange(self.cycle), self._order]  # of the same source
        self._places = [np.flatnonzero(self._order == i) for i in range(len(weights))]

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Source at each place, int64 (n,), and how many samples of it come before."""
        cycles, places = np.divmod(positions, self.cycle)
        sources = self._order[places]
        return sources, cycles * self.weights[sources] + self._earlier[places]

    def position(self, source: int, sample: int) -> int:
        """The place where a source's sample, from 0, stands."""
        cycles, rest = divmod(sample, int(self.weights[source]))
        return cycles * self.cycle + int(self._places[source][rest])


def whole_weights(weights: Sequence[float | Fraction]) -> tuple[int, ...]:
    """The smallest whole numbers in the proportions of `weights`, each taken to the nearest n/d with d up to 1000.

    Raises:
        ValueError: a weight is not a positive number, or the numbers are too unlike.

    >>> whole_weights([0.7, 0.2, 0.1]), whole_weights([1 / 3, 2 / 3]), whole_weights([30, 10])
    ((7, 2, 1), (1, 2), (3, 1))
    """
    parts = []
    for weight in weights:
        if isinstance(weight, bool) or not isinstance(weight, int | float | Fraction) or not 0 < weight < float("inf"):
            raise ValueError(f"weight {weight!r}: a positive number is needed, such as 3 or 0.25")
        parts.append(Fraction(weight).limit_denominator(1000))
        if not parts[-1]:
            raise ValueError(f"weight {weight!r} is 0 to the nearest thousandth: make all weights larger")
    common = lcm(*(part.denominator for part in parts))
    whole = [int(part * common) for part in parts]
    divisor = gcd(*whole)
    whole = [weight // divisor for weight in whole]
    if sum(whole) > _LONGEST_CYCLE:
        raise ValueError(
            f"the weights {', '.join(map(str, weights))} are {', '.join(map(str, whole))} in whole numbers, with sum "
            f"{sum(whole):,}; up to {_LONGEST_CYCLE:,} are: round them"
        )
    return tuple(whole)


def _check_alike(sources: Sequence[TransformerDataset]) -> None:
    first = sources[0]
    for number, other in enumerate(sources[1:], 2):
        for name, ours, theirs in (
            ("seq_length", first.seq_length, other.seq_length),
            ("vocab_size", first.store.vocab_size, other.store.vocab_size),
            ("tokenizer", first.store.tokenizer_hash, other.store.tokenizer_hash),
            ("provenance", first.provenance, other.provenance),
            ("seed", first.seed, other.seed),
            ("tensors", list(first[0]), list(other[0])),
        ):
            if ours != theirs and not (name == "tokenizer" and None in (ours, theirs)):
                raise ValueError(
                    f"the first source has {name}={ours!r}, source {number} has {theirs!r}: they must agree"
                )
        if first.length_buckets or other.length_buckets:
            raise ValueError("length_buckets do not go with several sources: leave them out")
