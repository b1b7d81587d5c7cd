"""Shards to a store: joined in order, whole-file documents put together from their pieces. Does not tokenize."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mt_core.files import File, name_of
from mt_core.shards import Shard
from mt_core.store import ENDS, HEADER, TOKENS, StoreError, dtype_for, header_sha256, make_header
from mt_core.tokenizer import MicroTransformerTokenizer
from mt_core.units import Rules, Unit

_COPY_BYTES = 4 << 20


class EmptyError(StoreError):
    """There is no text in the files."""


def write_store(
    folder: Path,
    out_dir: Path,
    files: list[File],
    units: list[Unit],
    shards: list[Shard],
    rules: Rules,
    tokenizer: MicroTransformerTokenizer,
) -> None:
    """Write the store of all shards into a new folder; `out_dir` is where it will be.

    The shards lie beside `folder`. Memory is that of the document ends of one unit.

    Raises:
        EmptyError: there is not one document.
        OSError: the disk is full, or a shard is gone.
    """
    folder.mkdir()
    counts = [0] * len(files)
    digests = (hashlib.sha256(), hashlib.sha256())
    n_tokens = n_documents = 0
    dtype = dtype_for(len(tokenizer))
    with (folder / TOKENS).open("wb") as tokens_file, (folder / ENDS).open("wb") as ends_file:
        for number, parts in _by_file(units, shards):
            whole = parts[0][0].kind == "document"
            if whole and (any(shard.skipped for _, shard in parts) or all(shard.blank for _, shard in parts)):
                continue
            before, lengths = n_tokens, list[np.ndarray]()
            for unit, shard in parts:
                made = folder.parent / unit.key(rules)
                copied = _copy(made.with_suffix(".ids"), tokens_file, digests[0])
                if copied != shard.tokens * dtype.itemsize:
                    raise OSError(errno.EIO, f"{made}.ids has {copied} bytes, not the {shard.tokens} tokens written")
                n_tokens += shard.tokens
                if not whole:
                    lengths.append(np.fromfile(made.with_suffix(".lengths"), dtype="<u8"))
            if whole:
                lengths = [np.array([n_tokens - before], dtype="<u8")]
            for part in lengths:
                ends = (np.cumsum(part, dtype="<u8") + np.uint64(before)).astype("<u8")
                before += int(part.sum())
                ends_file.write(ends.data)
                digests[1].update(ends.data)
                counts[number] += len(ends)
        n_documents = sum(counts)
        for written in (tokens_file, ends_file):
            written.flush()
            os.fsync(written.fileno())
    if n_documents == 0:
        names = ", ".join(map(str, files[:8])) + (f" and {len(files) - 8} more" if len(files) > 8 else "")
        raise EmptyError(f"{names}: no text found (empty, or white space alone): a corpus needs at least one document")
    sources = [{"name": name_of(file), "documents": count} for file, count in zip(files, counts, strict=True)]
    header = make_header(
        len(tokenizer), tokenizer.fingerprint(), tokenizer.pad_token_id, n_tokens, n_documents, digests, sources
    )
    header["reading"] = {
        "paths": [_relative_to(file, out_dir) for file in files],
        "is_jsonl": rules.is_jsonl,
        "text_field": rules.text_field,
        "sample_by": rules.sample_by,
        "on_error": rules.on_error,
    }
    header["header_sha256"] = header_sha256(header)
    with (folder / HEADER).open("w", encoding="utf-8", newline="\n") as out:
        json.dump(header, out, indent=2)
        out.write("\n")
        out.flush()
        os.fsync(out.fileno())


def _by_file(units: list[Unit], shards: list[Shard]) -> Iterator[tuple[int, list[tuple[Unit, Shard]]]]:
    parts: list[tuple[Unit, Shard]] = []
    for unit, shard in zip(units, shards, strict=True):
        if parts and parts[0][0].file_number != unit.file_number:
            yield parts[0][0].file_number, parts
            parts = []
        parts.append((unit, shard))
    if parts:
        yield parts[0][0].file_number, parts


def _copy(source: Path, target: BinaryIO, digest: Any) -> int:
    """Append a file, hashing what is copied; returns how many bytes."""
    copied = 0
    with source.open("rb") as file:
        while block := file.read(_COPY_BYTES):
            target.write(block)
            digest.update(block)
            copied += len(block)
    return copied


def _relative_to(file: File, folder: Path) -> str:
    """The way from one to the other, so that they can be moved together; the full path where there is none."""
    if isinstance(file, str):
        return file
    try:
        return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:  # another drive of Windows
        return file.absolute().as_posix()


def rename_folder(partial: Path, target: Path) -> None:
    """Give a finished folder its name, so that it stays when the machine stops."""
    if os.name == "posix":  # make the rename itself durable, and the files' names before it
        for folder in (partial, target.parent):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    partial.rename(target)
