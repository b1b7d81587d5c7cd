"""Inside a model: which part holds which share, and what may be drawn as the next token. Computes no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from mt_core.lab.plots.alignment import visible
from mt_core.lab.style import BLACK, BLUE, GREY, ORANGE, PALE, SKY, YELLOW, style

_LOOKS = ((SKY, ""), (ORANGE, "////"), (PALE, ".."), (YELLOW, "xx"))  # a colour and a hatch for each part
_LEAST_WRITTEN = 6.0  # per cent: a narrower piece has no room for its number


def plot_shares(
    parts: Mapping[str, Mapping[str, float]],
    *,
    title: str,
    totals: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A bar of 100% for each whole, cut into its parts, in per cent; the parts are named over the first bar.

    Args:
        parts: name of a whole -> name of a part -> how much, in any unit; all with the same parts, at most four.
            Parts too narrow for a number are drawn without one.
        title: the question that the picture answers.
        totals: name of a whole -> words at the end of its bar, such as its size.

    Raises:
        ValueError: nothing to draw, more parts than can be told apart, other parts in another whole, or a whole
            with a part below 0 or of nothing at all.
    """
    names = list(next(iter(parts.values()), ()))
    if not 1 <= len(names) <= len(_LOOKS):
        raise ValueError(f"{len(names)} parts, 1 to {len(_LOOKS)} can be drawn and told apart")
    for whole, values in parts.items():
        if list(values) != names:
            raise ValueError(f"{whole} has the parts {list(values)}, the first whole {names}: the same are needed")
        if min(values.values()) < 0 or not sum(values.values()) > 0:
            raise ValueError(
                f"{whole}: {list(values.values())} cannot be shares: none below 0, and one above, are needed"
            )
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(7.5, 1.5 + 0.42 * len(parts)))[1]
        for y, (whole, values) in enumerate(parts.items()):
            left = 0.0
            for (name, value), (color, hatch) in zip(values.items(), _LOOKS, strict=False):
                width = 100 * value / sum(values.values())
                ax.barh(y, width, left=left, height=0.62, color=color, hatch=hatch, edgecolor=BLACK, linewidth=0.8)
                if width >= _LEAST_WRITTEN:
                    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
                    ax.text(left + width / 2, y, f"{width:.0f}%", ha="center", va="center", color=BLACK, bbox=box)
                    if y == 0:
                        ax.text(left + width / 2, -0.42, name, ha="center", va="bottom", color=BLACK)
                left += width
            ax.text(102, y, (totals or {}).get(whole, ""), va="center", color=BLACK)
        ax.set_yticks(range(len(parts)), list(parts))
        ax.tick_params(axis="y", length=0)
        ax.set(xlim=(0, 100), ylim=(len(parts) - 0.55, -0.85), xlabel="share (%)")
        ax.set_title(title)
        return ax


def plot_next_tokens(
    tokens: Sequence[str], probabilities: np.ndarray, drawn: np.ndarray, *, ax: Axes | None = None
) -> Axes:
    """What may come next: a bar for each token, as the model has it (outlined) and as it is drawn (filled).

    A token that cannot be drawn any more has a hatched bar and the word "out".

    Args:
        tokens: names, likeliest first; K of them.
        probabilities: float (K,), the model's.
        drawn: float (K,), after temperature, top_k or top_p; 0 where a token is left out.

    Raises:
        ValueError: not one probability of each kind, from 0 to 1, for each token.
    """
    probabilities, drawn = np.asarray(probabilities, dtype=float), np.asarray(drawn, dtype=float)
    for name, values in (("probabilities", probabilities), ("drawn", drawn)):
        if values.shape != (len(tokens),) or not len(tokens) or not 0 <= values.min() <= values.max() <= 1 + 1e-6:
            raise ValueError(
                f"{name} has shape {values.shape}: one from 0 to 1 for each of {len(tokens)} tokens is needed"
            )
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(7.0, 1.1 + 0.3 * len(tokens)))[1]
        widest = 100 * max(probabilities.max(), drawn.max())
        for y, (before, after) in enumerate(zip(100 * probabilities, 100 * drawn, strict=True)):
            out = after == 0
            ax.barh(y, after, height=0.66, color=BLUE, alpha=0.85, zorder=2)
            edge, hatch = (GREY, "////") if out else (BLACK, "")
            ax.barh(y, before, height=0.66, facecolor="none", edgecolor=edge, hatch=hatch, linewidth=1.1, zorder=3)
            words = f"{before:.1f}  out" if out else f"{before:.1f} → {after:.1f}"
            ax.text(max(before, after) + 0.015 * widest, y, words, va="center", color=GREY if out else BLACK)
        ax.set_yticks(range(len(tokens)), [visible(token) for token in tokens])
        ax.tick_params(axis="y", length=0)
        ax.set(xlim=(0, 1.25 * widest), ylim=(len(tokens) - 0.4, -0.6))
        ax.set(title="Which token may come next?", xlabel="probability (%): the model's, outlined → as drawn, filled")
        return ax


def plot_heads(sharpness: Mapping[str, float], costs: Mapping[str, float]) -> list[Axes]:
    """Two bars for each attention head, side by side: how sharp its map is, and what the loss loses without it.

    Heads stand in order of sharpness, the sharpest at the top. Returns the two Axes.

    Args:
        sharpness: name of a head -> mean of the highest weight of a row, 0 to 1.
        costs: the same names -> nats per token that the loss rises by when the head is taken out.

    Raises:
        ValueError: no head, or not the same heads in both.
    """
    if not sharpness or set(sharpness) != set(costs):
        raise ValueError(f"sharpness of {list(sharpness)}, costs of {list(costs)}: both of the same heads are needed")
    names = sorted(sharpness, key=lambda name: -sharpness[name])
    with style():
        size = (7.5, 1.4 + 0.3 * len(names))
        figure, (left, right) = plt.subplots(1, 2, figsize=size, sharey=True)
        panels = ((left, sharpness, SKY, "", ""), (right, costs, ORANGE, "////", "+"))
        for ax, values, color, hatch, sign in panels:
            most = max(map(abs, values.values())) or 1.0
            for y, name in enumerate(names):
                ax.barh(y, values[name], height=0.66, color=color, hatch=hatch, edgecolor=BLACK, linewidth=0.8)
                end = max(values[name], 0.0) + 0.02 * most
                ax.text(end, y, f"{values[name]:{sign}.2f}", va="center", color=BLACK)
            ax.set(xlim=(min(0.0, *values.values()), 1.2 * most), ylim=(len(names) - 0.4, -0.6))
            ax.tick_params(axis="y", length=0)
        left.set_yticks(range(len(names)), names)
        left.set_xlabel("sharpness of the map (weight)")
        right.set_xlabel("loss without the head (nats more)")
        figure.suptitle("Are sharp heads the ones that are missed?", x=0.01, ha="left", fontsize=11, weight="bold")
        return [left, right]
