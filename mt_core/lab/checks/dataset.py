"""The exercises of notebook 02: where rows start, in which order, and what a loader covers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mt_core.lab.audit import audit, counting_corpus
from mt_core.lab.checks.explained import WrongError, as_list, explained, touched
from mt_core.lab.checks.guesses import in_words
from mt_core.windows import IGNORE

Row = tuple[list[int], list[int]]  # the input ids and labels of a row


def starts(my_starts: Callable[[int, int], Any]) -> None:
    """Check `my_starts(n_tokens, seq_length)`: where whole rows start, so that each of their targets is asked once."""
    with explained(my_starts):
        for n, seq_length in ((40, 8), (41, 8), (100, 16), (9, 8), (3, 1), (8, 8)):
            case = f"{n} tokens, seq_length={seq_length}"
            found = as_list(my_starts(n, seq_length), case)
            _check_coverage(found, n, seq_length, case)
            if found != sorted(found):
                raise WrongError(f"{case}: you returned {in_words(found)}: the starts must rise, row after row")
        print("Right: for 6 streams every target of a whole row is asked once, and 8 tokens give no row of 8 inputs.")


def shuffled_starts(my_starts: Callable[[int, int, np.random.Generator], Any]) -> None:
    """Check `my_starts(n_tokens, seq_length, generator)`: the starts of whole rows, each once, in random order."""
    with explained(my_starts):
        for n, seq_length in ((401, 8), (100, 4), (9, 8)):
            case = f"{n} tokens, seq_length={seq_length}"
            first = as_list(my_starts(n, seq_length, np.random.default_rng(0)), case)
            _check_coverage(first, n, seq_length, case)
            if len(first) == 1:
                continue
            if first == sorted(first):
                raise WrongError(f"{case}: the starts come in the order of the stream: shuffle them")
            if first != as_list(my_starts(n, seq_length, np.random.default_rng(0)), case):
                raise WrongError(
                    f"{case}: called twice with a generator of the same seed, you returned two orders: draw from the "
                    "generator you are given, and from nothing else"
                )
            if first == as_list(my_starts(n, seq_length, np.random.default_rng(1)), case):
                raise WrongError(
                    f"{case}: seeds 0 and 1 give the same order, so every epoch would: draw from the generator"
                )
        print("Right: random order, each target of a whole row once, the same seed gives the same order again.")


def coverage(my_coverage: Callable[[list[Row], int], Any]) -> None:
    """Check `my_coverage(rows, n_tokens)` -> how many targets of 0…n_tokens - 1 are asked once, more often, never."""
    with explained(my_coverage):
        every = _rows_at(range(0, 16, 4), 4)
        cases = {
            "rows of 4, one after the other": (every, 17),
            "rows of 4 at 0 and 5, tokens 0…9": (_rows_at((0, 5), 4), 10),
            "rows of 4 at 0, 2 and 2, tokens 0…6": (_rows_at((0, 2, 2), 4), 7),
            "a last row that is moved back and masked": ([*every[:3], (every[3][0], [IGNORE] * 3 + [16])], 17),
            "no rows, tokens 0…4": ([], 5),
        }
        for case, (rows, n) in cases.items():
            copies = [(list(inputs), list(labels)) for inputs, labels in rows]
            found = as_list(my_coverage(copies, n), case)
            report = audit(lambda corpus, rows=rows: _batches(rows), counting_corpus(n, n_documents=1))  # type: ignore[misc]
            epoch = report.epochs[0]
            wanted = [epoch.once, epoch.repeated, epoch.never]
            if found == wanted:
                continue
            hint = f"you returned {in_words(found)}, (once, more often, never) is {in_words(wanted)}"
            masked = sum(label == IGNORE for _, labels in rows for label in labels)
            if len(found) != 3:
                hint = f"you returned {in_words(found)}, three numbers are needed: once, more often, never"
            elif found == [*wanted[:2], wanted[2] + 1]:
                hint += ". Token 0 has no token before it: it is no target, and not missing"
            elif found == [wanted[0], wanted[1] + epoch.surplus, wanted[2]]:
                hint += ". Count targets, not questions: one that is asked three times is one target"
            elif masked:
                hint += (
                    f". {masked} labels are {IGNORE}: nothing is asked there. Mind that Python takes a negative index "
                    "from the end of a list"
                )
            raise WrongError(f"{case}: {hint}")
        print("Right: your audit and the package's agree on 5 epochs, masked labels and an empty one among them.")


def uncast_lookup(my_lookup: Callable[[np.ndarray, Tensor], Any]) -> None:
    """Check `my_lookup(token_ids, weight)`, meant to fail: an embedding of uint16 ids. Explains the error."""
    with explained(my_lookup):
        ids, weight = np.array([1, 366, 2], dtype=np.uint16), torch.arange(4096.0).view(1024, 4)
        try:
            got = my_lookup(ids, weight)
        except Exception as error:
            message = str(error).splitlines()[0]
            if "UInt16" not in message:
                raise WrongError(
                    f"it fails, with another error ({type(error).__name__}: {message}): call "
                    "embedding(torch.from_numpy(token_ids), weight)"
                ) from None
        else:
            touched(got)
            raise WrongError("no error: the ids were cast to a wider type on the way. Break it: leave the cast out")
        said = re.sub(r"#\d ", "", message.partition(" (while")[0])  # the argument's number helps nobody here
        print(f"torch says: {said}")
        shape = tuple(torch.nn.functional.embedding(torch.from_numpy(ids.astype(np.int64)), weight).shape)
        print(f"Cast to int64, the same three ids give a tensor of shape {shape}. The dataset casts what it gathers,")
        print("so the store keeps 2 bytes a token, and only the batch in hand has 8.")


def _rows_at(begin: Any, seq_length: int) -> list[Row]:
    """Rows of the stream 0, 1, 2, …"""
    return [(list(range(s, s + seq_length)), list(range(s + 1, s + 1 + seq_length))) for s in begin]


def _batches(rows: list[Row]) -> list[dict[str, list[list[int]]]]:
    return [{"input_ids": [inputs], "labels": [labels]} for inputs, labels in rows]


def _check_coverage(found: list[int], n: int, seq_length: int, case: str) -> None:
    """Whether rows at these starts ask for every target of the whole rows exactly once."""
    shown = in_words(found[:6])[:-1] + (", …]" if len(found) > 6 else "]")
    outside = [s for s in found if s < 0 or s + seq_length >= n]
    if outside:
        raise WrongError(
            f"{case}: a row at {outside[0]} needs the tokens {outside[0]} to {outside[0] + seq_length}, the stream "
            f"goes from 0 to {n - 1}: the last whole row starts before n_tokens - seq_length"
        )
    counts = np.bincount(
        np.concatenate([np.arange(s + 1, s + 1 + seq_length) for s in found] or [np.empty(0, np.int64)]), minlength=n
    )
    twice = np.flatnonzero(counts > 1)
    if len(twice):
        raise WrongError(
            f"{case}: you returned {shown}; target {twice[0]} is asked {counts[twice[0]]} times "
            f"({len(twice)} more than once): rows may share one token, not more, and no row comes twice"
        )
    whole = (n - 1) // seq_length * seq_length
    never = np.flatnonzero(counts[1 : whole + 1] == 0) + 1
    if len(never):
        raise WrongError(
            f"{case}: you returned {shown}; target {never[0]} is never asked ({len(never)} of {whole} missing): "
            "the last label of a row is the first input of the next"
        )
