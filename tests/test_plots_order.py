"""Pictures of orders: the numbers that are drawn, not the pixels."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from mt_core.lab.plots import plot_costs, plot_order, plot_orders


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_a_shuffle_map_has_a_dot_at_position_and_row() -> None:
    ax = plot_order(np.array([2, 0, 3, 1]))
    assert ax.collections[0].get_offsets().tolist() == [[0, 2], [1, 0], [2, 3], [3, 1]]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("position in the epoch", "row number")
    assert ax.get_title(loc="left").endswith("?")
    assert ax.get_xlim()[0] < 0 < 3 < ax.get_xlim()[1] and ax.get_ylim()[0] < 0 < 3 < ax.get_ylim()[1]


def test_of_many_rows_every_so_many_is_drawn() -> None:
    order = np.arange(4000)[::-1]
    drawn = plot_order(order).collections[0].get_offsets()
    assert drawn[:, 0].tolist() == list(range(0, 4000, 3))
    assert (drawn[:, 1] == 3999 - drawn[:, 0]).all()


def test_lines_stand_between_the_groups_and_the_note_above() -> None:
    ax = plot_order(np.array([2, 0, 3, 1]), groups=np.array([0, 0, 1, 2]), name="full", note="one\ntwo")
    assert [line.get_ydata()[0] for line in ax.lines] == [1.5, 2.5]
    assert [text.get_text() for text in ax.texts] == ["one\ntwo"]
    assert ax.get_title(loc="left") == "full"


def test_several_orders_stand_side_by_side_on_the_same_axes() -> None:
    orders = {"none": np.arange(6), "backwards": np.arange(6)[::-1]}
    axes = plot_orders(orders, notes={"none": "as it is"}, groups=np.arange(6) // 3)
    assert [ax.get_title(loc="left") for ax in axes] == ["none", "backwards"]
    assert [ax.collections[0].get_offsets()[:, 1].tolist() for ax in axes] == [list(range(6)), list(range(5, -1, -1))]
    assert [len(ax.texts) for ax in axes] == [1, 0] and [len(ax.lines) for ax in axes] == [1, 1]
    assert axes[0].get_ylim() == axes[1].get_ylim()
    assert (axes[0].get_ylabel(), axes[1].get_ylabel()) == ("row number", "")
    assert axes[0].figure.get_suptitle().endswith("?")


def test_bars_of_cost_begin_at_the_floor() -> None:
    ax = plot_costs({"none": 2.0, "full": 1.25}, floor=1.0)
    assert [(bar.get_x(), bar.get_width()) for bar in ax.patches] == [(1.0, 1.0), (1.0, 0.25)]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["none", "full"]
    assert [text.get_text() for text in ax.texts] == ["2.00", "1.25", "floor 1.00"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first bar is on top
    assert ax.get_xlim()[0] < 1.0 and ax.get_xlim()[1] > 2.0
    assert ax.get_xlabel() == "validation loss (nats per token)"


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        plot_order(np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"shape \(0,\)"):
        plot_order(np.array([]))
    with pytest.raises(ValueError, match="3 groups for 4 rows"):
        plot_order(np.arange(4), groups=np.arange(3))
    with pytest.raises(ValueError, match="no order to draw"):
        plot_orders({})
    with pytest.raises(ValueError, match="no loss to draw"):
        plot_costs({}, floor=1.0)


def test_pictures_leave_the_settings_of_matplotlib_alone() -> None:
    before = dict(plt.rcParams)
    plot_orders({"one": np.arange(4)})
    plot_costs({"one": 2.0}, floor=1.0)
    assert dict(plt.rcParams) == before
