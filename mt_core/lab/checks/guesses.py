"""Predictions: sets a reader's guess beside the answer, kindly. Never raises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

_YES_NO = {"yes": True, "true": True, "no": False, "false": False}


def compare_guess(guess: Any, answer: Any, *, unit: str = "", close: float = 0.1) -> None:
    """Print one line that sets a reader's guess beside the answer.

    Args:
        guess: what the reader wrote; None (or `...`) where nothing was written yet.
        answer: a number, a truth value, a text, or a list of these. Floats are shown with at most two decimals,
            and a guess that rounds to the same is right. Where it is a number, a guess of "750" is read as 750, and of
            "37%" as 37 if the unit is "%", else as 0.37.
        unit: a word after the answer, such as "rows". Texts are shown in quotes and compared without regard to case.
        close: a number no further from the answer than this share of it is called close.

    >>> compare_guess(None, 13, unit="rows")
    The answer is 13 rows. You have made no guess yet: write one above and run both cells again.
    >>> compare_guess(13, 13, unit="rows")
    Your guess is right: 13 rows.
    >>> compare_guess(6.2, 6.24)
    Your guess, 6.2, is close: the answer is 6.24.
    >>> compare_guess("no", True)
    You guessed no; the answer is yes.
    >>> compare_guess("12", 13, unit="rows")
    Your guess, 12, is close: the answer is 13 rows. Numbers need no quotes.
    """
    shown = f"{in_words(answer)} {unit}".strip()
    if guess is None or guess is ...:
        print(f"The answer is {shown}. You have made no guess yet: write one above and run both cells again.")
        return
    guess, answer = plain(guess, answer), plain(answer, answer)
    note = ""
    if isinstance(guess, str) and _is_number(answer) and (number := _number_in(guess, unit)) is not None:
        guess, note = number, " Numbers need no quotes."
    one_character = isinstance(answer, str) and len(answer) == 1  # a token, perhaps: there E is not e
    if in_words(guess) == in_words(answer) or (
        not one_character and in_words(guess).lower() == in_words(answer).lower()
    ):
        print(f"Your guess is right: {shown}.{note}")
    elif _is_number(guess) and _is_number(answer) and _is_close(guess, answer, close):
        print(f"Your guess, {in_words(guess)}, is close: the answer is {shown}.{note}")
    else:
        print(f"You guessed {in_words(guess)}; the answer is {shown}.{note}")


def plain(value: Any, answer: Any) -> Any:
    """Tensors and arrays as Python values; "yes" and "no" as truth values where the answer is one."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str):
        return _YES_NO.get(value.strip().lower(), value) if isinstance(answer, bool) else value.strip() or value
    if isinstance(value, Sequence | range):
        return [one if isinstance(one, str | bytes) else plain(one, one) for one in value]
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_close(guess: float, answer: float, share: float) -> bool:
    try:
        return abs(guess - answer) <= share * abs(answer)
    except OverflowError:  # a whole number that no float can hold
        return False


def _number_in(text: str, unit: str) -> float | None:
    """The number that a text such as "750" or "37%" stands for, if it does."""
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return number / 100 if text.endswith("%") and unit != "%" else number


def in_words(value: Any) -> str:
    """A value as a reader writes it."""
    value = plain(value, value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    if isinstance(value, int) and abs(value) > 10**100:
        return f"a number of about {math.log10(abs(value)):.0f} digits"  # str refuses more than 4,300
    if isinstance(value, list):
        return "[" + ", ".join(map(in_words, value)) + "]"
    return str(value)
