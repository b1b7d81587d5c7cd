"""Rows of tokens: inputs above labels, the causal mask, where in the stream targets lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mt_core.lab.style import BLACK, GREY, ORANGE, PALE, SKY, style
from mt_core.windows import IGNORE

HATCH = "////"


def plot_row(
    inputs: Sequence[str],
    labels: Sequence[str | None],
    *,
    place: int | None = None,
    first: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """A row of inputs and, below each, its label: T boxes over T boxes, numbered from `first`.

    Args:
        labels: None stands for a label of -100.
        place: show what the model is given and asked here: inputs up to `place` are filled, later ones hatched,
            and only this label is drawn strong. None draws the whole row.
        first: the number of the first place, for a piece from the middle of a row; `place` counts from it too.

    Raises:
        ValueError: inputs and labels differ in number, or there is no such place.
    """
    n = len(inputs)
    if len(labels) != n or not n:
        raise ValueError(f"{n} inputs and {len(labels)} labels, as many of each are needed, one at least")
    if place is not None and not first <= place < first + n:
        raise ValueError(f"place {place} does not exist: places go from {first} to {first + n - 1}")
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(7.5, 1.9))[1]
        for t, (shown, asked) in enumerate(zip(inputs, labels, strict=True)):
            seen, here = place is None or first + t <= place, place is None or first + t == place
            _box(ax, t, 1.25, visible(shown), fill=SKY if seen else None, strong=seen)
            _box(ax, t, 0.0, "−100" if asked is None else visible(asked), fill=_label_fill(asked, here), strong=here)
            ax.text(t + 0.5, 2.4, str(first + t), ha="center", va="bottom", color=GREY)
            if here:
                ax.annotate("", (t + 0.5, 0.97), (t + 0.5, 1.28), arrowprops={"arrowstyle": "->", "color": BLACK})
        for y, name in ((2.4, "place"), (1.55, "input"), (0.3, "label")):
            ax.text(-0.25, y, name, ha="right", va="bottom", color=GREY if name == "place" else BLACK)
        title = "Which token is each place asked for?" if place is None else f"What does place {place} see?"
        ax.set(title=title, xlim=(-1.4, n + 0.1), ylim=(-0.1, 2.9))
        ax.set_axis_off()
        return ax


def plot_mask(mask: np.ndarray, tokens: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Which place may look at which: bool (T, T), row t is what place t may look at. Open squares hold a dot.

    Raises:
        ValueError: the mask is not square, or not as wide as there are tokens.
    """
    mask = np.asarray(mask, dtype=bool)
    n = len(tokens)
    if mask.shape != (n, n):
        raise ValueError(f"mask has shape {mask.shape} for {n} tokens, ({n}, {n}) is needed")
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(4.6, 4.4))[1]
        for t, j in np.ndindex(n, n):
            face = SKY if mask[t, j] else "white"
            ax.add_patch(Rectangle((j - 0.5, t - 0.5), 1, 1, facecolor=face, edgecolor=PALE, linewidth=1))
        where = np.argwhere(mask)
        ax.plot(where[:, 1], where[:, 0], ".", color=BLACK, markersize=4)
        names = [visible(token) for token in tokens]
        if n > 4 and not mask[0, -1]:
            ax.text(0.72 * n, 0.22 * n, "closed:\nthe future", ha="center", va="center", color=GREY)
        ax.set(title="What may each place look at?", xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5), aspect="equal")
        ax.set_xticks(range(n), names)
        ax.set_yticks(range(n), [f"{t}  {name}" for t, name in enumerate(names)])
        ax.set(xlabel="input that is looked at", ylabel="place that looks")
        ax.tick_params(length=0)
        return ax


def plot_targets(starts: Sequence[int], labels: np.ndarray, *, n_tokens: int, ax: Axes | None = None) -> Axes:
    """Where in the stream the targets of each row lie; stretches of -100 are hatched.

    Args:
        starts: stream position of the first input of each row.
        labels: int64 (rows, T).
        n_tokens: N, the length of the stream.

    Raises:
        ValueError: not one row of labels for each start.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or len(labels) != len(starts):
        raise ValueError(f"{len(starts)} starts and labels of shape {labels.shape}, one row of labels each is needed")
    with style():
        n = len(starts)
        ax = ax if ax is not None else plt.subplots(figsize=(7.5, 0.9 + 0.28 * n))[1]
        for row, (start, asked) in enumerate(zip(starts, labels, strict=True)):
            edges = np.flatnonzero(np.diff(asked != IGNORE)) + 1
            for piece in np.split(np.arange(len(asked)), edges):
                ignored = asked[piece[0]] == IGNORE
                face, edge = ("white", GREY) if ignored else (ORANGE, BLACK)
                left = start + 1 + piece[0] - 0.5
                bar = Rectangle((left, row - 0.38), len(piece), 0.76, facecolor=face, edgecolor=edge, linewidth=0.8)
                bar.set_hatch(HATCH if ignored else "")
                ax.add_patch(bar)
                words = f"−100 × {len(piece)}" if ignored else f"{start + 1 + piece[0]}…{start + 1 + piece[-1]}"
                if len(piece) > 0.06 * n_tokens:
                    box = {"facecolor": "white", "edgecolor": "none", "pad": 1} if ignored else None
                    ax.text(left + len(piece) / 2, row, words, ha="center", va="center", fontsize=9, bbox=box)
        ax.set(xlim=(-1, n_tokens), ylim=(n - 0.4, -0.6), xlabel="position in the stream (tokens)", ylabel="row")
        ax.set(title="Which row asks for which token?", yticks=range(n))
        return ax


def _box(ax: Axes, x: float, y: float, text: str, *, fill: str | None, strong: bool) -> None:
    """One box of a row. Without a fill it is hatched: there, but out of reach."""
    edge, ink = (BLACK, BLACK) if strong else (PALE, GREY)
    box = Rectangle(
        (x + 0.04, y), 0.92, 0.95, facecolor=fill or "white", edgecolor=edge, linewidth=1.2 if strong else 0.8
    )
    box.set_hatch("" if fill else HATCH)
    ax.add_patch(box)
    size = 12 if len(text) < 3 else 9 if len(text) < 6 else 7
    back = None if fill or not strong else {"facecolor": "white", "edgecolor": "none", "pad": 1}
    ax.text(x + 0.5, y + 0.45, text, ha="center", va="center", color=ink, fontsize=size, family="monospace", bbox=back)


def _label_fill(label: str | None, here: bool) -> str | None:
    if label is None:
        return None
    return ORANGE if here else "white"


def visible(token: str) -> str:
    """A space shown as an open box, so that it is seen; dollar signs as such, which would begin a formula."""
    return token.replace(" ", "␣").replace("\n", "↵").replace("$", r"\$")
