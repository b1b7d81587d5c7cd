"""The look of every picture of the course: colours, sizes, sober axes. Does not draw data."""

from __future__ import annotations

from contextlib import AbstractContextManager

import matplotlib as mpl
from matplotlib.axes import Axes

# Okabe and Ito 2008 (jfly.uni-koeln.de/color): told apart with every common kind of colour blindness. Each
# use adds a second cue: a direct label, a line style, a marker or a hatch.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#333333",
)
GREY = "#767676"  # 4.5 : 1 on white, the least for text
PALE = "#E8E8E8"


def style() -> AbstractContextManager[None]:
    """`with style(): …` draws in the course's look and leaves matplotlib's settings as they were."""
    return mpl.rc_context(
        {
            "figure.figsize": (7.0, 3.6),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "axes.titleweight": "bold",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": False,
            "lines.linewidth": 1.8,
        }
    )


def label_line(ax: Axes, y: float, text: str, *, color: str = BLACK, linestyle: str = "--") -> None:
    """A horizontal reference line across `ax`, named at its right end instead of in a legend."""
    ax.axhline(y, color=color, linestyle=linestyle, linewidth=1.2, zorder=1)
    ax.annotate(
        text,
        (1.0, y),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        ha="left",
        color=color,
        annotation_clip=False,
    )
