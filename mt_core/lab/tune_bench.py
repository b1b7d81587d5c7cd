"""Loader settings measured against one another, in rounds. Does not choose which to try.

Machines are noisy: a round measures each setting once, and only measurements of the same round are compared. The
loaders of all settings stay open from round to round. Before one is measured, the workers of the others get the time
to fill their queues, and what lies ready in its own is thrown away, so that what counts is what workers make while
they are measured, not what they had made before.
"""

from __future__ import annotations

import math
import os
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from mt_core.lab.tune_arm import Arm, TuningError, failed, row_by_row
from mt_core.lab.tune_report import Setting, Trial, clearly_faster

_LOST = 1.25  # this many times as slow as the best, in two rounds: not measured further
_ROUNDS = 16  # a measurement is made so long that there are about this many rounds, from 0.1 to 1 second
_PASSING_ON = 0.002  # seconds for a batch to come from a worker; for 32 x 1024 tokens about 0.001 was measured
_now, _sleep = time.perf_counter, time.sleep


class Bench:
    """The settings under trial: opened, measured in turn, closed whatever happens.

    Attributes:
        fetches_batches: whether the dataset builds whole batches, by `__getitems__`; None where that is not known.
        seconds_needed: None, or how long it takes to measure everything in two rounds.
    """

    def __init__(
        self,
        factory: Callable[..., Any],
        step: Callable[[Any], object],
        asks: Sequence[str],
        *,
        device: torch.device | str | None,
        seconds: float,
        notes: list[str],
        progress: bool,
    ) -> None:
        self.factory, self.step, self.asks, self.notes = factory, step, asks, notes
        self.device = None if device is None else torch.device(device)
        self.seconds, self.progress = seconds, progress
        self.fetches_batches: bool | None = None
        self.seconds_needed: int | None = None
        self.arms: list[Arm] = []  # all that were opened, the reference first
        self._round = 0
        self._fetch = 0.0  # seconds to build a batch, as the reference does it
        self._quiet = 0.0  # when all workers will have filled their queues
        self._bar: Any = None

    def __enter__(self) -> Bench:
        if self.progress:
            from tqdm.auto import tqdm  # here, as it may warn at import

            self._bar = tqdm(total=self.seconds, bar_format="{desc} {bar} {n:.0f} of {total:.0f} s")
        self._start = _now()
        return self

    def __exit__(self, *_: object) -> None:
        for arm in self.arms:
            arm.close()
        if self._bar is not None:
            self._bar.close()

    # -- opening -------------------------------------------------------------------------------------------

    def open_reference(self, setting: Setting) -> None:
        """What others are compared with; and, if its dataset builds whole batches, the same row by row."""
        loader = self._make(setting)
        arm = self._open(setting, loader)
        for _ in range(2):  # with the first, three: what is slow only at first is over
            self._run(arm)
        seconds, waiting = self._measure(arm, 0.1)
        self._fetch = seconds * waiting
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            return
        if loader.batch_sampler is None:  # the sampler gives the dataset what it makes a batch of
            return
        self.fetches_batches = bool(getattr(loader.dataset, "__getitems__", None))
        if not self.fetches_batches:
            return
        rows = row_by_row(self._make(setting))
        try:
            self._open(Setting(pin_memory=setting.pin_memory, row_by_row=True), rows)
        except TuningError as error:
            del self.arms[1:]
            self.notes.append(f"Fetching row by row could not be tried: {error}.")

    def _open(self, setting: Setting, loader: Any) -> Arm:
        self._show(setting)
        arm = Arm(setting, loader)
        self.arms.append(arm)
        self._run(arm)
        self._quiet = max(self._quiet, _now()) + self._filling(arm, math.inf)
        return arm

    def _opened(self, setting: Setting) -> Arm | None:
        """The arm of a setting; None, and a note, if the loader will not have that many workers."""
        for arm in self.arms:
            if arm.setting == setting:
                return arm
        loader = self._make(setting)
        got = getattr(loader, "num_workers", setting.num_workers)
        return self._open(setting, loader) if got == setting.num_workers else None

    def _make(self, setting: Setting) -> Any:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                loader = self.factory(**{name: getattr(setting, name) for name in self.asks})
            except Exception as error:
                raise failed("loader_factory", setting, error) from error
        if isinstance(loader, tuple):
            raise TuningError(
                f"loader_factory made a tuple of {len(loader)}, one loader is needed: "
                "lambda **settings: create_dataloaders(…, **settings)[0]"
            )
        if any(loader is arm.loader for arm in self.arms):
            raise TuningError("loader_factory gave a loader it had given before: it must make a new one each time")
        got = getattr(loader, "num_workers", setting.num_workers)
        if got != setting.num_workers:
            reason = str(caught[0].message).rstrip(".") if caught else f"it has num_workers={got}"
            if not any(note.startswith("The loader refused") for note in self.notes):
                self.notes.append(f"The loader refused {setting}: {reason}.")
            return loader
        for warning in caught:
            warnings.warn(warning.message, warning.category, stacklevel=2)
        return loader

    # -- measuring -----------------------------------------------------------------------------------------

    def compare(self, settings: Sequence[Setting], best: Setting, *, share: float) -> Setting:
        """The simplest setting that none clearly beats, measured in rounds for a share of the time that is left.

        Args:
            settings: the simplest first.
            best: so far; the answer if no time is left.
            share: 0 to 1.
        """
        begun = _now() if self._round else self._start
        until = begun + share * (self._start + self.seconds - begun)
        if begun >= until:
            self._needs(2 * (begun - self._start))
            return best
        tried = [arm for setting in settings if (arm := self._opened(setting))]
        kept = self.arms[:1] + [arm for arm in self.arms[1:] if arm in tried or not self._round]
        for arm in self.arms:
            if arm not in kept:
                arm.close()
        opened, rounds, running = _now(), 0, kept
        window = min(1.0, max(0.1, (until - opened) / (_ROUNDS * len(running))))
        while not rounds or (_now() < until and (rounds < 2 or len(running) > 1)):
            for arm in running[:: -1 if rounds % 2 else 1]:  # there and back: what drifts cancels
                arm.seconds[self._round], arm.waiting[self._round] = self._measure(arm, window)
            self._round, rounds = self._round + 1, rounds + 1
            if rounds == 2:
                running = self._without_losers(running)
        if rounds < 2:
            self._needs(self.seconds * (opened - begun + 2 * (_now() - opened)) / (until - begun))
            return best
        chosen = tried[0]
        for arm in tried[1:]:
            if clearly_faster(arm.gains(chosen)):
                chosen = arm
        return chosen.setting

    def trials(self) -> tuple[Trial, ...]:
        """What was measured, in the order of opening."""
        return tuple(
            Trial(
                setting=arm.setting,
                seconds=tuple(arm.seconds.values()),
                gains=tuple(arm.gains(self.arms[0])),
                waiting=float(np.median(list(arm.waiting.values()))),
            )
            for arm in self.arms
        )

    def _measure(self, arm: Arm, window: float) -> tuple[float, float]:
        """Seconds for a batch and its step, and the share of them that went into getting the batch."""
        self._show(arm.setting)
        _sleep(max(0.0, self._quiet - _now()))
        for _ in range(arm.ahead):  # these lie ready: they say nothing
            self._next(arm)
        self._run(arm)
        self._synchronize()
        start, waited, n = _now(), 0.0, 0
        while True:
            waited += self._run(arm)
            n += 1
            elapsed = _now() - start
            # Workers that keep the step waiting deliver in bursts, one batch from each: only whole bursts count.
            whole = n % max(1, arm.setting.num_workers) == 0 or waited < 0.05 * elapsed
            if elapsed >= window and n > 1 and whole:
                break
        self._synchronize()
        elapsed = _now() - start
        self._quiet = _now() + self._filling(arm, elapsed / n)
        return elapsed / n, waited / elapsed

    def _filling(self, arm: Arm, each: float) -> float:
        """Seconds until the workers of an arm have filled their queues, and disturb no other, at most.

        When a batch is taken every `each` seconds and none is ever ready, workers make one in that time.
        """
        at_once = max(1, min(arm.setting.num_workers, usable_cores()))
        return arm.ahead * min(each, 2 * self._fetch / at_once + _PASSING_ON)

    def _without_losers(self, arms: list[Arm]) -> list[Arm]:
        """Those that another setting has not left behind in each of the last two rounds; the reference stays."""
        last = list(self.arms[0].seconds)[-2:]
        lost = [
            arm
            for arm in arms[1:]
            if any(
                all(arm.seconds[k] > _LOST * other.seconds[k] for k in last)
                for other in arms
                if not other.setting.row_by_row
            )
        ]
        for arm in lost:
            arm.close()
        return [arm for arm in arms if arm not in lost]

    def _run(self, arm: Arm) -> float:
        """One batch and its step; the seconds the batch took."""
        asked = _now()
        batch = self._next(arm)
        waited = _now() - asked
        try:
            self.step(batch if self.device is None else _moved(batch, self.device))
        except Exception as error:
            raise failed("the step", arm.setting, error) from error
        return waited

    def _next(self, arm: Arm) -> Any:
        try:
            return arm.next_batch()
        except Exception as error:
            if arm.setting.num_workers:
                traceback.clear_frames(error.__traceback__)  # they may hold the workers, which are to end
            raise failed("the loader", arm.setting, error) from error

    def _synchronize(self) -> None:
        here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        if here is not None and self.device is not None and self.device.type == here.type:
            torch.accelerator.synchronize(self.device)

    def _needs(self, seconds: float) -> None:
        self.seconds_needed = max(self.seconds_needed or 0, math.ceil(1.5 * seconds))

    def _show(self, setting: Setting) -> None:
        if self._bar is not None:
            self._bar.n = min(_now() - self._start, self.seconds)
            self._bar.set_description_str(f"{setting!s:24}")


def _moved(batch: Any, device: torch.device) -> Any:
    """A batch on a device: tensors, and mappings, lists and tuples of them."""
    if hasattr(batch, "to"):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {name: _moved(part, device) for name, part in batch.items()}
    if isinstance(batch, list | tuple):
        parts = [_moved(part, device) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
