"""The exercises of notebook 16: mends of exhibits of the bug museum. The exhibits' own checks judge them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from mt_core.lab import bugs
from mt_core.lab.checks.explained import UntouchedError, WrongError, explained


def mend(name: str, my_mend: Callable[..., Any]) -> None:
    """Check a mend of the exhibit `name`, as `bugs.check` does.

    A stub is untouched, and so is a class that adds nothing to the broken one.

    Raises:
        ValueError: no exhibit of that name.
    """
    if name not in bugs.EXHIBITS:
        raise ValueError(f"no exhibit {name!r}: it must be one of {', '.join(bugs.EXHIBITS)}")
    with explained(my_mend):
        if inspect.isclass(my_mend) and all(n.startswith("__") and not callable(x) for n, x in vars(my_mend).items()):
            raise UntouchedError
        verdict = bugs.EXHIBITS[name].check(my_mend)
        if verdict.explanation.endswith("returns nothing yet: replace the ... by your own lines"):
            raise UntouchedError
        if not verdict.ok:
            raise WrongError(verdict.explanation)
        print(f"Right: {verdict.explanation}.")
