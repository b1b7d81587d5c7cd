"""Pages of the built site in a real browser: they need no network, can be read by ear, and are used by keyboard.

tests/test_site.py follows the links. Pictures of these pages, light and dark, are left in runs/browser/site/.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("index.html", "notebooks/03_alignment.html", "notebooks/gallery.html", "search.html")
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
SIZES = {"light": (1200, 900), "dark": (420, 900)}  # a desk and a telephone
pytestmark = pytest.mark.xdist_group("site")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The course, built."""
    out = tmp_path_factory.mktemp("built") / "site"
    subprocess.run([sys.executable, "tools/make_site.py", "--out", str(out)], cwd=ROOT, check=True)
    return out


@pytest.fixture
def show(site: Path, browser: Browser) -> Iterator[Callable[..., Page]]:
    """`show(name, scheme)` opens a page from disk; nothing may come from elsewhere, no script may fail."""
    contexts, wrong = [], []

    def show(name: str, scheme: str = "light") -> Page:
        width, height = SIZES[scheme]
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else wrong.append(r.url))
        # On a page from disk the search cannot fetch the lines around what it found; it lists the pages all the same.
        page.on("pageerror", lambda e: None if e.message == "Failed to fetch" else wrong.append(e.message))
        page.goto((site / name).as_uri())
        page.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'")
        return page

    yield show
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.mark.parametrize("scheme", SIZES)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_seen_and_read_by_ear(show: Callable[..., Page], name: str, scheme: str) -> None:
    page = show(name, scheme)
    folder = ROOT / "runs" / "browser" / "site"
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{Path(name).stem}_{scheme}.png")
    broken = "es => es.filter(e => e.complete && !e.naturalWidth).map(e => e.src)"
    assert page.locator("main img").evaluate_all(broken) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the window"
    found = Axe().run(page, options=RULES).response["violations"]
    said = [f"{rule['id']}: {node['html'][:160]}" for rule in found for node in rule["nodes"]]
    assert said == []


def test_the_keyboard_skips_to_the_text_and_opens_a_solution(show: Callable[..., Page]) -> None:
    page = show("notebooks/03_alignment.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Skip to main content"
    assert page.locator("[tabindex]").evaluate_all("es => es.filter(e => e.tabIndex > 0).length") == 0
    folded = page.locator("details", has_text="Show the solution").first
    folded.locator("summary").focus()
    assert folded.get_attribute("open") is None
    page.keyboard.press("Enter")
    assert folded.get_attribute("open") is not None


def test_what_has_the_focus_can_be_seen(show: Callable[..., Page]) -> None:
    page = show("index.html")
    seen = "() => {const s = getComputedStyle(document.activeElement); return s.outlineStyle + s.boxShadow + s.top}"
    for _ in range(12):
        page.keyboard.press("Tab")
        page.wait_for_timeout(250)  # a shadow fades in
        style, name = page.evaluate(seen), page.evaluate("document.activeElement.innerText")
        assert "solid" in style or ("rgb" in style and "rgba(0, 0, 0, 0)" not in style), f"{name!r}: {style}"


def test_the_search_finds_a_notebook_without_a_server(show: Callable[..., Page]) -> None:
    page = show("index.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("causal mask")
    page.keyboard.press("Enter")
    page.locator("#search-results li a", has_text="03 Alignment").first.wait_for()
