"""Exhibits about the marks that begin and end a document: forged by its text, set where it was cut."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from mt_core.lab.bugs.exhibit import Exhibit, FaultError, Source, WrongMend, call, counted, numbers, short

CLS, SEP = 256, 257  # the ids of the marks in the toy vocabulary: ids below 256 are bytes


# -- text that spells a mark -----------------------------------------------------------------------------------


def forged_end(text: str) -> list[int]:
    """A document as ids: [CLS], the bytes of the text, [SEP]."""
    marks = {"[CLS]": CLS, "[SEP]": SEP}
    ids: list[int] = []
    for piece in re.split(r"(\[CLS\]|\[SEP\])", "[CLS]" + text + "[SEP]"):
        ids += [marks[piece]] if piece in marks else list(piece.encode("utf-8"))
    return ids


def _marks_outside(text: str) -> list[int]:
    return [CLS, *text.encode("utf-8"), SEP]


def _marks_deleted(text: str) -> list[int]:
    return [CLS, *re.sub(r"\[(CLS|SEP)\]", "", text).encode("utf-8"), SEP]


def _marks_escaped(text: str) -> list[int]:
    return [CLS, *re.sub(r"\[(CLS|SEP)\]", r"[ \1]", text).encode("utf-8"), SEP]


def _first_mark_only(text: str) -> list[int]:
    return [*(i for piece in text.split("[CLS]") for i in (CLS, *piece.encode("utf-8"))), SEP]


def _encoded(candidate: Callable[..., Any], texts: Sequence[str]) -> str:
    for text in texts:
        ids = numbers(call(candidate, text), f"the ids of {text!r}")
        if not ids or ids[0] != CLS or ids[-1] != SEP:
            raise FaultError(f"{text!r} becomes {short(ids)}: {CLS} ([CLS]) must come first and {SEP} ([SEP]) last")
        inside = ids[1:-1]
        if any(token in (CLS, SEP) for token in inside):
            marks, ends = sum(token >= CLS for token in inside), sum(token == SEP for token in ids)
            raise FaultError(
                f"{text!r} becomes {short(ids)}: {counted(marks, 'mark')} inside the text, "
                f"{counted(ends, 'end')} of document for one document"
            )
        back = bytes(inside).decode("utf-8", errors="replace")
        if back != text:
            raise FaultError(f"{text!r} comes back as {back!r}: a tokenizer may not change the text")
    return f"{counted(len(texts), 'text')}: one [CLS], one [SEP], and between them the text, byte for byte"


def _look_marks(candidate: Callable[..., Any]) -> str:
    return _encoded(candidate, ["[SEP] ends it"])


def _examine_marks(candidate: Callable[..., Any]) -> str:
    return _encoded(candidate, ["[SEP] ends it", "a story", "[CLS]", "", "[ SEP] and [sep]", "naïve [SEP][CLS] 🙂"])


FORGED_END = Exhibit(
    name="forged_end",
    title="The forged ending",
    question="A document explains what [SEP] means. How many documents does the model see?",
    task=(
        f"encode(text) returns [{CLS}, the UTF-8 bytes of the text, {SEP}]. {CLS} and {SEP} are the marks [CLS] and "
        "[SEP]; they stand nowhere else, whatever the text says, and the bytes give back the text."
    ),
    source=Source(
        where="huggingface/tokenizers#1850",
        title="Safe encoding of strings that might contain special token text",
        link="https://github.com/huggingface/tokenizers/issues/1850",
    ),
    broken=forged_end,
    symptom="Documents about tokenizers fall apart, and anyone who can write a text can end one.",
    tool="plain assertion",
    look=_look_marks,
    examine=_examine_marks,
    hints=(
        "Encode a text that talks about the marks.",
        "Who may put a mark into the ids: the text, or the code around it?",
        "Never look for marks in a text. Turn all of it into bytes and add the two marks as ids afterwards.",
    ),
    mend=_marks_outside,
    wrong_mends=(
        WrongMend(candidate=_marks_deleted, mistake="deletes the characters: the text does not come back"),
        WrongMend(candidate=_marks_escaped, mistake="escapes the characters: the text does not come back either"),
        WrongMend(candidate=_first_mark_only, mistake="protects [SEP] and forgets [CLS]"),
    ),
)


# -- an ending that is none ------------------------------------------------------------------------------------


def false_end(byte_ids: Sequence[int], max_length: int) -> list[int]:
    """A document as at most max_length ids: [CLS], as much of the text as fits, [SEP]."""
    return [CLS, *byte_ids[: max_length - 2], SEP]


def _only_real_ends(byte_ids: Sequence[int], max_length: int) -> list[int]:
    return [CLS, *byte_ids, SEP][:max_length]


def _no_ends(byte_ids: Sequence[int], max_length: int) -> list[int]:
    return [CLS, *byte_ids][:max_length]


def _exact_fit_lost(byte_ids: Sequence[int], max_length: int) -> list[int]:
    ids = [CLS, *byte_ids[: max_length - 1]]
    return [*ids, SEP] if len(byte_ids) + 2 < max_length else ids


def _one_too_long(byte_ids: Sequence[int], max_length: int) -> list[int]:
    return [CLS, *byte_ids[: max_length - 1], *([SEP] if len(byte_ids) < max_length else [])]


def _ends(candidate: Callable[..., Any], cases: Sequence[tuple[int, int]]) -> str:
    for n, max_length in cases:
        ids = numbers(call(candidate, list(range(n)), max_length), "the ids")
        case = f"a text of {n} bytes, max_length={max_length}"
        wanted = [CLS, *range(n), SEP][:max_length]
        if len(ids) > max_length:
            raise FaultError(f"{case}: {len(ids)} ids, at most {max_length} are allowed")
        if SEP in ids and SEP not in wanted:
            raise FaultError(
                f"{case}: {short(ids)} teaches that the text ends after {counted(ids.index(SEP) - 1, 'byte')}, "
                "where it was cut"
            )
        if SEP in wanted and SEP not in ids:
            raise FaultError(f"{case}: {short(ids)} has no end, though the document ends there and there is room")
        if ids != wanted:
            raise FaultError(f"{case}: {short(ids)}, {short(wanted)} is needed: text is cut that fits")
    return f"{counted(len(cases), 'text')}: an end exactly where a document ends"


def _look_ends(candidate: Callable[..., Any]) -> str:
    return _ends(candidate, [(20, 8)])


def _examine_ends(candidate: Callable[..., Any]) -> str:
    return _ends(candidate, [(20, 8), (3, 8), (6, 8), (7, 8), (8, 8), (5, 8), (0, 2), (100, 16)])


FALSE_END = Exhibit(
    name="false_end",
    title="A full stop in mid-sentence",
    question="A text of 20 bytes is cut to 8 ids. What does the model learn to say after the sixth byte?",
    task=(
        f"encode(byte_ids, max_length) returns [{CLS}, the bytes, {SEP}], cut after max_length ids: {SEP} ([SEP]) "
        "stands exactly where the document really ends."
    ),
    source=Source(
        where="huggingface/transformers#19742",
        title="Tokenizers should not should not append `[EOS]` for truncated sentences",
        link="https://github.com/huggingface/transformers/issues/19742",
    ),
    broken=false_end,
    symptom="The model stops writing in mid-sentence, most often at the length to which texts were cut.",
    tool="plain assertion",
    look=_look_ends,
    examine=_examine_ends,
    hints=(
        "Encode a text much longer than the limit and read the last id.",
        "What does the end mark promise, and is it true here?",
        "Put the marks around the whole document first; cut last.",
    ),
    mend=_only_real_ends,
    wrong_mends=(
        WrongMend(candidate=_no_ends, mistake="leaves out every end: the model never learns to stop"),
        WrongMend(candidate=_exact_fit_lost, mistake="forgets the end of a document that fits exactly"),
        WrongMend(candidate=_one_too_long, mistake="adds the end beyond max_length"),
    ),
)

EXHIBITS = (FORGED_END, FALSE_END)
