"""Documents in, train.jsonl and val.jsonl out, both whole or neither. Does not download or choose a corpus."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mt_core.lab.download import file_lock

FORMAT = 1  # of the files written here; a higher one makes prepared corpora be prepared again
END_OF_TEXT = "<|endoftext|>"  # between the stories of TinyStories
Record = tuple[bool, dict[str, str]]  # (belongs to val, one JSON object)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Where a corpus is. `val` is None when it comes in one piece; `is_jsonl` None means told by the suffix."""

    train: Path
    val: Path | None
    is_jsonl: bool | None
    title: str


def read_downloaded(kind: str, paths: Sequence[Path]) -> Iterator[str]:
    """Documents of downloaded files; `kind` is "stories", "articles" or "documents" as in the catalogue."""
    if kind == "stories":
        for path in paths:
            yield from _stories(path)
    elif kind == "articles":
        yield from _articles(row for path in paths for row in _parquet_texts(path))
    else:
        for path in paths:
            yield from _parquet_texts(path)


def _stories(path: Path) -> Iterator[str]:
    """Documents of a text file that has `<|endoftext|>` between them, holding one document at a time."""
    rest = ""
    with path.open(encoding="utf-8") as handle:
        while block := handle.read(1 << 20):
            *whole, rest = (rest + block).split(END_OF_TEXT)
            yield from (story.strip() for story in whole if story.strip())
    if rest.strip():
        yield rest.strip()


def _articles(rows: Iterable[str]) -> Iterator[str]:
    """Join WikiText's rows into articles: one begins at a ` = Title = ` between two blank rows."""
    article: list[str] = []
    before, rows = "", iter(rows)
    row = next(rows, None)
    while row is not None:
        after = next(rows, None)
        title = re.fullmatch(r"= [^=].*[^=] =|= [^=] =", row.strip())
        if title and not before.strip() and not (after or "").strip():
            if text := "".join(article).strip():
                yield text
            article = []
        article.append(row)
        before, row = row, after
    if text := "".join(article).strip():
        yield text


def _parquet_texts(path: Path) -> Iterator[str]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as table:
        for batch in table.iter_batches(batch_size=1024, columns=["text"]):
            yield from batch.column(0).to_pylist()


def split_by_hash(train: Iterable[str], val: Iterable[str], val_fraction: float) -> Iterator[Record]:
    """(belongs to val, record) for each document; equal texts always fall on the same side."""
    for text in val:
        yield True, {"text": text}
    for text in train:
        digest = hashlib.sha256(text.encode("utf-8")).digest()
        yield int.from_bytes(digest[:8], "big") < val_fraction * 2**64, {"text": text}


def write_corpus(
    directory: Path, made_from: dict[str, Any], title: str | Callable[[], str], documents: Iterable[Record]
) -> Corpus:
    """Stream documents into train.jsonl and val.jsonl; corpus.json, written last, says that both are whole.

    `made_from` is what the corpus depends on, as JSON; `prepared_corpus` compares it. `title` may be a function, called
    after the last document. One document is in memory at a time. A failure leaves an earlier corpus as it was.

    Raises ValueError where `directory` is a file.
    """
    if directory.is_file():
        raise ValueError(f"{directory} is a file: name a directory for train.jsonl and val.jsonl")
    directory.mkdir(parents=True, exist_ok=True)
    finals = [directory / "train.jsonl", directory / "val.jsonl"]
    parts = [directory / "train.jsonl.part", directory / "val.jsonl.part"]
    counts = [0, 0]
    with file_lock(directory / "corpus.lock", timeout=3600.0):
        try:
            with contextlib.ExitStack() as stack:
                outs = [stack.enter_context(part.open("w", encoding="utf-8", newline="\n")) for part in parts]
                for is_val, record in documents:
                    outs[is_val].write(json.dumps(record, ensure_ascii=False) + "\n")
                    counts[is_val] += 1
                for out in outs:
                    out.flush()
                    os.fsync(out.fileno())
            (directory / "corpus.json").unlink(missing_ok=True)
            for part, final in zip(parts, finals, strict=True):
                os.replace(part, final)
        finally:
            for part in parts:
                part.unlink(missing_ok=True)
        title = title if isinstance(title, str) else title()
        about = {
            "format": FORMAT,
            "title": title,
            "made_from": made_from,
            "documents": dict(zip(("train", "val"), counts, strict=True)),
            "bytes": dict(zip(("train", "val"), (final.stat().st_size for final in finals), strict=True)),
        }
        about_part = directory / "corpus.json.part"
        about_part.write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
        os.replace(about_part, directory / "corpus.json")
    return Corpus(train=finals[0], val=finals[1], is_jsonl=True, title=title)


def prepared_corpus(directory: Path, made_from: dict[str, Any]) -> Corpus | None:
    """The corpus that `write_corpus` left in `directory`, if it is whole and made from the same things; else None."""
    try:
        about = json.loads((directory / "corpus.json").read_text(encoding="utf-8"))
        sizes = {name: (directory / f"{name}.jsonl").stat().st_size for name in ("train", "val")}
    except (OSError, ValueError, RecursionError):
        return None
    wanted = {"format": FORMAT, "made_from": made_from, "bytes": sizes}
    if not isinstance(about, dict) or any(about.get(key) != value for key, value in wanted.items()):
        return None
    if not isinstance(about.get("title"), str):
        return None
    return Corpus(train=directory / "train.jsonl", val=directory / "val.jsonl", is_jsonl=True, title=about["title"])
