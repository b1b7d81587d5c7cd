"""A memory-mapped store of token ids. Does not read text files, cut rows, shuffle or batch.

A store is a folder: `token_ids.bin` (little-endian uint16, or uint32 for vocabularies over 65,536),
`document_ends.bin` (little-endian uint64, one past the last token of each document) and `header.json`.
The header also says which files were read and how, so that a token can be traced to its text.
Each document is stored as [CLS] its tokens [SEP]. `prepare_corpus` (prepare.py) makes stores from files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mt_core.arguments import check_count, check_path
from mt_core.bulk import BulkEncoder
from mt_core.files import json_sha256
from mt_core.tokenizer import MicroTransformerTokenizer, check_texts

FORMAT = "microtransformer-token-store"
VERSION = 1
TOKENS, ENDS, HEADER = "token_ids.bin", "document_ends.bin", "header.json"


class StoreError(ValueError):
    """A token store cannot be written, opened or used as asked."""


class TokenStore:
    """Token ids of a corpus, one stream, and where its documents end.

    Attributes:
        token_ids: uint16 or uint32 (N,), read-only.
        document_ends: uint64 (D,), increasing; document d is `token_ids[document_ends[d - 1]:document_ends[d]]`.
        vocab_size: every id is below it.
        tokenizer_hash: `MicroTransformerTokenizer.fingerprint()` of the tokenizer, or None.
        pad_token_id: what fills rows that are longer than their document.
        path: the folder, or None for a store in memory.

    >>> store = TokenStore.from_token_ids([5, 6, 7, 8, 9], vocab_size=10, document_ends=[2, 5])
    >>> len(store), store.n_documents, store.document(1).tolist()
    (5, 2, [7, 8, 9])
    """

    def __init__(
        self, token_ids: np.ndarray, document_ends: np.ndarray, header: dict[str, Any], path: Path | None = None
    ) -> None:
        self.token_ids, self.document_ends, self.header, self.path = (
            token_ids.view(),
            document_ends.view(),
            header,
            path,
        )
        self.token_ids.flags.writeable = self.document_ends.flags.writeable = False

    @property
    def vocab_size(self) -> int:
        return self.header["vocab_size"]

    @property
    def tokenizer_hash(self) -> str | None:
        return self.header["tokenizer_hash"]

    @property
    def pad_token_id(self) -> int:
        return self.header["pad_token_id"]

    @property
    def n_documents(self) -> int:
        return len(self.document_ends)

    def __len__(self) -> int:
        return len(self.token_ids)

    def document(self, index: int) -> np.ndarray:
        """The token ids of one document, a view; index from 0.

        Raises:
            IndexError: no such document.
        """
        if not 0 <= index < self.n_documents:
            raise IndexError(f"document {index} does not exist: documents go from 0 to {self.n_documents - 1}")
        start = int(self.document_ends[index - 1]) if index else 0
        return self.token_ids[start : int(self.document_ends[index])]

    def fingerprint(self) -> str:
        """A SHA-256 that two stores share exactly when ids, documents and tokenizer are the same."""
        named = ("dtype", "vocab_size", "tokenizer_hash", "n_tokens", "token_ids_sha256", "document_ends_sha256")
        return json_sha256([self.header[name] for name in named])

    # -- in memory -----------------------------------------------------------------------------------------

    @classmethod
    def from_token_ids(
        cls,
        token_ids: Sequence[int] | np.ndarray,
        *,
        vocab_size: int,
        document_ends: Sequence[int] | np.ndarray | None = None,
        pad_token_id: int = 0,
    ) -> TokenStore:
        """A store in memory from ids already at hand; without `document_ends` it is one document.

        Raises:
            StoreError: an id is negative or not below vocab_size, or the document ends do not fit.
            ValueError: vocab_size is no whole number from 1, or pad_token_id not below it.
        """
        check_count("vocab_size", vocab_size, most=1 << 32)
        check_count("pad_token_id", pad_token_id, 0, most=vocab_size - 1)
        vocab_size, pad_token_id = int(vocab_size), int(pad_token_id)  # numbers of NumPy cannot be written as JSON
        try:
            ids = np.asarray(token_ids)
        except ValueError:
            raise StoreError(
                "token_ids has rows of different lengths, one stream of whole numbers (N,) is needed: "
                "join them, and say with document_ends= where each ends"
            ) from None
        if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
            raise StoreError(f"token_ids has shape {ids.shape} and type {ids.dtype}, whole numbers (N,) are needed")
        if ids.size and (ids.min() < 0 or ids.max() >= vocab_size):
            worst = int(ids.min() if ids.min() < 0 else ids.max())
            raise StoreError(
                f"token id {worst} does not fit vocab_size={vocab_size}: ids go from 0 to {vocab_size - 1}"
            )
        ends = np.asarray([ids.size] if document_ends is None else document_ends)
        fit = ends.ndim == 1 and (not ends.size or np.issubdtype(ends.dtype, np.integer))
        ends = ends.astype(np.int64) if fit else ends
        if not fit or (ids.size and (not ends.size or ends[-1] != ids.size or (np.diff(ends, prepend=0) <= 0).any())):
            raise StoreError(f"document_ends must increase and end at {ids.size}, the number of tokens")
        ids, ends = ids.astype(dtype_for(vocab_size)), ends.astype("<u8")
        digests = (hashlib.sha256(ids.data), hashlib.sha256(ends.data))
        return cls(ids, ends, make_header(vocab_size, None, pad_token_id, ids.size, ends.size, digests, []))

    @classmethod
    def from_documents(cls, documents: Iterable[str], tokenizer: MicroTransformerTokenizer) -> TokenStore:
        """Tokenize texts into a store in memory.

        Raises:
            StoreError: there are no documents.
        """
        check_texts("documents", documents, "from_documents([text], tokenizer)")
        encoder = BulkEncoder(tokenizer)
        pieces = [encoder.document(text).astype(dtype_for(len(tokenizer))) for text in documents]
        if not pieces:
            raise StoreError("there are no documents: the list is empty")
        ids, ends = np.concatenate(pieces), np.cumsum([len(piece) for piece in pieces]).astype(np.uint64)
        digests = (hashlib.sha256(ids.data), hashlib.sha256(ends.data))
        header = make_header(
            len(tokenizer), tokenizer.fingerprint(), tokenizer.pad_token_id, ids.size, ends.size, digests, []
        )
        return cls(ids, ends, header)

    # -- on disk -------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> TokenStore:
        """Map a store from disk, read-only. Takes the same time whatever its size: only sizes are checked.

        Raises:
            StoreError: not a store, or one that is cut short or damaged, or of a later version.
        """
        check_path("path", path)
        path = Path(path)
        header = _read_header(path)
        sizes = {TOKENS: header["n_tokens"] * np.dtype(header["dtype"]).itemsize, ENDS: header["n_documents"] * 8}
        for name, needed in sizes.items():
            found = (path / name).stat().st_size if (path / name).is_file() else None
            if found != needed:
                got = "is missing" if found is None else f"has {found} bytes"
                raise StoreError(f"{path / name} {got}, the header promises {needed}: prepare the corpus again")
        try:
            token_ids = _map(path / TOKENS, header["dtype"])
            document_ends = _map(path / ENDS, "<u8")
        except OSError as error:
            raise StoreError(f"{path} cannot be read ({error.strerror or error})") from error
        if int(document_ends[-1]) != header["n_tokens"]:
            raise StoreError(
                f"{path}: the last document ends at {document_ends[-1]}, but there are {header['n_tokens']} tokens: "
                "prepare the corpus again"
            )
        return cls(token_ids, document_ends, header, path)

    def verify(self) -> None:
        """Read everything and compare with the checksums of the header.

        Raises:
            StoreError: the bytes are not those that were written.
        """
        if self.path is not None and self.header.get("header_sha256") != header_sha256(self.header):
            raise StoreError(f"{self.path / HEADER} was changed or damaged; prepare the corpus again")
        for name, array in (("token_ids", self.token_ids), ("document_ends", self.document_ends)):
            found, promised = hashlib.sha256(array.data).hexdigest(), self.header[f"{name}_sha256"]
            if found != promised:
                raise StoreError(
                    f"{self.path or 'store'}: {name} has SHA-256 {found[:12]}…, the header promises {promised[:12]}…: "
                    "the file was changed or damaged; prepare the corpus again"
                )

    def __reduce__(self) -> Any:
        if self.path is not None:  # a worker maps the files itself: a few hundred bytes travel, not the corpus
            return TokenStore.open, (self.path,)
        return TokenStore, (self.token_ids, self.document_ends, self.header)

    def __repr__(self) -> str:
        where = self.path or "in memory"
        return f"TokenStore({len(self):,} tokens, {self.n_documents:,} documents, {self.token_ids.dtype}, {where})"


def make_header(
    vocab_size: int,
    tokenizer_hash: str | None,
    pad_token_id: int,
    n_tokens: int,
    n_documents: int,
    digests: Sequence[Any],
    sources: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "dtype": dtype_for(vocab_size).str,
        "vocab_size": vocab_size,
        "pad_token_id": pad_token_id,
        "tokenizer_hash": tokenizer_hash,
        "n_tokens": n_tokens,
        "n_documents": n_documents,
        "token_ids_sha256": digests[0].hexdigest(),
        "document_ends_sha256": digests[1].hexdigest(),
        "sources": sources,
    }


def _read_header(path: Path) -> dict[str, Any]:
    file = path / HEADER
    if not os.path.isfile(file):
        found = "a file, not its folder" if os.path.isfile(path) else f"no {HEADER}"
        raise StoreError(
            f"{path} is not a token store ({found}): make one with prepare_corpus(files, folder, tokenizer)"
        )
    try:
        header = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{file} cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{file} is damaged ({error}): prepare the corpus again") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise StoreError(f"{file} is not the header of a token store: prepare the corpus again")
    if header.get("version") != VERSION:
        raise StoreError(f"{file} has version {header.get('version')!r}, this program reads version {VERSION}")
    kinds: dict[str, type] = {"vocab_size": int, "pad_token_id": int, "n_tokens": int, "n_documents": int}
    kinds |= {"dtype": str, "token_ids_sha256": str, "document_ends_sha256": str, "sources": list}
    wrong = [name for name, kind in kinds.items() if type(header.get(name)) is not kind]
    if not wrong and (min(header["n_tokens"], header["n_documents"], header["vocab_size"]) < 1):
        wrong = ["n_tokens"]
    if not wrong and header["dtype"] != dtype_for(header["vocab_size"]).str:
        wrong = ["dtype"]
    if not wrong and not 0 <= header["pad_token_id"] < header["vocab_size"]:
        wrong = ["pad_token_id"]
    if not wrong and not isinstance(header.get("tokenizer_hash", 0), str | None):
        wrong = ["tokenizer_hash"]
    if not wrong and not all(isinstance(s, dict) and type(s.get("documents")) is int for s in header["sources"]):
        wrong = ["sources"]
    if wrong:
        raise StoreError(f"{file}: {wrong[0]} is missing or wrong: prepare the corpus again")
    return header


def header_sha256(header: dict[str, Any]) -> str:
    """Of all that a header says but this itself."""
    said = {name: value for name, value in header.items() if name != "header_sha256"}
    return json_sha256(said)


def dtype_for(vocab_size: int) -> np.dtype:
    """The narrowest little-endian type that holds every id: 65,536 entries still fit 16 bits."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def _map(file: Path, dtype: str) -> np.ndarray:
    return np.memmap(file, dtype=dtype, mode="r").view(np.ndarray)  # plain ndarray: indexing memmap costs more
