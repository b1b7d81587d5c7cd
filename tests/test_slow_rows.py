"""Datasets for the lesson on workers: the right rows, the wait, the noise, and all of it after a journey by pickle."""

import os
import pickle
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mt_core import MicroTransformerTokenizer, TokenStore, TransformerDataset
from mt_core.dataset import collate_rows
from mt_core.lab.slow_rows import NoisyRows, TokenizedRows, WaitingRows, silent_workers


def numbers(n: int = 41, seq_length: int = 4) -> TransformerDataset:
    return TransformerDataset(TokenStore.from_token_ids(range(n), vocab_size=n), seq_length=seq_length)


def test_rows_tokenized_when_asked_for_are_those_of_the_store(tokenizer, sentences) -> None:
    stored = TransformerDataset(TokenStore.from_documents(sentences, tokenizer), tokenizer, 64, chunking="per_document")
    asked = TokenizedRows(sentences, tokenizer, 64)
    assert len(asked) == len(stored) == len(sentences)
    for row, same in zip(asked, stored, strict=True):
        for name in ("input_ids", "labels"):
            assert row[name].dtype == torch.int64
            assert torch.equal(row[name], same[name])


def test_a_text_of_exactly_one_row_fits_and_one_token_more_is_refused(tokenizer: MicroTransformerTokenizer) -> None:
    n_targets = len(tokenizer.token_ids("The cat sat on the mat.")) - 1
    row = TokenizedRows(["The cat sat on the mat."], tokenizer, n_targets)[0]
    assert row["labels"][-1] == tokenizer.sep_token_id
    with pytest.raises(ValueError, match=f"raise seq_length to {n_targets}"):
        TokenizedRows(["The cat sat on the mat."], tokenizer, n_targets - 1)[0]


def test_waiting_rows_wait_once_for_a_batch_and_give_the_same_rows() -> None:
    rows = numbers()
    waiting = WaitingRows(rows, 0.02)
    started = time.perf_counter()
    batches = list(DataLoader(waiting, batch_size=5, collate_fn=collate_rows))
    took = time.perf_counter() - started
    assert took >= 0.02 * len(batches) - 0.005, "each batch waits"
    assert len(batches) == 2 and len(waiting) == 10
    for batch, same in zip(batches, DataLoader(rows, batch_size=5, collate_fn=collate_rows), strict=True):
        assert torch.equal(batch["input_ids"], same["input_ids"])


def test_waiting_backwards_is_refused() -> None:
    with pytest.raises(ValueError, match=r"seconds=-0\.1"):
        WaitingRows(numbers(), -0.1)


def test_noise_is_drawn_in_three_ways() -> None:
    rows = NoisyRows(8, seed=3)
    torch.manual_seed(0)
    first = torch.stack([rows[i] for i in range(8)])
    torch.manual_seed(0)
    again = torch.stack([rows[i] for i in range(8)])
    fresh = torch.stack([NoisyRows(8, seed=3)[i] for i in range(8)])
    assert first[:, 0].tolist() == list(range(8))
    assert not torch.equal(first[:, 1], again[:, 1]), "the dataset's own generator has gone on"
    assert len(set(fresh[:, 1].tolist())) == 1, "each copy of it starts at the same place"
    assert torch.equal(first[:, 2], again[:, 2]), "the global generator was seeded again"
    assert torch.equal(first[:, 3], again[:, 3]) and torch.equal(first[:, 3], fresh[:, 3])
    assert len(set(first[:, 3].tolist())) > 4


def test_keyed_noise_depends_on_seed_and_epoch() -> None:
    def keyed(seed: int, epoch: int) -> list[int]:
        rows = NoisyRows(8, seed=seed)
        rows.epoch = epoch
        return [int(rows[i][3]) for i in range(8)]

    assert keyed(0, 1) != keyed(1, 0)
    assert keyed(0, 1) != keyed(0, 0)


@pytest.mark.parametrize("name", ["tokenized", "waiting", "noisy"])
def test_every_dataset_travels_to_a_worker(name: str, tokenizer: MicroTransformerTokenizer) -> None:
    made: dict[str, Dataset] = {
        "tokenized": TokenizedRows(["a cat", "a mat"], tokenizer, 8),
        "waiting": WaitingRows(numbers(), 0.0),
        "noisy": NoisyRows(2),
    }
    dataset = made[name]
    arrived = pickle.loads(pickle.dumps(dataset))
    assert type(arrived) is type(dataset) and type(dataset).__module__ == "mt_core.lab.slow_rows"
    assert len(arrived) == len(dataset)


def test_workers_can_be_silenced_and_are_heard_again(capfd: pytest.CaptureFixture[str]) -> None:
    with silent_workers():
        os.write(2, b"unheard\n")
    os.write(2, b"heard\n")
    assert capfd.readouterr().err == "heard\n"
    with pytest.raises(KeyError), silent_workers():
        raise KeyError
    os.write(2, b"heard\n")
    assert capfd.readouterr().err == "heard\n"
