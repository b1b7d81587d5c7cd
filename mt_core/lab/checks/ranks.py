"""The exercises of notebook 12: means over ranks, another number of ranks, meshes, a batch that cannot be shared."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mt_core.dataset import TransformerDataset
from mt_core.lab.checks.explained import WrongError, as_items, as_list, as_number, explained, touched
from mt_core.lab.checks.guesses import in_words
from mt_core.store import TokenStore
from mt_core.token_loader import TokenLoader

_SPLIT = ("dp", "dp_replicate", "dp_shard")


def mean(my_mean: Callable[[list[float], list[int]], Any]) -> None:
    """Check `my_mean(means, counts)`: the mean over all targets, from each rank's mean and number of targets."""
    with explained(my_mean):
        cases = [
            ([1.0, 3.0], [10, 30], 2.5),
            ([2.0, 2.0, 2.0], [1, 5, 2], 2.0),
            ([4.0], [7], 4.0),
            ([0.5, 6.0, 1.0, 2.0], [4, 1, 3, 0], 1.375),
            ([1.0, math.nan], [8, 0], 1.0),
        ]
        for means, counts, answer in cases:
            case = f"means {in_words(means)}, counts {in_words(counts)}"
            found = as_number(my_mean(list(means), list(counts)), case, "one number")
            if math.isclose(found, answer, rel_tol=1e-5):
                continue
            if math.isnan(found):
                raise WrongError(
                    f"{case}: you returned nan. A rank with no target has no mean: leave it out of the sum"
                )
            unweighted = [m for m, count in zip(means, counts, strict=True) if count]
            hint = f"{sum(counts)} targets have a sum of {in_words(answer * sum(counts))}"
            if math.isclose(found, sum(unweighted) / len(unweighted), rel_tol=1e-5):
                hint = "that is the mean of the means: a rank with few targets counts as much as one with many"
            raise WrongError(f"{case}: you returned {in_words(found)}, the mean is {in_words(answer)}; {hint}")
        print(f"Right: {len(cases)} cases. Each target weighs the same, on whichever rank it is; no target, no weight.")


def resumed(my_share: Callable[[list[int], int, int, int, int], Any]) -> None:
    """Check `my_share(order, batch_size, rank, world_size, delivered)`: a rank's batches after `delivered` rows."""
    with explained(my_share):
        n_cases = 0
        for n_rows, batch_size, done in ((22, 8, 0), (22, 8, 1), (22, 8, 2), (16, 8, 1), (50, 16, 2), (5, 8, 0)):
            order = np.random.default_rng(n_rows).permutation(n_rows).tolist()
            for world_size in (1, 2, 4, 8):
                n_ranks = f"{world_size} rank{'s' * (world_size != 1)}"
                case = f"{n_rows} rows, batches of {batch_size}, {done * batch_size} delivered, {n_ranks}"
                shares = [
                    _batches(my_share(list(order), batch_size, rank, world_size, done * batch_size), rank, case)
                    for rank in range(world_size)
                ]
                _check_shares(shares, order, batch_size, done, case)
                n_cases += 1
        print(f"Right: {n_cases} cases. Whoever read before, 1, 2, 4 or 8 ranks go on with the same global batches.")


def _batches(value: Any, rank: int, case: str) -> list[list[int]]:
    """What the reader returned for a rank: a list of lists of rows."""
    batches = as_items(value)
    if not isinstance(batches, list) or any(isinstance(batch, str | int | float | None) for batch in batches):
        raise WrongError(f"{case}: rank {rank} got {batches!r}, a list of batches is needed, each a list of rows")
    return [as_list(batch, f"{case}: rank {rank}") for batch in batches]


def _check_shares(shares: list[list[list[int]]], order: list[int], batch_size: int, done: int, case: str) -> None:
    n_steps = -(-len(order) // batch_size) - done
    steps = [len(share) for share in shares]
    if set(steps) != {n_steps}:
        raise WrongError(
            f"{case}: the ranks have {in_words(steps)} batches, {n_steps} global batches are left for each of them; "
            "`delivered` counts the rows of all ranks together"
        )
    for step in range(n_steps):
        wanted = order[(done + step) * batch_size :][:batch_size]
        for rank, share in enumerate(shares):
            if len(share[step]) != batch_size // len(shares):
                raise WrongError(
                    f"{case}: rank {rank} has {len(share[step])} places in its batch {step}, "
                    f"{batch_size // len(shares)} are needed: -1 fills places without a row"
                )
        found = [row for share in shares for row in share[step] if row >= 0]
        if found != wanted:
            same = sorted(found) == sorted(wanted)
            hint = "the same rows, dealt out in another order: rank 0 has the first slice" if same else "see `share`"
            raise WrongError(
                f"{case}: in batch {step} the ranks read {in_words(found)}, global batch {done + step} of the epoch is "
                f"{in_words(wanted)}; {hint}"
            )


def mesh(my_data_rank: Callable[[tuple[str, ...], tuple[int, ...], int], Any]) -> None:
    """Check `my_data_rank(names, shape, rank)`: which data rank a process of a mesh is, of how many."""
    with explained(my_data_rank):
        cases: list[tuple[tuple[str, ...], tuple[int, ...]]] = [
            (("dp",), (4,)),
            (("tp",), (4,)),
            (("dp", "tp"), (2, 2)),
            (("pp", "dp"), (2, 2)),
            (("dp_replicate", "dp_shard"), (2, 3)),
            (("pp", "dp_replicate", "tp", "dp_shard"), (2, 3, 2, 2)),
        ]
        n_ranks = 0
        for names, shape in cases:
            for rank, place in enumerate(itertools.product(*map(range, shape))):  # the last dimension runs fastest
                wanted = _data_rank(names, shape, place)
                case = f"names {names}, shape {shape}, rank {rank}, which stands at {place}"
                found = as_list(my_data_rank(names, shape, rank), case)
                if len(found) != 2:
                    raise WrongError(f"{case}: you returned {found}, two numbers are needed: which rank, of how many")
                if tuple(found) != wanted:
                    raise WrongError(f"{case}: you returned {tuple(found)}, it is {wanted}; {_hint(found, wanted)}")
                n_ranks += 1
        print(
            f"Right: {len(cases)} meshes, {n_ranks} processes: data dimensions split the rows, all others share them."
        )


def _data_rank(names: tuple[str, ...], shape: tuple[int, ...], place: tuple[int, ...]) -> tuple[int, int]:
    rank, world_size = 0, 1
    for name, size, where in zip(names, shape, place, strict=True):
        if name in _SPLIT:
            rank, world_size = rank * size + where, world_size * size
    return rank, world_size


def _hint(found: list[int], wanted: tuple[int, int]) -> str:
    if found[1] > wanted[1]:
        return "dimensions of tensor and pipeline parallelism do not split the rows: leave them out of the product"
    if found[1] < wanted[1]:
        return "every dimension that begins with dp splits the rows: multiply their sizes"
    return "count like digits: the last data dimension runs fastest, and places along the others do not count"


def not_shared(my_loader: Callable[[Any], Any]) -> None:
    """Check `my_loader(dataset)`, which is meant to fail: a TokenLoader whose batch cannot be shared equally."""
    with explained(my_loader):
        dataset = TransformerDataset(TokenStore.from_token_ids(range(49), vocab_size=49), seq_length=1)
        try:
            loader = my_loader(dataset)
        except ValueError as error:
            message = str(error)
            if "cannot be shared equally" not in message:
                raise WrongError(
                    f"it fails, with another error ({message}): give rank, world_size, batch_size"
                ) from None
        else:
            touched(loader)
            if not isinstance(loader, TokenLoader):
                raise WrongError(f"you returned {type(loader).__name__}, a TokenLoader is needed")
            raise WrongError(
                f"no error: batch_size={loader.global_batch_size} is a multiple of world_size={loader.world_size}. "
                "Break it: choose one that is not"
            )
        print(f"mt_core says: {message}")
        sizes = [int(word) for word in message.partition(": use ")[2].replace(",", "").split() if word.isdecimal()]
        world_size = int(message.partition(" equally by ")[2].split()[0])
        for size in sizes:
            each = TokenLoader(dataset, batch_size=size, rank=0, world_size=world_size).batch_size
            print(f"With {size} it works: each rank reads {each} row{'s' * (each != 1)} a step.")
        print("Rounding in silence would train with another batch size on another number of processes.")
