"""Exhibits about resuming: what was delivered when a run stopped, and when that is made known."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from mt_core.lab.audit import audit, counting_corpus, interrupted
from mt_core.lab.bugs.exhibit import Exhibit, FaultError, Source, WrongMend, call, counted, numbers, short

# -- prefetched is not delivered ---------------------------------------------------------------------------------


class VanishedBatches:
    """Batches 0, 1, … n_batches - 1, some of them prepared ahead. Resumes from its state."""

    def __init__(self, n_batches: int, prefetch: int) -> None:
        self.n_batches, self.prefetch, self.place = n_batches, prefetch, 0

    def __iter__(self) -> Iterator[int]:
        queue: deque[int] = deque()
        while queue or self.place < self.n_batches:
            while len(queue) < self.prefetch and self.place < self.n_batches:
                queue.append(self.place)
                self.place += 1
            yield queue.popleft()
        self.place = 0

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]


class _CountingDelivered(VanishedBatches):
    def __iter__(self) -> Iterator[int]:
        queue: deque[int] = deque()
        prepared = self.place
        while self.place < self.n_batches:
            while len(queue) < self.prefetch and prepared < self.n_batches:
                queue.append(prepared)
                prepared += 1
            self.place += 1
            yield queue.popleft()
        self.place = 0


class _PrefetchSubtracted(VanishedBatches):
    def state_dict(self) -> dict[str, int]:
        return {"place": max(self.place - self.prefetch, 0)}


class _CountingTooLate(VanishedBatches):
    def __iter__(self) -> Iterator[int]:
        for batch in range(self.place, self.n_batches):
            yield batch
            self.place = batch + 1
        self.place = 0


class _StartingOver(VanishedBatches):
    def state_dict(self) -> dict[str, int]:
        return {"place": 0}


def _look_resume(candidate: Callable[..., Any]) -> str:
    return _stopped(candidate, 12, 4, 5)


def _stopped(candidate: Callable[..., Any], n_batches: int, prefetch: int, after: int) -> str:
    """Audit an epoch that is stopped after some batches and resumed; batch i asks for token i + 1 after token i."""
    report = audit(
        interrupted(lambda corpus: call(candidate, n_batches, prefetch), after=after),
        counting_corpus(n_batches + 1, n_documents=1),
        adapt=lambda batch: (np.array([[batch]]), np.array([[batch + 1]])),
        max_batches=3 * n_batches,
    )
    case = f"{n_batches} batches, {prefetch} prefetched, stopped after {after} and resumed"
    again = [token - 1 for token in report.targets("repeated").tolist()]
    if again:
        raise FaultError(f"{case}: batches {short(again)} are delivered twice")
    lost = [token - 1 for token in report.targets("never").tolist()]
    if lost:
        raise FaultError(f"{case}: batches {short(lost)} were in the queue, and are never delivered")
    return f"{case}: each batch delivered once"


def _examine_resume(candidate: Callable[..., Any]) -> str:
    for prefetch in (4, 1, 2, 20):
        for after in (11, 5, 0, 1, 3):
            _stopped(candidate, 12, prefetch, after)
    delivered, state = [], None
    for _ in range(4):  # stopped again and again within one epoch
        loader = call(candidate, 12, 4)
        if state is not None:
            loader.load_state_dict(state)
        delivered += numbers(islice(loader, 3), "the batches")
        state = loader.state_dict()
    if delivered != list(range(12)):
        raise FaultError(f"stopped after 3 batches, four times over, it delivers {short(delivered)}")
    loader = call(candidate, 5, 2)
    passes = [numbers(islice(loader, 15), "the batches") for _ in range(2)]
    if passes != [list(range(5))] * 2:
        raise FaultError(f"two passes over 5 batches deliver {short(passes[0])} and {short(passes[1])}")
    return "24 stops, 4 of them in one epoch, 4 sizes of the queue: each batch delivered once"


VANISHED_BATCHES = Exhibit(
    name="vanished_batches",
    title="The batches in the queue",
    question="Stopped after 5 of 12 batches, with 4 prepared ahead, and resumed. Which batch comes first?",
    task=(
        "A class made with (n_batches, prefetch) that is iterated over, passes anew each time, and has state_dict() "
        "and load_state_dict(state). A new object that loads the state goes on with the first batch not delivered."
    ),
    source=Source(
        where="lhotse-speech/lhotse#417",
        title="Saving and restoring the sampler's state to continue training where it left off",
        link="https://github.com/lhotse-speech/lhotse/pull/417",
    ),
    broken=VanishedBatches,
    symptom="After a resume some text is missing from the epoch; with more workers, more of it.",
    tool="coverage audit of a stopped and resumed epoch",
    look=_look_resume,
    examine=_examine_resume,
    hints=(
        "Stop, resume, and write both halves of the epoch in one line.",
        "place moves when a batch is prepared. When should it?",
        "Two counters: one for what is prepared, which nobody needs to save, and one that moves with each yield.",
    ),
    mend=_CountingDelivered,
    wrong_mends=(
        WrongMend(candidate=_PrefetchSubtracted, mistake="subtracts a full queue; after a batch it holds one fewer"),
        WrongMend(candidate=_CountingTooLate, mistake="counts after the yield, when the state was already taken"),
        WrongMend(candidate=_StartingOver, mistake="starts the epoch over: what came before is seen twice"),
    ),
)


# -- a state that comes too late -----------------------------------------------------------------------------------


class ForgottenPlace:
    """Batches 0, 1, … n_batches - 1, resumable."""

    def __init__(self, n_batches: int) -> None:
        self.n_batches, self.place = n_batches, 0

    def __iter__(self) -> Iterator[int]:
        return self._deliver(range(self.place, self.n_batches))

    def _deliver(self, batches: range) -> Iterator[int]:
        for batch in batches:
            self.place = batch + 1
            yield batch
        self.place = 0

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]


class _Following(ForgottenPlace):
    def __iter__(self) -> Iterator[int]:
        while self.place < self.n_batches:
            self.place += 1
            yield self.place - 1
        self.place = 0


class _Warning(ForgottenPlace):
    def load_state_dict(self, state: dict[str, int]) -> None:
        warnings.warn("call load_state_dict before iter(loader)", stacklevel=2)
        super().load_state_dict(state)


class _Lazy(ForgottenPlace):
    def __iter__(self) -> Iterator[int]:
        yield from self._deliver(range(self.place, self.n_batches))


class _SkippingTwice(ForgottenPlace):
    def __iter__(self) -> Iterator[int]:
        skip = self.place
        for batch in range(skip, self.n_batches):
            if batch >= skip + self.place:
                yield batch


def _loaded_late(candidate: Callable[..., Any], before: int) -> str:
    """Load a state that says 6 of 10 into a loader whose iterator exists and has delivered some batches."""
    first = call(candidate, 10)
    delivered = numbers(islice(first, 6), "the batches")
    if delivered != list(range(6)):
        raise FaultError(f"the first 6 of 10 batches are {short(delivered)}")
    loader = call(candidate, 10)
    running = iter(loader)
    list(islice(running, before))
    case = f"load_state_dict after iter(loader) and {counted(before, 'batch')}"
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")  # a warning is no refusal: it scrolls by
        try:
            loader.load_state_dict(first.state_dict())
        except Exception as error:
            if not str(error):
                raise FaultError(f"{case} raises {type(error).__name__} without a word: say what to do") from None
            return f"{case} is refused: {error}"
    found = numbers(islice(running, 4), "the batches")
    if found != [6, 7, 8, 9]:
        raise FaultError(
            f"{case}, with a state that says 6 of 10: the next batches are {short(found)}, [6, 7, 8, 9] are due, or "
            f"an error that says what to do{'; the warning changes nothing' if heard else ''}"
        )
    return f"{case} is followed"


def _look_late(candidate: Callable[..., Any]) -> str:
    return _loaded_late(candidate, 0)


def _examine_late(candidate: Callable[..., Any]) -> str:
    loader = call(candidate, 10)
    first = call(candidate, 10)
    list(islice(first, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader.load_state_dict(first.state_dict())
    resumed = numbers(islice(loader, 12), "the batches")
    if resumed != [4, 5, 6, 7, 8, 9]:
        raise FaultError(f"a state that says 4 of 10, loaded in time: {short(resumed)}, [4, 5, 6, 7, 8, 9] are due")
    again = numbers(islice(loader, 12), "the batches")
    if again != list(range(10)):
        raise FaultError(f"the epoch after a resumed one is {short(again)}, all of 0 to 9 are due")
    seen = [_loaded_late(candidate, before) for before in (0, 1, 3)]
    return f"{seen[0]}; so it is in the middle of an epoch"


FORGOTTEN_PLACE = Exhibit(
    name="forgotten_place",
    title="The bookmark that came too late",
    question="iter(loader) is called, then the checkpoint is loaded: 6 of 10 are done. Which batch comes first?",
    task=(
        "A class made with (n_batches) that is iterated over, and has state_dict() and load_state_dict(state). A state "
        "that is loaded while an iterator exists is followed by it, or refused by an error that says what to do."
    ),
    source=Source(
        where="PrimeIntellect-ai/prime-rl#3299",
        title="Resume ignores worker dataloader state (a review in: Mario/cpu optimization dataloader)",
        link="https://github.com/PrimeIntellect-ai/prime-rl/pull/3299",
    ),
    broken=ForgottenPlace,
    symptom="Every restart trains on the first part of the corpus again; the log says it resumed.",
    tool="the next batch after loading",
    look=_look_late,
    examine=_examine_late,
    hints=(
        "Call iter before load_state_dict, then look at the next batch.",
        "When does the iterator look at place, and how often?",
        "Let the iterator read place anew before each batch, or let load_state_dict know that one exists and refuse.",
    ),
    mend=_Following,
    wrong_mends=(
        WrongMend(candidate=_Warning, mistake="warns and goes on from the beginning"),
        WrongMend(candidate=_Lazy, mistake="looks at place at the first batch: too late is only a little later"),
        WrongMend(candidate=_SkippingTwice, mistake="skips twice when the state came in time"),
    ),
)


EXHIBITS = (VANISHED_BATCHES, FORGOTTEN_PLACE)
