"""The pages that `make site` builds: what goes into them, and that each fault of theirs is found. Opens no browser."""

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
import pytest
from helpers import load_tool
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mt_core.lab import widgets

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
URL = "https://github.com/someone/course"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="


make_site = load_tool("make_site")
TEXTS = make_site.texts_of_the_course()


def build(root: Path, out: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(root / "tools" / "make_site.py"), "--out", str(out)]
    return subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8", timeout=240)


# -- links, without building ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*NOTEBOOKS, *TEXTS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_of_a_text_lead_to_files(path: Path) -> None:
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    else:
        prose = path.read_text(encoding="utf-8")
    here = {link for link in make_site.LINK.findall(prose) if not re.match(r"https?://", link)}
    assert {link for link in here if not (path.parent / link).is_file()} == set()


def test_the_side_bar_has_every_page_once_and_the_course_in_the_order_of_the_readme() -> None:
    readme = TEXTS[0].read_text(encoding="utf-8")
    page = make_site.first_page(readme, TEXTS[1:])
    assert page.startswith(readme)
    listed = re.findall(r"^(?!The|Beside)[\w/]+$", page.removeprefix(readme), re.MULTILINE)
    wanted = [path.relative_to(ROOT).with_suffix("").as_posix() for path in (*NOTEBOOKS, *TEXTS[1:])]
    assert sorted(listed) == sorted(wanted) and {"data/README", "docs/teachers"} <= set(listed)
    numbered = [name for name in listed if name.startswith(("notebooks/0", "notebooks/1"))]
    assert numbered == sorted(numbered) == listed[: len(numbered)]


# -- one notebook becomes one page ---------------------------------------------------------------------------------


def picture(kind: str, alt: str = "", plain: str = "<Figure>") -> nbformat.NotebookNode:
    count = {"execution_count": 1} if kind == "execute_result" else {}
    metadata = {"image/png": {"alt": alt}} if alt else {}
    return new_output(kind, data={"image/png": PIXEL, "text/plain": plain}, metadata=metadata, **count)


def lesson() -> nbformat.NotebookNode:
    """A title, a cell with two pictures of which the second is a playground, a folded solution."""
    shown = [picture("display_data", alt="One bar."), picture("execute_result", plain="Two bars.")]
    cells = [
        new_markdown_cell("# 00 Bars: how many\n\nCount them. [Others](01_more.ipynb)."),
        new_code_cell("draw()", execution_count=1, outputs=shown),
        new_code_cell("solved = 2", metadata={"jupyter": {"source_hidden": True}, "tags": ["solution"]}),
    ]
    return new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})


def test_a_solution_is_folded_and_a_playground_gets_its_words_printed() -> None:
    nb = lesson()
    make_site.prepare(nb, "00_bars.ipynb", None)
    assert nb.cells[2].metadata["tags"] == ["solution", "hide-input"]
    assert nb.cells[2].metadata["mystnb"] == {"code_prompt_show": "Show the solution"}
    assert [output.output_type for output in nb.cells[1].outputs] == ["display_data", "execute_result", "stream"]
    assert nb.cells[1].outputs[2].text == "Two bars. In JupyterLab, controls change this picture.\n"
    title, _, way, *_ = nb.cells[0].source.split("\n")
    assert title == "# 00 Bars: how many"
    assert "make lab" in way and "(http://localhost:8888/lab/tree/00_bars.ipynb)" in way
    assert "Colab" not in nb.cells[0].source


def test_the_words_of_a_picture_are_one_line_and_what_else_was_printed_stays() -> None:
    words = "Each row asks for its own targets, " * 5 + "and none is asked twice."
    printed = new_output("stream", text=f"before\n{textwrap.fill(words, widgets._LINE)}\nafter\n")
    drawn = picture("display_data", alt=words)
    assert "\n" in printed.text.removeprefix("before\n").removesuffix("\nafter\n"), "show breaks the line"
    _, shown = make_site.with_captions([drawn, printed])
    assert shown.text == f"before\n{words}\nafter\n"


@pytest.mark.parametrize(
    ("url", "public"),
    [
        (URL, URL),
        ("git@github.com:someone/course.git", URL),
        ("https://name:secret@github.com/someone/course.git/", URL),
        ("ssh://git@gitlab.com/someone/course.git", "https://gitlab.com/someone/course"),
        ("https://example.org/someone/course", None),
        ("https://github.com.example.org/someone/course", None),
        ("../course.git", None),
        ("", None),
    ],
)
def test_only_a_public_repository_gets_buttons_and_no_password_gets_out(url: str, public: "str | None") -> None:
    assert make_site.public_address(url) == public


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A course of two notebooks, with the real builder and its settings."""
    root = tmp_path_factory.mktemp("toy")
    shutil.copytree(ROOT / "site", root / "site", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("tools", "notebooks", "data", "docs"):
        (root / folder).mkdir()
    shutil.copy(ROOT / "tools" / "make_site.py", root / "tools")
    written = {
        "README.md": "# Toy\n\n[bars](notebooks/00_bars.ipynb), [licence](LICENSE), [how](HOW.md)\n",
        "HOW.md": "# How\n\n[data](data/README.md), [back](README.md#toy)\n",
        "LICENSE": "free",
        "data/README.md": "# Data\n",
        "docs/teachers.md": "# Teachers\n\n[back](../data/README.md#data)\n",
        "pyproject.toml": f'[project]\nurls = {{ Repository = "{URL}.git" }}\n',
    }
    for name, text in written.items():
        (root / name).write_text(text, encoding="utf-8", newline="\n")
    nbformat.write(lesson(), root / "notebooks" / "00_bars.ipynb")
    more = new_notebook(cells=[new_markdown_cell("# 01 More bars")])
    nbformat.write(more, root / "notebooks" / "01_more.ipynb")
    return root


def test_a_page_shows_pictures_with_their_words_and_buttons_that_open_it(course: Path) -> None:
    out = course / "out"
    done = build(course, out)
    assert done.returncode == 0, done.stderr
    page = (out / "notebooks" / "00_bars.html").read_text(encoding="utf-8")
    assert re.findall(r'<img alt="([^"]+)" src="\.\./_images/', page) == ["One bar.", "Two bars."]
    assert page.count("Show the solution") == 1
    assert f"https://colab.research.google.com/github/{URL[19:]}/blob/main/notebooks/00_bars.ipynb" in page
    assert f"https://mybinder.org/v2/gh/{URL[19:]}/main?urlpath=lab/tree/notebooks/00_bars.ipynb" in page
    assert f"git clone {URL} course" in re.sub(r"<[^>]+>", "", page)
    assert 'href="index.html#toy"' in (out / "HOW.html").read_text(encoding="utf-8")
    stored, offered = course / "notebooks" / "00_bars.ipynb", out / "_sources" / "notebooks" / "00_bars.ipynb"
    assert offered.read_bytes() == stored.read_bytes(), "what is downloaded is the stored notebook"


def test_a_broken_link_stops_the_build_and_other_files_are_left_alone(course: Path) -> None:
    text = course / "docs" / "teachers.md"
    before = text.read_text(encoding="utf-8")
    text.write_text("# Teachers\n\n[gone](../notebooks/99_gone.ipynb)\n", encoding="utf-8", newline="\n")
    try:
        done = build(course, course / "broken")
    finally:
        text.write_text(before, encoding="utf-8", newline="\n")
    assert done.returncode == 1
    assert "docs/teachers.md" in done.stderr.replace("\\", "/") and "99_gone.ipynb" in done.stderr
    with pytest.raises(make_site.SiteError, match="holds other files than a site"):
        make_site.build(course / "docs", None)
    assert text.exists()


# -- the check of the pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("html", "fault"),
    [
        ('<p id="here"></p><a href="#here">x</a><a href="b.html#there">y</a><img src="a.png" alt="A.">', ""),
        ('<a href="https://example.org">elsewhere, when the reader wants it</a>', ""),
        ('<a href="gone.html">x</a>', "index.html: leads nowhere: gone.html"),
        ('<a href="#gone">x</a>', "index.html: there is no such place on the page: #gone"),
        ('<a href="b.html#gone">x</a>', "index.html: there is no such place on the page: b.html#gone"),
        ('<img src="gone.png" alt="A.">', "index.html: leads nowhere: gone.png"),
        ('<img src="a.png">', "index.html: a picture without words: a.png"),
        ('<img src="a.png" alt="">', "index.html: a picture without words: a.png"),
        *(
            (html, f"index.html: comes from a network when shown: {address}")
            for html, address in [
                ('<script src="https://example.org/x.js"></script>', "https://example.org/x.js"),
                ('<link rel="stylesheet" href="//example.org/x.css">', "//example.org/x.css"),
                ('<img alt="A." src="http://example.org/a.png"/>', "http://example.org/a.png"),
            ]
        ),
    ],
)
def test_each_fault_of_a_page_is_found(tmp_path: Path, html: str, fault: str) -> None:
    written = {"index.html": html, "b.html": '<h1 id="there">B</h1>', "a.png": "", "_static/old.html": "<img>"}
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert list(make_site.problems(tmp_path, make_site.read_pages(tmp_path))) == [fault] * bool(fault)


@pytest.mark.parametrize("rule", ["@import 'https://a.org/b.css';", "p { background: url(//a.org/b.png) }"])
def test_a_style_sheet_that_needs_a_network_is_found(tmp_path: Path, rule: str) -> None:
    (tmp_path / "own.css").write_text("p { background: url(b.png) }", encoding="utf-8")
    assert list(make_site.problems(tmp_path, {})) == []
    (tmp_path / "own.css").write_text(rule, encoding="utf-8")
    (found,) = make_site.problems(tmp_path, {})
    assert found.startswith("own.css: comes from a network when shown: ")


# -- the whole course ----------------------------------------------------------------------------------------------


def test_the_course_builds_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    pages = {path.stem for path in (tmp_path / "site" / "notebooks").glob("*.html")}
    assert pages == {path.stem for path in NOTEBOOKS}
    for path in NOTEBOOKS:
        nb = nbformat.read(path, as_version=4)
        page = (tmp_path / "site" / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
        hidden = [cell for cell in nb.cells if cell.metadata.get("jupyter", {}).get("source_hidden")]
        assert page.count("Show the solution") == len(hidden), path.name
        assert "By the MicroTransformer authors" in page and "not set" not in page, path.name
    assert (tmp_path / "site" / "searchindex.js").stat().st_size > 10_000
