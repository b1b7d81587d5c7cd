"""The picture of tried loader settings: the numbers that are drawn, not the pixels."""

from collections.abc import Iterator

import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba

from mt_core.lab.plots import plot_tuning
from mt_core.lab.style import PALE, SKY

GAINS = {"0 workers": [1.0, 1.0, 1.0], "1 worker": [1.0, 2.0, 4.0], "2 workers": [0.5, 0.5, 0.9]}


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def test_a_bar_is_a_median_with_its_rounds_and_their_middle_half() -> None:
    ax = plot_tuning(GAINS, recommended="1 worker")
    assert [bar.get_width() for bar in ax.patches] == [1.0, 2.0, 0.5]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(GAINS)
    dots, spread = ax.lines[2:4]
    assert list(dots.get_xdata()) == [1.0, 2.0, 4.0] and list(spread.get_xdata()) == [1.5, 3.0]
    assert list(ax.lines[-1].get_xdata()) == [1, 1]  # what all are compared with
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first stands above


def test_the_recommended_setting_is_marked_by_colour_and_word() -> None:
    ax = plot_tuning(GAINS, recommended="1 worker")
    assert [bar.get_facecolor() for bar in ax.patches] == [to_rgba(PALE), to_rgba(SKY), to_rgba(PALE)]
    assert [text.get_text() for text in ax.texts] == ["×1.00", "×2.00  recommended", "×0.50"]
    assert [text.get_weight() for text in ax.texts] == ["normal", "bold", "normal"]
    assert all(text.get_position()[0] > max(GAINS[name]) for text, name in zip(ax.texts, GAINS, strict=True))
    assert ax.get_xlabel() == "batches a second, relative to 0 workers (×)" and ax.get_title(loc="left").endswith("?")


def test_it_draws_where_it_is_told_and_fits() -> None:
    own = plt.subplots(figsize=(7.5, 2.4))[1]
    assert plot_tuning(GAINS, recommended="1 worker", ax=own) is own
    assert plot_tuning({"0 workers": [1.0]}, recommended="0 workers") is not own
    drawn = plot_tuning(GAINS, recommended="1 worker")
    drawn.figure.canvas.draw()
    marked = drawn.texts[1].get_window_extent()
    assert marked.x1 <= drawn.get_window_extent().x1


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="'3 workers' was not tried: it must be one of 0 workers, 1 worker"):
        plot_tuning(GAINS, recommended="3 workers")
    with pytest.raises(ValueError, match="no gain of '4 workers'"):
        plot_tuning({**GAINS, "4 workers": []}, recommended="1 worker")
