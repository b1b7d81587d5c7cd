"""A browser, a JupyterLab and one open notebook for the tests here. Installs nothing and asserts nothing.

`make test` does not come here (norecursedirs in pyproject.toml): these tests need a browser. They run on a copy
of the course, with a JupyterLab that knows no one's settings.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from opened import Opened
from playwright.sync_api import Browser, BrowserType, Error, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "msedge")
NO_BROWSER = (
    "no Chromium found: neither $CHROMIUM, nor Playwright's own, nor chromium, Chrome or Edge on this machine.\n"
    "Get one with `python -m playwright install chromium` (in .venv), or install Chromium, Chrome or Edge,\n"
    "or set CHROMIUM to the program."
)
START_SECONDS = 120


def launch(chromium: BrowserType) -> Browser:
    """The first browser there is: $CHROMIUM, Playwright's own, one on PATH, Chrome or Edge where they install."""
    if named := os.environ.get("CHROMIUM"):
        if not (found := shutil.which(named)):
            pytest.fail(f"CHROMIUM is {named!r}, which is no program: correct it or unset it", pytrace=False)
        return chromium.launch(executable_path=found)
    if Path(chromium.executable_path).exists():
        return chromium.launch()
    if found := next(filter(None, map(shutil.which, NAMES)), None):
        return chromium.launch(executable_path=found)
    for channel in ("chrome", "msedge"):
        try:
            return chromium.launch(channel=channel)
        except Error:
            continue
    pytest.fail(NO_BROWSER, pytrace=False)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        browser = launch(playwright.chromium)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab over a copy of notebooks/, with a copy of data/ beside it."""
    root = tmp_path_factory.mktemp("lab")
    for folder in ("notebooks", "data"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns(".mt_cache", ".ipynb_checkpoints"))
    settings = root / "config" / "labconfig" / "page_config.json"
    settings.parent.mkdir(parents=True)
    no_news = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    settings.write_text(json.dumps(no_news), encoding="utf-8")
    own = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "share", "JUPYTER_RUNTIME_DIR": "runtime"}
    own |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython"}
    env = {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(root / folder) for name, folder in own.items()}}
    for name in ("PYTEST_CURRENT_TEST", "MPLBACKEND"):  # a kernel behaves otherwise where it sees them
        env.pop(name, None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"]
    command += [f"--ServerApp.root_dir={root / 'notebooks'}"]
    with (root / "lab.log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(command, cwd=root, env=env, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/api/status", server, root / "lab.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the server answers; fail with its log when it ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(address, timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')}", pytrace=False)


# The tests of one notebook share its page, so they belong into one process of `pytest -n 2 --dist loadgroup`.
@pytest.fixture(
    scope="module",
    params=[pytest.param(path, marks=pytest.mark.xdist_group(path.stem), id=path.stem) for path in NOTEBOOKS],
)
def opened(request: pytest.FixtureRequest, lab: str, browser: Browser) -> Iterator[Opened]:
    """A notebook in JupyterLab, as a reader finds it, run once from the top; the tests take it in order."""
    pictures = ROOT / "runs" / "browser" / request.param.stem
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir(parents=True)
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    notebook = Opened(context.new_page(), lab, request.param.name, pictures)
    yield notebook
    notebook.shut_down()
    context.close()
