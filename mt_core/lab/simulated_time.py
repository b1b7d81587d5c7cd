"""Simulated time: processes that work, share cores and hand each other numbers. Knows nothing of loaders.

A process is a generator. It yields `Work`, and is resumed when the work is done, or a `Queue`, and is resumed with
the next number in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any


class Queue:
    """Holds what one process puts until another takes it: first in, first out. One process takes at a time."""

    def __init__(self) -> None:
        self.items: deque[int] = deque()
        self.taker: Process | None = None


@dataclass
class Work:
    """Work of a process: seconds left to do, and how many cores it keeps busy. 0 cores: it only takes time."""

    left: float
    cores: float
    process: Process | None = None


# A process asks for work to be done, or for the next item of a queue, and is resumed when it has it.
Process = Generator[Work | Queue, Any, None]


class Machine:
    """Runs processes in simulated time. Work that needs cores slows down alike where there are not enough.

    Args:
        cores: that all processes share; None: as many as they want.

    >>> machine, done = Machine(cores=1), []
    >>> def process(name, seconds):
    ...     yield Work(seconds, 1)
    ...     done.append((name, machine.now))
    >>> machine.start(process("long", 3))
    >>> machine.run(process("short", 1))  # each has half of the core
    >>> done
    [('short', 2.0)]
    """

    def __init__(self, cores: float | None) -> None:
        self.cores, self.now = cores, 0.0
        self._working: list[Work] = []
        self._ready: deque[tuple[Process, Any]] = deque()

    def start(self, process: Process) -> None:
        """Let a process begin, once the machine runs."""
        self._ready.append((process, None))

    def put(self, queue: Queue, item: int) -> None:
        """Put a number in a queue; the process that waits for one goes on with it."""
        if queue.taker is None:
            queue.items.append(item)
        else:
            self._ready.append((queue.taker, item))
            queue.taker = None

    def run(self, process: Process) -> None:
        """Start a process and run until it has ended; others may still be at work then."""
        self.start(process)
        while True:
            while self._ready:
                resumed, value = self._ready.popleft()
                if not self._resume(resumed, value) and resumed is process:
                    return
            self._pass_time()

    def _resume(self, process: Process, value: Any) -> bool:
        """Let a process go on until it has to wait. False: it has ended."""
        while True:
            try:
                request = process.send(value)
            except StopIteration:
                return False
            value = None
            if isinstance(request, Work):
                if request.left > 0:
                    request.process = process
                    self._working.append(request)
                    return True
            elif request.items:
                value = request.items.popleft()
            else:
                request.taker = process
                return True

    def _pass_time(self) -> None:
        """To the next moment at which some work is done."""
        wanted = sum(work.cores for work in self._working)
        share = 1.0 if self.cores is None or wanted <= self.cores else self.cores / wanted
        times = [work.left / (share if work.cores else 1.0) for work in self._working]
        passed = min(times)
        self.now += passed
        working = []
        for work, time in zip(self._working, times, strict=True):
            if time - passed <= 1e-12 * self.now:  # done, but for rounding
                assert work.process is not None
                self._ready.append((work.process, None))
            else:
                work.left -= passed * (share if work.cores else 1.0)
                working.append(work)
        self._working = working
