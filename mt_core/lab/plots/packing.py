"""Rows filled with documents: which places of a row belong to which document, and which stay empty. Packs nothing."""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mt_core.lab.style import BLACK, GREY, ORANGE, PURPLE, SKY, YELLOW, style

NOTHING = -1  # in `document_ids`: a place without a target, such as padding
HATCH = "////"
_FILLS = (SKY, YELLOW, PURPLE, ORANGE)  # neighbours differ; the number in the piece says which document it is
_LETTER = 0.014  # the width of a letter as a share of the width of the axes


def plot_packing(document_ids: np.ndarray, *, name: str | None = None, ax: Axes | None = None) -> Axes:
    """Rows as bars, each piece of a document a segment with its number; places without a target are hatched.

    A piece whose document goes on in a later row ends in "…", one that began in an earlier row begins with it.

    Args:
        document_ids: int64 (rows, T), the document of each place, -1 for a place without a target.
        name: of the way the rows were cut, for comparing several; the title then says how much of them is filled.

    Raises:
        ValueError: not an array of rows, or one without places.

    >>> plot_packing(np.array([[0, 0, 1], [1, 1, -1]]), name="cut").get_title(loc="left")
    'cut: 2 rows, 83% filled'
    """
    ids = _checked(document_ids)
    n, n_places = ids.shape
    first, last = _rows_of_documents(ids)
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(7.5, 0.95 + 0.28 * n))[1]
        for row in range(n):
            for document, start, length in _pieces(ids[row]):
                nothing = document == NOTHING
                face, edge = ("white", GREY) if nothing else (_FILLS[document % len(_FILLS)], BLACK)
                bar = Rectangle((start, row - 0.38), length, 0.76, facecolor=face, edgecolor=edge, linewidth=0.8)
                bar.set_hatch(HATCH if nothing else "")
                ax.add_patch(bar)
                if nothing:
                    names, back = ["no target"], {"facecolor": "white", "edgecolor": "none", "pad": 1}
                else:
                    before, after = first[document] < row, last[document] > row
                    names, back = [f"{'…' * before}{document}{'…' * after}", str(document)], None
                words = next((name for name in names if len(name) * _LETTER * n_places <= length), "")
                if words:
                    at = (start + length / 2, row)
                    ax.text(*at, words, ha="center", va="center", fontsize=8, color=BLACK, bbox=back)
        title = "Which documents fill which rows?" if name is None else f"{name}: {_rows(n)}, {_filled(ids):.0%} filled"
        ax.set(title=title, xlim=(0, n_places), ylim=(n - 0.4, -0.6), yticks=range(n))
        ax.set(xlabel="place in the row (tokens)", ylabel="row")
        return ax


def packing_words(document_ids: np.ndarray) -> str:
    """What `plot_packing` shows, in a sentence.

    >>> packing_words(np.array([[0, 0, 1], [1, 1, -1]]))
    '2 rows of 3 places, 83% filled: 2 documents, 1 of them cut; 1 row with more than one document.'
    """
    ids = _checked(document_ids)
    first, last = _rows_of_documents(ids)
    cut = sum(first[document] < last[document] for document in first)
    shared = sum(len(set(row[row != NOTHING].tolist())) > 1 for row in ids)
    documents = f"{len(first)} document{'' if len(first) == 1 else 's'}"
    return (
        f"{_rows(len(ids))} of {ids.shape[1]} places, {_filled(ids):.0%} filled: {documents}, {cut} of them cut; "
        f"{_rows(shared)} with more than one document."
    )


def _checked(document_ids: np.ndarray) -> np.ndarray:
    ids = np.asarray(document_ids)
    if ids.ndim != 2 or not ids.size:
        raise ValueError(f"document_ids has shape {ids.shape}, (rows, T) with a row and a place at least is needed")
    return ids


def _pieces(row: np.ndarray) -> list[tuple[int, int, int]]:
    """Document, first place and length of each run of equal numbers in a row."""
    edges = np.flatnonzero(np.diff(row)) + 1
    starts, ends = [0, *edges.tolist()], [*edges.tolist(), len(row)]
    return [(int(row[start]), start, end - start) for start, end in zip(starts, ends, strict=True)]


def _rows_of_documents(ids: np.ndarray) -> tuple[dict[int, int], dict[int, int]]:
    """The first and the last row of each document."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for row, places in enumerate(ids):
        for document in set(places[places != NOTHING].tolist()):
            first.setdefault(document, row)
            last[document] = row
    return first, last


def _filled(ids: np.ndarray) -> float:
    return float((ids != NOTHING).mean())


def _rows(n: int) -> str:
    return f"{n} row{'' if n == 1 else 's'}"
