"""Pictures of batches: the numbers that are drawn, not the pixels."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from mt_core.lab.plots.batches import place_kinds, plot_batch, plot_gradient_cloud, plot_gradient_noise, plot_means


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def bars(ax: Axes) -> list[tuple[int, int, int, str]]:
    """Row, first place, width and hatch of every bar."""
    return [
        (round(p.get_y() + 0.42), round(p.get_x() + 0.5), round(p.get_width()), p.get_hatch() or "") for p in ax.patches
    ]


def legend(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_place_is_a_target_ignored_or_padding() -> None:
    labels = np.array([[1, -100, 0, -100]])
    assert place_kinds(labels).tolist() == [[0, 1, 0, 1]]
    assert place_kinds(labels, np.array([[3, 3, 3, -1]])).tolist() == [[0, 1, 0, 2]]


def test_a_small_batch_shows_its_ids_and_a_wide_one_its_stretches() -> None:
    ids, labels = np.array([[5, 6], [7, 8]]), np.array([[6, 7], [-100, 9]])
    ax = plot_batch(ids, labels)
    assert texts(ax) == ["5", "6", "7", "8"]
    assert bars(ax) == [(0, 0, 1, ""), (0, 1, 1, ""), (1, 0, 1, "////"), (1, 1, 1, "")]
    assert legend(ax) == ["target × 3", "−100 × 1"]
    assert ax.yaxis_inverted()
    wide = np.ones((3, 144), dtype=np.int64)
    asked, documents = wide.copy(), np.zeros_like(wide)
    asked[0, :40] = -100
    asked[2, 100:], documents[2, 100:] = -100, -1
    ax = plot_batch(wide, asked, document_ids=documents)
    assert texts(ax) == []
    assert bars(ax) == [(0, 0, 40, "////"), (0, 40, 104, ""), (1, 0, 144, ""), (2, 0, 100, ""), (2, 100, 44, "xxxx")]
    assert legend(ax) == ["target × 348", "−100 × 40", "padding, −100 × 44"]
    assert len({patch.get_facecolor() for patch in ax.patches}) == 3


@pytest.mark.parametrize("shapes", [((8,), (8,)), ((2, 8), (2, 7)), ((2, 8), (2, 8), (8, 2))])
def test_arrays_that_do_not_match_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    ids, labels, *documents = (np.zeros(shape, dtype=np.int64) for shape in shapes)
    with pytest.raises(ValueError, match="arrays of one shape"):
        plot_batch(ids, labels, document_ids=documents[0] if documents else None)


def test_means_are_lines_of_their_own_named_at_their_ends_above_the_floor() -> None:
    ax = plot_means([1, 2, 3], {"means": [0.9, 0.8, 0.85], "dropped": [0.75, 0.74, 0.749]}, floor=0.75)
    floor, *drawn = ax.lines
    assert list(floor.get_ydata()) == [0.75, 0.75]
    assert [line.get_xydata().tolist() for line in drawn] == [
        [[1, 0.9], [2, 0.8], [3, 0.85]],
        [[1, 0.75], [2, 0.74], [3, 0.749]],
    ]
    assert len({line.get_color() for line in drawn}) == len({line.get_linestyle() for line in drawn}) == 2
    assert {note.get_text(): note.xy[1] for note in ax.texts} == {"floor 0.75": 0.75, "means": 0.85, "dropped": 0.749}
    with pytest.raises(ValueError, match="5 lines, at most 4"):
        plot_means([1], {str(n): [1.0] for n in range(5)}, floor=0.0)


def test_noise_stands_beside_the_law_through_its_first_point() -> None:
    ax = plot_gradient_noise([1, 4, 16], [3.0, 1.6, 0.7])
    law, dots, one = ax.lines
    assert dots.get_xydata().tolist() == [[1, 3.0], [4, 1.6], [16, 0.7]]
    assert law.get_ydata().tolist() == [3.0, 1.5, 0.75]
    assert list(one.get_ydata()) == [1.0, 1.0]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "4", "16"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0.5", "1", "2", "4"]
    assert {"measured", "1/√B"} < set(texts(ax))


@pytest.mark.parametrize(("sizes", "noise"), [([1], [2.0]), ([1, 2], [2.0]), ([1, 2], [2.0, 0.0])])
def test_noise_that_has_no_law_is_refused(sizes: list[int], noise: list[float]) -> None:
    with pytest.raises(ValueError, match=f"{len(noise)} values for {len(sizes)} sizes"):
        plot_gradient_noise(sizes, noise)


def test_a_cloud_has_the_full_gradients_tip_as_the_middle_of_its_arc() -> None:
    ax = plot_gradient_cloud([1.0, 0.5], [2.0, 1.5], batch_size=4, radius=1.25)
    arc, dots, tip = ax.lines
    assert np.hypot(arc.get_xdata(), arc.get_ydata() - 1) == pytest.approx(1.25)
    assert dots.get_xydata().tolist() == [[2.0, 1.0], [1.5, 0.5]]
    assert tip.get_xydata().tolist() == [[0, 1]]
    assert ax.get_aspect() == 1.0, "distances can be compared in all directions"
    assert ax.get_title(loc="left") == "Where do gradients of 4 rows point?"
    assert "of 1 row point" in plot_gradient_cloud([1.0], [0.0], batch_size=1, radius=1.0).get_title(loc="left")


def test_pictures_leave_the_settings_of_matplotlib_alone() -> None:
    before = dict(plt.rcParams)
    plot_gradient_noise([1, 2], [2.0, 1.0])
    plot_means([1], {"one": [1.0]}, floor=0.5)
    assert dict(plt.rcParams) == before
