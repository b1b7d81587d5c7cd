"""The pictures of notebook 13: what stands where."""

import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from mt_core.lab.plots import plot_differences, plot_restart, restart_words


def squares(ax: Axes) -> dict[tuple[int, int], tuple[bool, bool]]:
    """(row, batch) -> whether the square is filled, and whether it is hatched."""
    found = {}
    for square in ax.patches:
        batch, row = round(square.get_x() + 0.42), round(square.get_y() + 0.36)
        found[row, batch] = (square.get_facecolor()[:3] != (1, 1, 1), bool(square.get_hatch()))
    return found


def test_what_waited_is_hatched_and_lost_by_the_restart_that_counts_it() -> None:
    ax = plot_restart(6, delivered=2, fetched=4)
    filled, hatched, crossed = (True, False), (False, True), (False, False)
    assert squares(ax) == {
        **{(0, 0): filled, (0, 1): filled, (0, 2): hatched, (0, 3): hatched},
        **{(1, 2): crossed, (1, 3): crossed, (1, 4): filled, (1, 5): filled},
        **{(2, batch): filled for batch in (2, 3, 4, 5)},
    }
    strokes = [line for line in ax.get_lines() if list(line.get_ydata()) == pytest.approx([0.64, 1.36])]
    assert [round(sum(line.get_xdata()) / 2) for line in strokes] == [2, 3]
    assert sorted(text.get_text() for text in ax.texts) == sorted([*"0123", *"2345", *"2345", "stopped"])
    labels = [tick.get_text() for tick in ax.get_yticklabels()]
    assert labels[1].endswith("fetched") and labels[2].endswith("delivered") and ax.get_title(loc="left").endswith("?")
    plt.close(ax.figure)


def test_words_name_the_batches_that_are_lost() -> None:
    assert "loses batches 2 to 3;" in restart_words(6, delivered=2, fetched=4)
    assert "loses batch 2;" in restart_words(6, delivered=2, fetched=3)
    assert restart_words(6, delivered=6, fetched=6) == (
        "6 of 6 batches delivered, none in the queue. Both restarts are right."
    )


@pytest.mark.parametrize("draw", [plot_restart, restart_words])
def test_a_queue_that_cannot_be_is_refused(draw) -> None:
    for numbers in ({"delivered": 3, "fetched": 2}, {"delivered": 2, "fetched": 7}, {"delivered": -1, "fetched": 2}):
        with pytest.raises(ValueError, match="each may be at most the next"):
            draw(6, **numbers)


def test_differences_stand_at_their_steps_with_two_cues_each() -> None:
    ax = plot_differences({"whole": [0, 0, 0], "half": [0, 1.5, 0.5]}, first_step=31)
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert list(lines["half"].get_xdata()) == [31, 32, 33] and list(lines["half"].get_ydata()) == [0, 1.5, 0.5]
    looks = {(lines[name].get_linestyle(), lines[name].get_marker()) for name in ("whole", "half")}
    assert len(looks) == 2, "colour is not the only cue"
    assert "nats per token" in ax.get_ylabel() and ax.get_xlabel() == "step" and ax.get_title(loc="left").endswith("?")
    plt.close(ax.figure)


def test_more_runs_than_looks_are_refused() -> None:
    for names in ("", "abcde"):
        with pytest.raises(ValueError, match=f"{len(names)} runs, from 1 to 4"):
            plot_differences({name: [0.0] for name in names}, first_step=1)
