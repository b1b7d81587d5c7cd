"""The rows of a dataset with augmentations: what must be read for them, and in which order they are applied.

Does not say what an augmentation does: augment.py does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mt_core.augment import Augmentation, BpeDropout, FillInTheMiddle, OffsetJitter, RowAugmentation, RowContext
from mt_core.bpe_dropout import BpeDropoutRows
from mt_core.store import TokenStore
from mt_core.tokenizer import MicroTransformerTokenizer
from mt_core.windows import ContiguousRows, DocumentRows, JitteredRows, PackedRows, Rows


class Augmenter:
    """Reads rows as they are in an epoch.

    Args:
        augment: the augmentations, in the order in which they are applied.
        tokenizer: tells the ids of the special tokens; not needed by `OffsetJitter` and `BpeDropout`.
        seed: of the loader.
        chunking, stride, mask_documents, length_buckets: of the dataset.

    Raises:
        ValueError: something that is no augmentation, or does not go with the others or with the dataset.
    """

    def __init__(
        self,
        augment: Sequence[Augmentation],
        tokenizer: MicroTransformerTokenizer | None,
        *,
        seed: int,
        chunking: str,
        stride: int | None,
        mask_documents: bool,
        length_buckets: Sequence[int] | None,
    ) -> None:
        for one in augment:
            if not isinstance(one, Augmentation):
                names = "TokenMasking, TokenDropping, FillInTheMiddle, OffsetJitter and BpeDropout"
                raise ValueError(f"augment holds {one!r}: a list of {names} is needed: [TokenMasking(rate=0.1)]")
        self._of_rows = [(place, one) for place, one in enumerate(augment) if isinstance(one, RowAugmentation)]
        if any(isinstance(one, FillInTheMiddle) for _, one in self._of_rows[1:]):
            raise ValueError("FillInTheMiddle turns rows as they stand in the text: put it before the others, and once")
        if self._of_rows and tokenizer is None:
            raise ValueError(
                f"{type(self._of_rows[0][1]).__name__} needs the ids of [MASK] and the other special tokens: pass the "
                "tokenizer along with the store"
            )
        self._jitter = _only(augment, OffsetJitter)
        self._dropout = _only(augment, BpeDropout)
        if self._jitter and (chunking != "contiguous" or stride is not None):
            raise ValueError(
                f"OffsetJitter moves the cuts of contiguous rows with the default stride, here are {chunking} rows "
                f"with stride={stride}: leave it out"
            )
        if self._dropout and (chunking != "per_document" or length_buckets is not None):
            raise ValueError(
                f"BpeDropout changes the length of documents, which chunking='per_document' without length_buckets "
                f"allows, here are {chunking!r} and length_buckets={length_buckets}"
            )
        self._special = (0, 0, 0, 0)
        if tokenizer is not None:
            ids = (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id)
            self._special = ids
        self._seed, self._continuous, self._mask_documents = seed, chunking == "contiguous", mask_documents
        # To find documents in contiguous rows, they are read with the fields that tell, which are then left out.
        needs_documents = any(isinstance(one, FillInTheMiddle) for _, one in self._of_rows)
        self.mask_documents = mask_documents or (self._continuous and needs_documents)

    def create_rows(self, store: TokenStore, seq_length: int) -> JitteredRows | BpeDropoutRows | None:
        """Rows of another kind than the chunking has, where an augmentation needs them."""
        if self._jitter:
            return JitteredRows(store, seq_length, mask_documents=self.mask_documents)
        if self._dropout:
            return BpeDropoutRows(store, seq_length, rate=self._dropout.rate, seed=self._seed)
        return None

    def offsets(self, epochs: np.ndarray, seq_length: int) -> np.ndarray:
        """By how many tokens the cuts lie earlier in these epochs, int64 (B,)."""
        return self._jitter.offsets(self._seed, epochs, seq_length) if self._jitter else np.zeros_like(epochs)

    def gather(self, source: ContiguousRows | DocumentRows | PackedRows, rows: np.ndarray, epochs: np.ndarray) -> Rows:
        """Arrays (B, T) of rows int64 (B,) as they are in epochs int64 (B,)."""
        if isinstance(source, JitteredRows):
            arrays = source.gather(rows, self.offsets(epochs, source.seq_length))
        elif isinstance(source, BpeDropoutRows):
            arrays = source.gather(rows, epochs)
        else:
            arrays = source.gather(rows)
        for place, one in self._of_rows:
            context = RowContext(
                seed=self._seed,
                place=place,
                epochs=epochs,
                rows=rows,
                special=self._special,
                continuous=self._continuous,
            )
            arrays = one.apply(arrays, context)
        if self.mask_documents and not self._mask_documents:
            arrays = {name: arrays[name] for name in ("input_ids", "labels")}
        return arrays


def describe(augment: Sequence[Augmentation]) -> list[dict[str, Any]] | None:
    """What identifies augmentations, as plain JSON; None for none."""
    described = [{"name": type(one).__name__, **asdict(one)} for one in augment]
    return [{name: list(v) if isinstance(v, tuple) else v for name, v in one.items()} for one in described] or None


def _only(augment: Sequence[Augmentation], kind: type) -> Any:
    found = [one for one in augment if isinstance(one, kind)]
    if len(found) > 1:
        raise ValueError(f"augment holds {kind.__name__} {len(found)} times: once is enough")
    return found[0] if found else None
