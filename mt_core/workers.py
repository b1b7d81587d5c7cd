"""How many worker processes, how they start, whether to pin: the policy of our loaders. Starts nothing by itself."""

from __future__ import annotations

import multiprocessing.connection
import os
import pickle
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from mt_core.arguments import check_count, check_flag

_START_METHODS = ("forkserver", "spawn")
_MOST_WORKERS = 4096


@dataclass(frozen=True, kw_only=True)
class WorkerPolicy:
    """How many worker processes are used, how they start, and why."""

    num_workers: int
    start_method: str | None
    reason: str


def choose_workers(num_workers: int, *, start_method: str | None = None, system: str = sys.platform) -> WorkerPolicy:
    """The worker policy: never plain fork, and no workers on Windows unless a start method is named.

    Args:
        num_workers: how many are asked for, from 0.
        start_method: "forkserver" or "spawn"; None chooses for the system.
        system: as `sys.platform`.

    Raises:
        ValueError: a negative number, or a start method that is not safe or not there.

    >>> choose_workers(4, system="linux").start_method
    'forkserver'
    """
    check_count("num_workers", num_workers, 0, _MOST_WORKERS)
    if isinstance(start_method, str) and start_method == "fork":
        raise ValueError(
            "start_method='fork' copies a process in the middle of whatever its threads are doing and can hang: "
            "use 'forkserver' or 'spawn'"
        )
    if start_method is not None and (not isinstance(start_method, str) or start_method not in _START_METHODS):
        raise ValueError(f"start_method={start_method!r}, it must be one of {', '.join(_START_METHODS)}")
    if num_workers == 0:
        return WorkerPolicy(num_workers=0, start_method=None, reason="batches are built in the main process")
    if system == "win32":
        if start_method is None:
            reason = (
                f"{num_workers} workers were asked for, 0 are used: on Windows starting each costs seconds. "
                "Pass start_method='spawn' to have them"
            )
            return WorkerPolicy(num_workers=0, start_method=None, reason=reason)
        start_method = "spawn"  # the one method Windows has
    method = start_method or ("spawn" if system == "darwin" else "forkserver")
    reason = f"{num_workers} workers, each started by {method}: a clean process, not a copy of this one"
    return WorkerPolicy(num_workers=num_workers, start_method=method, reason=reason)


def choose_pinning(pin_memory: bool | None) -> bool:
    """Whether to page-lock batches: where an accelerator copies from them, unless told not to.

    Raises:
        ValueError: neither True, False nor None.
    """
    if pin_memory is not None:
        check_flag("pin_memory", pin_memory)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    helps = accelerator is not None and accelerator.type != "mps"  # Apple's memory is shared: nothing to copy
    return helps if pin_memory is None else pin_memory and helps


@contextmanager
def main_module_hidden(sent: object) -> Iterator[None]:
    """Start workers without their importing the program's main file again.

    A worker that is not forked imports the file of `__main__` first, which runs a script without an
    `if __name__ == "__main__":` guard once more. Our workers need nothing from it, unless what is sent to
    them was defined there.
    """
    main = sys.modules["__main__"]
    if b"__main__" in pickle.dumps(sent):
        yield
        return
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def end_with_parent(worker: int) -> None:
    """Called in a new worker: if the process that started it is killed, the worker ends too.

    PyTorch's own watch looks at the operating system's parent, which under forkserver is the server, and that lives on.
    """
    parent = multiprocessing.parent_process()
    if parent is None:  # not a worker
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
