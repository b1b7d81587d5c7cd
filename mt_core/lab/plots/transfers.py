"""Magnitudes far apart: times and bandwidths on the way to a device."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from mt_core.lab.style import BLACK, BLUE, GREEN, style

# Value of one, and its name: from the largest down.
_STEPS = {
    "s": ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "bytes/s": ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1, "bytes/s")),
}


def in_units(value: float, unit: str) -> str:
    """A value with the unit that suits its size, three digits.

    >>> in_units(0.00512, "s"), in_units(6.4e6, "bytes/s")
    ('5.12 ms', '6.4 MB/s')
    """
    one, name = next((step for step in _STEPS[unit] if value >= step[0]), _STEPS[unit][-1])
    scaled = value / one
    return f"{scaled:.3g} {name}" if scaled < 1000 else f"{scaled:,.0f} {name}"


def plot_magnitudes(
    values: Mapping[str, float], *, unit: str, title: str, first_is_other: bool = True, ax: Axes | None = None
) -> Axes:
    """Bars on a logarithmic axis, each with its value in words: one step of the axis is a factor of ten.

    Args:
        values: name -> value, above 0; drawn from the top down.
        unit: "s" or "bytes/s".
        title: the question that the picture answers.
        first_is_other: the first bar is what the others are compared with, and has a hatch and colour of its own.

    Raises:
        ValueError: no values, a value that is not above 0, or an unknown unit.
    """
    if unit not in _STEPS:
        raise ValueError(f"unit={unit!r}, it must be one of {', '.join(_STEPS)}")
    if not values or min(values.values()) <= 0:
        raise ValueError(f"values={dict(values)!r}: at least one is needed, each above 0, as on a logarithmic axis")
    low, high = min(values.values()) / 10, max(values.values()) * 30
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(7.5, 1.2 + 0.45 * len(values)))[1]
        for y, value in enumerate(values.values()):
            other = first_is_other and y == 0
            face, hatch = (GREEN, "////") if other else (BLUE, "")
            ax.barh(y, value - low, left=low, height=0.6, color=face, hatch=hatch, edgecolor=BLACK, alpha=0.85)
            ax.text(value * 1.15, y, in_units(value, unit), va="center", color=BLACK)
        ax.set_xscale("log")
        ax.set(xlim=(low, high), ylim=(len(values) - 0.45, -0.55), title=title)
        ax.set_xlabel("time (seconds, logarithmic)" if unit == "s" else "bytes a second (logarithmic)")
        ax.set_yticks(range(len(values)), list(values))
        ax.tick_params(axis="y", length=0)
        return ax
