"""How far a source of a mixed stream is from its share, row by row. Does not mix."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from mt_core.lab.plots.losses import name_ends
from mt_core.lab.style import BLUE, GREEN, GREY, ORANGE, PALE, PURPLE, style

_LOOKS = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"))


def plot_drift(orders: Mapping[str, np.ndarray], *, share: float, ax: Axes | None = None) -> Axes:
    """Rows of a source, more or fewer than its share of the rows so far, a line for each way to mix.

    The grey band is one standard deviation of rows drawn by chance: sqrt(n p (1 - p)) for a share p of n rows, the
    spread of the binomial distribution.

    Args:
        orders: name -> bool (n,), whether each row of the stream is of the source; at most four.
        share: p, the share it should have, between 0 and 1.

    Raises:
        ValueError: no order, more than four, one without rows, or a share that is none.
    """
    if not 1 <= len(orders) <= len(_LOOKS) or not all(len(order) for order in orders.values()):
        raise ValueError(f"{len(orders)} orders: one to {len(_LOOKS)} are needed, each with a row at least")
    if not 0 < share < 1:
        raise ValueError(f"share={share!r}, a number between 0 and 1 is needed")
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(7.5, 3.6))[1]
        longest = np.arange(1, max(map(len, orders.values())) + 1)
        band = np.sqrt(longest * share * (1 - share))
        ax.fill_between(longest, -band, band, color=PALE, linewidth=0, zorder=0)
        # Height of an end, its name, its colour.
        names: list[tuple[float, str, str]] = [(float(band[-1]), "one standard deviation", GREY)]
        for (name, order), (color, line) in zip(orders.items(), _LOOKS, strict=False):
            drift = np.cumsum(np.asarray(order, dtype=bool)) - share * np.arange(1, len(order) + 1)
            ax.plot(np.arange(1, len(order) + 1), drift, color=color, linestyle=line, linewidth=1.3)
            names.append((float(drift[-1]), name, color))
        ax.set(title="How far is a source from its share?", xlabel="rows delivered", xlim=(0, longest[-1]))
        ax.set_ylabel("rows more (or fewer)\nthan its share")
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        name_ends(ax, names)
        return ax
