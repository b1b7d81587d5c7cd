"""Losses against steps, with what they are to be compared to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from mt_core.lab.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, style

_RUN_LOOKS = ((BLUE, "-"), (RED, "--"), (PURPLE, "-."), (GREEN, ":"))  # a colour and a line style for each run
_NAME_GAP = 0.075  # of the height of the axes: two names closer than this would overlap


def plot_loss(
    steps: Sequence[int],
    losses: Sequence[float],
    *,
    val_steps: Sequence[int] = (),
    val_losses: Sequence[float] = (),
    references: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Loss (nats per token) against step, with named horizontal lines to compare it with.

    Training loss is drawn raw and thin, and as a mean over the last 2% of steps; validation loss as dots.

    Args:
        references: name -> nats per token, such as the floor of the corpus or ln(V).
    """
    with style():
        ax = ax if ax is not None else plt.subplots()[1]
        ax.plot(steps, losses, color=BLUE, alpha=0.25, linewidth=0.8, zorder=2)
        ax.plot(steps, running_mean(losses, max(1, len(losses) // 50)), color=BLUE, label="training", zorder=3)
        if len(val_steps):
            ax.plot(val_steps, val_losses, "o-", color=ORANGE, markersize=5, label="validation", zorder=4)
        for value in (references or {}).values():
            ax.axhline(value, color=BLACK, linestyle="--", linewidth=1.2, zorder=1)
        ax.set(title="How far is the loss from what is possible?", xlabel="step", ylabel="loss (nats per token)")
        ax.set_ylim(bottom=0)
        ax.legend(frameon=False, loc="center right")
        name_ends(ax, [(value, f"{name} {value:.2f}", BLACK) for name, value in (references or {}).items()])
        return ax


def plot_runs(
    runs: Mapping[str, Sequence[float]], *, references: Mapping[str, float] | None = None, ax: Axes | None = None
) -> Axes:
    """Losses (nats per token) of several runs against step, each a mean over the last 5% of steps, named at its end.

    Args:
        runs: name -> loss of each step; at most four, each with a line style of its own.
        references: name -> nats per token, drawn as thin horizontal lines and named with their value.

    A run that diverges is named as such, where its losses are no finite numbers any more.

    Raises:
        ValueError: more runs than line styles, or no losses.
    """
    if len(runs) > len(_RUN_LOOKS):
        raise ValueError(f"{len(runs)} runs, at most {len(_RUN_LOOKS)} can be told apart: draw fewer")
    if not runs or not all(len(losses) for losses in runs.values()):
        raise ValueError(f"runs of {[*map(len, runs.values())]} losses: a run at least is needed, and a loss in each")
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(7.5, 3.8))[1]
        names: list[tuple[float, str, str]] = []  # height of the line's end, its name, its colour
        for (name, losses), (color, line) in zip(runs.items(), _RUN_LOOKS, strict=False):
            smooth = running_mean(losses, max(1, len(losses) // 20))
            ax.plot(np.arange(1, len(smooth) + 1), smooth, color=color, linestyle=line, zorder=3)
            names.append((float(smooth[-1]), name, color))
        for name, value in (references or {}).items():
            ax.axhline(value, color=GREY, linestyle=(0, (1, 2)), linewidth=1.1, zorder=1)
            names.append((value, f"{name} {value:.2f}", GREY))
        ax.set(title="Is the loss too good to be true?", xlabel="step", ylabel="loss (nats per token)")
        ax.margins(x=0)
        drawn = np.concatenate([[height for height, _, _ in names], *runs.values()])
        ax.set_ylim(-0.15, 1.05 * max(drawn[np.isfinite(drawn)], default=1.0))
        name_ends(ax, names)
        return ax


def running_mean(values: Sequence[float], width: int) -> np.ndarray:
    """Mean of each value and the `width - 1` before it, fewer at the start: float (len(values),).

    >>> running_mean([1.0, 3.0, 5.0], 2).tolist()
    [1.0, 2.0, 4.0]
    """
    sums = np.cumsum(np.concatenate(([0.0], np.asarray(values, dtype=float))))
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def name_ends(
    ax: Axes, ends: Sequence[tuple[float, str, str]], *, gap: float = _NAME_GAP, x: float | None = None
) -> None:
    """Name lines to the right of `ax`, moved apart where they would overlap. Scale and limits of y must be final.

    A line that ends in no finite number is named at the upper edge, with the word "diverged".

    Args:
        ends: height of the line's end in data units, its name, its colour.
        gap: the least distance of two names, as a share of the height of the axes.
        x: where the lines end, in data units; None is the right edge of the axes.
    """
    top = ax.get_ylim()[1]
    ends = sorted(end if np.isfinite(end[0]) else (top, f"{end[1]}, diverged", end[2]) for end in ends)
    scale = ax.yaxis.get_transform()  # logarithmic, for instance: names keep their distance as it is seen
    low, high = scale.transform(ax.get_ylim())
    apart = spread(scale.transform([height for height, _, _ in ends]).tolist(), gap * (high - low))
    for (height, name, color), y in zip(ends, scale.inverted().transform(apart), strict=True):
        ax.annotate(
            name,
            (1.0 if x is None else x, height),
            xycoords=("axes fraction" if x is None else "data", "data"),
            xytext=(1.04, y),
            textcoords=("axes fraction", "data"),
            va="center",
            color=BLACK,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 1.2, "shrinkA": 1, "shrinkB": 0},
            annotation_clip=False,
        )


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Sorted values moved apart until neighbours are at least `gap` apart, each group about its own middle.

    >>> spread([1.0, 1.0, 5.0], 2.0)
    [0.0, 2.0, 5.0]
    """
    groups: list[tuple[float, int]] = []  # middle and number of names that stand together
    for value in values:
        middle, n = value, 1
        while groups and middle - groups[-1][0] < gap * (n + groups[-1][1]) / 2:
            other, k = groups.pop()
            middle, n = (middle * n + other * k) / (n + k), n + k
        groups.append((middle, n))
    return [middle + gap * (i - (n - 1) / 2) for middle, n in groups for i in range(n)]
