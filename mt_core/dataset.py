"""Rows to tensors: the PyTorch dataset. Does not choose the order of rows or build loaders."""

from __future__ import annotations

import hashlib
import json
import operator
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from mt_core.arguments import check_count, check_flag, check_path, check_seed
from mt_core.augment import Augmentation
from mt_core.augmented_rows import Augmenter, describe
from mt_core.cache import open_corpus
from mt_core.corpus import OnError, SampleBy
from mt_core.on_the_fly import TokenizedText, open_text
from mt_core.order import NO_ROW, EpochSampler
from mt_core.store import TokenStore
from mt_core.tokenizer import MicroTransformerTokenizer
from mt_core.windows import IGNORE, ContiguousRows, DocumentRows, JitteredRows, PackedRows

Chunking = Literal["contiguous", "per_document", "sliding", "packed"]
Tokenize = Literal["ahead", "on-the-fly"]
Batch = dict[str, torch.Tensor]
_LONGEST_ROW = 1 << 24


class TransformerDataset(Dataset[Batch]):
    """Rows for causal language modelling: `dataset[i]` -> {"input_ids": int64 (T,), "labels": int64 (T,)}.

    `labels[t]` is the token after `input_ids[t]`: shifted here, once, and never in the model. -100 marks
    targets to ignore. Unless rows are contiguous, they also have `position_ids` and `document_ids`.

    Args:
        source: a JSONL or plain-text file, the folder of a token store, or a `TokenStore`. A file is
            tokenized on first use and kept in a cache beside it (see `open_corpus`).
        tokenizer: needed for a file; for a store it is checked to be the one that made it.
        seq_length: T, tokens in a row.
        is_jsonl: JSONL or plain text; None tells by the file's suffix.
        stride: distance between the starts of neighbouring rows; by default seq_length, so that each target
            is seen exactly once an epoch; for sliding windows half of it. Not for packed and per-document rows.
        chunking: "contiguous" cuts one continuous stream; "per_document" starts each document on a new row and
            pads; "sliding" does so too, and overlaps the rows of a long document by seq_length - stride, each target
            asked once; "packed" puts whole documents together into rows that are all but full.
        mask_documents: contiguous rows have `position_ids` and `document_ids` too, so that the model keeps attention
            inside a document, as it does for all other rows.
        text_field, sample_by, on_error: how a file is read, see `read_documents`.
        cache_dir: where the store of a file is kept.
        length_buckets: for rows with padding: batches are cut to the shortest of these lengths that holds them, so that
            few shapes occur; a number makes as many in equal steps up to seq_length.
        tokenize: "ahead" of training, kept in a store; or "on-the-fly", each time a row is asked for, by whoever builds
            the batch: the same rows, with next to nothing kept on disk. See `open_text`.
        augment: what is done to rows, in this order, otherwise in each epoch; see `mt_core.augment`. The number of a
            row is then `epoch * len(dataset) + row`, and `dataset[row]` is the row in epoch 0.
        seed: of the loader; decides what the augmentations do.
        provenance: rows also say where they come from, for `mt_core.lab.provenance.explain`: int64 (4,) with
            row, epoch, rank and worker, -1 for what is not known here.

    Raises:
        ValueError: a bad setting, or a corpus that cannot fill one row; CorpusError, StoreError and
            TokenizerError, which say what is wrong with the file, the store or the tokenizer.

    >>> store = TokenStore.from_token_ids(range(10), vocab_size=10)
    >>> dataset = TransformerDataset(store, seq_length=3)
    >>> len(dataset), dataset[1]["input_ids"].tolist(), dataset[1]["labels"].tolist()
    (3, [3, 4, 5], [4, 5, 6])
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | TokenStore,
        tokenizer: MicroTransformerTokenizer | None = None,
        seq_length: int = 128,
        *,
        is_jsonl: bool | None = None,
        stride: int | None = None,
        chunking: Chunking = "contiguous",
        text_field: str = "text",
        sample_by: SampleBy = "document",
        on_error: OnError = "raise",
        cache_dir: str | os.PathLike[str] | None = None,
        mask_documents: bool = False,
        length_buckets: int | Sequence[int] | None = None,
        tokenize: Tokenize = "ahead",
        augment: Sequence[Augmentation] = (),
        seed: int = 0,
        provenance: bool = False,
    ) -> None:
        check_count("seq_length", seq_length, most=_LONGEST_ROW)
        check_seed(seed)
        if stride is not None:
            check_count("stride", stride)
        if not isinstance(chunking, str) or chunking not in get_args(Chunking):
            raise ValueError(f"chunking={chunking!r}, it must be one of {', '.join(get_args(Chunking))}")
        if stride is not None and chunking in ("per_document", "packed"):
            raise ValueError(
                f"stride={stride} goes with contiguous and sliding rows, not with {chunking!r}: leave it out"
            )
        if not isinstance(tokenize, str) or tokenize not in get_args(Tokenize):
            raise ValueError(f"tokenize={tokenize!r}, it must be 'ahead' or 'on-the-fly'")
        for name, value in (("mask_documents", mask_documents), ("provenance", provenance)):
            check_flag(name, value)
        if isinstance(augment, str | bytes) or not isinstance(augment, Sequence):
            raise ValueError(f"augment={augment!r}, a list of augmentations is needed: [TokenMasking(rate=0.1)]")
        if tokenizer is not None and not isinstance(tokenizer, MicroTransformerTokenizer):
            raise ValueError(f"tokenizer={tokenizer!r}, a MicroTransformerTokenizer is needed")
        if not isinstance(source, TokenStore):
            check_path("source", source)
        is_store = isinstance(source, TokenStore) or os.path.isdir(source)
        if tokenize == "on-the-fly" and is_store and not isinstance(source, TokenizedText):
            raise ValueError(f"{source} is tokenized already: leave tokenize out, or name a text file")
        if isinstance(source, TokenStore):
            store = source
        elif is_store:
            store = TokenStore.open(source)
        elif tokenizer is None:
            raise ValueError(f"{source} is a text file and needs a tokenizer: TransformerDataset(path, tokenizer, …)")
        else:
            store = (open_text if tokenize == "on-the-fly" else open_corpus)(
                source,
                tokenizer,
                cache_dir=cache_dir,
                is_jsonl=is_jsonl,
                text_field=text_field,
                sample_by=sample_by,
                on_error=on_error,
            )
        if tokenizer is not None and store.tokenizer_hash not in (None, tokenizer.fingerprint()):
            raise ValueError(
                f"{store} was made with another tokenizer ({store.tokenizer_hash[:12]}…, this one is "
                f"{tokenizer.fingerprint()[:12]}…): load that one, or prepare the corpus again with this one"
            )
        self.store, self.seq_length, self.chunking = store, int(seq_length), chunking
        self.stride = None if stride is None else int(stride)
        self.mask_documents, self.provenance = mask_documents, provenance
        self.length_buckets = None if length_buckets is None else self._checked_buckets(length_buckets)
        self.augment, self.seed = tuple(augment), seed
        self._augmenter = None
        if self.augment:
            self._augmenter = Augmenter(
                self.augment,
                tokenizer,
                seed=seed,
                chunking=chunking,
                stride=self.stride,
                mask_documents=mask_documents,
                length_buckets=self.length_buckets,
            )
        self.rows = self._create_rows()

    def _checked_buckets(self, wanted: int | Sequence[int]) -> tuple[int, ...]:
        self._check_padded(f"length_buckets={wanted}")
        if isinstance(wanted, int) or not isinstance(wanted, Sequence):
            check_count("length_buckets", wanted)
            wanted = sorted({-(-self.seq_length * step // wanted) for step in range(1, wanted + 1)})
        for bucket in wanted:
            check_count("each of length_buckets", bucket)
        buckets = tuple(map(int, wanted))
        if not buckets or list(buckets) != sorted(set(buckets)) or buckets[-1] != self.seq_length:
            raise ValueError(f"length_buckets={buckets} must increase and end with seq_length={self.seq_length}")
        return buckets

    def _check_padded(self, what: str) -> None:
        if self.chunking not in ("per_document", "sliding"):
            raise ValueError(
                f"{what} goes with rows that are padded (chunking='per_document' or 'sliding'): {self.chunking} rows "
                "are full"
            )

    def buckets(self) -> tuple[np.ndarray, tuple[int, ...]]:
        """Tokens in each row, int64 (rows,), and the lengths batches are cut to.

        Raises:
            ValueError: the dataset was made without `length_buckets`, or its rows are full.
        """
        self._check_padded("token_budget")
        if self.length_buckets is None:
            raise ValueError("token_budget needs length_buckets: TransformerDataset(…, length_buckets=4)")
        return self._row_lengths, self.length_buckets

    @cached_property
    def _row_lengths(self) -> np.ndarray:
        assert isinstance(self.rows, DocumentRows)
        return self.rows.row_lengths()

    def _create_rows(self) -> ContiguousRows | DocumentRows | PackedRows:
        mask_documents = self.mask_documents
        if self._augmenter is not None:
            mask_documents = self._augmenter.mask_documents
            rows = self._augmenter.create_rows(self.store, self.seq_length)
            if rows is not None:
                return rows
        if self.chunking == "packed":
            return PackedRows(self.store, self.seq_length)
        if self.chunking == "per_document":
            return DocumentRows(self.store, self.seq_length)
        if self.chunking == "sliding":
            return DocumentRows(self.store, self.seq_length, self.stride or -(-self.seq_length // 2))
        return ContiguousRows(self.store, self.seq_length, self.stride, mask_documents=mask_documents)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        return {name: tensor[0] for name, tensor in self.gather(row_number(index, len(self))).items()}

    def __getitems__(self, indices: Sequence[int]) -> RowBatch:
        """The rows of a batch in one gather; PyTorch's loaders call this with a list of row numbers."""
        rows = np.asarray(indices, dtype=np.int64)
        there = rows[rows != NO_ROW]
        if there.size and not (0 <= there.min() and (self.augment or there.max() < len(self))):
            wrong = int(there.min() if there.min() < 0 else there.max())
            raise IndexError(f"row {wrong} does not exist: rows go from 0 to {len(self) - 1}")
        return RowBatch(self.gather(rows))

    def gather(self, rows: np.ndarray) -> Batch:
        """Tensors (B, T) of rows int64 (B,); `NO_ROW` gives a row whose labels are all -100.

        With `length_buckets`, T is the shortest of them that holds the longest of these rows. With augmentations a
        number stands for a row in an epoch: `epoch * len(dataset) + row`.
        """
        some_missing = rows.size > 0 and int(rows.min()) == NO_ROW  # the common answer, no, costs little
        missing = rows == NO_ROW if some_missing else np.zeros(len(rows), dtype=bool)
        epochs = None
        if self._augmenter is not None:
            epochs, rows = np.divmod(np.where(missing, 0, rows), len(self))
            arrays = self._augmenter.gather(self.rows, rows, epochs)
        else:
            arrays = self.rows.gather(np.where(missing, 0, rows) if some_missing else rows)
        if some_missing:
            for name, nothing in (("labels", IGNORE), ("document_ids", -1)):
                if name in arrays:
                    arrays[name][missing] = nothing
        if self.length_buckets is not None:
            longest = int(np.where(missing, 1, self._row_lengths[np.where(missing, 0, rows)]).max())
            length = next(bucket for bucket in self.length_buckets if bucket >= longest)
            arrays = {name: np.ascontiguousarray(array[:, :length]) for name, array in arrays.items()}
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if self.provenance:
            worker = get_worker_info()
            origin = np.full((len(rows), 4), -1)
            origin[:, 0], origin[:, 3] = np.where(missing, -1, rows), -1 if worker is None else worker.id
            if epochs is not None:
                origin[:, 1] = np.where(missing, -1, epochs)
            batch["provenance"] = torch.from_numpy(origin)
        return batch

    def positions(self, rows: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        """int64 (B, T): where in the stream each input of rows int64 (B,) stands in these epochs, -1 for padding.

        Augmentations that change a row's tokens are not followed.
        """
        if isinstance(self.rows, JitteredRows):
            assert self._augmenter is not None
            return self.rows.positions(rows, self._augmenter.offsets(epochs, self.seq_length))
        return self.rows.positions(rows)

    def create_sampler(self, **order: Any) -> EpochSampler:
        """The order of the rows for `TokenLoader`; the arguments are those of `EpochSampler`."""
        return EpochSampler(len(self), with_epoch=bool(self.augment), **order)

    def settings(self) -> dict[str, Any]:
        """What decides the rows: equal settings mean equal rows."""
        augment = describe(self.augment)
        return {
            "corpus": self.store.fingerprint(),
            "seq_length": self.seq_length,
            "stride": self.stride,
            "chunking": self.chunking,
            "mask_documents": self.mask_documents,
            "length_buckets": self.length_buckets and list(self.length_buckets),
        } | ({"augment": augment} if augment else {})

    def fingerprint(self) -> str:
        """A SHA-256 over `settings()`."""
        return hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("rows", "_row_lengths")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.rows = self._create_rows()  # the map of the store is open again, in this process


def row_number(index: int, n_rows: int) -> np.ndarray:
    """int64 (1,): the row that Python means by `dataset[index]`; below 0 it counts from the end.

    Raises:
        TypeError: not a whole number, such as a slice.
        IndexError: there is no such row.
    """
    try:
        index = operator.index(index)
    except TypeError:
        raise TypeError(
            f"dataset[{index!r}]: the number of one row is needed; dataset.gather(np.array([0, 1])) gives two at once"
        ) from None
    if not -n_rows <= index < n_rows:
        raise IndexError(f"row {index} does not exist: rows go from 0 to {n_rows - 1}")
    return np.array([index % n_rows])


class RowBatch(Sequence[Batch]):
    """A batch that was gathered whole. Looks like a list of rows, so any collate function can take it."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["input_ids"])

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return {name: tensor[index] for name, tensor in self.batch.items()}


def collate_rows(rows: RowBatch) -> Batch:
    """The collate function of our loaders: the batch is there already, hand it over."""
    return rows.batch
