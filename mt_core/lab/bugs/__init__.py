"""The bug museum: bugs of the field as small broken loaders, to predict, detect and mend. Mends nothing by itself.

`from mt_core.lab import bugs`; `bugs.tour()` lists the exhibits, `bugs.visit("long_epoch")` shows one, `bugs.detect`
lets its tool look at it, `bugs.hint` helps, and `bugs.check` judges a mend.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from mt_core.lab.bugs import chance, copies, marks, order, ranks, resume, rows, shift, text
from mt_core.lab.bugs.exhibit import Exhibit, Finding, Source, Verdict, WrongMend

__all__ = [
    "EXHIBITS",
    "Exhibit",
    "Finding",
    "Source",
    "Verdict",
    "WrongMend",
    "check",
    "code_of",
    "detect",
    "hint",
    "tour",
    "visit",
]

EXHIBITS: dict[str, Exhibit] = {
    exhibit.name: exhibit
    for room in (text, marks, rows, shift, chance, order, ranks, resume, copies)
    for exhibit in room.EXHIBITS
}


def tour() -> None:
    """Print the exhibits, in the order in which text becomes a training step."""
    for name, exhibit in EXHIBITS.items():
        print(f"{name:20} {exhibit.title}")


def visit(name: str) -> None:
    """Print one exhibit: the broken code, what to predict, what a mend must do. The answer stays hidden."""
    exhibit = _exhibit(name)
    code = "\n\n".join(map(code_of, (*exhibit.shown, exhibit.broken)))
    print(exhibit.title)
    print(f"\n{code}\n")
    names = ", ".join(part.__name__ for part in (exhibit.broken, *exhibit.shown))
    print(f"To have it: from {exhibit.broken.__module__} import {names}")
    for label, words in (
        ("Predict", exhibit.question),
        ("What its user notices", exhibit.symptom),
        ("Reveal it", f'bugs.detect("{name}") runs the tool: {exhibit.tool}.'),
        ("Mend it", exhibit.task),
        ("Check it", f'bugs.check("{name}", your_mend); {len(exhibit.hints)} hints, from bugs.hint("{name}", 1)'),
    ):
        _say(f"{label}: {words}")
    _say(f"Met in: {exhibit.source.where}, {exhibit.source.title!r}")
    print(f"  {exhibit.source.link}")


def code_of(part: Callable[..., Any]) -> str:
    """The source code of a function or class, as it stands in its module."""
    return textwrap.dedent(inspect.getsource(part)).rstrip()


def hint(name: str, step: int = 1) -> None:
    """Print one step of the ladder of hints: 1 is vague, the last is nearly the answer."""
    hints = _exhibit(name).hints
    if isinstance(step, bool) or not isinstance(step, int) or not 1 <= step <= len(hints):
        print(f"There are {len(hints)} hints: bugs.hint({name!r}, 1) to bugs.hint({name!r}, {len(hints)}).")
        return
    print(f"Hint {step} of {len(hints)}: {hints[step - 1]}")


def detect(name: str, candidate: Callable[..., Any] | None = None) -> None:
    """Print what the exhibit's tool sees in a candidate, by default in the broken code."""
    _say(str(_exhibit(name).detector(candidate)))


def check(name: str, candidate: Any) -> None:
    """Print what is right or wrong about a mend; whatever it does, no traceback."""
    _say(str(_exhibit(name).check(candidate)))


def _say(words: str) -> None:
    print(textwrap.fill(words, width=110, subsequent_indent="  ", break_long_words=False))


def _exhibit(name: str) -> Exhibit:
    if name not in EXHIBITS:
        raise ValueError(f"no exhibit {name!r}: it must be one of {', '.join(EXHIBITS)}")
    return EXHIBITS[name]
