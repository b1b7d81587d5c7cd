"""Checks of notebook 13: right answers pass, wrong ones are explained in the learner's terms."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mt_core.lab.checks import resume

Say = Callable[..., str]


def right_state(loader: Any, step: int) -> Any:
    epoch, place = divmod(step, len(loader))
    return loader.state_dict() | {"epoch": epoch, "samples_delivered": place * loader.batch_size}


def changed(**values: Callable[[Any, int], Any]) -> Callable[[Any, int], Any]:
    """The right state with some fields computed otherwise, from the loader and the step."""
    return lambda loader, step: right_state(loader, step) | {n: f(loader, step) for n, f in values.items()}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda loader, step: ..., "returns nothing yet"),
        (lambda loader, step: step, "a state is a dict"),
        (lambda loader, step: {"epoch": 0, "samples_delivered": 0}, "the loader refuses your state"),
        (lambda loader, step: loader.state_dict(), "6 batches an epoch, step=1: your state says epoch 0"),
        (changed(samples_delivered=lambda loader, step: step % 6), "not a whole number of batches of 4"),
        (changed(samples_delivered=lambda loader, step: step % 6 * 16), "and that goes on elsewhere"),
        (changed(samples_delivered=lambda loader, step: 4 * step), "The count begins anew with each epoch"),
        (changed(epoch=lambda loader, step: 0), "step=6: your state says epoch 0, samples_delivered 0"),
        (lambda loader, step: loader.nothing, "stopped with AttributeError"),
    ],
)
def test_wrong_states_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(resume.state, answer)
    assert words in printed and "Right" not in printed


def test_the_right_state_passes_and_so_does_the_end_of_an_epoch_for_the_beginning_of_the_next(say: Say) -> None:
    def at_the_end(loader: Any, step: int) -> Any:
        if step == 0 or step % len(loader):
            return right_state(loader, step)
        return right_state(loader, step) | {"epoch": step // len(loader) - 1, "samples_delivered": 4 * len(loader)}

    assert say(resume.state, right_state).startswith("Right: for 6 steps in 4 epochs")
    assert say(resume.state, at_the_end).startswith("Right")


class Delivering:
    early = True  # counts before the yield

    def __init__(self, batches: Any, ahead: int, place: int = 0) -> None:
        self.batches, self.ahead, self.place = batches, ahead, place

    def __iter__(self) -> Iterator[Any]:
        queue: deque[Any] = deque()
        fetched = self.place
        while queue or fetched < len(self.batches):
            while len(queue) <= self.ahead and fetched < len(self.batches):
                queue.append(self.batches[fetched])
                fetched += 1
            self.place += self.early
            yield queue.popleft()
            self.place += not self.early


class Untouched:
    def __init__(self, batches: Any, ahead: int, place: int = 0) -> None: ...

    def __iter__(self) -> Any: ...


class Fetching(Delivering):
    def __iter__(self) -> Iterator[Any]:
        queue: deque[Any] = deque()
        while queue or self.place < len(self.batches):
            while len(queue) <= self.ahead and self.place < len(self.batches):
                queue.append(self.batches[self.place])
                self.place += 1
            yield queue.popleft()


class Late(Delivering):
    early = False


class NeverAhead(Delivering):
    def __iter__(self) -> Iterator[Any]:
        while self.place < len(self.batches):
            self.place += 1
            yield self.batches[self.place - 1]


class Greedy(Delivering):
    def __iter__(self) -> Iterator[Any]:
        for batch in list(self.batches)[self.place :]:
            self.place += 1
            yield batch


class Placeless(Delivering):
    def __iter__(self) -> Iterator[Any]:
        yield from Delivering(self.batches, self.ahead, self.place)
        self.place = None


class Endless(Delivering):
    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()
        while self.place >= 12:
            yield "m"


class Backwards(Delivering):
    def __iter__(self) -> Iterator[Any]:
        yield from reversed(self.batches)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Untouched, "returns nothing yet"),
        (Fetching, "9 is what was fetched: keep that in a variable of its own"),
        (Late, "place is 4, and with that a new one goes on with ['e', 'f', 'g'"),
        (Late, "It counts after the yield"),
        (NeverAhead, "12 batches, ahead=4, stopped after 5: 5 were fetched, 9 are due"),
        (Greedy, "12 batches, ahead=4, stopped after 5: 12 were fetched, 9 are due"),
        (Placeless, "place is 0, and with that a new one goes on with ['a'"),
        (Backwards, "each batch once, in order"),
        (Endless, "goes on with ['f', 'g', 'h', 'i', 'j', 'k', 'l', 'm'"),
        (lambda batches, ahead: 1 / 0, "stopped with ZeroDivisionError"),
    ],
)
def test_wrong_queues_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(resume.delivering, answer)
    assert words in printed and "Right" not in printed


def test_the_right_queue_passes(say: Say) -> None:
    assert say(resume.delivering, Delivering).startswith("Right: 6 stops")


def renaming(disk: Any, data: str) -> None:
    disk.write("partial", data)
    disk.rename("partial", "state")


def removed_first(disk: Any, data: str) -> None:
    disk.write("partial", data)
    if "state" in disk.files:
        disk.remove("state")
    disk.rename("partial", "state")


def new_name_each_time(disk: Any, data: str) -> None:
    name = f"partial-{len(disk.files)}"
    disk.write(name, data)
    disk.rename(name, "state")


def kept_copy(disk: Any, data: str) -> None:
    disk.write("copy", data)
    disk.write("state", data)


def sleepy(disk: Any, data: str) -> None:
    disk.write("state.new", data)


def needs_an_old_one(disk: Any, data: str) -> None:
    disk.rename("state", "old")
    disk.rename("old", "state")
    renaming(disk, data)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda disk, data: ..., "returns nothing yet"),
        (lambda disk, data: disk.write("state", data), "operation 1 of 1, 'state' holds 'new new '"),
        (removed_first, "operation 3 of 3, 'state' is not there"),
        (new_name_each_time, "then saved once more: the disk holds"),
        (kept_copy, "operation 2 of 2, 'state' holds 'new new '"),
        (sleepy, "undisturbed, 'state' holds 'old old old old '"),
        (needs_an_old_one, "'state' is not there"),
        (lambda disk, data: disk.rename("new", "state"), "there is no 'new', there is ['state']"),
        (lambda disk, data: disk.remove("new"), "there is no 'new', there is ['state']"),
        (lambda disk, data: disk.print(data), "stopped with AttributeError"),
    ],
)
def test_saves_that_do_not_survive_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(resume.save, answer)
    assert words in printed and "Right" not in printed


def tidying(disk: Any, data: str) -> None:
    for name in sorted(set(disk.files) - {"state"}):
        disk.remove(name)
    new_name_each_time(disk, data)


@pytest.mark.parametrize("answer", [renaming, tidying])
def test_saves_that_survive_pass(say: Say, answer: Callable[..., Any]) -> None:
    assert say(resume.save, answer).startswith("Right: killed in each of 2 operations")


def too_late(loader: Any, state: Any) -> Any:
    batches = iter(loader)
    loader.load_state_dict(state)
    return batches


def in_time(loader: Any, state: Any) -> None:
    loader.load_state_dict(state)


def in_time_for_an_iterator(loader: Any, state: Any) -> Any:
    loader.load_state_dict(state)
    return iter(loader)


def let_go(loader: Any, state: Any) -> None:
    next(iter(loader))
    loader.load_state_dict(state)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda loader, state: ..., "returns nothing yet"),
        (in_time, "there was no iterator yet"),
        (in_time_for_an_iterator, "you loaded in time, there was no iterator yet; make the iterator first"),
        (lambda loader, state: iter(loader), "the state was never loaded"),
        (let_go, "your iterator is gone already"),
        (lambda loader, state: loader.load_state_dict(state | {"seed": 5}), "an error, but of another kind"),
        (lambda loader, state: 1 / 0, "stopped with ZeroDivisionError"),
    ],
)
def test_a_late_load_that_does_not_fail_is_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(resume.late, answer)
    assert words in printed and "mt_core says" not in printed


def test_a_late_load_is_read_aloud(say: Say) -> None:
    assert say(resume.late, too_late).startswith("mt_core says: an iterator of this loader is running")
