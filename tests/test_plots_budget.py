"""The picture of a budget: where its dots lie, and which one is chosen."""

import pytest
from matplotlib import pyplot as plt

from mt_core.lab.plots import plot_budget


def test_each_preset_lies_where_the_budget_is_used_up() -> None:
    ax = plot_budget(6e15, {"small": 10**6, "large": 10**8}, chosen="large")
    afford, ratio, small, large = ax.get_lines()
    for dot, parameters in ((small, 10**6), (large, 10**8)):
        assert 6 * dot.get_xdata()[0] * dot.get_ydata()[0] == pytest.approx(6e15) and dot.get_xdata()[0] == parameters
    assert (6 * afford.get_xdata() * afford.get_ydata()) == pytest.approx([6e15] * 50)
    assert ratio.get_ydata() / ratio.get_xdata() == pytest.approx([20.0] * 50)
    assert (small.get_marker(), large.get_marker()) == ("s", "o") and large.get_markersize() > small.get_markersize()
    assert {text.get_text() for text in ax.texts} >= {"small", "large", "solid: all that 6.0e+15 FLOP afford"}
    assert "dashed: 20 tokens a parameter" in {text.get_text() for text in ax.texts}
    assert (
        ax.get_title(loc="left").endswith("?")
        and ax.get_xlabel().startswith("parameters")
        and ax.get_ylabel().startswith("tokens")
    )
    plt.close(ax.figure)


def test_it_draws_on_given_axes_and_refuses_no_budget() -> None:
    figure, ax = plt.subplots()
    assert plot_budget(1e12, {}, tokens_per_parameter=4, ax=ax) is ax
    plt.close(figure)
    with pytest.raises(ValueError, match="above 0"):
        plot_budget(0, {})
