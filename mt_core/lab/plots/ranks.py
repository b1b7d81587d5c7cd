"""Ranks and rows: which process of a data-parallel run reads which row in which step. Splits nothing itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mt_core.lab.style import BLACK, BLUE, GREEN, GREY, ORANGE, PALE, PURPLE, RED, SKY, YELLOW, style

NOTHING = -1  # in `rows`: this rank reads nothing here
RANK_LOOKS = (  # a colour and a hatch for each rank; its number stands in each of its boxes
    (SKY, ""),
    (ORANGE, "////"),
    (GREEN, "...."),
    (PURPLE, "\\\\\\\\"),
    (YELLOW, "xxxx"),
    (BLUE, "||||"),
    (PALE, "----"),
    (RED, "++++"),
)


def plot_ranks(rows: np.ndarray, *, n_rows: int, readers: int = 1, ax: Axes | None = None) -> Axes:
    """A column for each row, a line for each step: the number of the rank that reads this row in this step.

    Where all is well each column holds one box. Columns with more are framed and marked "2×" and so on, columns
    with none are hatched and marked "0×". Where ranks read the same row in the same step, they share its box.

    Args:
        rows: int64 (steps, ranks, B), the rows that each rank reads in each step, -1 for nothing.
        n_rows: R, how many rows there are to read.
        readers: how many ranks are to read each row; more than 1 where ranks share out the model. A column with
            another number is marked.

    Raises:
        ValueError: another shape, more ranks than can be told apart, or a row that does not exist.
    """
    rows = _checked(rows, n_rows)
    n_steps, n_ranks, _ = rows.shape
    if n_ranks > len(RANK_LOOKS):
        raise ValueError(f"{n_ranks} ranks, at most {len(RANK_LOOKS)} can be told apart: draw fewer")
    counts = _counts(rows, n_rows)
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(max(4.0, 0.7 + 0.3 * n_rows), 1.35 + 0.36 * n_steps))[1]
        for row in np.flatnonzero(counts != readers).tolist():
            edge, hatch = (GREY, "////") if counts[row] == 0 else (RED, "")
            frame = Rectangle((row - 0.5, -0.55), 1, n_steps + 0.1, facecolor="none", edgecolor=edge, linewidth=1.6)
            frame.set_hatch(hatch)
            frame.set_zorder(3)
            ax.add_patch(frame)
            ax.text(row, -0.62, f"{counts[row]}×", ha="center", va="bottom", color=BLACK, weight="bold", fontsize=9)
        for step in range(n_steps):
            for row in np.unique(rows[step][rows[step] != NOTHING]).tolist():
                found = np.flatnonzero((rows[step] == row).any(axis=-1)).tolist()
                for place, rank in enumerate(found):
                    _box(ax, row - 0.44 + 0.88 * place / len(found), step, 0.88 / len(found), rank)
        ax.set(xlim=(-0.7, n_rows - 0.3), ylim=(n_steps - 0.4, -1.15), xlabel="row", ylabel="step")
        every = 1 if n_rows <= 32 else 5
        ax.set(title="Which rank reads which row?", xticks=range(0, n_rows, every), yticks=range(n_steps))
        ax.tick_params(length=0)
        return ax


def ranks_words(rows: np.ndarray, *, n_rows: int, readers: int = 1) -> str:
    """What `plot_ranks` shows, in a sentence.

    >>> ranks_words(np.array([[[0], [1]], [[2], [0]]]), n_rows=4)
    '2 steps of 2 ranks, 4 rows to read: row 0 is read 2 times; row 3 is never read.'
    """
    rows = _checked(rows, n_rows)
    counts = _counts(rows, n_rows)
    parts = []
    for times in np.unique(counts):
        which = np.flatnonzero(counts == times).tolist()
        if times != readers:
            is_read = "is" if len(which) == 1 else "are"
            read = {0: "never read", 1: "read once"}.get(times, f"read {times} times")
            parts.append(f"{_listed(which)} {is_read} {read}")
    parts.sort(key=lambda part: part.endswith("never read"))
    steps, ranks = (f"{n} {name}{'' if n == 1 else 's'}" for n, name in zip(rows.shape, ("step", "rank"), strict=False))
    well = "each is read once" if readers == 1 else f"each is read by {readers} ranks"
    return f"{steps} of {ranks}, {n_rows} rows to read: {'; '.join(parts) or well}."


def _box(ax: Axes, x: float, step: int, width: float, rank: int) -> None:
    face, hatch = RANK_LOOKS[rank]
    box = Rectangle((x, step - 0.42), width, 0.84, facecolor=face, edgecolor=BLACK, linewidth=0.8)
    box.set_hatch(hatch)
    ax.add_patch(box)
    back = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
    size = 9 if width > 0.5 else 7
    ax.text(x + width / 2, step, str(rank), ha="center", va="center", fontsize=size, color=BLACK, bbox=back, zorder=4)


def _checked(rows: np.ndarray, n_rows: int) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim != 3 or not rows.size:
        raise ValueError(f"rows has shape {rows.shape}, (steps, ranks, B) is needed, with -1 where nothing is read")
    if rows.min() < NOTHING or rows.max() >= n_rows:
        wrong = int(rows.min() if rows.min() < NOTHING else rows.max())
        raise ValueError(f"row {wrong} does not exist: rows go from 0 to {n_rows - 1}, and -1 stands for nothing")
    return rows


def _counts(rows: np.ndarray, n_rows: int) -> np.ndarray:
    """How often each row is read: int64 (R,)."""
    return np.bincount(rows[rows != NOTHING], minlength=n_rows)


def _listed(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"row {numbers[0]}"
    if len(numbers) > 6:
        return f"{len(numbers)} rows"
    return f"rows {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
