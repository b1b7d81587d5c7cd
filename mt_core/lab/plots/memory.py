"""Memory as a corpus grows: bytes held against tokens, both logarithmic. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from mt_core.lab.plots.losses import name_ends
from mt_core.lab.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, style

_LOOKS = ((BLUE, "-", "o"), (RED, "--", "s"), (PURPLE, "-.", "^"), (GREEN, ":", "D"), (ORANGE, (0, (6, 2)), "v"))
_UNITS = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "bytes"))


def in_bytes(n_bytes: float) -> str:
    """Bytes in the unit that suits their number, steps of 1,000, at most three digits.

    >>> in_bytes(36e6), in_bytes(65_536), in_bytes(812)
    ('36 MB', '65.5 kB', '812 bytes')
    """
    one, unit = next((step for step in _UNITS if n_bytes >= 0.9995 * step[0]), _UNITS[-1])
    return f"{n_bytes / one:.3g} {unit}"


def plot_memory(
    n_tokens: Sequence[int],
    held: Mapping[str, Sequence[float]],
    *,
    limits: Mapping[str, float] | None = None,
    ring: tuple[int, float] | None = None,
    title: str = "How much memory does the corpus need?",
    ax: Axes | None = None,
) -> Axes:
    """Bytes held in memory against tokens in the corpus: a line for each form, named with its value at its end.

    Args:
        n_tokens: increasing, from 1.
        held: name of a form -> bytes, above 0, for each number of tokens; at most five, each with a line style and a
            marker of its own.
        limits: name -> bytes, horizontal lines such as the memory of a machine.
        ring: tokens and bytes of one point to ring.
        title: the question that the picture answers.

    Raises:
        ValueError: no form or more than five, or not one number above 0 for each number of tokens.
    """
    if not 1 <= len(held) <= len(_LOOKS):
        raise ValueError(f"{len(held)} forms, 1 to {len(_LOOKS)} can be drawn and told apart")
    for name, values in held.items():
        if len(values) != len(n_tokens) or min(values, default=0) <= 0:
            raise ValueError(f"{name}: {len(values)} values for {len(n_tokens)} sizes, one above 0 for each is needed")
    limits = limits or {}
    everything = [value for values in held.values() for value in values] + list(limits.values())
    low, high = np.log10(min(everything)) - 0.5, np.log10(max(everything)) + 0.5
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(7.5, 3.8))[1]
        for values, (color, line, marker) in zip(held.values(), _LOOKS, strict=False):
            ax.plot(n_tokens, values, color=color, linestyle=line, marker=marker, markersize=5, zorder=3)
        for name, value in limits.items():
            ax.axhline(value, color=GREY, linewidth=1.2, zorder=1)
            first = (n_tokens[0], value)
            ax.annotate(name, first, xytext=(0, 3), textcoords="offset points", color=GREY, va="bottom", fontsize=9)
        if ring:
            ax.plot(*ring, "o", markersize=15, markerfacecolor="none", markeredgecolor=BLACK, zorder=4)
        ax.set(xscale="log", yscale="log", ylim=(10**low, 10**high))
        ends = [
            (values[-1], f"{name}, {in_bytes(values[-1])}", color)
            for (name, values), (color, *_) in zip(held.items(), _LOOKS, strict=False)
        ]
        name_ends(ax, ends, x=n_tokens[-1])
        if high - low > 5:
            ax.yaxis.set_major_locator(LogLocator(base=1000, numticks=20))
        else:
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high - low < 3 else (1,), numticks=20))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: in_bytes(value)))
        some = n_tokens[:: 1 if len(n_tokens) < 5 else 2]  # more names would run into each other
        ax.set_xticks(some, [_count(n) for n in some])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set(title=title, xlabel="tokens in the corpus (logarithmic)", ylabel="held in memory (logarithmic)")
        return ax


def _count(value: float) -> str:
    names = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))
    one, name = next((step for step in names if value >= step[0]), (1, ""))
    return f"{value / one:.3g} {name}" if name else f"{value:,.0f}"
