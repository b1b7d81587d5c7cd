"""Files to units of work, the parts that are tokenized by themselves. Does not tokenize.

What the units are depends on the files and the reading rules alone, not on who works on them. A unit is a range of
bytes; which records belong to it is found out by whoever reads it: those that begin in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mt_core.bulk import last_word_end, word_ends
from mt_core.corpus import Kind, OnError, SampleBy, kind_of, parquet_file, without_mark
from mt_core.files import File, describe_file, is_packed, json_sha256, open_unpacked, reading_errors

UNIT_BYTES = 2 << 20  # of a file: a tenth of a second of work
MOST_UNITS = 4096  # beyond, units grow
_BLOCK_BYTES = 1 << 20
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What is the same for all units: how to read, and which tokenizer."""

    is_jsonl: bool | None
    text_field: str
    sample_by: SampleBy
    on_error: OnError
    tokenizer_hash: str


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A part of a file. A few hundred bytes when sent.

    Attributes:
        number, file_number: its place among all units, and its file's among all files.
        file, stamp: what to read, and how the file looked when the work was cut up.
        start, end: bytes; the unit has the records that begin there, or after it up to the next unit. Row groups
            of a Parquet file. `end` None is the end of the file.
        cost: bytes, for the progress bar.
    """

    number: int
    file_number: int
    file: File
    stamp: str
    kind: Kind
    start: int
    end: int | None
    cost: int

    def key(self, rules: Rules) -> str:
        """A name that two units share exactly when they have the same shard."""
        made_from = [_VERSION, str(self.file), self.stamp, self.kind, self.start, self.end]
        made_from += [rules.text_field, rules.tokenizer_hash]
        return json_sha256(made_from)[:24]


def plan_units(files: list[File], rules: Rules, *, cuts: bool) -> list[Unit]:
    """Cut files into units. Packed files are read from the beginning only, so each is one unit.

    Args:
        cuts: whether the tokenizer allows a document to be cut into pieces.

    Raises:
        CorpusError: a file cannot be looked at.
    """
    found = [(file, kind_of(file, rules.is_jsonl, rules.sample_by), *describe_file(file)) for file in files]
    total = sum(size or 0 for _, _, size, _ in found)
    step = UNIT_BYTES * max(1, -(-total // (UNIT_BYTES * MOST_UNITS)))
    units: list[Unit] = []
    for number, (file, kind, size, stamp) in enumerate(found):
        place = file.absolute() if isinstance(file, Path) else file  # a worker may run in another folder
        spans: list[tuple[int, int | None, int]]
        if kind == "parquet":
            spans = _row_groups(file, step)
        elif size is None or size <= step or is_packed(file) or (kind == "document" and not cuts):
            spans = [(0, None, size or 0)]
        else:
            starts = range(0, size, step)
            spans = [(a, None if a == starts[-1] else a + step, min(step, size - a)) for a in starts]
        for start, end, cost in spans:
            unit = Unit(
                number=len(units),
                file_number=number,
                file=place,
                stamp=stamp,
                kind=kind,
                start=start,
                end=end,
                cost=cost,
            )
            units.append(unit)
    return units


def _row_groups(file: File, step: int) -> list[tuple[int, int | None, int]]:
    with parquet_file(file) as table:
        sizes = [table.metadata.row_group(i).total_byte_size for i in range(table.num_row_groups)]
    spans: list[tuple[int, int | None, int]] = []
    start = cost = 0
    for group, size in enumerate(sizes, 1):
        cost += size
        if cost >= step or group == len(sizes):
            spans.append((start, group, cost))
            start, cost = group, 0
    return spans or [(0, 0, 0)]


def records_of(unit: Unit) -> tuple[int, int | None]:
    """The range of the file, for `read_range`, that holds the records of a unit."""
    start, end = _first_record(unit, unit.start), _first_record(unit, unit.end)
    assert start is not None
    return start, end


def pieces_of(unit: Unit, count: list[int]) -> Iterator[bytes]:
    """The bytes of a unit of one long document, in pieces of about a megabyte that end where a word does.

    `count` holds the number of lines so far, for errors.
    """
    with reading_errors(unit.file, count), open_unpacked(unit.file) as stream:
        start, end = (_first_word_end(stream, edge) for edge in (unit.start, unit.end))
        position, rest = start or 0, b""
        if unit.start or unit.end:  # a packed file is read from where it stands
            stream.seek(position)
        while block := stream.read(_BLOCK_BYTES if end is None else min(_BLOCK_BYTES, end - position)):
            seen = max(0, len(rest) - 4)  # of a character whose end has just come
            rest += without_mark(unit.file, block) if position == 0 else block
            position += len(block)
            cut = last_word_end(rest, seen)
            if cut:
                yield rest[:cut]
                rest = rest[cut:]
        if rest:
            yield rest


def _first_record(unit: Unit, edge: int | None) -> int | None:
    """Where the first record begins that does not begin before `edge`. Row groups are records of their own."""
    if not edge or unit.kind == "parquet":
        return edge
    with reading_errors(unit.file, [0]), open_unpacked(unit.file) as stream:
        stream.seek(edge - 1)  # if that byte ends a line, the next record begins at the edge
        line = stream.readline()
        while unit.kind == "paragraph" and line:
            line = stream.readline()
            if not line.strip():  # a blank line, or the end
                break
        return stream.tell()


def _first_word_end(stream: BinaryIO, edge: int | None) -> int | None:
    """The first place from `edge` on where a word ends, or the end of the file."""
    if not edge:
        return edge
    position = max(0, edge - 4)
    stream.seek(position)
    rest = b""
    while block := stream.read(1 << 16):
        rest += block
        for end in word_ends(rest):
            if position + end >= edge:
                return position + end
        position += max(0, len(rest) - 4)
        rest = rest[-4:]
    return position + len(rest)
