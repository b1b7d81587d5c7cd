"""The picture of the queue's length: what stands where."""

import pytest
from matplotlib import pyplot as plt

from mt_core.lab.plots import plot_depth


def test_each_case_is_a_line_in_percent_with_its_name_beside_its_first_point() -> None:
    ax = plot_depth({"always 40 ms": [1.0, 1.0, 1.0], "40 ms on average": [0.5, 0.7, 0.9]}, [1, 2, 8])
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert lines["40 ms on average"].get_xdata().tolist() == [1, 2, 8]
    assert lines["40 ms on average"].get_ydata() == pytest.approx([50, 70, 90])
    looks = {(lines[name].get_linestyle(), lines[name].get_marker()) for name in ("always 40 ms", "40 ms on average")}
    assert len(looks) == 2, "colour is not the only cue"
    names = {text.get_text(): text.xy for text in ax.texts}
    assert names["40 ms on average"] == (1, 50) and names["always 40 ms"] == (1, 100) and names["the bound"][1] == 100
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "8"]
    assert "%" in ax.get_ylabel() and "prefetch_factor" in ax.get_xlabel() and ax.get_title(loc="left").endswith("?")
    assert ax.get_ylim()[0] == 0
    assert ax.get_xlim()[0] < 0.5, "room for the names"
    plt.close(ax.figure)


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="'a' has 1 shares for 2 depths"):
        plot_depth({"a": [1.0]}, [1, 2])
    with pytest.raises(ValueError, match="5 cases, at most 4"):
        plot_depth({name: [1.0] for name in "abcde"}, [1])
