"""The exercises of notebook 01: a stream of ids, words, decoding, a bad line."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mt_core.corpus import CorpusError, CorpusWarning, iterate_documents
from mt_core.lab.checks.explained import WrongError, as_items, as_list, explained, touched
from mt_core.tokenizer import MicroTransformerTokenizer

_FABLES = ("A hen sat in the den.", "Then the hen ran.", "")


def stream(my_stream: Callable[[MicroTransformerTokenizer, list[str]], Any]) -> None:
    """Check `my_stream(tokenizer, texts)`: the ids of all texts, each with [SEP] at its end and without [CLS]."""
    with explained(my_stream):
        tokenizer = MicroTransformerTokenizer.train(["the hen in the den " * 4], vocab_size=280)
        begin, end = tokenizer.cls_token_id, tokenizer.sep_token_id
        for texts in (list(_FABLES), ["the sign said [SEP]", "then [CLS]"]):
            case = f"texts {texts}"
            returned = my_stream(tokenizer, list(texts))
            if isinstance(returned, list) and "input_ids" in returned:
                raise WrongError(
                    f"{case}: the stream holds the word 'input_ids'. Extending a list by a dictionary adds its keys: "
                    'extend it by encode(text)["input_ids"]'
                )
            found = as_list(returned, case)
            whole = [tokenizer.token_ids(text) for text in texts]
            if found == [i for ids in whole for i in ids[1:]]:
                continue
            if found == [i for ids in whole for i in ids]:
                why = f"each text still begins with [CLS], id {begin}: leave the first id of each out"
            elif found == [i for ids in whole for i in ids[1:-1]]:
                why = f"the [SEP] are gone too, id {end}: nothing marks where a text ends"
            elif found == [i for ids in whole for i in ids[:-1]]:
                why = "you kept [CLS] and left out [SEP]: keep the last id of each text, leave out the first"
            elif len(found) == sum(3 * len(ids) for ids in whole):
                why = "all three lists of each dictionary are in it: only input_ids belong into a stream"
            else:
                wanted = [i for ids in whole for i in ids[1:]]
                why = f"{len(found)} ids, {len(wanted)} are needed"
                if len(found) == len(wanted):
                    at = next(place for place, right in enumerate(wanted) if found[place] != right)
                    why = f"as many ids as are needed, but at place {at} stands {found[at]}, {wanted[at]} is needed"
                why += ": of each text all its input_ids but the first, in order"
            raise WrongError(f"{case}: {why}")
        print("Right: every text ends with [SEP] and none begins with [CLS]; the empty text is a [SEP] alone.")


def digits(my_words: Callable[[str], Any]) -> None:
    """Check `my_words(text)`: the words of a text, in which each digit is a word of its own."""
    with explained(my_words):
        for text in ("In 1984 a hen laid 12 eggs.", "R2D2 met 7 hens,3 cats  and_1 fox!", "No number here", "42", "é9"):
            words = as_items(my_words(text))
            if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
                raise WrongError(f"{text!r}: you returned {words!r}, a list of strings is needed")
            if "".join(words) != text:
                raise WrongError(
                    f"{text!r}: your words joined are {''.join(words)!r}. Nothing may be lost: each character belongs "
                    "to exactly one word, spaces too"
                )
            for word in words:
                if sum(map(str.isdigit, word)) > 1:
                    raise WrongError(f"{text!r}: {word!r} is one word of several digits; each digit is a word")
                if re.search(r"\d", word) and re.search(r"[^\W\d]", word):
                    raise WrongError(
                        f"{text!r}: {word!r} holds a digit and a letter. \\w stands for digits too; letters alone "
                        "(and the underscore) are [^\\W\\d]"
                    )
            without = [word for word in words if not re.search(r"\d", word)]
            wanted = [
                word for word in re.findall(r" ?[^\W\d]+| ?\d| ?[^\w\s]+|\s+", text) if not re.search(r"\d", word)
            ]
            if [word for word in without if word.strip()] == [word for word in wanted if word.strip()]:
                if without != wanted:
                    raise WrongError(f"{text!r}: the space before a digit is a word of its own; keep it with the digit")
            else:
                raise WrongError(f"{text!r}: the other words are {without}, they were {wanted}: change only numbers")
        print("Right: in five texts each digit stands alone, all other words are as before, and no character is lost.")


def decode(my_decode: Callable[[list[int], list[bytes]], Any]) -> None:
    """Check `my_decode(ids, table)`: the text of ids, where table[i] are the bytes that id i stands for."""
    with explained(my_decode):
        tokenizer = MicroTransformerTokenizer.train(["the hen in the den " * 4], vocab_size=280)
        table = tokenizer.token_bytes()
        cases = {"the hen in the den": None, "café ☕ for a 🦊": None, "café": slice(0, -2), "🦊 hen": slice(3, None)}
        for text, part in cases.items():
            ids = tokenizer.token_ids(text)[part or slice(None)]
            wanted = tokenizer.decode(ids)
            case = repr(text) if part is None else f"{text!r}, cut inside a character"
            try:
                found = my_decode(list(ids), list(table))
            except UnicodeDecodeError as error:
                why = (
                    "here the bytes end inside a character: bytes.decode has an argument that writes � for those"
                    if part
                    else "a token may hold half a character: join the bytes of all tokens first, then decode once"
                )
                raise WrongError(f"{case}: UnicodeDecodeError ({error.reason}); {why}") from None
            touched(found)
            if isinstance(found, bytes):
                raise WrongError(f"{case}: you returned bytes, a text is needed: decode them as UTF-8")
            if not isinstance(found, str):
                raise WrongError(f"{case}: you returned {type(found).__name__}, a text is needed")
            if found == wanted:
                continue
            hint = f"you returned {found!r}, {wanted!r} is needed"
            if found.replace("�", "") == wanted.replace("�", "") and part:
                hint += ": what was cut off shows as �, so that a reader sees that something is missing"
            elif "�" in found:
                hint += ". A token may hold half a character: join the bytes of all tokens first, then decode once"
            raise WrongError(f"{case}: {hint}")
        print("Right: the same text as tokenizer.decode for whole texts and for two that were cut inside a character.")


def bad_line(my_lines: Callable[[], Any]) -> None:
    """Check `my_lines()`, meant to fail: three lines of JSONL, of which the second stops the reader."""
    with explained(my_lines):
        lines = as_items(my_lines())
        if not isinstance(lines, list) or len(lines) != 3 or not all(isinstance(x, str | bytes) for x in lines):
            raise WrongError(f"you returned {lines!r}, a list of three lines is needed, each a string (or bytes)")
        raw = [line.encode("utf-8", "surrogatepass") if isinstance(line, str) else line for line in lines]
        for number, line in enumerate(raw, 1):
            if b"\n" in line:
                raise WrongError(f"line {number} holds a line break, which makes it two lines: write it without")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "three.jsonl"
            path.write_bytes(b"\n".join(raw) + b"\n")
            try:
                found = list(iterate_documents(path))
            except CorpusError as error:
                stopped = error
            else:
                skipped = 2 not in [document.line for document in found]
                why = "A line without text is skipped in silence, which is no error" if skipped else "All are whole"
                raise WrongError(f"no error: {len(found)} documents are read. {why}. Break the second record")
            if stopped.line != 2:
                raise WrongError(f"it stops at line {stopped.line} ({stopped.reason}): only line 2 should be bad")
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always", CorpusWarning)
                left = list(iterate_documents(path, on_error="skip"))
        if [document.line for document in left] != [1, 3]:
            raise WrongError(f"line 2 stops the reader, but of lines 1 and 3 only {len(left)} can be read: mend them")
        print(f"The reader says: line {stopped.line}: {stopped.reason}")
        print(f'With on_error="skip": {len(left)} documents, and {len(said)} warning that counts what was left out.')
