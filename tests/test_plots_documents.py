"""How full rows are against their length: the numbers that are drawn, not the pixels."""

import pytest
from matplotlib import pyplot as plt

from mt_core.lab.plots import plot_fills


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_each_way_is_a_line_of_per_cents_with_its_name_and_last_value_at_its_end() -> None:
    ax = plot_fills([64, 128, 256], {"padded": [0.7, 0.5, 0.25], "packed": [0.7, 0.9, 1.0]})
    assert [line.get_ydata().tolist() for line in ax.lines] == [[70, 50, 25], [70, 90, 100]]
    assert [line.get_xdata().tolist() for line in ax.lines] == [[64, 128, 256]] * 2
    assert sorted(text.get_text() for text in ax.texts) == ["packed, 100%", "padded, 25%"]
    assert {text.get_text(): text.xy for text in ax.texts}["padded, 25%"] == (256, 25)
    assert ax.lines[0].get_linestyle() != ax.lines[1].get_linestyle(), "colour is not the only cue"
    assert ax.get_title(loc="left").endswith("?")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("length of a row (tokens)", "places with a target (%)")
    assert ax.get_ylim()[0] == 0 and ax.get_ylim()[1] > 100


def test_marks_are_named_lines() -> None:
    ax = plot_fills([8, 64], {"packed": [1.0, 1.0]}, marks={"two stories": 32})
    mark = next(line for line in ax.lines if len(set(line.get_xdata())) == 1)
    assert set(mark.get_xdata()) == {32}
    assert next(text.xy[0] for text in ax.texts if text.get_text() == "two stories") == 32


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="0 ways to cut, 1 to 4"):
        plot_fills([8], {})
    with pytest.raises(ValueError, match="5 ways to cut"):
        plot_fills([8], {str(n): [0.5] for n in range(5)})
    with pytest.raises(ValueError, match="packed: 1 shares for 2 row lengths"):
        plot_fills([8, 16], {"packed": [0.5]})
    with pytest.raises(ValueError, match="one from 0 to 1"):
        plot_fills([8], {"packed": [50]})
