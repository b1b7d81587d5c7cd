"""Tokens: a text in pieces as merges are made, and tokens per byte against the size of the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from mt_core.lab.plots.alignment import visible
from mt_core.lab.plots.losses import name_ends
from mt_core.lab.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, style

_WIDTH = 46  # of a line of pieces, in characters
_LOOKS = ((BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", "-."), (PURPLE, "D", ":"))


def plot_pieces(words: Sequence[Sequence[str]], *, newest: str | None = None, ax: Axes | None = None) -> Axes:
    """A text as boxes, one for each piece, with a gap between words; pieces equal to `newest` are filled.

    Args:
        words: the words in reading order, each as its pieces.
        newest: the piece that the last merge made, or None before the first.

    Raises:
        ValueError: there is no word.
    """
    if not words:
        raise ValueError("no words, at least one is needed")
    left, line = 0.0, 0
    places: list[tuple[float, int, float, str]] = []  # left edge, line, width, piece
    for pieces in words:
        widths = [max(len(piece), 1) * 0.75 + 0.45 for piece in pieces]
        if left and left + sum(widths) > _WIDTH:
            left, line = 0.0, line + 1
        for piece, width in zip(pieces, widths, strict=True):
            places.append((left, line, width, piece))
            left += width
        left += 0.7
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(7.5, 0.7 + 0.42 * (line + 1)))[1]
        for x, row, width, piece in places:
            new = piece == newest
            box = Rectangle((x, -row - 0.7), width, 0.7, facecolor=ORANGE if new else "white")
            box.set(edgecolor=BLACK, linewidth=2.2 if new else 0.8, zorder=3 if new else 2)
            ax.add_patch(box)
            weight = "bold" if new else "normal"
            ax.text(
                x + width / 2,
                -row - 0.36,
                visible(piece),
                ha="center",
                va="center",
                family="DejaVu Sans Mono",
                weight=weight,
                size=10,
                zorder=4,
            )
        title = "Which pair of neighbours occurs most?" if newest is None else f'Where does "{visible(newest)}" stand?'
        ax.set(title=title, xlim=(-0.2, _WIDTH + 0.2), ylim=(-line - 0.85, 0.15))
        ax.set_axis_off()
        return ax


def plot_vocabulary(
    sizes: Sequence[int], tokens_per_byte: Mapping[str, Sequence[float]], *, ax: Axes | None = None
) -> Axes:
    """Tokens per byte of some texts against the vocabulary size that was asked for, each text named at its end.

    Args:
        sizes: entries asked for, increasing.
        tokens_per_byte: name of a text -> a number for each size; at most four texts.

    Raises:
        ValueError: more texts than can be told apart, or not one number for each size.
    """
    if len(tokens_per_byte) > len(_LOOKS):
        raise ValueError(f"{len(tokens_per_byte)} texts, at most {len(_LOOKS)} can be told apart: draw fewer")
    for name, values in tokens_per_byte.items():
        if len(values) != len(sizes):
            raise ValueError(f"{len(values)} numbers of {name!r} for {len(sizes)} sizes, one for each is needed")
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(7.5, 3.6))[1]
        ax.axhline(1.0, color=GREY, linestyle=(0, (1, 2)), linewidth=1.1, zorder=1)
        ax.text(sizes[-1], 1.02, "one token a byte", ha="right", va="bottom", color=GREY)
        for (name, values), (color, marker, line) in zip(tokens_per_byte.items(), _LOOKS, strict=False):
            ax.plot(sizes, values, color=color, marker=marker, linestyle=line, markersize=5, label=name, zorder=3)
        ax.set_xscale("log", base=2)
        ticks: list[int] = []
        for size in reversed(sizes):
            if not ticks or size <= ticks[-1] / 1.8:  # closer, and their numbers would touch
                ticks.append(size)
        ax.set_xticks(ticks, [f"{size:,}" for size in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set(title="How many tokens does a byte of text cost?", ylim=(0, 1.12))
        ax.set(xlabel="vocabulary size asked for (entries, on a logarithmic scale)", ylabel="tokens per byte")
        ends = [
            (values[-1], f"{name} {values[-1]:.2f}", color)
            for (name, values), (color, *_) in zip(tokens_per_byte.items(), _LOOKS, strict=False)
        ]
        name_ends(ax, ends, x=sizes[-1])
        return ax
