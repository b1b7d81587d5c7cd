"""Pictures of numbers: each `plot_` takes arrays and returns the Axes it drew on. Measures and trains nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from mt_core.lab.style import BLACK, BLUE, ORANGE, label_line


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
    ax = ax if ax is not None else plt.subplots()[1]
    ax.plot(steps, losses, color=BLUE, alpha=0.25, linewidth=0.8, zorder=2)
    ax.plot(steps, running_mean(losses, max(1, len(losses) // 50)), color=BLUE, label="training", zorder=3)
    if len(val_steps):
        ax.plot(val_steps, val_losses, "o-", color=ORANGE, markersize=5, label="validation", zorder=4)
    for name, value in (references or {}).items():
        label_line(ax, value, f"{name} {value:.2f}", color=BLACK)
    ax.set(title="How far is the loss from what is possible?", xlabel="step", ylabel="loss (nats per token)")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, loc="upper right")
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
