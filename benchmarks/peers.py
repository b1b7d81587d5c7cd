"""The speed table of `bench_loader.py`: the contenders, each in its plainest form, timed in turns.

Every contender is a function that returns an endless iterator of batches {"input_ids": int64 (B, T),
"labels": int64 (B, T)} in shuffled order, `num_workers=0`, nothing pinned, and starts the next epoch by itself.
Shapes: B = batch_size, T = seq_length. Does not print.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch.utils.data import DataLoader, Dataset

from mt_core import TokenLoader, TokenStore, TransformerDataset
from mt_core.windows import IGNORE

SHAPES = ((16, 128), (32, 1024), (64, 2048))  # (B, T)
NEEDED_RATIO = 0.6  # of the bare gather
IN_MEMORY_TOKENS = 1_000_000  # at most, for contenders that keep Python objects

Batch = dict[str, Any]  # of tensors, but for the bare gather, which stops at NumPy arrays


def bare_gather(store: TokenStore, batch_size: int, seq_length: int) -> Iterator[Batch]:
    """The yardstick: the least NumPy can do. One gather from the map, two widenings; the order lies ready."""
    view = sliding_window_view(store.token_ids, seq_length + 1)
    starts = np.random.default_rng(0).permutation((len(store) - 1) // seq_length) * seq_length
    while True:
        for first in range(0, len(starts) - batch_size + 1, batch_size):
            window = view[starts[first : first + batch_size]]  # (B, T + 1)
            yield {"input_ids": window[:, :-1].astype(np.int64), "labels": window[:, 1:].astype(np.int64)}


def token_loader(store: TokenStore, batch_size: int, seq_length: int) -> Iterator[Batch]:
    """Ours: `TokenLoader`, what `create_dataloaders` returns for training."""
    dataset = TransformerDataset(store, seq_length=seq_length)
    return endless(TokenLoader(dataset, batch_size=batch_size, shuffle=True, drop_last=True, pin_memory=False))


def plain_loader_over_our_dataset(store: TokenStore, batch_size: int, seq_length: int) -> Iterator[Batch]:
    """Our dataset in PyTorch's own loader, with PyTorch's own sampler and collate function."""
    dataset = TransformerDataset(store, seq_length=seq_length)
    return endless(DataLoader(dataset, batch_size=batch_size, shuffle=True, drop_last=True))


class RowDataset(Dataset[Batch]):
    """One row at a time from the map, as most datasets are written."""

    def __init__(self, store: TokenStore, seq_length: int) -> None:
        self.token_ids, self.seq_length = store.token_ids, seq_length

    def __len__(self) -> int:
        return (len(self.token_ids) - 1) // self.seq_length

    def __getitem__(self, index: int) -> Batch:
        start = index * self.seq_length
        row = torch.from_numpy(self.token_ids[start : start + self.seq_length + 1].astype(np.int64))  # (T + 1,)
        return {"input_ids": row[:-1], "labels": row[1:]}


def row_by_row(store: TokenStore, batch_size: int, seq_length: int) -> Iterator[Batch]:
    """A dataset of single rows, stacked by the default collate function."""
    return endless(DataLoader(RowDataset(store, seq_length), batch_size=batch_size, shuffle=True, drop_last=True))


def stateful_loader(store: TokenStore, batch_size: int, seq_length: int) -> Iterator[Batch]:
    """The same dataset in torchdata's loader.

    Raises:
        ImportError: torchdata is not installed; it is no dependency of this project.
    """
    from torchdata.stateful_dataloader import StatefulDataLoader

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'set_vital' is deprecated")  # torchdata 0.11 calls what torch 2.13 gives up
        loader = StatefulDataLoader(RowDataset(store, seq_length), batch_size=batch_size, shuffle=True, drop_last=True)
    return endless(loader)


class ReadyRowDataset(Dataset[Batch]):
    """Every row made a tensor beforehand and kept: nothing is left to do but to stack. 16 bytes a token."""

    def __init__(self, store: TokenStore, seq_length: int) -> None:
        rows = RowDataset(store, seq_length)
        self.rows = [rows[index] for index in range(len(rows))]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        return self.rows[index]


def ready_rows(store: TokenStore, batch_size: int, seq_length: int) -> Iterator[Batch]:
    """Rows that are tensors in memory already, stacked by the default collate function."""
    return endless(DataLoader(ReadyRowDataset(store, seq_length), batch_size=batch_size, shuffle=True, drop_last=True))


def random_offsets(store: TokenStore, batch_size: int, seq_length: int) -> Iterator[Batch]:
    """In the manner of nanoGPT's `get_batch`: offsets drawn with replacement, so there are no epochs; a slice
    for each row; the map opened again for each batch, so that its pages never add up."""
    assert store.path is not None
    while True:
        token_ids = np.memmap(store.path / "token_ids.bin", dtype=store.token_ids.dtype, mode="r")
        starts = torch.randint(len(token_ids) - seq_length, (batch_size,)).tolist()
        inputs = [torch.from_numpy(token_ids[i : i + seq_length].astype(np.int64)) for i in starts]
        labels = [torch.from_numpy(token_ids[i + 1 : i + 1 + seq_length].astype(np.int64)) for i in starts]
        yield {"input_ids": torch.stack(inputs), "labels": torch.stack(labels)}


class ListDataset(Dataset[Batch]):
    """All tokens in one Python list, and a row from each token on: stride 1."""

    def __init__(self, store: TokenStore, seq_length: int) -> None:
        self.token_ids, self.seq_length = store.token_ids.tolist(), seq_length

    def __len__(self) -> int:
        return len(self.token_ids) - self.seq_length

    def __getitem__(self, index: int) -> Batch:
        row = self.token_ids[index : index + self.seq_length + 1]
        return {"input_ids": torch.tensor(row[:-1]), "labels": torch.tensor(row[1:])}


def python_list(store: TokenStore, batch_size: int, seq_length: int) -> Iterator[Batch]:
    """A list with stride 1, stacked by the default collate function."""
    return endless(DataLoader(ListDataset(store, seq_length), batch_size=batch_size, shuffle=True, drop_last=True))


def endless(loader: Iterable[Batch]) -> Iterator[Batch]:
    """Epoch after epoch of one loader."""
    while True:
        yield from loader


Contender = Callable[[TokenStore, int, int], Iterator[Batch]]
BARE, OURS = "bare NumPy gather", "mt_core TokenLoader"
ON_DISK: dict[str, Contender] = {
    BARE: bare_gather,
    OURS: token_loader,
    "DataLoader over our dataset": plain_loader_over_our_dataset,
    "DataLoader over single rows": row_by_row,
    "torchdata StatefulDataLoader": stateful_loader,
    "nanoGPT's way, random offsets": random_offsets,
}
IN_MEMORY: dict[str, Contender] = {
    "rows kept as ready tensors": ready_rows,
    "Python list, stride 1": python_list,
}


def measure_speed(
    store: TokenStore, small: TokenStore, *, rounds: int, seconds: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """One record for each shape and contender, and the names of contenders that are not installed.

    Args:
        store: the corpus, mapped.
        small: for contenders that keep theirs in memory.
        rounds: in each round every contender runs once; a ratio compares figures of one round.
        seconds: about how long each runs in a round.
    """
    contenders = {name: (start, store) for name, start in ON_DISK.items()}
    contenders |= {name: (start, small) for name, start in IN_MEMORY.items()}
    records, skipped = [], []
    for batch_size, seq_length in SHAPES:
        running: dict[str, Iterator[Batch]] = {}
        for name, (start, source) in contenders.items():
            try:
                running[name] = start(source, batch_size, seq_length)
            except ImportError:
                if name not in skipped:
                    skipped.append(name)
                continue
            check_batch(name, next(running[name]), batch_size, seq_length)
        counts = {name: batches_in(batches, seconds) for name, batches in running.items()}
        rates: dict[str, list[float]] = {name: [] for name in running}  # tokens per second, one a round
        names = list(running)
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:  # everyone runs early in some rounds and late in others
                took = time_of(running[name], counts[name])
                rates[name].append(counts[name] * batch_size * seq_length / took)
        for name in names:
            ratios = np.array(rates[name]) / np.array(rates[BARE])
            low, middle, high = np.percentile(ratios, (25, 50, 75)).tolist()
            records.append(
                {
                    "contender": name,
                    "batch_size": batch_size,
                    "seq_length": seq_length,
                    "corpus_tokens": len(contenders[name][1]),
                    "batches_each_round": counts[name],
                    "tokens_per_second": float(np.median(rates[name])),
                    "ratio": middle,
                    "ratio_quartiles": [low, high],
                    "ratios": ratios.tolist(),
                    "passes": None if name == BARE else middle >= NEEDED_RATIO,
                }
            )
    return records, skipped


def check_batch(name: str, batch: Batch, batch_size: int, seq_length: int) -> None:
    """Every contender does the same work, or its time says nothing.

    One row may have ignored labels: the last of the corpus, where its targets were in the row before already.
    """
    inputs, labels = np.asarray(batch["input_ids"]), np.asarray(batch["labels"])
    assert inputs.shape == labels.shape == (batch_size, seq_length), f"{name} gives another shape"
    assert inputs.dtype == labels.dtype == np.int64, f"{name} gives another type"
    other = inputs[:, 1:] != labels[:, :-1]  # (B, T - 1)
    assert (labels[:, :-1][other] == IGNORE).all(), f"{name} gives labels that are not the next inputs"
    assert other.any(axis=1).sum() <= 1, f"{name} ignores labels of several rows"
    assert len(np.unique(inputs[:, 0])) > 1, f"{name} repeats one row"


def batches_in(batches: Iterator[Batch], seconds: float) -> int:
    """How many batches come in about `seconds`; this is the warm-up too."""
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        next(batches)
        count += 1
    return count


def time_of(batches: Iterator[Batch], count: int) -> float:
    """Seconds that `count` batches take. As in a training loop, one is still held while the next is made."""
    start = time.perf_counter()
    for _ in islice(batches, count):
        pass
    return time.perf_counter() - start
