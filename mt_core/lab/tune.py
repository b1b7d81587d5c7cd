"""Which loader settings are fastest on this machine, with this step: tried out. Changes no loader, follows no rule.

`tune_bench` measures, `tune_arm` keeps one loader going, `tune_report` has the words.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mt_core.arguments import check_number
from mt_core.lab.tune_arm import TuningError
from mt_core.lab.tune_bench import Bench, usable_cores
from mt_core.lab.tune_report import Setting, Trial, Tuning
from mt_core.workers import choose_pinning

__all__ = ["Setting", "Trial", "Tuning", "TuningError", "tune"]

_NAMES = ("num_workers", "prefetch_factor", "pin_memory")
_MOST_WORKERS = 16  # unless more are asked for: the workers of all settings are there at the same time


def tune(
    loader_factory: Callable[..., Any],
    step: Callable[[Any], object],
    *,
    num_workers: Sequence[int] | None = None,
    prefetch_factor: Sequence[int] = (2, 4),
    pin_memory: Sequence[bool] | None = None,
    seconds: float = 60.0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Tuning:
    """Try loader settings for a bounded time and recommend the simplest that none clearly beats.

    First the numbers of workers are compared, then, for the best of them, the prefetch factors, then pinning.

    Args:
        loader_factory: called as `loader_factory(num_workers=…, prefetch_factor=…, pin_memory=…)`, of which it may
            lack the last two; makes a new loader each time: anything that can be iterated over again and again.
        step: called with each batch. A training step trains: give it a model that may be changed.
        num_workers: what to try; 0 always is. None: 1, 2, 4, … up to the cores of this machine, at most 16.
        prefetch_factor: what to try; the first is used while numbers of workers are compared.
        pin_memory: what to try. None: False, and True where an accelerator copies from pinned memory.
        seconds: when to stop. A round that is running then is finished.
        device: where batches are moved before the step; it is waited for at both ends of a measurement.
        progress: show a bar with the setting being tried.

    Raises:
        ValueError: an argument that cannot be.
        TuningError: the factory, a loader or the step failed; says with which setting. Workers are closed then too.
    """
    asks = _asks(loader_factory)
    counts = _checked("num_workers", _worker_counts() if num_workers is None else num_workers, least=0)
    ahead: list[Any] = _checked("prefetch_factor", prefetch_factor, least=1) if "prefetch_factor" in asks else [None]
    if pin_memory is None:
        pin_memory = (False, True) if choose_pinning(None) else (False,)
    if not isinstance(pin_memory, Iterable) or any(pin not in (False, True) for pin in pin_memory):
        raise ValueError(f"pin_memory={pin_memory!r}, a list of False or True or both is needed")
    pins = sorted(set(map(bool, pin_memory))) if "pin_memory" in asks else [False]
    if not pins:
        raise ValueError("pin_memory is empty: name what to try, False or True or both")
    check_number("seconds", seconds, lambda value: 0 < value < math.inf, "a number above 0")
    notes = [f"The factory takes no {name}: left as it is." for name in _NAMES if name not in asks]
    bench = Bench(loader_factory, step, asks, device=device, seconds=seconds, notes=notes, progress=progress)
    with bench:
        first = Setting(pin_memory=pins[0])
        bench.open_reference(first)
        # The comparisons that follow the first share the time with it. Pinning delays the step only without workers.
        later = (len(ahead) > 1 and max(counts) > 0) + (len(pins) > 1)
        some = [Setting(num_workers=n, prefetch_factor=ahead[0], pin_memory=pins[-1]) for n in counts if n]
        best = bench.compare([first, *some], first, share=2 / (2 + later))
        if best.num_workers and len(ahead) > 1:
            tried = [replace(best, prefetch_factor=k) for k in ahead]
            best = bench.compare(tried, best, share=1 / (1 + (len(pins) > 1)))
        if len(pins) > 1:
            best = bench.compare([replace(best, pin_memory=pin) for pin in pins], best, share=1)
        trials = bench.trials()
    return Tuning(
        trials=trials,
        chosen=next(trial for trial in trials if trial.setting == best),
        recommended={name: getattr(best, name) for name in asks},
        batch_fetching=bench.fetches_batches,
        seconds_needed=bench.seconds_needed,
        notes=tuple(notes),
    )


def _asks(loader_factory: Callable[..., Any]) -> list[str]:
    """The settings that a factory takes by name."""
    try:
        parameters = inspect.signature(loader_factory).parameters.values()
    except (TypeError, ValueError):  # built in: it does not say
        return list(_NAMES)
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    asks = [name for name in _NAMES if name in named or any(p.kind is p.VAR_KEYWORD for p in parameters)]
    if "num_workers" not in asks:
        raise ValueError(
            "loader_factory takes no num_workers, so there is nothing to compare: "
            "lambda **settings: create_dataloaders(…, **settings)[0]"
        )
    return asks


def _checked(name: str, values: Iterable[int], *, least: int) -> list[int]:
    """Each value once, in order."""
    asked = list(values) if isinstance(values, Iterable) else []
    whole = (isinstance(value, int | np.integer) and not isinstance(value, bool) for value in asked)
    if not asked or not all(whole) or min(asked) < least:
        raise ValueError(f"{name}={values!r}, whole numbers from {least} are needed, in a list, one at least")
    return sorted({int(value) for value in asked})


def _worker_counts() -> list[int]:
    """0, 1, 2, 4, … up to the cores that this process may use."""
    most = min(usable_cores(), _MOST_WORKERS)
    return [0] + [n for n in (1, 2, 4, 8, 16) if n <= most]
