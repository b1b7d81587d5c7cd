"""Files to the two loaders of a training run. The loader itself is in `mt_core.token_loader`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from mt_core.arguments import check_count, check_path
from mt_core.augment import Augmentation
from mt_core.corpus import OnError, SampleBy
from mt_core.dataset import Chunking, Tokenize, TransformerDataset
from mt_core.mixing import MixedDataset
from mt_core.store import TokenStore
from mt_core.token_loader import TokenLoader
from mt_core.tokenizer import MicroTransformerTokenizer

Source = str | os.PathLike[str] | TokenStore


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
    if cache_dir is not None:
        check_path("cache_dir", cache_dir)
    mixed = isinstance(train_path, Sequence) and not isinstance(train_path, str | bytes)
    sources: list[tuple[Any, Any]] = list(train_path) if mixed else [(train_path, 1)]  # type: ignore[arg-type]
    for source in sources:
        if not isinstance(source, tuple | list) or len(source) != 2:
            raise ValueError(
                f"train_path holds {source!r}: several sources are pairs of a path and a weight, [(path, 3), (path, 1)]"
            )
    for name, path in (*(("train_path", source) for source, _ in sources), ("val_path", val_path)):
        if not isinstance(path, TokenStore):
            check_path(name, path)
    bucketed = token_budget is not None and isinstance(chunking, str) and chunking in ("per_document", "sliding")
    val_file = not isinstance(val_path, TokenStore) and os.path.isfile(val_path)
    for source, _ in sources:
        paths = [path for path in (source, val_path) if not isinstance(path, TokenStore) and os.path.exists(path)]
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
            length_buckets=length_buckets if length_buckets is not None or not bucketed else 4,
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
