"""The exercises of notebook 11: asking for the middle alone, weights from sizes, a batch of a mix, a wrong order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mt_core.augment import FillInTheMiddle
from mt_core.dataset import TransformerDataset
from mt_core.lab.checks.explained import WrongError, as_items, as_list, explained, touched
from mt_core.mixing import MixedDataset
from mt_core.store import TokenStore
from mt_core.token_loader import TokenLoader
from mt_core.tokenizer import MicroTransformerTokenizer
from mt_core.windows import IGNORE

_MARK = 3


def middle_only(my_middle_only: Callable[[Tensor, Tensor, int], Any]) -> None:
    """Check `my_middle_only(input_ids, labels, mark)`: labels (T,) with only what stands after the third mark asked."""
    with explained(my_middle_only):
        for body, a, b in ((9, 2, 5), (9, 0, 4), (9, 3, 3), (9, 6, 9), (4, 0, 0)):
            tokens = list(range(10, 10 + body))
            row = [1, _MARK, *tokens[:a], _MARK, *tokens[b:], _MARK, *tokens[a:b], 2]
            inputs, labels = torch.tensor([*row[:-1], 0, 0]), torch.tensor([*row[1:], IGNORE, IGNORE])
            given = labels.clone()
            case = f"middle {tokens[a:b]}"
            found = as_list(my_middle_only(inputs.clone(), given, _MARK), case)
            if given.tolist() != labels.tolist():
                raise WrongError(f"{case}: the labels you were given were changed themselves: return a copy")
            _judge_middle(found, inputs.tolist(), labels.tolist(), case)
        print("Right: 5 rows. The third mark asks for the first token of the middle, the middle's last for [SEP].")


def _judge_middle(found: list[int], inputs: list[int], labels: list[int], case: str) -> None:
    if len(found) != len(labels):
        raise WrongError(f"{case}: you returned {len(found)} labels, one for each of {len(labels)} places is needed")
    third = [t for t, token in enumerate(inputs) if token == _MARK][2]
    wanted = [IGNORE] * third + labels[third:]
    if found == wanted:
        return
    hint = f"you returned {found}, {wanted} is needed"
    if found == [IGNORE] * (third + 1) + labels[third + 1 :]:
        hint += f". The mark at place {third} is asked for the first token after it: its label counts"
    elif found == [IGNORE] * (third - 1) + labels[third - 1 :]:
        hint += f". Place {third - 1} is asked for the mark itself: that is not a token of the middle"
    elif found == labels:
        hint += ". All targets are still asked"
    raise WrongError(f"{case}: {hint}")


def weights(my_weights: Callable[[Sequence[int], float], Any]) -> None:
    """Check `my_weights(sizes, alpha)`: shares that sum to 1, in the proportions of each size to the power alpha."""
    with explained(my_weights):
        for sizes, alpha in (([900, 100], 0.5), ([900, 100], 1), ([900, 100], 0), ([8, 1, 27], 1 / 3), ([5], 0.3)):
            case = f"sizes {sizes}, alpha={alpha:.2g}"
            found = as_items(my_weights(list(sizes), alpha))
            if not isinstance(found, list) or not all(isinstance(share, int | float) for share in found):
                raise WrongError(f"{case}: you returned {found!r}, a list of numbers is needed")
            wanted = _weights(sizes, alpha)
            if len(found) == len(wanted) and all(map(_close, found, wanted)):
                continue
            hint = f"you returned {_shown(found)}, {_shown(wanted)} is needed"
            if len(found) == len(wanted) and not _close(sum(found), 1):
                hint += f". Yours sum to {sum(found):.3g}: divide by the sum"
            elif alpha != 1 and found and all(map(_close, found, _weights(sizes, 1))):
                hint += ". Those are the shares of the sizes themselves: take the power first"
            elif alpha and all(map(_close, found, _weights(sizes, 1 / alpha))):
                hint += ". That is the power 1 / alpha, which makes the large source larger"
            raise WrongError(f"{case}: {hint}")
        print("Right: alpha=1 is the sizes, alpha=0 all alike. 900 and 100 rows with alpha=0.5 become 3 to 1:")
        print("in 1,000 rows of the mix each row of the first comes 0.83 times on average, of the second 2.5 times.")


def _weights(sizes: Sequence[int], alpha: float) -> list[float]:
    powers = [size**alpha for size in sizes]
    return [power / sum(powers) for power in powers]


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)


def _shown(numbers: Sequence[float]) -> str:
    return "[" + ", ".join(f"{number:.3g}" for number in numbers) + "]"


def batch(my_batch: Callable[[Sequence[int], Sequence[int], int, int], Any]) -> None:
    """Check `my_batch(sizes, weights, batch_size, step)`: (source, epoch, row) of each row of a batch of a mix."""
    with explained(my_batch):
        steps = 0
        for sizes, whole, batch_size in (((4, 2), (1, 1), 3), ((7, 2), (3, 1), 4), ((5, 3, 2), (2, 3, 1), 6)):
            for step, wanted in enumerate(_batches(sizes, whole, batch_size)):
                case = f"sizes {list(sizes)}, weights {list(whole)}, batch_size={batch_size}, step {step}"
                got = touched(my_batch(list(sizes), list(whole), batch_size, step))
                _judge_batch(got, wanted, sizes, case)
                steps += 1
        far = my_batch([7, 2], [3, 1], 4, 10**12)
        if _triples(far, "step 10**12") != [(0, 428571428571, 3), (0, 428571428571, 4), (0, 428571428571, 5), _FAR]:
            raise WrongError(f"step 10**12: you returned {far}; count from the step, not from what came before")
        print(
            f"Right: {steps} batches, the same rows as TokenLoader's, and batch 1,000,000,000,000 without the others."
        )


_FAR = (1, 500_000_000_000, 0)


def _batches(sizes: Sequence[int], whole: Sequence[int], batch_size: int) -> list[list[tuple[int, int, int]]]:
    """What the package delivers, in order: (source, epoch, row), for the first ten batches."""
    stores = [TokenStore.from_token_ids(range(4 * size + 1), vocab_size=64) for size in sizes]
    datasets = [TransformerDataset(store, seq_length=4) for store in stores]
    mixed = MixedDataset(list(zip(datasets, whole, strict=True)), n_samples=10 * batch_size)
    loader = TokenLoader(mixed, batch_size=batch_size)
    numbers = np.concatenate(list(loader.order.blocks(10)))  # type: ignore[union-attr]
    found = list(zip(*(column.tolist() for column in mixed.locate(numbers)), strict=True))
    return [found[start : start + batch_size] for start in range(0, len(found), batch_size)]


def _triples(got: Any, case: str) -> list[tuple[int, ...]]:
    try:
        found = [tuple(int(number) for number in one) for one in got]
    except TypeError:
        raise WrongError(f"{case}: you returned {got!r}, a list of (source, epoch, row) is needed") from None
    if any(len(one) != 3 for one in found):
        raise WrongError(f"{case}: you returned {got!r}, three numbers for each row are needed: source, epoch, row")
    return found


def _judge_batch(got: Any, wanted: list[tuple[int, int, int]], sizes: Sequence[int], case: str) -> None:
    found = _triples(got, case)
    if found == wanted:
        return
    if len(found) != len(wanted):
        raise WrongError(f"{case}: you returned {len(found)} rows, {len(wanted)} are needed")
    at = next(i for i, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1])
    (source, epoch, row), (right, _, _) = found[at], wanted[at]
    hint = f"row {at} is (source, epoch, row) = {found[at]}, {wanted[at]} is needed"
    if source != right:
        hint += ". The source is wrong: Mix(weights).at(places) with places from step * batch_size on"
    elif not 0 <= row < sizes[source]:
        hint += f". Source {source} has {sizes[source]} rows: begin its next epoch"
    elif epoch != wanted[at][1] and row == wanted[at][2]:
        hint += ". The epoch counts how often this source has been read to its end"
    else:
        hint += ". Count how many rows of this source came before, not how many of all"
    raise WrongError(f"{case}: {hint}")


def order(my_augment: Callable[[], Any]) -> None:
    """Check `my_augment()`, which is meant to fail: a list in which FillInTheMiddle does not come first."""
    with explained(my_augment):
        augment = touched(my_augment())
        store = TokenStore.from_token_ids(range(10, 60), vocab_size=300)
        try:
            TransformerDataset(store, _tokenizer(), 16, augment=augment)
        except ValueError as error:
            message = str(error)
            if not isinstance(augment, list | tuple) or not any(isinstance(one, FillInTheMiddle) for one in augment):
                raise WrongError(f"it fails, with another error ({message})") from None
            if "put it before the others" not in message:
                raise WrongError(f"it fails, with another error ({message})") from None
        else:
            names = ", ".join(type(one).__name__ for one in augment) or "nothing"
            raise WrongError(f"no error: [{names}] works. Let FillInTheMiddle come after another one that changes rows")
        print(f"mt_core says: {message}.")
        print("Its marks are [MASK], and so are masked inputs: turned first, the three marks are never masked or lost.")


def _tokenizer() -> MicroTransformerTokenizer:
    return MicroTransformerTokenizer.train(["some text"], vocab_size=260)
