"""Attention: how much each place looks at each place, a map for each head. Does not run the model."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from mt_core.lab.plots.alignment import HATCH, visible
from mt_core.lab.style import BLACK, GREY, PALE, RED, style

MAP = "cividis"  # lightness grows evenly from 0 to 1, so it reads in grey and with every common colour blindness
MOST_VALUES = 12  # places of a map in which values still fit their squares
_CLOSED = "#B0B0B0"  # the lines over closed squares: seen, and not the first thing seen
_LEAST_LEAK = 1e-6  # more weight than this on a closed square is no rounding


def plot_attention(
    weights: np.ndarray,
    tokens: Sequence[str],
    *,
    mask: np.ndarray | None = None,
    values: bool = False,
    highest: float = 1.0,
    axes: Sequence[Axes] | None = None,
) -> list[Axes]:
    """A map for each head: row t is place t, its squares are how much it looks at each place. All share one scale.

    Closed squares are white and hatched. Weight on a closed square is a leak: the square is framed, with an "!".

    Args:
        weights: float (H, T, T), or (T, T) for a single head; rows sum to 1.
        tokens: the T inputs.
        mask: bool (T, T), True where place t may look at place j; None is causal: j from 0 to t.
        values: write each weight into its square, two decimals; for T up to 12.
        highest: weights from here on get the brightest colour; lower it for long rows, whose weights are small.
        axes: as many as there are heads; None makes a figure with up to four in a line, and a scale.

    Raises:
        ValueError: shapes that do not fit, rows that do not sum to 1, or too many values to write.
    """
    weights = np.asarray(weights, dtype=np.float64)
    weights = weights[None] if weights.ndim == 2 else weights
    n = len(tokens)
    mask = np.tril(np.ones((n, n), dtype=bool)) if mask is None else np.asarray(mask, dtype=bool)
    _check(weights, mask, n, values, highest)
    with style():
        own = axes is None
        axes = _create_axes(len(weights), n, values) if axes is None else list(axes)
        if len(axes) != len(weights):
            raise ValueError(f"{len(axes)} axes for {len(weights)} heads, one for each is needed")
        scale = ScalarMappable(Normalize(0, highest), mpl.colormaps[MAP])
        for head, (ax, squares) in enumerate(zip(axes, weights, strict=True)):
            _draw_map(ax, squares, mask, scale, values)
            ax.set_title("Where does each place look?" if len(weights) == 1 else f"head {head}")
            _name_places(ax, [visible(token) for token in tokens])
        if own:
            _add_scale(axes, scale, extend="max" if weights.max() > highest + 1e-9 else "neither")
        return axes


def _draw_map(ax: Axes, weights: np.ndarray, mask: np.ndarray, scale: ScalarMappable, values: bool) -> None:
    n = len(mask)
    ax.add_patch(Rectangle((-0.5, -0.5), n, n, facecolor="white", edgecolor=_CLOSED, hatch=HATCH, linewidth=0))
    leaks = ~mask & (weights > _LEAST_LEAK)
    for t, j in np.argwhere(mask | leaks):
        color = np.asarray(scale.to_rgba(weights[t, j]))
        square = Rectangle((j - 0.5, t - 0.5), 1, 1, facecolor=color, edgecolor=PALE, linewidth=0.5 if n <= 24 else 0)
        if leaks[t, j]:
            square.set(edgecolor=RED, linewidth=2.5, zorder=3)
        ax.add_patch(square)
        words = (f"{weights[t, j]:.2f}" if values else "") + ("!" if leaks[t, j] else "")
        ink, weight = "white" if _lightness(color) < 0.5 else BLACK, "bold" if leaks[t, j] else "normal"
        if words:
            ax.text(j, t, words, ha="center", va="center", fontsize=7, color=ink, weight=weight, zorder=4)
    ax.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5), aspect="equal")


def _name_places(ax: Axes, names: list[str]) -> None:
    n = len(names)
    every = 1 if n <= 24 else n // 8  # more names than this would overlap: then numbers, and not all
    labels = names if n <= 24 else [str(t) for t in range(n)]
    sideways = n > 24 or max(map(len, names)) < 3
    ax.set_xticks(range(0, n, every), labels[::every], rotation=0 if sideways else 90, fontsize=8)
    ax.set_yticks(range(0, n, every), labels[::every], fontsize=8)
    ax.tick_params(length=0)
    spec = ax.get_subplotspec()
    if spec is None or spec.is_first_col():
        ax.set_ylabel("place that looks")
    ax.set_xlabel("place looked at")


def _create_axes(n_heads: int, n: int, values: bool) -> list[Axes]:
    columns = min(n_heads, 2 if values else 4)
    lines = -(-n_heads // columns)
    side = 0.34 * n + 0.9 if values else {1: 4.2, 2: 3.2, 3: 2.6, 4: 2.7}[columns]  # inches
    figure, grid = plt.subplots(
        lines, columns, figsize=(side * columns + 0.8, (side + 0.25) * lines + 0.4), squeeze=False
    )
    for ax in grid.flat[n_heads:]:
        ax.remove()
    if n_heads > 1:
        figure.suptitle("Where does each head look?", x=0.01, ha="left", fontsize=11, weight="bold")
    return list(grid.flat[:n_heads])


def _add_scale(axes: list[Axes], scale: ScalarMappable, *, extend: str) -> None:
    bar = axes[0].figure.colorbar(scale, ax=axes, extend=extend, shrink=0.8, aspect=25)
    bar.set_label("weight (a row sums to 1)")
    bar.outline.set_edgecolor(GREY)  # type: ignore[operator]


def _lightness(color: np.ndarray) -> float:
    """Of a colour, 0 to 1: the luma of ITU-R BT.601, near enough to choose black or white letters by."""
    return float(color[:3] @ (0.299, 0.587, 0.114))


def _check(weights: np.ndarray, mask: np.ndarray, n: int, values: bool, highest: float) -> None:
    if weights.ndim != 3 or weights.shape[1:] != (n, n) or not weights.size:
        raise ValueError(f"weights has shape {weights.shape} for {n} tokens, (heads, {n}, {n}) or ({n}, {n}) is needed")
    if mask.shape != (n, n):
        raise ValueError(f"mask has shape {mask.shape} for {n} tokens, ({n}, {n}) is needed")
    sums = weights.sum(-1)
    if weights.min() < 0 or not np.allclose(sums, 1, atol=0.02):  # half-precision weights miss 1 by about 0.01
        worst = sums.flat[np.abs(sums - 1).argmax()]
        raise ValueError(f"rows of weights sum to {worst:.2f} where 1 is needed: take the softmax over the last axis")
    if values and n > MOST_VALUES:
        raise ValueError(f"values of {n} places do not fit their squares, at most {MOST_VALUES} do: leave them out")
    if not 0 < highest <= 1:
        raise ValueError(f"highest={highest}, a weight above 0 and up to 1 is needed")
