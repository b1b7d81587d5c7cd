"""Datasets that make work for workers: rows tokenized when asked for, rows that wait, rows with noise.

They stand in a module so that a worker process can import them. Measures nothing and starts no process.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mt_core.arguments import check_count
from mt_core.dataset import Batch
from mt_core.tokenizer import MicroTransformerTokenizer
from mt_core.windows import IGNORE

NOISE = 1000  # a draw of `NoisyRows` is a whole number from 0 below this


class TokenizedRows(Dataset[Batch]):
    """One text a row, tokenized anew each time it is asked for: {"input_ids": int64 (T,), "labels": int64 (T,)}.

    The rows are those of `TransformerDataset(…, chunking="per_document")` over the same texts: filled up with the
    padding token, label -100.

    Args:
        texts: one string for each row.
        tokenizer: turns a text into [CLS] its tokens [SEP].
        seq_length: T.

    Raises:
        ValueError: on access, a text has more than T + 1 tokens and does not fit one row.
    """

    def __init__(self, texts: Sequence[str], tokenizer: MicroTransformerTokenizer, seq_length: int) -> None:
        check_count("seq_length", seq_length)
        self.texts, self.tokenizer, self.seq_length = list(texts), tokenizer, seq_length

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Batch:
        ids = self.tokenizer.token_ids(self.texts[index])
        n_targets = len(ids) - 1
        if n_targets > self.seq_length:
            raise ValueError(
                f"text {index} has {len(ids)} tokens, one row of seq_length={self.seq_length} holds "
                f"{self.seq_length + 1}: raise seq_length to {n_targets}, or shorten the text"
            )
        input_ids = torch.full((self.seq_length,), self.tokenizer.pad_token_id)
        labels = torch.full((self.seq_length,), IGNORE)
        input_ids[:n_targets] = torch.tensor(ids[:-1])
        labels[:n_targets] = torch.tensor(ids[1:])
        return {"input_ids": input_ids, "labels": labels}


class WaitingRows(Dataset[Any]):
    """The rows of another dataset, each batch of them after a wait, as from a slow disk. Waiting uses no processor.

    Args:
        rows: a dataset that gives a batch at once, such as `TransformerDataset` (`__getitems__`).
        seconds: how long each batch takes; 0 or more.

    Raises:
        ValueError: seconds is negative.
    """

    def __init__(self, rows: Any, seconds: float) -> None:
        if seconds < 0:
            raise ValueError(f"seconds={seconds!r}, a time of 0 or more is needed")
        self.rows, self.seconds = rows, seconds

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> Any:
        time.sleep(self.seconds)
        return self.rows.__getitems__(indices)


class NoisyRows(Dataset[Tensor]):
    """Rows of nothing but noise, drawn in three ways: row i is int64 (4,), i and three numbers from 0 below 1000.

    The three are drawn from a generator that is part of the dataset (`generator`), from PyTorch's global generator,
    which a loader seeds in each worker, and from one that is made anew from (seed, epoch, row).

    Args:
        n: how many rows.
        seed: of the first and the third; a whole number from 0.
    """

    def __init__(self, n: int, *, seed: int = 0) -> None:
        check_count("n", n)
        self.n, self.seed, self.epoch = n, seed, 0
        self.generator = random.Random(seed)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Tensor:
        kept = self.generator.randrange(NOISE)
        of_the_worker = int(torch.randint(NOISE, ()))
        keyed = int(np.random.default_rng((self.seed, self.epoch, index)).integers(NOISE))
        return torch.tensor([index, kept, of_the_worker, keyed])


@contextmanager
def silent_workers() -> Iterator[None]:
    """Inside, what this process and the workers it starts write to standard error goes nowhere.

    Python's own `sys.stderr` may be something else, as it is in a notebook; that stays as it is.
    """
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
