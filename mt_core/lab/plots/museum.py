"""The bug museum on paper: a visitor's score sheet, and the card of an exhibit. Judges nothing."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mt_core.lab.style import BLACK, BLUE, GREEN, GREY, ORANGE, PALE, SKY, style

_LOOKS = {"right": (GREEN, ""), "wrong": (ORANGE, "////"), "seen": (SKY, ""), "mended": (GREEN, "")}
_CHARACTERS = 84  # of a line on a card


def plot_scores(
    rows: Mapping[str, Sequence[str]], *, columns: Sequence[str], rooms: Sequence[str], ax: Axes | None = None
) -> Axes:
    """A grid with a word in each cell that is filled; a line between rooms, and the room's name at its right.

    Args:
        rows: name -> a word for each column: "right", "wrong", "seen", "mended", or "" for nothing.
        columns: their headings.
        rooms: the room of each row; equal ones stand together.

    Raises:
        ValueError: no rows, a row of another length, a word that is none of the four, or not one room a row.
    """
    if not rows or len(rooms) != len(rows):
        raise ValueError(f"{len(rows)} rows and {len(rooms)} rooms: at least one row, and a room for each, are needed")
    for name, words in rows.items():
        if len(words) != len(columns) or not set(words) <= {"", *_LOOKS}:
            raise ValueError(f"{name}: {list(words)}, {len(columns)} words of {', '.join(_LOOKS)} or '' are needed")
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(6.6, 0.9 + 0.27 * len(rows)))[1]
        for place, words in enumerate(rows.values()):
            for column, word in enumerate(words):
                face, hatch = _LOOKS.get(word, ("white", ""))
                box = Rectangle((column + 0.04, place + 0.08), 0.92, 0.84, facecolor=face, edgecolor=PALE)
                if word:
                    box.set(edgecolor=BLACK, hatch=hatch)
                    back = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
                    ax.text(column + 0.5, place + 0.5, word, ha="center", va="center", fontsize=8.5, bbox=back)
                ax.add_patch(box)
        firsts = [place for place, room in enumerate(rooms) if place == 0 or room != rooms[place - 1]]
        for first, end in zip(firsts, [*firsts[1:], len(rooms)], strict=True):
            if first:
                ax.axhline(first, color=GREY, linewidth=0.8)
            ax.text(len(columns) + 0.08, (first + end) / 2, rooms[first], va="center", color=BLACK, style="italic")
        ax.set_yticks([place + 0.5 for place in range(len(rows))], list(rows))
        ax.set_xticks([column + 0.5 for column in range(len(columns))], list(columns))
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
        for side in ("left", "bottom"):
            ax.spines[side].set_visible(False)
        ax.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
        ax.set_title("Which exhibits have you predicted, detected and mended?", pad=8)
        return ax


def plot_card(title: str, parts: Mapping[str, str], *, rooms: Sequence[str], room: str, ax: Axes | None = None) -> Axes:
    """The card of an exhibit: the rooms in a row, the exhibit's own one framed and filled, then its parts in words.

    Args:
        title: the words on the plate.
        parts: heading -> text, from top to bottom.
        rooms: the rooms in their order; room is one of them.
    """
    if room not in rooms:
        raise ValueError(f"room={room!r}, it must be one of {', '.join(rooms)}")
    wrapped = {heading: textwrap.wrap(text, _CHARACTERS) for heading, text in parts.items()}
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(8.2, 4.6))[1]
        width = 1 / len(rooms)
        for place, name in enumerate(rooms):
            here = name == room
            face, edge, line = (BLUE, BLACK, 2.0) if here else ("white", GREY, 0.8)
            ax.add_patch(Rectangle((place * width, 0.0), width * 0.94, 1.3, facecolor=face, edgecolor=edge, lw=line))
            ink, weight = ("white", "bold") if here else (BLACK, "normal")
            ax.text((place + 0.47) * width, 0.65, name, ha="center", va="center", color=ink, weight=weight)
        line = 2.7
        for heading, lines in wrapped.items():
            ax.text(0.0, line, heading, weight="bold", va="center", fontsize=9)
            for number, words in enumerate(lines):
                ax.text(0.19, line + number, words, va="center", fontsize=9)
            line += len(lines) + 0.6
        ax.set(xlim=(0, 1), ylim=(max(line, 15.0), -0.2))
        ax.set_title(title)
        ax.axis("off")
        return ax
