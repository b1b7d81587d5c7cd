"""Checks of notebook 08: right answers pass, wrong ones are explained in the learner's terms."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch.utils.data import DataLoader

from mt_core.lab.checks import prefetching

Say = Callable[..., str]


def limit(fetch: float, compute: float, workers: int, cores: int) -> float:
    if workers == 0:
        return 1 / (fetch + compute)
    return min(workers / fetch, 1 / compute, cores / (fetch + compute))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda f, c, w, n: ..., "returns nothing yet"),
        (lambda f, c, w, n: min(w / f, 1 / c), "can do no more than 2 seconds of work in one"),
        (lambda f, c, w, n: min(w / f, 1 / c, n / (f + c)), "Without workers the main process fetches and computes"),
        (lambda f, c, w, n: 1 / limit(f, c, w, n), "turn it over"),
        (lambda f, c, w, n: max(w / f, 1 / c), "the least of the three counts"),
        (lambda f, c, w, n: 1 / (f / max(w, 1) + c), "No limit is that low"),
        (lambda f, c, w, n: min(1 / (f / w), 1 / c, n / (f + c)), "division by zero"),
        (lambda f, c, w, n: "fast", "a number is needed"),
        (lambda f, c, w, n: [][0], "stopped with IndexError"),
    ],
)
def test_wrong_bounds_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(prefetching.bound, answer)
    assert words in printed and "Right" not in printed


def test_the_right_bound_passes(say: Say) -> None:
    assert say(prefetching.bound, limit).startswith("Right")


def right_ahead(batches: Any, copy: Callable[[Any], Any], depth: int) -> Iterator[Any]:
    waiting: deque[Any] = deque()
    for batch in batches:
        waiting.append(copy(batch))
        if len(waiting) > depth:
            yield waiting.popleft()
    yield from waiting


def one_only(batches: Any, copy: Callable[[Any], Any], depth: int) -> Iterator[Any]:
    return right_ahead(batches, copy, 1)


def kept_back(batches: Any, copy: Callable[[Any], Any], depth: int) -> Iterator[Any]:
    waiting = []
    for batch in batches:
        waiting.append(copy(batch))
        if len(waiting) > depth:
            yield waiting.pop(0)


def late(batches: Any, copy: Callable[[Any], Any], depth: int) -> Iterator[Any]:
    for batch in batches:
        yield copy(batch)


def uncopied(batches: Any, copy: Callable[[Any], Any], depth: int) -> Iterator[Any]:
    return right_ahead(batches, lambda batch: batch, depth)


def greedy(batches: Any, copy: Callable[[Any], Any], depth: int) -> Iterator[Any]:
    return right_ahead(list(batches), copy, depth)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda batches, copy, depth: ..., "returns nothing yet"),
        (one_only, "6 batches, depth=0, batch 0 is handed out: copied so far are [0, 1], 1 are due"),
        (late, "what follows yield runs only when the next one is asked for"),
        (kept_back, "you hand out 5, and keep 1 back"),
        (uncopied, "you hand out 0 where 'copy of 0' is due"),
        (greedy, "you took 6 batches from the loader, 2 are due"),
        (lambda batches, copy, depth: [copy(batch) for batch in batches], "each batch ahead takes memory"),
        (lambda batches, copy, depth: batches.pop(), "stopped with AttributeError"),
    ],
)
def test_wrong_looks_ahead_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(prefetching.ahead, answer)
    assert words in printed and "Right" not in printed


def test_the_right_look_ahead_passes(say: Say) -> None:
    assert say(prefetching.ahead, right_ahead).startswith("Right")


class Untouched:
    def __init__(self, loader: Any) -> None: ...

    def __iter__(self) -> Any: ...

    def state_dict(self) -> Any: ...


class Resumable:
    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.state = loader.state_dict()

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        self.state = self.loader.state_dict()
        following = next(batches, None)
        while following is not None:
            batch, state = following, self.loader.state_dict()
            following = next(batches, None)
            self.state = state
            yield batch

    def state_dict(self) -> Any:
        return self.state


class CountsWhatWaits(Resumable):
    def state_dict(self) -> Any:
        return self.loader.state_dict()


class NeverAhead(CountsWhatWaits):
    def __iter__(self) -> Iterator[Any]:
        yield from self.loader


class Stateless(Resumable):
    def state_dict(self) -> Any: ...


class OwnWords(Resumable):
    def state_dict(self) -> Any:
        return 3


class Backwards(Resumable):
    def __iter__(self) -> Iterator[Any]:
        return iter(list(self.loader)[::-1])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Untouched, "returns nothing yet"),
        (CountsWhatWaits, "1 of 7 batches handed out: your state says 2"),
        (NeverAhead, "1 of 7 batches handed out: 0 more are fetched"),
        (Stateless, "1 of 7 batches handed out: state_dict returns nothing"),
        (OwnWords, "must be the loader's, taken at the right moment"),
        (Backwards, "they are not the loader's, in its order"),
        (lambda loader: 1 / 0, "stopped with ZeroDivisionError"),
    ],
)
def test_wrong_states_are_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(prefetching.resumable, answer)
    assert words in printed and "Right" not in printed


def test_the_right_state_passes(say: Say) -> None:
    assert say(prefetching.resumable, Resumable).startswith("Right")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda dataset: ..., "returns nothing yet"),
        (lambda dataset: DataLoader(dataset), "no error: this loader has num_workers=0 and prefetch_factor=None"),
        (lambda dataset: DataLoader(dataset, batch_size=-1), "an error, but of another kind"),
        (lambda dataset: [1], "a DataLoader is needed"),
    ],
)
def test_a_loader_that_does_not_fail_is_explained(say: Say, answer: Callable[..., Any], words: str) -> None:
    printed = say(prefetching.queue_of_nothing, answer)
    assert words in printed and "torch says" not in printed


def test_a_queue_of_nothing_is_read_aloud(say: Say) -> None:
    printed = say(prefetching.queue_of_nothing, lambda dataset: DataLoader(dataset, prefetch_factor=4))
    assert printed.startswith("torch says: prefetch_factor option could only be specified in multiprocessing.\n")
