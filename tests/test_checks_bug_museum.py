"""Checks of notebook 16: right mends pass, wrong ones are explained, and every mend of its halls is an exercise."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from helpers import load_tool

from mt_core.lab.bugs import EXHIBITS
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


def test_a_class_that_changes_something_is_not_taken_for_a_stub(say: Say) -> None:
    class Fixed(VanishedBatches):
        place = property(lambda self: 0, lambda self, value: None)

    assert say(bug_museum.mend, "vanished_batches", Fixed).startswith("Not yet. ")


def test_each_exhibit_of_the_halls_is_an_exercise_with_its_check_and_its_place_on_the_sheet() -> None:
    source = "\n".join(cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells)
    shown = re.findall(r'"(\w+)"', " ".join(re.findall(r"sheet\.enter\((.*)\)", source)))
    entered = dict(re.findall(r"(\w+)=(\w+)", " ".join(re.findall(r"sheet\.mend\((.*)\)\n", source))))
    checked = {name: mend for name, mend in re.findall(r'checks\.bug_museum\.mend\("(\w+)", ([mM]y\w+)\)', source)}
    exercises = [exercise.name for exercise in load_tool("labs").find_exercises(nbformat.read(NOTEBOOK, as_version=4))]
    assert len(shown) == 12 and set(entered) == set(shown)
    assert list(checked.values()) == exercises
    # two exhibits, one mend: what judges it is the same
    assert EXHIBITS["missing_targets"].examine is EXHIBITS["long_epoch"].examine
    assert {**checked, "missing_targets": checked["long_epoch"]} == entered
