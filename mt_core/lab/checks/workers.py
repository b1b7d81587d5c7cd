"""The exercises of notebook 07: deliveries in order, noise by row, a file that travels, a dataset that does not."""

from __future__ import annotations

import pickle
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mt_core.lab.checks.explained import UntouchedError, WrongError, as_items, as_list, explained, touched
from mt_core.lab.checks.guesses import in_words

_LINES = ("once", "upon a time", "", "größer", "the end")


def deliveries(my_deliveries: Callable[[list[int]], Any]) -> None:
    """Check `my_deliveries(arrived)` -> for each arrival the numbers handed over then, so that they come in order."""
    with explained(my_deliveries):
        cases = [[0, 1, 2], [1, 0, 2], [2, 1, 0], [0], [], [1, 2, 3, 0, 5, 4]]
        dice = random.Random(0)
        cases += [dice.sample(range(12), 12) for _ in range(20)]
        for arrived in cases:
            case = f"arrived {in_words(arrived)}"
            given = list(arrived)
            returned = as_items(my_deliveries(given))
            if given != arrived:
                raise WrongError(f"{case}: the list you were given was changed: leave it as it is")
            if not isinstance(returned, list) or len(returned) != len(arrived):
                raise WrongError(f"{case}: a list of {len(arrived)} lists is needed, you returned {returned!r}")
            found = [as_list(part, case) for part in returned]
            if found != (wanted := _deliveries(arrived)):
                raise WrongError(f"{case}: {_why_not(found, wanted)}")
        print("Right: 26 orders of arrival, each batch handed over as early as the order allows, none before its turn.")


def _deliveries(arrived: Sequence[int]) -> list[list[int]]:
    waiting, due, found = set(), 0, []
    for number in arrived:
        waiting.add(number)
        now = []
        while due in waiting:
            now.append(due)
            due += 1
        found.append(now)
    return found


def _why_not(found: list[list[int]], wanted: list[list[int]]) -> str:
    """Where deliveries first go wrong, and how."""
    place = next(i for i, (got, right) in enumerate(zip(found, wanted, strict=True)) if got != right)
    got, right = found[place], wanted[place]
    said = f"at arrival {place} you hand over {in_words(got)}, right is {in_words(right)}"
    if set(right) - set(got):
        missing = min(set(right) - set(got))
        return f"{said}. Batch {missing} is there and its turn has come: hand over all that can go, not one alone"
    early = [number for number in got if number not in right]
    if early:
        return f"{said}. Batch {early[0]} has to wait: one before it is not there yet, or it was handed over before"
    return f"{said}: the same batches, out of order"


def mask(my_mask: Callable[..., Any]) -> None:
    """Check `my_mask(input_ids, row, *, seed, epoch)`: int64 (T,), about 15% of it 3, drawn by (seed, epoch, row)."""
    with explained(my_mask):
        input_ids = torch.arange(10, 410)
        before = _global_generators()
        found = _masked(my_mask, input_ids, 0, seed=0, epoch=0)
        again = _masked(my_mask, input_ids, 0, seed=0, epoch=0)
        case = "seed=0, epoch=0, row=0"
        if not torch.equal(found, again):
            raise WrongError(
                f"{case}, asked twice: two different answers. The draw comes from a generator that goes on, so it "
                "depends on what was drawn before and in which worker: make one anew from (seed, epoch, row)"
            )
        others: tuple[tuple[dict[str, int], str], ...] = (
            ({"row": 1, "seed": 0, "epoch": 0}, "row 1 is masked in the same places as row 0"),
            ({"row": 0, "seed": 0, "epoch": 1}, "epoch 1 masks the same places as epoch 0"),
            ({"row": 0, "seed": 1, "epoch": 0}, "seed 1 masks the same places as seed 0"),
        )
        for other, words in others:
            if torch.equal(found, _masked(my_mask, input_ids, **other)):
                raise WrongError(f"{words}: seed, epoch and row must all be in the key")
        pairs = [((0, 0, 1), (0, 1, 0)), ((0, 1, 0), (1, 0, 0)), ((1, 2, 3), (1, 3, 2)), ((2, 5, 7), (3, 5, 6))]
        pairs += [((0, 1, 11), (0, 11, 1))]  # digits after digits
        pairs += [((0, 0, size), (0, 1, 0)) for size in (100, 1000, 10_000)]  # epoch * 1000 + row, and so on
        for one, two in pairs:
            masks = [_masked(my_mask, input_ids, row, seed=seed, epoch=epoch) for seed, epoch, row in (one, two)]
            if torch.equal(*masks):
                raise WrongError(
                    f"(seed, epoch, row) = {one} and {two} mask the same places: the three were added or joined to "
                    "one number. Pass them as a tuple, np.random.default_rng((seed, epoch, row))"
                )
        shares = [(_masked(my_mask, input_ids, row, seed=4, epoch=0) == 3).float().mean() for row in range(10)]
        if not 0.12 < (share := float(sum(shares) / 10)) < 0.18:
            raise WrongError(f"{share:.0%} of 4,000 ids were masked, about 15% are needed")
        if _global_generators() != before:
            raise WrongError("a global generator was drawn from or seeded: whatever else draws from it is disturbed")
        print("Right: about 15% masked, by seed, epoch and row alone; nothing global is touched.")


def _global_generators() -> tuple[Any, ...]:
    """Where the generators that everyone shares stand."""
    state: dict[str, Any] = np.random.get_state(legacy=False)["state"]
    return torch.get_rng_state().tolist(), state["key"].tolist(), state["pos"], random.getstate()


def _masked(my_mask: Callable[..., Any], input_ids: Tensor, row: int, *, seed: int, epoch: int) -> Tensor:
    """What the reader's function returns, checked to be a masked copy."""
    case, given = f"seed={seed}, epoch={epoch}, row={row}", input_ids.clone()
    got = touched(my_mask(given, row, seed=seed, epoch=epoch))
    if not torch.equal(given, input_ids):
        raise WrongError(f"{case}: the ids you were given were changed themselves: work on a copy")
    if not isinstance(got, Tensor) or got.shape != input_ids.shape or got.dtype != torch.int64:
        what = f"{tuple(got.shape)} {got.dtype}" if isinstance(got, Tensor) else type(got).__name__
        raise WrongError(f"{case}: an int64 tensor of shape ({len(input_ids)},) is needed, you returned {what}")
    if bool(((got != input_ids) & (got != 3)).any()):
        raise WrongError(f"{case}: ids that are not masked must stay as they were, and masked ones become 3")
    return got


def lines(my_lines: Callable[[Path], Any]) -> None:
    """Check the class `my_lines(path)`: rows are the lines of a file held open, and it survives pickling."""
    with explained(my_lines), tempfile.TemporaryDirectory(prefix="mt-lines-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "lines.txt"
        path.write_text("\n".join(_LINES) + "\n", encoding="utf-8", newline="\n")
        rows = my_lines(path)
        opened = [rows]
        try:
            _check_lines(rows, path, opened)
        finally:
            for dataset in opened:  # Windows cannot remove a file that is open
                for value in list(getattr(dataset, "__dict__", {}).values()):
                    if hasattr(value, "read") and hasattr(value, "close"):
                        value.close()
        print("Right: the lines arrive, in any order; the open file stays behind, and each copy opens its own.")


def _check_lines(rows: Any, path: Path, opened: list[Any]) -> None:
    if rows.__getitem__(0) is None and type(rows).__len__(rows) is None:
        raise UntouchedError
    if not isinstance(rows, Dataset):
        raise WrongError("a class that inherits from Dataset is needed: class MyLines(Dataset)")
    _check_each_line(rows, "before any journey")
    files = {name: value for name, value in vars(rows).items() if hasattr(value, "read") and hasattr(value, "fileno")}
    opened.append(SimpleNamespace(**files))
    if not files:
        raise WrongError(
            "no attribute holds an open file: it works, but the exercise is to keep the file open between rows and "
            "to travel all the same"
        )
    try:
        parcel = pickle.dumps(rows)
    except Exception as error:
        raise WrongError(
            f"pickle refuses: {error}. Write __getstate__, which returns what travels: all attributes but the open file"
        ) from None
    if "größer".encode() in parcel:
        raise WrongError("the lines themselves travel: send the path, and read the file again on arrival")
    for name in files:
        if not hasattr(vars(rows).get(name), "read"):
            raise WrongError(
                f"pickled, the dataset itself has lost its open file, {name}: __getstate__ must work on a copy, "
                "self.__dict__.copy(), and leave self as it was"
            )
    copy = pickle.loads(parcel)
    opened.append(copy)
    try:
        _check_each_line(copy, "in the worker's copy")
    except AttributeError as error:
        raise WrongError(f"in the worker's copy: {error}. Write __setstate__, which opens the file again") from None
    if rows[1] != _LINES[1]:
        raise WrongError("after the copy was read, the first dataset gives other rows: each needs a file of its own")


def _check_each_line(rows: Any, when: str) -> None:
    if len(rows) != len(_LINES):
        raise WrongError(f"{when}: len is {len(rows)}, the file has {len(_LINES)} lines")
    for index in (0, 1, 2, 3, 4, 1, 4, 0):  # any order, as a shuffled loader asks
        if rows[index] != _LINES[index]:
            raise WrongError(
                f"{when}: row {index} is {rows[index]!r}, line {index} of the file is {_LINES[index]!r} "
                "(rows are asked for in any order; the line end is no part of a row)"
            )


def stay_at_home(my_rows: Callable[[], Any]) -> None:
    """Check `my_rows()`, which is meant to fail: a dataset that works here and cannot be sent. Explains the error."""
    with explained(my_rows):
        dataset = touched(my_rows())
        try:
            size, first = len(dataset), dataset[0]
        except Exception as error:
            raise WrongError(
                f"it does not work in this process either ({type(error).__name__}: {error}): len and row 0 must"
            ) from None
        try:
            parcel = pickle.dumps(dataset)
        except Exception as error:
            message = str(error).splitlines()[0]
        else:
            raise WrongError(
                f"no error: pickle makes {len(parcel)} bytes of it, so it can travel. Give it something that lives in "
                "this process alone, such as a lambda, a generator, a lock or an open file"
            )
        print(f"pickle says: {message}")
        print(f"Here it works: {size} rows, row 0 is {first!r}. No worker started by spawn or forkserver can have it.")
        print("A forked worker would: its memory is a copy, nothing is pickled. So such code breaks with the system.")
