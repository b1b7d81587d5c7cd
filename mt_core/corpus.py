"""Files to documents: JSONL, plain text and Parquet, packed or not, read record by record. Does not tokenize.

Lines are split as bytes before anything is decoded, so that one bad byte spoils one record and not the rest
of the file, and every error names its file and line.
"""

from __future__ import annotations

import codecs
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, get_args

from mt_core.arguments import check_flag
from mt_core.files import (
    _JSONL_SUFFIXES,
    _TABLE_SUFFIXES,
    CorpusError,
    File,
    Paths,
    find_files,
    import_extra,
    open_unpacked,
    reading_errors,
    suffix_of,
)

SampleBy = Literal["document", "paragraph", "line"]
OnError = Literal["raise", "skip"]
Kind = Literal["jsonl", "parquet", "document", "paragraph", "line"]
_as_paths = find_files
_BLOCK_BYTES = 1 << 20
_raw_decode = json.JSONDecoder().raw_decode


class CorpusWarning(UserWarning):
    """Records were skipped because `on_error="skip"` asked for it."""


class Document(NamedTuple):
    """One document and where it begins: its file (a `Path`; a `str` for a URL) and line, or row, from 1."""

    text: str
    path: Any
    line: int


def read_documents(
    paths: Paths,
    *,
    is_jsonl: bool | None = None,
    text_field: str = "text",
    sample_by: SampleBy = "document",
    on_error: OnError = "raise",
) -> Iterator[str]:
    """Stream the texts of one or more files, in order.

    Args:
        paths: one or several files, folders (the corpus files in them, by name), patterns such as "data/*.txt",
            or URLs for `fsspec`. Files ending in .gz or .zst are unpacked while reading. URLs, .zst and Parquet
            need `pip install "microtransformer[big]"`.
        is_jsonl: True for one JSON record a line, False for plain text, None to tell by the suffix
            (.jsonl, .ndjson and .json are JSONL, .parquet is Parquet, anything else is plain text).
        text_field: the field of a JSON record, or the column of a Parquet file, that holds the text.
        sample_by: what is a document in plain text: the whole file ("document"), a block between blank
            lines ("paragraph") or each line ("line"). The names are those of Hugging Face `datasets`.
        on_error: "raise" stops at the first bad record; "skip" leaves bad records out and ends with one
            `CorpusWarning` that counts them.

    Texts without any character other than white space are not documents and are left out.

    Raises:
        CorpusError: a file is missing or unreadable, or a record is bad (broken JSON, no text field, text
            that is not a string, bytes that are not UTF-8), with path, line and reason.
    """
    for document in iterate_documents(
        paths, is_jsonl=is_jsonl, text_field=text_field, sample_by=sample_by, on_error=on_error
    ):
        yield document.text


def iterate_documents(
    paths: Paths,
    *,
    is_jsonl: bool | None = None,
    text_field: str = "text",
    sample_by: SampleBy = "document",
    on_error: OnError = "raise",
) -> Iterator[Document]:
    """`read_documents`, each text with the file and line where it begins."""
    check_reading(sample_by, on_error, is_jsonl=is_jsonl, text_field=text_field)
    skipped: list[CorpusError] = []
    for path in find_files(paths):
        for record in read_range(path, kind_of(path, is_jsonl, sample_by), text_field):
            if isinstance(record, Document):
                if record.text.strip():
                    yield record
            elif on_error == "skip":
                skipped.append(record)
            else:
                raise record
    if skipped:
        warn_skipped(len(skipped), skipped[0], stacklevel=3)


def check_reading(sample_by: str, on_error: str, *, is_jsonl: bool | None = None, text_field: str = "text") -> None:
    """Raises ValueError for a rule that does not exist."""
    if is_jsonl is not None:
        check_flag("is_jsonl", is_jsonl)
    if not isinstance(text_field, str):
        raise ValueError(f"text_field={text_field!r}, the name of a field is needed")
    if not isinstance(sample_by, str) or sample_by not in get_args(SampleBy):
        raise ValueError(f"sample_by={sample_by!r}, it must be one of {', '.join(get_args(SampleBy))}")
    if not isinstance(on_error, str) or on_error not in get_args(OnError):
        raise ValueError(f"on_error={on_error!r}, it must be 'raise' or 'skip'")


def warn_skipped(count: int, first: CorpusError, *, stacklevel: int) -> None:
    """The one warning after `on_error="skip"` has left records out."""
    warnings.warn(said_skipped(count, first), CorpusWarning, stacklevel=stacklevel)


def said_skipped(count: int, first: CorpusError) -> str:
    return f"skipped {count} bad record{'s' if count > 1 else ''}; the first is {first}"


def is_jsonl_path(path: str | os.PathLike[str]) -> bool:
    """Whether the file's name, without .gz, ends as JSONL files do.

    >>> is_jsonl_path("stories.jsonl.gz"), is_jsonl_path("plays.txt")
    (True, False)
    """
    return suffix_of(path) in _JSONL_SUFFIXES


def kind_of(file: File, is_jsonl: bool | None, sample_by: SampleBy) -> Kind:
    """How a file is read: "jsonl", "parquet", or for plain text what a document is.

    Raises:
        CorpusError: a table, which nobody has called text.
    """
    if is_jsonl is None and suffix_of(file) == ".parquet":
        return "parquet"
    if is_jsonl is None and suffix_of(file) in _TABLE_SUFFIXES:
        raise CorpusError(
            file,
            None,
            'is a table: write its column of texts as JSONL, a line {"text": "…"} for each row, or read it as plain '
            "text, commas and all, with is_jsonl=False",
        )
    return "jsonl" if (is_jsonl_path(file) if is_jsonl is None else is_jsonl) else sample_by


def read_range(
    file: File, kind: Kind, text_field: str, start: int = 0, end: int | None = None, count: list[int] | None = None
) -> Iterator[Document | CorpusError]:
    """The records of one file, good and bad, blank ones included; lines count from 1 at `start`.

    Args:
        start, end: bytes of an unpacked file, both between two records; row groups of a Parquet file.
        count: its one item is kept at the number of lines, or rows, read so far.

    Raises:
        CorpusError: the file itself is unreadable or damaged.
    """
    if kind == "parquet":
        return _read_parquet(file, text_field, start, end, count or [0])
    lines = read_lines(file, start, end, count or [0])
    return _read_jsonl(file, lines, text_field) if kind == "jsonl" else _read_text(file, lines, kind)


def _read_jsonl(path: File, lines: Iterator[tuple[int, bytes]], text_field: str) -> Iterator[Document | CorpusError]:
    for number, raw in lines:
        if not raw.strip():
            continue
        try:
            text = _text_of_record(raw.rstrip(b"\r\n"), text_field)
        except _RecordError as error:
            yield CorpusError(path, number, str(error))
        else:
            yield Document(text=text, path=path, line=number)


def _read_text(path: File, lines: Iterator[tuple[int, bytes]], sample_by: Kind) -> Iterator[Document | CorpusError]:
    start, block = 1, list[bytes]()
    for number, raw in lines:
        ends = sample_by == "line" or (sample_by == "paragraph" and not raw.strip())
        if sample_by == "line" or not ends:
            start = start if block else number
            block.append(raw)
        if ends and block:
            yield _decoded(path, start, block, sample_by)
            block = []
    if block:
        yield _decoded(path, start, block, sample_by)


def _decoded(path: File, start: int, block: list[bytes], sample_by: Kind) -> Document | CorpusError:
    raw = b"".join(block)
    try:
        text = decode(raw)
    except BadTextError as error:
        return CorpusError(path, start + error.lines_before, str(error))
    return Document(text=text if sample_by == "document" else text.rstrip("\r\n"), path=path, line=start)


def _read_parquet(
    path: File, text_field: str, first: int, last: int | None, count: list[int]
) -> Iterator[Document | CorpusError]:
    pyarrow = import_extra("pyarrow", path, "reading Parquet")
    with parquet_file(path) as table:
        names = table.schema_arrow.names
        if text_field not in names:
            found = ", ".join(map(repr, names[:8])) or "no columns"
            raise CorpusError(path, None, f"no column {text_field!r} (found {found}): name one with text_field=…")
        groups = range(first, table.num_row_groups if last is None else last)
        try:
            for batch in table.iter_batches(256, row_groups=groups, columns=[text_field], use_threads=False):
                for value in batch.column(0):
                    count[0] += 1
                    try:
                        text = value.as_py()
                        if isinstance(text, str):
                            yield Document(text=text, path=path, line=count[0])
                        else:
                            reason = f"column {text_field!r} holds {type(text).__name__}, a string is needed"
                            yield CorpusError(path, count[0], reason)
                    except UnicodeDecodeError as error:
                        yield CorpusError(path, count[0], _not_utf8(error))
        except (pyarrow.ArrowException, OSError) as error:
            raise CorpusError(path, count[0] + 1, f"the Parquet file is damaged ({error}): get it again") from error


@contextmanager
def parquet_file(path: File) -> Iterator[Any]:
    """An open `pyarrow.parquet.ParquetFile` that reads pages as they are needed, not whole row groups."""
    pyarrow = import_extra("pyarrow", path, "reading Parquet")
    parquet = import_extra("pyarrow.parquet", path, "reading Parquet")
    with open_unpacked(path) as raw:
        try:
            table = parquet.ParquetFile(raw, buffer_size=_BLOCK_BYTES, pre_buffer=False)
        except (pyarrow.ArrowException, OSError) as error:
            raise CorpusError(path, None, f"is no readable Parquet file ({error}): get it again") from error
        with table:
            yield table


class _RecordError(Exception):
    """Why one line of JSONL is no record."""


def _text_of_record(raw: bytes, text_field: str) -> str:
    try:
        record = _record(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _RecordError(_not_utf8(error)) from None
    except json.JSONDecodeError as error:
        if raw.strip() in (b"[", b"{"):
            raise _RecordError(
                "JSON that goes on over several lines: write it as JSONL, one whole record a line"
            ) from None
        what = f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"
        raise _RecordError(f"broken JSON ({what}): one whole record a line") from None
    except (RecursionError, ValueError) as error:
        raise _RecordError(f"JSON that cannot be read ({error})") from None
    if not isinstance(record, dict):
        raise _RecordError(f'a JSON {_json_type(record)}, each line must be an object such as {{"{text_field}": "…"}}')
    if text_field not in record:
        fields = ", ".join(map(repr, list(record)[:8])) or "no fields"
        raise _RecordError(f"no field {text_field!r} (found {fields}): name the right one with text_field=…")
    text = record[text_field]
    if not isinstance(text, str):
        kind = "an object" if isinstance(text, dict) else f"a {_json_type(text)}"
        raise _RecordError(f"field {text_field!r} is {kind}, a string is needed")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _RecordError(f"half of a surrogate pair at character {error.start + 1} of {text_field!r}") from None
    return text


def _record(line: str) -> Any:
    """`json.loads(line)`, faster where nothing stands around the value."""
    try:
        record, end = _raw_decode(line)
    except json.JSONDecodeError:
        return json.loads(line)
    return record if end == len(line) else json.loads(line)


def _json_type(value: object) -> str:
    names = {list: "list", str: "string", bool: "true/false", int: "number", float: "number"}
    return names.get(type(value), "null")


class BadTextError(Exception):
    """Bytes that are not UTF-8; `lines_before` counts the line feeds before the bad one."""

    def __init__(self, error: UnicodeDecodeError) -> None:
        self.lines_before = error.object[: error.start].count(b"\n")
        super().__init__(_not_utf8(error))


def decode(raw: bytes) -> str:
    """Bytes as UTF-8; raises BadTextError."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadTextError(error) from None


def _not_utf8(error: UnicodeDecodeError) -> str:
    wrong = error.object[error.start]
    return f"byte 0x{wrong:02x} is not valid UTF-8: save the file as UTF-8, or pass on_error='skip'"


def read_lines(path: File, start: int, end: int | None, count: list[int]) -> Iterator[tuple[int, bytes]]:
    """Raw lines from byte `start`, numbered by `count`, line ends kept, a UTF-8 byte order mark removed.

    Raises:
        CorpusError: the file is unreadable, damaged or UTF-16.
    """
    if end is not None and start >= end:
        return
    position = start
    with reading_errors(path, count), open_unpacked(path) as file:
        if start:
            file.seek(start)
        for raw in file:
            position += len(raw)
            count[0] += 1
            yield count[0], without_mark(path, raw) if count[0] == 1 and not start else raw
            if end is not None and position >= end:
                return


def without_mark(path: File, raw: bytes) -> bytes:
    """The beginning of a file without its UTF-8 byte order mark; CorpusError if it is UTF-16."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise CorpusError(path, 1, "the file is UTF-16, UTF-8 is needed: save it as UTF-8")
    return raw.removeprefix(codecs.BOM_UTF8)
