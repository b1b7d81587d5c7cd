"""Pictures with words, and controls with pictures. Draws nothing by itself.

A picture that only eyes can read is half a picture: `show` prints its words under it, a `Playground` puts
them into the picture's alternative text and its caption, and both give tests something exact to compare.
"""

from __future__ import annotations

import base64
import html
import io
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
from IPython.display import display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

_LINE = 110  # characters: JupyterLab breaks longer lines inside a word
_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def png(figure: Figure) -> bytes:
    """A figure as PNG, and the figure closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def show(figure: Figure, words: str) -> None:
    """Display a finished figure and print what it shows; `words` is its caption and alternative text."""
    data = {"text/plain": f"figure: {words}", "image/png": _base64(figure)}
    display(data, raw=True, metadata={"image/png": {"alt": words}})
    print(textwrap.fill(words, _LINE))


class Playground:
    """Controls and the picture they change: live in Jupyter, a picture with words everywhere else.

    Args:
        draw: called with the controls' values by name; returns a figure and its words.
        controls: ipywidgets controls with a `value` each, at most three; all are reached by keyboard. Screen readers
            say what stands in the caption after each change.

    The last expression of a cell should be the playground itself.
    """

    def __init__(self, draw: Callable[..., tuple[Figure, str]], **controls: ipywidgets.ValueWidget) -> None:
        self._draw, self._controls = draw, controls
        self._view = ipywidgets.HTML()
        for name, control in controls.items():
            control.description = control.description or name
            control.style.description_width = "initial"
            control.tooltip = control.description
            if isinstance(control, ipywidgets.Text):
                control.layout.width = "min(100%, 40em)"
            control.observe(self._answer, "value")
        self._box = ipywidgets.VBox([*controls.values(), self._view])
        self.redraw()

    def _answer(self, change: Any) -> None:
        """Redraw; an error takes the place of the picture, as Jupyter shows none that comes from a control."""
        try:
            self.redraw()
        except Exception as error:
            plt.close("all")  # what was begun would appear under the next cell
            said = html.escape(f"{type(error).__name__}: {error}")
            self._view.value = f'<p role="alert">There is no picture of this. {said}</p>'
            raise

    def redraw(self) -> None:
        """Draw the state the controls are in."""
        figure, self.words = self._draw(**{name: control.value for name, control in self._controls.items()})
        self.picture = _base64(figure)
        self._view.value = _markup(self.picture, self.words, caption=' aria-live="polite"')

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        view = self._box._repr_mimebundle_()[_WIDGET_VIEW]
        data = {"text/plain": self.words, "image/png": self.picture, _WIDGET_VIEW: view}
        return data, {"image/png": {"alt": self.words}}


class Live:
    """A picture that follows a running cell in Jupyter; elsewhere one line. Show it first, then draw.

    Drawing again changes what Jupyter shows and leaves the cell's output as it was, so a stored notebook is the same
    however often it was drawn. Show the last state with `show` in the next cell: that one is kept.

    Args:
        words: the line, which says what runs and where its end is shown.

    >>> live = Live("The loss while it trains; its end is shown below.")
    >>> sorted(live._repr_mimebundle_())[1:]
    ['text/html', 'text/plain']
    """

    def __init__(self, words: str) -> None:
        self.words = words
        self._view = ipywidgets.HTML(html.escape(words))

    def draw(self, figure: Figure, words: str) -> None:
        """Show a figure instead of the one before, and close it; `words` is its alternative text and caption."""
        self._view.value = _markup(_base64(figure), words)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Mapping[str, Any]:
        view = self._view._repr_mimebundle_()[_WIDGET_VIEW]
        return {"text/plain": self.words, "text/html": f"<p>{html.escape(self.words)}</p>", _WIDGET_VIEW: view}


def _base64(figure: Figure) -> str:
    """The figure as PNG, in letters; it is closed."""
    return base64.b64encode(png(figure)).decode("ascii")


def _markup(picture: str, words: str, *, caption: str = "") -> str:
    """A picture with its words, as alternative text and as a caption that has the attributes in `caption`."""
    said = html.escape(words)
    image = f'<img alt="{said}" src="data:image/png;base64,{picture}">'
    return f'<figure style="margin:0">{image}<figcaption{caption}>{said}</figcaption></figure>'
