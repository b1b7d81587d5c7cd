"""The exercises of notebook 05: seeds, blocks and buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler, SequentialSampler, TensorDataset

from mt_core.lab.checks.explained import WrongError, as_list, explained, touched
from mt_core.lab.checks.guesses import in_words
from mt_core.lab.shuffling import serial_correlation

# Pairs of (seed, epoch) that the usual formulas take for the same: seed + epoch, 1000 * seed + epoch, and so on.
_PAIRS = [(s, e) for s in range(4) for e in range(4)]
_PAIRS += [(0, size) for size in (10, 100, 1000, 10_000, 65_536)] + [(9, 0), (0, 9), (12, 3), (1, 23)]


def orders(my_order: Callable[[int, int, int], Any]) -> None:
    """Check `my_order(n, seed, epoch)`: an order of n rows, another one for every pair of seed and epoch."""
    with explained(my_order):
        seen: dict[tuple[int, ...], tuple[int, int]] = {}
        for seed, epoch in _PAIRS:
            case = f"n=50, seed={seed}, epoch={epoch}"
            before = np.random.get_state(legacy=False)["state"]  # type: ignore[call-overload]
            order = _permutation(my_order(50, seed, epoch), range(50), case)
            after = np.random.get_state(legacy=False)["state"]  # type: ignore[call-overload]
            if before["pos"] != after["pos"] or (before["key"] != after["key"]).any():
                raise WrongError(
                    f"{case}: NumPy's global generator moved on, and with it whatever else draws from it: "
                    "make a generator of your own, np.random.default_rng(…)"
                )
            if order != as_list(my_order(50, seed, epoch), case):
                raise WrongError(f"{case}: asked twice, you gave two orders: they must depend on seed and epoch alone")
            if tuple(order) in seen:
                other = seen[tuple(order)]
                raise WrongError(
                    f"seed={seed}, epoch={epoch} has the order of seed={other[0]}, epoch={other[1]}: a formula that "
                    "makes one number of two can meet itself; give the generator both numbers, np.random.default_rng "
                    "takes a tuple"
                )
            seen[tuple(order)] = seed, epoch
        print(f"Right: {len(_PAIRS)} pairs of seed and epoch, as many orders, each the same when asked again.")


def block_then_buffer(my_shuffle: Callable[[np.ndarray, int, int, int], Any]) -> None:
    """Check `my_shuffle(order, block_size, buffer_size, seed)`: blocks in random order, then a buffer."""
    with explained(my_shuffle):
        rows = np.arange(1000)

        def shuffled(block_size: int, buffer_size: int, seed: int) -> tuple[list[int], str]:
            case = f"1,000 rows, block_size={block_size}, buffer_size={buffer_size}, seed={seed}"
            return _permutation(my_shuffle(rows.copy(), block_size, buffer_size, seed), range(1000), case), case

        blocks, case = shuffled(10, 1, 0)
        if any(blocks[i : i + 10] != list(range(blocks[i], blocks[i] + 10)) for i in range(0, 1000, 10)):
            raise WrongError(f"{case}: a buffer of one row changes nothing, so blocks of 10 must come whole")
        if blocks == list(range(1000)):
            raise WrongError(f"{case}: the rows come in file order: shuffle_blocks is missing")
        buffered, case = shuffled(1000, 10, 0)
        if buffered == list(range(1000)):
            raise WrongError(f"{case}: one block of all rows, and still in file order: shuffle_with_buffer is missing")
        if max(row - place for place, row in enumerate(buffered)) > 9:
            raise WrongError(
                f"{case}: one block, so only the buffer moves rows, at most 9 places early; yours went more"
            )
        both, case = shuffled(10, 50, 0)
        left = serial_correlation(np.array(both)).value
        if left > 0.5:
            raise WrongError(
                f"{case}: serial correlation {left:.2f}, neighbours still come together: first shuffle the blocks, "
                "then let the buffer mix rows of different blocks; the other way round it mixes neighbours"
            )
        if shuffled(10, 50, 0)[0] != both:
            raise WrongError(f"{case}: asked twice, you gave two orders: pass seed on to both steps")
        if shuffled(10, 50, 1)[0] == both or shuffled(10, 1, 1)[0] == blocks or shuffled(1000, 10, 1)[0] == buffered:
            raise WrongError("seed=1 shuffles the blocks or the buffer as seed=0 does: pass seed on to both steps")
        print(
            f"Right: blocks of 10, then a buffer of 50: serial correlation {left:.2f}, blocks alone {_alone(blocks)}."
        )


def buffer(my_buffer: Callable[[Iterator[int], int, int], Any]) -> None:
    """Check `my_buffer(rows, buffer_size, seed)`: a generator that shuffles a stream and reads no more than it must."""
    with explained(my_buffer):
        for n, size in ((20, 4), (20, 1), (3, 10), (0, 4), (500, 50)):
            case = f"{n} rows, buffer_size={size}"
            got = _drawn(my_buffer(iter(range(n)), size, 0), n, case)
            _permutation(got, range(n), case)
            early = max((row - place for place, row in enumerate(got)), default=0)
            if early > size - 1:
                raise WrongError(
                    f"{case}: a row came {early} places early, at most {size - 1} is possible: "
                    "draw as soon as the buffer holds buffer_size rows"
                )
            if size > 1 and n > 10 and got == list(range(n)):
                raise WrongError(f"{case}: the rows come in their own order: draw a random one from the buffer")
            if got != _drawn(my_buffer(iter(range(n)), size, 0), n, case):
                raise WrongError(f"{case}: asked twice with seed=0, you gave two orders: draw from default_rng(seed)")
            # of 500 rows some wait longer than one filling of the buffer, all but surely
            if n == 500 and max(place - row for place, row in enumerate(got)) < size:
                raise WrongError(
                    f"{case}: no row came more than {size - 1} places late, as if each full buffer were emptied before "
                    "the next row is read: yield one row, then read one, so that some rows wait for long"
                )
            if n == 500 and (rest := got[1 - size :]) == sorted(rest):
                raise WrongError(
                    f"{case}: the last {size - 1} rows come in their own order: draw from what is left too"
                )
        firsts = [_drawn(my_buffer(iter(range(20)), 4, seed), 20, "20 rows, buffer_size=4")[0] for seed in range(60)]
        if set(firsts) != {0, 1, 2, 3}:
            raise WrongError(
                f"over 60 seeds the first of 20 rows was one of {in_words(sorted(set(firsts)))}: with buffer_size=4 "
                "each of 0, 1, 2 and 3 must be possible"
            )
        read = 0

        def endless() -> Iterator[int]:
            nonlocal read
            while True:
                read += 1
                if read > 1000:
                    raise WrongError(
                        "a stream without end, and no row came out after reading 1,000: yield a row as soon as the "
                        "buffer of 4 is full, do not read the stream to its end first"
                    )
                yield read - 1

        rows = iter(my_buffer(endless(), 4, 0))
        for _ in range(10):
            next(rows)
        if read > 14:
            raise WrongError(f"10 rows delivered, {read} read: with buffer_size=4 no more than 14 are needed")
        print("Right: each row once, none more than buffer_size - 1 places early, and a stream without end works too.")


class _Backwards(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(5, -1, -1))

    def __len__(self) -> int:
        return 6


def two_orders(my_loader: Callable[[Any, Any], Any]) -> None:
    """Check `my_loader(dataset, sampler)`, which is meant to fail: a DataLoader with a sampler and shuffle=True."""
    with explained(my_loader):
        dataset, sampler = TensorDataset(torch.arange(6)), _Backwards()
        try:
            loader = my_loader(dataset, sampler)
        except ValueError as error:
            message = str(error).splitlines()[0]
            if "sampler" not in message or "shuffle" not in message:
                raise WrongError(f"it fails, with another error ({message}): pass sampler and shuffle=True") from None
        else:
            touched(loader)
            decides = "no order of ours" if not isinstance(loader, DataLoader) else type(loader.sampler).__name__
            missing = "shuffle=True" if getattr(loader, "sampler", None) is sampler else "the sampler"
            if isinstance(getattr(loader, "sampler", None), SequentialSampler):
                missing = "both"
            raise WrongError(f"no error: {decides.lstrip('_')} decides. Break it: {missing} is missing")
        print(f"torch says: {message}")
        print("Two would decide the order. shuffle=True is short for a sampler of its own, so only one may be given.")
        kept = [int(row) for (row,) in DataLoader(dataset, sampler=sampler)]
        print(f"With the sampler alone, rows come as it says: {kept}.")


def _permutation(value: Any, rows: range, case: str) -> list[int]:
    """What the reader returned, if it holds each of `rows` once."""
    found = as_list(value, case)
    if len(found) != len(rows):
        raise WrongError(f"{case}: you returned {len(found)} rows, {len(rows)} are needed")
    missing = sorted(set(rows) - set(found))
    if missing:
        extra = next(row for row in found if row not in rows or found.count(row) > 1)
        what = f"is there {found.count(extra)} times" if extra in rows else "does not exist"
        raise WrongError(f"{case}: row {missing[0]} never comes and row {extra} {what}: each row comes exactly once")
    return found


def _drawn(rows: Any, n: int, case: str) -> list[int]:
    """All that comes out of the reader's generator, which must end by itself."""
    touched(rows)
    if not hasattr(rows, "__next__"):
        raise WrongError(f"{case}: you returned {type(rows).__name__}, a generator is needed: hand rows out with yield")
    found = []
    for row in rows:
        found.append(int(row))
        if len(found) > n:
            raise WrongError(
                f"{case}: more than {n} rows come out: stop when the stream is read and the buffer is empty"
            )
    return found


def _alone(order: list[int]) -> str:
    return f"{serial_correlation(np.array(order)).value:.2f}"
