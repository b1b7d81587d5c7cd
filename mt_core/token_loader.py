"""Batches in an order that is arithmetic: one DataLoader, its epochs and its resume. Does not open files or train."""

from __future__ import annotations

import multiprocessing
import warnings
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from mt_core.arguments import check_count, check_flag, check_seed
from mt_core.dataset import Batch, TransformerDataset, collate_rows
from mt_core.mixing import MixedDataset
from mt_core.order import BucketBatches, EpochSampler, data_ranks
from mt_core.workers import choose_pinning, choose_workers, end_with_parent, main_module_hidden

# Small batches are gathered several at a time, up to this many tokens: each gather has a fixed cost.
_TOKENS_PER_GATHER = 1 << 15
_EPOCHS = 1 << 31  # no run has more, and numbers of rows stay within 64 bits


class LoaderStateError(ValueError):
    """A saved loader state does not belong to this loader, or comes at the wrong moment."""


class TokenLoader(DataLoader[Batch]):
    """A `torch.utils.data.DataLoader` over a `TransformerDataset` whose order and resume are arithmetic.

    Each pass over it is one epoch, in an order that depends on (seed, epoch) alone, whatever the workers.
    `state_dict()` counts batches that were delivered, not batches that were prefetched.

    With several data-parallel ranks each is given its slice of every batch: together, at each step, they read what one
    process alone would read, and all take equally many steps. Where the last batch of an epoch is not full, rows whose
    labels are all -100 fill it up, so that each row still counts once.

    Args:
        dataset: the rows, of one source or of several, see `MixedDataset`.
        batch_size: B, rows in a batch, of all ranks together.
        token_budget: instead of batch_size, for rows with padding: rows of about one length come together, as many
            as hold this many tokens, filled up to one of `dataset.length_buckets`, and a multiple of world_size. Where
            another budget or world_size makes other batches of them, resuming is refused.
        shuffle: a new order each epoch, or always 0, 1, 2, …
        drop_last: leave out the incomplete last batch.
        seed: chooses the orders; a whole number from 0 to 2**64 - 1.
        num_workers, start_method: see `choose_workers`; what came of it is in `worker_policy`.
        pin_memory: None pins where an accelerator is there.
        prefetch_factor: batches each worker prepares ahead; None is PyTorch's 2.
        persistent_workers: keep workers between epochs.
        rank, world_size: which slice of a batch, of how many; None asks `torch.distributed`, see `data_ranks`.
        sampler, batch_sampler: for frameworks that would replace the order, to be told how not to.

    Frameworks that build a loader of their own around this one's sampler, as Accelerate's `prepare` does, read the same
    rows, epoch by epoch; they keep their own place, so `state_dict()` is refused then.
    """

    def __init__(
        self,
        dataset: TransformerDataset | MixedDataset,
        *,
        batch_size: int = 16,
        token_budget: int | None = None,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        num_workers: int = 0,
        start_method: str | None = None,
        pin_memory: bool | None = None,
        prefetch_factor: int | None = None,
        persistent_workers: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
        sampler: None = None,
        batch_sampler: None = None,
    ) -> None:
        if sampler is not None or batch_sampler is not None:
            raise ValueError(
                f"got {type(sampler or batch_sampler).__name__} in place of this loader's own order, which ranks and "
                "exact resume rest on: with Lightning set Trainer(use_distributed_sampler=False), leave out "
                "overfit_batches, and do not use it for predict"
            )
        if not isinstance(dataset, TransformerDataset | MixedDataset):
            raise ValueError(
                f"dataset={dataset!r}, a TransformerDataset or MixedDataset is needed: "
                "TokenLoader(TransformerDataset(path, tokenizer)), or create_dataloaders for text files"
            )
        check_count("batch_size", batch_size, most=1 << 31)
        if token_budget is not None:
            check_count("token_budget", token_budget, most=1 << 31)
            token_budget = int(token_budget)
        batch_size = int(batch_size)
        self._asked_ranks = rank is None and world_size is None
        rank, world_size = data_ranks(rank, world_size)
        if token_budget is None and batch_size % world_size:
            below = batch_size // world_size * world_size
            near = f"{below} or {below + world_size}" if below else f"{world_size}"
            raise ValueError(
                f"batch_size={batch_size} cannot be shared equally by {world_size} ranks: use {near}, for all together"
            )
        if prefetch_factor is not None:
            check_count("prefetch_factor", prefetch_factor)
        check_seed(seed)
        for name, value in (
            ("shuffle", shuffle),
            ("drop_last", drop_last),
            ("persistent_workers", persistent_workers),
        ):
            check_flag(name, value)
        if dataset.augment and dataset.seed != seed:
            raise ValueError(
                f"the dataset augments with seed={dataset.seed}, the loader has seed={seed}: use one for both"
            )
        policy = choose_workers(num_workers, start_method=start_method)
        if policy.num_workers < num_workers:
            warnings.warn(policy.reason, stacklevel=2)
        self.worker_policy = policy
        self.seed, self.shuffle, self.rank, self.world_size = seed, shuffle, rank, world_size
        self.global_batch_size = None if token_budget else batch_size
        self._epoch = -1  # of the pass that is running or was the last
        self._place = (0, 0)  # epoch and delivered batches: what `state_dict` tells
        self._next: tuple[int, int] | None = None  # where the next pass starts, if not at the next epoch
        self._pass = object()  # a mark of the newest pass
        self._running: weakref.ref[Iterator[Batch]] | None = None
        context = None
        if policy.start_method is not None:
            context = multiprocessing.get_context(policy.start_method)
            if policy.start_method == "forkserver":
                context.set_forkserver_preload([__name__])  # torch is imported once, not in each worker
        order: dict[str, Any] = {"seed": seed, "shuffle": shuffle, "drop_last": drop_last}
        order |= {"rank": rank, "world_size": world_size}
        self.order: EpochSampler | BucketBatches
        if token_budget is None:
            self.order = dataset.create_sampler(batch_size=batch_size, **order)
            if not self.order.n_steps:
                n_rows = self.order.n_rows
                raise ValueError(
                    f"corpus has {n_rows} rows of seq_length={dataset.seq_length}, fewer than one batch of "
                    f"batch_size={batch_size}, and incomplete batches are dropped: lower batch_size to {n_rows} "
                    "or less, lower seq_length, or add text"
                )
            of_rows: dict[str, Any] = {"sampler": self.order, "batch_size": batch_size // world_size}
            of_rows["drop_last"] = drop_last
        else:
            self.order = BucketBatches(*dataset.buckets(), token_budget, with_epoch=bool(dataset.augment), **order)
            of_rows = {"batch_sampler": self.order}
            if not len(self.order):
                raise ValueError(f"no batch of token_budget={token_budget} is full, and incomplete ones are dropped")
        self.order.reader = "nobody"
        super().__init__(
            dataset,
            **of_rows,
            num_workers=policy.num_workers,
            collate_fn=collate_rows,  # type: ignore[arg-type]
            pin_memory=choose_pinning(pin_memory),
            multiprocessing_context=context,
            prefetch_factor=prefetch_factor if policy.num_workers else None,
            persistent_workers=persistent_workers and policy.num_workers > 0,
            worker_init_fn=end_with_parent,
            generator=torch.Generator().manual_seed(seed),  # PyTorch draws here, not from the global generator
        )
        if token_budget is None:  # some frameworks look for it there
            self.batch_sampler.set_epoch = self.order.set_epoch  # type: ignore

    @property
    def epoch(self) -> int:
        """The epoch that is running or was the last to run, from 0; -1 before the first."""
        return self.order.epoch if self.order.reader == "other" else self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the next epoch. Not needed: each pass is a new epoch. For frameworks that call it."""
        if isinstance(epoch, bool) or not isinstance(epoch, int) or not 0 <= epoch < _EPOCHS:
            raise ValueError(f"epoch={epoch!r}, a whole number from 0 is needed, below 2**31")
        self._next = self._place = (epoch, 0)
        self.order.set_epoch(epoch)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self._place = self._next or (self.epoch + 1, 0)
        self._epoch, self._next = self._place[0], None
        self.order.begin(self._epoch, self._samples(*self._place))
        if self.num_workers == 0 and not self.pin_memory:
            batches = self._in_process()
        elif self.num_workers == 0:
            batches = super().__iter__()
        else:
            with main_module_hidden((self.dataset, self.collate_fn)):
                batches = super().__iter__()
        if self.dataset.provenance:  # type: ignore[attr-defined]
            batches = _stamped(batches, self._epoch, self.rank)
        self._pass = this_pass = object()
        running = self._deliver(batches, this_pass, self._place)
        self._running = weakref.ref(running)
        return running

    def _deliver(self, batches: Iterator[Batch], this_pass: object, place: tuple[int, int]) -> Iterator[Batch]:
        self._check_framework()
        epoch, delivered = place
        while True:
            if self._pass is not this_pass:  # the two would share one position, and workers that stay one queue
                raise LoaderStateError(
                    "this iterator was ended by a later iter(loader), which began the next epoch: a loader runs one "
                    "pass at a time; make a second loader to read twice at once"
                )
            try:
                batch = next(batches)
            except StopIteration:
                return
            delivered += 1
            self._place = (epoch, delivered)
            yield batch

    def _check_framework(self) -> None:
        """Refuse what a framework would get wrong unseen. Not in `iter`, where Lightning hides an error by another."""
        ranks = data_ranks()
        if self._asked_ranks and ranks[1] > 1 and ranks != (self.rank, self.world_size):
            raise LoaderStateError(
                f"this loader was made as rank {self.rank} of {self.world_size}, this process is rank {ranks[0]} of "
                f"{ranks[1]}: make it after the process group, with Lightning in the hook train_dataloader(), or give "
                "it rank and world_size"
            )
        told = self.order.told  # since this pass began
        if self.shuffle and told is not None and told > self._epoch:
            raise LoaderStateError(
                f"a framework begins epoch {told}, this loader epoch {self._epoch}, and rows would be repeated: resume "
                "from a checkpoint that holds this loader's state (Lightning's ModelCheckpoint writes it during "
                f"training), or call set_epoch({told}) first"
            )

    def _in_process(self) -> Iterator[Batch]:
        """What PyTorch's loader does without workers, at a fraction of its cost for each batch."""
        dataset, order = self.dataset, self.order
        if isinstance(order, BucketBatches):
            for rows in order:
                yield dataset.gather(np.array(rows))  # type: ignore[attr-defined]
            return
        size: int = self.batch_size  # type: ignore[assignment]
        each = max(1, _TOKENS_PER_GATHER // (size * dataset.seq_length))  # type: ignore[attr-defined]
        for block in order.blocks(max(each, 8192 // size)):
            for start in range(0, len(block), size * each):
                yield from _split(dataset.gather(block[start : start + size * each]), size)  # type: ignore

    # -- resume --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where this loader is: plain JSON. Take it after a batch; the next batch is the first after resuming."""
        if self.order.reader == "other":
            raise LoaderStateError(
                "another loader reads through this one, and only it knows which batches it delivered: count them, and "
                "resume with its means, such as Accelerate's set_epoch and skip_first_batches"
            )
        return {"epoch": self._place[0], "samples_delivered": self._samples(*self._place), **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken. The number of workers may differ; what decides the stream may not.

        Raises:
            LoaderStateError: state of another corpus, seed, seq_length or order, damaged, or loaded while an
                iterator of this loader is running.
        """
        running = self._running() if self._running else None
        if running is not None and getattr(running, "gi_frame", None) is not None:
            raise LoaderStateError(
                "an iterator of this loader is running and would go on from its own place: "
                "call load_state_dict before iter(loader)"
            )
        if not isinstance(state, Mapping):
            raise LoaderStateError(f"the state is {type(state).__name__}, what state_dict() returned is needed")
        for name, ours in {"augment": None, "bucket_batches": None, **self._identity()}.items():
            theirs = state.get(name)
            if not _same(theirs, ours):
                raise LoaderStateError(
                    f"the state was taken with {name}={theirs!r}, this loader has {name}={ours!r}: "
                    "resume with the same data and settings, or start anew"
                )
        epoch, samples = state.get("epoch"), state.get("samples_delivered")
        if type(epoch) is not int or type(samples) is not int or not 0 <= epoch < _EPOCHS or samples < 0:
            raise LoaderStateError(f"epoch={epoch!r} and samples_delivered={samples!r} are not whole numbers from 0")
        delivered = self._batches(epoch, samples)
        self._next = self._place = (epoch, delivered) if delivered < len(self) else (epoch + 1, 0)
        self.order.reader = "resumed"

    def _samples(self, epoch: int, delivered: int) -> int:
        """Rows that all ranks together were given by the first `delivered` batches of an epoch."""
        if isinstance(self.order, BucketBatches):
            return int(self.order.samples(epoch)[delivered]) if delivered else 0
        return delivered * self.order.batch_size

    def _batches(self, epoch: int, samples: int) -> int:
        """The number of batches after which that many rows were given."""
        if isinstance(self.order, BucketBatches):
            before = self.order.samples(epoch)
            delivered = int(np.searchsorted(before, samples))
            if delivered == len(before) or before[delivered] != samples:
                raise LoaderStateError(
                    f"{samples} samples do not end with a batch here: resume with the same token_budget and buckets"
                )
            return delivered
        size = self.order.batch_size
        if samples % size and samples < self.order.n_rows:  # or else the epoch was at its end
            raise LoaderStateError(
                f"{samples} samples were delivered, not a whole number of batches of {size}: "
                "resume with a batch_size that divides it"
            )
        return -(-samples // size)

    def _identity(self) -> dict[str, Any]:
        identity = {**self.dataset.settings(), "seed": self.seed, "shuffle": self.shuffle}  # type: ignore[attr-defined]
        return identity | ({"bucket_batches": self.order.layout} if isinstance(self.order, BucketBatches) else {})


def _same(theirs: Any, ours: Any) -> bool:
    """Whether two values of a state are equal; an array, which does not say yes or no, is none of ours."""
    try:
        return bool(theirs == ours)
    except Exception:
        return False


def _stamped(batches: Iterator[Batch], epoch: int, rank: int) -> Iterator[Batch]:
    """Fill in what workers do not know of a batch's provenance: rank, and mostly the epoch."""
    for batch in batches:
        origin = batch["provenance"]
        origin[:, 1], origin[:, 2] = torch.where(origin[:, 1] < 0, epoch, origin[:, 1]), rank
        yield batch


def _split(gathered: Batch, size: int) -> Iterator[Batch]:
    """Several batches that were gathered at once, taken apart; the last may be smaller."""
    rows = len(gathered["input_ids"])
    if rows == size:
        yield gathered
        return
    whole, names = rows // size, tuple(gathered)
    pieces = (tensor[: whole * size].unflatten(0, (whole, size)).unbind() for tensor in gathered.values())
    for tensors in zip(*pieces, strict=True):
        yield dict(zip(names, tensors))  # noqa: B905  strict costs time here
    if rows % size:
        yield {name: tensor[whole * size :] for name, tensor in gathered.items()}
