"""A device that copies by itself, and late: what an asynchronous copy does to a buffer. Measures no time.

The engine is a thread. It puts a copy off until `behind` later ones were asked for, or until somebody waits for it,
so what goes wrong goes wrong the same way each time. Its methods have the names of CUDA streams and events.
"""

from __future__ import annotations

import threading
from collections import deque
from queue import Queue
from types import TracebackType
from typing import Self

import torch
from torch import Tensor


class Event:
    """A mark between an engine's copies: reached when all copies that were asked for before it are made."""

    def __init__(self, engine: CopyEngine, n_copies: int) -> None:
        self._engine, self._n_copies = engine, n_copies

    def query(self) -> bool:
        """Whether it is reached; does not wait."""
        return self._engine.n_made >= self._n_copies

    def synchronize(self) -> None:
        """Wait until it is reached."""
        if not self.query():
            self._engine.n_waits += 1
            self._engine._make(self._n_copies)


class CopyEngine:
    """Copies tensors in the order they are asked for, but not at once.

    Args:
        behind: how many copies, at most, are asked for and not made when `copy` returns; 0 makes each at once.

    Attributes:
        n_asked, n_made: copies asked for, and made.
        n_waits: how often somebody had to wait, for an event or for the engine.

    >>> with CopyEngine(behind=1) as engine:
    ...     buffer = torch.tensor([1, 2, 3])
    ...     arrives = engine.copy(buffer)
    ...     _ = buffer.fill_(0)  # too early
    ...     engine.synchronize()
    >>> arrives.tolist()
    [0, 0, 0]
    """

    def __init__(self, behind: int = 1) -> None:
        if isinstance(behind, bool) or not isinstance(behind, int) or behind < 0:
            raise ValueError(f"behind={behind!r}, a whole number from 0 is needed")
        self.behind = behind
        self.n_asked = self.n_made = self.n_waits = 0
        self._put_off: deque[tuple[Tensor, Tensor]] = deque()
        self._tasks: Queue[tuple[Tensor, Tensor, threading.Event] | None] = Queue()
        self._thread = threading.Thread(target=self._work, name="copy engine", daemon=True)
        self._thread.start()

    def buffer(self, like: Tensor) -> Tensor:
        """An uninitialised tensor on the host's side, of the shape and type of `like`, to copy from."""
        return torch.empty_like(like)

    def copy(self, source: Tensor) -> Tensor:
        """Ask for a copy and come back. The tensor that is returned holds nothing until the copy is made."""
        if not isinstance(source, Tensor):
            raise TypeError(f"a tensor is needed, got {type(source).__name__}: copy a batch tensor by tensor")
        target = torch.zeros_like(source)
        self._put_off.append((source, target))
        self.n_asked += 1
        self._make(self.n_asked - self.behind)
        return target

    def record_event(self) -> Event:
        """An event that is reached when all copies asked for so far are made."""
        return Event(self, self.n_asked)

    def synchronize(self) -> None:
        """Wait until all copies asked for are made."""
        self.record_event().synchronize()

    def _make(self, n_copies: int) -> None:
        """Have the thread make the copies up to this number, and wait for it: no race decides what it reads."""
        while self.n_made < n_copies:
            done = threading.Event()
            self._tasks.put((*self._put_off.popleft(), done))
            done.wait()
            self.n_made += 1

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            source, target, done = task
            target.copy_(source)
            done.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Make what is left, if all went well, and end the thread."""
        if error is None:
            self.synchronize()
        self._tasks.put(None)
        self._thread.join()
