"""The stream under its rows: where documents end, what rows overlap or leave out, how often each target is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mt_core.lab.style import BLACK, BLUE, GREY, ORANGE, PALE, SKY, style
from mt_core.windows import IGNORE

_MAX_CELLS = 60  # more tokens than this, and a cell with a number for each would not fit
_SHARES = (("once", SKY, ""), ("more often", ORANGE, "////"), ("never", "white", "xxxx"))


def plot_stream(
    starts: Sequence[int],
    labels: np.ndarray,
    *,
    n_tokens: int,
    document_ends: Sequence[int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Documents end to end, the rows laid over them, and how often each token is a target.

    The first token of a row is drawn pale, as it is only read; its targets follow, hatched where their label is -100.

    Args:
        starts: stream position of the first input of each row.
        labels: int64 (rows, T); -100 is a target that is not asked, all other values count as asked.
        n_tokens: N, the length of the stream.
        document_ends: one past the last token of each document; by default one document.

    Raises:
        ValueError: not one row of labels for each start, a row outside the stream, or ends that do not fit it.
    """
    positions, asked = _targets(starts, labels, n_tokens)
    ends = [n_tokens] if document_ends is None else [int(end) for end in document_ends]
    if not ends or ends[-1] != n_tokens or min(np.diff(ends, prepend=0)) <= 0:
        raise ValueError(f"document_ends={ends}, they must increase and end at n_tokens={n_tokens}")
    n_rows = len(positions)
    height = max(n_rows, 5)  # of the part that holds the rows; few rows do not become thick
    unit = height / 9  # the two strips are this high, however many rows there are
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(8.6, 3.8))[1]
        for number, (first, end) in enumerate(zip([0, *ends], ends, strict=False)):
            _cell(ax, first, end - first, -1.5 * unit, unit, face=PALE if number % 2 else "white", edge=GREY)
            name = f"document {number}" if (end - first) > 0.2 * n_tokens else str(number)
            ax.text((first + end - 1) / 2, -unit, name, ha="center", va="center", fontsize=9)
        for end in ends[:-1]:
            ax.axvline(end - 0.5, color=GREY, linestyle=(0, (3, 3)), linewidth=1, zorder=1)
        for row, (where, wanted) in enumerate(zip(positions, asked, strict=True)):
            _cell(ax, where[0] - 1, 1, row + 0.12, 0.76, face="white", edge=BLUE)
            edges = np.flatnonzero(np.diff(wanted)) + 1
            for piece in np.split(np.arange(len(wanted)), edges):
                is_asked = bool(wanted[piece[0]])
                face, edge = (SKY, BLUE) if is_asked else ("white", GREY)
                _cell(ax, where[piece[0]], len(piece), row + 0.12, 0.76, face, edge, "" if is_asked else "////")
        _draw_counts(ax, _counts(positions, asked, n_tokens), height + 0.5 * unit, unit)
        for face, edge, hatch, name in (
            ("white", BLUE, "", "read only"),
            (SKY, BLUE, "", "asked for"),
            ("white", GREY, "////", "label −100"),
        ):
            ax.add_patch(Rectangle((0, 0), 0, 0, facecolor=face, edgecolor=edge, hatch=hatch, label=name))
        ax.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=3, fontsize=9, handlelength=1.2)
        every = 1 if n_rows <= 10 else 5 if n_rows <= 25 else 10
        rows = range(0, n_rows, every)
        ax.set_yticks(
            [-unit, *(row + 0.5 for row in rows), height + unit], ["stream", *(f"row {r}" for r in rows), "times asked"]
        )
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.set(xlim=(-0.7, n_tokens - 0.3), ylim=(height + 1.7 * unit, -1.7 * unit))
        ax.set(title="How often is each token asked for?", xlabel="position in the stream (tokens)")
        return ax


def plot_coverage(counts: Mapping[str, np.ndarray], *, ax: Axes | None = None) -> Axes:
    """For each way to cut rows, the share of targets asked once, more often and never in one epoch.

    Args:
        counts: name -> int (targets,), how often each target was asked.

    Raises:
        ValueError: nothing to draw.
    """
    if not counts or not all(len(asked) for asked in counts.values()):
        raise ValueError("no counts: give at least one name with one target")
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(8.0, 0.9 + 0.42 * len(counts)))[1]
        for place, asked in enumerate(map(np.asarray, counts.values())):
            shares = [100 * float(np.mean(part)) for part in (asked == 1, asked > 1, asked == 0)]
            left = 0.0
            for share, (_, face, hatch) in zip(shares, _SHARES, strict=True):
                _cell(ax, left + 0.5, share, place - 0.36, 0.72, face, BLACK, hatch)
                if share > 5:
                    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
                    ax.text(left + share / 2, place, f"{share:.0f}%", ha="center", va="center", fontsize=9, bbox=box)
                left += share
            ax.text(102, place, f"{np.mean(asked):.3g}", va="center")
        for name, face, hatch in _SHARES:
            ax.add_patch(Rectangle((0, 0), 0, 0, facecolor=face, edgecolor=BLACK, hatch=hatch, label=f"asked {name}"))
        n = len(counts)
        ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, handleheight=1.0)
        ax.text(102, -0.65, "questions\na target", va="bottom", fontsize=9)
        ax.set(xlim=(0, 100), ylim=(n - 0.5, -0.6), xlabel="share of the targets (%)", yticks=range(n))
        ax.set_yticklabels(list(counts))
        ax.tick_params(axis="y", length=0)
        ax.set_title("Which choice asks for each target once?", pad=28)
        return ax


def _targets(starts: Sequence[int], labels: np.ndarray, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Stream positions of the targets, int64 (rows, T), and which of them are asked, bool (rows, T)."""
    labels, begin = np.asarray(labels), np.asarray(starts, dtype=np.int64)
    if labels.ndim != 2 or len(labels) != len(begin) or not labels.size:
        raise ValueError(f"{len(begin)} starts and labels of shape {labels.shape}, one row of labels each is needed")
    positions = begin[:, None] + 1 + np.arange(labels.shape[1])
    if begin.min() < 0 or positions.max() >= n_tokens:
        raise ValueError(
            f"rows reach from token {begin.min()} to {positions.max()}, the stream goes from 0 to {n_tokens - 1}"
        )
    return positions, labels != IGNORE


def _counts(positions: np.ndarray, asked: np.ndarray, n_tokens: int) -> np.ndarray:
    """int64 (N,): how often each token is asked for."""
    return np.bincount(positions[asked], minlength=n_tokens)


def _draw_counts(ax: Axes, counts: np.ndarray, top: float, height: float) -> None:
    """One cell a token, or a run of equal counts in a long stream. Token 0 follows nothing: it cannot be a target."""
    first = np.arange(len(counts))
    if len(counts) > _MAX_CELLS:
        first = np.flatnonzero(np.concatenate([[True, True], np.diff(counts[1:]) != 0]))
    for token, width in zip(first.tolist(), np.diff(first, append=len(counts)).tolist(), strict=True):
        count = int(counts[token])
        face, hatch = (SKY, "") if count == 1 else (ORANGE, "") if count else ("white", "////")
        if token == 0:
            face, hatch = "white", ""
        _cell(ax, token, width, top, height, face, GREY, hatch)
        if width < len(counts) / (_MAX_CELLS + 1):
            continue
        text, size = "–" if token == 0 else str(count), 8 if count < 10 else 6.5
        weight = "normal" if count == 1 else "bold"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5} if hatch else None
        ax.text(token + (width - 1) / 2, top + height / 2, text, ha="center", va="center_baseline", color=BLACK).set(
            fontsize=size, fontweight=weight, bbox=box
        )


def _cell(
    ax: Axes, first: float, width: float, top: float, height: float, face: str, edge: str, hatch: str = ""
) -> None:
    """A box over the tokens `first` to `first + width - 1`."""
    box = Rectangle((first - 0.5, top), width, height, facecolor=face, edgecolor=edge, linewidth=0.8, zorder=2)
    box.set_hatch(hatch)
    ax.add_patch(box)
