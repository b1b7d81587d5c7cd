"""The pictures of the stream: what is drawn where, as numbers and texts."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mt_core import TokenStore, TransformerDataset
from mt_core.lab.plots import plot_coverage, plot_stream


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def stream(n: int, seq_length: int, stride: int, **settings: object) -> Axes:
    """The picture of the rows of 0…n - 1."""
    dataset = TransformerDataset(
        TokenStore.from_token_ids(range(n), vocab_size=n), seq_length=seq_length, stride=stride
    )
    rows = np.arange(len(dataset))
    return plot_stream(dataset.rows.starts(rows), dataset.gather(rows)["labels"], n_tokens=n, **settings)


def digits(ax: Axes) -> list[str]:
    """The numbers of the lowest strip, token by token."""
    lowest = max(text.get_position()[1] for text in ax.texts)
    return [text.get_text() for text in ax.texts if text.get_position()[1] == lowest]


def boxes(ax: Axes, *, row: int) -> list[tuple[float, float, bool]]:
    """First token, width and whether it is hatched, of each box of a row."""
    patches = [patch for patch in ax.patches if isinstance(patch, Rectangle) and row < patch.get_y() < row + 1]
    return [
        (p.get_x() + 0.5, p.get_width(), bool(p.get_hatch()))
        for p in patches
        if p.get_height() == pytest.approx(0.76) and p.get_width()
    ]


@pytest.mark.parametrize(
    ("seq_length", "stride", "expected"),
    [
        (4, 4, "–111111111"),  # the last row is moved back and masked
        (4, 5, "–111101111"),  # a gap between the rows
        (4, 2, "–112222221"),  # each row twice
        (4, 1, "–123444321"),
    ],
)
def test_each_token_has_the_number_of_times_it_is_asked(seq_length: int, stride: int, expected: str) -> None:
    assert "".join(digits(stream(10, seq_length, stride))) == expected


def test_a_row_is_one_token_that_is_read_and_its_targets_masked_ones_hatched() -> None:
    ax = stream(10, 4, 4)
    assert boxes(ax, row=1) == [(4, 1, False), (5, 4, False)]
    assert boxes(ax, row=2) == [(5, 1, False), (6, 3, True), (9, 1, False)]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["stream", "row 0", "row 1", "row 2", "times asked"]
    assert ax.get_xlabel() == "position in the stream (tokens)"


def test_gaps_are_hatched_and_repeats_bold_so_colour_is_not_the_only_cue() -> None:
    gap = stream(10, 4, 5)
    cells = [p for p in gap.patches if p.get_width() == 1 and p.get_height() != pytest.approx(0.76)]
    assert [cell.get_x() + 0.5 for cell in cells if cell.get_hatch()] == [5]
    repeats = stream(10, 4, 2)
    assert {t.get_fontweight() for t in repeats.texts if t.get_text() == "2"} == {"bold"}
    assert {t.get_fontweight() for t in repeats.texts if t.get_text() == "1"} == {"normal"}


def test_documents_are_named_and_their_ends_go_through_the_rows() -> None:
    ax = stream(10, 4, 4, document_ends=[1, 6, 10])
    assert [text.get_text() for text in ax.texts[:3]] == ["0", "document 1", "document 2"]
    assert [line.get_xdata()[0] for line in ax.lines] == [0.5, 5.5]


def test_long_streams_have_a_cell_for_each_run_of_equal_counts_and_many_rows_few_names() -> None:
    ax = stream(82, 8, 1)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names[1:-1] == [f"row {n}" for n in range(0, 74, 10)]
    assert digits(ax) == ["8"]  # the runs of 1 to 7 are one token each, too narrow for a number
    ax = stream(82, 8, 16)
    gaps = [(p.get_x() + 0.5, p.get_width()) for p in ax.patches if p.get_hatch() and p.get_y() > 6]
    assert gaps == [(9, 8), (25, 8), (41, 8), (57, 8), (73, 8)]
    assert digits(ax) == ["1", "0"] * 5  # the last row is moved back and asks for the last token alone


@pytest.mark.parametrize(
    ("starts", "labels", "ends", "message"),
    [
        ([0], [[1, 2], [3, 4]], None, "1 starts and labels of shape"),
        ([], np.empty((0, 2)), None, "0 starts"),
        ([3], [[4, 5]], None, "rows reach from token 3 to 5, the stream goes from 0 to 4"),
        ([-1], [[0, 1]], None, "rows reach from token -1"),
        ([0], [[1, 2]], [2, 4], "end at n_tokens=5"),
        ([0], [[1, 2]], [2, 2, 5], "must increase"),
    ],
)
def test_what_does_not_fit_is_refused(starts: object, labels: object, ends: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_stream(starts, np.asarray(labels), n_tokens=5, document_ends=ends)


def test_coverage_shows_shares_and_questions_a_target() -> None:
    ax = plot_coverage({"a": np.array([1, 1, 1, 0]), "b": np.array([2, 2, 2, 2])})
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["75%", "25%", "0.75", "100%", "2", "questions\na target"]
    widths = [p.get_width() for p in ax.patches if p.get_height()]
    assert widths == [75, 0, 25, 0, 100, 0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["asked once", "asked more often", "asked never"]
    assert len({p.get_hatch() for p in ax.patches}) == 3


def test_coverage_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no counts"):
        plot_coverage({})
