"""Predictions and exercises: compares a reader's guess or function with what is true, in words. Teaches nothing else.

Every check prints; none raises because a reader's answer is missing or wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mt_core.dataset import TransformerDataset
from mt_core.store import TokenStore
from mt_core.windows import IGNORE

Pair = tuple[list[int], list[int]]  # the input ids and labels of a row
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
    shown = f"{_words(answer)} {unit}".strip()
    if guess is None or guess is ...:
        print(f"The answer is {shown}. You have made no guess yet: write one above and run both cells again.")
        return
    guess, answer = _plain(guess, answer), _plain(answer, answer)
    one_character = isinstance(answer, str) and len(answer) == 1  # a token, perhaps: there E is not e
    if _words(guess) == _words(answer) or (not one_character and _words(guess).lower() == _words(answer).lower()):
        print(f"Your guess is right: {shown}.")
    elif _is_number(guess) and _is_number(answer) and abs(guess - answer) <= close * abs(answer):
        print(f"Your guess, {_words(guess)}, is close: the answer is {shown}.")
    else:
        print(f"You guessed {_words(guess)}; the answer is {shown}.")


def _plain(value: Any, answer: Any) -> Any:
    """Tensors and arrays as Python values; "yes" and "no" as truth values where the answer is one."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str):
        return _YES_NO.get(value.strip().lower(), value) if isinstance(answer, bool) else value.strip() or value
    if isinstance(value, Sequence | range):
        return list(value)
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _words(value: Any) -> str:
    """A value as a reader writes it."""
    value = _plain(value, value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    if isinstance(value, list):
        return "[" + ", ".join(map(_words, value)) + "]"
    return str(value)


# -- notebook 03: rows and labels ------------------------------------------------------------------------------


def rows(my_rows: Callable[[list[int], int], Any]) -> None:
    """Check `my_rows(token_ids, seq_length)` -> a list of (input_ids, labels), as `TransformerDataset` cuts them."""
    with _explained(my_rows):
        for n, seq_length in ((10, 4), (8, 4), (9, 4), (5, 4), (100, 16), (3, 1)):
            _check_counted_rows(my_rows, n, seq_length)
        ids = [(7 * n * n) % 11 for n in range(50)]  # ids that repeat and do not count upwards
        found = _as_rows(my_rows, ids, 8, "50 ids that do not count upwards")
        if found != _package_rows(ids, 8):
            raise _WrongError(
                "the rows are right for 0, 1, 2, … and wrong for other ids: take labels from token_ids one place "
                "further on, not by adding 1 to an id"
            )
        try:
            got = my_rows([1, 2, 3, 4], 4)
        except ValueError:
            pass
        else:
            raise _WrongError(
                f"4 tokens cannot fill one row of seq_length=4, which needs 5 (4 inputs and one more label), "
                f"but you returned {got!r}: raise a ValueError that says so"
            )
        print("Right: the same rows as TransformerDataset for 7 streams, each target asked once, 4 tokens refused.")


def prompt_labels(my_prompt_labels: Callable[[Tensor, int], Any]) -> None:
    """Check `my_prompt_labels(labels, n_prompt)`: a copy of labels (T,) where targets inside the prompt are -100."""
    with _explained(my_prompt_labels):
        for n_prompt in (3, 1, 0, 9):
            labels = torch.arange(1, 9)  # the labels of the inputs 0, 1, … 7
            got = my_prompt_labels(labels, n_prompt)
            case = f"inputs 0…7, labels 1…8, n_prompt={n_prompt}"
            if not torch.equal(labels, torch.arange(1, 9)):
                raise _WrongError(
                    f"{case}: the labels you were given were changed themselves, and with them whatever else uses "
                    "the row: work on labels.clone()"
                )
            found = _as_list(got, case)
            wanted = [IGNORE if label < n_prompt else label for label in range(1, 9)]
            if found == wanted:
                continue
            hint = f"you returned {_words(found)}, {_words(wanted)} is needed"
            if n_prompt == 0:
                hint += ". Mind a slice that ends at n_prompt - 1 = -1: it means all but the last"
            elif len(found) == 8 and found == [IGNORE] * n_prompt + wanted[n_prompt:]:
                hint += (
                    f". One too many: the label at place {n_prompt - 1} is token {n_prompt}, the first token after the "
                    "prompt, and the model must learn it"
                )
            elif found == list(range(1, 9)):
                hint += ". Nothing is ignored: prompt tokens that are targets get the label -100"
            raise _WrongError(f"{case}: {hint}")
        print(
            "Right: a prompt of n tokens holds n - 1 targets, none for n = 0, and the labels given stay as they were."
        )


def self_shifting_labels(my_labels: Callable[[Tensor, Tensor], Any]) -> None:
    """Check `my_labels(input_ids, labels)`: labels (T,) for a model that compares place t with label t + 1 itself."""
    with _explained(my_labels):
        stream = TokenStore.from_token_ids([3, 1, 4, 1, 5, 9, 2, 6], vocab_size=10)
        dataset = TransformerDataset(stream, seq_length=5)
        for name, row in (("first", dataset[0]), ("last", dataset[1])):
            input_ids, labels = row["input_ids"].clone(), row["labels"].clone()
            case = f"{name} row, input_ids {_words(input_ids)}, labels {_words(labels)}"
            found = _as_list(my_labels(input_ids, labels), case)
            if not torch.equal(input_ids, row["input_ids"]) or not torch.equal(labels, row["labels"]):
                raise _WrongError(f"{case}: the tensors you were given were changed themselves: build a new one")
            if len(found) != 5:
                raise _WrongError(f"{case}: you returned {len(found)} labels, the row has 5 places and needs 5")
            if found[1:] == labels[:-1].tolist():
                continue
            hint = f"the model asks place 0, 1, … for {_words(found[1:])}, right is {_words(labels[:-1])}"
            if found == labels.tolist():
                hint += ". Ours are shifted already; shifted again, each place is asked for the token after the next"
            elif found == input_ids.tolist():
                hint += ". The input ids are right until a row is masked: targets that were -100 are asked again"
            raise _WrongError(f"{case}: {hint}")
        print(
            "Right: shifted once in all, and what was masked stays masked.\n"
            "The last place is asked nothing now: a model that shifts inside asks T - 1 questions of a row of T."
        )


def unflattened_loss(my_loss: Callable[[Tensor, Tensor], Any]) -> None:
    """Check `my_loss(logits, labels)`, which is meant to fail: cross_entropy without `view`. Explains the error."""
    with _explained(my_loss):
        logits, labels = torch.zeros(2, 8, 16), torch.zeros(2, 8, dtype=torch.int64)
        try:
            got = my_loss(logits, labels)
        except (RuntimeError, ValueError) as error:
            message = str(error).splitlines()[0]
            if not all(re.search(rf"\b{size}\b", message) for size in (2, 8, 16)):
                raise _WrongError(
                    f"it fails, with another error ({message}): call cross_entropy(logits, labels)"
                ) from None
        else:
            if got is None or got is ...:
                raise _UntouchedError
            raise _WrongError("no error: that works. Break it: give cross_entropy logits and labels without any view")
        print(f"torch says: {message}")
        print("B=2, T=8, V=16. It took dimension 1, the 8 places, for the classes: a label was due for each of 2 × 16.")
        fine = my_loss(torch.zeros(2, 8, 8), labels)
        print(f"With V=8, as large as T, nothing complains: loss {float(fine):.2f}, computed over the wrong dimension.")


class _WrongError(Exception):
    """An answer is wrong; the message explains how."""


class _UntouchedError(Exception):
    """The exercise still returns nothing."""


@contextmanager
def _explained(answer: Callable[..., Any]) -> Iterator[None]:
    """Print what went wrong instead of raising it."""
    name = getattr(answer, "__name__", "your function")
    try:
        yield
    except _UntouchedError:
        print(f"{name} returns nothing yet: replace the ... by your own lines and run both cells again.")
    except _WrongError as wrong:
        print(f"Not yet. {wrong}.")
    except Exception as error:
        print(f"Not yet. {name} stopped with {type(error).__name__}: {error}")


def _as_list(value: Any, case: str) -> list[int]:
    """A returned tensor, array or list as a list of whole numbers."""
    if value is None or value is ...:
        raise _UntouchedError
    value = _plain(value, value)
    if not isinstance(value, list) or not all(isinstance(n, int) and not isinstance(n, bool) for n in value):
        raise _WrongError(f"{case}: you returned {value!r}, a tensor or list of whole numbers is needed")
    return value


def _as_rows(my_rows: Callable[[list[int], int], Any], ids: list[int], seq_length: int, case: str) -> list[Pair]:
    """What the reader's function returns, as a list of pairs of lists."""
    returned = my_rows(list(ids), seq_length)
    if returned is None or returned is ...:
        raise _UntouchedError
    try:
        pairs = [(_as_list(inputs, case), _as_list(labels, case)) for inputs, labels in returned]
    except (TypeError, ValueError):
        raise _WrongError(f"{case}: a list of pairs (input_ids, labels) is needed, you returned {returned!r}") from None
    for number, (inputs, labels) in enumerate(pairs):
        if len(inputs) != seq_length or len(labels) != seq_length:
            got = f"{len(inputs)} inputs and {len(labels)} labels"
            raise _WrongError(f"{case}: row {number} has {got}, {seq_length} of each are needed")
    return pairs


def _check_counted_rows(my_rows: Callable[[list[int], int], Any], n: int, seq_length: int) -> None:
    """Rows of the stream 0, 1, … n - 1, where an id is its own position, so every mistake can be named."""
    case = f"tokens 0…{n - 1}, seq_length={seq_length}"
    found = _as_rows(my_rows, list(range(n)), seq_length, case)
    asked = [label for _, labels in found for label in labels if label != IGNORE]
    for number, (inputs, labels) in enumerate(found):
        here = f"{case}: row {number} has inputs {_words(inputs)} and labels {_words(labels)}"
        gaps = {label - token for token, label in zip(inputs, labels, strict=True) if label != IGNORE}
        if gaps == {0}:
            raise _WrongError(f"{here}: each place is asked for the token it is shown; the label is the next one")
        if gaps == {2}:
            raise _WrongError(f"{here}: shifted twice, each place is asked for the token after the next")
        if gaps - {1} or inputs != list(range(inputs[0], inputs[0] + seq_length)):
            raise _WrongError(
                f"{here}: inputs must be neighbours in the stream, and each label the token after its input"
            )
    never = [token for token in range(1, n) if token not in asked]
    if never:
        why = (
            "rows must share one token, the last label of one is the first input of the next"
            if max(asked, default=0) > never[0]
            else "what is left at the end needs a row too: move it back so that it ends with the stream"
        )
        raise _WrongError(f"{case}: target {never[0]} is never asked ({len(never)} missing): {why}")
    twice = [token for token in range(1, n) if asked.count(token) > 1]
    if twice:
        why = (
            "in the last row, labels that the row before it has asked become -100"
            if len(found) == len(_package_rows(list(range(n)), seq_length))
            else "a row starts seq_length tokens after the one before it"
        )
        raise _WrongError(
            f"{case}: target {twice[0]} is asked {asked.count(twice[0])} times ({len(twice)} repeated): {why}"
        )
    if found != _package_rows(list(range(n)), seq_length):
        raise _WrongError(
            f"{case}: each target is asked once, but the rows are not those of the package: rows start every "
            "seq_length tokens, in order, and only the last is moved back"
        )


def _package_rows(ids: list[int], seq_length: int) -> list[Pair]:
    dataset = TransformerDataset(TokenStore.from_token_ids(ids, vocab_size=max(ids) + 1), seq_length=seq_length)
    rows = (dataset[i] for i in range(len(dataset)))
    return [(row["input_ids"].tolist(), row["labels"].tolist()) for row in rows]
