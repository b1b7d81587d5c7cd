"""A text file whose tokens are made when they are asked for. Keeps where documents lie, not their tokens.

One pass over the text, on first use, counts the tokens of each document; an index of 24 bytes a document is kept in
the cache. After that every row can be found, and the documents it touches are read and tokenized again: the same ids
as in a prepared store, whose fingerprint is the same too. Each row costs the whole of the documents it touches, so
this is for documents that are not much longer than a row, and for workers to do.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mt_core.arguments import check_path
from mt_core.bulk import BulkEncoder
from mt_core.cache import cache_beside, content_of
from mt_core.corpus import OnError, SampleBy, check_reading, kind_of
from mt_core.files import CorpusError, describe_file, find_files, is_packed, json_sha256
from mt_core.store import ENDS, HEADER, StoreError, TokenStore
from mt_core.text_index import FORMAT, PLACES, TOKENIZER, VERSION, read_index, write_index
from mt_core.tokenizer import MicroTransformerTokenizer, check_tokenizer

_KEPT_TOKENS = 1 << 20  # of the documents used last, in each process: 2 MB, or 4 with a large vocabulary


class TokenizedText(TokenStore):
    """A `TokenStore` without stored tokens: `token_ids` reads and tokenizes the documents that an index touches.

    Made by `open_text`. Sent to a worker, it is a few hundred bytes; the worker opens the index itself.
    Memory is that of the documents used last, up to 2**20 tokens, and of the one being tokenized.
    """

    def __init__(self, folder: Path, file: Path, stamp: str, verify: bool = True) -> None:
        self.path, self.file, self.stamp = folder, file, stamp
        self.header = read_index(folder, verify=verify)
        self.header["reading"]["paths"] = [str(file)]
        ends, places = (np.memmap(folder / name, dtype="<u8", mode="r").view(np.ndarray) for name in (ENDS, PLACES))
        self.document_ends, self._places = ends, places.reshape(-1, 2)
        self.token_ids = _TokensOnTheFly(self)  # type: ignore[assignment]

    def text(self, index: int) -> str:
        """The text of a document, read from the file.

        Raises:
            CorpusError: the file was changed after it was indexed.
        """
        return next(self.texts([index]))

    def texts(self, indices: list[int]) -> Iterator[str]:
        """The texts of some documents, read from the file."""
        kind, field = self.header["kind"], self.header["reading"]["text_field"]
        if not indices:
            return
        try:
            with self.file.open("rb") as file:
                status = os.fstat(file.fileno())
                if self.stamp != f"{status.st_size}-{status.st_mtime_ns}":
                    raise self._changed()
                for index in indices:
                    start, end = self._places[index].tolist()
                    file.seek(start)
                    raw = file.read(end - start).decode("utf-8")
                    if kind == "jsonl":
                        yield json.loads(raw)[field]
                    else:
                        yield raw if kind == "document" else raw.rstrip("\r\n")
        except OSError as error:
            raise CorpusError(self.file, None, f"cannot be read ({error.strerror or error})") from error

    @cached_property
    def tokenizer(self) -> MicroTransformerTokenizer:
        """The tokenizer that made the index, from a copy in it."""
        tokenizer = MicroTransformerTokenizer.from_pretrained(self.path / TOKENIZER)  # type: ignore[operator]
        if tokenizer.fingerprint() != self.tokenizer_hash:
            raise StoreError(f"{self.path}: the tokenizer in it is another than it was made with: delete the folder")
        return tokenizer

    @cached_property
    def _encoder(self) -> BulkEncoder:
        return BulkEncoder(self.tokenizer)

    def tokenized(self, indices: list[int]) -> Iterator[np.ndarray]:
        """The token ids of some documents, in the store's type."""
        for index, text in zip(indices, self.texts(indices), strict=True):
            ids = self._encoder.document(text).astype(self.token_ids.dtype)
            before = int(self.document_ends[index - 1]) if index else 0
            if len(ids) != int(self.document_ends[index]) - before:
                raise self._changed()
            yield ids

    def verify(self) -> None:
        """Read and tokenize everything and compare with the checksums of the index.

        Raises:
            StoreError: the ids are not those that were counted.
            CorpusError: the file was changed after it was indexed.
        """
        digest = hashlib.sha256()
        for index in range(self.n_documents):
            digest.update(next(self.tokenized([index])).data)
        found = (digest.hexdigest(), hashlib.sha256(self.document_ends.data).hexdigest())
        if found != (self.header["token_ids_sha256"], self.header["document_ends_sha256"]):
            raise StoreError(f"{self.path}: the index is damaged, or {self.file} was changed: delete the folder")

    def _changed(self) -> CorpusError:
        return CorpusError(
            self.file, None, "was changed after it was indexed, so its rows are no longer known: open the corpus anew"
        )

    def __reduce__(self) -> Any:
        return TokenizedText, (self.path, self.file, self.stamp, False)  # a worker need not hash the index again


class _TokensOnTheFly:
    """What stands in for the array of token ids, as far as rows need it: indexed by positions."""

    def __init__(self, corpus: TokenizedText) -> None:
        self.dtype = np.dtype(corpus.header["dtype"])
        self.shape: tuple[int, ...] = (corpus.header["n_tokens"],)
        self._corpus = corpus
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()  # documents, the one used last at the end
        self._n_kept = 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, where: Any) -> Any:
        if isinstance(where, slice):
            where = np.arange(*where.indices(len(self)))
        positions = np.asarray(where, dtype=np.int64)
        flat = positions.ravel()
        if flat.size and not 0 <= flat.min() <= flat.max() < len(self):
            raise IndexError(f"tokens {flat.min()} to {flat.max()}: positions go from 0 to {len(self) - 1}")
        ends = self._corpus.document_ends
        order = np.argsort(flat, kind="stable")
        documents = np.searchsorted(ends, flat[order], side="right")
        touched, first = np.unique(documents, return_index=True)
        found = np.empty(flat.size, self.dtype)
        starts = np.where(touched > 0, ends[touched - 1], 0).astype(np.int64)
        places_in = np.split(order, first[1:])
        for ids, places, start in zip(self._tokens(touched.tolist()), places_in, starts, strict=True):
            found[places] = ids[flat[places] - start]
        return found.reshape(positions.shape) if positions.ndim else found[0]

    def windows(self, width: int) -> _Windows:
        """What `sliding_window_view` is for an array."""
        return _Windows(self, width)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise StoreError("tokens made on the fly are never in memory all at once, as this needs: use tokenize='ahead'")

    def _tokens(self, documents: list[int]) -> Iterator[np.ndarray]:
        """The token ids of documents in increasing order, kept ones as they are, the others tokenized."""
        missing = self._corpus.tokenized([document for document in documents if document not in self._kept])
        known = {document: self._kept[document] for document in documents if document in self._kept}
        for document in documents:
            ids = known.pop(document, None)
            if ids is None:
                ids = next(missing)
                self._kept[document] = ids
                self._n_kept += len(ids)
                while self._n_kept > _KEPT_TOKENS:
                    self._n_kept -= len(self._kept.popitem(last=False)[1])
            elif document in self._kept:
                self._kept.move_to_end(document)
            yield ids
        next(missing, None)  # it ends, and closes the file


class _Windows:
    """Indexed by starts int64 (B,): the tokens (B, width) from each on."""

    def __init__(self, token_ids: _TokensOnTheFly, width: int) -> None:
        self._token_ids, self._width = token_ids, width

    def __getitem__(self, starts: np.ndarray) -> np.ndarray:
        return self._token_ids[starts[:, None] + np.arange(self._width)]


def open_text(
    path: str | os.PathLike[str],
    tokenizer: MicroTransformerTokenizer,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    is_jsonl: bool | None = None,
    text_field: str = "text",
    sample_by: SampleBy = "document",
    on_error: OnError = "raise",
) -> TokenizedText:
    """A text file to be tokenized on the fly. The first use reads it once and keeps an index in the cache.

    The arguments are those of `open_corpus`. JSONL and plain text, not packed: a row's document must be found without
    reading what stands before it.

    Raises:
        CorpusError: the file cannot be read in this way, or a record is bad, and what to do.
        StoreError: the index cannot be written.
    """
    check_reading(sample_by, on_error, is_jsonl=is_jsonl, text_field=text_field)
    if cache_dir is not None:
        check_path("cache_dir", cache_dir)
    check_tokenizer(tokenizer)
    found = find_files(path)
    file = found[0]
    if len(found) > 1 or not isinstance(file, Path):
        raise CorpusError(file, None, "is not one local file, as on the fly needs: make a store with prepare_corpus")
    kind = kind_of(file, is_jsonl, sample_by)
    if is_packed(file) or kind == "parquet":
        raise CorpusError(
            file, None, "can be read from its beginning only, not on the fly: unpack it, or use tokenize='ahead'"
        )
    reading = {"is_jsonl": is_jsonl, "text_field": text_field, "sample_by": sample_by, "on_error": on_error}
    stamp = describe_file(file)[1]
    rules = [FORMAT, VERSION, content_of(file), tokenizer.fingerprint(), reading]
    key = json_sha256(rules)[:16]
    folder = cache_beside(file) if cache_dir is None else Path(cache_dir)
    target = (folder / f"{file.name}-index-{key}").absolute()
    file = file.absolute()
    try:
        return TokenizedText(target, file, stamp)
    except StoreError:
        shutil.rmtree(target, ignore_errors=True)
    made_here = not os.path.exists(folder)
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        partial.mkdir(parents=True)
        write_index(partial, file, kind, tokenizer, reading)
        if describe_file(file)[1] != stamp:
            raise CorpusError(file, None, "was changed while it was being indexed: open it again")
        try:
            partial.rename(target)
        except OSError:
            if not (target / HEADER).exists():  # or else another process was first
                raise
    except OSError as error:
        raise StoreError(f"cannot write the index {target} ({error.strerror or error}): pass cache_dir=") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if made_here:
            with suppress(OSError):  # it holds the index, unless something went wrong
                folder.rmdir()
    return TokenizedText(target, file, stamp)
