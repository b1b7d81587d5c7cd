"""An exhibit about copies that are still under way, on a device that is made up and runs anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mt_core.lab.bugs.exhibit import Exhibit, FaultError, Source, WrongMend, call, counted, items


class Copy:
    """An asynchronous copy: it reads the buffer when it runs, not when it is started."""

    def __init__(self, device: FakeDevice, buffer: list[int]) -> None:
        self.device, self.buffer, self.values = device, buffer, [0]

    def wait(self) -> None:
        """Let this copy, and those started before it, come to their end."""
        self.device.n_waits += 1
        self.finish()

    def finish(self) -> None:
        while self in self.device.running:
            done = self.device.running.pop(0)
            done.values = list(done.buffer)


class FakeDevice:
    """A device on which copies take their time: each is done when `lag` others have been started after it."""

    def __init__(self, lag: int) -> None:
        self.lag, self.running = lag, list[Copy]()
        self.most_running = self.n_pinned = self.n_waits = 0

    def pin(self, size: int) -> list[int]:
        """A page-locked buffer. Slow to make."""
        self.n_pinned += 1
        return [0] * size

    def copy(self, buffer: list[int]) -> Copy:
        """Start copying and return at once."""
        if len(self.running) >= self.lag:
            self.running[len(self.running) - self.lag].finish()
        self.running.append(Copy(self, buffer))
        self.most_running = max(self.most_running, len(self.running))
        return self.running[-1]


def hasty_buffer(batches: list[list[int]], device: FakeDevice) -> list[Copy]:
    """Send batches to the device through pinned memory."""
    buffer = device.pin(len(batches[0]))
    sent = []
    for batch in batches:
        buffer[:] = batch
        sent.append(device.copy(buffer))
    return sent


def _waiting_for_the_buffer(batches: list[list[int]], device: FakeDevice) -> list[Copy]:
    buffers, sent = [device.pin(len(batches[0])) for _ in range(2)], list[Copy]()
    for number, batch in enumerate(batches):
        if number >= 2:
            sent[number - 2].wait()
        buffers[number % 2][:] = batch
        sent.append(device.copy(buffers[number % 2]))
    return sent


def _two_buffers(batches: list[list[int]], device: FakeDevice) -> list[Copy]:
    buffers, sent = [device.pin(len(batches[0])) for _ in range(2)], []
    for number, batch in enumerate(batches):
        buffers[number % 2][:] = batch
        sent.append(device.copy(buffers[number % 2]))
    return sent


def _waiting_at_once(batches: list[list[int]], device: FakeDevice) -> list[Copy]:
    buffer, sent = device.pin(len(batches[0])), []
    for batch in batches:
        buffer[:] = batch
        sent.append(device.copy(buffer))
        sent[-1].wait()
    return sent


def _buffer_for_each(batches: list[list[int]], device: FakeDevice) -> list[Copy]:
    sent = []
    for batch in batches:
        buffer = device.pin(len(batch))
        buffer[:] = batch
        sent.append(device.copy(buffer))
    return sent


def _waiting_too_late(batches: list[list[int]], device: FakeDevice) -> list[Copy]:
    buffers, sent = [device.pin(len(batches[0])) for _ in range(2)], list[Copy]()
    for number, batch in enumerate(batches):
        buffers[number % 2][:] = batch
        if number >= 2:
            sent[number - 2].wait()
        sent.append(device.copy(buffers[number % 2]))
    return sent


def _arrivals(candidate: Callable[..., Any], lag: int, n: int = 6) -> FakeDevice:
    batches, device = [[10 * i, 10 * i + 1] for i in range(n)], FakeDevice(lag)
    sent = items(call(candidate, [list(batch) for batch in batches], device), "the copies")
    if len(sent) != n or not all(isinstance(copy, Copy) for copy in sent):
        raise FaultError(f"{n} batches, {len(sent)} copies returned: what device.copy gave is needed for each")
    for copy in sent:
        copy.finish()
    wrong = [i for i in range(n) if sent[i].values != batches[i]]
    if wrong:
        i = wrong[0]
        waited = "copies were waited for, but too late" if device.n_waits else "no copy was waited for"
        raise FaultError(
            f"copies that take {counted(lag, 'step')}: batch {i} was {batches[i]} and arrives as {sent[i].values}, "
            f"as its buffer was written again before that; {waited} ({len(wrong)} of {n} batches are damaged)"
        )
    return device


def _look_arrivals(candidate: Callable[..., Any]) -> str:
    _arrivals(candidate, 3)
    return "6 batches arrive as they were sent, though copies take 3 steps"


def _examine_arrivals(candidate: Callable[..., Any]) -> str:
    for lag in (3, 1, 2, 6):
        device = _arrivals(candidate, lag)
        if lag > 1 and device.most_running < 2:
            raise FaultError("every batch arrives, but never are two copies under way: each is waited for at once")
        if device.n_pinned > 4:
            raise FaultError(
                f"every batch arrives, but {device.n_pinned} buffers are pinned for 6 batches: pinning is slower than "
                "copying, so make a few and use them again"
            )
    return "every batch arrives, whether copies take 1, 2, 3 or 6 steps, two of them under way at a time"


HASTY_BUFFER = Exhibit(
    name="hasty_buffer",
    title="The hasty buffer",
    question="Copies take three steps. Six batches go through one buffer. What arrives in place of the first?",
    task=(
        "send(batches, device) returns what device.copy gave for each batch. Every batch must arrive as it was sent, "
        "with at least two copies under way at a time and at most four buffers pinned."
    ),
    source=Source(
        where="pytorch/tutorials#3261",
        title="Add pageable/pinned tensor to cuda reliability note in pinmem tutorial",
        link="https://github.com/pytorch/tutorials/pull/3261",
    ),
    broken=hasty_buffer,
    shown=(Copy, FakeDevice),
    symptom="Some batches come twice and others never, but only at full speed: in a debugger all is well.",
    tool="what arrived against what was sent",
    look=_look_arrivals,
    examine=_examine_arrivals,
    hints=(
        "Compare what was sent with what arrived, for slow copies.",
        "device.copy returns at once. When may the buffer be written again?",
        "Two buffers in turn; before one is written, wait for the copy that last read it.",
    ),
    mend=_waiting_for_the_buffer,
    wrong_mends=(
        WrongMend(candidate=_two_buffers, mistake="two buffers and no waiting: right until copies are slower"),
        WrongMend(candidate=_waiting_at_once, mistake="waits for every copy at once: nothing overlaps"),
        WrongMend(candidate=_buffer_for_each, mistake="pins a buffer for each batch, which costs more than it saves"),
        WrongMend(candidate=_waiting_too_late, mistake="waits after writing, when the harm is done"),
    ),
)

EXHIBITS = (HASTY_BUFFER,)
