"""The course as static pages, from the stored notebooks. Runs no cell, needs no network, changes no notebook.

    python tools/make_site.py [--out DIR]    into runs/site by default; open index.html there

Pages are made by Sphinx with MyST-NB and the theme of Jupyter Book, as site/conf.py says. What is done here: the
README becomes the first page, the words of each picture its alternative text, a folded solution a folded cell.
Then every link is followed: the program fails if one leads nowhere, or if a page needs a network to be shown.
"""

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
from docutils import nodes
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.console import strip_escape_sequences as remove_ansi

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "runs" / "site"
LAB = "http://localhost:8888/lab/tree"  # where `make lab` serves notebooks/, if nothing else has the port
PRINTED = 110  # characters of a line of a caption, as widgets.show prints it; a page may hold fewer
LINK = re.compile(r"(?<=\]\()[^)\s#]+")
FOLDED = "Show the solution"
HOSTS = ("github.com", "gitlab.com")


class SiteError(Exception):
    """The pages are not made, or not sound; the message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Build and check; returns the exit status, 1 if the pages are not sound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="the folder for the pages (default: runs/site)")
    out = parser.parse_args(arguments).out.resolve()
    try:
        url = repository()
        if url is None:
            print("Without buttons for Colab and Binder: pyproject.toml names no repository, nor does git.")
        build(out, url)
        pages = read_pages(out)
        if found := list(problems(out, pages)):
            raise SiteError("\n".join([f"{len(found)} faults in the pages:", *found]))
    except SiteError as error:
        print(f"make_site.py: {error}", file=sys.stderr)
        return 1
    n_links = sum(len(page.references) for page in pages.values())
    print(f"{len(pages)} pages, {n_links} links followed, nothing from a network. Open {out / 'index.html'}")
    return 0


# -- what goes into the pages ------------------------------------------------------------------------------------


def build(out: Path, url: str | None) -> None:
    """Make the pages in `out` anew, with buttons that open the repository at `url` if there is one.

    Raises SiteError if Sphinx warns, or if `out` holds something else.
    """
    if out.exists() and any(out.iterdir()) and not (out / "objects.inv").exists():
        raise SiteError(f"{out} holds other files than a site: name an empty folder with --out")
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="mt-site-") as folder:
        source, trees = Path(folder) / "source", Path(folder) / "trees"
        lay_out(source, url)
        settings = {"html_theme_options": theme_options(url), "root_doc": "index"}
        said = io.StringIO()
        try:
            app = Sphinx(source, ROOT / "site", out, trees, "html", settings, status=None, warning=said, freshenv=True)
            app.connect("doctree-read", lambda app, tree: put_words(tree, Path(app.env.doc2path(app.env.docname))))
            app.build()
        except SphinxError as error:
            raise SiteError(str(error)) from error
        if warnings := remove_ansi(said.getvalue()).replace(f"{source}{os.sep}", ""):
            raise SiteError(f"Sphinx is not content (in a notebook, line 450028 is line 28 of cell 45):\n{warnings}")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):  # what is downloaded is the notebook as it is stored
        shutil.copyfile(path, out / "_sources" / "notebooks" / path.name)


def lay_out(source: Path, url: str | None) -> None:
    """Write everything that becomes a page, and what these link to, into `source`, at the same places as here."""
    notebooks, texts = sorted((ROOT / "notebooks").glob("*.ipynb")), texts_of_the_course()
    linked: set[Path] = set()
    for path in (*notebooks, *texts):
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".ipynb":
            nb = nbformat.read(path, as_version=4)
            for cell in nb.cells:
                if cell.cell_type == "markdown":
                    linked |= set(linked_files(cell.source, path.parent))
                    cell.source = to_first_page(cell.source, path.parent)
            prepare(nb, path.name, url)
            nbformat.write(nb, target)
        else:
            prose = path.read_text(encoding="utf-8")
            linked |= set(linked_files(prose, path.parent))
            target.write_text(to_first_page(prose, path.parent), encoding="utf-8", newline="\n")
    for path in linked - {*notebooks, *texts}:
        beside = source / path.relative_to(ROOT)
        beside.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, beside)
    readme = (source / "README.md").read_text(encoding="utf-8")
    (source / "index.md").write_text(first_page(readme, texts[1:]), encoding="utf-8", newline="\n")
    (source / "README.md").unlink()


def texts_of_the_course() -> list[Path]:
    """README.md, what lies in docs/, and every text that one of these links to."""
    texts = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for path in texts:  # grows while it is walked through
        linked = dict.fromkeys(linked_files(path.read_text(encoding="utf-8"), path.parent))
        texts += [text for text in linked if text.suffix == ".md" and text not in texts]
    return texts


def linked_files(prose: str, folder: Path) -> Iterator[Path]:
    """The files of this repository that a text in `folder` links to."""
    for link in LINK.findall(prose):
        path = (folder / unquote(link)).resolve()
        if "://" not in link and path.is_file() and path.is_relative_to(ROOT):
            yield path


def to_first_page(prose: str, folder: Path) -> str:
    """A text in `folder` with its links to README.md led to the page that the README becomes."""

    def lead(found: re.Match[str]) -> str:
        is_readme = (folder / found[0]).resolve() == ROOT / "README.md"
        return found[0].removesuffix("README.md") + "index.md" if is_readme else found[0]

    return LINK.sub(lead, prose)


def first_page(readme: str, texts: Sequence[Path]) -> str:
    """The README, and the list of all pages for the side bar: the course in the order of the README's table."""
    linked = re.findall(r"\((notebooks/\w+)\.ipynb\)", readme)
    stored = sorted(f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb"))
    linked = [name for name in dict.fromkeys([*linked, *stored]) if name in stored]
    course = [name for name in linked if name.split("/")[1][0].isdigit()]
    beside = [name for name in linked if name not in course]
    beside += [path.relative_to(ROOT).with_suffix("").as_posix() for path in texts]
    return readme + "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{chr(10).join(names)}\n```\n"
        for caption, names in (("The course", course), ("Beside it", beside))
    )


def prepare(nb: NotebookNode, name: str, url: str | None) -> None:
    """Make a stored notebook ready for the page: where to run it, folded solutions, captions for playgrounds."""
    nb.metadata.setdefault("language_info", {"name": "python"})  # a draft has none
    title, _, rest = nb.cells[0].source.partition("\n")
    nb.cells[0].source = f"{title}\n\n{how_to_run(name, url)}\n{rest}"
    for cell in nb.cells:
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-input"]
            cell.metadata["mystnb"] = {**cell.metadata.get("mystnb", {}), "code_prompt_show": FOLDED}
        if cell.cell_type == "code":
            cell.outputs = list(with_captions(cell.outputs))


def how_to_run(name: str, url: str | None) -> str:
    """A line for the top of a notebook's page; in Colab the course has to be fetched first."""
    way = "`make lab`, or `python start.py lab`"
    words = f"*To run it:* {way}. While that is open: [this notebook in JupyterLab]({LAB}/{name}).\n"
    if url and urlsplit(url).hostname == "github.com":
        words += (
            "<details><summary>In Colab, run this first</summary>\n\n"
            f'```ipython3\n%cd /content\n!git clone {url} course\n%cd course/notebooks\n%pip install -q -e "..[lab]"\n'
            'import sys; sys.path.insert(0, "..")\n```\n\n'
            "If Colab asks to restart the session, let it, and run this once more.\n\n</details>\n"
        )
    return words


def with_captions(outputs: Sequence[NotebookNode]) -> Iterator[NotebookNode]:
    """A cell's outputs, the words of each picture under it in one piece, so that the page breaks their lines.

    `show` has printed them, in lines for JupyterLab; those of a playground are added.
    """
    words = ""
    for output in outputs:
        if words and output.output_type == "stream":
            output.text = output.text.replace(textwrap.fill(words, PRINTED), words)
        yield output
        if "image/png" in output.get("data", {}):
            words = words_of(output)
        if words and output.output_type == "execute_result":
            said = f"{words} In JupyterLab, controls change this picture.\n"
            yield nbformat.v4.new_output("stream", name="stdout", text=said)


def words_of(output: NotebookNode) -> str:
    """What a stored picture shows, in words: the picture's own `alt`, or its plain text."""
    alt = output.metadata.get("image/png", {}).get("alt")
    return str(alt or output.data.get("text/plain", "").removeprefix("figure: "))


def put_words(tree: nodes.document, path: Path) -> None:
    """Give each picture in the outputs of the notebook at `path` its words as alternative text."""
    if path.suffix != ".ipynb":
        return
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    outputs = [output for output in outputs if "image/png" in output.get("data", {})]
    shown = [image for image in tree.findall(nodes.image) if str(image["uri"]).endswith(".png") and in_output(image)]
    if len(shown) != len(outputs):
        raise SiteError(f"{path.name} stores {len(outputs)} pictures, its page shows {len(shown)}")
    for image, output in zip(shown, outputs, strict=True):
        image["alt"] = words_of(output)


def in_output(node: nodes.Node) -> bool:
    """Whether a node stands in the output of a cell."""
    while node.parent is not None:
        node = node.parent
        if "cell_output" in getattr(node, "attributes", {}).get("classes", []):
            return True
    return False


def theme_options(url: str | None) -> dict[str, Any]:
    """The theme's options of site/conf.py, and the buttons that need a repository."""
    settings: dict[str, Any] = {}
    exec((ROOT / "site" / "conf.py").read_text(encoding="utf-8"), settings)
    options = settings["html_theme_options"]
    if url is not None:
        buttons = {"binderhub_url": "https://mybinder.org", "notebook_interface": "jupyterlab"}
        if urlsplit(url).hostname == "github.com":
            buttons["colab_url"] = "https://colab.research.google.com"
        options |= {"repository_url": url, "repository_branch": "main", "launch_buttons": buttons}
        options |= {"use_repository_button": True}
    return options


def repository() -> str | None:
    """The address of the public repository: what pyproject.toml says, else git's `origin`; None if neither does."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    said = list(project.get("urls", {}).values())
    try:
        command = ["git", "-C", str(ROOT), "remote", "get-url", "origin"]
        said.append(subprocess.run(command, capture_output=True, encoding="utf-8").stdout.strip())
    except OSError:  # no git here
        pass
    return next((url for url in map(public_address, said) if url), None)


def public_address(url: str) -> str | None:
    """`url` as people open it, without a name or a password in it; None if it is no repository on a known host."""
    path = r"([\w.-]+/[\w.-]+?)(?:\.git)?/?$"
    for host in HOSTS:
        if found := re.match(rf"(?:https://(?:[^@/]*@)?|ssh://git@|git@){re.escape(host)}[:/]{path}", url):
            return f"https://{host}/{found[1]}"
    return None


# -- whether they are sound --------------------------------------------------------------------------------------

FETCHED = {  # what a browser fetches by itself when it shows a page
    "audio": "src",
    "embed": "src",
    "iframe": "src",
    "img": "src",
    "link": "href",
    "object": "data",
    "script": "src",
    "source": "src",
    "video": "src",
}
ELSEWHERE = re.compile(r"(?:@import\s+|url\()[\"']?((?:https?:)?//[^\"')]+)")  # in a style sheet


@dataclass
class Page(HTMLParser):
    """What a page of HTML refers to: `fetched` when it is shown, `references` when the reader follows them."""

    ids: set[str] = field(default_factory=set)
    fetched: list[str] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    wordless: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        got = dict(attrs)
        self.ids |= {name for name in (got.get("id"), got.get("name") if tag == "a" else None) if name}
        if address := got.get(FETCHED.get(tag, "")):
            self.fetched.append(address)
        if tag == "a" and (address := got.get("href")):
            self.references.append(address)
        if tag == "img" and not got.get("alt") and got.get("aria-hidden") != "true":
            self.wordless.append(got.get("src") or "")


def read_pages(out: Path) -> dict[Path, Page]:
    """Every page in `out`, parsed."""
    pages = {}
    for path in sorted(out.rglob("*.html")):
        if "_static" not in path.relative_to(out).parts:
            pages[path] = Page()
            pages[path].feed(path.read_text(encoding="utf-8"))
    return pages


def problems(out: Path, pages: dict[Path, Page]) -> Iterator[str]:
    """Links that lead nowhere, things that would come from a network, pictures without words."""
    for path, page in pages.items():
        name = path.relative_to(out).as_posix()
        for address in (*page.fetched, *page.references):
            parts = urlsplit(address)
            if parts.scheme in ("data", "mailto"):
                continue
            if parts.scheme or parts.netloc:
                if address in page.fetched:
                    yield f"{name}: comes from a network when shown: {address}"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                yield f"{name}: leads nowhere: {address}"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                yield f"{name}: there is no such place on the page: {address}"
        yield from (f"{name}: a picture without words: {source}" for source in page.wordless)
    for path in sorted(out.rglob("*.css")):
        for address in ELSEWHERE.findall(path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(out).as_posix()}: comes from a network when shown: {address}"


if __name__ == "__main__":
    sys.exit(main())
