"""What every exercise check is built from: an answer that is missing or wrong is explained, not raised.

`must_be_right` raises it after all, for the copies of an exercise that are graded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
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


def touched(answer: Any) -> Any:
    """What a reader's function returned, if it returned anything."""
    if answer is None or answer is ...:
        raise UntouchedError
    return answer


def as_number(answer: Any, case: str, what: str = "a number") -> float:
    """A returned number, NumPy's own and tensors of one number among them, as Python's."""
    found = touched(answer)
    try:
        found = found.item() if hasattr(found, "item") else found
    except (ValueError, RuntimeError):
        pass  # several numbers
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise WrongError(f"{case}: you returned {answer!r}, {what} is needed")
    return found


def as_items(answer: Any) -> Any:
    """A returned list, tuple, range, array, tensor or generator as a list of Python's values; the rest as it is."""
    found = touched(answer)
    if isinstance(found, Iterator):
        found = list(islice(found, 100_000))  # it may never end
    return plain(found, found)


def as_list(answer: Any, case: str) -> list[int]:
    """Whole numbers that were returned, in whichever form `as_items` knows, as a list."""
    found = as_items(answer)
    if not isinstance(found, list) or not all(isinstance(n, int) and not isinstance(n, bool) for n in found):
        raise WrongError(f"{case}: you returned {found!r}, a tensor or list of whole numbers is needed")
    return found
