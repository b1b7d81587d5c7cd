"""A notebook open in JupyterLab, and the controls in it. Asserts nothing: it says what is there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import ConsoleMessage, Error, Locator, Page

PANEL = "window.jupyterapp.shell.currentWidget"
WIDGET = "application/vnd.jupyter.widget-view+json"
RUN_SECONDS, REDRAW_SECONDS = 240, 10
SLICE = 2000  # pixels of a page in one picture
MOVES = {  # what a control is in the page, and the keys that move it: one way, then the other
    ".noUi-handle": ["ArrowRight"] * 3 + ["ArrowLeft"] * 6,
    "select": ["ArrowDown"] * 2 + ["ArrowUp"] * 4,
    "input[type=checkbox]": ["Space"],
    "input[type=text]": ["End", "z"],
}


@dataclass(frozen=True, kw_only=True)
class Control:
    """One control of a playground: its visible label, what a reader moves, and which of MOVES it is."""

    label: str
    handle: Locator
    kind: str


class Opened:
    """One notebook, opened and run from the top. `console` collects errors, `fetched` what came from elsewhere."""

    def __init__(self, page: Page, lab: str, name: str, pictures: Path) -> None:
        self.page, self.name, self.pictures = page, name, pictures
        self.console: list[str] = []
        self.fetched: list[str] = []
        page.on("console", self._listen)
        page.on("pageerror", lambda error: self.console.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith((lab, "data:", "blob:")) else self.fetched.append(r.url))
        page.goto(f"{lab}/doc/tree/{name}?reset")
        page.wait_for_function(f"window.jupyterapp && {PANEL} && {PANEL}.content && {PANEL}.sessionContext")
        self.js("await panel.context.ready; await panel.sessionContext.ready; await kernel().info")
        self.first_sight = self.widget_errors()  # before a cell has run
        self.finished = self.run_all()
        # Cells out of sight are kept from the layout, so that neither pictures nor axe would see them.
        self.js("panel.content.notebookConfig = {...panel.content.notebookConfig, windowingMode: 'none'}")
        self.settle()

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.console.append(f"{message.text} ({message.location.get('url', '')})")

    def js(self, body: str, argument: object = None) -> Any:
        """Run JavaScript that knows `panel`, `kernel()` and the `argument`."""
        known = f"const panel = {PANEL}; const kernel = () => panel.sessionContext.session.kernel;"
        return self.page.evaluate(f"async argument => {{ {known} {body} }}", argument)

    def run_all(self) -> bool:
        """Run every cell; False if one raised or they take too long."""
        try:
            late = f"new Promise((_, no) => setTimeout(() => no(new Error('late')), {RUN_SECONDS * 1000}))"
            run = "window.jupyterapp.commands.execute('notebook:run-all-cells')"
            return bool(self.js(f"return await Promise.race([{run}, {late}])"))
        except Error:
            return False

    def settle(self) -> None:
        """Return when the kernel is idle and no caption changes any more.

        A question to the kernel would not do: what widgets say takes another way there, and may come later.
        """
        state = "return [kernel().status, [...document.querySelectorAll('figcaption')].map(e => e.innerText)]"
        seen = [self.js(state)]
        while seen[-1][0] != "idle" or seen[-3:] != [seen[-1]] * 3:
            self.page.wait_for_timeout(80)
            seen.append(self.js(state))

    def cells(self) -> list[dict[str, Any]]:
        """The cells as they are now, outputs included; from the model, not the page."""
        return list(self.js("return panel.content.model.toJSON().cells"))

    def errors(self) -> list[str]:
        """What went wrong in any cell, except where a cell's lesson is its error."""
        found = []
        for cell in self.cells():
            lesson = "raises-exception" in cell["metadata"].get("tags", [])
            for out in cell.get("outputs", []):
                if out["output_type"] == "error" and not lesson:
                    found.append(f"{cell['id']}: {out['ename']}: {out['evalue']}")
                if out.get("name") == "stderr":
                    found.append(f"{cell['id']}: stderr: {''.join(out['text'])[:200]}")
        return found

    def widget_errors(self) -> list[str]:
        """Widgets that are not drawn, formulas that cannot be set."""
        bad = "Error displaying widget", "Loading widget..."
        found = [text for words in bad for text in self.page.get_by_text(words).all_inner_texts()]
        marks = ".jupyter-widgets-error-widget, mjx-merror, .jp-Notebook [data-mjx-error]"
        return found + self.page.locator(marks).all_inner_texts()

    def problems(self) -> list[str]:
        """Everything that is wrong now."""
        return self.errors() + self.widget_errors() + self.console + [f"fetched {url}" for url in self.fetched]

    def cell(self, cell_id: str) -> Locator:
        """The cell in the page."""
        index = [cell["id"] for cell in self.cells()].index(cell_id)
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def playgrounds(self) -> dict[str, Locator]:
        """Cell id -> the widget in its output, for every cell that shows one with controls; a `Live` has none."""
        shows = {
            cell["id"]: self.cell(cell["id"]).locator(".jp-OutputArea-output > .jupyter-widgets")
            for cell in self.cells()
            if any(WIDGET in out.get("data", {}) for out in cell.get("outputs", []))
        }
        return {
            (cell_id if i == 0 else f"{cell_id}_{i}"): widget
            for cell_id, widgets in shows.items()
            for i, widget in enumerate(widgets.all())
            if widget.locator(", ".join(MOVES)).count()
        }

    def select(self, widget: Locator) -> None:
        """Make the widget's cell the active one, as arrow keys in command mode would."""
        index = widget.evaluate("e => [...document.querySelectorAll('.jp-Cell')].indexOf(e.closest('.jp-Cell'))")
        self.js("panel.content.activeCellIndex = argument; panel.content.mode = 'command'", index)
        self.js("panel.content.activate(); await panel.content.scrollToItem(argument)", index)

    def tab_to(self, handle: Locator, at_most: int = 12) -> bool:
        """Press Tab until `handle` has the focus; False if it does not get it."""
        for _ in range(at_most):
            self.page.keyboard.press("Tab")
            if handle.evaluate("e => e === document.activeElement"):
                return True
        return False

    def redrawn(self, widget: Locator, before: tuple[str, str]) -> bool:
        """Whether the widget's words become others than they were `before`; returns when they are final."""
        for _ in range(REDRAW_SECONDS * 20):
            if words(widget) != before:
                self.settle()
                return True
            self.page.wait_for_timeout(50)
        return False

    def take_pictures(self) -> None:
        """The whole notebook as page_01.png, page_02.png, … and each widget as it first shows."""
        self.page.set_viewport_size({"width": 1200, "height": SLICE})
        panel = self.page.locator(".jp-WindowedPanel-outer")
        height, step = panel.evaluate("e => [e.scrollHeight, e.clientHeight]")
        for number, top in enumerate(range(0, height, step), start=1):
            panel.evaluate("(e, top) => e.scrollTo(0, top)", top)
            panel.screenshot(path=self.pictures / f"page_{number:02}.png")
        self.page.set_viewport_size({"width": 1200, "height": 900})
        for name, widget in self.playgrounds().items():
            widget.screenshot(path=self.pictures / f"widget_{name}.png")

    def shut_down(self) -> None:
        """End the kernel, so that the next notebook gets its own."""
        self.js("await window.jupyterapp.serviceManager.sessions.shutdownAll()")


def controls(widget: Locator) -> list[Control]:
    """The controls of a playground, from top to bottom."""
    found = []
    for row in widget.locator("> *:not(:has(figure))").all():
        kind = next((kind for kind in MOVES if row.locator(kind).count()), "")
        labels = row.locator("label, .widget-label").all_inner_texts()
        found.append(Control(label=" ".join(labels).strip(), handle=row.locator(kind or "*").first, kind=kind))
    return found


def value(control: Control) -> str:
    """The control's own state, whatever it is called there."""
    return str(control.handle.evaluate("e => [e.getAttribute('aria-valuetext'), e.value, e.checked].join()"))


def words(widget: Locator) -> tuple[str, str]:
    """A playground's caption and the alternative text of its picture."""
    alt = widget.locator("figure img").get_attribute("alt") or ""
    return widget.locator("figcaption").inner_text(), alt
