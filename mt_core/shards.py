"""A unit of work to a shard: its token ids and document lengths on disk. Starts no processes.

A shard is three files named by what it was made from: `.ids`, `.lengths`, and last `.json`, which says it is whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from mt_core.bulk import BulkEncoder
from mt_core.corpus import BadTextError, CorpusError, decode, read_range
from mt_core.files import describe_file, file_sha256
from mt_core.store import dtype_for
from mt_core.tokenizer import MicroTransformerTokenizer
from mt_core.units import Rules, Unit, pieces_of, records_of

_BUFFER_TOKENS = 1 << 19


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What was made of a unit. `error` is a record that could not be used: its line, from 1 in the unit, and why.

    Attributes:
        documents, tokens: how many; in plain text with whole-file documents, pieces of one.
        lines: lines, or rows, in the unit.
        skipped: bad records left out.
        blank: nothing but white space.
        failed: `error` ended the work and there is no shard.
    """

    documents: int = 0
    tokens: int = 0
    lines: int = 0
    skipped: int = 0
    error: tuple[int | None, str] | None = None
    blank: bool = True
    failed: bool = False
    ids_sha256: str = ""
    lengths_sha256: str = ""


def run_unit(unit: Unit, rules: Rules, folder: str) -> Shard:
    """`encode_unit` for another process or machine: it loads the tokenizer, once, from `folder`, which both see."""
    return encode_unit(unit, rules, Path(folder), _encoder_in(folder, rules.tokenizer_hash))


@lru_cache(maxsize=2)
def _encoder_in(folder: str, tokenizer_hash: str) -> BulkEncoder:
    if not Path(folder).is_dir():
        raise FileNotFoundError(errno.ENOENT, "a worker does not see this folder: all machines must share it", folder)
    tokenizer = MicroTransformerTokenizer.from_pretrained(Path(folder) / "tokenizer")
    if tokenizer.fingerprint() != tokenizer_hash:
        raise RuntimeError(f"{folder} holds another tokenizer than the one that was sent: prepare the corpus again")
    return BulkEncoder(tokenizer)


def encode_unit(unit: Unit, rules: Rules, folder: Path, encoder: BulkEncoder) -> Shard:
    """Write the shard of a unit into `folder`. What is wrong with the text is in the answer, not raised.

    Raises:
        OSError: the folder cannot be written to.
    """
    with _Writer(folder, unit.key(rules), dtype_for(len(encoder.tokenizer))) as writer:
        try:
            if describe_file(unit.file)[1] != unit.stamp:
                raise CorpusError(unit.file, None, "was changed while it was being prepared: prepare it again")
            if unit.kind == "document" and encoder.cuts:
                found = _encode_pieces(unit, encoder, writer)
            else:
                found = _encode_records(unit, rules, encoder, writer)
        except CorpusError as error:
            return Shard(failed=True, error=(error.line, error.reason))
        if found.error and rules.on_error == "raise":
            return replace(found, failed=True)
        return writer.finish(found)


def finished_shard(unit: Unit, rules: Rules, folder: Path) -> Shard | None:
    """The shard of a unit if an earlier run has left it whole, else None."""
    key = unit.key(rules)
    try:
        shard = Shard(**json.loads((folder / f"{key}.json").read_text(encoding="utf-8")))
        digests = [file_sha256(folder / f"{key}.{name}") for name in ("ids", "lengths")]
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    if digests != [shard.ids_sha256, shard.lengths_sha256]:  # the machine may have stopped, not the program alone
        return None
    return replace(shard, failed=True) if shard.error and rules.on_error == "raise" else shard


def _encode_records(unit: Unit, rules: Rules, encoder: BulkEncoder, writer: _Writer) -> Shard:
    skipped, error, count = 0, None, [0]
    for record in read_range(unit.file, unit.kind, rules.text_field, *records_of(unit), count):
        if isinstance(record, CorpusError):
            skipped += 1
            error = error or (record.line, record.reason)
            if rules.on_error == "raise":
                break
        elif record.text.strip():
            writer.add(encoder.start, encoder(record.text), encoder.end)
    return Shard(lines=count[0], skipped=skipped, error=error, blank=not writer.documents)


def _encode_pieces(unit: Unit, encoder: BulkEncoder, writer: _Writer) -> Shard:
    """A whole file is one document: this unit's part of it, with [CLS] if it is the first, [SEP] if the last."""
    blank, count = True, [0]
    if unit.start == 0:
        writer.add(encoder.start, ends=False)
    for raw in pieces_of(unit, count):
        try:
            text = decode(raw)
        except BadTextError as error:
            return Shard(skipped=1, error=(count[0] + error.lines_before + 1, str(error)))
        writer.add(encoder(text), ends=False)
        blank = blank and not text.strip()
        count[0] += raw.count(b"\n")
    writer.add(*([encoder.end] if unit.end is None else []))
    return Shard(lines=count[0], blank=blank)


class _Writer:
    """Ids and document lengths on their way into a shard, under names of its own until they are whole."""

    def __init__(self, folder: Path, key: str, dtype: np.dtype) -> None:
        own = f".{key}-{os.getpid()}-{secrets.token_hex(4)}"
        self.documents = self._tokens = self._waiting = self._length = 0
        self._dtype, self._stack = dtype, ExitStack()
        self._targets = {name: folder / f"{key}.{name}" for name in ("ids", "lengths", "json")}
        self._partial = {name: folder / f"{own}.{name}" for name in self._targets}
        self._pieces: list[np.ndarray] = []
        self._lengths: list[int] = []

    def __enter__(self) -> _Writer:
        self._files = {n: self._stack.enter_context(self._partial[n].open("wb")) for n in ("ids", "lengths")}
        self._digests = {name: hashlib.sha256() for name in self._files}
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # a full disk says so once
            self._stack.close()
        for path in self._partial.values():
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def add(self, *pieces: np.ndarray, ends: bool = True) -> None:
        """Write ids, and unless told otherwise end the document."""
        length = 0
        for piece in pieces:
            length += len(piece)
        self._pieces += pieces
        self._waiting += length
        self._length += length
        if ends:
            self._lengths.append(self._length)
            self.documents += 1
            self._length = 0
        if self._waiting >= _BUFFER_TOKENS:
            self._flush()

    def _flush(self) -> None:
        ids = np.concatenate(self._pieces).astype(self._dtype) if self._pieces else np.empty(0, self._dtype)
        for name, array in (("ids", ids), ("lengths", np.array(self._lengths, dtype="<u8"))):
            self._files[name].write(array.data)
            self._digests[name].update(array.data)
        self._tokens += len(ids)
        self._pieces, self._lengths, self._waiting = [], [], 0

    def finish(self, shard: Shard) -> Shard:
        """Give the files their names, that which says they are whole last."""
        self._flush()
        self._stack.close()
        ids, lengths = (self._digests[name].hexdigest() for name in ("ids", "lengths"))
        shard = replace(shard, documents=self.documents, tokens=self._tokens, ids_sha256=ids, lengths_sha256=lengths)
        self._partial["json"].write_text(json.dumps(asdict(shard)) + "\n", encoding="utf-8", newline="\n")
        for name, target in self._targets.items():
            os.replace(self._partial[name], target)
        return shard
