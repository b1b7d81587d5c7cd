"""The store of a text file, made once and kept. Does not tokenize: prepare.py does."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from mt_core.arguments import check_path
from mt_core.corpus import OnError, SampleBy, check_reading
from mt_core.files import (
    CorpusError,
    File,
    describe_file,
    file_sha256,
    find_files,
    json_sha256,
    name_of,
    reading_errors,
)
from mt_core.prepare import lock_of, prepare_corpus
from mt_core.store import FORMAT, HEADER, VERSION, StoreError, TokenStore
from mt_core.tokenizer import MicroTransformerTokenizer, check_tokenizer


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
    and a new store is made. Of two processes that start at once one makes it, and the other waits for it.

    Args:
        path: a file, or the URL of one.
        cache_dir: where to keep it; by default a folder `.mt_cache` beside the file, or in the user's cache
            directory where that place cannot be written to.

    Raises:
        CorpusError: a file or record cannot be used.
        StoreError: the store cannot be written.
    """
    check_reading(sample_by, on_error, is_jsonl=is_jsonl, text_field=text_field)
    if cache_dir is not None:
        check_path("cache_dir", cache_dir)
    check_tokenizer(tokenizer)
    file, *more = find_files(path)
    if more:
        raise CorpusError(file, None, f"is one of {len(more) + 1} files: make a store of them with prepare_corpus")
    rules = [FORMAT, VERSION, content_of(file), tokenizer.fingerprint(), is_jsonl, text_field, sample_by, on_error]
    key = json_sha256(rules)[:16]
    beside = cache_beside(file) if isinstance(file, Path) else user_cache_dir() / "stores"
    folder = Path(cache_dir) if cache_dir is not None else beside
    target = folder / f"{name_of(file)}-{key}"
    made_here = not os.path.exists(folder)  # unlike folder.exists(), false for a name that is too long
    if os.path.exists(target):
        try:
            return TokenStore.open(target)
        except StoreError:
            shutil.rmtree(target, ignore_errors=True)  # a cache may always be made anew
    try:
        return prepare_corpus(
            file,
            target,
            tokenizer,
            is_jsonl=is_jsonl,
            text_field=text_field,
            sample_by=sample_by,
            on_error=on_error,
        )
    except CorpusError as error:
        if not isinstance(file, Path):  # a server may answer next time
            raise
        # With the file or the rules the store's name changes: no later run would take up its parts.
        with suppress(OSError), lock_of(target) as lock:
            lock.remove_folder()
        raise CorpusError(error.path, error.line, error.reason) from None
    except StoreError:
        if os.path.exists(target / HEADER):  # another process was first
            return TokenStore.open(target)
        raise
    finally:
        if made_here:
            with suppress(OSError):  # it holds the store, unless something went wrong
                folder.rmdir()


def content_of(file: File) -> str:
    """What changes when the bytes of a file do: their SHA-256; of a URL what its server says.

    Raises:
        CorpusError: it cannot be read.
    """
    if not isinstance(file, Path):
        return describe_file(file)[1]
    with reading_errors(file, [0]):
        return file_sha256(file)


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


def cache_beside(path: Path) -> Path:
    """Where what is made from a file is kept: a folder beside it, or the user's cache if that cannot be written."""
    beside = path.parent / ".mt_cache"
    writable = os.access(beside if beside.exists() else path.parent, os.W_OK)
    return beside if writable else user_cache_dir() / "stores"
