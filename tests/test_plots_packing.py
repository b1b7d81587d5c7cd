"""Rows filled with documents: where each piece lies, what stands in it, and the share that is filled."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from mt_core import TokenStore, TransformerDataset
from mt_core.lab.plots import packing_words, plot_packing


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def pieces(ax: Axes) -> list[tuple[int, int, int, bool]]:
    """Row, first place, length and whether it is hatched, of each piece."""
    return [(round(p.get_y() + 0.38), p.get_x(), p.get_width(), bool(p.get_hatch())) for p in ax.patches]


TWO_ROWS = np.array([[0, 0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 2, 2, 2, -1, -1]])


def test_each_piece_lies_where_its_document_does_and_what_has_no_target_is_hatched() -> None:
    ax = plot_packing(TWO_ROWS)
    first, second = [(0, 0, 4, False), (0, 4, 4, False)], [(1, 0, 3, False), (1, 3, 3, False), (1, 6, 2, True)]
    assert pieces(ax) == first + second
    assert ax.yaxis_inverted() and ax.get_xlim() == (0, 8)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("place in the row (tokens)", "row")
    assert ax.get_title(loc="left") == "Which documents fill which rows?"


def test_pieces_hold_their_number_and_say_where_a_document_goes_on() -> None:
    texts = plot_packing(TWO_ROWS).texts
    assert [text.get_text() for text in texts] == ["0", "1…", "…1", "2", "no target"]
    assert [text.get_position() for text in texts] == [(2, 0), (6, 0), (1.5, 1), (4.5, 1), (7, 1)]


def test_a_piece_too_narrow_for_its_words_has_fewer_or_none() -> None:
    ids = np.full((2, 100), 7)
    ids[1, 2:] = np.repeat(np.arange(1000, 1049), 2)
    assert [text.get_text() for text in plot_packing(ids).texts] == ["7…", "7"]


def test_documents_that_follow_each_other_differ_in_colour() -> None:
    colors = [patch.get_facecolor() for patch in plot_packing(np.repeat(np.arange(9), 2).reshape(1, 18)).patches]
    assert len(colors) == 9
    assert all(one != other for one, other in pairwise(colors))


def test_names_of_ways_to_cut_come_with_the_share_that_is_filled() -> None:
    ax = plt.subplots()[1]
    assert plot_packing(TWO_ROWS, name="in a stream", ax=ax) is ax
    assert ax.get_title(loc="left") == "in a stream: 2 rows, 88% filled"
    words = "2 rows of 8 places, 88% filled: 3 documents, 1 of them cut; 2 rows with more than one document."
    assert packing_words(TWO_ROWS) == words
    assert packing_words(np.array([[5, -1]])).startswith("1 row of 2 places, 50% filled: 1 document, 0 of them cut")


def test_rows_of_the_dataset_are_drawn_as_they_are() -> None:
    store = TokenStore.from_token_ids(range(12), vocab_size=12, document_ends=[4, 12])
    rows = TransformerDataset(store, seq_length=5, chunking="per_document").gather(np.arange(3))
    assert pieces(plot_packing(rows["document_ids"].numpy())) == [
        *[(0, 0, 3, False), (0, 3, 2, True)],
        (1, 0, 5, False),
        *[(2, 0, 2, False), (2, 2, 3, True)],
    ]


@pytest.mark.parametrize("ids", [np.zeros(4), np.zeros((0, 4)), np.zeros((2, 3, 4))])
def test_what_is_no_rows_is_refused(ids: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"document_ids has shape .* \(rows, T\)"):
        plot_packing(ids)
    with pytest.raises(ValueError, match="document_ids has shape"):
        packing_words(ids)
