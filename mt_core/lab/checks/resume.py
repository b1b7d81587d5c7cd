"""The exercises of notebook 13: a state from arithmetic, a queue that counts, a save that survives, a late load."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mt_core import LoaderStateError, TokenLoader, TokenStore, TransformerDataset
from mt_core.lab.checks.explained import UntouchedError, WrongError, explained, touched

_STEPS = (0, 1, 4, 6, 9, 20)


def state(my_state: Callable[[TokenLoader, int], Any]) -> None:
    """Check `my_state(loader, step)` -> a state with which such a loader goes on after `step` batches."""
    with explained(my_state):
        per_epoch = len(_loader())
        for step in _STEPS:
            case = f"{per_epoch} batches an epoch, step={step}"
            found = touched(my_state(_loader(), step))
            if not isinstance(found, dict):
                raise WrongError(f"{case}: a state is a dict, as loader.state_dict() gives it; you returned {found!r}")
            resumed = _loader()
            try:
                resumed.load_state_dict(found)
            except LoaderStateError as error:
                raise WrongError(f"{case}: the loader refuses your state: {error}") from None
            epoch, place = divmod(step, per_epoch)
            said = f"epoch {found['epoch']}, samples_delivered {found['samples_delivered']}"
            if _ids(next(iter(resumed))) != _stream(step + 1)[step]:
                raise WrongError(
                    f"{case}: your state says {said}, and that goes on elsewhere{_why(found, step, place)}"
                )
            if resumed.epoch != epoch:
                raise WrongError(
                    f"{case}: your state says {said}, and that goes on in epoch {resumed.epoch}, not {epoch}"
                )
        print(f"Right: for {len(_STEPS)} steps in 4 epochs the next batch is the one an undisturbed loader gives.")


def _why(found: dict[str, Any], step: int, place: int) -> str:
    if found["samples_delivered"] == place and place:
        return f". Rows are counted, {place} batches of 4 rows each here"
    if found["samples_delivered"] == 4 * step and step > place:
        return ". The count begins anew with each epoch"
    return ""


def _stream(n_batches: int) -> list[list[list[int]]]:
    loader = _loader()
    seen: list[list[list[int]]] = []
    while len(seen) < n_batches:
        seen += [_ids(batch) for batch in loader]
    return seen


def _loader() -> TokenLoader:
    store = TokenStore.from_token_ids(range(101), vocab_size=101)
    return TokenLoader(TransformerDataset(store, seq_length=4), batch_size=4, shuffle=True, drop_last=True, seed=13)


def _ids(batch: Any) -> list[list[int]]:
    return batch["input_ids"].tolist()


class _Noted(list[str]):
    """A list that knows how many of its items were asked for."""

    asked = 0

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        self.asked = max(self.asked, index + 1) if isinstance(index, int) else len(self)
        return found

    def __iter__(self) -> Iterator[str]:
        for index in range(len(self)):
            yield self[index]


def delivering(my_class: Callable[..., Any]) -> None:
    """Check the class `my_class(batches, ahead, place=0)`: a queue whose `place` is the next batch to deliver."""
    with explained(my_class):
        for n, ahead, stop in ((12, 4, 5), (12, 0, 3), (12, 4, 10), (5, 8, 1), (12, 3, 12), (6, 2, 0)):
            names = list("abcdefghijkl"[:n])
            batches = _Noted(names)
            mine = my_class(batches, ahead)
            running = touched(type(mine).__iter__(mine))
            case = f"{n} batches, ahead={ahead}, stopped after {stop}"
            seen = _taken(iter(running), stop, case)
            if seen != names[:stop]:
                raise WrongError(f"{case}: you delivered {seen}: each batch once, in order")
            due = min(n, stop + ahead) if stop else 0
            _judge_fetched(batches, due, stop, case, mine, ahead)
            rest = my_class(names, ahead, place=mine.place)
            seen += _taken(iter(rest), n + 1, case)
            if seen != names:
                said = f"place is {mine.place!r}, and with that a new one goes on with"
                raise WrongError(f"{case}: {said} {seen[stop:]}, {names[stop:]} is due{_place(mine.place, stop, due)}")
        print("Right: 6 stops, each batch delivered once, and as many fetched ahead as before.")


def _taken(running: Iterable[str], stop: int, case: str) -> list[str]:
    seen: list[str] = []
    for _ in range(stop):
        try:
            seen.append(next(running))  # type: ignore[call-overload]
        except StopIteration:
            break
        if len(seen) > 20:
            raise WrongError(f"{case}: it goes on for ever: stop when the queue is empty and nothing is left to fetch")
    return seen


def _judge_fetched(batches: _Noted, due: int, stop: int, case: str, mine: Any, ahead: int) -> None:
    if stop and batches.asked < due:
        raise WrongError(f"{case}: {batches.asked} were fetched, {due} are due: the queue holds up to {ahead} more")
    if stop and batches.asked > due:
        raise WrongError(f"{case}: {batches.asked} were fetched, {due} are due: the queue holds up to {ahead}")
    if not isinstance(getattr(mine, "place", None), int):
        raise WrongError(f"{case}: place is {getattr(mine, 'place', None)!r}, a whole number is needed")


def _place(place: int, stop: int, fetched: int) -> str:
    if place == stop - 1:
        return ". It counts after the yield, and what stands there runs only when the next batch is asked for"
    if place == fetched:
        return f". {fetched} is what was fetched: keep that in a variable of its own, which nobody needs to save"
    return ""


class _KilledError(Exception):
    """The process that saves is dead."""


class Disk:
    """A disk for `save`: files by name. It can be made to stop at one operation, in the middle of it."""

    def __init__(self, files: dict[str, str] | None = None, die_at: int | None = None) -> None:
        self.files, self.die_at, self.operations = dict(files or {}), die_at, 0

    def write(self, name: str, data: str) -> None:
        """Write a file; killed here, half of it is there."""
        dies = self._dies()
        self.files[name] = data[: len(data) // 2] if dies else data
        if dies:
            raise _KilledError

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, in place of what had that name before: all at once, or not at all."""
        if old not in self.files:
            raise WrongError(f"rename({old!r}, {new!r}): there is no {old!r}, there is {sorted(self.files)}")
        if self._dies():
            raise _KilledError
        self.files[new] = self.files.pop(old)

    def remove(self, name: str) -> None:
        """Remove a file."""
        if name not in self.files:
            raise WrongError(f"remove({name!r}): there is no {name!r}, there is {sorted(self.files)}")
        if self._dies():
            raise _KilledError
        del self.files[name]

    def _dies(self) -> bool:
        if self.die_at is not None and self.operations > self.die_at:
            raise _KilledError  # the dead do nothing more
        self.operations += 1
        return self.operations - 1 == self.die_at


def save(my_save: Callable[[Disk, str], Any]) -> None:
    """Check `my_save(disk, data)`: writes data as "state" so that a death at any moment leaves a whole state."""
    with explained(my_save):
        old, new, later = "old " * 4, "new " * 4, "later " * 4
        disk = Disk({"state": old})
        my_save(disk, new)
        if disk.operations == 0:
            raise UntouchedError
        if disk.files.get("state") != new:
            raise WrongError(f"undisturbed, 'state' holds {disk.files.get('state')!r}, {new!r} is needed")
        moments = disk.operations
        left_behind = []
        for die_at in range(moments):
            disk = Disk({"state": old}, die_at)
            try:
                my_save(disk, new)
            except _KilledError:
                pass
            case = f"killed in the middle of operation {die_at + 1} of {moments}"
            if disk.files.get("state") not in (old, new):
                left = f"holds {disk.files['state']!r}" if "state" in disk.files else "is not there"
                raise WrongError(
                    f"{case}, 'state' {left}. Until the new file is whole under another name, leave the old one alone"
                )
            left_behind.append((case, disk.files))
        for case, files in left_behind:
            after = Disk(files)
            my_save(after, later)
            if after.files != {"state": later}:
                raise WrongError(
                    f"{case}, then saved once more: the disk holds {after.files}. What a dead process left "
                    "half-written must not be in the way, nor pile up: use the same other name each time"
                )
        first = Disk()
        my_save(first, new)
        if first.files.get("state") != new:
            raise WrongError(f"with no 'state' before, the disk holds {first.files}")
        print(f"Right: killed in each of {moments} operations, the old state or the new one is there, and whole.")


def late(my_resume: Callable[[TokenLoader, dict[str, Any]], Any]) -> None:
    """Check `my_resume(loader, state)`, which is meant to fail: the state comes when an iterator is running."""
    with explained(my_resume):
        loader, other = _loader(), _loader()
        load, epochs = loader.load_state_dict, []

        def noted(state: Any) -> None:
            epochs.append(loader.epoch)  # -1 before the first iterator
            load(state)

        loader.load_state_dict = noted  # type: ignore[method-assign]
        running = iter(other)
        next(running)
        try:
            found = my_resume(loader, other.state_dict())
        except LoaderStateError as error:
            if "running" not in str(error):
                raise WrongError(f"an error, but of another kind: {error}") from None
            message = str(error)
        else:
            if loader.epoch < 0 and not epochs and (found is None or found is ...):
                raise UntouchedError
            if not epochs:
                raise WrongError("no error: the state was never loaded. Call loader.load_state_dict(state) too")
            if epochs[0] < 0:
                raise WrongError(
                    "no error: you loaded in time, there was no iterator yet; make the iterator first: "
                    "batches = iter(loader)"
                )
            raise WrongError(
                "no error: your iterator is gone already, so no one would go on from a wrong place. Keep it: "
                "batches = iter(loader), and load the state while you have it"
            )
        print(f"mt_core says: {message}")
        print("An iterator that exists has its place. Loaded now, the state would be forgotten in silence,")
        print("and the run would train on the beginning of the epoch once more: so it is refused.")
