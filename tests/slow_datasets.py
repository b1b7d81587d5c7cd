"""Datasets that take time, importable by workers."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

ROW_SECONDS = 0.001


class SlowRows(Dataset[Tensor]):
    """Row i is i, four times, and takes a millisecond at least."""

    def __len__(self) -> int:
        return 400

    def __getitem__(self, index: int) -> Tensor:
        time.sleep(ROW_SECONDS)
        return torch.full((4,), index)


class SlowStream(IterableDataset[Tensor]):
    """The same rows, one after another, from row `first` on."""

    first = 0

    def __iter__(self) -> Iterator[Tensor]:
        rows = SlowRows()
        return (rows[i] for i in range(self.first, len(rows)))


def begin_at_row_200(worker: int) -> None:
    """What a worker may do to its copy of a stream before it reads, as in PyTorch's manual."""
    get_worker_info().dataset.first = 200  # type: ignore[union-attr]
