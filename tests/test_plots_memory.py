"""Memory against the size of a corpus: the numbers that are drawn, not the pixels."""

import pytest
from matplotlib import pyplot as plt

from mt_core.lab.plots import in_bytes, plot_memory


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_each_form_is_a_line_with_a_look_of_its_own_and_its_last_value_in_words() -> None:
    ax = plot_memory([1000, 10**6], {"list": [36_000, 36e6], "map": [800, 800]})
    assert [line.get_ydata().tolist() for line in ax.lines] == [[36_000, 36e6], [800, 800]]
    assert [line.get_xdata().tolist() for line in ax.lines] == [[1000, 10**6]] * 2
    assert {text.get_text(): text.xy for text in ax.texts} == {
        "list, 36 MB": (10**6, 36e6),
        "map, 800 bytes": (10**6, 800),
    }
    assert len({line.get_linestyle() for line in ax.lines}) == len({line.get_marker() for line in ax.lines}) == 2
    assert ax.get_title(loc="left").endswith("?")
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert "tokens" in ax.get_xlabel() and "memory" in ax.get_ylabel()


def test_ticks_are_the_sizes_in_words_every_second_where_there_are_many() -> None:
    few = plot_memory([1000, 1_154_541, 10**9, 10**12], {"array": [1, 2, 3, 4]}, title="How much?")
    assert [label.get_text() for label in few.get_xticklabels()] == ["1,000", "1.15 million", "1 billion", "1 trillion"]
    many = plot_memory([10**n for n in range(6, 13)], {"array": [10**n for n in range(6, 13)]})
    assert many.get_xticks().tolist() == [1e6, 1e8, 1e10, 1e12]
    assert many.yaxis.get_major_formatter()(1e9, 0) == "1 GB"
    assert few.get_title(loc="left") == "How much?"


def test_limits_are_named_lines_inside_the_picture_and_a_ring_marks_a_point() -> None:
    ax = plot_memory([10, 100], {"array": [20, 200]}, limits={"16 GB of memory": 16e9}, ring=(100, 200))
    _, limit, ring = ax.lines
    assert set(limit.get_ydata()) == {16e9} and ax.get_ylim()[1] > 16e9
    assert "16 GB of memory" in [text.get_text() for text in ax.texts]
    assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([100], [200])


@pytest.mark.parametrize("n_bytes, words", [(0.5, "0.5 bytes"), (999, "999 bytes"), (999_900, "1 MB"), (2e15, "2 PB")])
def test_bytes_in_words(n_bytes: float, words: str) -> None:
    assert in_bytes(n_bytes) == words


@pytest.mark.parametrize(
    "held, reason",
    [
        ({}, "0 forms, 1 to 5"),
        ({str(n): [1, 2] for n in range(6)}, "6 forms, 1 to 5"),
        ({"map": [1]}, "map: 1 values for 2 sizes"),
        ({"map": [0, 1]}, "one above 0 for each"),
    ],
)
def test_what_cannot_be_drawn_is_refused(held: dict[str, list[float]], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        plot_memory([1, 2], held)
