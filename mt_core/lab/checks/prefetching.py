"""The exercises of notebook 08: a bound with few cores, a longer look ahead, a state that counts, no queue at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from mt_core import TokenLoader, TokenStore, TransformerDataset
from mt_core.lab import simulate
from mt_core.lab.checks.explained import WrongError, as_number, explained, touched

_BOUNDS = [  # fetch and compute in seconds, workers, cores
    (0.04, 0.02, 2, 8),
    (0.04, 0.02, 4, 8),
    (0.04, 0.02, 4, 2),
    (0.04, 0.02, 0, 8),
    (0.04, 0.02, 0, 1),
    (0.03, 0.01, 1, 1),
    (0.09, 0.01, 8, 4),
]


def bound(my_bound: Callable[[float, float, int, int], Any]) -> None:
    """Check `my_bound(fetch, compute, num_workers, cores)` -> batches a second, when all work needs a core."""
    with explained(my_bound):
        for fetch, compute, workers, cores in _BOUNDS:
            case = f"fetch={fetch}, compute={compute}, num_workers={workers}, cores={cores}"
            try:
                found = my_bound(fetch, compute, workers, cores)
            except ZeroDivisionError:
                raise WrongError(
                    f"{case}: division by zero. Without workers the main process fetches and computes in turn, "
                    "one batch in fetch + compute"
                ) from None
            found = as_number(found, case)
            pipeline = simulate.Pipeline(fetch=fetch, compute=compute, num_workers=workers, cores=cores)
            right = simulate.bound(pipeline)
            if not math.isclose(found, right, rel_tol=1e-6):
                raise WrongError(f"{case}: {_why_not(found, right, fetch, compute, workers, cores)}")
        print(f"Right: {len(_BOUNDS)} settings, the same bound as the simulator's. 8 workers on 4 cores are not 8.")


def _why_not(found: float, right: float, fetch: float, compute: float, workers: int, cores: int) -> str:
    """What goes wrong in a bound."""
    said = f"you returned {found:.4g}, right is {right:.4g} batches a second"
    if math.isclose(found, 1 / right, rel_tol=1e-6):
        return f"{said}. Yours is seconds for a batch: turn it over"
    if workers == 0:
        return f"{said}. Without workers the main process fetches and computes in turn, on one core"
    without_cores = min(workers / fetch, 1 / compute)
    if math.isclose(found, without_cores, rel_tol=1e-6):
        return (
            f"{said}. A batch is {fetch + compute:.4g} seconds of work for some core, and {cores} "
            f"core{'s' * (cores != 1)} can do no more than {cores} second{'s' * (cores != 1)} of work in one"
        )
    if found > right:
        return f"{said}. Workers, main process and cores each set a limit; the least of the three counts"
    return f"{said}. No limit is that low: the workers', the main process's and the cores' count, not their sum"


def ahead(my_ahead: Callable[..., Iterable[Any]]) -> None:
    """Check the generator `my_ahead(batches, copy, depth)`: copies `depth` batches before the one it hands out."""
    with explained(my_ahead):
        for n, depth in ((6, 1), (6, 0), (6, 2), (6, 3), (2, 5), (1, 1), (0, 2)):
            case = f"{n} batches, depth={depth}"
            taken: list[int] = []
            copied: list[int] = []

            def source(n: int = n, taken: list[int] = taken) -> Iterator[int]:
                for number in range(n):
                    taken.append(number)
                    yield number

            def copy(batch: int, copied: list[int] = copied) -> str:
                copied.append(batch)
                return f"copy of {batch}"

            handed_out = touched(my_ahead(source(), copy, depth))
            count = 0
            for batch in handed_out:
                if batch != f"copy of {count}":
                    raise WrongError(f"{case}: you hand out {batch!r} where 'copy of {count}' is due")
                count += 1
                _check_copies(f"{case}, batch {count - 1} is handed out", copied, taken, min(n, count + depth))
            if count != n:
                raise WrongError(
                    f"{case}: you hand out {count}, and keep {n - count} back: empty what waits at the end"
                )
        print("Right: 7 cases, every batch copied once and in order, `depth` copies ahead, none for depth=0.")


def _check_copies(case: str, copied: list[int], taken: list[int], due: int) -> None:
    if len(copied) < due:
        raise WrongError(
            f"{case}: copied so far are {copied}, {due} are due. The copies ahead must be ordered before a batch is "
            "handed out: what follows yield runs only when the next one is asked for"
        )
    if len(copied) > due:
        raise WrongError(f"{case}: copied so far are {copied}, {due} are due: each batch ahead takes memory")
    if copied != list(range(due)):
        raise WrongError(f"{case}: copied so far are {copied}: each batch once, in order")
    if len(taken) > due:
        raise WrongError(f"{case}: you took {len(taken)} batches from the loader, {due} are due")


def resumable(my_class: Callable[[Any], Any]) -> None:
    """Check the class `my_class(loader)`: hands out the loader's batches, takes one ahead, and has a right state."""
    with explained(my_class):
        wanted = [_ids(batch) for batch in _loader()]
        last = len(wanted)
        for handed_out in (1, 0, 3, last - 1, last):
            loader = _loader()
            mine = my_class(loader)
            running = touched(type(mine).__iter__(mine))
            running = iter(running)
            seen = [_ids(batch) for batch in islice(running, handed_out)]
            case = f"{handed_out} of {last} batches handed out"
            if seen != wanted[:handed_out]:
                raise WrongError(f"{case}: they are not the loader's, in its order")
            _check_state(case, mine, loader, handed_out, last)
            state = mine.state_dict()
            again = _loader()
            again.load_state_dict(state)
            rest = [_ids(batch) for batch in again] if handed_out < last else []
            if seen + rest != wanted:
                raise WrongError(f"{case}: with your state the stream does not go on where it was")
            if [_ids(batch) for batch in running] != wanted[handed_out:]:
                raise WrongError(f"{case}: the pass does not go on to the end after state_dict() was called")
        print("Right: handed out counts, fetched ahead does not; 5 interrupted passes go on with the right batch.")


def _check_state(case: str, mine: Any, loader: TokenLoader, handed_out: int, last: int) -> None:
    fetched = loader.state_dict()["samples_delivered"] // 4
    ahead = fetched - handed_out
    if 0 < handed_out < last and ahead != 1:
        raise WrongError(f"{case}: {ahead} more are fetched, one batch ahead is needed")
    state = mine.state_dict()
    if state is None or state is ...:
        raise WrongError(f"{case}: state_dict returns nothing")
    if not isinstance(state, dict) or "samples_delivered" not in state:
        raise WrongError(f"{case}: state_dict() must be the loader's, taken at the right moment; you return {state!r}")
    if state["samples_delivered"] != 4 * handed_out:
        raise WrongError(
            f"{case}: your state says {state['samples_delivered'] // 4}. "
            "Take the loader's state when it gives you a batch, and show it from when that batch is handed out"
        )


def _loader() -> TokenLoader:
    store = TokenStore.from_token_ids(range(100), vocab_size=100)
    return TokenLoader(TransformerDataset(store, seq_length=4), batch_size=4, shuffle=True, seed=8)


def _ids(batch: Any) -> list[list[int]]:
    if not isinstance(batch, dict) or not isinstance(batch.get("input_ids"), torch.Tensor):
        raise WrongError(f"a batch of the loader is needed, you hand out {batch!r}")
    return batch["input_ids"].tolist()


class _Eight(Dataset[int]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        return index


def queue_of_nothing(my_loader: Callable[[Dataset[int]], Any]) -> None:
    """Check `my_loader(dataset)`, which is meant to fail: prefetch_factor without workers. Explains the error."""
    with explained(my_loader):
        try:
            loader = my_loader(_Eight())
        except ValueError as error:
            if "prefetch_factor" not in str(error):
                raise WrongError(f"an error, but of another kind: {error}") from None
            message = str(error).partition(".")[0]
        else:
            touched(loader)
            if not isinstance(loader, DataLoader):
                raise WrongError(f"a DataLoader is needed, you returned {loader!r}")
            settings = f"num_workers={loader.num_workers} and prefetch_factor={loader.prefetch_factor}"
            raise WrongError(f"no error: this loader has {settings}. Give it a prefetch_factor, and nobody to prefetch")
        print(f"torch says: {message}.")
        print("Without workers there is no queue: a batch is built when it is asked for, none before.")
        print("TokenLoader takes both settings and leaves the second out, so that one number switches workers off.")
