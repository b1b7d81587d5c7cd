"""Pictures with words, controls with pictures: what is displayed, printed and read out."""

import base64

import ipywidgets
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from mt_core.lab import widgets

PNG = b"\x89PNG"


def draw(n: int = 1, name: str = "") -> tuple[Figure, str]:
    figure, ax = plt.subplots(figsize=(2, 1))
    ax.plot(range(n + 1))
    return figure, f"{n} < {n + 1} {name}".strip()


def test_a_picture_is_shown_with_its_words_and_closed(monkeypatch, capsys) -> None:
    shown = []
    monkeypatch.setattr(widgets, "display", lambda data, **settings: shown.append((data, settings)))
    figure, _ = draw()
    words = "word " * 40 + "end."
    widgets.show(figure, words)
    ((data, settings),) = shown
    assert base64.b64decode(data["image/png"]).startswith(PNG) and data["text/plain"] == f"figure: {words}"
    assert settings["metadata"]["image/png"]["alt"] == words
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines) == words and max(map(len, lines)) <= 110 and len(lines) == 2, "wrapped between words"
    assert not plt.fignum_exists(figure.number)


def test_a_playground_redraws_when_a_control_moves_and_has_a_twin_without_widgets() -> None:
    n, name = ipywidgets.IntSlider(2, 1, 5), ipywidgets.Text("a&b")
    playground = widgets.Playground(draw, n=n, name=name)
    data, metadata = playground._repr_mimebundle_()
    assert data["text/plain"] == metadata["image/png"]["alt"] == "2 < 3 a&b"
    assert base64.b64decode(data["image/png"]).startswith(PNG) and widgets._WIDGET_VIEW in data
    n.value = 4
    assert playground.words == "4 < 5 a&b" and playground._repr_mimebundle_()[0]["text/plain"] == "4 < 5 a&b"
    assert '<img alt="4 &lt; 5 a&amp;b"' in playground._view.value
    assert 'aria-live="polite">4 &lt; 5 a&amp;b</figcaption>' in playground._view.value
    assert plt.get_fignums() == []


def test_controls_are_named_and_long_enough() -> None:
    n, name = ipywidgets.IntSlider(2, 1, 5, description="rows"), ipywidgets.Text("a")
    widgets.Playground(draw, n=n, name=name)
    assert (n.description, n.tooltip) == ("rows", "rows") and (name.description, name.tooltip) == ("name", "name")
    assert name.layout.width == "min(100%, 40em)" and n.style.description_width == "initial"


def test_an_error_while_drawing_is_not_hidden() -> None:
    def broken(n: int) -> tuple[Figure, str]:
        raise ValueError("no picture for this")

    with pytest.raises(ValueError, match="no picture for this"):
        widgets.Playground(broken, n=ipywidgets.IntSlider(2))


def test_an_error_after_a_control_moved_takes_the_place_of_the_picture_until_it_moves_on() -> None:
    def broken(n: int) -> tuple[Figure, str]:
        figure = draw(n)[0]
        if n == 4:
            raise ValueError("n=4 has <no> picture: move on")
        return figure, f"{n} drawn"

    n = ipywidgets.IntSlider(2, 1, 5)
    playground = widgets.Playground(broken, n=n)
    with pytest.raises(ValueError, match="n=4 has"):
        n.value = 4
    assert playground._view.value == (
        '<p role="alert">There is no picture of this. ValueError: n=4 has &lt;no&gt; picture: move on</p>'
    )
    assert plt.get_fignums() == []
    n.value = 5
    assert playground.words == "5 drawn" and "<img" in playground._view.value


def test_a_live_picture_changes_in_jupyter_and_leaves_the_output_as_it_was() -> None:
    live = widgets.Live("The loss <so far>; its end is shown below.")
    before = live._repr_mimebundle_()
    assert before["text/plain"] == "The loss <so far>; its end is shown below."
    assert before["text/html"] == "<p>The loss &lt;so far&gt;; its end is shown below.</p>"
    assert before["application/vnd.jupyter.widget-view+json"]["model_id"] == live._view.model_id
    for step in (1, 2):
        figure = plt.figure()
        live.draw(figure, f"step {step}")
        assert f'alt="step {step}"' in live._view.value and f"<figcaption>step {step}</figcaption>" in live._view.value
        assert not plt.fignum_exists(figure.number)
    assert live._repr_mimebundle_() == before
