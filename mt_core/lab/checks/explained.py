"""What every exercise check is built from: an answer that is missing or wrong is explained, not raised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mt_core.lab.checks.guesses import plain


class WrongError(Exception):
    """An answer is wrong; the message explains how."""


class UntouchedError(Exception):
    """The exercise still returns nothing."""


@contextmanager
def explained(answer: Callable[..., Any]) -> Iterator[None]:
    """Print what went wrong instead of raising it."""
    name = getattr(answer, "__name__", "your function")
    try:
        yield
    except UntouchedError:
        print(f"{name} returns nothing yet: replace the ... by your own lines and run both cells again.")
    except WrongError as wrong:
        print(f"Not yet. {wrong}.")
    except Exception as error:
        print(f"Not yet. {name} stopped with {type(error).__name__}: {error}")


def as_list(value: Any, case: str) -> list[int]:
    """A returned tensor, array or list as a list of whole numbers."""
    if value is None or value is ...:
        raise UntouchedError
    value = plain(value, value)
    if not isinstance(value, list) or not all(isinstance(n, int) and not isinstance(n, bool) for n in value):
        raise WrongError(f"{case}: you returned {value!r}, a tensor or list of whole numbers is needed")
    return value
