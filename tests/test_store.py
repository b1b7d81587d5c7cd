"""A store of tokens: what is in it, how wide ids are, and what does not open. test_prepare.py has how it is made."""

import hashlib
import json
import os
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mt_core import CorpusWarning, MicroTransformerTokenizer, StoreError, TokenStore, prepare_corpus

FILES = ["document_ends.bin", "header.json", "token_ids.bin"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- what is in a store -------------------------------------------------------------------------------------


def test_a_store_worked_out_by_hand(tmp_path: Path, write_jsonl: Callable) -> None:
    """Ids: 4 specials, then bytes in the order of their printable stand-ins: a is 68, b 69. [CLS] 1, [SEP] 2."""
    tokenizer = MicroTransformerTokenizer.train(["a"], vocab_size=260)
    store = prepare_corpus(write_jsonl("ab.jsonl", ["ab", "b"]), tmp_path / "store", tokenizer)
    assert store.token_ids.tolist() == [1, 68, 69, 2, 1, 69, 2]
    assert store.document_ends.tolist() == [4, 7]
    assert (tmp_path / "store" / "token_ids.bin").read_bytes() == bytes([1, 0, 68, 0, 69, 0, 2, 0, 1, 0, 69, 0, 2, 0])
    assert (tmp_path / "store" / "document_ends.bin").read_bytes() == bytes([4, *[0] * 7, 7, *[0] * 7])
    header = json.loads((tmp_path / "store" / "header.json").read_text(encoding="utf-8"))
    assert (header["dtype"], header["n_tokens"], header["n_documents"]) == ("<u2", 7, 2)
    assert header["tokenizer_hash"] == tokenizer.fingerprint()
    assert header["sources"] == [{"name": "ab.jsonl", "documents": 2}]
    assert names(tmp_path / "store") == FILES


def test_in_memory_and_mapped_hold_the_same(
    mapped: TokenStore, tokenizer: MicroTransformerTokenizer, sentences: list[str]
) -> None:
    in_memory = TokenStore.from_documents(sentences, tokenizer)
    assert mapped.path is not None and in_memory.path is None
    for store in (mapped, in_memory):
        store.verify()
        assert [store.document(d).tolist() for d in range(store.n_documents)] == [
            tokenizer.encode(text)["input_ids"] for text in sentences
        ]
    assert np.array_equal(mapped.token_ids, in_memory.token_ids) and mapped.token_ids.dtype == in_memory.token_ids.dtype
    assert mapped.fingerprint() == in_memory.fingerprint()


def test_each_end_of_a_document_is_a_sep_and_no_other_token_is(mapped: TokenStore) -> None:
    assert np.flatnonzero(mapped.token_ids == 2).tolist() == [int(end) - 1 for end in mapped.document_ends]


def test_the_reading_rules_reach_the_files(tokenizer: MicroTransformerTokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\n\ntwo\nthree\n\xff\n")
    with pytest.warns(CorpusWarning):
        store = prepare_corpus(tmp_path / "a.txt", tmp_path / "s", tokenizer, sample_by="line", on_error="skip")
    assert [tokenizer.decode(store.document(d)) for d in range(store.n_documents)] == ["one", "two", "three"]


def test_document_numbers_that_do_not_exist(mapped: TokenStore) -> None:
    for wrong in (-1, 5):
        with pytest.raises(IndexError, match=f"document {wrong} does not exist: documents go from 0 to 4"):
            mapped.document(wrong)


# -- widths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab_size, dtype", [(65_535, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_the_narrowest_type_that_holds_the_largest_id(vocab_size: int, dtype: str) -> None:
    store = TokenStore.from_token_ids([0, vocab_size - 1], vocab_size=vocab_size)
    assert store.token_ids.dtype == dtype
    assert store.token_ids.tolist() == [0, vocab_size - 1]


def test_an_id_that_would_wrap_around_is_refused() -> None:
    """astype(uint16) turns 70000 into 4464 without a word."""
    assert np.array([70_000]).astype(np.uint16).tolist() == [4464]
    with pytest.raises(StoreError, match="token id 70000 does not fit vocab_size=65536: ids go from 0 to 65535"):
        TokenStore.from_token_ids([1, 70_000], vocab_size=65_536)
    assert TokenStore.from_token_ids([1, 70_000], vocab_size=70_001).token_ids.tolist() == [1, 70_000]


@pytest.mark.parametrize(
    "token_ids, reason",
    [([-1], "token id -1 does not fit"), ([[1, 2]], r"shape \(1, 2\)"), ([1.5], "float64, whole numbers")],
)
def test_what_is_no_stream_of_ids_is_refused(token_ids: list, reason: str) -> None:
    with pytest.raises(StoreError, match=reason):
        TokenStore.from_token_ids(token_ids, vocab_size=10)


def test_rows_are_not_taken_for_a_stream() -> None:
    with pytest.raises(StoreError, match=r"rows of different lengths, one stream .*join them.* document_ends="):
        TokenStore.from_token_ids([[1, 2], [3]], vocab_size=10)  # type: ignore[list-item]


@pytest.mark.parametrize(
    "wrong", [{"vocab_size": 0}, {"vocab_size": "10"}, {"vocab_size": 10.0}, {"pad_token_id": 10}, {"pad_token_id": -1}]
)
def test_a_vocabulary_that_cannot_be(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
        TokenStore.from_token_ids([1, 2], **({"vocab_size": 10} | wrong))


def test_sizes_of_numpy_are_numbers_like_others() -> None:
    """`vocab_size=ids.max() + 1` comes as one; it could not be written as JSON."""
    one, other = (TokenStore.from_token_ids([1, 2], vocab_size=size) for size in (3, np.int64(3)))
    assert one.fingerprint() == other.fingerprint()


@pytest.mark.parametrize("ends", [[2], [2, 4], [2, 2, 3], [3, 2, 3], [0, 3], [-1, 3], [], 3, [[3]], [1.5, 3], "3"])
def test_document_ends_must_increase_to_the_end(ends: Any) -> None:
    with pytest.raises(StoreError, match="document_ends must increase and end at 3"):
        TokenStore.from_token_ids([5, 6, 7], vocab_size=10, document_ends=ends)


def test_one_string_is_not_a_list_of_documents(tokenizer: MicroTransformerTokenizer) -> None:
    with pytest.raises(TypeError, match="one string"):
        TokenStore.from_documents("text", tokenizer)
    with pytest.raises(StoreError, match="no documents"):
        TokenStore.from_documents([], tokenizer)


# -- opening ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="Windows fills the file that this test leaves empty")
def test_opening_does_not_read_the_tokens(store_folder: Path) -> None:
    """4 GiB of nothing: reading or hashing them takes seconds."""
    size = 1 << 31
    header = json.loads((store_folder / "header.json").read_text(encoding="utf-8")) | {
        "n_tokens": size,
        "n_documents": 1,
    }
    (store_folder / "header.json").write_text(json.dumps(header), encoding="utf-8")
    (store_folder / "document_ends.bin").write_bytes(size.to_bytes(8, "little"))
    os.truncate(store_folder / "token_ids.bin", 2 * size)
    before = time.process_time()
    store = TokenStore.open(store_folder)
    assert time.process_time() - before < 1
    assert len(store) == size and store.token_ids[-1] == 0
    del store
    (store_folder / "token_ids.bin").unlink()


def test_a_mapped_store_is_read_only(mapped: TokenStore) -> None:
    with pytest.raises(ValueError, match="read-only"):
        mapped.token_ids[0] = 5


def test_a_mapped_store_travels_as_its_path_and_one_in_memory_whole(mapped: TokenStore) -> None:
    assert len(pickle.dumps(mapped)) < 1000
    in_memory = TokenStore.from_token_ids(range(5000), vocab_size=5000, document_ends=[10, 5000])
    for store in (mapped, in_memory):
        again = pickle.loads(pickle.dumps(store))
        assert again.fingerprint() == store.fingerprint() and again.path == store.path
        again.verify()


@pytest.mark.parametrize("name", ["token_ids.bin", "document_ends.bin"])
@pytest.mark.parametrize("change", [-1, -8, +2])
def test_a_file_of_the_wrong_size_does_not_open(store_folder: Path, name: str, change: int) -> None:
    size = (store_folder / name).stat().st_size
    os.truncate(store_folder / name, size + change)
    with pytest.raises(StoreError, match=rf"{name} has {size + change} bytes, the header promises {size}: prepare"):
        TokenStore.open(store_folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(store_folder: Path, name: str) -> None:
    (store_folder / name).unlink()
    with pytest.raises(StoreError, match=name):
        TokenStore.open(store_folder)


@pytest.mark.parametrize("name", ["token_ids.bin", "document_ends.bin"])
def test_verify_catches_one_flipped_bit(store_folder: Path, name: str) -> None:
    TokenStore.open(store_folder).verify()
    data = bytearray((store_folder / name).read_bytes())
    data[0] ^= 1
    (store_folder / name).write_bytes(data)
    damaged = TokenStore.open(store_folder)  # sizes are right: opening cannot know
    with pytest.raises(StoreError, match=rf"{name.removesuffix('.bin')} has SHA-256 .*changed or damaged"):
        damaged.verify()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "another"},
        {"version": 2},
        {"n_tokens": "many"},
        {"n_tokens": True},
        {"n_documents": 0},
        {"dtype": "<u4"},
        {"vocab_size": 70_000},
        {"tokenizer_hash": 5},
        {"token_ids_sha256": None},
    ],
    ids=str,
)
def test_a_header_that_cannot_be_true_is_refused(store_folder: Path, change: dict) -> None:
    file = store_folder / "header.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(StoreError, match=r"header\.json"):
        TokenStore.open(store_folder)


@pytest.mark.parametrize("patched", ["Path.read_text", "numpy.memmap"])
def test_a_store_that_may_not_be_read_is_not_called_damaged(
    store_folder: Path, monkeypatch: pytest.MonkeyPatch, patched: str
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(patched.replace("Path", "pathlib.Path"), refused)
    with pytest.raises(StoreError, match=r"cannot be read \(Permission denied\)"):
        TokenStore.open(store_folder)


def test_a_file_of_a_store_is_not_its_folder(store_folder: Path) -> None:
    with pytest.raises(StoreError, match=r"header\.json is not a token store \(a file, not its folder\)"):
        TokenStore.open(store_folder / "header.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_a_damaged_header_is_refused(store_folder: Path, text: str) -> None:
    (store_folder / "header.json").write_text(text, encoding="utf-8")
    with pytest.raises(StoreError, match=r"header\.json.*prepare the corpus again"):
        TokenStore.open(store_folder)


def test_document_ends_that_contradict_the_header_are_refused(store_folder: Path) -> None:
    ends = np.fromfile(store_folder / "document_ends.bin", dtype="<u8")
    ends[-1] += 1
    (store_folder / "document_ends.bin").write_bytes(ends.tobytes())
    with pytest.raises(StoreError, match="the last document ends at"):
        TokenStore.open(store_folder)


def test_the_header_holds_the_checksums_of_the_files(mapped: TokenStore) -> None:
    assert mapped.path is not None
    for name in ("token_ids", "document_ends"):
        data = (mapped.path / f"{name}.bin").read_bytes()
        assert mapped.header[f"{name}_sha256"] == hashlib.sha256(data).hexdigest()
