"""Row to row: fill-in-the-middle, masked and dropped tokens, cuts that move. Does not read tokens or choose rows.

What an augmentation does to a row depends on (seed, epoch, row) alone, by arithmetic: no generator is kept, so it is
the same in any process, with any number of workers, and after resuming. For training only: `create_dataloaders` never
augments validation. An augmentation has its place in the list in its random numbers, so two of a kind draw apart.

Shapes: B rows asked for, T = seq_length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mt_core.arguments import check_count
from mt_core.windows import IGNORE, Rows

_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio, odd: the step of SplitMix64


def draw(seed: int, *counters: np.ndarray | int) -> np.ndarray:
    """Random numbers of [0, 1) that depend on the seed and the counters alone, float64 of their broadcast shape.

    SplitMix64 (Steele, Lea and Flood 2014), begun anew with each counter.

    Args:
        seed: from 0 to 2**64 - 1.
        counters: whole numbers from 0, or int64 arrays of them.

    >>> draw(0, 7, np.arange(3)).round(3).tolist()
    [0.631, 0.367, 0.879]
    """
    value = np.random.SeedSequence([seed & 0xFFFFFFFF, seed >> 32]).generate_state(1, np.uint64)
    shape = np.broadcast_shapes(*(np.shape(counter) for counter in counters))
    for counter in counters:
        value = value + (np.asarray(counter).astype(np.uint64) + np.uint64(1)) * np.array([_GOLDEN], np.uint64)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        value ^= value >> np.uint64(31)
    return ((value >> np.uint64(11)) * 2.0**-53).reshape(shape)


@dataclass(frozen=True, kw_only=True)
class RowContext:
    """What an augmentation may know of the rows it is given.

    Attributes:
        seed, place: of the loader; and the augmentation's place in its list, from 0.
        epochs, rows: int64 (B,) each, for every row.
        special: ids of [PAD], [CLS], [SEP] and [MASK].
        continuous: rows are cut from one stream, so the last label of a document is the first token of the next.
    """

    seed: int
    place: int
    epochs: np.ndarray
    rows: np.ndarray
    special: tuple[int, int, int, int]
    continuous: bool

    def draw(self, index: np.ndarray, *counters: np.ndarray | int) -> np.ndarray:
        """Random numbers for rows `index` of the batch: as `draw`, by seed, epoch and row."""
        return draw(self.seed, self.place, self.epochs[index], self.rows[index], *counters)


@dataclass(frozen=True, kw_only=True)
class _Rated:
    rate: float

    def __post_init__(self) -> None:
        if isinstance(self.rate, bool) or not isinstance(self.rate, int | float) or not 0 <= self.rate <= 1:
            raise ValueError(f"{type(self).__name__}(rate={self.rate!r}): a number from 0 to 1 is needed")


@dataclass(frozen=True, kw_only=True)
class TokenMasking(_Rated):
    """Replace inputs by [MASK] and leave the labels: the model must predict from what is left (Bowman et al. 2016,
    arXiv:1511.06349, there called word dropout). Special tokens stay.

    Args:
        rate: share of the inputs, 0 to 1.
    """

    def apply(self, rows: Rows, context: RowContext) -> Rows:
        hidden = _drawn(rows["input_ids"], self.rate, context)
        return {**rows, "input_ids": np.where(hidden, context.special[3], rows["input_ids"])}


@dataclass(frozen=True, kw_only=True)
class TokenDropping(_Rated):
    """Leave inputs out, each with its own label; the rest closes up, and the row ends in padding.

    Each label that remains is still the token that follows its input in the text, so nothing false is taught: the
    targets of the dropped inputs are not asked in this epoch, and later inputs see a text with gaps. Special tokens
    are not dropped as inputs. `position_ids`, where rows have them, are counted again.

    Args:
        rate: share of the inputs, 0 to 1.
    """

    def apply(self, rows: Rows, context: RowContext) -> Rows:
        dropped = _drawn(rows["input_ids"], self.rate, context)
        if "position_ids" in rows:
            before = np.cumsum(dropped, axis=1) - dropped
            begins = np.arange(dropped.shape[1]) - rows["position_ids"]  # where the document of a place begins
            rows = {**rows, "position_ids": rows["position_ids"] - before + np.take_along_axis(before, begins, axis=1)}
        order = np.argsort(dropped, axis=1, kind="stable")  # what stays, in its order, then what goes
        rows = {name: np.take_along_axis(array, order, axis=1) for name, array in rows.items()}
        gone = np.take_along_axis(dropped, order, axis=1)
        padding = {"input_ids": context.special[0], "labels": IGNORE, "position_ids": 0, "document_ids": -1}
        return {name: np.where(gone, padding[name], array) for name, array in rows.items()}


@dataclass(frozen=True, kw_only=True)
class FillInTheMiddle(_Rated):
    """Teach to fill a gap: prefix, middle, suffix -> prefix, suffix, middle (Bavarian et al. 2022, arXiv:2207.14255).

    Each document, as far as it stands in a row, is turned with probability `rate` from

        [CLS] prefix middle suffix [SEP]     to     [CLS] P prefix S suffix M middle [SEP]

    cut at two places drawn evenly. The markers P, S and M take three places, so the last three tokens of the suffix
    are left out. A document that is cut by the row keeps its first token in its place, and has [SEP] only where it
    truly ends. A label is masked where its token was: overlaps are still asked once, markers always.

    Cuts fall between tokens, not characters as in the paper: rows are made of stored tokens, and the same rule holds
    for every store. The price is that a prompt which ends inside a word is unlike anything trained on.

    Args:
        rate: share of the documents, 0 to 1; the paper uses 0.5 and more.
        markers: three token ids, P, S and M. By default all three are [MASK]: no text contains it, and their order
            tells them apart.
    """

    markers: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.markers is not None:
            if not isinstance(self.markers, tuple | list) or len(self.markers) != 3:
                raise ValueError(f"markers={self.markers!r}, three token ids are needed: for prefix, suffix and middle")
            for marker in self.markers:
                check_count("each of markers", marker, 0)

    def apply(self, rows: Rows, context: RowContext) -> Rows:
        _, _, sep, mask = context.special
        inputs, labels = rows["input_ids"].ravel().copy(), rows["labels"].ravel().copy()
        first, n, in_row, at = _pieces(rows["document_ids"])
        # A piece is the tokens w_0 … w_n: inputs w_0 … w_{n-1}, labels w_1 … w_n. w_0 stays, and the last ones if ...
        end = first + n - 1
        joined = context.continuous & (at + n < rows["labels"].shape[1])  # ... w_n is the next document's first token,
        ends = joined | (labels[end] == IGNORE) | (labels[end] == sep)  # is not known here, or ends the document
        free = n - ends - (inputs[end] == sep) * (n > 1)  # tokens that may move: w_1 … w_free
        chosen = (free > 3) & (context.draw(in_row, at, 0) < self.rate)
        first, n, in_row, at, free = first[chosen], n[chosen], in_row[chosen], at[chosen], free[chosen]
        kept = free - 3
        cuts = [(context.draw(in_row, at, which) * (kept + 1)).astype(np.int64) for which in (1, 2)]
        a, b = np.minimum(*cuts), np.maximum(*cuts)  # prefix w_1 … w_a, middle to w_b, suffix to w_kept

        piece = np.repeat(np.arange(len(n)), n)
        k = 1 + np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)  # place in the new order, 1 … n
        first, n, free, kept, a, b = first[piece], n[piece], free[piece], kept[piece], a[piece], b[piece]
        marker_m = a + 3 + kept - b
        places = [k > free, k == 1, k <= a + 1, k == a + 2, k < marker_m, k == marker_m]
        source = np.select(places, [k, 0, k - 1, 0, b + k - a - 2, 0], a + k - marker_m)  # w_source goes to place k
        last = source == n
        token = np.where(last, labels[first + n - 1], inputs[first + np.where(last, 0, source)])
        asked = labels[first + np.maximum(source, 1) - 1] != IGNORE
        for marker, here in zip(self.markers or (mask,) * 3, (places[1], places[3], places[5]), strict=True):
            here = here & (k <= free)
            token[here], asked[here] = marker, True
        new_labels = np.where(asked, token, IGNORE)
        labels[first + k - 1] = new_labels
        inside = k < n
        inputs[(first + k)[inside]] = token[inside]
        shape = rows["input_ids"].shape
        return {**rows, "input_ids": inputs.reshape(shape), "labels": labels.reshape(shape)}


@dataclass(frozen=True, kw_only=True)
class OffsetJitter:
    """Cut the stream into rows at other places in each epoch. For contiguous rows, each target still once.

    Without it the same tokens stand at the beginning of a row, with nothing before them, in every epoch. Adds one row.
    """

    def offsets(self, seed: int, epochs: np.ndarray, seq_length: int) -> np.ndarray:
        """int64 of the shape of `epochs`: by how many tokens the cuts lie earlier, 0 to seq_length - 1."""
        return (draw(seed, epochs) * seq_length).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class BpeDropout(_Rated):
    """Split words in other ways than the tokenizer would: merges are left out by chance (Provilkov et al. 2020,
    arXiv:1910.13267). For per-document rows of text that is tokenized on the fly; see `mt_core.bpe_dropout`.

    Args:
        rate: probability with which a merge is left out, 0 to 1; the paper uses 0.1.
    """


RowAugmentation = TokenMasking | TokenDropping | FillInTheMiddle
Augmentation = RowAugmentation | OffsetJitter | BpeDropout


def _pieces(document_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Stretches of rows (B, T) that hold one document: flat first place, length, row, place in the row; (P,) each."""
    change = np.ones(document_ids.shape, dtype=bool)
    change[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    first = np.flatnonzero(change)
    lengths = np.diff(first, append=document_ids.size)
    real = document_ids.ravel()[first] >= 0
    first, lengths = first[real], lengths[real]
    return first, lengths, *np.divmod(first, document_ids.shape[1])


def _drawn(input_ids: np.ndarray, rate: float, context: RowContext) -> np.ndarray:
    """bool (B, T): a random share of the inputs, special tokens left out."""
    index = np.arange(len(input_ids))[:, None]
    return (context.draw(index, np.arange(input_ids.shape[1])) < rate) & ~np.isin(input_ids, context.special)
