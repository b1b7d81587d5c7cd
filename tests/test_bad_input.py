"""Wrong files and settings, as users meet them: each is told what was got and what is needed, and leaves no rubbish."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mt_core import (
    CorpusError,
    MicroTransformerTokenizer,
    StoreError,
    TokenizerError,
    TokenStore,
    TransformerDataset,
    create_dataloaders,
    prepare_corpus,
)

GOOD = b'{"text": "a good record"}\n'


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    "name, data, error, words",
    [
        ("empty.txt", b"", StoreError, ["empty.txt: no text found", "at least one document"]),
        ("empty.jsonl", b"", StoreError, ["empty.jsonl: no text found", "at least one document"]),
        ("blank.txt", b"\n  \n\r\n\t\n", StoreError, ["blank.txt: no text found (empty, or white space alone)"]),
        ("blank.jsonl", b"\n  \n\r\n\t\n", StoreError, ["blank.jsonl: no text found (empty, or white space alone)"]),
        (
            "broken.jsonl",
            GOOD * 6 + b'{"text": "seven\n' + GOOD * 3,
            CorpusError,
            ["broken.jsonl, line 7: ", "broken JSON", "one whole record a line"],
        ),
        (
            "nameless.jsonl",
            GOOD + b'{"content": "a"}\n',
            CorpusError,
            ["nameless.jsonl, line 2: ", "no field 'text'", "found 'content'", "text_field="],
        ),
        ("number.jsonl", GOOD + b'{"text": 42}\n', CorpusError, ["line 2: ", "'text' is a number", "string is needed"]),
        ("latin.jsonl", GOOD + b'{"text": "caf\xe9"}\n', CorpusError, ["line 2: ", "0xe9", "save the file as UTF-8"]),
        ("latin.txt", b"one\ncaf\xe9\n", CorpusError, ["latin.txt, line 2: ", "0xe9", "save the file as UTF-8"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_corpus_is_explained_and_leaves_nothing_behind(
    tmp_path: Path, tokenizer: MicroTransformerTokenizer, name: str, data: bytes, error: type, words: list[str]
) -> None:
    bad = tmp_path / name
    bad.write_bytes(data)
    with pytest.raises(error) as prepared:
        prepare_corpus(bad, tmp_path / "store", tokenizer)
    with pytest.raises(error) as opened:
        TransformerDataset(bad, tokenizer, seq_length=4)
    for caught in (prepared, opened):
        for word in words:
            assert word in str(caught.value)
    assert names(tmp_path) == {name}


def test_both_loaders_are_refused_when_only_validation_is_bad(
    tmp_path: Path, tokenizer: MicroTransformerTokenizer, corpus: Path
) -> None:
    (tmp_path / "val.jsonl").write_bytes(GOOD + b"{}\n")
    with pytest.raises(CorpusError, match=r"val\.jsonl, line 2: no field 'text'"):
        create_dataloaders(corpus, tmp_path / "val.jsonl", tokenizer, batch_size=1, seq_length=4)
    assert all(name.startswith("train.jsonl-") for name in names(tmp_path / ".mt_cache"))


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_missing_file_is_named(
    tmp_path: Path, tokenizer: MicroTransformerTokenizer, corpus: Path, missing: str
) -> None:
    paths = {"train": corpus, "val": corpus} | {missing: tmp_path / "nowhere.jsonl"}
    with pytest.raises(CorpusError, match=r"nowhere\.jsonl: no such file \(looked in "):
        create_dataloaders(paths["train"], paths["val"], tokenizer, batch_size=1, seq_length=4)


@pytest.mark.parametrize("n_tokens, got", [(0, "0 tokens"), (1, "1 token")])
def test_a_corpus_of_one_token(n_tokens: int, got: str) -> None:
    store = TokenStore.from_token_ids([0] * n_tokens, vocab_size=1)
    with pytest.raises(ValueError, match=rf"corpus has {got}, at least 2 are needed.*add text"):
        TransformerDataset(store, seq_length=1)
    with pytest.raises(ValueError, match=r"no document has two tokens.*add text"):
        TransformerDataset(store, seq_length=1, chunking="per_document")


def test_a_row_longer_than_the_corpus(tokenizer: MicroTransformerTokenizer, corpus: Path) -> None:
    store = TokenStore.from_token_ids(range(37), vocab_size=37)
    wanted = "corpus has 37 tokens, one row of seq_length=64 needs 65: lower seq_length to 36 or less, or add text"
    with pytest.raises(ValueError) as caught:
        TransformerDataset(store, seq_length=64)
    assert str(caught.value) == wanted
    assert len(TransformerDataset(store, seq_length=36)) == 1  # what the message says to do works


def test_fewer_rows_than_a_batch(tokenizer: MicroTransformerTokenizer, corpus: Path, write_jsonl: Callable) -> None:
    val = write_jsonl("val.jsonl", ["something else"])
    with pytest.raises(ValueError, match=r"corpus has \d+ rows of seq_length=8, fewer than one batch of batch_size=64"):
        create_dataloaders(corpus, val, tokenizer, batch_size=64, seq_length=8)


@pytest.mark.parametrize("value", [0, -4, 1.5, "16", None, True])
def test_batch_size_is_a_whole_number_from_1(tokenizer: MicroTransformerTokenizer, corpus: Path, value: object) -> None:
    with pytest.raises(ValueError, match=f"batch_size={value!r}, a whole number of at least 1 is needed"):
        create_dataloaders(corpus, "val.jsonl", tokenizer, batch_size=value)  # type: ignore[arg-type]
    assert names(corpus.parent) == {"train.jsonl"}  # said before hours of tokenizing


def test_seq_length_0_is_refused_before_anything_is_tokenized(
    tokenizer: MicroTransformerTokenizer, corpus: Path, write_jsonl: Callable
) -> None:
    with pytest.raises(ValueError, match="seq_length=0, a whole number of at least 1 is needed"):
        create_dataloaders(corpus, write_jsonl("val.jsonl", ["b"]), tokenizer, seq_length=0)
    assert names(corpus.parent) == {"train.jsonl", "val.jsonl"}


# -- stores and tokenizers ----------------------------------------------------------------------------------


def test_a_truncated_store(store_folder: Path) -> None:
    size = (store_folder / "token_ids.bin").stat().st_size
    os.truncate(store_folder / "token_ids.bin", size // 2)
    with pytest.raises(StoreError, match=rf"token_ids\.bin has {size // 2} bytes, the header promises {size}.*again"):
        TransformerDataset(store_folder, seq_length=4)


def test_a_folder_that_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"is not a token store \(no header\.json\).*prepare_corpus"):
        TransformerDataset(tmp_path, seq_length=4)


@pytest.mark.parametrize("by", ["store", "folder"])
def test_a_store_of_another_tokenizer(mapped: TokenStore, sentences: list[str], by: str) -> None:
    """Its ids would be read as other words, and nothing would crash."""
    other = MicroTransformerTokenizer.train(sentences, vocab_size=300)
    source = mapped if by == "store" else mapped.path
    assert source is not None and mapped.tokenizer_hash is not None
    with pytest.raises(ValueError, match="made with another tokenizer") as caught:
        TransformerDataset(source, other, seq_length=4)
    for needed in (mapped.tokenizer_hash[:12], other.fingerprint()[:12], "prepare the corpus again"):
        assert needed in str(caught.value)


def test_a_tokenizer_folder_without_tokenizer_json(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no tokenizer at .*an empty folder.*tokenizer\.json.*save_pretrained"):
        MicroTransformerTokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("a", encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"found: vocab\.txt"):
        MicroTransformerTokenizer.from_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match=r"no such folder"):
        MicroTransformerTokenizer.from_pretrained(tmp_path / "nowhere")


def test_a_vocabulary_of_100() -> None:
    with pytest.raises(TokenizerError, match=r"vocab_size=100 is too small: .*256 bytes \+ 4 special tokens = 260"):
        MicroTransformerTokenizer.train(["text"], vocab_size=100)


# -- train and validation -----------------------------------------------------------------------------------


def test_train_and_validation_are_the_same_file(tokenizer: MicroTransformerTokenizer, corpus: Path) -> None:
    for val in (corpus, str(corpus), corpus.parent / "." / corpus.name):
        with pytest.raises(ValueError, match=r"train and validation are the same text .*Split the corpus"):
            create_dataloaders(corpus, val, tokenizer, batch_size=1, seq_length=4)
    assert names(corpus.parent) == {"train.jsonl"}


def test_train_and_validation_are_the_same_text_under_two_names(
    tokenizer: MicroTransformerTokenizer, corpus: Path, mapped: TokenStore
) -> None:
    copy = corpus.with_name("val.jsonl")
    records = [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines()]
    copy.write_text("".join(json.dumps({"id": i, **r}) + "\n" for i, r in enumerate(records)), encoding="utf-8")
    assert copy.read_bytes() != corpus.read_bytes()
    for val in (copy, mapped, mapped.path):
        assert val is not None
        with pytest.raises(ValueError, match="train and validation are the same text"):
            create_dataloaders(corpus, val, tokenizer, batch_size=1, seq_length=4)
