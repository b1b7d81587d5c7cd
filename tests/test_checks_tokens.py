"""Checks of notebook 01: right answers pass, wrong ones are explained in the learner's terms."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from mt_core.lab import checks

Say = Callable[..., str]


def record(text: str) -> str:
    return json.dumps({"text": text})


STREAMS = {
    "Right: every text ends with [SEP]": lambda t, texts: [i for x in texts for i in t.encode(x)["input_ids"][1:]],
    "adds its keys": lambda t, texts: [key for x in texts for key in t.encode(x)],
    "each text still begins with [CLS], id 1": lambda t, texts: [i for x in texts for i in t.encode(x)["input_ids"]],
    "the [SEP] are gone too, id 2": lambda t, texts: [i for x in texts for i in t.encode(x)["input_ids"][1:-1]],
    "kept [CLS] and left out [SEP]": lambda t, texts: [i for x in texts for i in t.encode(x)["input_ids"][:-1]],
    "all three lists": lambda t, texts: [i for x in texts for ids in t.encode(x).values() for i in ids],
    "of each text all its input_ids but the first": lambda t, texts: t.encode(" ".join(texts))["input_ids"][1:],
    "as many ids as are needed, but at place 0 stands 2, ": lambda t, texts: [
        i for x in texts for i in reversed(t.encode(x)["input_ids"][1:])
    ],
    "Not yet. <lambda> stopped with KeyError": lambda t, texts: t.encode(texts[0])["ids"],
    "<lambda> returns nothing yet": lambda t, texts: ...,
}


WORDS = {
    "Right: in five texts": lambda text: re.findall(r" ?[^\W\d]+| ?\d| ?[^\w\s]+|\s+", text),
    "'1984' is one word of several digits": lambda text: re.findall(r" ?[^\W\d]+|\d+| ?[^\w\s]+|\s+", text),
    "' 1984' is one word of several digits": lambda text: re.findall(r" ?\w+| ?[^\w\s]+|\s+", text),
    "'R2' holds a digit and a letter": lambda text: re.findall(r" ?[^\W\d]+\d?| ?\d| ?[^\w\s]+|\s+", text),
    "Nothing may be lost": lambda text: re.findall(r"[^\W\d]+|\d|[^\w\s]+", text),
    "keep it with the digit": lambda text: re.findall(r" ?[^\W\d]+|\d| ?[^\w\s]+|\s+", text),
    "change only numbers": lambda text: list(text),
    "a list of strings is needed": lambda text: 4,
    "<lambda> returns nothing yet": lambda text: None,
}


def joined(ids: list[int], table: list[bytes]) -> bytes:
    return b"".join(table[i] for i in ids)


DECODERS = {
    "Right: the same text as tokenizer.decode": lambda ids, table: joined(ids, table).decode(errors="replace"),
    "join the bytes of all tokens first": lambda ids, table: "".join(table[i].decode() for i in ids),
    "A token may hold half a character": lambda ids, table: "".join(table[i].decode(errors="replace") for i in ids),
    "has an argument that writes �": lambda ids, table: joined(ids, table).decode(),
    "what was cut off shows as �": lambda ids, table: joined(ids, table).decode(errors="ignore"),
    "you returned bytes": joined,
    "you returned int": lambda ids, table: 3,
    "stopped with TypeError": lambda ids, table: table[ids],
    "<lambda> returns nothing yet": lambda ids, table: ...,
}


LINES = {
    "line 2: broken JSON": [record("a"), '{"text": "b"', record("c")],
    "line 2: no field 'text' (found 'body')": [record("a"), '{"body": "b"}', record("c")],
    "line 2: field 'text' is a number": [record("a"), '{"text": 3}', record("c")],
    "line 2: byte 0xe9 is not valid UTF-8": [record("a").encode(), b'{"text": "caf\xe9"}', record("c").encode()],
    "2 documents, and 1 warning": [record("a"), "[]", record("c")],
    "3 documents are read. All are whole": [record("a"), record("b"), record("c")],
    "2 documents are read. A line without text": [record("a"), "", record("c")],
    "it stops at line 1 (broken JSON": ['{"text"', record("b"), record("c")],
    "of lines 1 and 3 only 1 can be read": [record("a"), '{"text"', "3"],
    "a list of three lines is needed": [record("a"), '{"text"'],
    "line 2 holds a line break": [record("a"), '{"text"\n', record("c")],
    "returns nothing yet": None,
}


@pytest.mark.parametrize(
    ("check", "answer", "expected"),
    [
        *((checks.tokens.stream, answer, expected) for expected, answer in STREAMS.items()),
        *((checks.tokens.digits, answer, expected) for expected, answer in WORDS.items()),
        *((checks.tokens.decode, answer, expected) for expected, answer in DECODERS.items()),
        *((checks.tokens.bad_line, lambda lines=lines: lines, expected) for expected, lines in LINES.items()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_answer_is_judged_and_explained(say: Say, check: Any, answer: Any, expected: str) -> None:
    said = say(check, answer)
    assert expected in said
    good = expected.startswith("Right") or "2 documents, and" in said
    assert said.startswith("Not yet.") is not (good or "returns nothing yet" in expected)


def test_no_answer_to_the_bad_line_prints_where_its_file_was(say: Say) -> None:
    said = say(checks.tokens.bad_line, lambda: [record("a"), "{", record("c")])
    assert "three.jsonl" not in said and said.count("\n") == 2
