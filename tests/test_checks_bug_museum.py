"""Checks of notebook 16: right mends pass, wrong ones are explained; so are the solutions folded into its text."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

from mt_core.lab import bugs
from mt_core.lab.bugs import EXHIBITS
from mt_core.lab.bugs.chance import SameNoise
from mt_core.lab.bugs.order import DeafWorkers
from mt_core.lab.bugs.resume import VanishedBatches
from mt_core.lab.checks import bug_museum, must_be_right

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "16_bug_museum.ipynb"
Say = Callable[..., str]


class Untouched(VanishedBatches):
    """A stub."""

    ...


class Subtracting(VanishedBatches):
    def state_dict(self) -> dict[str, int]:
        return {"place": max(self.place - self.prefetch, 0)}


@pytest.mark.parametrize("name", EXHIBITS)
def test_every_right_mend_passes_and_counts(say: Say, name: str) -> None:
    assert say(bug_museum.mend, name, EXHIBITS[name].mend).startswith("Right: ")
    must_be_right()


@pytest.mark.parametrize("name", EXHIBITS)
def test_every_wrong_mend_is_explained_and_does_not_count(say: Say, name: str) -> None:
    for candidate in (EXHIBITS[name].broken, *(wrong.candidate for wrong in EXHIBITS[name].wrong_mends)):
        said = say(bug_museum.mend, name, candidate)
        assert said == f"Not yet. {EXHIBITS[name].check(candidate).explanation}.\n"
        with pytest.raises(AssertionError, match="Not yet"):
            must_be_right()


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        ("long_epoch", lambda token_ids, seq_length: ..., "returns nothing yet: replace the ... by your own lines and"),
        ("vanished_batches", Untouched, "Untouched returns nothing yet: replace the ... by your own lines and run"),
        ("vanished_batches", Subtracting, "Not yet. 12 batches, 4 prefetched, stopped after 11 and resumed: batches"),
        ("hasty_buffer", lambda batches, device: [], "Not yet. 6 batches, 0 copies returned"),
        ("waiting_rank", lambda *arguments: 1 / 0, "stopped with ZeroDivisionError"),
        ("long_epoch", 3, "Not yet. a function or class is needed, you handed in 3"),
    ],
)
def test_stubs_and_mistakes_are_explained(say: Say, name: str, answer: Any, words: str) -> None:
    said = say(bug_museum.mend, name, answer)
    assert words in said and "Right" not in said


def test_an_exhibit_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="no exhibit 'nothing': it must be one of changed_words, "):
        bug_museum.mend("nothing", int)


def folded_solutions() -> list[str]:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    return re.findall(r"```python\n(.*?)```", "\n".join(c.source for c in cells if c.cell_type == "markdown"), re.S)


def test_the_folded_solutions_are_right(capsys: pytest.CaptureFixture[str]) -> None:
    solutions = folded_solutions()
    n_checks = sum(code.count("bugs.check(") for code in solutions)
    assert len(solutions) == 4 and n_checks == 7
    for code in solutions:
        exec(code, {"bugs": bugs, "np": np, "SameNoise": SameNoise, "DeafWorkers": DeafWorkers})
    said = capsys.readouterr().out
    assert len(re.findall(r"^Right: ", said, re.M)) == n_checks and "Not yet" not in said
