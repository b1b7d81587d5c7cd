"""Pictures of a model's parts and of its next token: what stands where, and in which words."""

from collections.abc import Iterator

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from mt_core.lab.plots import plot_heads, plot_next_tokens, plot_shares
from mt_core.lab.style import BLUE


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def test_each_bar_is_cut_into_its_shares_and_the_parts_are_named_over_the_first() -> None:
    parts = {"small": {"table": 2, "blocks": 6, "norms": 0}, "large": {"table": 10, "blocks": 85, "norms": 5}}
    ax = plot_shares(parts, title="Where?", totals={"small": "8", "large": "100"})
    bars = [(bar.get_y() + 0.31, bar.get_x(), bar.get_width()) for bar in ax.patches]
    expected = [(0, 0, 25), (0, 25, 75), (0, 100, 0), (1, 0, 10), (1, 10, 85), (1, 95, 5)]
    assert bars == [pytest.approx(bar) for bar in expected]
    written = [(text.get_text(), *text.get_position()) for text in ax.texts]
    assert ("25%", 12.5, 0) in written and ("75%", 62.5, 0) in written and ("10%", 5.0, 1) in written
    assert ("8", 102, 0) in written and ("100", 102, 1) in written
    names = {word: (x, y) for word, x, y in written if word in ("table", "blocks", "norms")}
    assert names == {"table": (12.5, -0.42), "blocks": (62.5, -0.42)}, "no room for a part of nothing"
    assert "5%" not in [word for word, _, _ in written]
    looks = {(bar.get_facecolor(), bar.get_hatch()) for bar in ax.patches[:3]}
    assert len({hatch for _, hatch in looks}) == 3, "colour is not the only cue"
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["small", "large"] and ax.yaxis_inverted()
    assert ax.get_title(loc="left") == "Where?" and "%" in ax.get_xlabel()


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({}, "0 parts"),
        ({"a": {}}, "0 parts"),
        ({"a": dict.fromkeys("vwxyz", 1)}, "5 parts, 1 to 4"),
        ({"a": {"x": 1}, "b": {"y": 1}}, "b has the parts"),
        ({"a": {"x": 0}}, "cannot be shares"),
        ({"a": {"x": 2, "y": -1}}, "cannot be shares"),
    ],
)
def test_shares_that_cannot_be_drawn_are_refused(parts: dict[str, dict[str, float]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        plot_shares(parts, title="?")


def test_next_tokens_show_both_probabilities_and_who_is_out() -> None:
    ax = plot_next_tokens([" fox", "a", "b"], np.array([0.5, 0.3, 0.2]), np.array([0.625, 0.375, 0]))
    filled = [bar for bar in ax.patches if bar.get_facecolor()[:3] == to_rgba(BLUE)[:3]]
    outlined: list[Rectangle] = [bar for bar in ax.patches if bar not in filled]
    assert [bar.get_width() for bar in filled] == pytest.approx([62.5, 37.5, 0])
    assert [bar.get_width() for bar in outlined] == pytest.approx([50, 30, 20])
    assert [bool(bar.get_hatch()) for bar in outlined] == [False, False, True]
    assert [text.get_text() for text in ax.texts] == ["50.0 → 62.5", "30.0 → 37.5", "20.0  out"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["␣fox", "a", "b"] and ax.yaxis_inverted()
    assert ax.get_title(loc="left").endswith("?") and "%" in ax.get_xlabel()


@pytest.mark.parametrize(
    ("probabilities", "drawn", "why"),
    [([0.5], [0.5, 0.5], "probabilities has shape"), ([0.5, 0.5], [0.5], "drawn has"), ([0.5, 1.5], [1, 0], "from 0")],
)
def test_next_tokens_that_do_not_fit_are_refused(probabilities: list[float], drawn: list[float], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        plot_next_tokens(["a", "b"], np.array(probabilities), np.array(drawn))


def test_heads_stand_by_sharpness_with_both_numbers_in_one_line() -> None:
    left, right = plot_heads({"a": 0.2, "b": 0.5, "c": 0.3}, {"c": 0.1, "b": 0.04, "a": -0.01})
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["b", "c", "a"] and left.yaxis_inverted()
    assert [bar.get_width() for bar in left.patches] == [0.5, 0.3, 0.2]
    assert [bar.get_width() for bar in right.patches] == [0.04, 0.1, -0.01]
    assert [text.get_text() for text in left.texts] == ["0.50", "0.30", "0.20"]
    assert [text.get_text() for text in right.texts] == ["+0.04", "+0.10", "-0.01"]
    assert left.patches[0].get_hatch() != right.patches[0].get_hatch(), "colour is not the only cue"
    assert right.get_xlim()[0] == pytest.approx(-0.01) and "nats" in right.get_xlabel()
    assert left.figure.get_suptitle().endswith("?")


@pytest.mark.parametrize(("sharpness", "costs"), [({}, {}), ({"a": 1.0}, {"b": 1.0}), ({"a": 1.0}, {})])
def test_heads_that_do_not_match_are_refused(sharpness: dict[str, float], costs: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="both of the same heads"):
        plot_heads(sharpness, costs)
