"""Rows to batches: loaders, the worker and pinning policy, resume. Does not train."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import types
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from mt_core.corpus import OnError, SampleBy
from mt_core.dataset import Batch, Chunking, TransformerDataset, check_count, collate_rows
from mt_core.order import EpochSampler
from mt_core.store import TokenStore
from mt_core.tokenizer import MicroTransformerTokenizer

# Small batches are gathered several at a time, up to this many tokens: each gather has a fixed cost.
_TOKENS_PER_GATHER = 1 << 15
_START_METHODS = ("forkserver", "spawn")


class LoaderStateError(ValueError):
    """A saved loader state does not belong to this loader, or comes at the wrong moment."""


@dataclass(frozen=True, kw_only=True)
class WorkerPolicy:
    """How many worker processes are used, how they start, and why."""

    num_workers: int
    start_method: str | None
    reason: str


def choose_workers(num_workers: int, *, start_method: str | None = None, system: str = sys.platform) -> WorkerPolicy:
    """The worker policy: never plain fork, and no workers on Windows unless a start method is named.

    Args:
        num_workers: how many are asked for, from 0.
        start_method: "forkserver" or "spawn"; None chooses for the system.
        system: as `sys.platform`.

    Raises:
        ValueError: a negative number, or a start method that is not safe or not there.

    >>> choose_workers(4, system="linux").start_method
    'forkserver'
    """
    if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 0:
        raise ValueError(f"num_workers={num_workers!r}, a whole number from 0 is needed")
    if start_method == "fork":
        raise ValueError(
            "start_method='fork' copies a process in the middle of whatever its threads are doing and can hang: "
            "use 'forkserver' or 'spawn'"
        )
    if start_method is not None and start_method not in _START_METHODS:
        raise ValueError(f"start_method={start_method!r}, it must be one of {', '.join(_START_METHODS)}")
    if num_workers == 0:
        return WorkerPolicy(num_workers=0, start_method=None, reason="batches are built in the main process")
    if system == "win32":
        if start_method is None:
            reason = (
                f"{num_workers} workers were asked for, 0 are used: on Windows starting each costs seconds. "
                "Pass start_method='spawn' to have them"
            )
            return WorkerPolicy(num_workers=0, start_method=None, reason=reason)
        start_method = "spawn"  # the one method Windows has
    method = start_method or ("spawn" if system == "darwin" else "forkserver")
    reason = f"{num_workers} workers, each started by {method}: a clean process, not a copy of this one"
    return WorkerPolicy(num_workers=num_workers, start_method=method, reason=reason)


def choose_pinning(pin_memory: bool | None) -> bool:
    """Whether to page-lock batches: where an accelerator copies from them, unless told not to."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    helps = accelerator is not None and accelerator.type != "mps"  # Apple's memory is shared: nothing to copy
    return helps if pin_memory is None else pin_memory and helps


class TokenLoader(DataLoader[Batch]):
    """A `torch.utils.data.DataLoader` over a `TransformerDataset` whose order and resume are arithmetic.

    Each pass over it is one epoch, in an order that depends on (seed, epoch) alone, whatever the workers.
    `state_dict()` counts batches that were delivered, not batches that were prefetched.

    Args:
        dataset: the rows.
        batch_size: B, rows in a batch.
        shuffle: a new order each epoch, or always 0, 1, 2, …
        drop_last: leave out the incomplete last batch.
        seed: chooses the orders; a whole number from 0 to 2**64 - 1.
        num_workers, start_method: see `choose_workers`; what came of it is in `worker_policy`.
        pin_memory: None pins where an accelerator is there.
        prefetch_factor: batches each worker prepares ahead; None is PyTorch's 2.
        persistent_workers: keep workers between epochs.
    """

    def __init__(
        self,
        dataset: TransformerDataset,
        *,
        batch_size: int = 16,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        num_workers: int = 0,
        start_method: str | None = None,
        pin_memory: bool | None = None,
        prefetch_factor: int | None = None,
        persistent_workers: bool = True,
    ) -> None:
        check_count("batch_size", batch_size)
        if prefetch_factor is not None:
            check_count("prefetch_factor", prefetch_factor)
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 64:
            raise ValueError(f"seed={seed!r}, a whole number from 0 to 2**64 - 1 is needed")
        policy = choose_workers(num_workers, start_method=start_method)
        if policy.num_workers < num_workers:
            warnings.warn(policy.reason, stacklevel=2)
        if drop_last and len(dataset) < batch_size:
            raise ValueError(
                f"corpus has {len(dataset)} rows of seq_length={dataset.seq_length}, fewer than one batch of "
                f"batch_size={batch_size}, and incomplete batches are dropped: lower batch_size to {len(dataset)} "
                "or less, lower seq_length, or add text"
            )
        self.worker_policy = policy
        self.seed, self.shuffle = seed, shuffle
        self._epoch, self._delivered = -1, 0  # of the pass that is running or was the last
        self._next: tuple[int, int] | None = None  # epoch and delivered batches that the next pass starts from
        self._pass = object()  # a mark of the newest pass
        self._running: weakref.ref[Iterator[Batch]] | None = None
        context = None
        if policy.start_method is not None:
            context = multiprocessing.get_context(policy.start_method)
            if policy.start_method == "forkserver":
                context.set_forkserver_preload([__name__])  # torch is imported once, not in each worker
        super().__init__(
            dataset,
            batch_size=batch_size,
            sampler=EpochSampler(len(dataset), seed=seed, shuffle=shuffle),
            drop_last=drop_last,
            num_workers=policy.num_workers,
            collate_fn=collate_rows,  # type: ignore[arg-type]
            pin_memory=choose_pinning(pin_memory),
            multiprocessing_context=context,
            prefetch_factor=prefetch_factor if policy.num_workers else None,
            persistent_workers=persistent_workers and policy.num_workers > 0,
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
        self.sampler.epoch, self.sampler.position = self._epoch, self._delivered * self.batch_size  # type: ignore
        if self.num_workers == 0 and not self.pin_memory:
            batches = self._in_process()
        elif self.num_workers == 0:
            batches = super().__iter__()
        else:
            with _main_module_hidden((self.dataset, self.collate_fn)):
                batches = super().__iter__()
        if self.dataset.provenance:  # type: ignore[attr-defined]
            batches = _stamped(batches, self._epoch)
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
        size, dataset = self.batch_size, self.dataset
        each = max(1, _TOKENS_PER_GATHER // (size * dataset.seq_length))  # type: ignore[operator, attr-defined]
        for block in self.sampler.blocks(size * max(each, 8192 // size)):  # type: ignore[operator, attr-defined]
            for start in range(0, len(block), size * each):  # type: ignore[operator]
                yield from _split(dataset.gather(block[start : start + size * each]), size, self.drop_last)  # type: ignore

    # -- resume --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where this loader is: plain JSON. Take it after a batch; the next batch is the first after resuming."""
        epoch, delivered = self._next or (max(self._epoch, 0), self._delivered)
        return {"epoch": epoch, "samples_delivered": delivered * self.batch_size, **self._identity()}  # type: ignore

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
        for name, ours in self._identity().items():
            theirs = state.get(name)
            if theirs != ours:
                raise LoaderStateError(
                    f"the state was taken with {name}={theirs!r}, this loader has {name}={ours!r}: "
                    "resume with the same data and settings, or start anew"
                )
        epoch, samples = state.get("epoch"), state.get("samples_delivered")
        if type(epoch) is not int or type(samples) is not int or epoch < 0 or samples < 0:
            raise LoaderStateError(f"epoch={epoch!r} and samples_delivered={samples!r} are not whole numbers from 0")
        if samples % self.batch_size:  # type: ignore[operator]
            raise LoaderStateError(
                f"{samples} samples were delivered, not a whole number of batches of {self.batch_size}: "
                "resume with a batch_size that divides it"
            )
        delivered = samples // self.batch_size  # type: ignore[operator]
        self._next = (epoch, delivered) if delivered < len(self) else (epoch + 1, 0)

    def _identity(self) -> dict[str, Any]:
        return {**self.dataset.settings(), "seed": self.seed, "shuffle": self.shuffle}  # type: ignore[attr-defined]


def create_dataloaders(
    train_path: str | os.PathLike[str] | TokenStore,
    val_path: str | os.PathLike[str] | TokenStore,
    tokenizer: MicroTransformerTokenizer | None,
    batch_size: int = 16,
    seq_length: int = 128,
    num_workers: int = 0,
    *,
    is_jsonl: bool | None = None,
    seed: int = 0,
    stride: int | None = None,
    chunking: Chunking = "contiguous",
    mask_documents: bool = False,
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
        train_path, val_path: JSONL or plain-text files, folders of token stores, or `TokenStore` objects.
        tokenizer: a `MicroTransformerTokenizer`; may be None where both are stores.
        batch_size: B.
        seq_length: T.
        num_workers: processes that build batches. 0 is fastest for stored tokens; see `choose_workers`.
        seed: chooses the training order.
        is_jsonl, stride, chunking, mask_documents, text_field, sample_by, on_error, cache_dir, provenance: see
            `TransformerDataset`.
        start_method, pin_memory, prefetch_factor, persistent_workers: see `TokenLoader`.

    Raises:
        ValueError: a setting or a corpus that cannot work, and what to do about it; in particular when
            train and validation are the same text.
    """
    check_count("batch_size", batch_size)
    if not isinstance(train_path, TokenStore) and not isinstance(val_path, TokenStore):
        same = Path(train_path).exists() and Path(val_path).exists() and Path(train_path).samefile(val_path)
        if same:
            raise _same_corpus(str(train_path))

    def dataset(source: str | os.PathLike[str] | TokenStore, stride: int | None) -> TransformerDataset:
        return TransformerDataset(
            source,
            tokenizer,
            seq_length,
            is_jsonl=is_jsonl,
            stride=stride,
            chunking=chunking,
            mask_documents=mask_documents,
            text_field=text_field,
            sample_by=sample_by,
            on_error=on_error,
            cache_dir=cache_dir,
            provenance=provenance,
        )

    # Validation always takes each target once: with overlapping rows its loss would mean something else.
    train, val = dataset(train_path, stride), dataset(val_path, None)
    if train.store.fingerprint() == val.store.fingerprint():
        raise _same_corpus(f"{train_path} and {val_path}")

    def loader(rows: TransformerDataset, *, shuffle: bool, drop_last: bool) -> TokenLoader:
        return TokenLoader(
            rows,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
            num_workers=num_workers,
            start_method=start_method,
            pin_memory=pin_memory,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
        )

    return loader(train, shuffle=True, drop_last=True), loader(val, shuffle=False, drop_last=False)


def _same_corpus(what: str) -> ValueError:
    return ValueError(
        f"train and validation are the same text ({what}): the validation loss would only say how well the model "
        "remembers. Split the corpus, or name another file"
    )


def _stamped(batches: Iterator[Batch], epoch: int) -> Iterator[Batch]:
    """Fill in what workers do not know of a batch's provenance: epoch and rank."""
    many = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if many else 0
    for batch in batches:
        batch["provenance"][:, 1:3] = torch.tensor([epoch, rank])
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


@contextmanager
def _main_module_hidden(sent: object) -> Iterator[None]:
    """Start workers without their importing the program's main file again.

    A worker that is not forked imports the file of `__main__` first, which runs a script without an
    `if __name__ == "__main__":` guard once more. Our workers need nothing from it, unless what is sent to
    them was defined there.
    """
    main = sys.modules["__main__"]
    if b"__main__" in pickle.dumps(sent):
        yield
        return
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
