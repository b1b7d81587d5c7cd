"""Names to files: folders, patterns and URLs; what packs them; opening them unpacked. Does not know documents.

A file is a `Path`, or a `str` for a URL, which `fsspec` opens (`pip install "microtransformer[big]"`).
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import importlib
import io
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeGuard
from urllib.parse import urlsplit

from mt_core.arguments import check_path

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
File = Path | str

_JSONL_SUFFIXES = {".jsonl", ".ndjson", ".json"}
_CORPUS_SUFFIXES = {*_JSONL_SUFFIXES, ".txt", ".parquet"}  # what is taken from a folder
_TABLE_SUFFIXES = {".csv", ".tsv"}  # what could pass for text
_PACKED_SUFFIXES = {".gz", ".zst", ".zstd"}
_ARCHIVE_SUFFIXES = {".zip", ".tar", ".tgz", ".bz2", ".xz", ".7z"}  # what could pass for bad text, a .tar even for good
_LONGEST_NAME = 255  # of a file or folder, in the usual file systems
_READ_AHEAD = 1 << 20  # bytes
_INSTALL = 'pip install "microtransformer[big]"'


class CorpusError(ValueError):
    """A corpus file or one of its records cannot be used; `path`, `line` (from 1, or None) and `reason` say why.

    In a Parquet file `line` is the row, from 1.
    """

    def __init__(self, path: File, line: int | None, reason: str) -> None:
        self.path, self.line, self.reason = path, line, reason
        unit = "row" if suffix_of(path) == ".parquet" else "line"
        super().__init__(f"{path}, {unit} {line}: {reason}" if line else f"{path}: {reason}")

    def __reduce__(self) -> Any:
        return CorpusError, (self.path, self.line, self.reason)


def find_files(paths: Paths) -> list[File]:
    """The files that `paths` name, in order: files as they are, folders and patterns sorted by name.

    A folder gives the .jsonl, .ndjson, .json, .txt and .parquet files in it and below, packed or not, without hidden
    ones, stores (whole or not) and tokenizers; a pattern, with `*`, `?`, `[…]` or `**`, gives whatever files fit.

    Raises:
        ValueError: `paths` is empty, or holds what is no name.
        CorpusError: no such file, nothing that fits, an archive, or a URL without fsspec.
    """
    names = list(paths) if isinstance(paths, Iterable) and not isinstance(paths, str | bytes | os.PathLike) else [paths]
    if not names:
        raise ValueError("paths is empty: name at least one file")
    for name in names:
        check_path("paths", name)
    found = [file for name in names for file in (_remote(name) if is_url(name) else _local(Path(name)))]
    for file in found:
        if suffix_of(file) in _ARCHIVE_SUFFIXES:
            raise CorpusError(file, None, "is an archive, or packed otherwise than with gzip or Zstandard: unpack it")
    return found


def is_url(name: object) -> TypeGuard[str]:
    """Whether fsspec has to open it: `s3://…`, `https://…`, `memory://…`."""
    return isinstance(name, str) and "://" in name


def name_of(file: str | os.PathLike[str]) -> str:
    """The name of a file without its folder, and without what a web server is asked beside it.

    >>> name_of("https://a.org/b/stories.jsonl?download=true"), name_of("b/why?.txt")
    ('stories.jsonl', 'why?.txt')
    """
    if is_url(file):
        return PurePosixPath(urlsplit(file).path if file.startswith(("http:", "https:")) else file).name
    return Path(file).name


def suffix_of(file: str | os.PathLike[str]) -> str:
    """The suffix that says what is in a file, in lower case: that of its name without .gz or .zst.

    >>> suffix_of("stories.JSONL.gz"), suffix_of("plays.txt")
    ('.jsonl', '.txt')
    """
    path = PurePosixPath(name_of(file))
    return (path.with_suffix("") if _packing_of(file) else path).suffix.lower()


def _packing_of(file: str | os.PathLike[str]) -> str:
    """The suffix that says how a file is packed, in lower case; empty if it is not."""
    suffix = PurePosixPath(name_of(file)).suffix.lower()
    return suffix if suffix in _PACKED_SUFFIXES else ""


def is_packed(file: File) -> bool:
    """Whether it is compressed, and so can be read from its beginning only."""
    return bool(_packing_of(file))


def describe_file(file: File) -> tuple[int | None, str]:
    """Size in bytes, None if a server does not say, and a stamp that changes when the file does.

    Raises:
        CorpusError: it cannot be looked at.
    """
    filesystem, path = (None, file) if isinstance(file, Path) else _filesystem(file)
    try:
        if filesystem is not None:
            return filesystem.info(path).get("size"), str(filesystem.ukey(path))
        status = os.stat(path)
        return status.st_size, f"{status.st_size}-{status.st_mtime_ns}"
    except Exception as error:  # what stands behind fsspec has errors of its own
        raise CorpusError(file, None, f"cannot be read ({_reason(error)})") from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(content: Any) -> str:
    """SHA-256 of what can be written as JSON, as 64 hexadecimal digits, however the JSON is laid out in a file."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@contextmanager
def open_unpacked(file: File) -> Iterator[BinaryIO]:
    """The bytes in a file, unpacked while reading."""
    with ExitStack() as stack:
        if isinstance(file, Path):
            raw: Any = stack.enter_context(file.open("rb"))
        else:
            filesystem, path = _filesystem(file)
            raw = stack.enter_context(filesystem.open(path, "rb"))
            # For each line fsspec would copy and search megabytes.
            raw = stack.enter_context(io.BufferedReader(raw, _READ_AHEAD))
        packing = _packing_of(file)
        if packing == ".gz":
            raw = stack.enter_context(gzip.GzipFile(fileobj=raw))
        elif packing:
            raw = stack.enter_context(_zstd(file).ZstdFile(raw))
        yield raw


@contextmanager
def reading_errors(file: File, line: list[int]) -> Iterator[None]:
    """Turns what can go wrong while reading into CorpusError; `line` holds the last line that was read."""
    packing = "gzip" if _packing_of(file) == ".gz" else "Zstandard"
    try:
        yield
    except CorpusError:
        raise
    except Exception as error:
        if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile) or type(error).__name__ == "ZstdError":
            reason = f"the {packing} file is damaged ({error}): get it again"
        elif is_url(file):  # what stands behind fsspec has errors of its own
            reason = f"cannot be read ({_reason(error)}): download it, and name the copy"
        elif isinstance(error, OSError):
            reason = f"cannot be read ({_reason(error)})"
        else:
            raise
        raise CorpusError(file, line[0] + 1, reason) from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def import_extra(module: str, file: File, what: str) -> Any:
    """A module of the extra `big`.

    Raises:
        CorpusError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise CorpusError(file, None, f"{what} needs the package {module.partition('.')[0]}: {_INSTALL}") from None


def _local(path: Path) -> list[File]:
    found: list[Path] = []
    if os.path.isdir(path):  # unlike the methods of Path, false for a name that is too long
        inside = (p for p in path.rglob("*") if p.is_file() and suffix_of(p) in _CORPUS_SUFFIXES)
        found = [p for p in inside if not _is_no_text(p, path)]
        wanted = ", ".join(sorted(_CORPUS_SUFFIXES))
        problem = f"is a folder without files that end in {wanted} (.gz and .zst too): name files or a pattern"
    elif os.path.exists(path):
        return [path]
    elif "\n" in str(path) or len(path.name) > _LONGEST_NAME:
        raise ValueError(
            f"paths holds {str(path)[:40]!r}…, which is {len(str(path)):,} characters of text; the name of a file is "
            "needed: write the text to a file, or use TokenStore.from_documents([text], tokenizer)"
        )
    elif glob.has_magic(str(path)):
        found = [p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file()]
        problem = f"no file fits this pattern (looked from {Path.cwd()})"
    else:
        problem = f"no such file (looked in {path.parent.absolute()})"
    if not found:
        raise CorpusError(path, None, problem)
    return [*sorted(found, key=lambda p: p.as_posix())]


def _is_no_text(path: Path, folder: Path) -> bool:
    """Whether a file in a corpus folder is hidden, or of a store (half made, too: prepare.py) or a tokenizer."""
    parts = path.relative_to(folder).parts
    return (
        any(part.startswith(".") for part in parts)
        or (path.suffix == ".json" and any(part.endswith(".partial") for part in parts))
        or path.name in ("tokenizer.json", "tokenizer_config.json")
        or (path.name == "header.json" and path.with_name("token_ids.bin").exists())
    )


def _remote(url: str) -> list[File]:
    filesystem, path = _filesystem(url)
    try:
        if filesystem.isfile(path):
            return [url]
        if filesystem.isdir(path):
            inside = [name for name in filesystem.find(path) if suffix_of(name) in _CORPUS_SUFFIXES]
        else:
            inside = filesystem.glob(path) if glob.has_magic(path) else []
            inside = [name for name in inside if filesystem.isfile(name)]
    except Exception as error:  # what stands behind fsspec has errors of its own
        raise CorpusError(url, None, f"cannot be reached ({_reason(error)})") from error
    if not inside:
        raise CorpusError(url, None, "no such file there, and none that fits")
    return [filesystem.unstrip_protocol(name) for name in sorted(inside)]


def _filesystem(url: str) -> tuple[Any, str]:
    fsspec = import_extra("fsspec", url, "reading a URL")
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # an unknown protocol, or one whose own package is missing
        raise CorpusError(url, None, f"fsspec cannot open this URL ({error})") from error
    return filesystem, path


def _zstd(file: File) -> Any:
    module = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    return import_extra(module, file, "reading .zst")
