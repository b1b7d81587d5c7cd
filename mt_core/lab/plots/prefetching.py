"""How much a longer queue helps: speed against prefetch_factor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from mt_core.lab.style import BLUE, GREEN, ORANGE, PURPLE, label_line, style

_LOOKS = ((BLUE, "-", "o"), (ORANGE, "--", "s"), (GREEN, "-.", "^"), (PURPLE, ":", "D"))


def plot_depth(shares: Mapping[str, Sequence[float]], depths: Sequence[int], *, ax: Axes | None = None) -> Axes:
    """The share of the best possible speed that is reached, a line for each case, against prefetch_factor.

    Args:
        shares: name -> 0 to 1, one for each depth; at most four cases. Names stand to the left of the first
            point of their line, so the lines should lie apart there.
        depths: values of prefetch_factor, from 1, increasing.

    Raises:
        ValueError: more than four cases, or a case with another number of shares than there are depths.
    """
    if len(shares) > len(_LOOKS):
        raise ValueError(f"{len(shares)} cases, at most {len(_LOOKS)} can be told apart: leave some out")
    for name, values in shares.items():
        if len(values) != len(depths):
            raise ValueError(f"{name!r} has {len(values)} shares for {len(depths)} depths: one for each is needed")
    with style():
        ax = ax if ax is not None else plt.subplots()[1]
        label_line(ax, 100, "the bound")
        for (name, values), (color, linestyle, marker) in zip(shares.items(), _LOOKS, strict=False):
            percent = [100 * value for value in values]
            ax.plot(depths, percent, color=color, linestyle=linestyle, marker=marker, label=name)
            first, back = (depths[0], percent[0]), {"facecolor": "white", "edgecolor": "none", "pad": 1}
            ax.annotate(name, first, (-9, 0), textcoords="offset points", ha="right", va="center", bbox=back)
        ax.set_xscale("log", base=2)
        ax.set_xticks(depths, [str(depth) for depth in depths])
        ax.minorticks_off()
        ax.set(
            xlim=(depths[0] / 3, depths[-1] * 1.2),
            ylim=(0, 108),
            xlabel="prefetch_factor (batches ahead for each worker, logarithmic)",
            ylabel="speed (% of the bound)",
        )
        ax.set_title("Does a longer queue make the loader faster?")
        return ax
