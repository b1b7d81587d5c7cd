"""Streams that never change: a release that changed one would quietly change every run that is resumed or repeated."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mt_core import (
    FillInTheMiddle,
    MicroTransformerTokenizer,
    MixedDataset,
    OffsetJitter,
    TokenDropping,
    TokenLoader,
    TokenMasking,
    TokenStore,
    TransformerDataset,
)

TOKENIZER = MicroTransformerTokenizer.from_pretrained(Path(__file__).parent.parent / "data" / "tokenizer")
ROWS_CHANGED = [FillInTheMiddle(rate=0.5), TokenMasking(rate=0.1), TokenDropping(rate=0.1)]


def documents(n_documents: int, first: int) -> TokenStore:
    """[CLS] … [SEP] with 2 to 40 tokens between, numbers from `first` on."""
    cls, sep = TOKENIZER.cls_token_id, TOKENIZER.sep_token_id
    lengths = [2 + n * n % 39 for n in range(n_documents)]
    ids = np.concatenate([[cls, *(first + np.arange(length) * 7 % 400), sep] for length in lengths])
    return TokenStore.from_token_ids(
        ids,
        vocab_size=len(TOKENIZER),
        document_ends=np.cumsum(np.array(lengths) + 2),
        pad_token_id=TOKENIZER.pad_token_id,
    )


def stream(order: dict[str, Any], **settings: Any) -> str:
    """The beginning of a SHA-256 over the batches of two epochs: names, shapes and numbers."""
    parts = [(documents(60, 10), 3), (documents(25, 500), 1)]
    sources = [(TransformerDataset(store, TOKENIZER, 16, seed=3, **settings), weight) for store, weight in parts]
    rows = MixedDataset(sources) if order.pop("mixed", False) else sources[0][0]
    loader = TokenLoader(rows, shuffle=True, seed=3, **({"batch_size": 4} | order))
    digest = hashlib.sha256()
    for batch in [*loader, *loader]:
        for name, tensor in batch.items():
            digest.update(f"{name} {tuple(tensor.shape)} ".encode() + tensor.numpy().astype("<i8").tobytes())
    return digest.hexdigest()[:12]


@pytest.mark.parametrize(
    "expected, order, settings",
    [
        ("b07e48b39fa3", {}, {}),
        ("2ef5be81c1c3", {}, {"stride": 5, "mask_documents": True}),
        ("2ff0e074a0d7", {}, {"chunking": "packed"}),
        ("fdbbe2005d15", {"batch_size": 8, "rank": 1, "world_size": 2}, {"chunking": "per_document"}),
        ("ac6e5af744c1", {"token_budget": 100}, {"chunking": "sliding", "length_buckets": 4}),
        ("46e4dd15f2a3", {}, {"augment": [*ROWS_CHANGED, OffsetJitter()]}),
        ("fccb353413a8", {"mixed": True}, {"chunking": "packed", "augment": ROWS_CHANGED}),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_this_stream_never_changes(expected: str, order: dict[str, Any], settings: dict[str, Any]) -> None:
    assert stream(dict(order), **settings) == expected
