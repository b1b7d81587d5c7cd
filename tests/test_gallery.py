"""The gallery shows every picture of the lab: no plot and no playground is left out. Runs no cell."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GALLERY = ROOT / "notebooks" / "gallery.ipynb"
MODULES = sorted((ROOT / "mt_core" / "lab").rglob("*.py"))


def pictures_in(source: str) -> set[str]:
    """Public functions of a module that draw: plots, what makes a playground, and what one can be made of."""
    return {
        node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and (node.name.startswith("plot_") or makes_playground(node) or draws_with_words(node))
    }


def makes_playground(function: ast.FunctionDef) -> bool:
    """Whether it says that it returns a playground, or calls its constructor."""
    said = ast.unparse(function.returns) if function.returns else ""
    called = {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
    return "Playground" in said or any(name.split(".")[-1] == "Playground" for name in called)


def draws_with_words(function: ast.FunctionDef) -> bool:
    """Whether it returns a figure and its words, as a playground wants them."""
    return function.returns is not None and ast.unparse(function.returns) == "tuple[Figure, str]"


def names_in(source: str) -> set[str]:
    """Every name that is used in Python source, with or without a module before it; imports do not count."""
    used = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name | ast.Attribute))
    return {node.id if isinstance(node, ast.Name) else node.attr for node in used}


def missing(modules: list[str], cells: list[str]) -> list[str]:
    """The pictures of the modules that no cell uses."""
    wanted = {name for source in modules for name in pictures_in(source)}
    return sorted(wanted - {name for cell in cells for name in names_in(cell)})


def cells() -> list[dict]:
    return json.loads(GALLERY.read_text(encoding="utf-8"))["cells"]


def test_the_gallery_shows_every_picture_of_the_lab() -> None:
    modules = [path.read_text(encoding="utf-8") for path in MODULES]
    assert sum(len(pictures_in(source)) for source in modules) >= 20  # the search itself finds something
    assert missing(modules, ["".join(c["source"]) for c in cells() if c["cell_type"] == "code"]) == []


def test_every_picture_of_the_lab_is_named_in_the_text() -> None:
    prose = "".join("".join(c["source"]) for c in cells() if c["cell_type"] == "markdown")
    wanted = {name for path in MODULES for name in pictures_in(path.read_text(encoding="utf-8"))}
    assert sorted(wanted - set(re.findall(r"`(\w+)`", prose))) == []


def test_every_picture_of_the_gallery_has_a_text_of_its_own_above_it() -> None:
    introduced = False
    for cell in cells():
        pictures = sum("image/png" in out.get("data", {}) for out in cell.get("outputs", []))
        assert pictures <= introduced, f"cell {cell['id']} has {pictures} pictures and no text since the one before"
        introduced = cell["cell_type"] == "markdown" or (introduced and not pictures)


@pytest.mark.parametrize(
    ("module", "left_out"),
    [
        ("def plot_x(ax): ...", ["plot_x"]),
        ("def slider(n) -> Playground: ...", ["slider"]),
        ("def slider(n):\n    return widgets.Playground(draw, n=n)", ["slider"]),
        ("def draw_x(n) -> tuple[Figure, str]: ...", ["draw_x"]),
        ("def _plot_x(ax): ...\ndef count(x) -> int: ...\nclass Playground: ...", []),
    ],
)
def test_a_picture_that_is_left_out_is_seen(module: str, left_out: list[str]) -> None:
    assert missing([module], ["from mt_core.lab.plots import plot_x\nprint('plot_x, slider')  # draw_x"]) == left_out
    assert missing([module], ["plots.plot_x(1)", "slider(2)", "lambda n: draw_x(n)"]) == []
