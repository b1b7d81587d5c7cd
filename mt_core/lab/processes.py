"""Several processes from one notebook: starts them, waits, brings back what each returns. Leaves none behind.

Each process finds in its environment what `torchrun` would have put there, so a function runs here as it runs there.
They meet on a free port of this machine that the system chooses, and talk over gloo.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_HOST = "127.0.0.1"


class ProcessError(RuntimeError):
    """A process stopped with an error, was killed, or took too long. All of them have ended."""


def run(function: Callable[..., Any], n: int, *, time_limit: float = 120.0, **settings: Any) -> list[Any]:
    """Call `function(**settings)` in n new processes at once; what each returned, by rank.

    In each, `torch.distributed` runs, with gloo on the processor and one thread for arithmetic.

    Args:
        function: of a module that other processes can import; it returns what JSON can hold.
        n: how many processes.
        time_limit: seconds until they are ended, starting them included.
        settings: what JSON can hold.

    Raises:
        ValueError: another number than a whole one from 1, or a function that cannot be imported by its name.
        ProcessError: see there. Its message holds the first error of any process.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n={n!r}, a whole number of processes from 1 is needed")
    name = f"{function.__module__}:{function.__qualname__}"
    if function.__module__ == "__main__" or not function.__qualname__.isidentifier():
        raise ValueError(f"{name} cannot be imported by another process: put the function into a module, at its top")
    from torch.distributed import TCPStore  # takes seconds, and the watch of a new process should begin before

    store = TCPStore(_HOST, 0, is_master=True, wait_for_workers=False, use_libuv=sys.platform != "win32")
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="mt-processes-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        task = {"function": name, "settings": settings, "time_limit": time_limit, "parent": os.getpid()}
        _write(folder / "task.json", task)
        command = [sys.executable, "-m", __name__, str(folder)]
        new_group = sys.platform != "win32"  # which is then ended as a whole
        nowhere = subprocess.DEVNULL
        try:
            for rank in range(n):
                env = _environment(rank, n, store.port)
                process = subprocess.Popen(
                    command, env=env, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=new_group
                )
                started.append(process)
            _wait(started, folder, function.__name__, time_limit)
        finally:
            for process in started:
                _end(process)
        return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(n)]


def _environment(rank: int, n: int, port: int) -> dict[str, str]:
    """What tells a process which one it is, of how many, and where the others are to be met."""
    own = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n)}
    own |= {"MASTER_ADDR": _HOST, "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    own |= {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for name in ("GROUP_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT", "PYTEST_CURRENT_TEST"):
        own.pop(name, None)
    for interface in ("lo", "lo0"):  # this machine's way to itself on Linux and macOS: no name has to be looked up
        if interface in {known for _, known in socket.if_nameindex()}:
            own.setdefault("GLOO_SOCKET_IFNAME", interface)
    return own


def _wait(started: list[subprocess.Popen[bytes]], folder: Path, name: str, time_limit: float) -> None:
    """Return when all have ended well, and raise as soon as one has not, or time is up."""
    end = time.monotonic() + time_limit
    while True:
        codes = [process.poll() for process in started]
        failed = [rank for rank, code in enumerate(codes) if code not in (None, 0)]
        if failed:
            error = folder / "error.txt"
            said = error.read_text(encoding="utf-8") if error.exists() else ""
            said = said or f"process {failed[0]} of {len(codes)} was ended with exit code {codes[failed[0]]}"
            raise ProcessError(f"{name}: {said}")
        running = [rank for rank, code in enumerate(codes) if code is None]
        if not running:
            return
        if time.monotonic() > end:
            raise ProcessError(
                f"{name}: after {time_limit:g} seconds {len(running)} of {len(codes)} processes still ran, and were "
                "ended: they may have waited for each other; else raise time_limit"
            )
        time.sleep(0.02)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Make sure that a process, and what it started, runs no more."""
    if sys.platform != "win32":
        with suppress(ProcessLookupError, PermissionError):  # it is over
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


# -- in a new process ------------------------------------------------------------------------------------------


def _end_with_parent(parent: int) -> None:
    """Wait until the process that started this one has ended, however it ended, and end too."""
    if sys.platform == "win32":
        import _winapi

        with suppress(OSError):  # it has ended already
            _winapi.WaitForSingleObject(_winapi.OpenProcess(_winapi.SYNCHRONIZE, False, parent), _winapi.INFINITE)
    else:
        while os.getppid() == parent:
            time.sleep(0.2)
    os._exit(1)


def _main(folder: Path) -> None:
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    threading.Thread(target=_end_with_parent, args=(task["parent"],), name="end with parent", daemon=True).start()
    rank, n = os.environ["RANK"], os.environ["WORLD_SIZE"]
    try:
        from mt_core.distributed import processes

        module, _, name = task["function"].partition(":")
        function = getattr(importlib.import_module(module), name)
        with processes("cpu", timeout_minutes=task["time_limit"] / 60):
            _write(folder / f"{rank}.json", function(**task["settings"]))
    except BaseException as error:
        with suppress(FileExistsError):  # the first one counts: others may have failed because of it
            (folder / "error.txt").touch(exist_ok=False)
            first = f"process {rank} of {n} stopped with {type(error).__name__}: {error}"
            (folder / "error.txt").write_text(first, encoding="utf-8", newline="\n")
        raise


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
