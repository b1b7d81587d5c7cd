"""Predictions: sets a reader's guess beside the answer, kindly. Never raises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_YES_NO = {"yes": True, "true": True, "no": False, "false": False}


def compare_guess(guess: Any, answer: Any, *, unit: str = "", close: float = 0.1) -> None:
    """Print one line that sets a reader's guess beside the answer.

    Args:
        guess: what the reader wrote; None (or `...`) where nothing was written yet.
        answer: a number, a truth value, a text, or a list of these. Floats are shown with at most two decimals,
            and a guess that rounds to the same is right.
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
    """
    shown = f"{in_words(answer)} {unit}".strip()
    if guess is None or guess is ...:
        print(f"The answer is {shown}. You have made no guess yet: write one above and run both cells again.")
        return
    guess, answer = plain(guess, answer), plain(answer, answer)
    one_character = isinstance(answer, str) and len(answer) == 1  # a token, perhaps: there E is not e
    if in_words(guess) == in_words(answer) or (
        not one_character and in_words(guess).lower() == in_words(answer).lower()
    ):
        print(f"Your guess is right: {shown}.")
    elif _is_number(guess) and _is_number(answer) and abs(guess - answer) <= close * abs(answer):
        print(f"Your guess, {in_words(guess)}, is close: the answer is {shown}.")
    else:
        print(f"You guessed {in_words(guess)}; the answer is {shown}.")


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


def in_words(value: Any) -> str:
    """A value as a reader writes it."""
    value = plain(value, value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    if isinstance(value, list):
        return "[" + ", ".join(map(in_words, value)) + "]"
    return str(value)
