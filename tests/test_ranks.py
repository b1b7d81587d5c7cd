"""Many ranks: together they read, step by step, what one process alone would read. No process is started here."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mt_core import LoaderStateError, TokenLoader, TokenStore, TransformerDataset, create_dataloaders
from mt_core.order import data_ranks

SIZES = (1, 2, 4, 8)


def corpus(n_rows: int) -> TransformerDataset:
    store = TokenStore.from_token_ids(range(4 * n_rows + 1), vocab_size=4 * n_rows + 1)
    return TransformerDataset(store, seq_length=4)


def rows_of(batch) -> list[int]:
    """The numbers of the rows that have a target."""
    return [int(row[0]) // 4 for row, labels in zip(batch["input_ids"], batch["labels"], strict=True) if labels[0] >= 0]


def batches(dataset, world_size: int, **settings) -> list[list[list[int]]]:
    """Rows by rank and step of two epochs."""
    loaders = [TokenLoader(dataset, rank=r, world_size=world_size, **settings) for r in range(world_size)]
    return [[rows_of(batch) for _ in range(2) for batch in loader] for loader in loaders]


@given(st.integers(1, 70), st.sampled_from([8, 16]), st.booleans(), st.booleans(), st.integers(0, 3))
def test_the_union_of_the_ranks_is_the_batch_of_one_process(n_rows, batch_size, shuffle, drop_last, seed) -> None:
    if drop_last and n_rows < batch_size:
        return
    dataset = corpus(n_rows)
    settings = {"batch_size": batch_size, "shuffle": shuffle, "drop_last": drop_last, "seed": seed}
    (alone,) = batches(dataset, 1, **settings)
    for world_size in SIZES[1:]:
        ranks = batches(dataset, world_size, **settings)
        assert {len(steps) for steps in ranks} == {len(alone)}, "all take equally many steps"
        for step, expected in enumerate(alone):
            assert [row for rank in ranks for row in rank[step]] == expected
            full = len(expected) == batch_size
            assert all(len(rank[step]) == batch_size // world_size for rank in ranks) or not full
    if not drop_last:
        assert sorted(row for step in alone for row in step) == sorted(2 * list(range(n_rows))), "each counts once"


def test_what_fills_up_the_last_step_has_no_target_and_the_shape_of_the_others() -> None:
    last = [list(TokenLoader(corpus(9), batch_size=8, rank=rank, world_size=4))[-1] for rank in range(4)]
    assert [batch["input_ids"].shape for batch in last] == [(2, 4)] * 4
    assert [int((batch["labels"] >= 0).sum()) for batch in last] == [4, 0, 0, 0]
    loader = TokenLoader(corpus(9), batch_size=8, rank=3, world_size=4)
    assert len(loader) == 2 and loader.batch_size == 2 and loader.global_batch_size == 8


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_rank_reads_the_same_with_workers(num_workers: int) -> None:
    settings = {"batch_size": 4, "shuffle": True, "rank": 1, "world_size": 2}
    loader = TokenLoader(corpus(10), num_workers=num_workers, **settings)
    got = [batch["input_ids"].tolist() for batch in loader]
    assert got == [batch["input_ids"].tolist() for batch in TokenLoader(corpus(10), **settings)]
    assert len(got) == 3


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (2, 8), (8, 2)])
def test_resume_on_another_number_of_ranks(before: int, after: int) -> None:
    dataset, settings = corpus(50), {"batch_size": 8, "shuffle": True, "seed": 3}
    (whole,) = batches(dataset, 1, **settings)
    old = [TokenLoader(dataset, rank=r, world_size=before, **settings) for r in range(before)]
    running = [iter(loader) for loader in old]
    for _ in range(3):
        [next(one) for one in running]
    states = [loader.state_dict() for loader in old]
    assert all(state == states[0] for state in states) and states[0]["samples_delivered"] == 24
    new = [TokenLoader(dataset, rank=r, world_size=after, **settings) for r in range(after)]
    for loader in new:
        loader.load_state_dict(states[0])
    rest = [[rows_of(batch) for _ in range(2) for batch in loader] for loader in new]
    for step, expected in enumerate(whole[3:]):
        assert [row for rank in rest for row in rank[step]] == expected


@pytest.mark.parametrize(
    ("batch_size", "world_size", "near"), [(10, 4, "use 8 or 12"), (3, 8, "use 8,"), (17, 16, "use 16 or 32")]
)
def test_a_batch_that_cannot_be_shared_equally_is_refused_with_the_nearest_that_can(batch_size, world_size, near):
    with pytest.raises(
        ValueError, match=f"batch_size={batch_size} cannot be shared equally by {world_size} ranks: {near}"
    ):
        TokenLoader(corpus(50), batch_size=batch_size, rank=0, world_size=world_size)


@pytest.mark.parametrize(("rank", "world_size"), [(0, None), (None, 2), (2, 2), (-1, 2), (0, 0), (0.0, 2), (True, 2)])
def test_ranks_that_do_not_exist(rank, world_size) -> None:
    with pytest.raises(ValueError, match=f"rank={rank!r}, world_size={world_size!r}: whole numbers with"):
        data_ranks(rank, world_size)


def test_ranks_come_from_torch_distributed_where_it_runs(monkeypatch) -> None:
    assert data_ranks() == (0, 1)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 3)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    assert data_ranks() == (3, 4) and data_ranks(0, 2) == (0, 2)
    store = TokenStore.from_token_ids(range(65), vocab_size=65)
    train, val = create_dataloaders(store, TokenStore.from_token_ids(range(9), vocab_size=65), None, 8, 4)
    assert (train.rank, train.world_size, train.batch_size, len(train), len(val)) == (3, 4, 2, 2, 1)


def test_provenance_names_the_rank() -> None:
    dataset = TransformerDataset(TokenStore.from_token_ids(range(65), vocab_size=65), seq_length=4, provenance=True)
    batch = next(iter(TokenLoader(dataset, batch_size=4, rank=1, world_size=2)))
    assert batch["provenance"][:, 2].tolist() == [1, 1] and batch["provenance"][:, 0].tolist() == [2, 3]


def test_a_resumed_rank_refuses_a_place_inside_a_batch() -> None:
    loader = TokenLoader(corpus(50), batch_size=8, rank=0, world_size=2)
    state = {**loader.state_dict(), "samples_delivered": 12}
    with pytest.raises(LoaderStateError, match="12 samples were delivered, not a whole number of batches of 8"):
        loader.load_state_dict(state)


def test_the_mean_over_ranks_weighs_each_target_once() -> None:
    """Sums over ranks and their number of targets give the mean of one process, whatever fills the last step."""
    dataset = corpus(13)
    for world_size in SIZES:
        total = count = 0
        for rank in range(world_size):
            for batch in TokenLoader(dataset, batch_size=8, rank=rank, world_size=world_size):
                real = batch["labels"][batch["labels"] != -100]
                total, count = total + int(real.sum()), count + len(real)
        assert (total, count) == (int(np.arange(1, 53).sum()), 52)
