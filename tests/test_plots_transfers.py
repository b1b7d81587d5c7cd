"""Magnitudes: bars of the right length on a logarithmic axis, each with its value in a fitting unit."""

import pytest
from matplotlib import pyplot as plt

from mt_core.lab.plots import in_units, plot_magnitudes


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (5.12e-3, "s", "5.12 ms"),
        (1.31072e-6, "s", "1.31 µs"),
        (2.0, "s", "2 s"),
        (4e-10, "s", "0.4 ns"),
        (25e9, "bytes/s", "25 GB/s"),
        (3.2e12, "bytes/s", "3,200 GB/s"),
        (6.4e6, "bytes/s", "6.4 MB/s"),
        (12, "bytes/s", "12 bytes/s"),
    ],
)
def test_values_get_the_unit_that_suits_them(value: float, unit: str, words: str) -> None:
    assert in_units(value, unit) == words


def test_bars_end_at_their_values_on_a_logarithmic_axis() -> None:
    ax = plot_magnitudes({"step": 5e-3, "copy": 1e-6}, unit="s", title="How long?")
    assert [round(p.get_x() + p.get_width(), 12) for p in ax.patches] == [5e-3, 1e-6]
    assert ax.get_xscale() == "log" and ax.get_title(loc="left") == "How long?"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["step", "copy"]
    assert [text.get_text() for text in ax.texts] == ["5 ms", "1 µs"]
    assert "seconds" in ax.get_xlabel()
    assert len({patch.get_hatch() for patch in ax.patches}) == 2, "the first is told apart by more than colour"


def test_all_bars_may_be_alike() -> None:
    ax = plot_magnitudes({"a": 1e6, "b": 2e6}, unit="bytes/s", title="?", first_is_other=False)
    assert len({patch.get_hatch() for patch in ax.patches}) == 1 and "bytes" in ax.get_xlabel()


@pytest.mark.parametrize(
    ("values", "unit", "words"),
    [({}, "s", "at least one"), ({"a": 0}, "s", "above 0"), ({"a": 1}, "miles", "must be one of s, bytes/s")],
)
def test_what_cannot_be_drawn(values: dict[str, float], unit: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plot_magnitudes(values, unit=unit, title="?")
