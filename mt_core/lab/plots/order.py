"""Orders of rows: maps of which row comes when, and what an order costs. Shuffles and measures nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from mt_core.lab.style import BLACK, BLUE, GREY, ORANGE, PALE, style

_MOST_DOTS = 1500  # more would merge into a grey field


def plot_order(
    order: np.ndarray, *, name: str = "", note: str = "", groups: np.ndarray | None = None, ax: Axes | None = None
) -> Axes:
    """A shuffle map: a dot at x = position in the epoch, y = row number, for every row of one order.

    Of more than 1,500 rows every second one is drawn, or every third, and so on.

    Args:
        order: int64 (R,), row numbers as delivered.
        name: of the order, the map's title; without one the title is a question.
        note: a line or two above the map, such as its numbers.
        groups: int (R,), the group of row 0, 1, 2, …, such as the kind of each story; where it changes from a row
            to the next a thin line is drawn.

    Raises:
        ValueError: not a one-dimensional array of at least one row, or not one group for each row.
    """
    order = np.asarray(order)
    if order.ndim != 1 or not len(order):
        raise ValueError(f"got an array of shape {order.shape}, row numbers (R,) with R of at least 1 are needed")
    if groups is not None and len(groups) != len(order):
        raise ValueError(f"{len(groups)} groups for {len(order)} rows: one for each row is needed")
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(4.6, 4.2))[1]
        places = np.arange(0, len(order), -(-len(order) // _MOST_DOTS))
        for edge in np.flatnonzero(np.diff(groups)) + 0.5 if groups is not None else ():
            ax.axhline(edge, color=PALE, linewidth=1, zorder=1)
        size = float(np.clip(2400 / len(places), 2, 40))
        ax.scatter(places, order[places], s=size, color=BLUE, linewidths=0, zorder=2)
        ax.set(xlabel="position in the epoch", ylabel="row number")
        ax.set_title("Which row comes when?" if not name else name)
        if note:
            ax.text(0, 1.02, note, transform=ax.transAxes, color=GREY, fontsize=9, va="bottom")
            ax.set_title(ax.get_title(loc="left"), pad=8 + 12 * len(note.splitlines()))
        edge = max(0.5, 0.02 * len(order))
        ax.set(xlim=(-edge, len(order) - 1 + edge), ylim=(order.min() - edge, order.max() + edge))
        return ax


def plot_orders(
    orders: Mapping[str, np.ndarray], *, notes: Mapping[str, str] | None = None, groups: np.ndarray | None = None
) -> list[Axes]:
    """Shuffle maps of several orders of the same rows, side by side on shared axes; see `plot_order`.

    Args:
        orders: name -> int64 (R,).
        notes: name -> a line or two above its map.

    Raises:
        ValueError: no order.
    """
    if not orders:
        raise ValueError("no order to draw, one at least is needed")
    with style():
        n = len(orders)
        figure, axes = plt.subplots(1, n, figsize=(2.3 * n + 0.5, 3.1), sharex=True, sharey=True, squeeze=False)
        for (name, order), ax in zip(orders.items(), axes[0], strict=True):
            plot_order(order, name=name, note=(notes or {}).get(name, ""), groups=groups, ax=ax)
            ax.label_outer()
        figure.suptitle("Which row comes when?", x=0.01, ha="left", weight="bold", size=11)
        return list(axes[0])


def plot_costs(losses: Mapping[str, float], *, floor: float, ax: Axes | None = None) -> Axes:
    """Validation losses (nats per token) of several runs as bars that begin at the floor: their length is the cost.

    Args:
        losses: name -> loss; the bars stand in this order, from the top.
        floor: nats per token that no model can beat.

    Raises:
        ValueError: no loss.
    """
    if not losses:
        raise ValueError("no loss to draw, one at least is needed")
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(7, 0.9 + 0.36 * len(losses)))[1]
        for place, loss in enumerate(losses.values()):
            ax.barh(place, loss - floor, left=floor, height=0.62, color=ORANGE, edgecolor=BLACK, linewidth=0.8)
            ax.annotate(f"{loss:.2f}", (loss, place), xytext=(4, 0), textcoords="offset points", va="center")
        ax.set_yticks(range(len(losses)), list(losses))
        ax.plot([floor, floor], [-0.5, len(losses) - 0.5], color=BLACK, linewidth=1.2)
        ax.text(floor, -0.62, f"floor {floor:.2f}", ha="left", va="bottom", color=BLACK)
        ax.set(ylim=(len(losses) - 0.5, -0.75), xlabel="validation loss (nats per token)")
        ax.set_xlim(floor - 0.02, floor + 1.12 * max(1e-9, max(losses.values()) - floor))
        ax.set_title("What does each order cost?", pad=14)
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
        return ax
