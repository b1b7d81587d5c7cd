"""Pictures of numbers: each `plot_` takes arrays and returns the Axes it drew on. Measures and trains nothing.

Every function draws in the course's style and makes its own figure unless it is given Axes.
"""

from mt_core.lab.plots.alignment import plot_mask, plot_row, plot_targets
from mt_core.lab.plots.attention import plot_attention
from mt_core.lab.plots.batches import place_kinds, plot_batch, plot_gradient_cloud, plot_gradient_noise, plot_means
from mt_core.lab.plots.budget import plot_budget
from mt_core.lab.plots.documents import plot_fills
from mt_core.lab.plots.lanes import plot_lanes
from mt_core.lab.plots.losses import plot_loss, plot_runs, running_mean, spread
from mt_core.lab.plots.memory import in_bytes, plot_memory
from mt_core.lab.plots.mixing import plot_drift
from mt_core.lab.plots.model import plot_heads, plot_next_tokens, plot_shares
from mt_core.lab.plots.museum import plot_card, plot_scores
from mt_core.lab.plots.order import plot_costs, plot_order, plot_orders
from mt_core.lab.plots.packing import packing_words, plot_packing
from mt_core.lab.plots.prefetching import plot_depth
from mt_core.lab.plots.ranks import plot_ranks, ranks_words
from mt_core.lab.plots.resume import plot_differences, plot_restart, restart_words
from mt_core.lab.plots.stream import plot_coverage, plot_stream
from mt_core.lab.plots.tokens import plot_pieces, plot_vocabulary
from mt_core.lab.plots.transfers import in_units, plot_magnitudes
from mt_core.lab.plots.tuning import plot_tuning

__all__ = [
    "in_bytes",
    "in_units",
    "packing_words",
    "place_kinds",
    "plot_attention",
    "plot_batch",
    "plot_budget",
    "plot_card",
    "plot_costs",
    "plot_coverage",
    "plot_depth",
    "plot_differences",
    "plot_drift",
    "plot_fills",
    "plot_gradient_cloud",
    "plot_gradient_noise",
    "plot_heads",
    "plot_lanes",
    "plot_loss",
    "plot_magnitudes",
    "plot_mask",
    "plot_means",
    "plot_memory",
    "plot_next_tokens",
    "plot_order",
    "plot_orders",
    "plot_packing",
    "plot_pieces",
    "plot_ranks",
    "plot_restart",
    "plot_row",
    "plot_runs",
    "plot_scores",
    "plot_shares",
    "plot_stream",
    "plot_targets",
    "plot_tuning",
    "plot_vocabulary",
    "ranks_words",
    "restart_words",
    "running_mean",
    "spread",
]
