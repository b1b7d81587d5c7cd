"""Exhibits about what reaches the disk and what comes back: changed ids, lost lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mt_core.lab.bugs.exhibit import Exhibit, FaultError, Source, WrongMend, call, counted, items, numbers, pair, short

# -- ids too large for their type ------------------------------------------------------------------------------


def changed_words(token_ids: Sequence[int]) -> np.ndarray:
    """Token ids as they are written to disk, two bytes each."""
    return np.array(token_ids, dtype=np.int64).astype(np.uint16)


def _narrow_if_it_fits(token_ids: Sequence[int]) -> np.ndarray:
    ids = np.array(token_ids, dtype=np.int64)
    return ids.astype(np.uint16 if ids.max(initial=0) < 1 << 16 else np.uint32)


def _clipped(token_ids: Sequence[int]) -> np.ndarray:
    return np.clip(np.array(token_ids, dtype=np.int64), 0, 65535).astype(np.uint16)


def _off_by_one(token_ids: Sequence[int]) -> np.ndarray:
    ids = np.array(token_ids, dtype=np.int64)
    return ids.astype(np.uint16 if ids.max(initial=0) <= 1 << 16 else np.uint32)


def _always_wide(token_ids: Sequence[int]) -> np.ndarray:
    return np.array(token_ids, dtype=np.int64)


def _look_round_trip(candidate: Callable[..., Any]) -> str:
    ids = [11, 65535, 65536, 70000]
    back = numbers(call(candidate, list(ids)), "what comes back")
    if back != ids:
        pairs = [f"{token} as {found}" for token, found in zip(ids, back, strict=False) if token != found]
        raise FaultError(f"written {short(ids)}, read {short(back)}: {', '.join(pairs) or 'not as many'}")
    return f"written and read {short(ids)}"


def _examine_storage(candidate: Callable[..., Any]) -> str:
    _look_round_trip(candidate)
    for ids in ([0, 65535], [65536], [1, 2**31 + 5], []):
        stored = call(candidate, list(ids))
        if not isinstance(stored, np.ndarray) or stored.dtype.kind not in "ui":
            raise FaultError(f"ids {short(ids)} come back as {stored!r}: a NumPy array of whole numbers is needed")
        if numbers(stored, "what comes back") != ids:
            raise FaultError(f"written {short(ids)}, read {short(stored.tolist())}: the first id that does not fit")
        fits = max(ids, default=0) < 1 << 16
        if stored.itemsize > (2 if fits else 4):
            raise FaultError(
                f"ids {short(ids)} take {stored.itemsize} bytes each, {2 if fits else 4} hold them: the corpus would "
                "be larger on disk than it needs to be"
            )
    return "every id comes back, 65,536 and 70,000 too; two bytes an id where they suffice"


CHANGED_WORDS = Exhibit(
    name="changed_words",
    title="Words that change in the cellar",
    question="Token 70000 is written as uint16. Which token is read?",
    task=(
        "store(token_ids) returns the ids as a NumPy array to be written to disk: every id unchanged, two bytes each "
        "where all of them fit into two, otherwise four."
    ),
    source=Source(
        where="huggingface/transformers#2825",
        title="binarized_data.py in distillation uses incorrect type casting",
        link="https://github.com/huggingface/transformers/issues/2825",
    ),
    broken=changed_words,
    symptom="None at all: every id is valid, and rare words have quietly become frequent ones.",
    tool="plain assertion",
    look=_look_round_trip,
    examine=_examine_storage,
    hints=(
        "Write a few ids, among them large ones, and read them back.",
        "How many different numbers do two bytes hold, and what becomes of the next one?",
        "Look at the largest id before you choose the type; 65,536 is the first that needs four bytes.",
    ),
    mend=_narrow_if_it_fits,
    wrong_mends=(
        WrongMend(candidate=_clipped, mistake="clips: all large ids become one token"),
        WrongMend(candidate=_off_by_one, mistake="allows 65,536, which is read as 0"),
        WrongMend(candidate=_always_wide, mistake="eight bytes an id: right, and four times as large as needed"),
    ),
)


# -- one bad line ----------------------------------------------------------------------------------------------


def lost_lines(data: bytes) -> tuple[list[str], int]:
    """The texts of a JSONL file, and how many of its records are bad."""
    texts: list[str] = []
    try:
        for raw in data.split(b"\n"):
            if raw.strip():
                texts.append(json.loads(raw.decode("utf-8"))["text"])
    except (ValueError, KeyError):
        return texts, 1
    return texts, 0


def _line_by_line(data: bytes) -> tuple[list[str], int]:
    texts, bad = [], 0
    for raw in data.split(b"\n"):
        if not raw.strip():
            continue
        try:
            texts.append(json.loads(raw.decode("utf-8"))["text"])
        except (ValueError, KeyError):
            bad += 1
    return texts, bad


def _replacing(data: bytes) -> tuple[list[str], int]:
    return _line_by_line(data.decode("utf-8", errors="replace").encode("utf-8"))


def _silent(data: bytes) -> tuple[list[str], int]:
    return _line_by_line(data)[0], 0


def _splitlines(data: bytes) -> tuple[list[str], int]:
    text = data.decode("utf-8", errors="surrogateescape")
    return _line_by_line(b"\n".join(line.encode("utf-8", "surrogateescape") for line in text.splitlines()))


_GOOD = [json.dumps({"text": f"story {number}"}).encode() for number in range(6)]
_FILES = (  # what is wrong with it, the lines, the texts that are there, how many records are bad
    ("the third record has a byte that is no UTF-8", [*_GOOD[:2], b'{"text": "caf\xe9"}', *_GOOD[2:]], None, 1),
    ("nothing", _GOOD, None, 0),
    ("the second record is cut short", [_GOOD[0], b'{"text": "sto', *_GOOD[1:]], None, 1),
    ("a blank line and a record without a text", [*_GOOD[:3], b"", b'{"body": ""}', *_GOOD[3:]], None, 1),
    ("a line separator inside a text", ['{"text": "one\u2028two"}'.encode(), _GOOD[0]], ["one\u2028two", "story 0"], 0),
)


def _read(candidate: Callable[..., Any], files: Sequence[Any]) -> str:
    for what, lines, texts, bad in files:
        wanted = [f"story {number}" for number in range(6)] if texts is None else texts
        texts_found, reported = pair(call(candidate, b"\n".join(lines) + b"\n"), "(texts, bad)")
        found = items(texts_found, "texts")
        case = f"a file of {len(lines)} lines ({what})"
        lost = [text for text in wanted if text not in found]
        if lost:
            raise FaultError(f"{case}: {len(lost)} of {len(wanted)} good texts are lost, from {lost[0]!r} on")
        if found != wanted:
            strange = next((text for text in found if text not in wanted), found)
            raise FaultError(f"{case}: {strange!r} is read, which nobody wrote")
        if reported != bad:
            raise FaultError(f"{case}: {reported} bad records are reported, {bad} are there")
    return f"{counted(len(files), 'file')}: every good text read, every bad record counted"


def _look_file(candidate: Callable[..., Any]) -> str:
    return _read(candidate, _FILES[:1])


def _examine_files(candidate: Callable[..., Any]) -> str:
    return _read(candidate, _FILES)


LOST_LINES = Exhibit(
    name="lost_lines",
    title="One bad byte",
    question="The third of seven records has one bad byte. How many texts are read?",
    task=(
        "read(data) takes the bytes of a JSONL file and returns (texts, bad): the texts of all good records in order, "
        "unchanged, and the number of bad ones. Blank lines are neither."
    ),
    source=Source(
        where="microsoft/graphrag#2424",
        title="JSONL reader skips entire file when input contains blank lines",
        link="https://github.com/microsoft/graphrag/issues/2424",
    ),
    broken=lost_lines,
    symptom="The corpus is smaller than its files; the log holds one line about one record.",
    tool="plain assertion",
    look=_look_file,
    examine=_examine_files,
    hints=(
        "Count the texts that come out against the lines that go in.",
        "Which lines stand inside the `try`, and what is skipped when one of them fails?",
        "A line end is one byte, whatever the encoding: split first, then decode and parse each line by itself.",
    ),
    mend=_line_by_line,
    wrong_mends=(
        WrongMend(candidate=_replacing, mistake="replaces the byte: a text that nobody wrote is trained on"),
        WrongMend(candidate=_silent, mistake="skips without counting: half a corpus could go unnoticed"),
        WrongMend(candidate=_splitlines, mistake="str.splitlines also splits at U+2028, which JSON allows in a text"),
    ),
)


EXHIBITS = (CHANGED_WORDS, LOST_LINES)
