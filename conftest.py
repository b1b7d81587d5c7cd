"""Settings every test run shares, `pytest --nbval` included. Holds no tests and no fixtures of one module."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

CELL_TIMEOUT = 300  # seconds; nbval's own default is 2000

# Before anything imports torch: on tensors as small as ours a second thread costs more than it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Plots draw into memory; notebooks run on this interpreter's kernel, undisturbed by personal settings."""
    os.environ.pop("MPLBACKEND", None)  # kernels then choose their inline pictures, whatever the shell says
    try:
        import matplotlib
    except ImportError:  # `pytest tests/` works without the lab; its own tests then say what is missing
        pass
    else:
        matplotlib.use("agg")
    option = config.option
    if not (getattr(option, "nbval", False) or getattr(option, "nbval_lax", False)):
        return
    option.nbval_current_env = option.nbval_kernel_name is None
    option.nbval_sanitize_with = option.nbval_sanitize_with or str(Path(__file__).parent / "tests" / "nbval.cfg")
    option.nbval_cell_timeout = min(option.nbval_cell_timeout, CELL_TIMEOUT)
    if "IPYTHONDIR" not in os.environ:  # no one's start-up files, and no shared history file to fight over
        folder = tempfile.mkdtemp(prefix="mt-ipython-")
        os.environ["IPYTHONDIR"] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    import matplotlib.font_manager  # builds the font cache here rather than in a compared cell


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """A stored cell that never ran has nothing to compare with: nbval would pass it, so it fails here.

    It still runs, so that the cells below it fail only for reasons of their own.
    """
    yield
    cell = getattr(item, "cell", None)
    if cell is not None and cell.execution_count is None:
        message = f"this cell was never run, so nothing is compared: python tools/nbrun.py {item.path}"
        pytest.fail(message, pytrace=False)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """nbval leaves the null device open in each kernel it starts; only there that warning is no error."""
    for item in items:
        if hasattr(item, "cell"):
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed file.*:ResourceWarning"))
