"""What recording a timeline costs: `python benchmarks/bench_timeline.py`.

The same batches go through the same step with and without `record`, turn by turn in one run; the figure is the ratio
of the wall times, less one. No test looks at it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median, quantiles

import numpy as np
import torch

from mt_core import MicroTransformer, TokenLoader, TokenStore, TransformerDataset
from mt_core.lab.timeline import record
from mt_core.training import loss_of

VOCAB_SIZE, ROUNDS = 1024, 15


def bare(loader: TokenLoader, step: Callable[[dict[str, torch.Tensor]], object], n_batches: int, skip: int) -> float:
    """Seconds for `n_batches` batches after `skip`, without a timeline."""
    batches = iter(loader)
    for _ in range(skip):
        step(next(batches))
    start = time.perf_counter()
    for _ in range(n_batches):
        step(next(batches))
    return time.perf_counter() - start


def main() -> None:
    """Print a table: the overhead of recording, median and quartiles over the rounds."""
    torch.set_num_threads(1)
    ids = np.random.default_rng(0).integers(0, VOCAB_SIZE, 4_000_000, dtype=np.uint16)
    dataset = TransformerDataset(TokenStore.from_token_ids(ids, vocab_size=VOCAB_SIZE), seq_length=128)
    model = MicroTransformer(vocab_size=VOCAB_SIZE, n_layer=2, n_embd=64)

    def train(batch: dict[str, torch.Tensor]) -> None:
        model.zero_grad()
        loss_of(model, batch).backward()

    def nothing(batch: dict[str, torch.Tensor]) -> None:
        pass

    print(f"{'workers':>7}  {'step':<22}{'batches':>8}  {'overhead of recording':<30}")
    for workers, step, n in ((0, train, 20), (2, train, 20), (0, nothing, 1500), (2, nothing, 500)):
        name = "a small model's" if step is train else "none: the loader alone"
        loader = TokenLoader(
            dataset, batch_size=16, shuffle=True, num_workers=workers, prefetch_factor=2, persistent_workers=False
        )
        skip = 2 + 2 * workers
        ratios = []
        for turn in range(ROUNDS):
            first, second = (True, False) if turn % 2 else (False, True)
            took = {}
            for recording in (first, second):
                if recording:
                    took[recording] = record(loader, step, n, skip=skip).wall
                else:
                    took[recording] = bare(loader, step, n, skip)
            ratios.append(took[True] / took[False] - 1)
        low, _, high = quantiles(ratios, n=4)
        print(
            f"{workers:>7}  {name:<22}{n:>8}  {median(ratios):+.1%}  (quartiles {low:+.1%} to {high:+.1%})", flush=True
        )


if __name__ == "__main__":
    main()
