"""Pictures of numbers: each `plot_` takes arrays and returns the Axes it drew on. Measures and trains nothing.

Every function draws in the course's style and makes its own figure unless it is given Axes.
"""

from mt_core.lab.plots.alignment import plot_mask, plot_row, plot_targets
from mt_core.lab.plots.losses import plot_loss, plot_runs, running_mean, spread

__all__ = ["plot_loss", "plot_mask", "plot_row", "plot_runs", "plot_targets", "running_mean", "spread"]
