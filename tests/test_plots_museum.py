"""The pictures of notebook 16: what stands where."""

from itertools import pairwise

import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from mt_core.lab.plots import plot_card, plot_scores

COLUMNS = ("predicted", "detected", "mended")
ROWS = {"one": ("right", "seen", ""), "two": ("wrong", "", ""), "three": ("", "", "mended")}


def words_at(ax: Axes) -> dict[tuple[float, float], str]:
    return {text.get_position(): text.get_text() for text in ax.texts}


def test_each_filled_cell_says_its_word_and_empty_ones_are_white() -> None:
    ax = plot_scores(ROWS, columns=COLUMNS, rooms=["first", "first", "second"])
    assert words_at(ax) == {
        (0.5, 0.5): "right",
        (1.5, 0.5): "seen",
        (0.5, 1.5): "wrong",
        (2.5, 2.5): "mended",
        (3.08, 1.0): "first",
        (3.08, 2.5): "second",
    }
    filled = {
        (round(box.get_x()), round(box.get_y())): bool(box.get_hatch())
        for box in ax.patches
        if box.get_facecolor()[:3] != (1, 1, 1)
    }
    assert filled == {(0, 0): False, (1, 0): False, (0, 1): True, (2, 2): False} and len(ax.patches) == 9
    assert [line.get_ydata()[0] for line in ax.get_lines()] == [2]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(ROWS)
    assert [label.get_text() for label in ax.get_xticklabels()] == list(COLUMNS)
    assert ax.get_title(loc="left").endswith("?") and ax.get_ylim() == (3, 0)
    plt.close(ax.figure)


@pytest.mark.parametrize(
    ("rows", "rooms", "words"),
    [
        ({}, [], "0 rows and 0 rooms"),
        (ROWS, ["first"], "3 rows and 1 rooms"),
        ({"one": ("right",)}, ["first"], "3 words of right, wrong, seen, mended or '' are needed"),
        ({"one": ("right", "yes", "")}, ["first"], "3 words of right"),
    ],
)
def test_scores_that_do_not_fit_are_refused(rows: dict, rooms: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plot_scores(rows, columns=COLUMNS, rooms=rooms)


def test_the_card_frames_its_room_and_keeps_its_lines_apart() -> None:
    parts = {"It claims": "short", "Met in": "a long text " * 20, "Last": "end"}
    ax = plot_card("A title", parts, rooms=["text", "rows"], room="rows")
    first, second = ax.patches
    assert first.get_facecolor()[:3] == (1, 1, 1) and second.get_facecolor()[:3] != (1, 1, 1)
    assert second.get_linewidth() > first.get_linewidth()
    places = {text: y for (_, y), text in words_at(ax).items()}
    lines = sorted(y for (x, y), _ in words_at(ax).items() if x == 0.19)
    assert len(lines) == 5 and min(b - a for a, b in pairwise(lines)) >= 1
    assert places["It claims"] == places["short"] < places["Met in"] < places["Last"] == places["end"]
    assert " ".join(text for _, text in sorted((y, t) for (x, y), t in words_at(ax).items() if x == 0.19)[1:-1]) == (
        parts["Met in"].strip()
    )
    assert ax.get_title(loc="left") == "A title"
    plt.close(ax.figure)


def test_a_card_of_no_room_is_refused() -> None:
    with pytest.raises(ValueError, match="room='cellar', it must be one of text, rows"):
        plot_card("A title", {}, rooms=["text", "rows"], room="cellar")
