"""Files to documents: JSONL and plain text, gzipped or not, read line by line. Does not tokenize.

Lines are split as bytes before anything is decoded, so that one bad byte spoils one record and not the rest
of the file, and every error names its file and line.
"""

from __future__ import annotations

import codecs
import gzip
import json
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, get_args

SampleBy = Literal["document", "paragraph", "line"]
OnError = Literal["raise", "skip"]
Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
_JSONL_SUFFIXES = {".jsonl", ".ndjson", ".json"}


class CorpusError(ValueError):
    """A corpus file or one of its records cannot be used; `path`, `line` (from 1, or None) and `reason` say why."""

    def __init__(self, path: Path, line: int | None, reason: str) -> None:
        self.path, self.line, self.reason = path, line, reason
        super().__init__(f"{path}, line {line}: {reason}" if line else f"{path}: {reason}")


class CorpusWarning(UserWarning):
    """Records were skipped because `on_error="skip"` asked for it."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document and where it begins: its file and line, counted from 1."""

    text: str
    path: Path
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
        paths: a path or several. Files ending in .gz are unpacked while reading.
        is_jsonl: True for one JSON record a line, False for plain text, None to tell by the suffix
            (.jsonl, .ndjson and .json are JSONL; anything else is plain text).
        text_field: the field of a JSON record that holds its text.
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
    if sample_by not in get_args(SampleBy):
        raise ValueError(f"sample_by={sample_by!r}, it must be one of {', '.join(get_args(SampleBy))}")
    if on_error not in get_args(OnError):
        raise ValueError(f"on_error={on_error!r}, it must be 'raise' or 'skip'")
    skipped: list[CorpusError] = []
    for path in _as_paths(paths):
        jsonl = is_jsonl_path(path) if is_jsonl is None else is_jsonl
        records = _read_jsonl(path, text_field) if jsonl else _read_text(path, sample_by)
        for record in records:
            if isinstance(record, Document):
                if record.text.strip():
                    yield record
            elif on_error == "skip":
                skipped.append(record)
            else:
                raise record
    if skipped:
        warnings.warn(
            f"skipped {len(skipped)} bad record{'s' if len(skipped) > 1 else ''}; the first is {skipped[0]}",
            CorpusWarning,
            stacklevel=2,
        )


def is_jsonl_path(path: str | os.PathLike[str]) -> bool:
    """Whether the file's name, without .gz, ends as JSONL files do.

    >>> is_jsonl_path("stories.jsonl.gz"), is_jsonl_path("plays.txt")
    (True, False)
    """
    path = Path(path)
    if path.suffix.lower() == ".gz":
        path = path.with_suffix("")
    return path.suffix.lower() in _JSONL_SUFFIXES


def _as_paths(paths: Paths) -> list[Path]:
    found = [Path(paths)] if isinstance(paths, (str, os.PathLike)) else [Path(path) for path in paths]
    if not found:
        raise ValueError("paths is empty: name at least one file")
    for path in found:
        if path.is_dir():
            raise CorpusError(path, None, "is a folder, a file is needed: name the files in it")
        if not path.exists():
            raise CorpusError(path, None, f"no such file (looked in {path.parent.resolve()})")
    return found


def _read_jsonl(path: Path, text_field: str) -> Iterator[Document | CorpusError]:
    for number, raw in _lines(path):
        if not raw.strip():
            continue
        try:
            text = _text_of_record(raw.rstrip(b"\r\n"), text_field)
        except _RecordError as error:
            yield CorpusError(path, number, str(error))
        else:
            yield Document(text=text, path=path, line=number)


def _read_text(path: Path, sample_by: SampleBy) -> Iterator[Document | CorpusError]:
    start, block = 1, list[bytes]()
    for number, raw in _lines(path):
        ends = sample_by == "line" or (sample_by == "paragraph" and not raw.strip())
        if sample_by == "line" or not ends:
            start = start if block else number
            block.append(raw)
        if ends and block:
            yield _decoded(path, start, block, sample_by)
            block = []
    if block:
        yield _decoded(path, start, block, sample_by)


def _decoded(path: Path, start: int, block: list[bytes], sample_by: SampleBy) -> Document | CorpusError:
    raw = b"".join(block)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return CorpusError(path, start + raw[: error.start].count(b"\n"), _not_utf8(error))
    return Document(text=text if sample_by == "document" else text.rstrip("\r\n"), path=path, line=start)


class _RecordError(Exception):
    """Why one line of JSONL is no record."""


def _text_of_record(raw: bytes, text_field: str) -> str:
    try:
        record = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _RecordError(_not_utf8(error)) from None
    except json.JSONDecodeError as error:
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
        raise _RecordError(f"field {text_field!r} is a {_json_type(text)}, a string is needed")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _RecordError(f"half of a surrogate pair at character {error.start + 1} of {text_field!r}") from None
    return text


def _json_type(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "true/false", int: "number", float: "number"}
    return names.get(type(value), "null")


def _not_utf8(error: UnicodeDecodeError) -> str:
    wrong = error.object[error.start]
    return f"byte 0x{wrong:02x} is not valid UTF-8: save the file as UTF-8, or pass on_error='skip'"


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered raw lines, line ends kept, a UTF-8 byte order mark removed."""
    number = 0
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, start=1):
                if number == 1:
                    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                        raise CorpusError(path, 1, "the file is UTF-16, UTF-8 is needed: save it as UTF-8")
                    raw = raw.removeprefix(codecs.BOM_UTF8)
                yield number, raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorpusError(path, number + 1, f"the gzip file is damaged ({error}): get it again") from error
    except OSError as error:
        raise CorpusError(path, number + 1, f"cannot be read ({error.strerror or error})") from error


def _open(path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")
