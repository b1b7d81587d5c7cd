"""Pictures: the numbers that are drawn, not the pixels."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation, Text

from mt_core.lab import plots
from mt_core.lab.plots import plot_loss, plot_mask, plot_row, plot_runs, plot_targets, running_mean, spread
from mt_core.lab.style import BLUE, ORANGE, PALE, SKY
from mt_core.lab.token_boxes import draw_tokens, plot_tokens
from mt_core.tokenizer import MicroTransformerTokenizer


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def boxes(ax: Axes, color: str) -> list[Rectangle]:
    wanted = plt.matplotlib.colors.to_rgba(color)
    return [patch for patch in ax.patches if patch.get_facecolor() == wanted]


def test_a_running_mean_takes_what_there_is_at_the_start() -> None:
    assert running_mean([2.0, 4.0, 6.0, 8.0], 3).tolist() == [2.0, 3.0, 4.0, 6.0]
    assert running_mean([1.0, 5.0], 1).tolist() == [1.0, 5.0]
    assert running_mean([], 3).tolist() == []


def test_loss_is_drawn_raw_and_smooth_with_validation_and_references() -> None:
    losses = np.linspace(6, 2, 100)
    ax = plot_loss(range(1, 101), losses, val_steps=[100], val_losses=[2.5], references={"floor": 1.0})
    raw, smooth, val, reference = ax.lines
    assert raw.get_ydata().tolist() == losses.tolist()
    assert smooth.get_ydata().tolist() == running_mean(losses, 2).tolist()
    assert val.get_xydata().tolist() == [[100, 2.5]]
    assert list(reference.get_ydata()) == [1.0, 1.0]
    assert "floor 1.00" in texts(ax)
    assert ax.get_xlabel() == "step" and ax.get_ylabel() == "loss (nats per token)"


def test_runs_differ_in_colour_and_line_and_are_named_at_their_ends() -> None:
    runs = {"right": [6.0, 4.0, 2.0], "wrong": [5.0, 1.0, 0.0]}
    ax = plot_runs(runs, references={"floor": 0.5})
    drawn = ax.lines[:2]
    assert [line.get_ydata().tolist() for line in drawn] == list(runs.values())
    assert len({line.get_color() for line in drawn}) == len({line.get_linestyle() for line in drawn}) == 2
    assert sorted(texts(ax)) == ["floor 0.50", "right", "wrong"]
    ends = {note.get_text(): note.xy[1] for note in ax.texts}
    assert ends == {"right": 2.0, "wrong": 0.0, "floor 0.50": 0.5}


def test_more_runs_than_line_styles_are_refused() -> None:
    with pytest.raises(ValueError, match="5 runs, at most 4"):
        plot_runs({str(n): [1.0] for n in range(5)})


@pytest.mark.parametrize(
    ("values", "gap", "expected"),
    [
        ([], 1.0, []),
        ([0.0, 5.0], 1.0, [0.0, 5.0]),
        ([0.0, 0.0], 1.0, [-0.5, 0.5]),
        ([0.0, 0.0, 0.9], 1.0, [-0.7, 0.3, 1.3]),
        ([0.0, 1.2, 1.2], 1.0, [-0.2, 0.8, 1.8]),
    ],
)
def test_names_are_moved_apart_and_no_further(values: list[float], gap: float, expected: list[float]) -> None:
    assert spread(values, gap) == pytest.approx(expected)


NEAR = {"one": [5.0, 5.0], "two": [9.0, 5.01], "three": [4.0, 5.02]}  # three lines that end together


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.plot_loss([1, 2], [6.0, 5.0], references={name: ends[-1] for name, ends in NEAR.items()}),
        lambda: plots.plot_runs(NEAR, references={"floor": 5.0}),
        lambda: plots.plot_memory([10, 10**6], {name: [10, 1e6 * end] for name, (_, end) in NEAR.items()}),
        lambda: plots.plot_vocabulary([260, 520], {name: [1.0, end / 10] for name, (_, end) in NEAR.items()}),
        lambda: plots.plot_fills([8, 16], {name: [1.0, end / 10] for name, (_, end) in NEAR.items()}),
        lambda: plots.plot_means([1, 2], NEAR, floor=5.0),
        lambda: plots.plot_differences(NEAR, first_step=1),
        lambda: plots.plot_drift({name: np.array([1, 0]) for name in NEAR}, share=0.25),
    ],
    ids="loss runs memory vocabulary fills means differences drift".split(),
)
def test_names_of_lines_that_end_together_do_not_overlap(draw: Callable[[], Axes]) -> None:
    ax = draw()
    ax.figure.canvas.draw()
    named = [note for note in ax.texts if isinstance(note, Annotation) and note.arrow_patch]
    seen = sorted(Text.get_window_extent(note).extents[[1, 3]].tolist() for note in named)  # bottom and top, in pixels
    assert len(seen) >= 3 and all(lower[1] < higher[0] for lower, higher in pairwise(seen))


def test_a_run_that_diverges_is_drawn_as_far_as_it_goes_and_named_at_the_top() -> None:
    ax = plot_runs({"calm": [6.0, 3.0], "wild": [6.0, float("inf")], "wilder": [7.0, float("nan")]})
    ax.figure.canvas.draw()
    names = {note.get_text(): note.xy[1] for note in ax.texts}
    assert names.pop("calm") == 3.0
    assert names == dict.fromkeys(("wild, diverged", "wilder, diverged"), ax.get_ylim()[1])
    assert ax.get_ylim()[1] == pytest.approx(1.05 * 7.0)
    plots.plot_differences({"wild": [0.0, float("nan")]}, first_step=1).figure.canvas.draw()
    for nothing in ({}, {"none": []}):
        with pytest.raises(ValueError, match="a run at least is needed, and a loss in each"):
            plot_runs(nothing)


def test_names_go_with_their_lines_where_limits_are_changed_afterwards() -> None:
    ax = plots.plot_memory([10, 10**6], {"list": [360, 36e6], "map": [800, 800]})
    ax.set_ylim(bottom=1)
    assert {note.get_text(): note.xyann[1] for note in ax.texts} == pytest.approx(
        {"list, 36 MB": 36e6, "map, 800 bytes": 800}
    )


def test_a_piece_of_a_row_is_numbered_by_its_places_in_the_row() -> None:
    ax = plot_row("abc", "bcd", first=32, place=33)
    assert [text.get_text() for text in ax.texts if text.get_text().isdigit()] == ["32", "33", "34"]
    assert ax.get_title(loc="left") == "What does place 33 see?"
    with pytest.raises(ValueError, match="place 1 does not exist: places go from 32 to 34"):
        plot_row("abc", "bcd", first=32, place=1)


def test_a_row_shows_inputs_over_labels() -> None:
    ax = plot_row(["a", " b", "c"], ["b", "c", None])
    assert [t for t in texts(ax) if t not in ("", "0", "1", "2")] == [
        *("a", "b", "␣b", "c", "c", "−100"),
        *("place", "input", "label"),
    ]
    assert len(boxes(ax, SKY)) == 3
    assert len(boxes(ax, ORANGE)) == 2  # the third label is ignored: hatched
    assert sum(patch.get_hatch() not in (None, "") for patch in ax.patches) == 1


@pytest.mark.parametrize("place", [0, 2, 4])
def test_at_a_place_the_prefix_is_filled_and_one_label_is_strong(place: int) -> None:
    ax = plot_row("abcde", "bcdef", place=place)
    filled = boxes(ax, SKY)
    assert [round(box.get_x()) for box in filled] == list(range(place + 1))
    assert [round(box.get_x()) for box in boxes(ax, ORANGE)] == [place]
    hatched = [patch for patch in ax.patches if isinstance(patch, Rectangle) and patch.get_hatch()]
    assert [round(box.get_x()) for box in hatched] == list(range(place + 1, 5))
    assert f"place {place}" in ax.get_title(loc="left")


@pytest.mark.parametrize(
    "draw",
    [
        lambda tokens: plot_row(tokens, tokens),
        lambda tokens: plot_mask(np.tril(np.ones((2, 2))), tokens),
        lambda tokens: plots.plot_attention(np.array([[1.0, 0.0], [0.5, 0.5]]), tokens)[0],
        lambda tokens: plots.plot_pieces([tokens], newest=tokens[1]),
        lambda tokens: plots.plot_next_tokens(tokens, np.array([0.6, 0.4]), np.array([1.0, 0.0])),
        lambda tokens: plot_tokens(tokens, [1, 2]),
    ],
    ids="row mask attention pieces next boxes".split(),
)
def test_dollar_signs_in_tokens_begin_no_formula(draw: Callable[[list[str]], Axes]) -> None:
    draw(["$$", "$x$"]).figure.canvas.draw()  # "$$" is a ValueError as a formula


def test_marks_are_grey_and_of_a_long_text_the_first_tokens_are_drawn() -> None:
    ax = plot_tokens(["[CLS]", "a", "[SEP]"], [1, 68, 2])
    assert [patch in boxes(ax, PALE) for patch in ax.patches] == [True, False, True]
    tokenizer = MicroTransformerTokenizer.train(["a"], vocab_size=260)
    figure, words = draw_tokens(tokenizer, "a" * 100)
    assert len(figure.axes[0].patches) == 60 and words.startswith("100 characters, 100 bytes, 102 tokens: [CLS] = ")
    assert words.endswith(", and 42 more") and words.count("a = ") == 59


def test_rows_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="2 inputs and 1 labels"):
        plot_row("ab", "b")
    with pytest.raises(ValueError, match="place 2 does not exist: places go from 0 to 1"):
        plot_row("ab", "bc", place=2)


def test_open_squares_of_a_mask_are_filled_and_dotted() -> None:
    mask = np.tril(np.ones((5, 5), dtype=bool))
    ax = plot_mask(mask, "abcde")
    assert len(boxes(ax, SKY)) == 15
    dots = {(int(y), int(x)) for x, y in ax.lines[0].get_xydata()}
    assert dots == {(t, j) for t in range(5) for j in range(t + 1)}
    assert ax.yaxis_inverted()
    with pytest.raises(ValueError, match=r"mask has shape \(5, 5\) for 4 tokens"):
        plot_mask(mask, "abcd")


def test_targets_lie_one_place_after_their_inputs_and_ignored_ones_are_hatched() -> None:
    ax = plot_targets([0, 3], np.array([[1, 2, 3, 4], [-100, 5, 6, 7]]), n_tokens=8)
    bars = [(bar.get_x() + 0.5, bar.get_width(), bool(bar.get_hatch())) for bar in ax.patches]
    assert bars == [(1, 4, False), (4, 1, True), (5, 3, False)]
    assert texts(ax) == ["1…4", "−100 × 1", "5…7"]
    with pytest.raises(ValueError, match="one row of labels each"):
        plot_targets([0], np.zeros((2, 4)), n_tokens=8)


def test_pictures_leave_the_settings_of_matplotlib_alone() -> None:
    before = dict(plt.rcParams)
    plot_row("ab", "bc")
    plot_runs({"one": [1.0]})
    assert dict(plt.rcParams) == before
    assert BLUE != ORANGE
