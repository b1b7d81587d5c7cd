"""The first notebook's own things: the map of the path, this machine, the checks of its exercises. Trains nothing."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from mt_core.lab.style import BLACK, BLUE, GREEN, GREY, ORANGE
from mt_core.workers import choose_workers

# -- the map -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One box of the map: what there is (`name`, `form`), what made it, and the numbers of the notebooks about it."""

    name: str
    form: str
    made_by: str
    notebooks: tuple[str, ...] = ()


# Three lanes: how often, and the stages in order. A test holds `made_by` against the package, `form` against a run.
LANES: tuple[tuple[str, tuple[Stage, ...]], ...] = (
    (
        "once per corpus, on disk",
        (
            Stage(name="text file", form="JSONL or plain text", made_by="", notebooks=("01",)),
            Stage(name="documents", form="str", made_by="read_documents", notebooks=("01",)),
            Stage(name="token ids", form="list[int]", made_by="encode", notebooks=("01",)),
            Stage(name="store", form="uint16 (N,)", made_by="TokenStore", notebooks=("02", "09")),
        ),
    ),
    (
        "for every batch, in memory",
        (
            Stage(
                name="rows", form="int64 (T,), twice", made_by="TransformerDataset", notebooks=("02", "03", "10", "11")
            ),
            Stage(name="batch", form="int64 (B, T), twice", made_by="TokenLoader", notebooks=("04", "05", "07", "12")),
            Stage(name="on the device", form="int64 (B, T), twice", made_by="pin, copy", notebooks=("06", "08")),
        ),
    ),
    (
        "for every batch, on the device",
        (
            Stage(name="logits", form="float32 (B, T, V)", made_by="MicroTransformer", notebooks=("14",)),
            Stage(name="loss", form="float32 ()", made_by="loss_of", notebooks=("03",)),
            Stage(name="step", form="new weights", made_by="fit", notebooks=("13", "15")),
        ),
    ),
)
_LEGEND = "N  tokens in the corpus\nB  rows in a batch\nT  tokens in a row\nV  entries in the vocabulary"
_COLOURS = (BLUE, ORANGE, GREEN)
# In the map's own unit: a box's width, the gap to the next, its height, the distance of lanes, where a lane is entered.
_BOX, _GAP, _HIGH, _LANE, _ENTRY = 1.9, 1.45, 0.95, 1.75, 0.3


def plot_map(lanes: Sequence[tuple[str, Sequence[Stage]]] = LANES, *, ax: Axes | None = None) -> Axes:
    """The path from a text file to a training step: a lane for how often, a box a stage, an arrow a function."""
    ax = ax if ax is not None else plt.subplots(figsize=(10, 4.9))[1]
    for lane, (often, stages) in enumerate(lanes):
        top, colour = -lane * _LANE, _COLOURS[lane % len(_COLOURS)]
        ax.text(_ENTRY + 0.2 if lane else 0, top + _HIGH / 2 + 0.13, often, color=GREY, style="italic", va="bottom")
        for column, stage in enumerate(stages):
            left = column * (_BOX + _GAP)
            _draw_stage(ax, stage, left, top, colour)
            if column:
                _draw_arrow(ax, (left - _GAP, top), (left, top))
                ax.text(left - _GAP / 2, top + 0.08, stage.made_by, size=8, ha="center", va="bottom")
        if lane:  # from the last box of the lane above, round the corner, to the first box of this one
            last = (len(lanes[lane - 1][1]) - 1) * (_BOX + _GAP) + _BOX / 2
            from_label = 0.14 if lanes[lane - 1][1][-1].notebooks else 0.0
            _draw_corner(ax, last, top + _LANE - _HIGH / 2 - from_label, top + _HIGH / 2, stages[0].made_by)
    bottom, n_last = -(len(lanes) - 1) * _LANE, len(lanes[-1][1])
    end = (n_last - 1) * (_BOX + _GAP) + _BOX
    _draw_arrow(ax, (end, bottom), (end + 0.7, bottom))
    ax.text(end + 0.78, bottom, "then the\nnext batch", va="center", size=9)
    ax.text(end + 0.78, bottom + _LANE, _LEGEND, va="center", size=8.5, color=BLACK, linespacing=1.5)
    ax.set(xlim=(-0.1, 4 * _BOX + 3 * _GAP + 0.1), ylim=(bottom - 0.75, 1.0), aspect="equal")
    ax.set_title("What happens between a text file and a training step?")
    ax.axis("off")
    return ax


def map_words(lanes: Sequence[tuple[str, Sequence[Stage]]] = LANES) -> str:
    """The map in words, made from the same stages."""
    parts = []
    for often, stages in lanes:
        boxes = [s.name + (f" (by {s.made_by}; {s.form})" if s.made_by else f" ({s.form})") for s in stages]
        parts.append(f"{often.capitalize()}: " + ", ".join(boxes) + ".")
    covered = [f"{s.name} in {' and '.join(s.notebooks)}" for _, stages in lanes for s in stages if s.notebooks]
    return " ".join(parts) + (f" Looked into: {', '.join(covered)}." if covered else "")


def _draw_stage(ax: Axes, stage: Stage, left: float, middle: float, colour: str) -> None:
    corner = (left, middle - _HIGH / 2)
    shape = FancyBboxPatch(corner, _BOX, _HIGH, boxstyle="round,pad=0,rounding_size=0.12", fc="white", ec=colour, lw=2)
    ax.add_patch(shape)
    centre = left + _BOX / 2
    ax.text(centre, middle + 0.16, stage.name, ha="center", va="center", weight="bold", gid="stage")
    ax.text(centre, middle - 0.2, stage.form, ha="center", va="center", size=8, gid="stage")
    if stage.notebooks:
        label = f"notebook{'s' * (len(stage.notebooks) > 1)} {', '.join(stage.notebooks)}"
        box = {"boxstyle": "round,pad=0.25", "fc": "white", "ec": colour}
        ax.text(centre, middle - _HIGH / 2 - 0.03, label, ha="center", va="center", size=7.5, color=BLACK, bbox=box)


def _draw_arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=BLACK, lw=1.2, shrinkB=2))


def _draw_corner(ax: Axes, last: float, above: float, below: float, made_by: str) -> None:
    """A line from under a box, between two lanes, to the top of the first box of the next lane."""
    first, between = _ENTRY, above - (above - below) * 0.3
    ax.plot([last, last, first, first], [above, between, between, below + 0.12], color=BLACK, lw=1.2)
    _draw_arrow(ax, (first, below + 0.13), (first, below))
    ax.text((first + last) / 2, between - 0.06, made_by, size=8, ha="center", va="top")


# -- this machine ------------------------------------------------------------------------------------------------

_OLDEST_PYTHON, _OLDEST_TORCH, _LEAST_MEMORY = (3, 11), (2, 10), 2.0  # versions, GiB


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a training run finds here. `memory_gib` is None where the system does not tell."""

    system: str
    cores: int
    memory_gib: float | None
    accelerator: str
    workers: str
    python: str
    torch: str

    def table(self) -> str:
        """One line for each finding."""
        memory = "unknown" if self.memory_gib is None else f"{self.memory_gib:.1f} GiB"
        rows = {
            "system": self.system,
            "processor cores": str(self.cores),
            "memory": memory,
            "accelerator": self.accelerator,
            "worker processes": self.workers,
            "Python": self.python,
            "PyTorch": self.torch,
        }
        return "\n".join(f"{name:<17} {value}" for name, value in rows.items())

    def lacks(self) -> list[str]:
        """What the course needs and this machine does not have; empty if all is well."""
        found = []
        for name, got, oldest in (("Python", self.python, _OLDEST_PYTHON), ("PyTorch", self.torch, _OLDEST_TORCH)):
            if tuple(int(part) for part in got.split(".")[:2]) < oldest:
                need = ".".join(map(str, oldest))
                found.append(f"{name} is {got}, {need} is needed: set the course up again with start.py")
        if self.memory_gib is not None and self.memory_gib < _LEAST_MEMORY:
            found.append(f"memory is {self.memory_gib:.1f} GiB, {_LEAST_MEMORY:.0f} are needed: close other programs")
        return found


def this_machine() -> Machine:
    """Look around: cores this process may use, memory, accelerator, how workers would start, versions."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    policy = choose_workers(1)
    return Machine(
        system=f"{platform.system()} on {platform.machine()}",
        cores=len(affinity(0)) if affinity else os.cpu_count() or 1,
        memory_gib=_memory_gib(),
        accelerator=_accelerator(),
        workers=f"start by {policy.start_method}" if policy.start_method else "off here, unless a method is named",
        python=platform.python_version(),
        torch=torch.__version__,
    )


def _accelerator() -> str:
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if found is None:
        return "none: the processor does it all"
    return f"{torch.cuda.get_device_name()} (cuda)" if found.type == "cuda" else found.type


def _memory_gib() -> float | None:
    """Memory of the whole machine, as the system states it."""
    try:
        if sys.platform == "win32":
            kib = ctypes.c_ulonglong()
            known = ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kib))
            return kib.value / 2**20 if known else None
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, OSError, ValueError):
        return None
