"""Training steps by the timeline: how fast, how much waiting, and the largest batch that fits. Keeps no model."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mt_core.dataset import TransformerDataset
from mt_core.evaluation import evaluate
from mt_core.lab import timeline
from mt_core.lab.spans import Timeline
from mt_core.model import MicroTransformer
from mt_core.parallel import OneProcess
from mt_core.recipe import TrainConfig, create_optimizers
from mt_core.token_loader import TokenLoader

_WARMUP_STEPS = 3  # compiling, and the first touch of memory


@dataclass(frozen=True, kw_only=True)
class StepSpeed:
    """Measured steps of a batch of `batch_size` rows; `first_step` is in seconds and includes compiling."""

    batch_size: int
    timeline: Timeline
    first_step: float


def stepper(model: MicroTransformer, config: TrainConfig) -> Callable[[dict[str, Tensor]], None]:
    """What `fit` does with a batch on the model's device: gradients, clipping, optimizers. Records nothing."""
    trainer = OneProcess(model, create_optimizers(model, config), config)

    def step(batch: dict[str, Tensor]) -> None:
        trainer.backward([batch])
        trainer.clip(config.clip_norm or math.inf)
        for optimizer in trainer.optimizers:
            optimizer.step()
            optimizer.zero_grad()

    return step


def measure_steps(
    rows: TransformerDataset,
    create_model: Callable[[], MicroTransformer],
    config: TrainConfig,
    batch_size: int,
    *,
    n_steps: int = 30,
    seed: int = 0,
) -> StepSpeed:
    """Train a new model on shuffled batches of `rows`, on the device that `create_model` puts it on, and measure.

    Raises:
        ValueError: there are too few rows.
        torch.OutOfMemoryError: such a batch does not fit, in training or in an evaluation.
    """
    loader = TokenLoader(rows, batch_size=batch_size, shuffle=True, drop_last=True, seed=seed)
    if len(loader) < _WARMUP_STEPS + n_steps:
        raise ValueError(
            f"there are {len(loader)} batches of {batch_size} rows, {_WARMUP_STEPS + n_steps} are needed to measure: "
            "take a larger corpus, a smaller batch or fewer steps"
        )
    model = create_model()
    device = next(model.parameters()).device
    step = stepper(model, config)
    batch = {name: tensor.to(device) for name, tensor in rows.gather(np.arange(batch_size)).items()}
    begin = time.perf_counter()
    step(batch)
    first_step = time.perf_counter() - begin
    evaluate(model, [batch])  # in float32: if that does not fit, better to know before a long run
    found = timeline.record(loader, step, n_steps, device=device, skip=_WARMUP_STEPS)
    return StepSpeed(batch_size=batch_size, timeline=found, first_step=first_step)


def largest_batch(
    rows: TransformerDataset,
    create_model: Callable[[], MicroTransformer],
    config: TrainConfig,
    batch_sizes: Sequence[int],
    *,
    n_steps: int = 30,
    seed: int = 0,
) -> StepSpeed:
    """The first of `batch_sizes` that does not run out of the device's memory, measured. Says which ones did.

    Raises:
        ValueError: none fits.
    """
    for size in batch_sizes:
        try:
            return measure_steps(rows, create_model, config, size, n_steps=n_steps, seed=seed)
        except torch.OutOfMemoryError:
            print(f"a batch of {size} rows does not fit into the memory of the device", flush=True)
        release_memory()  # after the except block, which holds what did not fit
    raise ValueError(f"none of batch_sizes={tuple(batch_sizes)} fits: name smaller ones, or a smaller preset")


def matrix_flops(n: int = 1024, rounds: int = 10) -> float:
    """FLOP/s of the processor in float32: the fastest of some products of two matrices (n, n), which are 2 n^3 FLOP.

    For a share of the peak where no maker prints one. It is what this PyTorch reaches with the threads it has.
    """
    matrix, times = torch.rand(n, n, generator=torch.Generator().manual_seed(0)), []
    for _ in range(rounds):
        begin = time.perf_counter()
        torch.mm(matrix, matrix)
        times.append(time.perf_counter() - begin)
    return 2 * n**3 / min(times)


def release_memory() -> None:
    """Give memory of models that are gone back to the CUDA device, where there is one, and forget compiled programs.

    A program that is kept would make the next model's one for batches of any size, if its batches have another: slower
    than what a run of its own has.
    """
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
