"""Lanes: bars where the spans are, in the lane of their process, told apart by more than colour."""

import pytest
from matplotlib import pyplot as plt

from mt_core.lab.plots import plot_lanes

LANES = ["worker 0", "main", "main", "main"]
KINDS = ["fetch", "wait", "copy", "compute"]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def bars(ax):
    return [(round(p.get_x(), 6), round(p.get_width(), 6), round(p.get_y() + 0.36, 6)) for p in ax.patches]


def test_bars_are_spans_in_milliseconds() -> None:
    ax = plot_lanes(LANES, KINDS, [0, 0, 0, 0], [-0.1, 0, 0.5, 0.6], [0.4, 0.5, 0.6, 1.0])
    assert bars(ax) == ([(0, 400, 0), (0, 500, 1), (500, 100, 1), (600, 400, 1)])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["worker 0", "main"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == KINDS
    assert len({patch.get_hatch() for patch in ax.patches}) == 4, "a hatch for each kind"
    assert [text.get_text() for text in ax.texts] == ["0"] * 4


def test_a_lane_without_a_place_in_the_order_is_named() -> None:
    with pytest.raises(ValueError, match="lanes worker 0 have no place"):
        plot_lanes(LANES, KINDS, [7] * 4, [0, 0, 0.5, 0.6], [0.4, 0.5, 0.6, 1.0], order=["main"])


def test_order_and_end_of_the_picture() -> None:
    order = ["main", "worker 0"]
    ax = plot_lanes(LANES, KINDS, [7] * 4, [0, 0, 0.5, 0.6], [0.4, 0.5, 0.6, 1.0], order=order, until=0.51)
    assert bars(ax) == ([(0, 400, 1), (0, 500, 0), (500, 10, 0)])
    assert [text.get_text() for text in ax.texts] == ["7", "7"], "no number where there is no room"
    assert ax.get_xlim() == (0, 510)


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="kinds sleep are not known"):
        plot_lanes(["main"], ["sleep"], [0], [0], [1])
    with pytest.raises(ValueError, match="shorter"):
        plot_lanes(["main"], ["wait"], [0], [0], [])
