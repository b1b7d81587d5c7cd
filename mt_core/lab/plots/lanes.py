"""Worker lanes: who worked on which batch, when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from matplotlib.transforms import ScaledTranslation

from mt_core.lab.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, style

# Colour and hatch of each kind. Waiting is the one that is empty.
_LOOKS = {
    "fetch": (ORANGE, ""),
    "pin": (PURPLE, "xxx"),
    "wait": ("white", "...."),
    "copy": (BLUE, "\\\\\\\\"),
    "compute": (GREEN, "////"),
}


def plot_lanes(
    lanes: Sequence[str],
    kinds: Sequence[str],
    batches: Sequence[int],
    starts: Sequence[float],
    ends: Sequence[float],
    *,
    order: Sequence[str] | None = None,
    until: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Spans of time as bars, a lane for each process, with the number of the batch in each bar that has room for it.

    Args:
        lanes, kinds, batches, starts, ends: one entry for each span; kinds are fetch, pin, wait, copy and compute;
            times are in seconds from any zero.
        order: the lanes from the top down; None takes them as they come.
        until: seconds from 0 that are drawn; None draws all. Work from before 0 is cut off there.

    Raises:
        ValueError: the sequences differ in length, a kind is not known, or `order` leaves a lane out.
    """
    spans = list(zip(lanes, kinds, batches, starts, ends, strict=True))
    if unknown := sorted({kind for _, kind, *_ in spans} - set(_LOOKS)):
        raise ValueError(f"kinds {', '.join(unknown)} are not known: fetch, pin, wait, copy and compute are")
    names = list(order) if order is not None else list(dict.fromkeys(lanes))
    if missing := sorted(set(lanes) - set(names)):
        raise ValueError(f"lanes {', '.join(missing)} have no place in order={names}: name them there too")
    right = until if until is not None else max([end for *_, end in spans], default=0.0)
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(8, 1.3 + 0.45 * len(names)))[1]
        for lane, kind, batch, start, end in spans:
            start, end, y = 1000 * max(start, 0.0), 1000 * min(end, right), names.index(lane)
            if end <= start:
                continue
            face, hatch = _LOOKS[kind]
            edge = GREY if kind == "wait" else BLACK
            bar = Rectangle((start, y - 0.36), end - start, 0.72, fc=face, ec=edge, lw=0.6, hatch=hatch, alpha=0.85)
            ax.add_patch(bar)
            if end - start > 22 * right * (1 + len(str(batch)) / 2):  # milliseconds: room for the number
                back = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
                ax.text((start + end) / 2, y, str(batch), ha="center", va="center", fontsize=8, bbox=back)
        ax.set(xlim=(0, 1000 * right or 1), ylim=(len(names) - 0.45, -0.55), xlabel="time (milliseconds)")
        ax.set_yticks(range(len(names)), names)
        ax.tick_params(axis="y", length=0)
        ax.set_title("Who works on which batch, and who waits?")
        used = [kind for kind in _LOOKS if any(kind == other for _, other, *_ in spans)]
        handles = [Patch(fc=_LOOKS[k][0], hatch=_LOOKS[k][1], ec=GREY if k == "wait" else BLACK, lw=0.6) for k in used]
        below = ax.transAxes + ScaledTranslation(0, -38 / 72, ax.figure.dpi_scale_trans)  # clear of the axis, in inches
        place: dict[str, Any] = {
            "loc": "upper left",
            "bbox_to_anchor": (0, 0),
            "bbox_transform": below,
            "borderaxespad": 0,
        }
        ax.legend(handles, used, ncols=len(used), frameon=False, fontsize=9, **place)
        return ax
