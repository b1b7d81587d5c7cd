"""Maps of attention: which squares are open, what colour and number they have, and leaks that are marked."""

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from mt_core.lab.plots import plot_attention
from mt_core.lab.plots.attention import MAP
from mt_core.lab.style import RED


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def even(n: int) -> np.ndarray:
    """Each place looks alike at itself and all before it: (n, n)."""
    lower = np.tril(np.ones((n, n)))
    return lower / lower.sum(-1, keepdims=True)


def squares(ax: Axes) -> dict[tuple[int, int], Rectangle]:
    """The open squares by place that looks and place looked at."""
    return {(round(p.get_y() + 0.5), round(p.get_x() + 0.5)): p for p in ax.patches[1:]}


def texts(ax: Axes) -> dict[tuple[int, int], str]:
    return {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in ax.texts}


def test_open_squares_have_the_colour_of_their_weight_and_closed_ones_are_hatched() -> None:
    (ax,) = plot_attention(even(4), "abcd")
    drawn = squares(ax)
    assert set(drawn) == {(t, j) for t in range(4) for j in range(t + 1)}
    assert all(square.get_facecolor() == colormaps[MAP](1 / (t + 1)) for (t, _), square in drawn.items())
    closed = ax.patches[0]
    assert closed.get_hatch() and closed.get_facecolor() == to_rgba("white")
    assert (closed.get_width(), closed.get_height()) == (4, 4)
    assert ax.yaxis_inverted() and not texts(ax)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("place looked at", "place that looks")
    assert ax.get_title(loc="left") == "Where does each place look?"


def test_the_map_grows_evenly_lighter_so_that_it_reads_in_grey() -> None:
    lightness = colormaps[MAP](np.linspace(0, 1, 11))[:, :3] @ (0.299, 0.587, 0.114)
    steps = np.diff(lightness)
    assert steps.min() > 0.03 and steps.max() < 0.12


def test_heads_are_small_multiples_on_one_scale() -> None:
    weights = np.stack([even(3), np.eye(3), even(3), even(3), np.eye(3)])
    axes = plot_attention(weights, [" a", "b", "c"], highest=0.5)
    assert [ax.get_title(loc="left") for ax in axes] == [f"head {head}" for head in range(5)]
    figure = axes[0].figure
    assert figure.get_suptitle() == "Where does each head look?"
    (bar,) = [ax for ax in figure.axes if ax not in axes]
    assert bar.get_ylim() == (0, 0.5) and bar.get_ylabel() == "weight (a row sums to 1)"
    assert squares(axes[1])[2, 2].get_facecolor() == colormaps[MAP](1.0)
    assert squares(axes[0])[2, 0].get_facecolor() == colormaps[MAP]((1 / 3) / 0.5)
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["␣a", "b", "c"]


def test_values_are_written_on_request_in_letters_that_show() -> None:
    (ax,) = plot_attention(even(3), "abc", values=True)
    assert texts(ax) == {(0, 0): "1.00", (1, 0): "0.50", (1, 1): "0.50", (2, 0): "0.33", (2, 1): "0.33", (2, 2): "0.33"}
    inks = {text.get_text(): text.get_color() for text in ax.texts}
    assert inks["0.33"] == "white" and inks["1.00"] != "white"


@pytest.mark.parametrize(("values", "mark"), [(False, "!"), (True, "0.25!")])
def test_weight_on_a_closed_square_is_marked_as_a_leak(values: bool, mark: str) -> None:
    weights = even(4)
    weights[1] = [0.5, 0.25, 0.25, 0]
    (ax,) = plot_attention(weights, "abcd", values=values)
    assert squares(ax)[1, 2].get_edgecolor() == to_rgba(RED)
    assert texts(ax)[1, 2] == mark
    assert (1, 3) not in squares(ax)


def test_a_mask_of_its_own_closes_other_squares() -> None:
    mask = np.eye(3, dtype=bool)
    (ax,) = plot_attention(np.eye(3), "abc", mask=mask)
    assert set(squares(ax)) == {(0, 0), (1, 1), (2, 2)}


def test_many_places_are_numbered_instead_of_named() -> None:
    (ax,) = plot_attention(even(40), ["name"] * 40)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "5", "10", "15", "20", "25", "30", "35"]
    assert ax.get_xticks().tolist() == list(range(0, 40, 5))


def test_given_axes_are_drawn_on() -> None:
    figure, own = plt.subplots(1, 2)
    assert plot_attention(np.stack([even(2)] * 2), "ab", axes=own) == list(own)
    assert len(figure.axes) == 2  # and no scale is added to a figure of someone else


@pytest.mark.parametrize(
    ("weights", "settings", "problem"),
    [
        (even(3), {}, r"weights has shape \(1, 3, 3\) for 4 tokens"),
        (even(4), {"mask": np.ones((3, 3))}, r"mask has shape \(3, 3\) for 4 tokens"),
        (even(4) * 2, {}, "rows of weights sum to 2.00 where 1 is needed: take the softmax"),
        (even(4), {"highest": 0.0}, "highest=0.0, a weight above 0"),
        (even(4), {"axes": []}, "0 axes for 1 heads"),
    ],
)
def test_what_cannot_be_drawn_is_refused(weights: np.ndarray, settings: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        plot_attention(weights, "abcd", **settings)
    with pytest.raises(ValueError, match="values of 13 places do not fit"):
        plot_attention(even(13), "a" * 13, values=True)
