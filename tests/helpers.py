"""What several test files use beside fixtures: a stream of integers, programs of tools/, whether a process lives."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mt_core import TokenStore

ROOT = Path(__file__).resolve().parents[1]
# PyTorch says so where it counts fewer cores than workers; the tests that start workers mean it.
starts_workers = pytest.mark.filterwarnings(r"ignore:This DataLoader will create \d worker processes:UserWarning")


def stream(n_tokens: int) -> TokenStore:
    """The integers 0 to N - 1 as tokens: a token says where it stands."""
    return TokenStore.from_token_ids(range(n_tokens), vocab_size=max(n_tokens, 1))


def load_tool(name: str) -> ModuleType:
    """`tools/<name>.py`, which is no package, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # one that nobody has waited for is dead all the same
    try:
        return not status.exists() or status.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
