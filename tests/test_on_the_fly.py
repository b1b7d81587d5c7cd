"""Tokens made when they are asked for: the same stream as a prepared store, from text that is read again."""

import gzip
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import starts_workers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mt_core import (
    CorpusError,
    MicroTransformerTokenizer,
    StoreError,
    TokenLoader,
    TransformerDataset,
    create_dataloaders,
    text_index,
)
from mt_core import on_the_fly as module
from mt_core.cache import open_corpus
from mt_core.corpus import CorpusWarning
from mt_core.lab.provenance import explain
from mt_core.on_the_fly import TokenizedText, open_text

CHUNKINGS = ["contiguous", "per_document", "sliding", "packed"]
# Blank lines with and without white space, a record of blanks, Windows line ends, no line end at the end.
PLAIN = "one line \n\n \nnext paragraph\nof two lines\r\n\r\n\t \n\nGröße 你好 🙂\n\nthe last"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.txt"
    path.write_bytes(PLAIN.encode("utf-8"))
    return path


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_two_documents_by_hand(tokenizer: MicroTransformerTokenizer, write_jsonl: Callable[..., Path]) -> None:
    path = write_jsonl("two.jsonl", ["qz", "c"])
    corpus = open_text(path, tokenizer)
    q, z, c = (tokenizer.encode(letter)["input_ids"][1] for letter in "qzc")
    assert (len(corpus), corpus.n_documents, corpus.document_ends.tolist()) == (7, 2, [4, 7])
    assert corpus.token_ids[np.arange(7)].tolist() == [1, q, z, 2, 1, c, 2]
    assert corpus.token_ids[np.array([[6, 0], [2, 2]])].tolist() == [[2, 1], [z, z]]
    assert corpus.document(1).tolist() == [1, c, 2] and corpus.text(1) == "c"
    assert corpus._places.tolist() == [[0, 15], [15, 29]], "the bytes of each line"


@pytest.mark.parametrize("sample_by", ["document", "paragraph", "line"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_plain_text_is_cut_as_a_store_cuts_it(
    tokenizer: MicroTransformerTokenizer, plain: Path, sample_by: Any, mark: bytes
) -> None:
    plain.write_bytes(mark + PLAIN.encode("utf-8"))
    corpus = open_text(plain, tokenizer, sample_by=sample_by)
    store = open_corpus(plain, tokenizer, sample_by=sample_by)
    assert corpus.n_documents == {"document": 1, "paragraph": 4, "line": 5}[sample_by]
    assert corpus.fingerprint() == store.fingerprint()
    assert corpus.token_ids[:].tolist() == store.token_ids.tolist()
    corpus.verify()


def test_bad_records_are_left_out_as_in_a_store(tokenizer: MicroTransformerTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    lines = ['{"body": "one"}', "", "{broken", '{"body": "  "}', '{"text": "no body"}', '{"body": "two"}']
    path.write_text("\n".join(lines), encoding="utf-8", newline="\n")
    with pytest.raises(CorpusError, match="line 3: broken JSON"):
        open_text(path, tokenizer, text_field="body")
    assert not (tmp_path / ".mt_cache").exists(), "nothing is left of an index that failed"
    with pytest.warns(CorpusWarning, match="skipped 2 bad records"):
        corpus = open_text(path, tokenizer, text_field="body", on_error="skip")
    assert [corpus.text(i) for i in range(corpus.n_documents)] == ["one", "two"]
    with pytest.warns(CorpusWarning):
        assert corpus.fingerprint() == open_corpus(path, tokenizer, text_field="body", on_error="skip").fingerprint()


texts = st.text(st.characters(codec="utf-8"), max_size=40).filter(lambda text: text.strip())


@given(st.lists(texts, min_size=1, max_size=8), st.integers(1, 12), st.sampled_from(CHUNKINGS), st.integers(0, 3))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_same_rows_in_the_same_order(
    tokenizer: MicroTransformerTokenizer,
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[str],
    seq_length: int,
    chunking: Any,
    kept: int,
) -> None:
    """Whatever the texts, the length and kind of rows, and however few documents are kept in memory."""
    folder = tmp_path_factory.mktemp("fly")
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8", newline="\n")
    corpus = open_text(path, tokenizer)
    if len(corpus) < seq_length + 1:
        return
    fly = TransformerDataset(corpus, seq_length=seq_length, chunking=chunking)
    store = TransformerDataset(path, tokenizer, seq_length, chunking=chunking)
    assert fly.fingerprint() == store.fingerprint() and len(fly) == len(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_KEPT_TOKENS", 20 * kept)
        loaders = [TokenLoader(rows, batch_size=3, shuffle=True, seed=1) for rows in (fly, store)]
        for one, other in zip(*loaders, strict=True):
            assert same(one, other)
    shutil.rmtree(folder, ignore_errors=True)


def test_one_line_turns_it_on(tokenizer: MicroTransformerTokenizer, write_jsonl: Callable[..., Path]) -> None:
    paths = (
        write_jsonl("train.jsonl", [f"Training text {n}." for n in range(30)]),
        write_jsonl("val.jsonl", ["Another."] * 9),
    )
    stored = create_dataloaders(*paths, tokenizer, 4, 16)
    fly = create_dataloaders(*paths, tokenizer, 4, 16, tokenize="on-the-fly")
    for one, other in zip(fly, stored, strict=True):
        assert isinstance(one.dataset.store, TokenizedText) and not isinstance(other.dataset.store, TokenizedText)
        assert all(same(*batches) for batches in zip(one, other, strict=True)) and len(one) > 1
    # So a run may change from one to the other.
    running = iter(fly[0])
    next(running)
    running.close()
    stored[0].load_state_dict(fly[0].state_dict())
    assert len(list(stored[0])) == len(fly[0]) - 1


@starts_workers
def test_workers_build_the_same_batches(tokenizer: MicroTransformerTokenizer, write_jsonl: Callable[..., Path]) -> None:
    path = write_jsonl("train.jsonl", [f"Training text {n}." for n in range(60)])
    dataset = TransformerDataset(path, tokenizer, 16, tokenize="on-the-fly")
    order: dict[str, Any] = {"batch_size": 4, "shuffle": True, "seed": 3}
    if sys.platform == "win32":
        order["start_method"] = "spawn"
    with_workers = TokenLoader(dataset, num_workers=2, persistent_workers=False, **order)
    batches = list(TokenLoader(dataset, **order))
    assert all(same(*pair) for pair in zip(with_workers, batches, strict=True)) and len(batches) == 14


def test_it_travels_as_a_few_kilobytes(
    tokenizer: MicroTransformerTokenizer, write_jsonl: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl("large.jsonl", ["many words " * 50] * 200)
    monkeypatch.chdir(path.parent)
    dataset = TransformerDataset(path.name, tokenizer, 32, tokenize="on-the-fly")
    dataset.gather(np.arange(20))  # what is kept in memory stays behind
    sent = pickle.dumps(dataset)
    monkeypatch.chdir(path.parent.parent)  # a worker may run in another folder
    again = pickle.loads(sent)
    assert len(sent) < 4000 and same(again[7], dataset[7])


def test_a_worker_opens_the_index_without_reading_all_of_it(
    tokenizer: MicroTransformerTokenizer, write_jsonl: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = open_text(write_jsonl("train.jsonl", ["abcd", "efgh"]), tokenizer)
    sent, folder, wanted = pickle.dumps(corpus), corpus.path, corpus.document(1).tolist()
    assert folder is not None
    del corpus  # Windows does not cut a file that is mapped
    monkeypatch.setattr(text_index, "file_sha256", lambda _: pytest.fail("hashed again"))
    assert pickle.loads(sent).document(1).tolist() == wanted
    os.truncate(folder / "document_places.bin", 16)
    with pytest.raises(StoreError, match="is not a whole index of a text file"):
        pickle.loads(sent)


def test_the_index_is_made_once_and_holds_no_text(
    tokenizer: MicroTransformerTokenizer, write_jsonl: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl("train.jsonl", ["many words " * 1000] * 20)
    first = open_text(path, tokenizer)
    assert first.path is not None
    sizes = {file.name: file.stat().st_size for file in first.path.glob("*.bin")}
    assert sizes == {"document_ends.bin": 8 * 20, "document_places.bin": 16 * 20}
    monkeypatch.setattr(text_index, "iterate_documents", lambda *_, **__: pytest.fail("read again"))
    assert open_text(path, tokenizer).fingerprint() == first.fingerprint()
    (first.path / "tokenizer" / "tokenizer.json").unlink()  # not whole: made anew
    with pytest.raises(pytest.fail.Exception, match="read again"):
        open_text(path, tokenizer)


@pytest.mark.parametrize("touched", [False, True])
def test_memory_is_bounded(
    tokenizer: MicroTransformerTokenizer,
    write_jsonl: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    touched: bool,
) -> None:
    """An epoch over many documents keeps no more tokens than it may; and those it keeps are used."""
    corpus = open_text(write_jsonl("train.jsonl", [f"{n} " * 30 for n in range(100)]), tokenizer)
    longest = int(np.diff(corpus.document_ends.astype(np.int64), prepend=0).max())
    monkeypatch.setattr(module, "_KEPT_TOKENS", 5 * longest)
    read: list[int] = []
    original = TokenizedText.texts
    monkeypatch.setattr(TokenizedText, "texts", lambda self, indices: read.extend(indices) or original(self, indices))
    if touched:  # all documents in one batch
        corpus.token_ids[np.arange(len(corpus))]
    else:
        for batch in TokenLoader(TransformerDataset(corpus, seq_length=16), batch_size=2):
            assert batch["input_ids"].shape[1] == 16
    kept = corpus.token_ids._kept  # type: ignore[attr-defined]
    assert 4 <= len(kept) < 12 and sum(map(len, kept.values())) == corpus.token_ids._n_kept <= 5 * longest  # type: ignore
    assert read == list(range(100)), "in order, each document is read once, not once a row"
    assert max(ids.nbytes for ids in kept.values()) == 2 * longest


def test_the_document_used_last_stays(
    tokenizer: MicroTransformerTokenizer, write_jsonl: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = open_text(write_jsonl("train.jsonl", ["qz"] * 4), tokenizer)  # four tokens each
    monkeypatch.setattr(module, "_KEPT_TOKENS", 8)
    for position in (0, 4, 0, 8):
        corpus.token_ids[np.array([position])]
    assert list(corpus.token_ids._kept) == [0, 2]  # type: ignore[attr-defined]


# -- errors -------------------------------------------------------------------------------------------------


def test_a_packed_file_is_refused(tokenizer: MicroTransformerTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "some text"}\n'))
    with pytest.raises(
        CorpusError, match=r"gz: can be read from its beginning only, not on the fly: unpack it, or use"
    ):
        TransformerDataset(path, tokenizer, 2, tokenize="on-the-fly")


def test_a_file_that_has_changed(tokenizer: MicroTransformerTokenizer, write_jsonl: Callable[..., Path]) -> None:
    path = write_jsonl("train.jsonl", ["abcd", "efgh"])
    dataset = TransformerDataset(path, tokenizer, 2, tokenize="on-the-fly")
    sent = pickle.dumps(dataset)
    write_jsonl("train.jsonl", ["abcd", "zzzz"])
    os.utime(path, ns=(1, 1))  # a clock may be too coarse to tell two writes apart
    for rows in (dataset, pickle.loads(sent)):
        with pytest.raises(CorpusError, match=r"train\.jsonl: was changed after it was indexed.* open the corpus anew"):
            rows[0]
    other = TransformerDataset(path, tokenizer, 2, tokenize="on-the-fly")
    assert other.store.fingerprint() != dataset.store.fingerprint() and other.store.text(1) == "zzzz"  # type: ignore
    path.unlink()
    with pytest.raises(CorpusError, match="cannot be read"):
        other[0]


def test_a_file_that_changes_while_it_is_indexed(
    tokenizer: MicroTransformerTokenizer, write_jsonl: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write = write_jsonl("train.jsonl", ["abcd"]), module.write_index

    def write_and_change(*arguments: Any) -> None:
        write(*arguments)
        os.utime(path, ns=(1, 1))

    monkeypatch.setattr(module, "write_index", write_and_change)
    with pytest.raises(CorpusError, match=r"train\.jsonl: was changed while it was being indexed: open it again"):
        open_text(path, tokenizer)
    assert not (path.parent / ".mt_cache").exists()


def test_a_document_that_counts_otherwise_than_indexed(
    tokenizer: MicroTransformerTokenizer, write_jsonl: Callable[..., Path]
) -> None:
    """Should the file change within one tick of the clock, and keep its size."""
    path = write_jsonl("train.jsonl", ["The cat sat"])
    corpus = open_text(path, tokenizer)
    write_jsonl("train.jsonl", ["q%z&j!x?w=v"])
    os.utime(path, ns=(1, int(corpus.stamp.split("-")[1])))
    with pytest.raises(CorpusError, match="was changed after it was indexed"):
        corpus.document(0)


def test_a_document_too_large_to_read_for_each_row(
    tokenizer: MicroTransformerTokenizer, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_index, "_LARGEST_DOCUMENT", 35)
    with pytest.raises(CorpusError, match=r"line 1: a document of 77 bytes.* pass sample_by='paragraph' or 'line', or"):
        open_text(plain, tokenizer)
    open_text(plain, tokenizer, sample_by="line")
    monkeypatch.setattr(text_index, "_LARGEST_DOCUMENT", 20)
    with pytest.raises(CorpusError, match="line 4: a document of 29 bytes"):
        open_text(plain, tokenizer, sample_by="paragraph")


def test_settings_that_do_not_go_together(
    tokenizer: MicroTransformerTokenizer, store_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="tokenize='later', it must be 'ahead' or 'on-the-fly'"):
        TransformerDataset(corpus, tokenizer, tokenize="later")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="store is tokenized already: leave tokenize out, or name a text file"):
        TransformerDataset(store_folder, tokenizer, tokenize="on-the-fly")
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n", encoding="utf-8", newline="\n")
    with pytest.raises(StoreError, match=r"empty\.txt: no text found"):
        open_text(empty, tokenizer)
    empty.with_name("more.txt").write_text("more", encoding="utf-8", newline="\n")
    with pytest.raises(CorpusError, match="is not one local file, as on the fly needs: make a store with"):
        open_text(tmp_path / "*.txt", tokenizer)
    with pytest.raises(IndexError, match="tokens -1 to -1: positions go from 0 to"):
        open_text(corpus, tokenizer).token_ids[np.array([-1])]
    with pytest.raises(StoreError, match="never in memory all at once, as this needs: use tokenize='ahead'"):
        np.asarray(open_text(corpus, tokenizer).token_ids)


def test_provenance_of_tokens_made_on_the_fly(
    tokenizer: MicroTransformerTokenizer, corpus: Path, sentences: Iterable[str]
) -> None:
    dataset = TransformerDataset(corpus, tokenizer, 8, tokenize="on-the-fly", provenance=True)
    origin = explain(dataset.gather(np.array([2])), 0, 3, loader=dataset, tokenizer=tokenizer)
    assert origin.path == corpus and origin.stream_position == 19
    assert origin.text == list(sentences)[origin.document][origin.start : origin.end]
