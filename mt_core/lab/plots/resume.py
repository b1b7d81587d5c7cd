"""What a restart delivers, and how far a restarted run is from one that was never stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from mt_core.lab.plots.losses import name_ends
from mt_core.lab.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, style

_LOOKS = ((BLUE, "-", "o"), (RED, "--", "s"), (PURPLE, "-.", "^"), (GREEN, ":", "D"))


def plot_restart(n_batches: int, *, delivered: int, fetched: int, ax: Axes | None = None) -> Axes:
    """A run that was stopped, and two that go on: after what it had fetched, and after what it had delivered.

    Each batch is a square with its number: plain and coloured where it is delivered, hatched where it waited in the
    queue, crossed out where no run delivers it.

    Args:
        n_batches: batches 0 to n_batches - 1 are an epoch.
        delivered, fetched: how many of them, when the run was stopped.

    Raises:
        ValueError: not 0 <= delivered <= fetched <= n_batches.
    """
    _check(n_batches, delivered, fetched)
    rows = ["the run that was stopped", "goes on after what was fetched", "goes on after what was delivered"]
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(8.5, 2.7))[1]
        for batch in range(n_batches):
            waited = delivered <= batch < fetched
            if batch < fetched:
                _square(ax, batch, 0, ORANGE if waited else BLUE, hatch="////" if waited else "")
            if batch >= fetched:
                _square(ax, batch, 1, GREEN)
            elif waited:
                _square(ax, batch, 1, RED, lost=True)
            if batch >= delivered:
                _square(ax, batch, 2, GREEN)
        ax.axvline(delivered - 0.5, color=BLACK, linestyle="--", linewidth=1.2, zorder=1)
        ax.text(delivered - 0.5, -0.62, "stopped", ha="center", va="bottom", color=BLACK)
        ax.set_yticks(range(3), rows)
        ax.set(xlim=(-0.6, n_batches - 0.4), ylim=(2.55, -0.6), xlabel="batch of the epoch", xticks=[])
        ax.set_title("Which batches does a restart deliver?", pad=20)
        ax.tick_params(axis="y", length=0)
        for side in ("left", "bottom"):
            ax.spines[side].set_visible(False)
        return ax


def restart_words(n_batches: int, *, delivered: int, fetched: int) -> str:
    """What `plot_restart` shows, in words.

    >>> restart_words(12, delivered=5, fetched=9)
    '5 of 12 batches delivered, 4 in the queue. A restart after what was fetched loses batches 5 to 8; after what was delivered, none.'
    """  # noqa: E501  a line of a doctest cannot be broken
    _check(n_batches, delivered, fetched)
    waiting = fetched - delivered
    begin = f"{delivered} of {n_batches} batches delivered, {waiting or 'none'} in the queue."
    if not waiting:
        return f"{begin} Both restarts are right."
    lost = f"batch {delivered}" if waiting == 1 else f"batches {delivered} to {fetched - 1}"
    return f"{begin} A restart after what was fetched loses {lost}; after what was delivered, none."


def plot_differences(runs: Mapping[str, Sequence[float]], *, first_step: int, ax: Axes | None = None) -> Axes:
    """Loss of restarted runs less that of the run that was never stopped (nats per token), against step.

    Args:
        runs: name -> difference at each step; at most four, each with a line style and a marker of its own.
        first_step: the step of the first difference.

    Raises:
        ValueError: more runs than looks, or none.
    """
    if not 1 <= len(runs) <= len(_LOOKS):
        raise ValueError(f"{len(runs)} runs, from 1 to {len(_LOOKS)} can be told apart")
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(7, 3.2))[1]
        ax.axhline(0, color=GREY, linewidth=1, zorder=1)
        for (name, values), (color, line, marker) in zip(runs.items(), _LOOKS, strict=False):
            steps = range(first_step, first_step + len(values))
            ax.plot(
                steps, list(values), color=color, linestyle=line, marker=marker, markersize=4, label=name, clip_on=False
            )
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(xlabel="step", ylabel="loss minus that of the\nuninterrupted run (nats per token)")
        ax.set_title("What does a restart cost?")
        ax.margins(x=0)
        ends = [(values[-1], name, look[0]) for (name, values), look in zip(runs.items(), _LOOKS, strict=False)]
        name_ends(ax, ends)
        return ax


def _check(n_batches: int, delivered: int, fetched: int) -> None:
    if not 0 <= delivered <= fetched <= n_batches:
        raise ValueError(
            f"delivered={delivered}, fetched={fetched}, n_batches={n_batches}: each may be at most the next, from 0"
        )


def _square(ax: Axes, batch: int, row: int, color: str, *, hatch: str = "", lost: bool = False) -> None:
    """One batch of one run; its number stands in it."""
    corner = (batch - 0.42, row - 0.36)
    inside, width = "white" if hatch or lost else color, 1.6 if lost else 1.0
    square = Rectangle(corner, 0.84, 0.72, facecolor=inside, edgecolor=color, linewidth=width, hatch=hatch, zorder=2)
    ax.add_patch(square)
    if lost:
        ax.plot([batch - 0.42, batch + 0.42], [row - 0.36, row + 0.36], color=color, linewidth=1.4, zorder=3)
    back = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    ax.text(batch, row, str(batch), ha="center", va="center", color=BLACK, size=9, bbox=back, zorder=4)
