"""What the tuner found: settings, their gains and spread, the recommendation in words. Measures nothing.

A gain is a ratio: the batches a second of a setting over those of 0 workers, measured in the same round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CLEAR_GAIN = 1.05  # less is not worth processes and memory
# The standard error of a median is 0.93 times the spread between quartiles over sqrt(n), for normal noise. With 2.2,
# settings that are alike are told apart by mistake in about 1 of 20 comparisons of 6 rounds, and in fewer of more.
_DOUBT = 2.2


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """A quarter of the values lies below the first, half below the second, three quarters below the third.

    >>> quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
    (2.0, 3.0, 4.0)
    """
    low, median, high = np.percentile(values, [25, 50, 75])
    return float(low), float(median), float(high)


def clearly_faster(gains: Sequence[float]) -> bool:
    """Whether the median gain is more than 5% and more than the spread leaves in doubt, of two rounds at least.

    The median of n rounds is in doubt by `_DOUBT / sqrt(n)` of their spread, so more rounds make a gain clearer.
    Gains are ratios, so the spread is the ratio of the upper to the lower quartile, and its share a power.

    >>> clearly_faster([1.2, 1.2, 1.3]), clearly_faster([0.8, 1.2, 1.6]), clearly_faster([1.04, 1.04, 1.04])
    (True, False, False)
    """
    low, median, high = quartiles(gains)
    doubt = (high / low) ** (_DOUBT / math.sqrt(len(gains)))
    return len(gains) > 1 and median > max(CLEAR_GAIN, doubt)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to make a loader. `row_by_row` hides the dataset's `__getitems__`, to see what it is worth.

    >>> print(Setting(num_workers=2, prefetch_factor=4))
    2 workers, 4 ahead
    """

    num_workers: int = 0
    prefetch_factor: int | None = None
    pin_memory: bool = False
    row_by_row: bool = False

    def __str__(self) -> str:
        name = f"{self.num_workers} worker" + "s" * (self.num_workers != 1)
        name += f", {self.prefetch_factor} ahead" if self.prefetch_factor else ""
        return name + ", pinned" * self.pin_memory + ", row by row" * self.row_by_row


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one setting did.

    Attributes:
        seconds: for one batch and its step, in each round it was measured in.
        gains: its batches a second over those of 0 workers, in each of these rounds; at most what would be left
            of the time of 0 workers without their waiting, as a loader can save no more (unless it pins).
        waiting: share of the time, 0 to 1, in which the loop built a batch or waited for one; the median.
    """

    setting: Setting
    seconds: tuple[float, ...]
    gains: tuple[float, ...]
    waiting: float

    @property
    def low(self) -> float:
        """The lower quartile of the gains."""
        return quartiles(self.gains)[0]

    @property
    def median(self) -> float:
        """The gain."""
        return quartiles(self.gains)[1]

    @property
    def high(self) -> float:
        """The upper quartile of the gains."""
        return quartiles(self.gains)[2]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What was tried, and the simplest setting that nothing clearly beats; `print(tuning)` says it in words.

    Attributes:
        trials: the first is 0 workers, what the others are compared with.
        chosen: the trial that is recommended.
        recommended: the same as arguments: `loader_factory(**tuning.recommended)`.
        batch_fetching: whether the dataset builds whole batches, by `__getitems__`; None where that is not known.
        seconds_needed: None if every comparison had two rounds at least, else about the time that needs.
        notes: what could not be tried, a sentence each.
    """

    trials: tuple[Trial, ...]
    chosen: Trial
    recommended: dict[str, Any]
    batch_fetching: bool | None
    seconds_needed: int | None
    notes: tuple[str, ...]

    @property
    def gains(self) -> dict[str, tuple[float, ...]]:
        """The name of each setting -> its gain in each round, as `plots.plot_tuning` takes them."""
        return {str(trial.setting): trial.gains for trial in self.trials}

    @property
    def row_by_row(self) -> Trial | None:
        """0 workers with the dataset's `__getitems__` hidden; None where that was not tried."""
        return next((trial for trial in self.trials if trial.setting.row_by_row), None)

    def words(self) -> str:
        """The recommendation, its gain and spread, and what was not tried."""
        words = [self._on_workers(), self._on_fetching(), *self.notes]
        if self.seconds_needed is not None:
            words.insert(0, f"Too few rounds to be trusted: give it seconds={self.seconds_needed}.")
        return " ".join(words)

    def _on_workers(self) -> str:
        first, name = self.trials[0], str(self.chosen.setting)
        if self.chosen.setting.num_workers:
            return f"Use {name}: {_said(self.chosen.gains)} the batches a second of {first.setting}."
        words = f"Leave it at {name}"
        if self.chosen is not first:
            words += f", {_said(self.chosen.gains)} the batches a second of {first.setting}"
        others = [t for t in self.trials if t not in (first, self.chosen) and not t.setting.row_by_row]
        if not others:
            return f"{words}."
        best = max(others, key=lambda trial: trial.median)
        words += f": the best of the others, {best.setting}, makes {_said(best.gains)} the batches a second"
        words += f" of {first.setting}"
        if self.chosen is first and best.median > 1:
            words += f", which is not clear: it must be more than {CLEAR_GAIN - 1:.0%} and more than its spread"
            words += " leaves in doubt"
        return f"{words}."

    def _on_fetching(self) -> str:
        first, rows = self.trials[0], self.row_by_row
        share = f"With {first.setting} the loop spends {first.waiting:.0%} of its time on fetching"
        if rows is not None:
            words = f"{share}; fetching whole batches by __getitems__ makes it "
            words += f"{_said([1 / gain for gain in rows.gains])} as fast as row by row"
            return words + (", which is to be preferred here." if clearly_faster(rows.gains) else ".")
        if self.batch_fetching is not False:
            return f"{share}."
        worth = "may save much of that without a worker" if first.waiting >= 0.1 else "could save no more than that"
        return f"{share}, row by row: a __getitems__ in the dataset that builds whole batches {worth}."

    def __str__(self) -> str:
        width = max(len(str(trial.setting)) for trial in self.trials)
        lines = [f"{'':{width}}  {'gain':>6}  {'middle half':>12}  rounds  fetching"]
        for trial in self.trials:
            line = f"{trial.setting!s:{width}}  {trial.median:>6.2f}  {f'{trial.low:.2f}–{trial.high:.2f}':>12}"
            line += f"  {len(trial.gains):>6}  {trial.waiting:>8.0%}"
            lines.append(line + "  recommended" * (trial is self.chosen))
        return "\n".join([*lines, self.words()])


def _said(gains: Sequence[float]) -> str:
    """A gain with its spread."""
    low, median, high = quartiles(gains)
    rounds = f"middle half of {len(gains)} rounds: " if len(gains) > 1 else "1 round: "
    return f"{median:.2f} times ({rounds}{low:.2f} to {high:.2f})"
