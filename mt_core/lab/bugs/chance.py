"""Exhibits about chance: which numbers are drawn, from which seed, and who else notices."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, RandomSampler

from mt_core.lab.bugs.exhibit import Exhibit, FaultError, Source, WrongMend, call, counted, numbers, short
from mt_core.lab.shuffling import order_statistics

# -- noise and workers -----------------------------------------------------------------------------------------


class SameNoise:
    """A dataset that draws one number for each row, as augmentation does."""

    def __init__(self, seed: int) -> None:
        self.seed, self.epoch = seed, 0
        self.generator = np.random.default_rng(seed)

    def start_worker(self, worker: int) -> None:
        """Called in each worker on its own copy of the dataset, before it is asked for rows."""

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, row: int) -> int:
        return int(self.generator.integers(2**31))


class _NoiseOfTheRow(SameNoise):
    def __getitem__(self, row: int) -> int:
        return int(np.random.default_rng((self.seed, self.epoch, row)).integers(2**31))


class _NoiseOfTheWorker(SameNoise):
    def start_worker(self, worker: int) -> None:
        self.generator = np.random.default_rng((self.seed, worker))


class _NoiseOfTheRowForEver(SameNoise):
    def __getitem__(self, row: int) -> int:
        return int(np.random.default_rng((self.seed, row)).integers(2**31))


class _NoiseOfASum(SameNoise):
    def __getitem__(self, row: int) -> int:
        return int(np.random.default_rng(self.seed + self.epoch + row).integers(2**31))


def _noise(candidate: Callable[..., Any], n_workers: int, epoch: int = 0, seed: int = 0, rows: int = 12) -> list[int]:
    """What rows 0, 1, … are given when `n_workers` take turns, each with its own copy of the dataset."""
    dataset = call(candidate, seed)
    copies = [copy.deepcopy(dataset) for _ in range(n_workers)] or [dataset]
    for worker, own in enumerate(copies):
        if n_workers and hasattr(own, "start_worker"):
            own.start_worker(worker)
        own.set_epoch(epoch)
    return numbers([copies[row % len(copies)][row] for row in range(rows)], "the noise")


def _look_workers(candidate: Callable[..., Any]) -> str:
    alone = _noise(candidate, 0)
    for n_workers in (1, 2, 4):
        found = _noise(candidate, n_workers)
        if len(set(found)) < len(found):
            twin = next(i for i, value in enumerate(found) if value in found[:i])
            raise FaultError(
                f"{counted(n_workers, 'worker')}: row {twin} is given the same noise as row {found.index(found[twin])}"
            )
        if found != alone:
            row = next(i for i, (one, other) in enumerate(zip(found, alone, strict=True)) if one != other)
            raise FaultError(
                f"{counted(n_workers, 'worker')}: row {row} is given other noise than without workers, so a result "
                "depends on the machine it was found on"
            )
    return "12 rows are given the same noise by 0, 1, 2 and 4 workers, each row its own"


def _examine_noise(candidate: Callable[..., Any]) -> str:
    seen = _look_workers(candidate)
    drawn: dict[int, str] = {}
    for seed in (0, 1):
        for epoch in (0, 1, 2):
            for row, value in enumerate(_noise(candidate, 2, epoch, seed)):
                who = f"row {row} of epoch {epoch} with seed {seed}"
                if value in drawn:
                    raise FaultError(f"{who} is given the same noise as {drawn[value]}")
                drawn[value] = who
    if _noise(candidate, 2, epoch=2) != _noise(candidate, 0, epoch=2):
        raise FaultError("epoch 2 depends on the number of workers")
    return f"{seen}; another in each epoch and for each seed"


SAME_NOISE = Exhibit(
    name="same_noise",
    title="Every worker tells the same joke",
    question="Four workers, each with its copy of this dataset. How many different numbers do rows 0 to 3 get?",
    task=(
        "A class made with (seed) that has set_epoch(epoch), __getitem__(row) -> a whole number from 0 to 2**31 - 1, "
        "and, if wanted, start_worker(worker). Noise depends on seed, epoch and row, and on nothing else."
    ),
    source=Source(
        where="pytorch/pytorch#5059",
        title="np.random generates the same random numbers for each data batch",
        link="https://github.com/pytorch/pytorch/issues/5059",
    ),
    broken=SameNoise,
    symptom="Augmentation helps less with more workers, and no run can be repeated with another number of them.",
    tool="the same rows with 0, 1, 2 and 4 workers",
    look=_look_workers,
    examine=_examine_noise,
    hints=(
        "Ask for the same rows with another number of workers.",
        "A worker starts with a copy of everything in the dataset. What is copied along?",
        "Keep no generator. Make one in __getitem__, from everything that the noise may depend on.",
    ),
    mend=_NoiseOfTheRow,
    wrong_mends=(
        WrongMend(candidate=_NoiseOfTheWorker, mistake="seeds by worker: results depend on how many there are"),
        WrongMend(candidate=_NoiseOfTheRowForEver, mistake="forgets the epoch: the same noise for ever"),
        WrongMend(candidate=_NoiseOfASum, mistake="adds the numbers up: row 1 of epoch 0 equals row 0 of epoch 1"),
    ),
)


# -- seeds -----------------------------------------------------------------------------------------------------


def twin_runs(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of n rows in one epoch."""
    return np.random.default_rng(seed + epoch).permutation(n)


def _order_of_pair(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(np.random.SeedSequence((seed, epoch))).permutation(n)


def _order_of_thousands(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(1000 * seed + epoch).permutation(n)


def _order_of_digits(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(int(f"{seed}{epoch}")).permutation(n)


def _order_unseeded(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng().permutation(n)


def _twins(candidate: Callable[..., Any], pairs: list[tuple[int, int]]) -> str:
    orders: dict[tuple[int, ...], tuple[int, int]] = {}
    for seed, epoch in pairs:
        order = tuple(numbers(call(candidate, 50, seed, epoch), "the order"))
        if sorted(order) != list(range(50)):
            raise FaultError(f"seed {seed}, epoch {epoch}: {short(list(order))} is no order of 50 rows")
        if order in orders:
            other_seed, other_epoch = orders[order]
            raise FaultError(
                f"seed {seed} in epoch {epoch} gives the order of seed {other_seed} in epoch {other_epoch}: "
                "runs that should differ share their epochs"
            )
        orders[order] = (seed, epoch)
    return f"{len(pairs)} pairs of seed and epoch: {len(orders)} different orders"


def _look_twins(candidate: Callable[..., Any]) -> str:
    return _twins(candidate, [(0, 0), (0, 1), (1, 0), (1, 1)])


def _examine_twins(candidate: Callable[..., Any]) -> str:
    pairs = [(seed, epoch) for seed in range(4) for epoch in range(4)]
    seen = _twins(candidate, [*pairs, (1, 11), (11, 1), (0, 1000), (0, 100), (0, 1 << 16), (1 << 16, 0)])
    one, again = (numbers(call(candidate, 1000, 3, 5), "the order") for _ in range(2))
    if one != again:
        raise FaultError("seed 3 in epoch 5 gives two different orders when asked twice: a run cannot be repeated")
    statistics = order_statistics(np.array(one))
    if not statistics.like_a_full_shuffle:
        raise FaultError(f"1,000 rows are not shuffled: {statistics.serial_correlation}")
    return f"{seen}, each the same when asked again"


TWIN_RUNS = Exhibit(
    name="twin_runs",
    title="Two runs, one order",
    question="Three runs with seeds 0, 1 and 2, three epochs each. How many different orders are there?",
    task="order(n, seed, epoch) returns the order of n rows: one for each pair of seed and epoch, none for two pairs.",
    source=Source(
        where="pytorch/pytorch: torch/utils/data/distributed.py",
        title="DistributedSampler seeds its generator with self.seed + self.epoch",
        link="https://github.com/pytorch/pytorch/blob/01c9f4fcc3ffa856d3d1b038998b8ad90db4ec02/torch/utils/data/distributed.py",
    ),
    broken=twin_runs,
    symptom="Runs with neighbouring seeds agree more than chance allows: error bars over seeds come out too small.",
    tool="orders compared",
    look=_look_twins,
    examine=_examine_twins,
    hints=(
        "Write the orders of two runs below each other, epoch by epoch.",
        "In how many ways can a sum come about?",
        "NumPy takes a tuple of numbers as a seed, and keeps them apart.",
    ),
    mend=_order_of_pair,
    wrong_mends=(
        WrongMend(candidate=_order_of_thousands, mistake="moves the collision to epoch 1,000"),
        WrongMend(candidate=_order_of_digits, mistake="writes the digits side by side: (1, 11) and (11, 1) collide"),
        WrongMend(candidate=_order_unseeded, mistake="asks the system: no run can be repeated"),
    ),
)


# -- evaluation that is felt -----------------------------------------------------------------------------------


Rows = Any  # a list of numbers, which is all the dataset these loaders need
Loaders = tuple[DataLoader[int], DataLoader[int]]


def watched_training(train: Rows, val: Rows, seed: int) -> Loaders:
    """Loaders for training, shuffled, and for validation, in order."""
    torch.manual_seed(seed)
    return DataLoader(train, batch_size=4, shuffle=True), DataLoader(val, batch_size=4)


def _generators_apart(train: Rows, val: Rows, seed: int) -> Loaders:
    own, other = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    return (
        DataLoader(train, batch_size=4, shuffle=True, generator=own),
        DataLoader(val, batch_size=4, generator=other),
    )


def _one_generator(train: Rows, val: Rows, seed: int) -> Loaders:
    shared = torch.Generator().manual_seed(seed)
    return (
        DataLoader(train, batch_size=4, shuffle=True, generator=shared),
        DataLoader(val, batch_size=4, generator=shared),
    )


def _generator_for_training(train: Rows, val: Rows, seed: int) -> Loaders:
    own = torch.Generator().manual_seed(seed)
    loader = DataLoader(train, batch_size=4, shuffle=True, generator=own)
    return loader, DataLoader(val, batch_size=4)


class _Reseeding(RandomSampler):
    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(0)
        return super().__iter__()


def _reseeded(train: Rows, val: Rows, seed: int) -> Loaders:
    own = torch.Generator().manual_seed(seed)
    return (
        DataLoader(train, batch_size=4, sampler=_Reseeding(train), generator=own),
        DataLoader(val, batch_size=4, generator=own),
    )


def _training(candidate: Callable[..., Any], evaluations: int, seed: int = 0) -> tuple[list[list[int]], float]:
    """The orders of three training epochs, with evaluations after each, and what dropout would draw at the end."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        train_loader, val_loader = call(candidate, list(range(20)), list(range(100, 108)), seed)
        orders = []
        for _ in range(3):
            orders.append([int(row) for batch in train_loader for row in batch])
            for _ in range(evaluations):
                seen = [int(row) for batch in val_loader for row in batch]
                if seen != list(range(100, 108)):
                    raise FaultError(f"validation reads {short(seen)}: rows 100 to 107 in order are needed")
        return orders, float(torch.rand(()))


def _look_evaluation(candidate: Callable[..., Any]) -> str:
    unwatched, _ = _training(candidate, 0)
    watched, _ = _training(candidate, 1)
    for epoch, (one, other) in enumerate(zip(unwatched, watched, strict=True)):
        if one != other:
            raise FaultError(
                f"epoch {epoch} begins {short(one, 5)} without evaluation and {short(other, 5)} with it: "
                "looking at the model changes what it is trained on"
            )
    return "3 epochs of training are the same with and without evaluation"


def _examine_evaluation(candidate: Callable[..., Any]) -> str:
    seen = _look_evaluation(candidate)
    orders, drawn = _training(candidate, 0)
    if any(sorted(order) != list(range(20)) for order in orders):
        raise FaultError(f"an epoch reads {short(orders[0])}: all 20 rows, each once, are needed")
    if orders[0] == orders[1] or list(range(20)) in orders:
        raise FaultError(f"{seen}, but epoch 1 comes in the order of epoch 0, {short(orders[0], 5)}, or unshuffled")
    if _training(candidate, 2)[1] != drawn:
        raise FaultError(f"{seen}, but evaluation draws from the global generator: what dropout draws after it changes")
    if _training(candidate, 0, seed=1)[0] == orders:
        raise FaultError(f"{seen}, but seeds 0 and 1 give the same orders")
    return f"{seen}, dropout included"


WATCHED_TRAINING = Exhibit(
    name="watched_training",
    title="Training that feels it is watched",
    question="Validation is in order. Which of the two loaders draws from the global generator, and when?",
    task=(
        "create(train, val, seed) returns two DataLoaders with batch_size 4: training shuffled anew each epoch, "
        "validation in order. How often one evaluates changes no later batch and no number that dropout draws."
    ),
    source=Source(
        where="pytorch/pytorch#11062",
        title="non-shuffling data loaders can affect random states, thus the results of shuffling data loaders.",
        link="https://github.com/pytorch/pytorch/issues/11062",
    ),
    broken=watched_training,
    symptom="Two runs that differ only in how often they evaluate end with different models.",
    tool="the same run with and without evaluation",
    look=_look_evaluation,
    examine=_examine_evaluation,
    hints=(
        "Run three epochs twice, once with an evaluation after each.",
        "iter(loader) draws a seed for its workers, even if there are none. From where?",
        "DataLoader takes a generator. How many loaders are there, and how many generators do they need?",
    ),
    mend=_generators_apart,
    wrong_mends=(
        WrongMend(candidate=_one_generator, mistake="one generator for both: evaluation still moves it on"),
        WrongMend(candidate=_generator_for_training, mistake="validation still draws from the global generator"),
        WrongMend(candidate=_reseeded, mistake="seeds before each epoch: every epoch has the same order"),
    ),
)


EXHIBITS = (SAME_NOISE, TWIN_RUNS, WATCHED_TRAINING)
