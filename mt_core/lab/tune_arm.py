"""A loader under trial: the batches it gives, epoch after epoch, and the end of its workers. Measures nothing."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from mt_core.dataset import collate_rows
from mt_core.lab.tune_report import Setting
from mt_core.token_loader import TokenLoader


class TuningError(RuntimeError):
    """A loader or a step failed while a setting was tried."""


class Arm:
    """One setting under trial: its loader, the pass over it that is running, what was measured."""

    def __init__(self, setting: Setting, loader: Any) -> None:
        self.setting, self.loader = setting, loader
        self.seconds: dict[int, float] = {}  # for a batch and its step, by round
        self.waiting: dict[int, float] = {}  # the share of them in which a batch was built or waited for, by round
        self.started = False
        ahead = setting.prefetch_factor or getattr(loader, "prefetch_factor", None) or 2
        self.ahead = setting.num_workers * ahead  # batches that workers make before they are asked for
        try:
            self.ahead = min(self.ahead, len(loader))
        except TypeError:  # a loader without a length
            pass
        self.batches: Iterator[Any] = iter(())

    def next_batch(self) -> Any:
        """The next batch; after the last of an epoch the first of the next."""
        for batch in self.batches:
            return batch
        self.batches = iter(self.loader)
        for batch in self.batches:
            self.started = True
            return batch
        if self.started:
            raise ValueError("it gave no second epoch: make a loader that can be iterated over again and again")
        raise ValueError("it gave no batch")

    def gains(self, over: Arm) -> list[float]:
        """How many times the batches a second of another, in each round that both were measured in.

        No loader saves more than all the waiting of another: what goes beyond is noise in the step, and is cut off.
        Pinning is left out, as it also makes the copy to the device faster, which is part of the step.
        """
        cut = self.setting.pin_memory == over.setting.pin_memory
        return [
            min(over.seconds[k] / seconds, 1 / max(1 - over.waiting[k], 1e-9) if cut else math.inf)
            for k, seconds in self.seconds.items()
            if k in over.seconds
        ]

    def close(self) -> None:
        """End the workers, whoever else holds the loader."""
        if inspect.isgenerator(self.batches):
            self.batches.close()
        persistent = getattr(self.loader, "_iterator", None)  # where PyTorch keeps workers that stay
        for iterator in (self.batches, persistent):
            end = getattr(iterator, "_shutdown_workers", None)
            if end is not None:
                end()
        if persistent is not None:
            self.loader._iterator = None
        self.batches = iter(())


class _Rows(Dataset[Any]):
    """A dataset without its `__getitems__`."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]


def row_by_row(loader: DataLoader[Any]) -> DataLoader[Any]:
    """What a loader without workers delivers, each row fetched by itself."""
    if isinstance(loader, TokenLoader):
        loader.order.reader = "anyone"  # it is read from outside, and any epoch will do
    return DataLoader(
        _Rows(loader.dataset),
        batch_sampler=loader.batch_sampler,
        # Ours takes only batches that were gathered whole.
        collate_fn=default_collate if loader.collate_fn is collate_rows else loader.collate_fn,  # type: ignore
        pin_memory=loader.pin_memory,
        generator=torch.Generator(),
    )


def failed(what: str, setting: Setting, error: Exception) -> TuningError:
    """The last line says it: PyTorch puts the traceback of a worker before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    name = type(error).__name__
    return TuningError(f"{what} failed with {setting}: {last if last.startswith(name) else f'{name}: {last}'}")
