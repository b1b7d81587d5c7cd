"""Rows to tensors: what a row is, that any PyTorch loader can take it, and that it is shifted exactly once."""

import itertools
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import stream
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, default_collate

from mt_core import MicroTransformerTokenizer, TokenStore, TransformerDataset


def test_a_row_worked_out_by_hand() -> None:
    dataset = TransformerDataset(stream(9), seq_length=4)
    assert len(dataset) == 2
    row = dataset[1]
    assert list(row) == ["input_ids", "labels"]
    assert row["input_ids"].tolist() == [4, 5, 6, 7] and row["labels"].tolist() == [5, 6, 7, 8]
    assert all(tensor.dtype == torch.int64 and tensor.shape == (4,) for tensor in row.values())


def test_rows_of_a_text_file_are_its_tokens(
    tokenizer: MicroTransformerTokenizer, corpus: Path, sentences: list[str]
) -> None:
    """The source document's own recipe, in plain Python: tokenize all, join, cut, shift by one."""
    joined = [token for text in sentences for token in tokenizer.encode(text)["input_ids"]]
    dataset = TransformerDataset(corpus, tokenizer, 8)
    for i in range(len(dataset) - 1):
        assert dataset[i]["input_ids"].tolist() == joined[i * 8 : i * 8 + 8]
        assert dataset[i]["labels"].tolist() == joined[i * 8 + 1 : i * 8 + 9]
    assert dataset[-1]["labels"][-1] == joined[-1]


def test_labels_are_shifted_once(tokenizer: MicroTransformerTokenizer, corpus: Path) -> None:
    """Not at all, and a model learns to copy; twice, and it learns to guess the token after the next."""
    dataset = TransformerDataset(corpus, tokenizer, seq_length=8)
    ids = dataset.store.token_ids.astype(np.int64)
    row = dataset[2]
    start = 16
    assert row["labels"].tolist() == ids[start + 1 : start + 9].tolist()
    assert row["labels"].tolist() != row["input_ids"].tolist()
    assert row["labels"][:-1].tolist() == row["input_ids"][1:].tolist()


def test_a_path_a_folder_and_a_store_give_the_same_rows(
    tokenizer: MicroTransformerTokenizer, corpus: Path, mapped: TokenStore, sentences: list[str]
) -> None:
    assert mapped.path is not None
    plain = corpus.with_name("plain.txt")
    plain.write_text("\n\n".join(text.replace("\n\n", " ") for text in sentences), encoding="utf-8", newline="\n")
    same = [
        TransformerDataset(corpus, tokenizer, 8),
        TransformerDataset(str(corpus), tokenizer, seq_length=8, is_jsonl=True),
        TransformerDataset(mapped, seq_length=8),
        TransformerDataset(mapped.path, tokenizer, seq_length=8),
        TransformerDataset(TokenStore.from_documents(sentences, tokenizer), seq_length=8),
    ]
    assert len({dataset.fingerprint() for dataset in same}) == 1
    for dataset in same[1:]:
        assert torch.equal(dataset[3]["labels"], same[0][3]["labels"])
    paragraphs = TransformerDataset(plain, tokenizer, 8, sample_by="paragraph")
    assert paragraphs.store.n_documents == 5 and paragraphs.fingerprint() != same[0].fingerprint()


def test_the_default_row_is_128_tokens() -> None:
    assert TransformerDataset(stream(1000))[0]["input_ids"].shape == (128,)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_a_batch_in_one_gather_is_its_rows_one_by_one(indices: list[int]) -> None:
    dataset = TransformerDataset(stream(38), seq_length=4)
    assert len(dataset) == 10
    one_by_one = default_collate([dataset[i] for i in indices])
    at_once = dataset.__getitems__(indices)
    assert len(at_once) == len(indices)
    for batch in (default_collate(at_once), at_once.batch, dataset.gather(np.array(indices))):
        assert batch.keys() == one_by_one.keys()
        assert all(torch.equal(batch[name], one_by_one[name]) and batch[name].is_contiguous() for name in batch)


@pytest.mark.parametrize("chunking", ["contiguous", "per_document", "sliding", "packed"])
def test_a_plain_dataloader_takes_it(mapped: TokenStore, chunking: str) -> None:
    """PyTorch's own loader and collate function, nothing of ours: same rows, and tensors that `view` can flatten."""
    dataset = TransformerDataset(mapped, seq_length=8, chunking=chunking)
    batches = list(DataLoader(dataset, batch_size=4))
    assert sum(len(batch["labels"]) for batch in batches) == len(dataset)
    for name in dataset[0]:
        assert torch.equal(torch.cat([batch[name] for batch in batches]), dataset.gather(np.arange(len(dataset)))[name])
    assert batches[0]["labels"].view(-1).shape == (32,)
    assert all(tensor.is_contiguous() for batch in batches for tensor in batch.values())


def test_ids_fit_an_embedding_and_masked_labels_leave_the_loss() -> None:
    """nn.Embedding refuses the store's uint16, so rows are int64; -100 is what cross_entropy ignores."""
    dataset = TransformerDataset(stream(11), seq_length=4)
    embedding = torch.nn.Embedding(11, 3)
    with pytest.raises((RuntimeError, NotImplementedError)):
        embedding(torch.from_numpy(dataset.store.token_ids[:4].copy()))
    logits = embedding(dataset[-1]["input_ids"]) @ embedding.weight.T
    labels = dataset[-1]["labels"]
    assert labels.tolist() == [-100, -100, 9, 10]
    whole = torch.nn.functional.cross_entropy(logits, labels)
    assert torch.equal(whole, torch.nn.functional.cross_entropy(logits[2:], labels[2:]))


def test_python_indexing_rules() -> None:
    dataset = TransformerDataset(stream(9), seq_length=4)
    assert torch.equal(dataset[-1]["labels"], dataset[1]["labels"])
    assert len(list(itertools.islice(iter(dataset), 5))) == 2  # iteration ends by IndexError
    for wrong in (2, -3):
        with pytest.raises(IndexError, match=f"row {wrong} does not exist: rows go from 0 to 1"):
            dataset[wrong]
    for wrong in ("0", 1.0, slice(0, 2), None):
        with pytest.raises(TypeError, match=r"^dataset\[.*\]: the number of one row is needed; dataset.gather"):
            dataset[wrong]
    assert torch.equal(dataset[np.int64(1)]["labels"], dataset[torch.tensor(1)]["labels"])


@pytest.mark.parametrize("wrong", [-1, 2, 10**9])
def test_a_row_that_does_not_exist_is_not_quietly_another(wrong: int) -> None:
    """The last row is moved back to fit, so without a check any large number would give it again."""
    dataset = TransformerDataset(stream(9), seq_length=4)
    with pytest.raises(IndexError, match=f"row {wrong} does not exist: rows go from 0 to 1"):
        dataset.__getitems__([0, wrong])


def test_per_document_rows_carry_positions_and_documents(
    mapped: TokenStore, tokenizer: MicroTransformerTokenizer
) -> None:
    dataset = TransformerDataset(mapped, tokenizer, seq_length=16, chunking="per_document")
    row = dataset[0]
    assert list(row) == ["input_ids", "labels", "position_ids", "document_ids"]
    assert row["input_ids"][0] == tokenizer.cls_token_id
    ends = [row["labels"][row["labels"] != -100][-1].item() for row in dataset if (row["labels"] == -100).any()]
    assert set(ends) == {tokenizer.sep_token_id}  # a document ends with [SEP] where it truly ends


# -- travelling to workers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunking", ["contiguous", "per_document", "sliding", "packed"])
def test_a_dataset_of_any_size_pickles_to_a_few_kilobytes(
    tmp_path: Path, tokenizer: MicroTransformerTokenizer, write_jsonl: Callable, chunking: str
) -> None:
    path = write_jsonl("large.jsonl", ["many words " * 500] * 100)
    dataset = TransformerDataset(path, tokenizer, seq_length=32, chunking=chunking)
    assert dataset.store.token_ids.nbytes > 500_000
    sent = pickle.dumps(dataset)
    assert len(sent) < 4000
    again = pickle.loads(sent)
    assert len(again) == len(dataset) and again.fingerprint() == dataset.fingerprint()
    assert all(torch.equal(again[7][name], dataset[7][name]) for name in dataset[7])
    assert not again.store.token_ids.flags.owndata  # mapped again, not copied


def test_nothing_in_it_is_a_python_list_of_tokens(mapped: TokenStore) -> None:
    """Reading a list's items touches their reference counts, so each worker would copy the list, page by page."""
    for rows in (
        TransformerDataset(mapped, seq_length=8).rows,
        TransformerDataset(mapped, chunking="per_document").rows,
    ):
        assert not [name for name, value in vars(rows).items() if isinstance(value, list | tuple | dict)]
    assert isinstance(mapped.token_ids, np.ndarray) and isinstance(mapped.document_ends, np.ndarray)


# -- fingerprints and errors --------------------------------------------------------------------------------


def test_the_fingerprint_changes_with_whatever_changes_the_rows(mapped: TokenStore) -> None:
    kinds = [
        TransformerDataset(mapped, seq_length=8),
        TransformerDataset(mapped, seq_length=9),
        TransformerDataset(mapped, seq_length=8, stride=4),
        TransformerDataset(mapped, seq_length=8, chunking="per_document"),
        TransformerDataset(stream(100), seq_length=8),
    ]
    assert len({dataset.fingerprint() for dataset in kinds}) == 5


@pytest.mark.parametrize("name", ["seq_length", "stride"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "8", True])
def test_lengths_are_whole_numbers_from_1(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name}={value!r}, a whole number of at least 1 is needed"):
        TransformerDataset(stream(9), **{name: value})  # type: ignore[arg-type]


def test_lengths_may_be_numbers_of_numpy() -> None:
    """They come out of a computation; a fingerprint and a checkpoint are written as JSON, which does not know them."""
    settings = {"seq_length": 4, "stride": 2, "chunking": "sliding", "length_buckets": (2, 4)}
    numpy = {**settings, "seq_length": np.int64(4), "stride": np.int32(2), "length_buckets": (np.int64(2), np.int64(4))}
    one, other = (TransformerDataset(stream(9), **each) for each in (settings, numpy))
    assert one.fingerprint() == other.fingerprint()


def test_settings_that_do_not_go_together(corpus: Path) -> None:
    with pytest.raises(
        ValueError, match="chunking='best', it must be one of contiguous, per_document, sliding, packed"
    ):
        TransformerDataset(stream(9), chunking="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stride=4 goes with contiguous and sliding rows, not with 'per_document'"):
        TransformerDataset(stream(9), seq_length=4, stride=4, chunking="per_document")
    with pytest.raises(ValueError, match=r"train\.jsonl is a text file and needs a tokenizer"):
        TransformerDataset(corpus)
