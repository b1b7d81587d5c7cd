"""Batches of rows of about one length: few shapes, little padding, each row once, resumable like any other."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt_core import LoaderStateError, TokenLoader, TokenStore, TransformerDataset, create_dataloaders
from mt_core.order import NO_ROW, BucketBatches


def corpus(n_documents: int = 60, seq_length: int = 32, length_buckets=4, seed: int = 0) -> TransformerDataset:
    lengths = np.random.default_rng(seed).integers(2, 34, n_documents)
    ends = np.cumsum(lengths)
    store = TokenStore.from_token_ids(range(ends[-1]), vocab_size=20_000, document_ends=ends, pad_token_id=19_999)
    return TransformerDataset(store, seq_length=seq_length, chunking="per_document", length_buckets=length_buckets)


def rows(batch) -> list[int]:
    return batch["document_ids"].amax(1).tolist()  # a row a document, and -1 for no row


def test_a_batch_by_hand() -> None:
    """Rows of 1, 2, 3, 4 tokens and 4 again, buckets 2 and 4, a budget of 8: four rows of 2, or two rows of 4."""
    order = BucketBatches(np.array([1, 4, 2, 3, 4]), (2, 4), 8, seed=0, shuffle=False)
    assert list(order) == [[0, 2], [1, 3], [4]] and len(order) == 3
    assert order.samples(0).tolist() == [0, 2, 4, 5]
    order = BucketBatches(np.array([1, 4, 2, 3, 4]), (2, 4), 8, seed=0, shuffle=False, drop_last=True)
    assert list(order) == [[1, 3]]


@given(st.integers(1, 80), st.integers(32, 200), st.booleans(), st.integers(0, 2**63), st.integers(0, 5))
def test_each_row_once_within_the_budget_in_a_few_shapes(n_documents, budget, shuffle, seed, epoch) -> None:
    dataset = corpus(n_documents)
    loader = TokenLoader(dataset, token_budget=budget, shuffle=shuffle, seed=seed)
    loader.set_epoch(epoch)
    seen, shapes = [], set()
    for batch in loader:
        n_rows, length = batch["input_ids"].shape
        assert n_rows * length <= budget
        assert length in (8, 16, 24, 32)
        tokens = (batch["document_ids"] >= 0).sum(1)
        assert (tokens > length - 8).all(), "no row would have fitted the bucket before"
        shapes.add((length, n_rows))
        seen += rows(batch)
    assert sorted(seen) == list(range(n_documents))
    assert len(shapes) <= 8, "at most a full and an incomplete batch for each bucket"


def test_it_saves_padding() -> None:
    dataset = corpus(500)
    bucketed = sum(batch["input_ids"].numel() for batch in TokenLoader(dataset, token_budget=512))
    targets = sum(int((batch["labels"] >= 0).sum()) for batch in TokenLoader(dataset, token_budget=512))
    assert targets == len(dataset.store) - dataset.store.n_documents
    assert targets / bucketed > 0.75 > 0.6 > targets / (len(dataset) * 32)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    dataset = corpus()

    def epochs(**settings) -> list[list[int]]:
        loader = TokenLoader(dataset, token_budget=128, shuffle=True, **settings)
        return [rows(batch) for _ in range(2) for batch in loader]

    first = epochs(seed=1)
    assert first == epochs(seed=1) == epochs(seed=1, num_workers=1)
    assert first != epochs(seed=2)
    together = [{frozenset(batch) for batch in half} for half in (first[: len(first) // 2], first[len(first) // 2 :])]
    assert len(together[0] & together[1]) < 3, "another epoch puts other rows together"


@pytest.mark.parametrize("num_workers", [0, 1])
def test_resume_at_any_batch(num_workers: int) -> None:
    dataset, settings = corpus(), {"token_budget": 128, "shuffle": True, "seed": 1}
    loader = TokenLoader(dataset, **settings)
    whole = [[rows(batch) for batch in loader] for _ in range(2)]
    for stop in (0, 1, len(whole[0]) // 2, len(whole[0])) if num_workers == 0 else (2,):
        loader = TokenLoader(dataset, **settings)
        running = iter(loader)
        for _ in range(stop):
            next(running)
        state = json.loads(json.dumps(loader.state_dict()))
        assert state["samples_delivered"] == sum(map(len, whole[0][:stop]))
        again = TokenLoader(dataset, **settings, num_workers=num_workers)
        again.load_state_dict(state)
        rest = [rows(batch) for batch in again]
        assert rest == (whole[0][stop:] or whole[1])
    with pytest.raises(LoaderStateError, match="samples do not end with a batch here"):
        TokenLoader(dataset, **settings).load_state_dict({**state, "samples_delivered": 1})


def test_resuming_with_other_batches_is_refused_at_any_batch() -> None:
    """Their order is another: rows would be missed and repeated, unseen where a batch of both ends at this place."""
    dataset, budget = corpus(), {"token_budget": 96}  # batches of 12, 6, 4 and 3 rows; on two ranks of 12, 6, 4 and 2
    loader = TokenLoader(dataset, **budget)
    others = ({"token_budget": 128}, {**budget, "drop_last": True}, {**budget, "rank": 0, "world_size": 2})
    for _ in loader:
        for other in (*others, {"batch_size": 1}):
            with pytest.raises(LoaderStateError, match=r"taken with bucket_batches=\[\[12, 2\], \[6, 2\], "):
                TokenLoader(dataset, **other).load_state_dict(loader.state_dict())
    with pytest.raises(LoaderStateError, match="taken with bucket_batches=None"):
        loader.load_state_dict(TokenLoader(dataset, batch_size=1).state_dict())


def test_resuming_on_other_ranks_that_share_the_same_batches() -> None:
    dataset, budget = corpus(), {"token_budget": 256, "shuffle": True}  # batches of up to 32, 16, 10 and 8 rows
    loader = TokenLoader(dataset, **budget)
    running = iter(loader)
    next(running)
    parts = [TokenLoader(dataset, **budget, rank=rank, world_size=2) for rank in range(2)]
    for part in parts:
        part.load_state_dict(loader.state_dict())
    for whole, *shares in zip(running, *parts, strict=True):
        assert rows(whole) == [row for share in shares for row in rows(share) if row >= 0]


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_each_batch(world_size: int) -> None:
    dataset, settings = corpus(), {"token_budget": 32 * 8, "shuffle": True}
    ranks = [TokenLoader(dataset, **settings, rank=r, world_size=world_size) for r in range(world_size)]
    steps = [[rows(batch) for batch in loader] for loader in ranks]
    assert len({len(one) for one in steps}) == 1
    seen = [row for one in steps for batch in one for row in batch]
    lengths = np.array([len(batch) for one in steps for batch in one]).reshape(world_size, -1)
    assert (lengths == lengths[0]).all(), "the same number of rows for each rank"
    assert sorted(row for row in seen if row >= 0) == list(range(60))
    order = BucketBatches(np.array([3, 3, 3]), (4,), 8, seed=0, shuffle=False, rank=1, world_size=2)
    assert list(order) == [[1], [NO_ROW]]


def test_settings_that_cannot_work() -> None:
    with pytest.raises(ValueError, match="token_budget=31 does not hold one row of 32 tokens for each of 1 rank: give"):
        TokenLoader(corpus(), token_budget=31)
    with pytest.raises(ValueError, match="each of 2 ranks: give at least 64"):
        TokenLoader(corpus(), token_budget=63, rank=0, world_size=2)
    with pytest.raises(ValueError, match="token_budget needs length_buckets"):
        TokenLoader(corpus(length_buckets=None), token_budget=64)
    with pytest.raises(ValueError, match=r"length_buckets=\(8, 16\) must increase and end with seq_length=32"):
        corpus(length_buckets=(8, 16))
    with pytest.raises(ValueError, match="contiguous rows are full"):
        TransformerDataset(TokenStore.from_token_ids(range(99), vocab_size=99), seq_length=8, length_buckets=2)
    full = TokenStore.from_token_ids(range(99), vocab_size=99), TokenStore.from_token_ids(range(98), vocab_size=99)
    with pytest.raises(ValueError, match=r"^token_budget goes with rows that are padded .*: contiguous rows are full"):
        create_dataloaders(*full, None, seq_length=8, token_budget=64)
    with pytest.raises(ValueError, match="length_buckets=0, a whole number"):
        corpus(length_buckets=0)
    with pytest.raises(ValueError, match="no batch of token_budget=3200 is full"):
        TokenLoader(corpus(), token_budget=3200, drop_last=True)


def test_create_dataloaders_makes_buckets_for_a_budget() -> None:
    train, val = corpus().store, corpus(seed=1).store
    loaders = create_dataloaders(train, val, None, seq_length=32, chunking="per_document", token_budget=256)
    assert [loader.dataset.length_buckets for loader in loaders] == [(8, 16, 24, 32)] * 2
    assert {batch["input_ids"].shape[1] for loader in loaders for batch in loader} <= {8, 16, 24, 32}
