"""Tuning a loader: loaders of which each time is known, on a clock that only they and the step move."""

import multiprocessing
import random
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mt_core import TokenStore, create_dataloaders
from mt_core.lab import tune_bench
from mt_core.lab.tune import Setting, Trial, Tuning, TuningError, tune
from mt_core.lab.tune_report import clearly_faster

MS = 0.001
quiet = partial(tune, progress=False)


class Clock:
    """Time that passes only where it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tune_bench, "_now", clock)
    monkeypatch.setattr(tune_bench, "_sleep", clock.sleep)
    monkeypatch.setattr(tune_bench, "usable_cores", lambda: 8)
    return clock


class Simulated:
    """A loader whose workers build a batch in `fetch` seconds, as PyTorch's do: in turn, each some ahead."""

    def __init__(self, clock: Clock, fetch: float, workers: int, ahead: int | None, length: int = 10**9) -> None:
        self.clock, self.fetch, self.workers, self.length = clock, fetch, workers, length
        self.ahead = workers * (ahead or 2)
        self.free = [0.0] * workers  # when each worker has built all it was asked for
        self.closed = 0

    def __iter__(self) -> Iterator[Any]:
        ready: deque[float] = deque()

        def ask(k: int) -> None:
            worker = k % self.workers
            self.free[worker] = max(self.free[worker], self.clock.now) + self.fetch
            ready.append(self.free[worker])

        try:
            for k in range(min(self.ahead, self.length)):
                ask(k)
            for k in range(self.length):
                if not self.workers:
                    self.clock.now += self.fetch
                else:
                    self.clock.now = max(self.clock.now, ready.popleft())
                    if k + self.ahead < self.length:
                        ask(k + self.ahead)
                yield self
        finally:
            self.closed += 1


class Factory:
    """Makes simulated loaders and keeps them."""

    def __init__(self, clock: Clock, fetch: float, **settings: Any) -> None:
        self.create = partial(Simulated, clock, fetch, **settings)
        self.made: list[Simulated] = []

    def __call__(self, num_workers: int, prefetch_factor: int | None = None) -> Simulated:
        self.made.append(self.create(num_workers, prefetch_factor))
        return self.made[-1]


@pytest.fixture
def step(clock: Clock) -> Callable[[float], Callable[[Any], None]]:
    """`step(seconds)`: one that takes this long."""

    def create(seconds: float) -> Callable[[Any], None]:
        return lambda batch: clock.sleep(seconds)

    return create


def medians(tuning: Tuning) -> dict[str, float]:
    return {str(trial.setting): trial.median for trial in tuning.trials}


# -- what is recommended --------------------------------------------------------------------------------------


def test_workers_that_are_faster_are_recommended_and_no_more_than_it_takes(clock: Clock, step: Any) -> None:
    """Fetch 16 ms, step 4 ms: 20 ms without workers, 16 / W with them, but never less than 4."""
    factory = Factory(clock, 16 * MS)
    tuning = quiet(factory, step(4 * MS), num_workers=(8, 1, 2, 4), prefetch_factor=(2,))
    expected = {"0 workers": 1, "1 worker, 2 ahead": 1.25, "2 workers, 2 ahead": 2.5}
    expected |= {"4 workers, 2 ahead": 5, "8 workers, 2 ahead": 5}
    assert medians(tuning) == pytest.approx(expected, rel=0.01)
    assert tuning.recommended == {"num_workers": 4, "prefetch_factor": 2}
    assert tuning.chosen.setting == Setting(num_workers=4, prefetch_factor=2) and tuning.seconds_needed is None
    assert tuning.words().startswith("Use 4 workers, 2 ahead: 5.00 times (middle half of ")
    assert "With 0 workers the loop spends 80% of its time on fetching." in tuning.words()
    assert isinstance(factory(**tuning.recommended), Simulated)


def test_0_workers_are_recommended_where_they_are_fastest(clock: Clock, step: Any) -> None:
    """What comes from workers takes twenty times as long, as small batches of stored tokens do."""

    def factory(num_workers: int, prefetch_factor: int | None) -> Simulated:
        return Simulated(clock, (2 if num_workers else 0.1) * MS, num_workers, prefetch_factor)

    tuning = quiet(factory, step(0.3 * MS), num_workers=(1, 2))
    assert tuning.recommended == {"num_workers": 0, "prefetch_factor": None}
    assert medians(tuning) == pytest.approx(
        {"0 workers": 1, "1 worker, 2 ahead": 0.2, "2 workers, 2 ahead": 0.4}, rel=0.01
    )
    assert tuning.words().startswith(
        "Leave it at 0 workers: the best of the others, 2 workers, 2 ahead, makes 0.40 times"
    )
    assert [len(trial.seconds) for trial in tuning.trials] == [2, 2, 2]  # clear after two rounds
    assert clock.now < 15


def test_a_gain_within_the_noise_is_none(clock: Clock) -> None:
    """A worker makes it twice as fast, but often something disturbs its steps; then the same without disturbance."""
    draws = random.Random(6)
    factors = [1 if draws.random() < 0.5 else 3 for _ in range(100)]

    def step(batch: Simulated) -> None:
        clock.now += 10 * MS * (factors[int(clock.now / 0.3) % 100] if batch.workers else 1)

    tuning = quiet(Factory(clock, 10 * MS), step, num_workers=[1], prefetch_factor=[2], seconds=1.5)
    assert tuning.trials[1].median > 1.5 and tuning.trials[1].low < 0.8 and tuning.seconds_needed is None
    assert tuning.recommended == {"num_workers": 0, "prefetch_factor": None}
    factors = [1] * 100
    tuning = quiet(Factory(clock, 10 * MS), step, num_workers=[1], prefetch_factor=[2], seconds=1.5)
    assert tuning.recommended == {"num_workers": 1, "prefetch_factor": 2}


def test_a_gain_below_5_percent_is_none(clock: Clock, step: Any) -> None:
    for fetch, recommended in ((0.4, 0), (0.6, 1)):
        tuning = quiet(Factory(clock, fetch * MS), step(10 * MS), num_workers=[1], prefetch_factor=[2])
        assert tuning.trials[1].median == pytest.approx(1 + fetch / 10, rel=0.001)
        assert tuning.recommended["num_workers"] == recommended
        assert ("which is not clear: it must be more than 5%" in tuning.words()) == (recommended == 0)


@pytest.mark.parametrize(("fetch", "most"), [(0.1, 1.01), (1, 1.1), (10, 2)])
def test_a_loader_cannot_save_more_than_the_waiting(clock: Clock, fetch: float, most: float) -> None:
    """The machine may be five times as slow when it is the turn of 0 workers: their share of waiting stays."""
    for slow in (1, 5):

        def step(batch: Simulated, slow: int = slow) -> None:
            clock.now += 10 * MS * (1 if batch.workers else slow)

        def factory(num_workers: int, slow: int = slow) -> Simulated:
            return Simulated(clock, fetch * MS * (1 if num_workers else slow), num_workers, None)

        tuning = quiet(factory, step, num_workers=[1], seconds=10)
        assert tuning.trials[0].seconds[0] / tuning.trials[1].seconds[0] == pytest.approx(most * slow, rel=0.001)
        assert tuning.trials[1].median == pytest.approx(most, rel=0.001)
        assert tuning.recommended["num_workers"] == (most > 1.05)


@pytest.mark.parametrize(
    ("gains", "clear"),
    [
        ([1.06] * 3, True),
        ([1.04] * 3, False),
        ([2.0], False),
        ([5.0, 8.0, 14.0], True),
        ([0.95, 1.24, 1.5], False),
        ([0.95, 1.24, 1.5] * 12, True),
    ],
)
def test_clear_is_more_than_5_percent_and_than_the_spread_leaves_in_doubt(gains: list[float], clear: bool) -> None:
    assert clearly_faster(gains) == clear


def test_prefetching_further_ahead_is_compared_for_the_best_number_of_workers(clock: Clock) -> None:
    """Every 8th step takes long, and one worker keeps up only if it may work ahead through it."""
    steps = 0

    def step(batch: Any) -> None:
        nonlocal steps
        steps += 1
        clock.now += (1 if steps % 8 else 25) * MS

    tuning = quiet(Factory(clock, 4 * MS), step, num_workers=[1], prefetch_factor=(8, 2), seconds=30)
    assert [str(trial.setting) for trial in tuning.trials] == ["0 workers", "1 worker, 2 ahead", "1 worker, 8 ahead"]
    assert tuning.recommended == {"num_workers": 1, "prefetch_factor": 8}
    even = quiet(Factory(clock, 4 * MS), lambda batch: clock.sleep(4 * MS), num_workers=[1], prefetch_factor=(8, 2))
    assert even.recommended == {"num_workers": 1, "prefetch_factor": 2}


def test_pinning_is_tried_last_and_kept_where_it_is_faster(clock: Clock) -> None:
    pinned: dict[int, bool] = {}

    def factory(*, num_workers: int, pin_memory: bool) -> Simulated:
        loader = Simulated(clock, 8 * MS, num_workers, None)
        pinned[id(loader)] = pin_memory
        made.append(loader)
        return loader

    for copy, recommended in ((3 * MS, True), (0.1 * MS, False)):
        made: list[Simulated] = []
        tuning = quiet(
            factory,
            lambda batch, copy=copy: clock.sleep(10 * MS - copy * pinned[id(batch)]),
            num_workers=[1],
            pin_memory=(True, False),
        )
        assert tuning.recommended == {"num_workers": 1, "pin_memory": recommended}
        names = [str(trial.setting) for trial in tuning.trials]
        assert names == ["0 workers", "1 worker, pinned", "1 worker"]
    assert "The factory takes no prefetch_factor: left as it is." in tuning.notes


# -- whether the measurement is fair ---------------------------------------------------------------------------


def test_batches_that_were_made_before_do_not_count(clock: Clock, step: Any) -> None:
    """A worker twice as slow as the step; 50 batches lie ready each time. 3 ms a batch without it, 2 ms with it."""
    tuning = quiet(Factory(clock, 2 * MS), step(1 * MS), num_workers=[1], prefetch_factor=[50], seconds=5)
    assert tuning.trials[1].median == pytest.approx(1.5, rel=0.02)


def test_bursts_count_whole(clock: Clock, step: Any) -> None:
    """8 workers deliver 8 batches at once; their steps take 72 ms, and then nothing comes for 8 ms."""
    tuning = quiet(Factory(clock, 80 * MS), step(9 * MS), num_workers=[8], prefetch_factor=[2], seconds=1)
    assert tuning.trials[1].median == pytest.approx(8.9, rel=0.005)


def test_workers_have_filled_their_queues_before_another_setting_is_measured(clock: Clock) -> None:
    factory, disturbed = Factory(clock, 5 * MS), []

    def step(batch: Simulated) -> None:
        if batch is factory.made[0] and len(factory.made) == 3:
            disturbed.append(any(end > clock.now for loader in factory.made for end in loader.free))
        clock.now += 5 * MS

    quiet(factory, step, num_workers=[1, 4], prefetch_factor=[4], seconds=10)
    assert len(disturbed) > 100 and not any(disturbed)


def test_each_setting_is_measured_in_every_round_and_losers_in_two(clock: Clock, step: Any) -> None:
    def factory(num_workers: int) -> Simulated:
        return Simulated(clock, {0: 4, 1: 40, 2: 8}[num_workers] * MS, num_workers, None)

    tuning = quiet(factory, step(4 * MS), num_workers=[1, 2], seconds=20)
    rounds = [len(trial.seconds) for trial in tuning.trials]
    assert rounds[1] == 2 and rounds[0] == rounds[2] >= 6
    assert tuning.trials[0].gains == (1.0,) * rounds[0]


def test_time_is_bounded_and_too_little_is_said(clock: Clock, step: Any) -> None:
    factory = Factory(clock, 30 * MS)
    for seconds in (1.0, 5.0, 30.0, 60.0):
        begun = clock.now
        tuning = quiet(factory, step(30 * MS), num_workers=(1, 2, 4), seconds=seconds)
        assert clock.now - begun < 1.1 * seconds + 3
        if seconds > 2:
            assert tuning.seconds_needed is None
            continue
        assert tuning.recommended["num_workers"] == 0 and tuning.seconds_needed is not None
        assert tuning.words().startswith(f"Too few rounds to be trusted: give it seconds={tuning.seconds_needed}.")
        assert "1 round: " in tuning.words()
        enough = quiet(factory, step(30 * MS), num_workers=(1, 2, 4), seconds=tuning.seconds_needed)
        assert enough.seconds_needed is None and enough.recommended["num_workers"] > 0


def test_a_loader_that_ends_begins_its_next_epoch(clock: Clock, step: Any) -> None:
    tuning = quiet(Factory(clock, 4 * MS, length=7), step(4 * MS), num_workers=[1], prefetch_factor=[64], seconds=5)
    assert all(loader.median > 0.9 for loader in tuning.trials)


# -- the end of it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [None, KeyboardInterrupt(), RuntimeError("no such head\nof 12")])
def test_all_loaders_are_closed(clock: Clock, stop: BaseException | None) -> None:
    factory = Factory(clock, 5 * MS)

    def step(batch: Simulated) -> None:
        clock.now += 5 * MS
        if stop is not None and batch.workers == 2:
            raise stop

    if stop is None:
        quiet(factory, step, num_workers=[1, 2], seconds=5)
    else:
        expected = TuningError if isinstance(stop, RuntimeError) else KeyboardInterrupt
        with pytest.raises(expected) as caught:
            quiet(factory, step, num_workers=[1, 2], seconds=5)
        if expected is TuningError:
            assert str(caught.value) == "the step failed with 2 workers, 2 ahead: RuntimeError: of 12"
            assert caught.value.__cause__ is stop
    assert len(factory.made) >= 3 and all(loader.closed == 1 for loader in factory.made)


def test_what_fails_says_with_which_setting(clock: Clock, step: Any) -> None:
    def broken(num_workers: int) -> Simulated:
        if num_workers:
            raise OSError("no memory")
        return Simulated(clock, MS, 0, None)

    with pytest.raises(TuningError, match="loader_factory failed with 2 workers: OSError: no memory"):
        quiet(broken, step(MS), num_workers=[2])
    with pytest.raises(TuningError, match=r"the loader failed with 0 workers: ValueError: it gave no batch$"):
        quiet(lambda num_workers: [], step(MS))
    with pytest.raises(TuningError, match="it gave no second epoch: make a loader that can be iterated over again"):
        quiet(lambda num_workers: iter(range(20)), step(10 * MS))
    with pytest.raises(TuningError, match=r"made a tuple of 2, one loader is needed: lambda .*\[0\]"):
        quiet(lambda num_workers: ([1], [2]), step(MS))
    same = Simulated(clock, MS, 0, None)
    with pytest.raises(TuningError, match="a loader it had given before"):
        quiet(lambda num_workers: same, step(MS), num_workers=[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_workers": []}, r"num_workers=\[\], whole numbers from 0"),
        ({"num_workers": [-1]}, r"num_workers=\[-1\], whole numbers from 0"),
        ({"num_workers": [True]}, "whole numbers from 0"),
        ({"prefetch_factor": [0]}, r"prefetch_factor=\[0\], whole numbers from 1"),
        ({"pin_memory": []}, "pin_memory is empty"),
        ({"num_workers": 2}, "num_workers=2, whole numbers from 0 are needed, in a list"),
        ({"prefetch_factor": "auto"}, "prefetch_factor='auto'"),
        ({"pin_memory": True}, "pin_memory=True, a list"),
        ({"pin_memory": ["no"]}, r"pin_memory=\['no'\]"),
        ({"seconds": "60"}, "seconds='60'"),
        ({"seconds": 0}, "seconds=0, a number above 0"),
        ({"seconds": float("nan")}, "seconds=nan"),
    ],
)
def test_arguments_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quiet(lambda **_: [1], id, **settings)
    with pytest.raises(ValueError, match="takes no num_workers, so there is nothing to compare"):
        quiet(lambda workers: [1], id)


def test_a_loader_that_will_not_have_workers_is_believed(clock: Clock, step: Any) -> None:
    class Refusing(Simulated):
        num_workers = 0

    def factory(num_workers: int) -> Simulated:
        if num_workers:
            warnings.warn(f"{num_workers} asked for, 0 used: not on this system", stacklevel=2)
        return Refusing(clock, MS, 0, None)

    tuning = quiet(factory, step(MS), num_workers=[1, 2])
    assert [str(trial.setting) for trial in tuning.trials] == ["0 workers"]
    assert tuning.notes[-1] == "The loader refused 1 worker: 1 asked for, 0 used: not on this system."
    assert len(tuning.notes) == 3 and tuning.words().startswith("Leave it at 0 workers.")


def test_other_warnings_of_the_factory_are_passed_on(clock: Clock, step: Any) -> None:
    def factory(num_workers: int) -> Simulated:
        warnings.warn("old settings", stacklevel=2)
        return Simulated(clock, MS, 0, None)

    with pytest.warns(UserWarning, match="old settings"):
        quiet(factory, step(MS), num_workers=[0])


def test_progress_names_the_setting(clock: Clock, step: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tune(Factory(clock, MS), step(5 * MS), num_workers=[1], prefetch_factor=[2], seconds=3)
    shown = capsys.readouterr().err
    assert "1 worker, 2 ahead" in shown and "of 3 s" in shown


# -- fetching, and real loaders --------------------------------------------------------------------------------


class Rows(Dataset[torch.Tensor]):
    """A row takes 1 ms."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> torch.Tensor:
        self.clock.now += 1 * MS
        return torch.tensor(index)


class Batches(Rows):
    """And eight of them at once 2 ms."""

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        self.clock.now += 2 * MS
        return [torch.tensor(index) for index in indices]


def test_what_fetching_whole_batches_is_worth(clock: Clock, step: Any) -> None:
    """2 + 2 ms against 8 + 2 ms."""
    factory = partial(DataLoader, Batches(clock), batch_size=8, drop_last=True)
    tuning = quiet(factory, step(2 * MS), num_workers=[0], seconds=5)
    assert tuning.row_by_row is not None and tuning.row_by_row.median == pytest.approx(0.4, rel=0.001)
    assert "by __getitems__ makes it 2.50 times (middle half" in tuning.words() and tuning.batch_fetching is True
    assert tuning.recommended == {"num_workers": 0, "prefetch_factor": None, "pin_memory": False}


def test_a_dataset_that_builds_row_by_row_is_told_what_to_try(clock: Clock, step: Any) -> None:
    factory = partial(DataLoader, Rows(clock), batch_size=10)
    for seconds, words in ((2 * MS, "83% of its time on fetching, row by row"), (0.8, "could save no more than that")):
        tuning = quiet(factory, step(seconds), num_workers=[0], seconds=5)
        assert words in tuning.words() and "__getitems__" in tuning.words()
        assert (tuning.batch_fetching, tuning.row_by_row) == (False, None)


def test_batches_are_moved_to_the_device(clock: Clock) -> None:
    """ "meta" is a device that every machine has."""
    tensor, seen = torch.zeros(2), []
    for batch in ({"input_ids": tensor}, [tensor, (tensor, 3)], tensor):
        quiet(
            lambda num_workers, batch=batch: [batch],
            lambda b: (clock.sleep(MS), seen.append(b)),
            device="meta",
            num_workers=[0],
            seconds=1,
        )
    assert seen[0]["input_ids"].device.type == "meta"
    by_kind = {type(batch): batch for batch in seen}
    assert by_kind[list][0].device.type == by_kind[list][1][0].device.type == "meta" and by_kind[list][1][1] == 3
    assert by_kind[torch.Tensor].device.type == "meta" and tensor.device.type == "cpu"


def test_the_device_is_waited_for_at_both_ends_of_a_measurement(
    clock: Clock, step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    monkeypatch.setattr(
        torch.accelerator, "synchronize", lambda device: (waits.append(clock.now), clock.sleep(50 * MS))
    )
    tuning = quiet(lambda num_workers: [1], step(10 * MS), num_workers=[0], seconds=1, device="meta")
    assert len(waits) == 2 + 2 * len(tuning.trials[0].seconds)  # one measurement, not counted, says how long a fetch is
    assert tuning.trials[0].seconds[0] == pytest.approx(
        10 * MS + 50 * MS / 10, rel=0.1
    )  # the second wait belongs to it
    waits.clear()
    quiet(lambda num_workers: [1], step(10 * MS), num_workers=[0], seconds=1)
    assert not waits


def test_real_workers_from_end_to_end() -> None:
    """Stored tokens: whatever this machine does in a second, the loaders run, and nothing is left of them."""
    train, val = (TokenStore.from_token_ids([k % 50 for k in range(n)], vocab_size=50) for n in (40_001, 4_001))
    method = "spawn" if sys.platform == "win32" else None
    seen, made = [], []  # a loader that someone keeps would keep its workers too

    def factory(**settings: Any) -> Any:
        start_method = method if settings["num_workers"] else None
        made.append(create_dataloaders(train, val, None, 8, 32, start_method=start_method, **settings)[0])
        return made[-1]

    tuning = quiet(factory, lambda batch: seen.append(batch["input_ids"].shape), num_workers=[1], seconds=1)
    assert [str(trial.setting) for trial in tuning.trials][:3] == [
        "0 workers",
        "0 workers, row by row",
        "1 worker, 2 ahead",
    ]
    assert set(seen) == {(8, 32)} and tuning.batch_fetching is True and not tuning.notes
    assert all(len(trial.gains) == len(trial.seconds) > 0 for trial in tuning.trials)
    assert tuning.recommended.keys() == {"num_workers", "prefetch_factor", "pin_memory"}
    assert not multiprocessing.active_children()


# -- words -----------------------------------------------------------------------------------------------------


def test_a_report_worked_out_by_hand() -> None:
    first = Trial(setting=Setting(), seconds=(0.2, 0.2, 0.2), gains=(1.0, 1.0, 1.0), waiting=0.5)
    two = Setting(num_workers=2, prefetch_factor=4, pin_memory=True)
    other = Trial(setting=two, seconds=(0.2, 0.1, 0.05), gains=(1.0, 2.0, 4.0), waiting=0.25)
    tuning = Tuning(
        trials=(first, other),
        chosen=first,
        recommended={"num_workers": 0},
        batch_fetching=None,
        seconds_needed=None,
        notes=("A note.",),
    )
    assert (other.low, other.median, other.high) == (1.5, 2.0, 3.0)
    assert tuning.gains == {"0 workers": (1.0, 1.0, 1.0), "2 workers, 4 ahead, pinned": (1.0, 2.0, 4.0)}
    assert str(tuning).splitlines()[1:3] == [
        "0 workers                     1.00     1.00–1.00       3       50%  recommended",
        "2 workers, 4 ahead, pinned    2.00     1.50–3.00       3       25%",
    ]
    assert tuning.words() == (
        "Leave it at 0 workers: the best of the others, 2 workers, 4 ahead, pinned, makes 2.00 times (middle half of "
        "3 rounds: 1.50 to 3.00) the batches a second of 0 workers, which is not clear: it must be more than 5% and "
        "more than its spread leaves in doubt. With 0 workers the loop spends 50% of its time on fetching. A note."
    )
