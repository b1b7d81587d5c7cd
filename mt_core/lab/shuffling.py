"""How well an order is shuffled, as numbers beside those of a full shuffle. Does not read data and does not plot.

An order is an int64 array (R,): the numbers of the rows, in the order in which they were delivered.
Each expected value and each error bar is exact, over all permutations alike: no simulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# -- orders to look at ---------------------------------------------------------------------------------------


def shuffle_fully(order: np.ndarray, *, seed: int) -> np.ndarray:
    """Every permutation equally likely: what the others are measured against. int64 (R,)."""
    return np.random.default_rng(seed).permutation(np.asarray(order, dtype=np.int64))


def shuffle_blocks(order: np.ndarray, *, block_size: int, seed: int) -> np.ndarray:
    """Blocks of neighbours come in random order, each whole and in its own order, as shards of files do. int64 (R,).

    With `shuffle_with_buffer` after it, this is CorgiPile (Xu et al. 2022, arXiv:2206.05830).

    >>> shuffle_blocks(np.arange(6), block_size=2, seed=0).tolist()
    [4, 5, 0, 1, 2, 3]
    """
    order = np.asarray(order, dtype=np.int64)
    _check_size("block_size", block_size)
    blocks = [order[start : start + block_size] for start in range(0, len(order), block_size)]
    chosen = np.random.default_rng(seed).permutation(len(blocks))
    return np.concatenate([blocks[i] for i in chosen]) if blocks else order


def shuffle_with_buffer(order: np.ndarray, *, buffer_size: int, seed: int) -> np.ndarray:
    """A buffer is kept full from the order; each row delivered is drawn from it at random. int64 (R,).

    A row can come at most `buffer_size - 1` places early, and any number of places late.

    >>> shuffle_with_buffer(np.arange(6), buffer_size=2, seed=0).tolist()
    [1, 2, 3, 0, 5, 4]
    """
    order = np.asarray(order, dtype=np.int64)
    _check_size("buffer_size", buffer_size)
    random = np.random.default_rng(seed)
    buffer, delivered = order[:buffer_size].copy(), np.empty_like(order)
    for place in range(len(order)):
        waiting = min(buffer_size, len(order) - place)
        drawn = int(random.integers(waiting))
        delivered[place] = buffer[drawn]
        # The next row of the order takes the place of the one drawn; at the end, the last one of the buffer does.
        buffer[drawn] = order[place + buffer_size] if place + buffer_size < len(order) else buffer[waiting - 1]
    return delivered


# -- their numbers -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """A number of one order, and what a full shuffle of the same rows gives: its mean and standard deviation."""

    value: float
    expected: float
    deviation: float

    @property
    def z(self) -> float:
        """How many standard deviations `value` lies from a full shuffle's mean; 0 where all orders are alike."""
        gap = self.value - self.expected
        if self.deviation == 0:
            return 0.0 if abs(gap) < 1e-9 else float(np.copysign(np.inf, gap))
        return gap / self.deviation

    def __str__(self) -> str:
        return f"{self.value:.3f} (full shuffle: {self.expected:.3f} ± {self.deviation:.3f})"


@dataclass(frozen=True, kw_only=True)
class OrderStatistics:
    """The numbers of one order; see the functions of the same names."""

    rows: int
    serial_correlation: Statistic
    distance_moved: Statistic
    document_mixing: Statistic | None

    @property
    def like_a_full_shuffle(self) -> bool:
        """Whether each number lies within 4 standard deviations of a full shuffle's mean.

        It says that these numbers find no difference, not that there is none.
        """
        numbers = (self.serial_correlation, self.distance_moved, self.document_mixing)
        return all(abs(number.z) <= 4 for number in numbers if number is not None)

    def __str__(self) -> str:
        lines = [f"serial correlation {self.serial_correlation}", f"distance moved {self.distance_moved}"]
        if self.document_mixing is not None:
            lines.append(f"same document within a batch {self.document_mixing}")
        return "\n".join(lines)


def order_statistics(
    order: np.ndarray, *, documents: np.ndarray | None = None, batches: int | Sequence[int] = 0
) -> OrderStatistics:
    """All numbers of one order.

    Args:
        order: int64 (R,), row numbers or the rows' first positions in the stream, as delivered; R from 4.
        documents: int64 (R,), the document of each delivered row; needed for `document_mixing`.
        batches: rows in a batch, or in each batch; needed for `document_mixing`.

    Raises:
        ValueError: fewer than 4 rows, or lengths that do not fit.

    >>> print(order_statistics(np.arange(1000)))
    serial correlation 0.997 (full shuffle: -0.001 ± 0.032)
    distance moved 0.000 (full shuffle: 0.333 ± 0.007)
    """
    mixing = None if documents is None or not batches else document_mixing(documents, batches)
    return OrderStatistics(
        rows=len(order),
        serial_correlation=serial_correlation(order),
        distance_moved=distance_moved(order),
        document_mixing=mixing,
    )


def serial_correlation(order: np.ndarray) -> Statistic:
    """How far a row's number tells the next one's: near 1 for rows in order, near 0 after a full shuffle.

    The sum of products of neighbours, each less the mean, over the sum of squares. Mean -1/R and variance over
    all permutations follow from the moments of such sums (Wald and Wolfowitz 1943, without closing the circle).

    >>> print(serial_correlation(np.arange(100)))
    0.970 (full shuffle: -0.010 ± 0.099)
    """
    values = _checked(order).astype(np.float64)
    n, z = len(values), values - values.mean()
    squares, fourths = float((z**2).sum()), float((z**4).sum())
    if squares == 0:
        return Statistic(value=0.0, expected=0.0, deviation=0.0)
    value = float((z[:-1] * z[1:]).sum() / squares)
    # The mean square of the sum: pairs taken with themselves, pairs that share a row, pairs that share none.
    second = (squares**2 - fourths) / n + (squares**2 - 2 * fourths) / (n * (n - 1))
    return Statistic(value=value, expected=-1 / n, deviation=_root(second / squares**2 - 1 / n**2))


def distance_moved(order: np.ndarray) -> Statistic:
    """How far rows are, on average, from their places in sorted order, as a share of the R rows: 1/3 is shuffled.

    Spearman's footrule divided by R squared; mean and variance by Diaconis and Graham (1977).

    >>> print(distance_moved(np.arange(100)[::-1]))
    0.500 (full shuffle: 0.333 ± 0.021)
    """
    values = _checked(order)
    n = len(values)
    sorted_order = np.argsort(values, kind="stable")
    moved = float(np.abs(sorted_order - np.arange(n)).sum())
    variance = (n + 1) * (2 * n**2 + 7) / 45
    return Statistic(value=moved / n**2, expected=(n**2 - 1) / (3 * n**2), deviation=variance**0.5 / n**2)


def document_mixing(documents: np.ndarray, batches: int | Sequence[int]) -> Statistic:
    """The chance that two rows of one batch come from the same document: 1 where batches are of one document each.

    Pairs of one batch that are also pairs of one document: a sum over two relations, whose mean and variance
    over all permutations are those of Mantel (1967).

    Args:
        documents: int64 (R,), the document of each row, in the order of delivery.
        batches: rows in a batch (the last may be smaller), or the rows in each batch.

    >>> print(document_mixing(np.arange(100) // 10, 10))
    1.000 (full shuffle: 0.091 ± 0.013)
    """
    documents = _checked(documents)
    n = len(documents)
    if isinstance(batches, int | np.integer):
        _check_size("batches", batches)
        sizes = np.diff(np.append(np.arange(0, n, batches), n))
    else:
        sizes = np.asarray(batches, dtype=np.int64)
    if sizes.sum() != n or (sizes < 0).any():
        raise ValueError(f"batches hold {sizes.sum()} rows, documents name {n}: give the rows of each batch")
    batch = np.repeat(np.arange(len(sizes)), sizes)
    _, document = np.unique(documents, return_inverse=True)
    _, both = np.unique(batch * (document.max() + 1) + document, return_counts=True)
    pairs = float((sizes * (sizes - 1)).sum())  # ordered pairs of rows that share a batch
    if pairs == 0:
        return Statistic(value=0.0, expected=0.0, deviation=0.0)
    a1, a3 = pairs, float((sizes * (sizes - 1.0) ** 2).sum())
    held = np.bincount(document)
    b1, b3 = float((held * (held - 1.0)).sum()), float((held * (held - 1.0) ** 2).sum())
    expected = b1 / (n * (n - 1))
    # Mantel's three terms: the same pair twice, two pairs that share one row, two pairs that share none.
    second = (
        2 * a1 * b1 / (n * (n - 1))
        + 4 * (a3 - a1) * (b3 - b1) / (n * (n - 1) * (n - 2))
        + (a1**2 + 2 * a1 - 4 * a3) * (b1**2 + 2 * b1 - 4 * b3) / (n * (n - 1) * (n - 2) * (n - 3))
    )
    deviation = _root(second / pairs**2 - expected**2)
    return Statistic(value=float((both * (both - 1)).sum()) / pairs, expected=expected, deviation=deviation)


def _checked(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or len(values) < 4:
        raise ValueError(f"got an array of shape {values.shape}, row numbers (R,) with R of at least 4 are needed")
    return values


def _check_size(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}={value!r}, a whole number of at least 1 is needed")


def _root(variance: float) -> float:
    return max(variance, 0.0) ** 0.5  # rounding may leave a hair below zero where all orders are alike
