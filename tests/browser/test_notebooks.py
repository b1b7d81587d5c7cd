"""Each notebook in a real JupyterLab: it runs, its controls answer mouse and keyboard, it can be read by ear.

Does not compare outputs (`pytest --nbval` does). The tests of a notebook share one page and run in this order.
Pictures of every page and widget are left in runs/browser/ for eyes to judge.
"""

from axe_playwright_python.sync_playwright import Axe
from opened import MOVES, WIDGET, Control, Opened, controls, value, words
from playwright.sync_api import Locator

# axe looks at what the course writes: prose and outputs. JupyterLab's own frame around them is not ours.
OURS = {"include": [[".jp-Notebook .jp-RenderedMarkdown"], [".jp-Notebook .jp-OutputArea-output"]]}
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
# Rule -> what it may be said of, and why.
ALLOWED = {
    # JupyterLab drops the alternative text of PNG outputs; `show` prints the words, which another test holds it to.
    "image-alt": "jp-RenderedImage",
    # ipywidgets 8.1 puts a slider's name beside its handle, not on it; the label is tested to be there.
    "aria-input-field-name": "noUi-handle",
}


def test_every_cell_runs_and_every_widget_shows(opened: Opened) -> None:
    assert opened.first_sight == [], "as a reader first sees it"
    assert opened.errors() == []
    assert opened.finished, "a cell raised an error, or the run took too long"
    assert opened.problems() == []
    opened.take_pictures()
    written = {cell["id"] for cell in opened.cells() if "Playground(" in cell["source"] and cell["cell_type"] == "code"}
    assert written <= opened.playgrounds().keys(), "a cell with a playground shows none"


def words_of(text: str) -> str:
    """The text on one line: long captions are printed on several."""
    return " ".join(text.split())


def test_every_picture_has_words(opened: Opened) -> None:
    for cell in opened.cells():
        outputs = cell.get("outputs", [])
        printed = "".join("".join(out["text"]) for out in outputs if out["output_type"] == "stream")
        for out in outputs:
            if "image/png" in out.get("data", {}) and WIDGET not in out["data"]:
                alt = out["metadata"].get("image/png", {}).get("alt")
                assert alt and words_of(alt) in words_of(printed), (
                    f"{cell['id']}: the picture's words are not printed: use widgets.show"
                )
    for name, widget in opened.playgrounds().items():
        caption, alt = words(widget)
        assert caption and caption == alt, f"{name}: caption {caption!r}, alternative text {alt!r}"
    # JupyterLab gives pictures in HTML without alternative text an empty one, which says: nothing to see.
    silent = "es => es.filter(e => !e.alt && !e.parentNode.matches('.jp-RenderedImage')).map(e => e.src.slice(0, 80))"
    assert opened.page.locator(".jp-Notebook img").evaluate_all(silent) == [], "pictures without alternative text"
    broken = "es => es.filter(e => !e.complete || !e.naturalWidth).map(e => e.src.slice(0, 80))"
    assert opened.page.locator(".jp-Notebook img").evaluate_all(broken) == [], "pictures that do not load"


def test_nothing_has_to_be_scrolled_sideways(opened: Opened) -> None:
    wide = (
        "es => es.filter(e => e.scrollWidth > e.clientWidth + 1)"
        ".map(e => `${e.scrollWidth} of ${e.clientWidth} pixels: ${e.innerText.slice(0, 60)}`)"
    )
    assert opened.page.locator(".jp-OutputArea-output, .jp-RenderedMarkdown").evaluate_all(wide) == []


def test_axe_finds_nothing(opened: Opened) -> None:
    report = Axe().run(opened.page, context=OURS, options=RULES).response
    assert report["passes"], "axe looked at nothing"
    found = [
        f"{rule['id']} ({rule['help']}): {node['html'][:200]}"
        for rule in report["violations"]
        for node in rule["nodes"]
        if ALLOWED.get(rule["id"], "\n") not in f"{node['html']} {node['target']}"
    ]
    assert found == []


def test_every_control_is_reached_and_moved_by_keyboard(opened: Opened) -> None:
    for name, widget in opened.playgrounds().items():
        opened.select(widget)
        before = [cell["source"] for cell in opened.cells()]
        for control in known_controls(name, widget):
            where = f"{name}, {control.label!r}"
            assert opened.tab_to(control.handle), f"{where}: Tab does not reach it from the one before"
            assert moves(opened, widget, control), f"{where}: no key changes the picture's words"
        assert [cell["source"] for cell in opened.cells()] == before, f"{name}: the keys went to the notebook"
        widget.screenshot(path=opened.pictures / f"widget_{name}_moved.png")
    assert opened.problems() == []


def test_every_control_is_moved_by_mouse(opened: Opened) -> None:
    for name, widget in opened.playgrounds().items():
        for control in known_controls(name, widget):
            before = words(widget)
            move_by_mouse(opened, control)
            assert opened.redrawn(widget, before), (
                f"{name}, {control.label!r}: the mouse does not change the picture's words"
            )
    assert opened.problems() == []


def known_controls(name: str, widget: Locator) -> list[Control]:
    """The controls of the playground in cell `name`: one to three, each with a label and a known kind."""
    found = controls(widget)
    assert 1 <= len(found) <= 3, f"{name}: {len(found)} controls"
    for control in found:
        assert control.label, f"{name}: a control without a label"
        assert control.kind, f"{name}, {control.label!r}: say in opened.MOVES how this control is moved"
    return found


def moves(opened: Opened, widget: Locator, control: Control) -> bool:
    """Press the control's keys until the words change; the later keys lead back from an end."""
    before = words(widget)
    for key in MOVES[control.kind]:
        was = value(control)
        opened.page.keyboard.press(key)
        if value(control) != was and opened.redrawn(widget, before):
            return True
    return False


def move_by_mouse(opened: Opened, control: Control) -> None:
    """Drag a slider to the other half of its track, write into a text, tick a box, take a select's other end."""
    if control.kind == "select":
        last = control.handle.evaluate("e => e.selectedIndex ? 0 : e.options.length - 1")
        control.handle.select_option(index=last)
        return
    if control.kind != ".noUi-handle":
        control.handle.click()
        if control.kind == "input[type=text]":
            opened.page.keyboard.press("End")  # the click is somewhere in the text
            opened.page.keyboard.type("q")
        return
    control.handle.hover()  # scrolls to it, and waits until it stays where it is
    track = control.handle.locator("xpath=ancestor::*[contains(@class, 'noUi-target')]").bounding_box()
    handle = control.handle.bounding_box()
    assert track and handle
    start, middle = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    goal = 0.9 if start < track["x"] + track["width"] / 2 else 0.1  # not halfway between two of three choices
    mouse = opened.page.mouse
    mouse.move(start, middle)
    mouse.down()
    mouse.move(track["x"] + goal * track["width"], middle, steps=4)
    mouse.up()
