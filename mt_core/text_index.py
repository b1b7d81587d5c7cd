"""Where the documents of a text file lie, and how many tokens each has: a folder in the cache. Keeps no tokens."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from mt_core.bulk import BulkEncoder
from mt_core.corpus import Kind, iterate_documents
from mt_core.files import CorpusError, file_sha256
from mt_core.store import ENDS, HEADER, StoreError, dtype_for, header_sha256, make_header
from mt_core.tokenizer import MicroTransformerTokenizer

FORMAT, VERSION = "microtransformer-text-index", 2
PLACES, TOKENIZER = "document_places.bin", "tokenizer"
_LARGEST_DOCUMENT = 16 << 20  # bytes: a document is read whole


def write_index(
    folder: Path, file: Path, kind: Kind, tokenizer: MicroTransformerTokenizer, reading: dict[str, Any]
) -> None:
    encoder, dtype = BulkEncoder(tokenizer), dtype_for(len(tokenizer))
    digests = (hashlib.sha256(), hashlib.sha256())
    n_tokens = n_documents = 0
    spans = _spans(file, kind)
    with (
        (folder / ENDS).open("wb") as ends_file,
        (folder / PLACES).open("wb") as places_file,
        tqdm(desc="counting tokens", unit="B", unit_scale=True, delay=2, total=file.stat().st_size) as progress,
    ):
        for document in iterate_documents(file, **reading):
            _, start, end = next(span for span in spans if span[0] == document.line)
            progress.update(end - progress.n)
            ids = encoder.document(document.text).astype(dtype)
            n_tokens, n_documents = n_tokens + len(ids), n_documents + 1
            written = n_tokens.to_bytes(8, "little")
            ends_file.write(written)
            places_file.write(start.to_bytes(8, "little") + end.to_bytes(8, "little"))
            digests[0].update(ids.data)
            digests[1].update(written)
    if not n_documents:
        raise StoreError(f"{file}: no text found (empty, or white space alone): a corpus needs at least one document")
    tokenizer.save_pretrained(folder / TOKENIZER)
    header = make_header(
        len(tokenizer),
        tokenizer.fingerprint(),
        tokenizer.pad_token_id,
        n_tokens,
        n_documents,
        digests,
        [{"name": file.name, "documents": n_documents}],
    )
    header |= {"format": FORMAT, "version": VERSION, "kind": kind, "reading": reading}
    header["places_sha256"] = file_sha256(folder / PLACES)
    header["header_sha256"] = header_sha256(header)
    (folder / HEADER).write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8", newline="\n")


def read_index(folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """The header of an index that is whole. Without `verify` only the sizes of its other files are looked at.

    Raises:
        StoreError: it is not.
    """
    try:
        header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        whole = header["format"] == FORMAT and header["version"] == VERSION
        whole = whole and (folder / TOKENIZER / "tokenizer.json").is_file()
        for name, promised, width in ((ENDS, "document_ends_sha256", 8), (PLACES, "places_sha256", 16)):
            whole = whole and (folder / name).stat().st_size == width * header["n_documents"]
            whole = whole and (not verify or file_sha256(folder / name) == header[promised])
        whole = whole and header["header_sha256"] == header_sha256(header)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise StoreError(f"{folder} is not a whole index of a text file: delete it and open the text again")
    return header


def _spans(file: Path, kind: Kind) -> Iterator[tuple[int, int, int]]:
    """Line, from 1, first byte and end of each record of a file, records without text included.

    Raises:
        CorpusError: a record is too large to be read for a row.
    """
    with file.open("rb") as stream:
        position = len(codecs.BOM_UTF8) if stream.read(3) == codecs.BOM_UTF8 else 0
        stream.seek(position)
        if kind == "document":
            yield 1, position, _fitting(file, 1, position, file.stat().st_size)
            return
        first: tuple[int, int] | None = None  # line and first byte of the paragraph that is being read
        for line, raw in enumerate(stream, 1):
            begins, position = position, position + len(raw)
            if kind != "paragraph":
                yield line, begins, _fitting(file, line, begins, position)
            elif raw.strip():
                first = first or (line, begins)
            elif first:
                yield *first, _fitting(file, *first, begins)
                first = None
        if first:
            yield *first, _fitting(file, *first, position)


def _fitting(file: Path, line: int, start: int, end: int) -> int:
    if end - start > _LARGEST_DOCUMENT:
        raise CorpusError(
            file,
            line,
            f"a document of {end - start:,} bytes, which on the fly would be read for each of its rows; up to "
            f"{_LARGEST_DOCUMENT:,} are: pass sample_by='paragraph' or 'line', or use tokenize='ahead'",
        )
    return end
