"""Where a token of a batch comes from: file, line, character, document, row, epoch, rank, worker. Does not train.

Loaders made with `provenance=True` deliver four numbers with each row; all else is worked out here, when asked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from mt_core.corpus import CorpusError, Document, Paths, _as_paths, iterate_documents
from mt_core.dataset import TransformerDataset
from mt_core.mixing import MixedDataset
from mt_core.store import TokenStore
from mt_core.tokenizer import MicroTransformerTokenizer
from mt_core.windows import IGNORE


class ProvenanceError(ValueError):
    """A token cannot be traced: nothing was recorded, it is padding, or data and batch do not belong together."""


@dataclass(frozen=True, kw_only=True)
class TokenOrigin:
    """Where one token comes from. None stands for what is not known, or was not asked for.

    Attributes:
        token_id: the token.
        text: the characters it stands for, and empty for [CLS] and [SEP]. A token that is a piece of a
            character has that whole character.
        path, line: the file of its document, and the line where that begins, from 1.
        start, end: `text` is characters start to end of its document's text, from 0.
        document: its document, from 0 in the store.
        token_offset: its place in the document, from 0, which is [CLS] in a corpus of text.
        stream_position: its place in the store, from 0.
        row, position: its row of the dataset, and its place in that row.
        epoch, rank, worker: which epoch and process delivered it; worker is None in the main process.
    """

    token_id: int
    text: str | None
    path: Path | None
    line: int | None
    start: int | None
    end: int | None
    document: int
    token_offset: int
    stream_position: int
    row: int
    position: int
    epoch: int | None
    rank: int | None
    worker: int | None

    def __str__(self) -> str:
        what = f"token {self.token_id}" if self.text is None else f"{self.text!r} (token {self.token_id})"
        lines = [what]
        if self.path is not None:
            lines.append(f"file      {self.path.name}, line {self.line}")
        characters = "" if self.start is None else f", characters {self.start} to {self.end}"
        lines.append(f"document  {self.document}: token {self.token_offset} of it{characters}")
        lines.append(f"stream    position {self.stream_position}")
        epoch = "" if self.epoch is None else f", epoch {self.epoch}"
        lines.append(f"dataset   row {self.row}, position {self.position}{epoch}")
        worker = "the main process" if self.worker is None else f"worker {self.worker}"
        lines.append(f"built by  {worker}" + ("" if self.rank is None else f" of rank {self.rank}"))
        return "\n".join(lines)


def explain(
    batch: Mapping[str, torch.Tensor],
    row: int,
    position: int,
    *,
    loader: DataLoader[Any] | Dataset[Any],
    tokenizer: MicroTransformerTokenizer | None = None,
    field: Literal["input_ids", "labels"] = "input_ids",
    source: Paths | None = None,
) -> TokenOrigin:
    """Where token `batch[field][row, position]` comes from.

    Reads the document's file up to that document, so the time grows with the file.

    Args:
        batch: of a loader or dataset made with `provenance=True`.
        row, position: indices into the batch; negative ones count from the end.
        loader: the loader, or its dataset: a `TransformerDataset`, a `MixedDataset`, or a `Subset` of one.
        tokenizer: the one that made the corpus; without it `text`, `start` and `end` are None.
        field: an input or a label.
        source: the files of the corpus, in their order, should they have moved.

    Raises:
        ProvenanceError: nothing was recorded; the token is padding or a masked label; the batch is not of this
            loader or was changed; the tokenizer is another; the files have moved or changed.
        IndexError: no such row or position.

    >>> store = TokenStore.from_token_ids(range(10), vocab_size=10, document_ends=[4, 10])
    >>> dataset = TransformerDataset(store, seq_length=3, provenance=True)
    >>> print(explain(dataset.gather(np.array([2])), 0, 1, loader=dataset))
    token 7
    document  1: token 3 of it
    stream    position 7
    dataset   row 2, position 1
    built by  the main process
    """
    dataset: Any = loader
    while isinstance(dataset, DataLoader | Subset):  # a row keeps the number it has in the dataset that made it
        dataset = dataset.dataset
    if not isinstance(dataset, TransformerDataset | MixedDataset):
        raise ProvenanceError(
            f"tokens of a {type(dataset).__name__} cannot be traced: pass a TransformerDataset or MixedDataset, or a "
            "loader of one"
        )
    if not isinstance(batch, Mapping) or "provenance" not in batch:
        raise ProvenanceError(
            "the batch does not say where its rows come from: make the loader with "
            "create_dataloaders(..., provenance=True), or the dataset with TransformerDataset(..., provenance=True)"
        )
    if field not in ("input_ids", "labels"):
        raise ValueError(f"field={field!r}, it must be 'input_ids' or 'labels'")
    ids = torch.atleast_2d(torch.as_tensor(batch[field]))  # a single row of a dataset is a batch of one
    n_rows, n_positions = ids.shape
    row, position = _index("row", row, n_rows), _index("position", position, n_positions)
    number, *others = torch.atleast_2d(torch.as_tensor(batch["provenance"]))[row].tolist()
    epoch, rank, worker = (None if value < 0 else value for value in others)
    token_id = int(ids[row, position])
    if field == "labels" and token_id == IGNORE:
        raise ProvenanceError(f"the label at row {row}, position {position} is masked ({IGNORE}): it is no token")
    if number >= len(dataset):
        raise ProvenanceError(f"the batch holds row {number}, this dataset has {len(dataset)}: pass the batch's loader")
    row_of_source = number
    if isinstance(dataset, MixedDataset):
        sources, _, rows = dataset.locate(np.array([number]))
        dataset, row_of_source = dataset.sources[int(sources[0])], int(rows[0])
    store = dataset.store
    where = int(dataset.positions(np.array([row_of_source]), np.array([epoch or 0]))[0, position])
    if where < 0:
        raise ProvenanceError(f"row {row}, position {position} is padding after the end of a document: it is no token")
    where += field == "labels"
    if token_id != store.token_ids[where]:
        raise ProvenanceError(
            f"the batch has token {token_id} at row {row}, position {position}, the store has "
            f"{store.token_ids[where]} at {where}: the batch was changed or augmented, or is of another loader"
        )
    document = int(np.searchsorted(store.document_ends, where, side="right"))
    token_offset = where - (int(store.document_ends[document - 1]) if document else 0)
    record = _read_document(store, document, source)
    text = start = end = None
    if tokenizer is not None:
        if store.tokenizer_hash != tokenizer.fingerprint():
            raise ProvenanceError("the corpus was made with another tokenizer: pass that one")
        text, start, end = _characters(store.document(document), token_offset, tokenizer, record)
    return TokenOrigin(
        token_id=token_id,
        text=text,
        path=None if record is None else record.path,
        line=None if record is None else record.line,
        start=start,
        end=end,
        document=document,
        token_offset=token_offset,
        stream_position=where,
        row=number,
        position=position,
        epoch=epoch,
        rank=rank,
        worker=worker,
    )


def _index(name: str, value: int, size: int) -> int:
    if not -size <= value < size:
        raise IndexError(f"{name} {value} does not exist: the batch has {size}, from 0 to {size - 1}")
    return value % size


def _read_document(store: TokenStore, index: int, source: Paths | None) -> Document | None:
    """One document of a store as its file has it; None for a store that was not made from files."""
    reading = store.header.get("reading")
    if reading is None and source is None:
        return None
    rules = dict(reading or {})
    paths = rules.pop("paths", [])
    if source is not None:
        files = _as_paths(source)
    else:
        # Lexical, as the path was made: `..` after a symbolic link would lead elsewhere.
        files = [Path(os.path.normpath(os.path.join(store.path or "", path))) for path in paths]
    counts = [entry["documents"] for entry in store.header["sources"]]
    if len(files) != len(counts):
        raise ProvenanceError(f"source names {len(files)} files, the corpus was made from {len(counts)}: name them all")
    which = int(np.searchsorted(np.cumsum(counts), index, side="right"))
    nth = index - sum(counts[:which])
    try:
        record = next(islice(iterate_documents(files[which], **rules), nth, None), None)
    except CorpusError as error:
        raise ProvenanceError(f"{error}; if the corpus has moved, pass source=, its files in their order") from error
    if record is None:
        raise ProvenanceError(f"{files[which]} has no document {nth} any more: it was changed after it was tokenized")
    return record


def _characters(
    token_ids: np.ndarray, offset: int, tokenizer: MicroTransformerTokenizer, record: Document | None
) -> tuple[str, int, int]:
    """Text, first and last-plus-one character of the token at `offset` of a document.

    Byte-level BPE loses nothing: the bytes of a document's tokens, joined, are the bytes of its text.
    """
    table = tokenizer.token_bytes()
    pieces = [table[token_id] for token_id in token_ids.tolist()]
    raw = b"".join(pieces)
    if record is not None and raw != record.text.encode("utf-8"):
        raise ProvenanceError(
            f"{record.path}, line {record.line}: the text is not the one that was tokenized: prepare the corpus again"
        )
    before, piece = b"".join(pieces[:offset]), pieces[offset]
    inside = bool(piece) and _continues(piece[0])  # it begins within a character, which has been counted already
    start = _count(before) - inside
    end = start + _count(piece) + inside
    return raw.decode("utf-8")[start:end], start, end


def _continues(byte: int) -> bool:
    """Whether a byte goes on with a character of UTF-8 rather than beginning one: they are 10xxxxxx (RFC 3629)."""
    return byte & 0xC0 == 0x80


def _count(raw: bytes) -> int:
    """How many characters begin in these bytes."""
    return sum(not _continues(byte) for byte in raw)
