"""Loader settings that were tried, and how fast each was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from mt_core.lab.style import BLACK, GREY, PALE, SKY, style


def plot_tuning(gains: Mapping[str, Sequence[float]], *, recommended: str, ax: Axes | None = None) -> Axes:
    """The gain of each setting as a bar: its median, the middle half of the rounds as a line, a dot for each round.

    Args:
        gains: name -> batches a second over those of the first setting, in each round.
        recommended: the name that is marked.

    Raises:
        ValueError: a setting without a round, or no setting of the recommended name.
    """
    empty = [name for name, rounds in gains.items() if not len(rounds)]
    if empty:
        raise ValueError(f"no gain of {empty[0]!r}: one round of each setting is needed at least")
    if recommended not in gains:
        raise ValueError(f"recommended={recommended!r} was not tried: it must be one of {', '.join(gains)}")
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(7.5, 1.2 + 0.42 * len(gains)))[1]
        widest = max(max(rounds) for rounds in gains.values())
        for y, (name, rounds) in enumerate(gains.items()):
            low, median, high = np.percentile(rounds, [25, 50, 75])
            best = name == recommended
            ax.barh(y, median, height=0.62, color=SKY if best else PALE, edgecolor=BLACK if best else GREY)
            # Dots on a strip of their own in the lower part of the bar, so that they do not hide the line.
            ax.plot(rounds, np.full(len(rounds), y + 0.2), "o", color=BLACK, markersize=2.5, alpha=0.5, zorder=3)
            ax.plot([low, high], [y, y], color=BLACK, linewidth=2.5, solid_capstyle="butt", zorder=4)
            words = f"×{median:.2f}" + "  recommended" * best
            right = max(median, *rounds) + 0.015 * widest
            ax.text(right, y, words, va="center", color=BLACK, weight="bold" if best else "normal")
        ax.axvline(1, color=BLACK, linestyle="--", linewidth=1.2, zorder=2)
        first = next(iter(gains))
        ax.set(title="Which loader settings feed the step fastest?", ylim=(len(gains) - 0.45, -0.55))
        ax.set(xlim=(0, 1.42 * widest), xlabel=f"batches a second, relative to {first} (×)")
        ax.set_yticks(range(len(gains)), list(gains))
        ax.tick_params(axis="y", length=0)
        return ax
