"""The picture of a mix: how far a source is from its share, in numbers."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from mt_core.lab.plots import plot_drift


def test_a_line_counts_rows_above_the_share_and_the_band_is_one_standard_deviation() -> None:
    ax = plot_drift({"chance": np.array([1, 1, 0, 1]), "rule": np.array([0, 0, 0, 1])}, share=0.25)
    chance, rule = ax.get_lines()[:2]
    assert chance.get_ydata().tolist() == [0.75, 1.5, 1.25, 2.0] and chance.get_xdata().tolist() == [1, 2, 3, 4]
    assert rule.get_ydata().tolist() == [-0.25, -0.5, -0.75, 0.0]
    assert chance.get_linestyle() != rule.get_linestyle(), "colour is not the only cue"
    (band,) = ax.collections
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx((4 * 0.25 * 0.75) ** 0.5)
    heights = {text.get_text(): text.xy[1] for text in ax.texts}
    assert heights == {"chance": 2.0, "rule": 0.0, "one standard deviation": pytest.approx(0.75**0.5)}
    assert ax.get_title(loc="left").endswith("?") and "rows" in ax.get_xlabel() and "rows" in ax.get_ylabel()
    plt.close(ax.figure)


@pytest.mark.parametrize(
    ("orders", "share", "why"),
    [
        ({}, 0.5, "0 orders: one to 4 are needed"),
        ({str(n): [True] for n in range(5)}, 0.5, "5 orders: one to 4"),
        ({"a": []}, 0.5, "each with a row at least"),
        ({"a": [True]}, 1, "share=1, a number between 0 and 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(orders: dict, share: float, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        plot_drift(orders, share=share)
