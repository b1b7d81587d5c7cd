"""What every exercise check is built from: an answer that is missing or wrong is explained, not raised.

`must_be_right` raises it after all, for the copies of an exercise that are graded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mt_core.lab.checks.guesses import plain

_last_verdict: list[str] = []  # what the last check found wrong, "" for nothing; empty before any check ran


class WrongError(Exception):
    """An answer is wrong; the message explains how."""


class UntouchedError(Exception):
    """The exercise still returns nothing."""


@contextmanager
def explained(answer: Callable[..., Any]) -> Iterator[None]:
    """Print what went wrong instead of raising it."""
    name = getattr(answer, "__name__", "your function")
    said = ""
    _last_verdict.clear()
    try:
        yield
    except UntouchedError:
        said = f"{name} returns nothing yet: replace the ... by your own lines and run both cells again."
    except WrongError as wrong:
        said = f"Not yet. {wrong}."
    except Exception as error:
        said = f"Not yet. {name} stopped with {type(error).__name__}: {error}"
    if said:
        print(said)
    _last_verdict.append(said)


def must_be_right() -> None:
    """Let the last check count: raise what it explained, once. Graded copies of a notebook call this after each check.

    Raises:
        AssertionError: the answer was missing or wrong, in the check's own words.
        RuntimeError: no check has ended since the last call.
    """
    if not _last_verdict:
        raise RuntimeError(
            "no check has ended: call must_be_right() after one, such as checks.start.targets(my_targets)"
        )
    if said := _last_verdict.pop():
        raise AssertionError(said)


def as_list(value: Any, case: str) -> list[int]:
    """A returned tensor, array or list as a list of whole numbers."""
    if value is None or value is ...:
        raise UntouchedError
    value = plain(value, value)
    if not isinstance(value, list) or not all(isinstance(n, int) and not isinstance(n, bool) for n in value):
        raise WrongError(f"{case}: you returned {value!r}, a tensor or list of whole numbers is needed")
    return value
