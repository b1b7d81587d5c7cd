"""Documents to tokens: a memory-mapped store of token ids. Does not cut rows, shuffle or batch.

A store is a folder: `token_ids.bin` (little-endian uint16, or uint32 for vocabularies over 65,536),
`document_ends.bin` (little-endian uint64, one past the last token of each document) and `header.json`.
The header also says which files were read and how, so that a token can be traced to its text.
A store is written under a temporary name, synced, and renamed when whole: a run that is killed leaves nothing
that opens. Each document is stored as [CLS] its tokens [SEP].
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from mt_core.corpus import OnError, Paths, SampleBy, _as_paths, iterate_documents
from mt_core.tokenizer import MicroTransformerTokenizer

_FORMAT = "microtransformer-token-store"
_VERSION = 1
_TOKENS, _ENDS, _HEADER = "token_ids.bin", "document_ends.bin", "header.json"
_BUFFER_TOKENS = 1 << 20


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
        return hashlib.sha256(json.dumps([self.header[name] for name in named]).encode()).hexdigest()

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
        """
        ids = np.asarray(token_ids)
        if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
            raise StoreError(f"token_ids has shape {ids.shape} and type {ids.dtype}, whole numbers (N,) are needed")
        if ids.size and (ids.min() < 0 or ids.max() >= vocab_size):
            worst = int(ids.min() if ids.min() < 0 else ids.max())
            raise StoreError(
                f"token id {worst} does not fit vocab_size={vocab_size}: ids go from 0 to {vocab_size - 1}"
            )
        ends = np.asarray([ids.size] if document_ends is None else document_ends, dtype=np.int64)
        if ids.size and (not ends.size or ends[-1] != ids.size or (np.diff(ends, prepend=0) <= 0).any()):
            raise StoreError(f"document_ends must increase and end at {ids.size}, the number of tokens")
        ids, ends = ids.astype(_dtype_for(vocab_size)), ends.astype("<u8")
        digests = (hashlib.sha256(ids.data), hashlib.sha256(ends.data))
        return cls(ids, ends, _header(vocab_size, None, pad_token_id, ids.size, ends.size, digests, []))

    @classmethod
    def from_documents(cls, documents: Iterable[str], tokenizer: MicroTransformerTokenizer) -> TokenStore:
        """Tokenize texts into a store in memory.

        Raises:
            StoreError: there are no documents.
        """
        if isinstance(documents, str):
            raise TypeError("documents is one string; from_documents needs a list of strings")
        pieces = [np.array(tokenizer.token_ids(text), dtype=_dtype_for(len(tokenizer))) for text in documents]
        if not pieces:
            raise StoreError("there are no documents: the list is empty")
        ids, ends = np.concatenate(pieces), np.cumsum([len(piece) for piece in pieces]).astype(np.uint64)
        digests = (hashlib.sha256(ids.data), hashlib.sha256(ends.data))
        header = _header(
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
        path = Path(path)
        header = _read_header(path)
        sizes = {_TOKENS: header["n_tokens"] * np.dtype(header["dtype"]).itemsize, _ENDS: header["n_documents"] * 8}
        for name, needed in sizes.items():
            found = (path / name).stat().st_size if (path / name).is_file() else None
            if found != needed:
                got = "is missing" if found is None else f"has {found} bytes"
                raise StoreError(f"{path / name} {got}, the header promises {needed}: prepare the corpus again")
        token_ids = _map(path / _TOKENS, header["dtype"])
        document_ends = _map(path / _ENDS, "<u8")
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


def prepare_corpus(
    paths: Paths,
    out_dir: str | os.PathLike[str],
    tokenizer: MicroTransformerTokenizer,
    *,
    is_jsonl: bool | None = None,
    text_field: str = "text",
    sample_by: SampleBy = "document",
    on_error: OnError = "raise",
) -> TokenStore:
    """Tokenize files into a store on disk, document by document, in memory that does not grow with the corpus.

    The arguments after `tokenizer` are those of `read_documents`. A progress bar appears after two seconds.

    Raises:
        CorpusError: a file or record cannot be used.
        StoreError: `out_dir` exists already, the files hold no text, or the disk is full. Nothing is left behind.
    """
    out_dir, files = Path(out_dir), _as_paths(paths)
    if out_dir.exists():
        raise StoreError(f"{out_dir} exists already: open it with TokenStore.open, or choose another folder")
    partial = out_dir.with_name(f"{out_dir.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        partial.mkdir(parents=True)
        _write_store(
            partial, files, tokenizer, is_jsonl=is_jsonl, text_field=text_field, sample_by=sample_by, on_error=on_error
        )
        _rename_folder(partial, out_dir)
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        raise StoreError(
            f"cannot write the store {out_dir} ({what}): nothing was kept; free space or move it"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return TokenStore.open(out_dir)


def open_corpus(
    path: str | os.PathLike[str],
    tokenizer: MicroTransformerTokenizer,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    is_jsonl: bool | None = None,
    text_field: str = "text",
    sample_by: SampleBy = "document",
    on_error: OnError = "raise",
) -> TokenStore:
    """The store of one text file, made on first use and kept in a cache beside the file.

    The cache's name holds a fingerprint of the file's bytes, the tokenizer and the reading rules: change any
    and a new store is made. Two processes that start at once each write their own and keep the first that is whole.

    Args:
        cache_dir: where to keep it; by default a folder `.mt_cache` beside the file, or in the user's cache
            directory where that place cannot be written to.
    """
    path = _as_paths(path)[0]
    rules = [
        _FORMAT,
        _VERSION,
        file_sha256(path),
        tokenizer.fingerprint(),
        is_jsonl,
        text_field,
        sample_by,
        on_error,
    ]
    key = hashlib.sha256(json.dumps(rules).encode()).hexdigest()[:16]
    folder = Path(cache_dir) if cache_dir is not None else _cache_beside(path)
    target = folder / f"{path.name}-{key}"
    made_here = not folder.exists()
    if target.exists():
        try:
            return TokenStore.open(target)
        except StoreError:
            shutil.rmtree(target, ignore_errors=True)  # a cache may always be made anew
    try:
        return prepare_corpus(
            path,
            target,
            tokenizer,
            is_jsonl=is_jsonl,
            text_field=text_field,
            sample_by=sample_by,
            on_error=on_error,
        )
    except StoreError:
        if (target / _HEADER).exists():  # another process was first
            return TokenStore.open(target)
        raise
    finally:
        if made_here:
            with suppress(OSError):  # it holds the store, unless something went wrong
                folder.rmdir()


def user_cache_dir() -> Path:
    """The user's cache directory for this project, by the rules of the system; MICROTRANSFORMER_CACHE overrides it."""
    chosen = os.environ.get("MICROTRANSFORMER_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    by_system = {
        "win32": (os.environ.get("LOCALAPPDATA", ""), Path.home() / "AppData" / "Local"),
        "darwin": ("", Path.home() / "Library" / "Caches"),
    }
    named, usual = by_system.get(sys.platform, (os.environ.get("XDG_CACHE_HOME", ""), Path.home() / ".cache"))
    base = Path(named) if os.path.isabs(named) else usual  # the XDG specification: a relative one is ignored
    return base / "microtransformer"


def _cache_beside(path: Path) -> Path:
    beside = path.parent / ".mt_cache"
    writable = os.access(beside if beside.exists() else path.parent, os.W_OK)
    return beside if writable else user_cache_dir() / "stores"


def _write_store(folder: Path, files: list[Path], tokenizer: MicroTransformerTokenizer, **reading: Any) -> None:
    dtype = _dtype_for(len(tokenizer))
    digests = (hashlib.sha256(), hashlib.sha256())
    n_tokens = n_documents = 0
    sources, paths = [], []
    with (
        (folder / _TOKENS).open("wb") as tokens_file,
        (folder / _ENDS).open("wb") as ends_file,
        tqdm(desc="tokenizing", unit="B", unit_scale=True, delay=2) as progress,
    ):

        def flush(pieces: list[list[int]]) -> None:
            nonlocal n_tokens
            lengths = np.array([len(piece) for piece in pieces], dtype=np.uint64)
            ids = np.concatenate([np.array(piece, dtype=dtype) for piece in pieces])
            ends = (np.cumsum(lengths) + np.uint64(n_tokens)).astype("<u8")
            for array, file, digest in ((ids, tokens_file, digests[0]), (ends, ends_file, digests[1])):
                file.write(array.data)
                digest.update(array.data)
            n_tokens += int(lengths.sum())

        pieces: list[list[int]] = []
        waiting = 0
        for file in files:
            before = n_documents
            for document in iterate_documents(file, **reading):
                pieces.append(tokenizer.token_ids(document.text))
                n_documents += 1
                waiting += len(pieces[-1])
                progress.update(len(document.text))
                if waiting >= _BUFFER_TOKENS:
                    flush(pieces)
                    pieces, waiting = [], 0
            sources.append({"name": file.name, "documents": n_documents - before})
            paths.append(_relative_to(file, folder))
        if pieces:
            flush(pieces)
        for written in (tokens_file, ends_file):
            written.flush()
            os.fsync(written.fileno())
    if n_documents == 0:
        names = ", ".join(str(file) for file in files)
        raise StoreError(f"{names}: no text found (empty, or white space alone): a corpus needs at least one document")
    header = _header(
        len(tokenizer), tokenizer.fingerprint(), tokenizer.pad_token_id, n_tokens, n_documents, digests, sources
    ) | {"reading": {"paths": paths, **reading}}
    with (folder / _HEADER).open("w", encoding="utf-8", newline="\n") as out:
        json.dump(header, out, indent=2)
        out.write("\n")
        out.flush()
        os.fsync(out.fileno())


def _header(
    vocab_size: int,
    tokenizer_hash: str | None,
    pad_token_id: int,
    n_tokens: int,
    n_documents: int,
    digests: Sequence[Any],
    sources: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "dtype": _dtype_for(vocab_size).str,
        "vocab_size": vocab_size,
        "pad_token_id": pad_token_id,
        "tokenizer_hash": tokenizer_hash,
        "n_tokens": n_tokens,
        "n_documents": n_documents,
        "token_ids_sha256": digests[0].hexdigest(),
        "document_ends_sha256": digests[1].hexdigest(),
        "sources": sources,
    }


def _relative_to(file: Path, folder: Path) -> str:
    """The way from one to the other, so that they can be moved together; the full path where there is none."""
    try:
        return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:  # another drive of Windows
        return file.absolute().as_posix()


def _read_header(path: Path) -> dict[str, Any]:
    file = path / _HEADER
    if not file.is_file():
        raise StoreError(
            f"{path} is not a token store (no {_HEADER}): make one with prepare_corpus(files, folder, tokenizer)"
        )
    try:
        header = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{file} is damaged ({error}): prepare the corpus again") from None
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise StoreError(f"{file} is not the header of a token store: prepare the corpus again")
    if header.get("version") != _VERSION:
        raise StoreError(f"{file} has version {header.get('version')!r}, this program reads version {_VERSION}")
    kinds: dict[str, type] = {"vocab_size": int, "pad_token_id": int, "n_tokens": int, "n_documents": int}
    kinds |= {"dtype": str, "token_ids_sha256": str, "document_ends_sha256": str, "sources": list}
    wrong = [name for name, kind in kinds.items() if type(header.get(name)) is not kind]
    if not wrong and (min(header["n_tokens"], header["n_documents"], header["vocab_size"]) < 1):
        wrong = ["n_tokens"]
    if not wrong and header["dtype"] != _dtype_for(header["vocab_size"]).str:
        wrong = ["dtype"]
    if wrong or not isinstance(header.get("tokenizer_hash"), str | None):
        raise StoreError(f"{file}: {(wrong or ['tokenizer_hash'])[0]} is missing or wrong: prepare the corpus again")
    return header


def _dtype_for(vocab_size: int) -> np.dtype:
    """The narrowest little-endian type that holds every id: 65,536 entries still fit 16 bits."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def _map(file: Path, dtype: str) -> np.ndarray:
    return np.memmap(file, dtype=dtype, mode="r").view(np.ndarray)  # plain ndarray: indexing memmap costs more


def _rename_folder(partial: Path, target: Path) -> None:
    if os.name == "posix":  # make the rename itself durable, and the files' names before it
        for folder in (partial, target.parent):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    partial.rename(target)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
