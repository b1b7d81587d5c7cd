"""Text to ids and back: exact, deterministic, the same in every engine, and never fooled by "[SEP]"."""

import json
import pickle
import string
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mt_core import MicroTransformerTokenizer, TokenizerError

# Text as found in the wild, so that pieces a word splitter treats specially come up often and side by side.
PIECES = [
    "'s",
    "'ll",
    "'re",
    " ",
    "   ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    "\u00a0",
    "\u3000",
    "0",
    "2024",
    "½",
    "٣",
    "é",
    "e\u0301",
]
PIECES += [
    "the",
    " The",
    "'S",
    "don't",
    "_",
    "...",
    "🙂",
    "👩‍👩‍👧",
    "你好",
    "[SEP]",
    "[CLS]",
    "[MASK]",
    "[PAD]",
    "\x00",
    "\ufeff",
    "ß",
    "ſ",
]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))


def test_a_merge_worked_out_by_hand() -> None:
    """In "abab abab" (twice) the words are abab and Ġabab. ab is seen 8 times, so it is merged first; then abab,
    4 times; then the space with it, twice. Ids: 4 specials, 256 bytes, then merges in the order learned."""
    tokenizer = MicroTransformerTokenizer.train(["abab abab"] * 2, vocab_size=263)
    assert tokenizer.merges == [("a", "b"), ("ab", "ab"), ("Ġ", "abab")]
    assert [tokenizer.token_bytes()[i] for i in (260, 261, 262)] == [b"ab", b"abab", b" abab"]
    assert tokenizer.encode("abab abab")["input_ids"] == [1, 261, 262, 2]
    assert tokenizer.encode("ababab")["input_ids"] == [1, 261, 260, 2]


def test_pairs_seen_less_often_than_min_frequency_are_not_merged() -> None:
    tokenizer = MicroTransformerTokenizer.train(["abab abab"] * 2, vocab_size=263, min_frequency=3)
    assert tokenizer.merges == [("a", "b"), ("ab", "ab")] and len(tokenizer) == 262


def test_encode_gives_three_lists_of_one_length(tokenizer: MicroTransformerTokenizer) -> None:
    encoded = tokenizer.encode("The cat")
    ids = encoded["input_ids"]
    assert list(encoded) == ["input_ids", "token_type_ids", "attention_mask"]
    assert encoded["token_type_ids"] == [0] * len(ids) and encoded["attention_mask"] == [1] * len(ids)
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert all(type(value) is list and all(type(item) is int for item in value) for value in encoded.values())


def test_the_empty_text_is_cls_sep(tokenizer: MicroTransformerTokenizer) -> None:
    assert tokenizer.encode("")["input_ids"] == tokenizer.token_ids("") == [1, 2]
    assert tokenizer.decode([1, 2]) == ""


def test_special_tokens_have_the_first_ids(tokenizer: MicroTransformerTokenizer) -> None:
    assert tokenizer.special_token_ids == (0, 1, 2, 3)
    assert (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id) == (
        0,
        1,
        2,
        3,
    )
    assert tokenizer.decode([0, 1, 2, 3], skip_special_tokens=False) == "[PAD][CLS][SEP][MASK]"
    assert tokenizer.get_vocab_size() == len(tokenizer) == len(tokenizer.token_bytes()) == 260 + len(tokenizer.merges)


@given(TEXTS)
def test_every_string_comes_back_exactly(tokenizer: MicroTransformerTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)["input_ids"]) == text


@given(TEXTS)
def test_the_ids_of_a_text_stand_for_its_bytes(tokenizer: MicroTransformerTokenizer, text: str) -> None:
    """Nothing added, nothing lost: the bytes of the tokens, put together, are the text."""
    ids = tokenizer.encode(text)["input_ids"]
    table = tokenizer.token_bytes()
    assert b"".join(table[i] for i in ids) == text.encode("utf-8")
    assert tokenizer.token_byte_lengths()[ids].sum() == len(text.encode("utf-8"))


@given(TEXTS)
def test_special_tokens_are_never_read_out_of_a_text(tokenizer: MicroTransformerTokenizer, text: str) -> None:
    for ids in (tokenizer.encode(text)["input_ids"], tokenizer.token_ids(text)):
        assert ids[0] == 1 and ids[-1] == 2
        assert not set(ids[1:-1]) & set(tokenizer.special_token_ids)


@settings(max_examples=300)
@given(TEXTS)
def test_the_fast_engine_gives_the_same_ids(tokenizer: MicroTransformerTokenizer, text: str) -> None:
    assert tokenizer.token_ids(text) == tokenizer.encode(text)["input_ids"]


def test_the_fast_engine_is_the_one_that_is_used(tokenizer: MicroTransformerTokenizer) -> None:
    """Were it quietly replaced by `encode`, the comparisons here would compare a thing with itself."""
    assert tokenizer._create_fast() is not None


def test_the_fast_engine_agrees_across_unicode(tokenizer: MicroTransformerTokenizer) -> None:
    """All of the first 12,288 code points (every class of letter, number, space) and each 97th of the others."""
    points = [*range(0x3000), *range(0x3000, sys.maxunicode + 1, 97)]
    characters = [chr(point) for point in points if not 0xD800 <= point < 0xE000]
    for context in ("a{}b", " {} ", "1{}{}'s", "\n{}\n"):
        for start in range(0, len(characters), 64):
            text = "".join(context.format(c, c) for c in characters[start : start + 64])
            assert tokenizer.token_ids(text) == tokenizer.encode(text)["input_ids"], (context, hex(points[start]))


@pytest.mark.parametrize(
    "text",
    [
        "I'm you're he's we'll they've I'd can't 'tis DON'T ''s 's's",
        " " * 1000,
        "a" + " " * 257 + "b",
        "\n" * 300 + "x" + "\r\n" * 20 + "\t \n \t",
        "1" * 500 + " 3.14159 1,000,000 0x1F 2024-01-01",
        string.punctuation * 3,
        "x" * 2000,
    ],
    ids=["contractions", "spaces", "spaces inside", "line ends", "digits", "punctuation", "one long word"],
)
def test_the_fast_engine_agrees_on_hard_text(tokenizer: MicroTransformerTokenizer, text: str) -> None:
    assert tokenizer.token_ids(text) == tokenizer.encode(text)["input_ids"]
    assert tokenizer.decode(tokenizer.token_ids(text)) == text


def test_a_batch_is_each_text_by_itself(tokenizer: MicroTransformerTokenizer, sentences: list[str]) -> None:
    assert tokenizer.encode_batch(sentences) == [tokenizer.encode(text) for text in sentences]
    assert tokenizer.encode_batch([]) == []


def test_ids_that_cut_a_character_show_a_mark_and_do_not_fail(tokenizer: MicroTransformerTokenizer) -> None:
    byte_ids = [tokenizer.token_bytes().index(bytes([byte])) for byte in "é".encode()]
    assert tokenizer.decode(byte_ids) == "é"
    assert tokenizer.decode(byte_ids[:1]) == "\ufffd"


def test_training_is_deterministic_in_another_process(
    tokenizer: MicroTransformerTokenizer, sentences: list[str], start_script: Callable, tmp_path: Path
) -> None:
    """Many pairs are seen equally often here, so an order that hung on a hash or a thread would show."""
    (tmp_path / "texts.json").write_text(json.dumps(sentences * 4), encoding="utf-8")
    source = (
        "import json, sys; from mt_core.tokenizer import MicroTransformerTokenizer as T\n"
        "texts = json.load(open(sys.argv[1], encoding='utf-8'))\n"
        "print(T.train(iter(texts), vocab_size=320).fingerprint())\n"
    )
    out, err = start_script(source, tmp_path / "texts.json").communicate(timeout=120)
    assert out.strip() == tokenizer.fingerprint(), err
    assert MicroTransformerTokenizer.train(sentences * 4, vocab_size=319).fingerprint() != tokenizer.fingerprint()


def test_save_and_load_give_the_same_tokenizer(
    tokenizer: MicroTransformerTokenizer, sentences: list[str], tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert sorted(file.name for file in folder.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    for loaded in (
        MicroTransformerTokenizer.from_pretrained(folder),
        MicroTransformerTokenizer.from_pretrained(str(folder / "tokenizer.json")),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert loaded.fingerprint() == tokenizer.fingerprint()
        assert loaded.encode_batch(sentences) == tokenizer.encode_batch(sentences)
        assert [loaded.token_ids(text) for text in sentences] == [tokenizer.token_ids(text) for text in sentences]


def test_a_file_that_says_to_cut_or_pad_texts_does_neither(
    tokenizer: MicroTransformerTokenizer, sentences: list[str], tmp_path: Path
) -> None:
    """Other programs save what they were set to."""
    tokenizer.save_pretrained(tmp_path)
    rules = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    rules["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    rules["padding"] = {"strategy": {"Fixed": 99}, "direction": "Right", "pad_to_multiple_of": None}
    rules["padding"] |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(rules), encoding="utf-8")
    loaded = MicroTransformerTokenizer.from_pretrained(tmp_path)
    assert loaded.encode_batch(sentences) == tokenizer.encode_batch(sentences)
    assert loaded.fingerprint() == tokenizer.fingerprint()


@pytest.fixture(scope="module")
def auto(tokenizer: MicroTransformerTokenizer, tmp_path_factory: pytest.TempPathFactory) -> AutoTokenizer:
    folder = tmp_path_factory.mktemp("auto")
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@given(TEXTS)
def test_transformers_opens_the_saved_folder_and_gives_the_same_ids(
    tokenizer: MicroTransformerTokenizer, auto: AutoTokenizer, text: str
) -> None:
    ours, theirs = tokenizer.encode(text), auto(text)
    assert {name: theirs[name] for name in ours} == ours
    assert auto.decode(theirs["input_ids"], skip_special_tokens=True) == text


def test_transformers_knows_the_special_tokens(tokenizer: MicroTransformerTokenizer, auto: AutoTokenizer) -> None:
    assert len(auto) == len(tokenizer)
    assert (auto.pad_token_id, auto.cls_token_id, auto.sep_token_id, auto.mask_token_id) == tokenizer.special_token_ids
    assert (auto.bos_token, auto.eos_token) == ("[CLS]", "[SEP]")


# -- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab_size", [0, 100, 259])
def test_fewer_entries_than_bytes_and_special_tokens_are_refused(vocab_size: int) -> None:
    with pytest.raises(TokenizerError, match=rf"vocab_size={vocab_size} is too small.*260"):
        MicroTransformerTokenizer.train(["some text"], vocab_size=vocab_size)


def test_a_vocabulary_that_no_memory_would_hold_is_refused() -> None:
    with pytest.raises(TokenizerError, match="vocab_size=16777217 is too large: at most 16,777,216"):
        MicroTransformerTokenizer.train(["some text"], vocab_size=(1 << 24) + 1)


def test_260_entries_are_enough_for_every_string() -> None:
    smallest = MicroTransformerTokenizer.train(["some text, some text"], vocab_size=260)
    assert len(smallest) == 260 and smallest.merges == []
    assert smallest.decode(smallest.encode("日本 🙂\n")["input_ids"]) == "日本 🙂\n"


def test_training_wants_a_list_of_strings() -> None:
    with pytest.raises(TypeError, match=r"one string.*train\(\[text\]"):
        MicroTransformerTokenizer.train("one long text", vocab_size=300)
    with pytest.raises(TypeError, match=r"texts is NoneType, a list of strings is needed: train\(\[text\]"):
        MicroTransformerTokenizer.train(None, vocab_size=300)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="text number 1 is int, a string is needed"):
        MicroTransformerTokenizer.train(["one", 2], vocab_size=300)  # type: ignore[list-item]
    for nothing in ([], ["", ""]):
        with pytest.raises(TokenizerError, match="no text to learn from"):
            MicroTransformerTokenizer.train(nothing, vocab_size=300)


@pytest.mark.parametrize("method", ["encode", "token_ids"])
def test_what_is_not_text_is_refused_by_both_engines(tokenizer: MicroTransformerTokenizer, method: str) -> None:
    with pytest.raises(TypeError, match="NoneType, a string is needed"):
        getattr(tokenizer, method)(None)
    with pytest.raises(TokenizerError, match=r'at character 2 .*text\.encode\("utf-16", "surrogatepass"\)'):
        getattr(tokenizer, method)("ab\ud83d")


def test_the_repair_that_the_surrogate_error_names_works(tokenizer: MicroTransformerTokenizer) -> None:
    repaired = "ab\ud83d\ude42\ud83d".encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tokenizer.decode(tokenizer.encode(repaired)["input_ids"]) == "ab🙂\ufffd"


def test_one_string_is_not_a_batch(tokenizer: MicroTransformerTokenizer) -> None:
    with pytest.raises(TypeError, match="one string"):
        tokenizer.encode_batch("text")


@pytest.mark.parametrize("wrong", ["text", 5, None, {"input_ids": [1]}, [[1, 2]], [65.0], ["5"], np.zeros((2, 3), int)])
def test_what_is_no_row_of_ids_is_refused(tokenizer: MicroTransformerTokenizer, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"(?s)ids=.*whole numbers is needed.*of a batch one row, decode\(batch\["):
        tokenizer.decode(wrong)


def test_ids_of_any_kind_are_decoded(tokenizer: MicroTransformerTokenizer) -> None:
    ids = tokenizer.encode("The cat")["input_ids"]
    for kind in (tuple, iter, np.array, torch.tensor, lambda ids: np.array(ids, np.uint16)):
        assert tokenizer.decode(kind(ids)) == "The cat"


@pytest.mark.parametrize("wrong", [-1, 320, 10**6])
def test_an_id_outside_the_vocabulary_is_refused(tokenizer: MicroTransformerTokenizer, wrong: int) -> None:
    with pytest.raises(TokenizerError, match=rf"id {wrong} is not in the vocabulary: ids go from 0 to"):
        tokenizer.decode([5, wrong])


@pytest.mark.parametrize("part, value", [("post_processor", None), ("decoder", None), ("added_tokens", [])])
def test_another_kind_of_tokenizer_is_refused(
    tokenizer: MicroTransformerTokenizer, tmp_path: Path, part: str, value: object
) -> None:
    tokenizer.save_pretrained(tmp_path)
    rules = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    rules[part] = value
    if part == "added_tokens":  # then the names themselves must go, too
        rules["model"]["vocab"] = {token.strip("[]"): i for token, i in rules["model"]["vocab"].items()}
        rules["model"]["merges"], rules["post_processor"] = [], None
    (tmp_path / "tokenizer.json").write_text(json.dumps(rules), encoding="utf-8")
    expected = {
        "post_processor": r"\[CLS\] and \[SEP\]|empty text",
        "decoder": "byte-level BPE",
        "added_tokens": "has no",
    }
    with pytest.raises(TokenizerError, match=expected[part]):
        MicroTransformerTokenizer.from_pretrained(tmp_path)


def test_a_damaged_tokenizer_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", ', encoding="utf-8")
    with pytest.raises(TokenizerError, match="is not a tokenizer file"):
        MicroTransformerTokenizer.from_pretrained(tmp_path)


def test_a_folder_that_cannot_hold_a_tokenizer(
    tokenizer: MicroTransformerTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for wrong in (None, 3):
        with pytest.raises(ValueError, match=rf"path={wrong}, the name of a file or folder is needed"):
            tokenizer.save_pretrained(wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=rf"path={wrong}, the name of a file or folder is needed"):
            MicroTransformerTokenizer.from_pretrained(wrong)  # type: ignore[arg-type]
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        tokenizer.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_file_that_may_not_be_read(
    tokenizer: MicroTransformerTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json cannot be read \(Permission denied\)"):
        MicroTransformerTokenizer.from_pretrained(tmp_path)
