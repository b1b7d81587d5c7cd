"""The exercises of notebook 17: rows that lose nothing, an order without repeats, a split by text, a bad line."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import CodeType
from typing import Any

from mt_core.corpus import CorpusError
from mt_core.lab.checks.explained import WrongError, as_items, explained, touched
from mt_core.lab.own_corpus import survey


def rows(my_rows: Callable[..., Any]) -> None:
    """Check `my_rows(joined, seq_length)`: rows for a model that shifts, in which each target is asked once."""
    with explained(my_rows):
        for n_tokens, seq_length in ((40, 8), (41, 8), (33, 8), (5, 4), (3, 8)):
            case = f"{n_tokens} tokens, seq_length {seq_length}"
            got = _list_of_lists(my_rows(list(range(100, 100 + n_tokens)), seq_length), case)
            longest = max(map(len, got), default=0)
            if longest > seq_length + 1:
                raise WrongError(
                    f"{case}: a row has {longest} tokens; {seq_length + 1} are the most: {seq_length} inputs and one "
                    "label more"
                )
            for row in got:
                if any(after != before + 1 for before, after in pairwise(row)):
                    raise WrongError(f"{case}: the row {row} is no stretch of the stream")
            asked = Counter(token for row in got for token in row[1:])  # a row's first token is read, never asked
            never = [token - 100 for token in range(101, 100 + n_tokens) if not asked[token]]
            twice = [token - 100 for token in asked if asked[token] > 1]
            if never:
                joints = all(place % seq_length == 0 for place in never)
                why = ": the first token of each row, as before" if joints and len(never) > 1 else ""
                raise WrongError(f"{case}: never asked are the tokens at {_some(never)}{why}")
            if twice:
                raise WrongError(f"{case}: asked more than once are the tokens at {_some(twice)}")
        print("Right: 5 streams; rows share one token with their neighbour, and each target is asked exactly once.")


def order(my_order: Callable[..., Any]) -> None:
    """Check `my_order(n_rows, seed, epoch)`: every row once, in an order that (seed, epoch) alone decide."""
    with explained(my_order):
        for n_rows in (1, 10, 257):
            case = f"n_rows {n_rows}, seed 0, epoch 0"
            got = _whole_numbers(my_order(n_rows, 0, 0), case)
            counts = Counter(got)
            if sorted(got) != list(range(n_rows)):
                missing = n_rows - len([row for row in counts if 0 <= row < n_rows])
                raise WrongError(
                    f"{case}: {len(got)} numbers, {missing} of the {n_rows} rows never come, the most frequent comes "
                    f"{max(counts.values(), default=0)} times; every row has to come once"
                )
            if _whole_numbers(my_order(n_rows, 0, 0), case) != got:
                raise WrongError(f"{case}: called again, it gives another order; resume would not find its place")
        orders = {
            pair: _whole_numbers(my_order(257, *pair), f"seed, epoch {pair}") for pair in ((0, 0), (0, 1), (1, 0))
        }
        if orders[0, 0] == orders[0, 1]:
            raise WrongError("epoch 1 has the order of epoch 0: draw from the epoch as well")
        if orders[0, 0] == orders[1, 0]:
            raise WrongError("seed 1 has the order of seed 0: draw from the seed as well")
        if orders[0, 1] == orders[1, 0]:
            raise WrongError(
                "seed 0 in epoch 1 has the order of seed 1 in epoch 0: a sum of the two collides; give the generator "
                "the pair, default_rng((seed, epoch))"
            )
        print("Right: every row once; the order depends on seed and epoch, and no two of the pairs tried share one.")


def split(my_split: Callable[..., Any]) -> None:
    """Check `my_split(texts, share)`: True for a text held out, equal texts alike, decided by the text alone."""
    with explained(my_split):
        texts = [f"story {number}, told at length" for number in range(2000)]
        got = _verdicts(my_split(list(texts), 0.1), len(texts), "2,000 texts, share 0.1")
        if "hash" in _names(getattr(my_split, "__code__", None)):
            raise WrongError("hash() of a string differs from one run of Python to the next: use hashlib")
        again = _verdicts(my_split(texts[::-1], 0.1), len(texts), "the same texts, in reverse")
        if again[::-1] != got:
            moved = sum(a != b for a, b in zip(got, again[::-1], strict=True))
            raise WrongError(
                f"the same texts in reverse: {moved} change sides. The text alone should decide, not its place"
            )
        twice = _verdicts(my_split([*texts, *texts], 0.1), 2 * len(texts), "each text twice")
        both = sum(one != other for one, other in zip(twice[: len(texts)], twice[len(texts) :], strict=True))
        if both:
            raise WrongError(f"each text twice: {both} texts are on both sides")
        for share in (0.1, 0.5):
            held = sum(_verdicts(my_split(list(texts), share), len(texts), f"share {share}"))
            if abs(held / len(texts) - share) > 0.04:
                raise WrongError(f"share {share}: {held:,} of {len(texts):,} texts are held out")
        print("Right: the text alone decides, so equal texts stay together, and new documents move no old one.")


def bad_line(my_file: Callable[[Path], Any]) -> None:
    """Check `my_file(folder)`: the path of a JSONL file with at least two good records and one that cannot be read."""
    with (
        explained(my_file),
        tempfile.TemporaryDirectory(prefix="mt-own-", ignore_cleanup_errors=True) as name,
    ):
        path = touched(my_file(Path(name)))
        if not isinstance(path, str | Path) or not Path(path).is_file():
            raise WrongError("you returned no path of a file: write it into the folder and return its path")
        if Path(path).suffix != ".jsonl":
            raise WrongError(f"the file is called {Path(path).name}: end it in .jsonl, or it is read as plain text")
        try:
            found = survey(path)
        except CorpusError as error:
            raise WrongError(f"nothing of the file can be read ({error.reason}): leave some records good") from None
        if found.first_bad is None:
            raise WrongError(
                f"all {found.n_documents} records can be read: break one, by its JSON, its field or its bytes"
            )
        if found.n_bad > 1:
            raise WrongError(f"{found.n_bad} records cannot be read: break one alone")
        if found.n_documents < 2:
            raise WrongError(f"{found.n_documents} record can be read, two are needed: the rest is to go on being read")
        print(f"mt_core says: line {found.first_bad.line}: {found.first_bad.reason}")
        print(f"One record is lost, {found.n_documents} are read: the rest of a file is never given up for one line.")


def _list_of_lists(value: Any, case: str) -> list[list[int]]:
    got = as_items(value)
    rows = [as_items(row) for row in got] if isinstance(got, list) else [got]
    if not all(isinstance(row, list) for row in rows):
        raise WrongError(f"{case}: a list of rows is needed, each a list of tokens")
    for number, row in enumerate(rows):
        if not all(isinstance(token, int) for token in row):
            raise WrongError(
                f"{case}: row {number} is {row!r}, one list of tokens is needed: inputs and labels are both cut from it"
            )
    return rows


def _whole_numbers(value: Any, case: str) -> list[int]:
    got = as_items(value)
    if not isinstance(got, list) or not all(isinstance(n, int) and not isinstance(n, bool) for n in got):
        raise WrongError(f"{case}: you returned {type(value).__name__}, a list or array of row numbers is needed")
    return got


def _verdicts(value: Any, n: int, case: str) -> list[bool]:
    got = as_items(value)
    if not isinstance(got, list) or len(got) != n or not all(isinstance(one, bool) for one in got):
        raise WrongError(f"{case}: a list with True or False for each text is needed")
    return got


def _names(code: CodeType | None) -> set[str]:
    """The global names that a function's code uses, comprehensions included."""
    if code is None:
        return set()
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _some(places: list[int]) -> str:
    return ", ".join(map(str, places[:4])) + (f" and {len(places) - 4} more" if len(places) > 4 else "")
