"""Pictures of tokens: the numbers that are drawn, not the pixels."""

from itertools import pairwise

import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mt_core.lab.plots import plot_pieces, plot_vocabulary
from mt_core.lab.style import ORANGE


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def boxes(ax: Axes) -> list[Rectangle]:
    return [patch for patch in ax.patches if isinstance(patch, Rectangle)]


def test_pieces_stand_in_reading_order_and_touch_within_a_word() -> None:
    ax = plot_pieces([["a"], [" ", "hen"], [" ", "hen"]])
    assert [text.get_text() for text in ax.texts] == ["a", "␣", "hen", "␣", "hen"]
    edges = [(box.get_x(), box.get_x() + box.get_width()) for box in boxes(ax)]
    gaps = [round(after[0] - before[1], 6) for before, after in pairwise(edges)]
    assert gaps == [0.7, 0, 0.7, 0]
    assert ax.get_title(loc="left") == "Which pair of neighbours occurs most?"


def test_the_newest_piece_is_filled_bold_and_thick() -> None:
    ax = plot_pieces([["h", "en"], ["t", "en"]], newest="en")
    new = [box.get_facecolor() == plt.matplotlib.colors.to_rgba(ORANGE) for box in boxes(ax)]
    assert new == [False, True, False, True]
    assert [box.get_linewidth() > 2 for box in boxes(ax)] == new
    assert [text.get_weight() == "bold" for text in ax.texts] == new
    assert ax.get_title(loc="left") == 'Where does "en" stand?'


def test_a_word_that_does_not_fit_starts_a_new_line_within_the_picture() -> None:
    ax = plot_pieces([list("abcdefghij")] * 10)
    lines = [[box.get_y() for box in boxes(ax)][i * 10 : i * 10 + 10] for i in range(10)]
    assert all(len(set(line)) == 1 for line in lines), "a word stays on its line"
    assert len({line[0] for line in lines}) > 1
    right, bottom = ax.get_xlim()[1], ax.get_ylim()[0]
    assert all(box.get_x() + box.get_width() <= right and box.get_y() > bottom for box in boxes(ax))


def test_no_words_are_refused() -> None:
    with pytest.raises(ValueError, match="no words"):
        plot_pieces([])


def test_each_text_is_a_line_of_its_own_look_named_with_its_last_value() -> None:
    sizes, values = [260, 320, 1024, 2048], {"stories": [1.0, 0.6, 0.26, 0.24], "other": [1.0, 0.8, 0.5, 0.25]}
    ax = plot_vocabulary(sizes, values)
    drawn = ax.lines[1:]  # the first is the line at one token a byte
    assert list(ax.lines[0].get_ydata()) == [1.0, 1.0]
    assert [
        line.get_ydata().tolist() if hasattr(line.get_ydata(), "tolist") else list(line.get_ydata()) for line in drawn
    ] == list(values.values())
    assert len({line.get_marker() for line in drawn}) == len({line.get_linestyle() for line in drawn}) == 2
    assert {text.get_text() for text in ax.texts} > {"stories 0.24", "other 0.25"}
    assert ax.get_xscale() == "log" and [label.get_text() for label in ax.get_xticklabels()] == [
        "2,048",
        "1,024",
        "320",
    ]
    assert ax.get_ylabel() == "tokens per byte"


@pytest.mark.parametrize(
    ("values", "problem"),
    [({str(n): [1.0] for n in range(5)}, "5 texts, at most 4"), ({"a": [1.0, 2.0]}, "2 numbers of 'a' for 1 sizes")],
)
def test_what_cannot_be_drawn_is_refused(values: dict[str, list[float]], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        plot_vocabulary([260], values)
