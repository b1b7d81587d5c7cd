"""What a budget of arithmetic buys: a larger model, or more text for a smaller one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from mt_core.lab.style import BLACK, BLUE, GREY, ORANGE, style

_LOW, _HIGH = 1e4, 1e10  # parameters, the width of the picture


def plot_budget(
    flops: float,
    presets: Mapping[str, int],
    *,
    chosen: str | None = None,
    tokens_per_parameter: float = 20.0,
    ax: Axes | None = None,
) -> Axes:
    """Tokens against parameters, both logarithmic: what a budget affords, and the line of a fixed ratio.

    Training costs about 6 N D FLOPs, for N parameters and D tokens; the ratio of 20 tokens a parameter is that of
    Hoffmann et al. 2022 (arXiv:2203.15556).

    Args:
        flops: the budget.
        presets: name -> parameters, each a dot on the line of the budget; the `chosen` one is large.

    Raises:
        ValueError: a budget that is not above 0.
    """
    if not flops > 0:
        raise ValueError(f"flops={flops}, a budget above 0 is needed")
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(7.5, 3.8))[1]
        n = np.geomspace(_LOW, _HIGH, 50)
        ax.plot(n, flops / (6 * n), color=BLUE, zorder=2)
        ax.plot(n, tokens_per_parameter * n, color=GREY, linestyle="--", zorder=1)
        for name, parameters in presets.items():
            big = name == chosen
            tokens = flops / (6 * parameters)
            ax.plot(
                parameters, tokens, "o" if big else "s", color=ORANGE if big else BLUE, ms=11 if big else 5, zorder=3
            )
            ax.annotate(
                name, (parameters, tokens), xytext=(9, 5), textcoords="offset points", weight="bold" if big else None
            )
        ax.set(xscale="log", yscale="log", xlim=(_LOW, _HIGH), ylim=(1e4, 1e13))
        ax.set(title="How large a model, and how much text?", xlabel="parameters (logarithmic)")
        ax.set_ylabel("tokens (logarithmic)")
        ax.text(0.01, 0.03, f"solid: all that {flops:.1e} FLOP afford", transform=ax.transAxes, color=BLACK)
        ax.annotate(
            f"dashed: {tokens_per_parameter:g} tokens a parameter",
            (_HIGH, tokens_per_parameter * _HIGH),
            xytext=(-4, 12),
            textcoords="offset points",
            ha="right",
            color=BLACK,
        )
        return ax
