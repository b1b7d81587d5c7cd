"""Documents of many lengths against rows of one: how much of the rows is filled. Cuts and packs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from mt_core.lab.plots.losses import name_ends
from mt_core.lab.style import BLUE, GREEN, GREY, PURPLE, RED, style

_LOOKS = ((BLUE, "-"), (RED, "--"), (PURPLE, "-."), (GREEN, ":"))  # a colour and a line style for each way to cut


def plot_fills(
    seq_lengths: Sequence[int],
    fills: Mapping[str, Sequence[float]],
    *,
    marks: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Share of all places that hold a target, in per cent, against the length of a row: a line for each way to cut.

    Args:
        seq_lengths: T, increasing.
        fills: name of a way -> share from 0 to 1 for each T; at most four, each with a line style of its own.
        marks: name -> T, thin vertical lines, such as the mean length of a document and its multiples.

    Raises:
        ValueError: no way or more than four, or not one share from 0 to 1 for each T.

    >>> plot_fills([8, 16], {"padded": [0.5, 0.25]}).lines[0].get_ydata().tolist()
    [50.0, 25.0]
    """
    if not 1 <= len(fills) <= len(_LOOKS):
        raise ValueError(f"{len(fills)} ways to cut, 1 to {len(_LOOKS)} can be drawn and told apart")
    lengths = np.asarray(seq_lengths)
    per_cent = {name: 100 * np.asarray(shares, dtype=float) for name, shares in fills.items()}
    for name, values in per_cent.items():
        if values.shape != lengths.shape or not len(values) or not 0 <= values.min() <= values.max() <= 100:
            raise ValueError(
                f"{name}: {len(values)} shares for {len(lengths)} row lengths, one from 0 to 1 for each is needed"
            )
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(7.5, 3.6))[1]
        for name, at in (marks or {}).items():
            ax.axvline(at, color=GREY, linestyle=(0, (1, 2)), linewidth=1.1, zorder=1)
            ax.annotate(name, (at, 104), xytext=(3, 0), textcoords="offset points", color=GREY, fontsize=8, va="center")
        names: list[tuple[float, str, str]] = []  # height of the line's end, its name, its colour
        for (name, values), (color, line) in zip(per_cent.items(), _LOOKS, strict=False):
            ax.plot(lengths, values, color=color, linestyle=line, zorder=3)
            names.append((float(values[-1]), f"{name}, {values[-1]:.0f}%", color))
        ax.set_title("How much of the rows is filled?", pad=12)
        ax.set(xlabel="length of a row (tokens)", ylabel="places with a target (%)", ylim=(0, 108))
        ax.set_yticks(range(0, 101, 25))
        ax.set_xlim(int(lengths[0]), int(lengths[-1]) + (len(lengths) == 1))
        name_ends(ax, names, x=int(lengths[-1]))
        return ax
