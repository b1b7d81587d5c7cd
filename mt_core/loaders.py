"""Rows to batches: loaders, the worker and pinning policy, resume. Does not train."""

from __future__ import annotations

import multiprocessing
import os
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from mt_core.augment import Augmentation
from mt_core.corpus import OnError, SampleBy
from mt_core.dataset import Batch, Chunking, Tokenize, TransformerDataset, check_count, check_seed, collate_rows
from mt_core.mixing import MixedDataset
from mt_core.order import BucketBatches, EpochSampler, data_ranks
from mt_core.store import TokenStore
from mt_core.tokenizer import MicroTransformerTokenizer
from mt_core.workers import choose_pinning, choose_workers, end_with_parent, main_module_hidden

Source = str | os.PathLike[str] | TokenStore

# Small batches are gathered several at a time, up to this many tokens: each gather has a fixed cost.
_TOKENS_PER_GATHER = 1 << 15


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
            as hold this many tokens, filled up to one of `dataset.length_buckets`.
        shuffle: a new order each epoch, or always 0, 1, 2, …
        drop_last: leave out the incomplete last batch.
        seed: chooses the orders; a whole number from 0 to 2**64 - 1.
        num_workers, start_method: see `choose_workers`; what came of it is in `worker_policy`.
        pin_memory: None pins where an accelerator is there.
        prefetch_factor: batches each worker prepares ahead; None is PyTorch's 2.
        persistent_workers: keep workers between epochs.
        rank, world_size: which slice of a batch, of how many; None asks `torch.distributed`, see `data_ranks`.
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
    ) -> None:
        check_count("batch_size", batch_size)
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
        self._epoch, self._delivered = -1, 0  # of the pass that is running or was the last
        self._next: tuple[int, int] | None = None  # epoch and delivered batches that the next pass starts from
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
            check_count("token_budget", token_budget)
            self.order = BucketBatches(*dataset.buckets(), token_budget, with_epoch=bool(dataset.augment), **order)
            of_rows = {"batch_sampler": self.order}
            if not len(self.order):
                raise ValueError(f"no batch of token_budget={token_budget} is full, and incomplete ones are dropped")
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

    @property
    def epoch(self) -> int:
        """The epoch that is running or was the last to run, from 0; -1 before the first."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the next epoch. Not needed: each pass is a new epoch. For frameworks that call it."""
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise ValueError(f"epoch={epoch!r}, a whole number from 0 is needed")
        self._next = (epoch, 0)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self._epoch, self._delivered = self._next or (self._epoch + 1, 0)
        self._next = None
        self.order.epoch = self._epoch
        self.order.position = self._samples(self._epoch, self._delivered)
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
        running = self._deliver(batches, this_pass)
        self._running = weakref.ref(running)
        return running

    def _deliver(self, batches: Iterator[Batch], this_pass: object) -> Iterator[Batch]:
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
            self._delivered += 1
            yield batch

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
                yield from _split(dataset.gather(block[start : start + size * each]), size, self.drop_last)  # type: ignore

    # -- resume --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where this loader is: plain JSON. Take it after a batch; the next batch is the first after resuming."""
        epoch, delivered = self._next or (max(self._epoch, 0), self._delivered)
        return {"epoch": epoch, "samples_delivered": self._samples(epoch, delivered), **self._identity()}

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
        for name, ours in {"augment": None, **self._identity()}.items():
            theirs = state.get(name)
            if theirs != ours:
                raise LoaderStateError(
                    f"the state was taken with {name}={theirs!r}, this loader has {name}={ours!r}: "
                    "resume with the same data and settings, or start anew"
                )
        epoch, samples = state.get("epoch"), state.get("samples_delivered")
        if type(epoch) is not int or type(samples) is not int or epoch < 0 or samples < 0:
            raise LoaderStateError(f"epoch={epoch!r} and samples_delivered={samples!r} are not whole numbers from 0")
        delivered = self._batches(epoch, samples)
        self._next = (epoch, delivered) if delivered < len(self) else (epoch + 1, 0)

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
        delivered, rest = divmod(samples, self.order.batch_size)
        if rest:
            raise LoaderStateError(
                f"{samples} samples were delivered, not a whole number of batches of {self.order.batch_size}: "
                "resume with a batch_size that divides it"
            )
        return delivered

    def _identity(self) -> dict[str, Any]:
        return {**self.dataset.settings(), "seed": self.seed, "shuffle": self.shuffle}  # type: ignore[attr-defined]


def create_dataloaders(
    train_path: Source | Sequence[tuple[Source, float | Fraction]],
    val_path: Source,
    tokenizer: MicroTransformerTokenizer | None,
    batch_size: int = 16,
    seq_length: int = 128,
    num_workers: int = 0,
    *,
    token_budget: int | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    is_jsonl: bool | None = None,
    seed: int = 0,
    stride: int | None = None,
    chunking: Chunking = "contiguous",
    mask_documents: bool = False,
    length_buckets: int | Sequence[int] | None = None,
    tokenize: Tokenize = "ahead",
    augment: Sequence[Augmentation] = (),
    text_field: str = "text",
    sample_by: SampleBy = "document",
    on_error: OnError = "raise",
    cache_dir: str | os.PathLike[str] | None = None,
    start_method: str | None = None,
    pin_memory: bool | None = None,
    prefetch_factor: int | None = None,
    persistent_workers: bool = True,
    provenance: bool = False,
) -> tuple[TokenLoader, TokenLoader]:
    """Loaders for training and validation: `train_loader, val_loader = create_dataloaders(…)`.

    A batch is {"input_ids": int64 (B, T), "labels": int64 (B, T)}. Training is shuffled, a new order each
    epoch, and its incomplete last batch dropped; validation is in order and complete.

    Args:
        train_path, val_path: JSONL or plain-text files, folders of token stores, or `TokenStore` objects. For training
            also several with weights, [(path, 3), (path, 1)], see `MixedDataset`; an epoch is then one of the first.
        tokenizer: a `MicroTransformerTokenizer`; may be None where both are stores.
        batch_size: B, of all ranks together.
        seq_length: T.
        num_workers: processes that build batches. 0 is fastest for stored tokens; see `choose_workers`.
        seed: chooses the training order, and what the augmentations do.
        augment: for training alone.
        token_budget, rank, world_size, start_method, pin_memory, prefetch_factor, persistent_workers: see
            `TokenLoader`.
        All others: see `TransformerDataset`.

    Raises:
        ValueError: a setting or a corpus that cannot work, and what to do about it; in particular when
            train and validation are the same text.
    """
    check_count("batch_size", batch_size)
    mixed = isinstance(train_path, Sequence) and not isinstance(train_path, str)
    sources: list[tuple[Any, Any]] = list(train_path) if mixed else [(train_path, 1)]  # type: ignore[arg-type]
    val_file = not isinstance(val_path, TokenStore) and Path(val_path).is_file()
    for source, _ in sources:
        paths = [path for path in (source, val_path) if not isinstance(path, TokenStore) and Path(path).exists()]
        if len(paths) == 2 and Path(paths[0]).samefile(paths[1]):
            raise _same_corpus(str(source))

    def dataset(source: Source, **settings: Any) -> TransformerDataset:
        return TransformerDataset(
            source,
            tokenizer,
            seq_length,
            is_jsonl=is_jsonl,
            chunking=chunking,
            mask_documents=mask_documents,
            length_buckets=4 if length_buckets is None and token_budget is not None else length_buckets,
            seed=seed,
            text_field=text_field,
            sample_by=sample_by,
            on_error=on_error,
            cache_dir=cache_dir,
            provenance=provenance,
            **settings,
        )

    # Validation always takes each target once: with overlapping rows its loss would mean something else.
    weighted = [(dataset(path, stride=stride, tokenize=tokenize, augment=augment), weight) for path, weight in sources]
    val = dataset(val_path, tokenize=tokenize if val_file else "ahead")
    for (train, _), (source, _) in zip(weighted, sources, strict=True):
        if train.store.fingerprint() == val.store.fingerprint():
            raise _same_corpus(f"{source} and {val_path}")
    rows = MixedDataset(weighted) if mixed else weighted[0][0]

    def loader(rows: TransformerDataset | MixedDataset, *, shuffle: bool, drop_last: bool) -> TokenLoader:
        return TokenLoader(
            rows,
            batch_size=batch_size,
            token_budget=token_budget,
            rank=rank,
            world_size=world_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
            num_workers=num_workers,
            start_method=start_method,
            pin_memory=pin_memory,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
        )

    return loader(rows, shuffle=True, drop_last=True), loader(val, shuffle=False, drop_last=False)


def _same_corpus(what: str) -> ValueError:
    return ValueError(
        f"train and validation are the same text ({what}): the validation loss would only say how well the model "
        "remembers. Split the corpus, or name another file"
    )


def _stamped(batches: Iterator[Batch], epoch: int, rank: int) -> Iterator[Batch]:
    """Fill in what workers do not know of a batch's provenance: rank, and mostly the epoch."""
    for batch in batches:
        origin = batch["provenance"]
        origin[:, 1], origin[:, 2] = torch.where(origin[:, 1] < 0, epoch, origin[:, 1]), rank
        yield batch


def _split(gathered: Batch, size: int, drop_last: bool) -> Iterator[Batch]:
    """Several batches that were gathered at once, taken apart; the last may be smaller, or is left out."""
    rows = len(gathered["input_ids"])
    if rows == size:
        yield gathered
        return
    whole, names = rows // size, tuple(gathered)
    pieces = (tensor[: whole * size].unflatten(0, (whole, size)).unbind() for tensor in gathered.values())
    for tensors in zip(*pieces, strict=True):
        yield dict(zip(names, tensors))  # noqa: B905  strict costs time here
    if rows % size and not drop_last:
        yield {name: tensor[whole * size :] for name, tensor in gathered.items()}
