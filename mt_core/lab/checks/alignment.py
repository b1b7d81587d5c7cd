"""The exercises of notebook 03: rows and labels."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mt_core.dataset import TransformerDataset
from mt_core.lab.checks.explained import WrongError, as_list, explained, touched
from mt_core.lab.checks.guesses import in_words
from mt_core.store import TokenStore
from mt_core.windows import IGNORE

Pair = tuple[list[int], list[int]]  # the input ids and labels of a row


def rows(my_rows: Callable[[list[int], int], Any]) -> None:
    """Check `my_rows(token_ids, seq_length)` -> a list of (input_ids, labels), as `TransformerDataset` cuts them."""
    with explained(my_rows):
        for n, seq_length in ((10, 4), (8, 4), (9, 4), (5, 4), (100, 16), (3, 1)):
            _check_counted_rows(my_rows, n, seq_length)
        ids = [(7 * n * n) % 11 for n in range(50)]  # ids that repeat and do not count upwards
        found = _as_rows(my_rows, ids, 8, "50 ids that do not count upwards")
        if found != _package_rows(ids, 8):
            raise WrongError(
                "the rows are right for 0, 1, 2, … and wrong for other ids: take labels from token_ids one place "
                "further on, not by adding 1 to an id"
            )
        try:
            got = my_rows([1, 2, 3, 4], 4)
        except ValueError:
            pass
        else:
            raise WrongError(
                f"4 tokens cannot fill one row of seq_length=4, which needs 5 (4 inputs and one more label), "
                f"but you returned {got!r}: raise a ValueError that says so"
            )
        print("Right: the same rows as TransformerDataset for 7 streams, each target asked once, 4 tokens refused.")


def prompt_labels(my_prompt_labels: Callable[[Tensor, int], Any]) -> None:
    """Check `my_prompt_labels(labels, n_prompt)`: a copy of labels (T,) where targets inside the prompt are -100."""
    with explained(my_prompt_labels):
        for n_prompt in (3, 1, 0, 9):
            labels = torch.arange(1, 9)  # the labels of the inputs 0, 1, … 7
            got = my_prompt_labels(labels, n_prompt)
            case = f"inputs 0…7, labels 1…8, n_prompt={n_prompt}"
            if not torch.equal(labels, torch.arange(1, 9)):
                raise WrongError(
                    f"{case}: the labels you were given were changed themselves, and with them whatever else uses "
                    "the row: work on labels.clone()"
                )
            found = as_list(got, case)
            wanted = [IGNORE if label < n_prompt else label for label in range(1, 9)]
            if found == wanted:
                continue
            hint = f"you returned {in_words(found)}, {in_words(wanted)} is needed"
            if n_prompt == 0:
                hint += ". Mind a slice that ends at n_prompt - 1 = -1: it means all but the last"
            elif len(found) == 8 and found == [IGNORE] * n_prompt + wanted[n_prompt:]:
                hint += (
                    f". One too many: the label at place {n_prompt - 1} is token {n_prompt}, the first token after the "
                    "prompt, and the model must learn it"
                )
            elif found == list(range(1, 9)):
                hint += ". Nothing is ignored: prompt tokens that are targets get the label -100"
            raise WrongError(f"{case}: {hint}")
        print(
            "Right: a prompt of n tokens holds n - 1 targets, none for n = 0, and the labels given stay as they were."
        )


def self_shifting_labels(my_labels: Callable[[Tensor, Tensor], Any]) -> None:
    """Check `my_labels(input_ids, labels)`: labels (T,) for a model that compares place t with label t + 1 itself."""
    with explained(my_labels):
        stream = TokenStore.from_token_ids([3, 1, 4, 1, 5, 9, 2, 6], vocab_size=10)
        dataset = TransformerDataset(stream, seq_length=5)
        for name, row in (("first", dataset[0]), ("last", dataset[1])):
            input_ids, labels = row["input_ids"].clone(), row["labels"].clone()
            case = f"{name} row, input_ids {in_words(input_ids)}, labels {in_words(labels)}"
            found = as_list(my_labels(input_ids, labels), case)
            if not torch.equal(input_ids, row["input_ids"]) or not torch.equal(labels, row["labels"]):
                raise WrongError(f"{case}: the tensors you were given were changed themselves: build a new one")
            if len(found) != 5:
                raise WrongError(f"{case}: you returned {len(found)} labels, the row has 5 places and needs 5")
            if found[1:] == labels[:-1].tolist():
                continue
            hint = f"the model asks place 0, 1, … for {in_words(found[1:])}, right is {in_words(labels[:-1])}"
            if found == labels.tolist():
                hint += ". Ours are shifted already; shifted again, each place is asked for the token after the next"
            elif found == input_ids.tolist():
                hint += ". The input ids are right until a row is masked: targets that were -100 are asked again"
            raise WrongError(f"{case}: {hint}")
        print(
            "Right: shifted once in all, and what was masked stays masked.\n"
            "The last place is asked nothing now: a model that shifts inside asks T - 1 questions of a row of T."
        )


def unflattened_loss(my_loss: Callable[[Tensor, Tensor], Any]) -> None:
    """Check `my_loss(logits, labels)`, which is meant to fail: cross_entropy without `view`. Explains the error."""
    with explained(my_loss):
        logits, labels = torch.zeros(2, 8, 16), torch.zeros(2, 8, dtype=torch.int64)
        try:
            got = my_loss(logits, labels)
        except (RuntimeError, ValueError) as error:
            message = str(error).splitlines()[0]
            if not all(re.search(rf"\b{size}\b", message) for size in (2, 8, 16)):
                raise WrongError(
                    f"it fails, with another error ({message}): call cross_entropy(logits, labels)"
                ) from None
        else:
            touched(got)
            raise WrongError("no error: that works. Break it: give cross_entropy logits and labels without any view")
        print(f"torch says: {message}")
        print("B=2, T=8, V=16. It took dimension 1, the 8 places, for the classes: a label was due for each of 2 × 16.")
        fine = my_loss(torch.zeros(2, 8, 8), labels)
        print(f"With V=8, as large as T, nothing complains: loss {float(fine):.2f}, computed over the wrong dimension.")


def _as_rows(my_rows: Callable[[list[int], int], Any], ids: list[int], seq_length: int, case: str) -> list[Pair]:
    """What the reader's function returns, as a list of pairs of lists."""
    returned = touched(my_rows(list(ids), seq_length))
    try:
        pairs = [(as_list(inputs, case), as_list(labels, case)) for inputs, labels in returned]
    except (TypeError, ValueError):
        raise WrongError(f"{case}: a list of pairs (input_ids, labels) is needed, you returned {returned!r}") from None
    for number, (inputs, labels) in enumerate(pairs):
        if len(inputs) != seq_length or len(labels) != seq_length:
            got = f"{len(inputs)} inputs and {len(labels)} labels"
            raise WrongError(f"{case}: row {number} has {got}, {seq_length} of each are needed")
    return pairs


def _check_counted_rows(my_rows: Callable[[list[int], int], Any], n: int, seq_length: int) -> None:
    """Rows of the stream 0, 1, … n - 1, where an id is its own position, so every mistake can be named."""
    case = f"tokens 0…{n - 1}, seq_length={seq_length}"
    found = _as_rows(my_rows, list(range(n)), seq_length, case)
    asked = [label for _, labels in found for label in labels if label != IGNORE]
    for number, (inputs, labels) in enumerate(found):
        here = f"{case}: row {number} has inputs {in_words(inputs)} and labels {in_words(labels)}"
        gaps = {label - token for token, label in zip(inputs, labels, strict=True) if label != IGNORE}
        if gaps == {0}:
            raise WrongError(f"{here}: each place is asked for the token it is shown; the label is the next one")
        if gaps == {2}:
            raise WrongError(f"{here}: shifted twice, each place is asked for the token after the next")
        if gaps - {1} or inputs != list(range(inputs[0], inputs[0] + seq_length)):
            raise WrongError(
                f"{here}: inputs must be neighbours in the stream, and each label the token after its input"
            )
    never = [token for token in range(1, n) if token not in asked]
    if never:
        why = (
            "rows must share one token, the last label of one is the first input of the next"
            if max(asked, default=0) > never[0]
            else "what is left at the end needs a row too: move it back so that it ends with the stream"
        )
        raise WrongError(f"{case}: target {never[0]} is never asked ({len(never)} missing): {why}")
    twice = [token for token in range(1, n) if asked.count(token) > 1]
    if twice:
        why = (
            "in the last row, labels that the row before it has asked become -100"
            if len(found) == len(_package_rows(list(range(n)), seq_length))
            else "a row starts seq_length tokens after the one before it"
        )
        raise WrongError(
            f"{case}: target {twice[0]} is asked {asked.count(twice[0])} times ({len(twice)} repeated): {why}"
        )
    if found != _package_rows(list(range(n)), seq_length):
        raise WrongError(
            f"{case}: each target is asked once, but the rows are not those of the package: rows start every "
            "seq_length tokens, in order, and only the last is moved back"
        )


def _package_rows(ids: list[int], seq_length: int) -> list[Pair]:
    dataset = TransformerDataset(TokenStore.from_token_ids(ids, vocab_size=max(ids) + 1), seq_length=seq_length)
    rows = (dataset[i] for i in range(len(dataset)))
    return [(row["input_ids"].tolist(), row["labels"].tolist()) for row in rows]
