"""Which rank reads which row: where the boxes lie, which columns are marked, and the words for it."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle
from torch.utils.data import DistributedSampler

from mt_core.lab.plots import plot_ranks, ranks_words
from mt_core.lab.plots.ranks import RANK_LOOKS
from mt_core.lab.style import GREY, RED


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def frames(ax: Axes, color: str) -> list[int]:
    """The columns with a frame of this colour."""
    wanted = [p for p in ax.patches if p.get_facecolor()[3] == 0 and p.get_edgecolor() == to_rgba(color)]
    return [round(p.get_x() + 0.5) for p in wanted]


def boxes(ax: Axes) -> list[Rectangle]:
    return [patch for patch in ax.patches if patch.get_facecolor()[3] != 0]


def read_off(ax: Axes) -> set[tuple[int, int, int]]:
    """Step, row and rank of each box, by its place and the number in it."""
    numbers = [text for text in ax.texts if "×" not in text.get_text()]
    return {(round(t.get_position()[1]), round(t.get_position()[0]), int(t.get_text())) for t in numbers}


SPLIT = np.arange(12).reshape(3, 2, 2)  # 3 steps, 2 ranks, 2 rows for each


def test_each_row_stands_in_the_step_and_with_the_rank_that_reads_it() -> None:
    ax = plot_ranks(SPLIT, n_rows=12)
    assert read_off(ax) == {(row // 4, row, row % 4 // 2) for row in range(12)}
    assert frames(ax, RED) == frames(ax, GREY) == []
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.yaxis_inverted()) == ("row", "step", True)
    assert ax.get_title(loc="left") == "Which rank reads which row?"


def test_a_rank_has_a_colour_and_a_hatch_of_its_own() -> None:
    drawn = boxes(plot_ranks(np.arange(8).reshape(1, 8, 1), n_rows=8))
    assert [box.get_facecolor() for box in drawn] == [to_rgba(color) for color, _ in RANK_LOOKS]
    assert len({box.get_facecolor() for box in drawn}) == len({box.get_hatch() for box in drawn}) == 8


def test_rows_read_twice_are_framed_and_counted_as_distributed_sampler_pads_them() -> None:
    ranks = [list(DistributedSampler(range(10), 4, rank, shuffle=False)) for rank in range(4)]
    rows = np.array(ranks).T[:, :, None]  # (steps, ranks, 1)
    ax = plot_ranks(rows, n_rows=10)
    assert frames(ax, RED) == [0, 1] and frames(ax, GREY) == []
    assert [(t.get_text(), t.get_position()[0]) for t in ax.texts if "×" in t.get_text()] == [("2×", 0), ("2×", 1)]
    assert ranks_words(rows, n_rows=10) == "3 steps of 4 ranks, 10 rows to read: rows 0 and 1 are read 2 times."


def test_rows_never_read_are_hatched_and_nothing_is_drawn_for_nothing() -> None:
    rows = np.array([[[0], [2]], [[3], [-1]]])
    ax = plot_ranks(rows, n_rows=5)
    assert frames(ax, GREY) == [1, 4] and frames(ax, RED) == []
    assert [p.get_hatch() for p in ax.patches if p.get_facecolor()[3] == 0] == ["////"] * 2
    assert [t.get_text() for t in ax.texts if "×" in t.get_text()] == ["0×", "0×"]
    assert read_off(ax) == {(0, 0, 0), (0, 2, 1), (1, 3, 0)}
    assert ranks_words(rows, n_rows=5) == "2 steps of 2 ranks, 5 rows to read: rows 1 and 4 are never read."


def test_ranks_that_read_the_same_row_share_its_box() -> None:
    drawn = boxes(plot_ranks(np.array([[[0], [0]]]), n_rows=1))
    assert [(round(b.get_x(), 2), round(b.get_width(), 2)) for b in drawn] == [(-0.44, 0.44), (0.0, 0.44)]


def test_rows_that_are_meant_to_be_read_twice_are_not_marked_but_others_are() -> None:
    rows = np.array([[[0, 1], [0, 1], [2, 3], [2, 3]]])  # one step, 4 ranks, pairs of them read the same
    ax = plot_ranks(rows, n_rows=4, readers=2)
    assert frames(ax, RED) == frames(ax, GREY) == [] and not [t for t in ax.texts if "×" in t.get_text()]
    assert ranks_words(rows, n_rows=4, readers=2) == "1 step of 4 ranks, 4 rows to read: each is read by 2 ranks."
    rows[0, 3, 1] = 0
    ax = plot_ranks(rows, n_rows=4, readers=2)
    assert frames(ax, RED) == [0, 3]
    words = "1 step of 4 ranks, 4 rows to read: row 3 is read once; row 0 is read 3 times."
    assert ranks_words(rows, n_rows=4, readers=2) == words


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (SPLIT, "3 steps of 2 ranks, 12 rows to read: each is read once."),
        (
            np.zeros((1, 1, 3), dtype=int),
            "1 step of 1 rank, 12 rows to read: row 0 is read 3 times; 11 rows are never read.",
        ),
        (
            [[[0, 0]], [[1, 1]]],
            "2 steps of 1 rank, 12 rows to read: rows 0 and 1 are read 2 times; 10 rows are never read.",
        ),
    ],
)
def test_words_count_what_is_read(rows: np.ndarray, words: str) -> None:
    assert ranks_words(np.asarray(rows), n_rows=12) == words


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (np.zeros((2, 3)), r"rows has shape \(2, 3\), \(steps, ranks, B\)"),
        (np.full((1, 1, 1), 4), "row 4 does not exist: rows go from 0 to 3"),
        (np.full((1, 1, 1), -2), "row -2 does not exist"),
        (np.zeros((1, 9, 1), dtype=int), "9 ranks, at most 8"),
    ],
)
def test_what_cannot_be_drawn_is_refused(rows: np.ndarray, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        plot_ranks(rows, n_rows=4)
