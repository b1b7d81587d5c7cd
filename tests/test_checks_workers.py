"""Checks of notebook 07: right answers pass, wrong ones are explained in the learner's terms."""

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mt_core.lab.checks import workers

Say = Callable[..., str]


def delivered(arrived: list[int]) -> list[list[int]]:
    waiting, due, result = set(), 0, []
    for number in arrived:
        waiting.add(number)
        result.append([])
        while due in waiting:
            result[-1].append(due)
            due += 1
    return result


def one_at_a_time(arrived: list[int]) -> list[list[int]]:
    waiting, due, result = set(), 0, []
    for number in arrived:
        waiting.add(number)
        result.append([due] if due in waiting else [])
        due += due in waiting
    return result


def emptied(arrived: list[int]) -> list[list[int]]:
    result = delivered(arrived)
    arrived.clear()
    return result


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda arrived: ..., "returns nothing yet"),
        (lambda arrived: None, "returns nothing yet"),
        (lambda arrived: [[number] for number in arrived], "Batch 1 has to wait"),
        (one_at_a_time, "Batch 1 is there and its turn has come"),
        (lambda arrived: [part[::-1] for part in delivered(arrived)], "the same batches, out of order"),
        (lambda arrived: [*delivered(arrived), []], "a list of 3 lists is needed"),
        (lambda arrived: sorted(arrived), "a tensor or list of whole numbers is needed"),
        (emptied, "the list you were given was changed"),
        (lambda arrived: 1 / 0, "stopped with ZeroDivisionError"),
    ],
)
def test_wrong_deliveries_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(workers.deliveries, answer)
    assert words in printed and "Right" not in printed


def test_right_deliveries_pass(say: Say) -> None:
    assert say(workers.deliveries, delivered).startswith("Right")
    assert delivered([1, 0, 2]) == [[], [0, 1], [2]]


def masked(input_ids: Tensor, key: Any, share: float = 0.15) -> Tensor:
    hidden = np.random.default_rng(key).random(len(input_ids)) < share
    return input_ids.masked_fill(torch.from_numpy(hidden), 3)


def in_place(input_ids: Tensor, row: int, *, seed: int, epoch: int) -> Tensor:
    input_ids[:] = masked(input_ids, (seed, epoch, row))
    return input_ids


def by_a_global_generator(input_ids: Tensor, row: int, *, seed: int, epoch: int) -> Tensor:
    random.seed(str((seed, epoch, row)))
    return torch.tensor([3 if random.random() < 0.15 else i for i in input_ids.tolist()])


def by_the_global_numpy(input_ids: Tensor, row: int, *, seed: int, epoch: int) -> Tensor:
    np.random.rand()
    return masked(input_ids, (seed, epoch, row))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda ids, row, *, seed, epoch: ..., "returns nothing yet"),
        (lambda ids, row, *, seed, epoch: ids.masked_fill(torch.rand(len(ids)) < 0.15, 3), "two different answers"),
        (lambda ids, row, *, seed, epoch: masked(ids, (seed, epoch)), "row 1 is masked in the same places"),
        (lambda ids, row, *, seed, epoch: masked(ids, (seed, row)), "epoch 1 masks the same places"),
        (lambda ids, row, *, seed, epoch: masked(ids, (epoch, row)), "seed 1 masks the same places"),
        (lambda ids, row, *, seed, epoch: masked(ids, seed + epoch + row), "added or joined to one number"),
        (lambda ids, row, *, seed, epoch: masked(ids, (seed + epoch, row)), "added or joined to one number"),
        (lambda ids, row, *, seed, epoch: masked(ids, int(f"{seed}{epoch}{row}")), "(0, 1, 11) and (0, 11, 1) mask"),
        (lambda ids, row, *, seed, epoch: masked(ids, seed * 10**6 + epoch * 1000 + row), "(0, 0, 1000) and (0, 1, 0)"),
        (lambda ids, row, *, seed, epoch: masked(ids, (seed, epoch, row), 0.5), "% of 4,000 ids were masked"),
        (lambda ids, row, *, seed, epoch: masked(ids, (seed, epoch, row)) + 1, "must stay as they were"),
        (lambda ids, row, *, seed, epoch: masked(ids, (seed, epoch, row))[:9], "you returned (9,) torch.int64"),
        (lambda ids, row, *, seed, epoch: [3], "you returned list"),
        (in_place, "were changed themselves"),
        (by_a_global_generator, "a global generator was drawn from or seeded"),
        (by_the_global_numpy, "a global generator was drawn from or seeded"),
    ],
)
def test_wrong_masks_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(workers.mask, answer)
    assert words in printed and "Right" not in printed


def test_a_right_mask_passes(say: Say) -> None:
    assert say(workers.mask, lambda ids, row, *, seed, epoch: masked(ids, (seed, epoch, row))).startswith("Right")


class UntouchedLines(Dataset[str]):
    def __init__(self, path: Path) -> None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> str: ...


class OpenLines(Dataset[str]):
    """Works here, does not travel."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.open()

    def open(self) -> None:
        self.file = self.path.open("rb")
        starts = [0]
        for line in self.file:
            starts.append(starts[-1] + len(line))
        self.starts = starts[:-1]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> str:
        self.file.seek(self.starts[index])
        return self.file.readline().decode("utf-8").rstrip("\n")


class HalfWayLines(OpenLines):
    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "file"}


class RightLines(HalfWayLines):
    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.open()


class RobbedLines(RightLines):
    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__
        del state["file"]
        return state


class ReadLines(Dataset[str]):
    def __init__(self, path: Path) -> None:
        self.lines = path.read_text(encoding="utf-8").splitlines()

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> str:
        return self.lines[index]


class CarriedLines(RightLines):
    def open(self) -> None:
        super().open()
        self.all = self.path.read_text(encoding="utf-8")


class ForwardLines(OpenLines):
    def __getitem__(self, index: int) -> str:
        return self.file.readline().decode("utf-8").rstrip("\n")

    def open(self) -> None:
        super().open()
        self.file.seek(0)


class EndedLines(RightLines):
    def __getitem__(self, index: int) -> str:
        return super().__getitem__(index) + "\n"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (UntouchedLines, "returns nothing yet"),
        (OpenLines, "pickle refuses: cannot pickle '_io.BufferedReader'"),
        (HalfWayLines, "Write __setstate__, which opens the file again"),
        (RobbedLines, "lost its open file, file: __getstate__ must work on a copy"),
        (ReadLines, "no attribute holds an open file"),
        (CarriedLines, "the lines themselves travel"),
        (ForwardLines, "rows are asked for in any order"),
        (EndedLines, "the line end is no part of a row"),
        (lambda path: (["a"]), "a class that inherits from Dataset is needed"),
    ],
)
def test_wrong_line_datasets_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(workers.lines, answer)
    assert words in printed and "Right" not in printed


def test_a_right_line_dataset_passes(say: Say) -> None:
    assert say(workers.lines, RightLines).startswith("Right")


class AtHome(Dataset[int]):
    def __init__(self, keeps: Any) -> None:
        self.keeps = keeps

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda: ..., "returns nothing yet"),
        (lambda: AtHome(5), "it can travel"),
        (lambda: 5, "does not work in this process either (TypeError"),
    ],
)
def test_wrong_datasets_that_should_stay_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(workers.stay_at_home, answer)
    assert words in printed and "pickle says" not in printed


@pytest.mark.parametrize(
    ("keeps", "words"), [(threading.Lock(), "lock"), ((n for n in range(3)), "generator"), (lambda: 0, "lambda")]
)
def test_a_dataset_that_cannot_travel_has_its_error_read(say: Say, keeps: Any, words: str) -> None:
    printed = say(workers.stay_at_home, lambda: AtHome(keeps))
    assert printed.startswith("pickle says: ") and words in printed.splitlines()[0]
    assert "3 rows, row 0 is 0" in printed
