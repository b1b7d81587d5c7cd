"""Provenance: any token of any batch names its file, line, characters, document, row, epoch, rank and worker."""

import json
import os
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
from torch.utils.data import DataLoader, Subset

from mt_core import (
    MicroTransformerTokenizer,
    TokenLoader,
    TokenStore,
    TransformerDataset,
    create_dataloaders,
    prepare_corpus,
)
from mt_core.augment import OffsetJitter, TokenMasking
from mt_core.lab.provenance import ProvenanceError, TokenOrigin, explain
from mt_core.mixing import MixedDataset

WriteJsonl = Callable[[str, Iterable[str]], Path]


def texts_of(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines() if line]


def tokens_of(batch: dict[str, torch.Tensor], field: str) -> list[tuple[int, int]]:
    """Row and position of each token of a batch, padding and masked labels left out."""
    real = batch["labels"] != -100
    return [(row, position) for row, position in real.nonzero().tolist()]


# By hand: one document of two characters, one of them four bytes long.


def test_a_character_cut_into_bytes_by_hand(write_jsonl: WriteJsonl) -> None:
    tokenizer = MicroTransformerTokenizer.train(["xyz"], vocab_size=260)  # no merges: each byte is a token
    path = write_jsonl("smile.jsonl", ["first", "é🙂!"])
    dataset = TransformerDataset(path, tokenizer, seq_length=3, chunking="per_document", provenance=True)
    batch = dataset.gather(np.arange(len(dataset)))
    # [CLS] f i | r s t | ([SEP] is a label), then [CLS] é é | 🙂 🙂 🙂 | 🙂 !
    origins = [explain(batch, row, position, loader=dataset, tokenizer=tokenizer) for row, position in
               [(2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2), (4, 0), (4, 1)]]  # fmt: skip
    assert [(origin.text, origin.start, origin.end) for origin in origins] == [
        ("", 0, 0),
        *[("é", 0, 1)] * 2,
        *[("🙂", 1, 2)] * 4,
        ("!", 2, 3),
    ]
    last = explain(batch, 4, 1, loader=dataset, tokenizer=tokenizer, field="labels")
    assert last == TokenOrigin(
        token_id=tokenizer.sep_token_id,
        text="",
        path=last.path,
        line=2,
        start=3,
        end=3,
        document=1,
        token_offset=8,
        stream_position=15,
        row=4,
        position=1,
        epoch=None,
        rank=None,
        worker=None,
    )
    assert last.path is not None and last.path.samefile(path)


# The property: the text at the offset is the token's text, whatever the text.

corpora = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), min_size=1, max_size=5)


@given(texts=corpora, seq_length=st.integers(1, 9), chunking=st.sampled_from(["contiguous", "per_document"]))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_text_at_the_offset_is_the_text_of_the_token(
    tokenizer: MicroTransformerTokenizer, tmp_path: Path, texts: list[str], seq_length: int, chunking: Any
) -> None:
    kept = ["Größe 你好 🙂", *[text for text in texts if text.strip()]]
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    path = tmp_path / "any.jsonl"
    lines = "".join(json.dumps({"text": text}) + "\n\n" for text in kept)  # documents on lines 1, 3, 5, …
    path.write_text(lines, encoding="utf-8", newline="\n")
    store = prepare_corpus(path, tmp_path / "store", tokenizer)
    dataset = TransformerDataset(store, tokenizer, seq_length, chunking=chunking, provenance=True)
    batch = dataset.gather(np.arange(len(dataset))[-6:])
    pieces = tokenizer.token_bytes()
    for row, position in tokens_of(batch, "input_ids")[:8]:
        for field in ("input_ids", "labels"):
            origin = explain(batch, row, position, loader=dataset, tokenizer=tokenizer, field=field)  # type: ignore
            assert origin.token_id == batch[field][row, position] == store.token_ids[origin.stream_position]
            assert store.document(origin.document)[origin.token_offset] == origin.token_id
            assert origin.line == 2 * origin.document + 1
            assert origin.start is not None and origin.end is not None
            text, piece = kept[origin.document], pieces[origin.token_id]
            assert text[origin.start : origin.end] == origin.text
            # Its bytes are in that text at that place: before it stand the bytes of the tokens before it.
            first = sum(len(pieces[i]) for i in store.document(origin.document)[: origin.token_offset].tolist())
            skipped = first - len(text[: origin.start].encode())
            assert origin.text.encode()[skipped : skipped + len(piece)] == piece
            # And no character more than it touches.
            assert 0 <= skipped < 4 and len(origin.text.encode()) - skipped - len(piece) < 4
            if piece.isascii():
                assert origin.text == piece.decode()


def test_a_plain_text_gives_its_paragraphs_their_lines(tokenizer: MicroTransformerTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "plays.txt"
    path.write_text("One.\nTwo.\n\n\nThree 你好.\n", encoding="utf-8", newline="\n")
    dataset = TransformerDataset(path, tokenizer, 4, chunking="per_document", sample_by="paragraph", provenance=True)
    batch = dataset.gather(np.arange(len(dataset)))
    found = {
        (origin.document, origin.line)
        for row, position in tokens_of(batch, "input_ids")
        for origin in [explain(batch, row, position, loader=dataset)]
    }
    assert found == {(0, 1), (1, 5)}


def test_several_files_and_folders_that_move_together(
    tokenizer: MicroTransformerTokenizer, write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    files = [write_jsonl(f"here/{name}.jsonl", [f"{name} one", f"{name} two"]) for name in "ab"]
    prepare_corpus(files, tmp_path / "here" / "stores" / "both", tokenizer)
    (tmp_path / "here").rename(tmp_path / "there")
    dataset = TransformerDataset(
        tmp_path / "there" / "stores" / "both", None, 99, chunking="per_document", provenance=True
    )
    batch = dataset.gather(np.arange(4))
    origins = [explain(batch, row, 1, loader=dataset, tokenizer=tokenizer) for row in range(4)]
    assert [(o.path and o.path.name, o.line) for o in origins] == [
        ("a.jsonl", 1),
        ("a.jsonl", 2),
        ("b.jsonl", 1),
        ("b.jsonl", 2),
    ]
    for origin in origins:
        assert origin.path is not None and origin.path.parent == tmp_path / "there"


# Epoch, rank, worker.


def stream(n_rows: int) -> TokenStore:
    return TokenStore.from_token_ids(range(n_rows * 4 + 1), vocab_size=n_rows * 4 + 1)


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=starts_workers)])
def test_row_epoch_and_worker_of_every_batch(num_workers: int) -> None:
    settings: dict[str, Any] = {"start_method": "spawn"} if sys.platform == "win32" and num_workers else {}
    dataset = TransformerDataset(stream(11), seq_length=4, provenance=True)
    loader = TokenLoader(dataset, batch_size=2, shuffle=True, num_workers=num_workers, **settings)
    for epoch in range(2):
        batches = list(loader)
        assert len(batches) == 6
        for number, batch in enumerate(batches):
            for row in range(len(batch["input_ids"])):
                origin = explain(batch, row, 2, loader=loader)
                assert (origin.epoch, origin.rank, origin.position) == (epoch, 0, 2)
                assert origin.worker == (number % 2 if num_workers else None)
                assert origin.row == batch["input_ids"][row, 0] // 4
                assert origin.stream_position == batch["input_ids"][row, 2]
    loader.load_state_dict({**loader.state_dict(), "epoch": 7, "samples_delivered": 4})
    assert explain(next(iter(loader)), 0, 0, loader=loader).epoch == 7


def test_the_rank_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 3)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 4)
    loader = TokenLoader(TransformerDataset(stream(81), seq_length=4, provenance=True), batch_size=4)
    assert explain(next(iter(loader)), 0, 0, loader=loader).rank == 3


# Costs nothing when not asked for, and changes nothing else when it is.


def test_off_by_default_and_the_batch_is_the_same_otherwise(
    tokenizer: MicroTransformerTokenizer, write_jsonl: WriteJsonl
) -> None:
    paths = (
        write_jsonl("train.jsonl", [f"The cat number {n} sat." for n in range(30)]),
        write_jsonl("val.jsonl", ["Another cat sat here, on the other mat."]),
    )
    plain = create_dataloaders(*paths, tokenizer, batch_size=4, seq_length=8)
    asked = create_dataloaders(*paths, tokenizer, batch_size=4, seq_length=8, provenance=True)
    for before, after in zip(plain, asked, strict=True):
        assert after.state_dict() == before.state_dict()  # a run can be resumed with it, and without
        for batch, same in zip(before, after, strict=True):
            assert set(batch) == {"input_ids", "labels"}
            assert set(same) == {"input_ids", "labels", "provenance"}
            assert same["provenance"].shape == (len(batch["labels"]), 4)
            assert torch.equal(batch["input_ids"], same["input_ids"]) and torch.equal(batch["labels"], same["labels"])
    row = asked[0].dataset[3]  # a single row, as a learner takes it
    assert explain(row, 0, 5, loader=asked[0], tokenizer=tokenizer).row == 3


def test_nothing_runs_for_it_when_it_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mt_core.token_loader._stamped", lambda *_: pytest.fail("asked for nothing"))
    monkeypatch.setattr("mt_core.dataset.get_worker_info", lambda: pytest.fail("asked for nothing"))
    assert len(list(TokenLoader(TransformerDataset(stream(11), seq_length=4), batch_size=2))) == 6


def test_loaders_of_pytorch_over_our_rows_and_over_a_part_of_them() -> None:
    dataset = TransformerDataset(stream(11), seq_length=4, provenance=True)
    part = Subset(dataset, [7, 2, 9])
    for loader in (DataLoader(dataset, batch_size=3), DataLoader(part, batch_size=3), DataLoader(Subset(part, [2, 0]))):
        for batch in loader:
            arrays = {name: tensor.numpy() for name, tensor in batch.items()}
            for row, ids in enumerate(batch["input_ids"].tolist()):
                for found in (explain(batch, row, 2, loader=loader), explain(arrays, row, 2, loader=loader)):
                    assert (found.stream_position, found.row) == (ids[2], ids[0] // 4)
                    assert (found.epoch, found.rank, found.worker) == (None, None, None)


# Refusals say what to do.


@pytest.fixture
def dataset(tokenizer: MicroTransformerTokenizer, store_folder: Path) -> TransformerDataset:
    return TransformerDataset(store_folder, tokenizer, 8, chunking="per_document", provenance=True)


def test_what_cannot_be_traced(dataset: TransformerDataset, tokenizer: MicroTransformerTokenizer) -> None:
    batch = dataset.gather(np.arange(len(dataset)))
    bare = {name: tensor for name, tensor in batch.items() if name != "provenance"}
    padded = next((row, 7) for row in range(len(dataset)) if batch["document_ids"][row, 7] < 0)
    with pytest.raises(ProvenanceError, match="provenance=True"):
        explain(bare, 0, 0, loader=dataset)
    with pytest.raises(ProvenanceError, match="padding"):
        explain(batch, *padded, loader=dataset)
    with pytest.raises(ProvenanceError, match="masked"):
        explain(batch, *padded, loader=dataset, field="labels")
    with pytest.raises(IndexError, match=f"row {len(dataset)} does not exist: the batch has {len(dataset)}"):
        explain(batch, len(dataset), 0, loader=dataset)
    with pytest.raises(IndexError, match="position 8 does not exist"):
        explain(batch, 0, 8, loader=dataset)
    with pytest.raises(ValueError, match="field='x'"):
        explain(batch, 0, 0, loader=dataset, field="x")  # type: ignore[arg-type]
    other = MicroTransformerTokenizer.train(["other text"], vocab_size=262)
    with pytest.raises(ProvenanceError, match="another tokenizer"):
        explain(batch, 0, 0, loader=dataset, tokenizer=other)
    for wrong in (None, [batch], batch):
        with pytest.raises(ProvenanceError, match=f"tokens of a {type(wrong).__name__} cannot be traced: pass a Trans"):
            explain(batch, 0, 0, loader=wrong)  # type: ignore[arg-type]
    for bare in (batch["input_ids"], (batch["input_ids"], batch["labels"])):
        with pytest.raises(ProvenanceError, match="provenance=True"):
            explain(bare, 0, 0, loader=dataset)  # type: ignore[arg-type]
    short = TransformerDataset(stream(1), seq_length=4)
    with pytest.raises(ProvenanceError, match="pass the batch's loader"):
        explain(batch, 1, 0, loader=short)
    batch["input_ids"][0, 1] += 1
    with pytest.raises(ProvenanceError, match="was changed or augmented"):
        explain(batch, 0, 1, loader=dataset)
    assert explain(batch, -1, -8, loader=dataset).row == len(dataset) - 1


def test_files_that_moved_or_changed(
    dataset: TransformerDataset, tokenizer: MicroTransformerTokenizer, corpus: Path
) -> None:
    batch = dataset.gather(np.arange(len(dataset)))
    moved = corpus.rename(corpus.with_name("elsewhere.jsonl"))
    with pytest.raises(ProvenanceError, match=r"no such file.*pass source="):
        explain(batch, 0, 1, loader=dataset)
    found = explain(batch, 0, 1, loader=dataset, tokenizer=tokenizer, source=moved)
    assert found.path == moved and found.text and texts_of(moved)[0].startswith(found.text)
    with pytest.raises(ProvenanceError, match="source names 2 files, the corpus was made from 1"):
        explain(batch, 0, 1, loader=dataset, source=[moved, moved])
    lines = moved.read_text(encoding="utf-8").splitlines()
    moved.write_text("\n".join([lines[0].replace("cat", "dog"), *lines[1:-1]]), encoding="utf-8")
    with pytest.raises(ProvenanceError, match="not the one that was tokenized"):
        explain(batch, 0, 1, loader=dataset, tokenizer=tokenizer, source=moved)
    with pytest.raises(ProvenanceError, match="has no document 4 any more"):
        explain(batch, -1, 0, loader=dataset, source=moved)


def test_a_store_in_memory_knows_its_text_and_no_file(
    tokenizer: MicroTransformerTokenizer, sentences: list[str]
) -> None:
    dataset = TransformerDataset(TokenStore.from_documents(sentences, tokenizer), seq_length=8, provenance=True)
    batch = dataset.gather(np.array([0]))
    origin = explain(batch, 0, 1, loader=dataset, tokenizer=tokenizer)
    assert origin.path is None and origin.text and sentences[0].startswith(origin.text)
    assert "file" not in str(origin) and repr(origin.text) in str(origin)


def test_the_path_in_the_header_leads_from_the_store_to_the_file(store_folder: Path, corpus: Path) -> None:
    reading = json.loads((store_folder / "header.json").read_text(encoding="utf-8"))["reading"]
    assert reading == {
        "paths": ["../train.jsonl"],
        "is_jsonl": None,
        "text_field": "text",
        "sample_by": "document",
        "on_error": "raise",
    }
    assert os.path.samefile(store_folder / reading["paths"][0], corpus)


# Rows that move, and rows of several sources.


def test_rows_that_are_jittered_are_traced_in_their_epoch() -> None:
    dataset = TransformerDataset(stream(41), seq_length=4, provenance=True, augment=[OffsetJitter()])
    loader = TokenLoader(dataset, batch_size=3, shuffle=True)
    for batch in (batch for _ in range(3) for batch in loader):
        for row, ids in enumerate(batch["input_ids"].tolist()):
            for position, token_id in enumerate(ids):
                origin = explain(batch, row, position, loader=loader)
                assert origin.token_id == origin.stream_position == token_id and origin.epoch == loader.epoch


def test_rows_of_a_mix_are_traced_to_their_source() -> None:
    stores = [TokenStore.from_token_ids(range(n), vocab_size=41) for n in (41, 13)]
    sources = [TransformerDataset(store, seq_length=4, provenance=True) for store in stores]
    loader = TokenLoader(MixedDataset([(sources[0], 2), (sources[1], 1)]), batch_size=4, shuffle=True)
    for batch in loader:
        for row, ids in enumerate(batch["input_ids"].tolist()):
            origin = explain(batch, row, 2, loader=loader)
            assert origin.stream_position == ids[2]


def test_a_token_that_was_masked_on_the_way_is_not_explained_away(tokenizer: MicroTransformerTokenizer) -> None:
    store = TokenStore.from_documents(["The cat sat on the mat."] * 3, tokenizer)
    dataset = TransformerDataset(store, tokenizer, seq_length=4, provenance=True, augment=[TokenMasking(rate=1.0)])
    batch = next(iter(TokenLoader(dataset, batch_size=3)))
    with pytest.raises(ProvenanceError, match="the batch was changed or augmented, or is of another loader"):
        explain(batch, 0, 1, loader=dataset)
