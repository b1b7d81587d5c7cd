"""Processes to be killed in the middle of their work, which go on when started again. Compares nothing.

The work stands in a module so that a new process can import it, and so can the notebook, to do it undisturbed.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mt_core.model import MicroTransformer
from mt_core.recipe import TrainConfig
from mt_core.records import History, read_log
from mt_core.token_loader import TokenLoader
from mt_core.training import training_steps
from mt_core.workers import choose_workers, end_with_parent, main_module_hidden

_POLL_SECONDS = 0.002
_SECONDS = 200  # most that a process may take until it is killed; on a busy machine starting takes long


def deliver(path: Path, dataset: Any, *, pause: float = 0.0, **workers: Any) -> None:
    """Read one epoch, a line of JSON for each batch. Goes on after the last whole line of the file."""
    loader = create_loader(dataset, **workers)
    records = cut_and_read(path)
    if records:
        loader.load_state_dict(records[-1]["state"])
    if records and loader.state_dict()["epoch"] > 0:
        return  # the epoch was read to its end
    with path.open("a", encoding="utf-8", newline="\n", buffering=1) as file:
        for batch in loader:
            ids = torch.stack((batch["input_ids"], batch["labels"])).numpy().tobytes()
            rows = batch["provenance"][:, 0].tolist()
            record = {"rows": rows, "sha256": hashlib.sha256(ids).hexdigest(), "state": loader.state_dict()}
            file.write(json.dumps(record) + "\n")
            time.sleep(pause)  # in place of a training step


def train(run_dir: Path, dataset: Any, config: TrainConfig, *, pause: float = 0.0, **workers: Any) -> list[float]:
    """Train a small model in a folder, from the checkpoint there if there is one; the loss of each step."""
    torch.manual_seed(0)
    model = MicroTransformer(vocab_size=dataset.store.vocab_size, n_layer=1, n_embd=32)
    for _ in training_steps(model, create_loader(dataset, **workers), None, config, run_dir=run_dir):
        time.sleep(pause)
    return [step.loss for step in History.read(run_dir).steps]


def create_loader(dataset: Any, **workers: Any) -> TokenLoader:
    """The loader of both: 16 rows a batch, shuffled with seed 13. Workers are started on Windows, too."""
    if sys.platform == "win32" and workers.get("num_workers"):
        workers["start_method"] = "spawn"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # where there is one processor only
        return TokenLoader(dataset, batch_size=16, shuffle=True, drop_last=True, seed=13, **workers)


def cut_and_read(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines; a last line without its end is cut off the file. No file, no records."""
    if not path.exists():
        return []
    with path.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
    return read_log(path)


def kill_when(n_lines: int, path: Path, job: Callable[..., Any], *arguments: Any, **settings: Any) -> int:
    """Run `job(*arguments, **settings)` in a process of its own and kill it when a file has some whole lines.

    The process gets no chance to put anything in order (SIGKILL, TerminateProcess on Windows). Its workers end with
    it, and it ends with the process that called.

    Args:
        n_lines: how many lines; the process goes on writing until it is dead, so a few more may be there.
        path: the file that it writes, which need not exist yet.
        job: a function of a module, as a new process has to import it.

    Returns:
        Whole lines in the file after the death.

    Raises:
        RuntimeError: the process came to its end before it had written so many lines, or was too slow.
    """
    method = choose_workers(1).start_method or "spawn"
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":  # torch is imported once, not in each process; optimizers import the second
        context.set_forkserver_preload([__name__, "torch._dynamo"])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        complaints = Path(folder) / "stderr.txt"
        process = context.Process(target=_work, args=(complaints, job, arguments, settings))
        with main_module_hidden((job, arguments, settings)):
            process.start()
        try:
            deadline = time.monotonic() + _SECONDS
            while _count_lines(path) < n_lines and process.is_alive() and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
            ended = process.exitcode
        finally:
            process.kill()
            process.join()
            process.close()
        found = _count_lines(path)
        if ended is None and found >= n_lines:
            return found
        how = f"was too slow ({_SECONDS} s)" if ended is None else f"ended by itself with exit code {ended}"
        said = complaints.read_text(encoding="utf-8", errors="replace").strip() if complaints.exists() else ""
        said = f": {said.splitlines()[-1]}" if said else ""
        raise RuntimeError(f"the process {how} and {found} lines, it was to be killed at {n_lines}{said}")


def _work(complaints: Path, job: Callable[..., Any], arguments: tuple[Any, ...], settings: dict[str, Any]) -> None:
    end_with_parent(0)
    # A worker whose parent is killed in the middle of a word may say so. That belongs into no notebook.
    file = os.open(complaints, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 2)
    os.close(file)
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False)
    torch.set_num_threads(1)
    job(*arguments, **settings)


def _count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
