"""Several sources by weight: exact proportions at every place, epochs of their own, and resume without history."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import starts_workers
from hypothesis import given
from hypothesis import strategies as st

from mt_core import (
    LoaderStateError,
    MicroTransformerTokenizer,
    TokenLoader,
    TokenStore,
    TransformerDataset,
    create_dataloaders,
)
from mt_core.augment import OffsetJitter, TokenMasking
from mt_core.mixing import Mix, MixedDataset, whole_weights
from mt_core.order import epoch_rows, permute

weights_of_a_mix = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def source(n_rows: int, first: int, **settings: Any) -> TransformerDataset:
    """Rows of 4 whose first input is `first + 4 * row`: it says which row of which source it is."""
    ids = np.arange(first, first + n_rows * 4 + 1)
    return TransformerDataset(TokenStore.from_token_ids(ids, vocab_size=10_000), seq_length=4, **settings)


def mixed(*sizes_and_weights: tuple[int, float], n_samples: int | None = None, **settings: Any) -> MixedDataset:
    """Source s has first inputs from 1000 s on."""
    parts = [(source(n, 1000 * s, **settings), weight) for s, (n, weight) in enumerate(sizes_and_weights)]
    return MixedDataset(parts, n_samples=n_samples)


def pairs(loader: TokenLoader) -> list[list[tuple[int, int]]]:
    """(source, row) in each batch of a pass."""
    firsts = [batch["input_ids"][:, 0] for batch in loader]
    return [[(int(first) // 1000, int(first) % 1000 // 4) for first in batch] for batch in firsts]


def flat(batches: list[list[Any]]) -> list[Any]:
    return [one for batch in batches for one in batch]


# -- the rule -----------------------------------------------------------------------------------------------


def test_three_to_two_by_hand() -> None:
    """The first of source 0 must come within 2 places, its second within 4; of source 1 within 3 and 5."""
    sources, earlier = Mix((3, 2)).at(np.arange(7))
    assert sources.tolist() == [0, 1, 0, 0, 1, 0, 1]
    assert earlier.tolist() == [0, 0, 1, 2, 1, 3, 2]


@given(weights_of_a_mix)
def test_every_prefix_has_the_exact_proportions(weights: list[int]) -> None:
    """After n places, each source came n w / W times, rounded down or up; and W places are one cycle."""
    total = sum(weights)
    sources, earlier = Mix(weights).at(np.arange(2 * total + 3))
    seen = [0] * len(weights)
    for n, (one, before) in enumerate(zip(sources.tolist(), earlier.tolist(), strict=True), 1):
        assert before == seen[one]
        seen[one] += 1
        for count, weight in zip(seen, weights, strict=True):
            assert n * weight // total <= count <= -(-n * weight // total), (n, seen)
        if n in (total, 2 * total):
            assert seen == [n // total * weight for weight in weights]


@given(weights_of_a_mix, st.integers(0, 10**15))
def test_a_far_place_needs_no_history(weights: list[int], position: int) -> None:
    mix, total = Mix(weights), sum(weights)
    sources, earlier = mix.at(position + np.arange(total))
    near, before = mix.at(position % total + np.arange(total))
    assert np.array_equal(sources, near)
    assert np.array_equal(earlier - before, position // total * np.array(weights)[sources])
    for one, sample, place in zip(sources.tolist(), earlier.tolist(), range(position, position + total), strict=True):
        assert mix.position(one, sample) == place


@pytest.mark.parametrize(
    ("weights", "whole"),
    [
        ([30, 10], (3, 1)),
        ([0.7, 0.3], (7, 3)),
        ([1 / 3, 2 / 3], (1, 2)),
        ([Fraction(1, 6), 0.5], (1, 3)),
        ([1], (1,)),
        ([0.001, 1], (1, 1000)),
    ],
)
def test_weights_become_whole_numbers(weights: list[float], whole: tuple[int, ...]) -> None:
    assert whole_weights(weights) == whole


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), "1", True, None])
def test_a_weight_is_a_positive_number(wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"weight {wrong!r}: a positive number is needed"):
        whole_weights([1, wrong])


def test_weights_that_are_too_unlike() -> None:
    with pytest.raises(ValueError, match=r"weight 0\.0004 is 0 to the nearest thousandth: make all weights larger"):
        whole_weights([1, 0.0004])
    with pytest.raises(ValueError, match=r"are 997000, 1 in whole numbers, with sum 997,001; up to 65,536 are"):
        whole_weights([1000 - 3, 0.001])


# -- the stream ---------------------------------------------------------------------------------------------


def test_an_epoch_in_order_by_hand() -> None:
    loader = TokenLoader(mixed((4, 2), (1, 1)), batch_size=3)
    assert pairs(loader) == [[(0, 0), (0, 1), (1, 0)], [(0, 2), (0, 3)]], "an epoch is one of the first source"
    assert pairs(loader) == [[(1, 0), (0, 0), (0, 1)], [(1, 0), (0, 2)]], "and the next goes on where it ended"
    assert len(loader) == 2 and len(mixed((4, 2), (1, 1))) == 5


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 5)), min_size=1, max_size=4),
    st.integers(1, 30),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_each_source_is_read_in_epochs_of_its_own(
    parts: list[tuple[int, int]], n_samples: int, batch_size: int, seed: int
) -> None:
    """Whatever the sizes: the samples of a source, taken by themselves, are its shuffled epochs one after another."""
    loader = TokenLoader(mixed(*parts, n_samples=n_samples), batch_size=batch_size, shuffle=True, seed=seed)
    stream = flat([batch for _ in range(3) for batch in pairs(loader)])
    assert len(stream) == 3 * n_samples
    for number, (n, _) in enumerate(parts):
        rows = [row for one, row in stream if one == number]
        for epoch in range(len(rows) // n + 1):
            expected = permute(np.arange(n), n, (seed, epoch, number)).tolist()
            assert rows[epoch * n : (epoch + 1) * n] == expected[: len(rows[epoch * n : (epoch + 1) * n])]


def test_a_source_alone_differs_from_two_that_are_alike() -> None:
    """Two sources of one size are not read in the same order."""
    stream = flat(pairs(TokenLoader(mixed((50, 1), (50, 1)), batch_size=10, shuffle=True)))
    orders = [[row for one, row in stream if one == number] for number in (0, 1)]
    assert (
        orders[0][:49] != orders[1][:49] and orders[0] != epoch_rows(0, 50, 50, seed=0, epoch=0, shuffle=False).tolist()
    )


@given(st.integers(0, 7), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]))
def test_resume_anywhere_on_any_number_of_ranks(after: int, before: int, now: int) -> None:
    """In the second epoch of the mix, where the small source is in its third or later."""
    settings: dict[str, Any] = {"batch_size": 4, "shuffle": True, "seed": 5}
    data = mixed((20, 3), (3, 1.5), (7, 0.5))
    whole = TokenLoader(data, **settings)
    list(whole)
    expected = pairs(whole)
    ranks = [TokenLoader(data, rank=rank, world_size=before, **settings) for rank in range(before)]
    for loader in ranks:
        list(loader)
        running = iter(loader)
        for _ in range(after):
            next(running)
        running.close()
    state = json.loads(json.dumps(ranks[0].state_dict()))
    assert all(json.loads(json.dumps(loader.state_dict())) == state for loader in ranks)
    again = [TokenLoader(data, rank=rank, world_size=now, **settings) for rank in range(now)]
    for loader in again:
        loader.load_state_dict(state)
    parts = [[batch for batch in loader] for loader in again]
    for step, rows in enumerate(expected[after:]):
        real = [
            b for part in parts for b in zip(part[step]["input_ids"][:, 0].tolist(), part[step]["labels"], strict=True)
        ]
        got = [(first // 1000, first % 1000 // 4) for first, labels in real if (labels >= 0).any()]
        assert got == rows
    assert len(parts[0]) == len(expected) - after


@pytest.mark.parametrize("other", [((20, 2), (3, 1)), ((20, 3), (4, 1)), ((20, 3),)])
def test_resume_with_another_mix_is_refused(other: tuple[tuple[int, float], ...]) -> None:
    state = TokenLoader(mixed((20, 3), (3, 1))).state_dict()
    with pytest.raises(LoaderStateError, match="the state was taken with mix="):
        TokenLoader(mixed(*other)).load_state_dict(state)
    with pytest.raises(LoaderStateError, match=r"n_samples=26, this loader has n_samples=7"):
        TokenLoader(mixed((20, 3), (3, 1), n_samples=7)).load_state_dict(state)
    with pytest.raises(LoaderStateError, match="the state was taken with corpus=None"):
        TokenLoader(source(20, 0)).load_state_dict(state)


@starts_workers
def test_workers_change_nothing() -> None:
    settings: dict[str, Any] = {"batch_size": 4, "shuffle": True, "seed": 2}
    expected = pairs(TokenLoader(mixed((30, 2), (5, 1)), **settings))
    if sys.platform == "win32":
        settings["start_method"] = "spawn"
    assert pairs(TokenLoader(mixed((30, 2), (5, 1)), num_workers=1, **settings)) == expected


def test_the_incomplete_last_batch_is_dropped_and_missing_rows_have_no_targets() -> None:
    loader = TokenLoader(mixed((5, 1), (5, 1)), batch_size=4, drop_last=True)
    assert [len(batch) for batch in pairs(loader)] == [4, 4]
    last = [list(TokenLoader(mixed((5, 1), (5, 1)), batch_size=4, rank=r, world_size=4))[-1] for r in range(4)]
    assert [int((batch["labels"] >= 0).sum()) for batch in last] == [4, 0, 0, 0]


def test_provenance_names_row_and_epoch_of_the_source() -> None:
    data = mixed((4, 2), (1, 1), provenance=True)
    loader = TokenLoader(data, batch_size=3)
    list(loader), list(loader)
    batch = next(iter(loader))
    origin = batch["provenance"].numpy()
    assert origin.tolist() == [[3, 1, 0, -1], [4, 3, 0, -1], [0, 2, 0, -1]]
    sources, epochs, rows = data.locate(origin[:, 1] * len(data) + origin[:, 0])
    assert (sources.tolist(), epochs.tolist(), rows.tolist()) == ([0, 1, 0], [1, 3, 2], [3, 0, 0])
    (missing,) = list(TokenLoader(data, batch_size=8, rank=7, world_size=8))
    assert missing["provenance"].tolist() == [[-1, 0, 7, -1]]


def test_augmented_sources_are_in_their_own_epochs() -> None:
    """A row that comes twice in one epoch of the mix is augmented twice, otherwise each time."""
    tokenizer = MicroTransformerTokenizer.train(["some text"], vocab_size=260)
    store = TokenStore.from_token_ids(np.arange(10, 43) % 250 + 10, vocab_size=260)
    parts = [
        TransformerDataset(store, tokenizer, 32, augment=[TokenMasking(rate=0.5)], seed=3),
        TransformerDataset(store, tokenizer, 32),
    ]
    data = MixedDataset([(parts[0], 1), (TransformerDataset(store, tokenizer, 32, seed=3), 1)], n_samples=4)
    batches = [batch["input_ids"][0] for batch in TokenLoader(data, batch_size=1, seed=3)]
    assert torch.equal(batches[0], parts[0].gather(np.array([0]))["input_ids"][0])
    assert torch.equal(batches[2], parts[0].gather(np.array([len(parts[0])]))["input_ids"][0])
    assert not torch.equal(batches[0], batches[2]) and torch.equal(batches[1], batches[3])
    with pytest.raises(ValueError, match="the dataset augments with seed=3, the loader has seed=0"):
        TokenLoader(data, batch_size=1)


def test_one_line_turns_it_on(tokenizer: MicroTransformerTokenizer, write_jsonl: Callable[..., Path]) -> None:
    a, b, val = (write_jsonl(f"{name}.jsonl", [f"Text {name} number {n}." for n in range(30)]) for name in "abv")
    train, val_loader = create_dataloaders([(a, 3), (str(b), 1)], val, tokenizer, 4, 16, augment=[OffsetJitter()])
    assert isinstance(train.dataset, MixedDataset) and isinstance(val_loader.dataset, TransformerDataset)
    assert train.dataset.weights == (3, 1) and not val_loader.dataset.augment
    numbers = [number for block in train.order.blocks(1) for number in block.tolist()]  # type: ignore[union-attr]
    counts = Counter(train.dataset.locate(np.array(numbers))[0].tolist())
    assert abs(counts[0] - 3 * counts[1]) <= 3 and len(list(train)) == len(train)
    with pytest.raises(ValueError, match="train and validation are the same text"):
        create_dataloaders([(a, 3), (val, 1)], val, tokenizer, 4, 16)


def test_it_is_a_dataset_of_its_rows() -> None:
    data = mixed((3, 1), (2, 5))
    assert [int(data[i]["input_ids"][0]) for i in range(5)] == [0, 4, 8, 1000, 1004]
    assert int(data[-1]["input_ids"][0]) == 1004
    with pytest.raises(IndexError, match="row 5 does not exist: rows go from 0 to 4"):
        data[5]


def test_sources_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="there is nothing to mix: pass"):
        MixedDataset([])
    one = source(3, 0)
    for wrong in ([one, one], [(1, one)], [(one.store, 1)], [(MixedDataset([(one, 1)]), 1)]):
        with pytest.raises(ValueError, match=r"a mix holds .*: pairs of a TransformerDataset and a weight are needed"):
            MixedDataset(wrong)
    other = TransformerDataset(one.store, seq_length=3)
    with pytest.raises(ValueError, match="the first source has seq_length=4, source 2 has 3: they must agree"):
        MixedDataset([(one, 1), (other, 1)])
    other = TransformerDataset(one.store, seq_length=4, mask_documents=True)
    with pytest.raises(ValueError, match="the first source has tensors="):
        MixedDataset([(one, 1), (other, 1)])
    with pytest.raises(ValueError, match="n_samples=0, a whole number of at least 1 is needed"):
        MixedDataset([(one, 1)], n_samples=0)
    with pytest.raises(ValueError, match="token_budget does not go with several sources"):
        TokenLoader(MixedDataset([(one, 1)]), token_budget=100)
    with pytest.raises(ValueError, match=r"corpus has 3 rows of seq_length=4, fewer than one batch of batch_size=4"):
        TokenLoader(MixedDataset([(one, 1)]), batch_size=4, drop_last=True)
