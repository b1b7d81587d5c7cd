"""Batches: which places are scored, what a mean depends on, how gradient noise falls with the batch size.

Draws what it is given. Does not build batches, evaluate or compute gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator, NullLocator

from mt_core.lab.plots.losses import name_ends
from mt_core.lab.style import BLACK, BLUE, GREEN, GREY, ORANGE, PALE, RED, label_line, style
from mt_core.windows import IGNORE

# What a place of a batch can be, in the order of the codes of `place_kinds`: name, colour, hatch.
_KINDS = (("target", ORANGE, ""), ("−100", "white", "////"), ("padding, −100", PALE, "xxxx"))
_LINES = ((RED, "--"), (BLUE, ":"), (GREEN, "-."), (BLACK, (0, (5, 1, 1, 1, 1, 1))))
_MOST_IDS = 20  # columns up to which ids can be read


def place_kinds(labels: np.ndarray, document_ids: np.ndarray | None = None) -> np.ndarray:
    """What each place of a batch is: int64 (B, T), 0 a target, 1 a label of -100, 2 padding.

    Args:
        labels: int64 (B, T).
        document_ids: int64 (B, T), -1 for padding; None where nothing is padded.

    >>> place_kinds(np.array([[-100, 7], [8, -100]]), np.array([[0, 0], [1, -1]])).tolist()
    [[1, 0], [0, 2]]
    """
    kinds = (np.asarray(labels) == IGNORE).astype(np.int64)
    return kinds if document_ids is None else np.where(np.asarray(document_ids) < 0, 2, kinds)


def plot_batch(
    input_ids: np.ndarray, labels: np.ndarray, *, document_ids: np.ndarray | None = None, ax: Axes | None = None
) -> Axes:
    """A batch as a grid of B rows and T columns: targets filled, -100 hatched, padding crossed.

    The legend counts the places of each kind. Up to 20 columns, the input ids stand in their places.

    Args:
        input_ids, labels: int64 (B, T).
        document_ids: int64 (B, T), -1 for padding; None where nothing is padded.

    Raises:
        ValueError: the arrays are not of one shape (B, T).
    """
    ids, asked = np.asarray(input_ids), np.asarray(labels)
    if ids.ndim != 2 or ids.shape != asked.shape or (document_ids is not None and ids.shape != np.shape(document_ids)):
        raise ValueError(f"input_ids {ids.shape} and labels {asked.shape}: arrays of one shape (B, T) are needed")
    kinds = place_kinds(asked, document_ids)
    n_rows, n_places = kinds.shape
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(7.5, 1.2 + 0.22 * max(n_rows, 6)))[1]
        for row, line in enumerate(kinds):
            edges = np.arange(1, n_places) if n_places <= _MOST_IDS else np.flatnonzero(np.diff(line)) + 1
            for piece in np.split(np.arange(n_places), edges):
                _, face, hatch = _KINDS[line[piece[0]]]
                bar = Rectangle((piece[0] - 0.5, row - 0.42), len(piece), 0.84, facecolor=face, edgecolor=BLACK)
                bar.set(hatch=hatch, linewidth=0.6)
                ax.add_patch(bar)
        if n_places <= _MOST_IDS:
            for (row, place), token in np.ndenumerate(ids):
                back = {"facecolor": "white", "edgecolor": "none", "pad": 1} if kinds[row, place] else None
                ax.text(place, row, str(token), ha="center", va="center", fontsize=9, bbox=back)
        counts = np.bincount(kinds.ravel(), minlength=3)
        keys = [
            Patch(facecolor=face, edgecolor=BLACK, hatch=hatch, label=f"{name} × {count:,}")
            for (name, face, hatch), count in zip(_KINDS, counts, strict=True)
            if count
        ]
        ax.legend(handles=keys, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02), handleheight=1.4)
        ax.set(xlim=(-0.6, n_places - 0.4), ylim=(n_rows - 0.4, -0.6), xlabel="place in the row (T)")
        ax.set(title="Which places of the batch are scored?", ylabel="row of the batch (B)")
        ax.yaxis.set_major_locator(FixedLocator(list(range(0, n_rows, 1 if n_rows <= 8 else 5))))
        return ax


def plot_means(
    batch_sizes: Sequence[int], means: Mapping[str, Sequence[float]], *, floor: float, ax: Axes | None = None
) -> Axes:
    """Reported loss (nats per token) against batch size, a line for each way to average, named at its end.

    Args:
        batch_sizes: B, rows in a batch.
        means: name -> loss for each batch size; at most four, each with a line style of its own.
        floor: the loss (nats per token) below which no predictor can stay, drawn solid.

    Raises:
        ValueError: more lines than line styles.
    """
    if len(means) > len(_LINES):
        raise ValueError(f"{len(means)} lines, at most {len(_LINES)} can be told apart: draw fewer")
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(7.5, 3.8))[1]
        ax.axhline(floor, color=BLACK, linewidth=1.2, zorder=2)
        names = [(floor, f"floor {floor:.2f}", BLACK)]
        for (name, losses), (color, line) in zip(means.items(), _LINES, strict=False):
            ax.plot(batch_sizes, losses, color=color, linestyle=line, linewidth=1.3, zorder=3)
            names.append((float(losses[-1]), name, color))
        ax.margins(x=0)
        ax.set(title="Does the reported loss depend on the batch size?", xlabel="batch size (rows)")
        ax.set_ylabel("loss (nats per token)")
        name_ends(ax, names)
        return ax


def plot_gradient_noise(batch_sizes: Sequence[int], noise: Sequence[float], *, ax: Axes | None = None) -> Axes:
    """Gradient noise against batch size, on two logarithmic axes, beside the law 1/√B drawn from its first point.

    Args:
        batch_sizes: B, rows in a batch; two at least.
        noise: how far a batch's gradient lies from the full one, in lengths of the full one; above 0.

    Raises:
        ValueError: fewer than two sizes, or not one noise above 0 for each.
    """
    sizes, heights = np.asarray(batch_sizes), np.asarray(noise, dtype=float)
    if sizes.ndim != 1 or len(sizes) < 2 or heights.shape != sizes.shape or not min(*sizes, *heights) > 0:
        raise ValueError(f"{heights.size} values for {sizes.size} sizes: two sizes at least, and one above 0 for each")
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(7.0, 3.6))[1]
        ax.set_xscale("log", base=2)
        ax.set_yscale("log", base=2)
        law = heights[0] * np.sqrt(sizes[0] / sizes)
        ax.plot(sizes, law, color=GREY, linestyle="--", zorder=2)
        ax.plot(sizes, heights, "o", color=BLUE, markersize=7, zorder=3)
        label_line(ax, 1.0, "as long as the\ngradient itself", color=BLACK, linestyle=":")
        for text, start, offset, where in (
            ("measured", (sizes[1], heights[1]), (8, 10), "left"),
            ("1/√B", (sizes[-2], law[-2]), (-10, -20), "right"),
        ):
            ax.annotate(text, start, xytext=offset, textcoords="offset points", ha=where, color=BLACK)
        ax.set(title="How fast does gradient noise fall?", xlabel="batch size (rows, logarithmic)")
        ax.set_ylabel("noise, logarithmic\n(lengths of the full gradient)")
        marks = 2.0 ** np.arange(np.floor(np.log2(min(heights.min(), 1))), np.ceil(np.log2(heights.max())) + 1)
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.set_yticks(marks, [f"{mark:g}" for mark in marks])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_minor_locator(NullLocator())
        return ax


def plot_gradient_cloud(
    along: Sequence[float],
    sideways: Sequence[float],
    *,
    batch_size: int,
    radius: float,
    reach: float = 7.5,
    ax: Axes | None = None,
) -> Axes:
    """Gradients of many batches beside the full gradient, whose length is the unit of both axes.

    Every distance to the full gradient's tip is the true one: all directions but its own are turned into one axis.

    Args:
        along: for each batch, its part in the full gradient's direction; 1 is right.
        sideways: the length of the rest, from 0.
        batch_size: B, for the title.
        radius: the distance from the tip that the dots are expected at, drawn as a dashed arc.
        reach: right end of the sideways axis; keep it while other things change.
    """
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(7.5, 3.9))[1]
        turn = np.linspace(-np.pi / 2, np.pi / 2, 181)
        ax.plot(radius * np.cos(turn), 1 + radius * np.sin(turn), "--", color=GREY, linewidth=1.2, zorder=2)
        ax.plot(sideways, along, "o", color=BLUE, markersize=5, alpha=0.5, markeredgecolor=BLACK, zorder=3)
        ax.annotate("", (0, 1), (0, 0), arrowprops={"arrowstyle": "-|>", "color": ORANGE, "linewidth": 3}, zorder=4)
        ax.plot([0], [1], "*", color=ORANGE, markersize=15, markeredgecolor=BLACK, zorder=5, clip_on=False)
        ax.annotate("full gradient", (0, 1), xytext=(-10, 0), textcoords="offset points", ha="right", va="center")
        ax.text(reach, 3.0, "dashed: 1/√B", color=GREY, ha="right", va="top")
        ax.set(xlim=(-1.5, reach), ylim=(-0.6, 3.1), aspect="equal")
        ax.set(xlabel="sideways (lengths of the full gradient)", ylabel="along the full gradient")
        ax.set_title(f"Where do gradients of {batch_size} row{'s' if batch_size > 1 else ''} point?")
        ax.xaxis.set_major_locator(FixedLocator(list(range(0, int(reach) + 1))))
        return ax
