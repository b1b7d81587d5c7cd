"""Rows to batches: the same stream whatever the workers, a new order each epoch, and resume that misses nothing."""

import inspect
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import is_alive, starts_workers, stream
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mt_core import (
    LoaderStateError,
    MicroTransformerTokenizer,
    TokenLoader,
    TransformerDataset,
    create_dataloaders,
)
from mt_core import token_loader as loaders_module
from mt_core.order import epoch_rows
from mt_core.workers import choose_pinning, choose_workers, main_module_hidden


def create(n_rows: int = 10, **settings: object) -> TokenLoader:
    """A shuffled loader over rows of 4 tokens, batches of 3, unless `settings` say otherwise."""
    if sys.platform == "win32" and "num_workers" in settings:
        settings = {"start_method": "spawn", **settings}  # there, workers are for those who ask twice
    return TokenLoader(
        TransformerDataset(stream(n_rows * 4 + 1), seq_length=4),
        **{"batch_size": 3, "shuffle": True, "seed": 7, **settings},  # type: ignore[arg-type]
    )


def create_at(epoch: int, **settings: object) -> TokenLoader:
    """As `create`, before that epoch."""
    loader = create(**settings)  # type: ignore[arg-type]
    loader.set_epoch(epoch)
    return loader


def rows_of(batches: Iterable[dict[str, torch.Tensor]]) -> list[list[int]]:
    """The row numbers in each batch."""
    return [(batch["input_ids"][:, 0] // 4).tolist() for batch in batches]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


# -- create_dataloaders -------------------------------------------------------------------------------------


@pytest.fixture
def paths(write_jsonl: Callable[[str, Iterable[str]], Path]) -> tuple[Path, Path]:
    return (
        write_jsonl("train.jsonl", [f"Sentence number {n} of the training text." for n in range(40)]),
        write_jsonl("val.jsonl", [f"And sentence number {n} of the other text." for n in range(11)]),
    )


def test_the_signature_of_the_source_document() -> None:
    parameters = inspect.signature(create_dataloaders).parameters
    positional = {name: p.default for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD}
    needed = inspect.Parameter.empty
    assert positional == {
        "train_path": needed,
        "val_path": needed,
        "tokenizer": needed,
        "batch_size": 16,
        "seq_length": 128,
        "num_workers": 0,
    }
    dataset = [
        p for p in inspect.signature(TransformerDataset).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    assert [p.name for p in dataset] == ["source", "tokenizer", "seq_length"] and dataset[2].default == 128


def test_the_example_of_the_source_document(tokenizer: MicroTransformerTokenizer, paths: tuple[Path, Path]) -> None:
    train_loader, val_loader = create_dataloaders(
        train_path=str(paths[0]), val_path=str(paths[1]), tokenizer=tokenizer, batch_size=4, seq_length=16
    )
    for loader in (train_loader, val_loader):
        assert isinstance(loader, DataLoader)
        batches = list(loader)
        assert len(batches) == len(loader) > 2
        for batch in batches[:-1]:
            assert batch["input_ids"].shape == batch["labels"].shape == (4, 16)
            assert batch["input_ids"].dtype == batch["labels"].dtype == torch.int64
            after, label = batch["input_ids"][:, 1:], batch["labels"][:, :-1]
            assert ((label == after) | (label == -100)).all()
            assert batch["labels"].view(-1).shape == (64,)


def test_train_is_shuffled_and_even_validation_in_order_and_complete() -> None:
    train, val = create_dataloaders(stream(41), stream(45), None, batch_size=3, seq_length=4)
    assert (len(train.dataset), len(val.dataset)) == (10, 11)  # type: ignore[arg-type]
    rows = rows_of(train)
    assert len(train) == 3 and [len(batch) for batch in rows] == [3, 3, 3]  # the tenth row waits for another epoch
    assert flat(rows) != sorted(flat(rows))
    for _ in range(2):
        assert rows_of(val) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]]
    assert (train.drop_last, val.drop_last) == (True, False)


def test_a_text_is_tokenized_once_and_kept_beside_it(
    tokenizer: MicroTransformerTokenizer, paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = create_dataloaders(*paths, tokenizer, batch_size=4, seq_length=16)
    assert len(list((paths[0].parent / ".mt_cache").iterdir())) == 2
    monkeypatch.setattr("mt_core.cache.prepare_corpus", lambda *_, **__: pytest.fail("tokenized again"))
    again = create_dataloaders(*paths, tokenizer, batch_size=4, seq_length=16)
    for one, other in zip(first, again, strict=True):
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a["input_ids"], b["input_ids"])


def test_a_corpus_that_is_too_short_is_named(tokenizer: MicroTransformerTokenizer, paths: tuple[Path, Path]) -> None:
    paths[1].write_text('{"text": "short"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"corpus has \d tokens, .*or add text \(the corpus is .*val\.jsonl-"):
        create_dataloaders(*paths, tokenizer, batch_size=2, seq_length=16)


def test_validation_takes_each_target_once_whatever_the_training_stride() -> None:
    train, val = create_dataloaders(stream(41), stream(45), None, batch_size=3, seq_length=4, stride=1)
    assert (len(train.dataset), len(val.dataset)) == (37, 11)  # type: ignore[arg-type]
    labels = torch.cat([batch["labels"].view(-1) for batch in val])
    assert sorted(labels.tolist()) == list(range(1, 45))


def test_settings_reach_both_loaders(tokenizer: MicroTransformerTokenizer, paths: tuple[Path, Path]) -> None:
    both = create_dataloaders(
        *paths,
        tokenizer,
        2,
        16,
        2,
        seed=5,
        chunking="per_document",
        start_method="spawn",
        prefetch_factor=3,
        persistent_workers=False,
    )
    for loader in both:
        assert (loader.num_workers, loader.prefetch_factor, loader.persistent_workers) == (2, 3, False)
        assert (loader.batch_size, loader.seed) == (2, 5)
        assert isinstance(loader.dataset, TransformerDataset) and loader.dataset.chunking == "per_document"
        assert loader.multiprocessing_context.get_start_method() == loader.worker_policy.start_method == "spawn"
    assert create(num_workers=2).persistent_workers and not create().persistent_workers


# -- order --------------------------------------------------------------------------------------------------


def test_an_epoch_of_seven_rows() -> None:
    assert epoch_rows(0, 7, 7, seed=7, epoch=0, shuffle=True).tolist() == [1, 5, 3, 0, 4, 6, 2]
    assert rows_of(create(n_rows=7)) == [[1, 5, 3], [0, 4, 6], [2]]


def test_each_pass_is_a_new_order_without_set_epoch() -> None:
    loader = create(n_rows=10)
    epochs = [flat(rows_of(loader)) for _ in range(4)]
    assert all(sorted(rows) == list(range(10)) for rows in epochs)
    assert len({tuple(rows) for rows in epochs}) == 4
    assert loader.epoch == 3
    again = create(n_rows=10)
    assert [flat(rows_of(again)) for _ in range(4)] == epochs
    assert flat(rows_of(create(n_rows=10, seed=8))) != epochs[0]


def test_set_epoch_chooses_the_next_epoch_and_need_not_be_called() -> None:
    plain, framework = create(), create()
    epochs = [rows_of(plain) for _ in range(4)]
    for epoch in (0, 1, 3, 1):
        framework.set_epoch(epoch)
        assert rows_of(framework) == epochs[epoch] and framework.epoch == epoch
    assert rows_of(framework) == epochs[2]  # and goes on from there
    for wrong in (-1, 1.0, "2", True):
        with pytest.raises(ValueError, match=f"epoch={wrong!r}, a whole number from 0 is needed"):
            framework.set_epoch(wrong)  # type: ignore[arg-type]


@given(st.integers(1, 40), st.integers(1, 12), st.booleans(), st.booleans())
def test_batches_are_those_of_a_plain_dataloader(n_rows: int, size: int, shuffle: bool, drop_last: bool) -> None:
    """Without workers our loader gathers several batches at once; PyTorch's, given the same order, must agree."""
    if drop_last and n_rows < size:
        return
    ours = create(n_rows, batch_size=size, shuffle=shuffle, drop_last=drop_last)
    sampler = epoch_rows(0, n_rows, n_rows, seed=7, epoch=0, shuffle=shuffle).tolist()
    theirs = DataLoader(ours.dataset, size, sampler=sampler, drop_last=drop_last)
    found, expected = list(ours), list(theirs)
    assert len(found) == len(expected) == len(ours)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        assert all(tensor.is_contiguous() for tensor in one.values())


@pytest.mark.parametrize("per_gather", [1, 100, 1 << 20])
def test_how_many_batches_are_gathered_at_once_changes_nothing(
    per_gather: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows_of(create(n_rows=9000, batch_size=7, drop_last=True))
    monkeypatch.setattr(loaders_module, "_TOKENS_PER_GATHER", per_gather)
    assert rows_of(create(n_rows=9000, batch_size=7, drop_last=True)) == expected


@starts_workers
def test_the_order_does_not_depend_on_workers() -> None:
    """0, 1, 2 and 4 workers, over two epochs; and workers that are started anew for each."""
    reference = create(n_rows=23)
    expected = [list(reference) for _ in range(2)]
    for settings in ({"num_workers": 1, "persistent_workers": False}, {"num_workers": 2}, {"num_workers": 4}):
        loader = create(n_rows=23, **settings)
        for epoch in expected:
            batches = list(loader)
            assert rows_of(batches) == rows_of(epoch), settings
            for name in ("input_ids", "labels"):
                assert all(torch.equal(a[name], b[name]) for a, b in zip(batches, epoch, strict=True))


@starts_workers
@pytest.mark.parametrize("num_workers", [0, 2])
def test_reading_does_not_disturb_the_global_generators(num_workers: int) -> None:
    """iter(DataLoader) draws from PyTorch's generator, so that evaluating changes the training that follows."""
    plain = DataLoader(create().dataset)
    before = torch.get_rng_state()
    next(iter(plain))
    assert not torch.equal(torch.get_rng_state(), before)
    loader = create(num_workers=num_workers)
    before, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    for _ in range(2):
        list(loader)
    assert torch.equal(torch.get_rng_state(), before) and random.getstate() == python
    assert (np.random.get_state()[1] == numpy).all()


def test_the_global_generators_do_not_disturb_reading() -> None:
    torch.manual_seed(1)
    first = rows_of(create())
    torch.manual_seed(2)
    assert rows_of(create()) == first


# -- one pass at a time -------------------------------------------------------------------------------------


@starts_workers
@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_abandoned_pass_does_not_leak_into_the_next(num_workers: int) -> None:
    reference = create(n_rows=30)
    epochs = [rows_of(reference) for _ in range(2)]
    loader = create(n_rows=30, num_workers=num_workers, **({"prefetch_factor": 3} if num_workers else {}))
    assert rows_of(itertools.islice(loader, 2)) == epochs[0][:2]
    assert rows_of(loader) == epochs[1]
    assert loader.state_dict()["samples_delivered"] == 30


@starts_workers
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_second_iterator_ends_the_first(num_workers: int) -> None:
    """Both would go by one position; PyTorch's persistent workers would even hand each the other's batches."""
    epochs = create(n_rows=30)
    expected = [rows_of(epochs) for _ in range(2)]
    loader = create(n_rows=30, num_workers=num_workers)
    first = iter(loader)
    assert rows_of([next(first)]) == expected[0][:1]
    second = iter(loader)
    assert rows_of([next(second)]) == expected[1][:1]
    with pytest.raises(LoaderStateError, match=r"ended by a later iter\(loader\).*make a second loader"):
        next(first)
    assert rows_of(second) == expected[1][1:]
    assert (loader.state_dict()["epoch"], loader.state_dict()["samples_delivered"]) == (1, 30)


# -- resume -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop_last", [True, False])
def test_resume_from_every_place_misses_and_repeats_nothing(drop_last: bool) -> None:
    """Three epochs; stopped after 0, 1, 2, … batches, through JSON, into a new loader."""
    whole = create(n_rows=10, drop_last=drop_last)
    stream_of_batches = [rows for _ in range(3) for rows in rows_of(whole)]
    per_epoch = len(whole)
    for stop in range(2 * per_epoch + 1):
        old = create(n_rows=10, drop_last=drop_last)
        seen, state = [], old.state_dict()
        while len(seen) < stop:
            for batch in old:
                seen += rows_of([batch])
                state = old.state_dict()
                if len(seen) == stop:
                    break
        new = create(n_rows=10, drop_last=drop_last)
        new.load_state_dict(json.loads(json.dumps(state)))
        assert json.loads(json.dumps(new.state_dict()))["samples_delivered"] in (state["samples_delivered"], 0)
        rest = []
        while len(seen) + len(rest) < len(stream_of_batches):
            rest += rows_of(new)
        assert seen + rest == stream_of_batches, stop


@starts_workers
@pytest.mark.parametrize("before, after", [(0, 2), (2, 0)])
def test_resume_with_other_workers_counts_what_was_delivered(before: int, after: int) -> None:
    """When three batches are delivered, two workers have prefetched more: those are not lost."""
    whole = create(n_rows=30)
    expected = [rows_of(whole) for _ in range(2)]
    old = create(n_rows=30, num_workers=before, prefetch_factor=4 if before else None)
    batches = iter(old)
    assert rows_of([next(batches) for _ in range(3)]) == expected[0][:3]
    state = json.loads(json.dumps(old.state_dict()))
    assert (state["epoch"], state["samples_delivered"]) == (0, 9)
    new = create(n_rows=30, num_workers=after)
    new.load_state_dict(state)
    assert rows_of(new) == expected[0][3:]
    assert rows_of(new) == expected[1]


def test_a_state_is_plain_json_of_known_fields() -> None:
    loader = create()
    next(iter(loader))
    state = loader.state_dict()
    assert json.loads(json.dumps(state)) == state
    assert set(state) == {
        "epoch",
        "samples_delivered",
        "corpus",
        "seq_length",
        "stride",
        "chunking",
        "mask_documents",
        "length_buckets",
        "seed",
        "shuffle",
    }
    assert (state["epoch"], state["samples_delivered"], state["seed"], state["seq_length"]) == (0, 3, 7, 4)


def test_a_state_at_the_end_of_an_epoch_begins_the_next() -> None:
    old, new = create(), create()
    list(old)
    new.load_state_dict(old.state_dict())
    assert rows_of(new) == rows_of(old) and new.epoch == old.epoch == 1


def test_a_state_can_be_taken_again_before_a_batch_is_read() -> None:
    old, new, newer = create(), create(), create()
    next(iter(old))
    new.load_state_dict(old.state_dict())
    assert new.state_dict() == old.state_dict()
    newer.load_state_dict(new.state_dict())
    assert rows_of(newer) == rows_of(new)


def test_batch_size_may_change_where_the_batches_meet() -> None:
    old = create(n_rows=24, batch_size=4)
    seen = rows_of(itertools.islice(old, 3))
    new = create(n_rows=24, batch_size=6)
    new.load_state_dict(old.state_dict())
    assert flat(seen + rows_of(new)) == epoch_rows(0, 24, 24, seed=7, epoch=0, shuffle=True).tolist()
    with pytest.raises(LoaderStateError, match="12 samples were delivered, not a whole number of batches of 5"):
        create(n_rows=24, batch_size=5).load_state_dict(old.state_dict() | {"samples_delivered": 12})


def test_batch_size_may_change_between_epochs() -> None:
    """Eleven rows are 3 batches of 4, counted as twelve: no whole batches of 5 or 10, but the end of the epoch."""
    old = create(n_rows=11, batch_size=4)
    list(old)
    expected = flat(rows_of(create_at(1, n_rows=11)))
    for batch_size in (5, 10):
        new = create(n_rows=11, batch_size=batch_size)
        new.load_state_dict(old.state_dict())
        assert flat(rows_of(new)) == expected and new.epoch == 1


def test_set_epoch_during_a_pass_does_not_move_its_place() -> None:
    old, new = create(), create()
    running = iter(old)
    next(running)
    old.set_epoch(5)
    assert (old.state_dict()["epoch"], old.state_dict()["samples_delivered"]) == (5, 0), "the next pass"
    next(running)
    new.load_state_dict(old.state_dict())
    assert rows_of(new) == rows_of(running), "the pass that goes on"
    assert rows_of(old) == rows_of(create_at(5))


def test_what_is_no_dataset_is_refused_with_what_to_do() -> None:
    for wrong in ("train.jsonl", stream(9), [1, 2]):
        with pytest.raises(ValueError, match=r"^dataset=.*, a TransformerDataset or MixedDataset is needed: TokenL"):
            TokenLoader(wrong)  # type: ignore[arg-type]


def test_batch_size_may_be_a_number_of_numpy() -> None:
    loader = create(batch_size=np.int64(3))
    next(iter(loader))
    assert json.dumps(loader.state_dict()) == json.dumps(create().state_dict() | {"samples_delivered": 3})


@pytest.mark.parametrize(
    "other, name",
    [
        (lambda: create(seed=8), "seed"),
        (lambda: create(n_rows=11), "corpus"),
        (lambda: create(shuffle=False), "shuffle"),
        (lambda: TokenLoader(TransformerDataset(stream(41), seq_length=5), seed=7, shuffle=True), "seq_length"),
        (lambda: TokenLoader(TransformerDataset(stream(41), seq_length=4, stride=2), seed=7, shuffle=True), "stride"),
        (
            lambda: TokenLoader(
                TransformerDataset(stream(41), seq_length=4, chunking="per_document"), seed=7, shuffle=True
            ),
            "chunking",
        ),
    ],
    ids=["seed", "corpus", "shuffle", "seq_length", "stride", "chunking"],
)
def test_a_state_of_another_stream_is_refused(other: Callable[[], TokenLoader], name: str) -> None:
    state = create().state_dict()
    loader = other()
    with pytest.raises(LoaderStateError, match=f"taken with {name}=.* this loader has {name}=.*same data and settings"):
        loader.load_state_dict(state)
    assert loader.state_dict()["samples_delivered"] == 0


def test_a_state_is_refused_while_an_iterator_runs_and_accepted_when_it_is_done() -> None:
    """Loaded after iter(loader), it would be ignored, and the data would silently start over."""
    loader = create()
    state = loader.state_dict()
    running = iter(loader)
    with pytest.raises(LoaderStateError, match=r"is running.*call load_state_dict before iter\(loader\)"):
        loader.load_state_dict(state)
    next(running)
    with pytest.raises(LoaderStateError, match="is running"):
        loader.load_state_dict(state)
    list(running)
    loader.load_state_dict(state)
    next(iter(loader))  # dropped at once, so not running any more
    loader.load_state_dict(state)
    assert rows_of(loader) == rows_of(create())


@pytest.mark.parametrize(
    "damage", [{"epoch": -1}, {"epoch": 1.0}, {"epoch": None}, {"samples_delivered": "3"}, {"samples_delivered": True}]
)
def test_a_damaged_state_is_refused(damage: dict) -> None:
    with pytest.raises(LoaderStateError, match=r"are not whole numbers from 0"):
        create().load_state_dict(create().state_dict() | damage)
    with pytest.raises(LoaderStateError, match="taken with corpus=None"):
        create().load_state_dict({})


# -- workers and pinning ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked, system, used, method, reason",
    [
        ((0, None), "linux", 0, None, "main process"),
        ((4, None), "linux", 4, "forkserver", "not a copy of this one"),
        ((4, None), "darwin", 4, "spawn", "not a copy of this one"),
        ((4, "spawn"), "linux", 4, "spawn", "started by spawn"),
        ((4, None), "win32", 0, None, "4 workers were asked for, 0 are used: on Windows .*start_method='spawn'"),
        ((4, "spawn"), "win32", 4, "spawn", "started by spawn"),
        ((4, "forkserver"), "win32", 4, "spawn", "started by spawn"),
    ],
)
def test_the_worker_policy_and_its_reason(
    asked: tuple, system: str, used: int, method: str | None, reason: str
) -> None:
    policy = choose_workers(asked[0], start_method=asked[1], system=system)
    assert (policy.num_workers, policy.start_method) == (used, method)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(policy.reason)


def test_plain_fork_is_refused_with_its_danger() -> None:
    for system in ("linux", "darwin", "win32"):
        with pytest.raises(ValueError, match=r"'fork' copies a process .*can hang: use 'forkserver' or 'spawn'"):
            choose_workers(2, start_method="fork", system=system)
    with pytest.raises(ValueError, match="start_method='thread', it must be one of forkserver, spawn"):
        choose_workers(2, start_method="thread")
    for wrong in (-1, 2.0, "2", True):
        with pytest.raises(ValueError, match=f"num_workers={wrong!r}, a whole number from 0"):
            choose_workers(wrong)  # type: ignore[arg-type]


def test_fewer_workers_than_asked_for_are_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders_module, "choose_workers", partial(choose_workers, system="win32"))
    with pytest.warns(UserWarning, match="2 workers were asked for, 0 are used: on Windows"):
        loader = create(num_workers=2, start_method=None)
    assert loader.num_workers == 0 and rows_of(loader) == rows_of(create())


@pytest.mark.parametrize(
    "accelerator, asked, pinned",
    [
        (None, None, False),
        (None, True, False),  # PyTorch would warn and pin nothing
        ("cuda", None, True),
        ("cuda", True, True),
        ("cuda", False, False),
        ("mps", None, False),
        ("mps", True, False),
    ],
)
def test_batches_are_pinned_exactly_where_it_helps(
    accelerator: str | None, asked: bool | None, pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = torch.device(accelerator) if accelerator else None
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: device is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: device)
    assert choose_pinning(asked) is pinned
    assert create(pin_memory=asked).pin_memory is pinned


def test_batches_of_this_machine_are_pinned_if_it_has_an_accelerator_to_copy_to() -> None:
    batch = next(iter(create()))
    assert all(tensor.is_pinned() is choose_pinning(None) for tensor in batch.values())


@pytest.mark.parametrize("seed", [-1, 1.5, "1", None, True, 2**64])
def test_a_seed_is_a_whole_number(seed: object) -> None:
    with pytest.raises(ValueError, match=f"seed={seed!r}, a whole number from 0 to"):
        create(seed=seed)
    assert sorted(flat(rows_of(create(seed=2**64 - 1)))) == list(range(10))
    with pytest.raises(ValueError, match=r"seed=np\.int64\(3\), a number of Python's is needed: int\(seed\)"):
        create(seed=np.int64(3))


@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_prefetch_factor_is_a_whole_number_from_1(value: object) -> None:
    with pytest.raises(ValueError, match=f"prefetch_factor={value}, a whole number of at least 1"):
        create(num_workers=1, prefetch_factor=value)


UNGUARDED = """
import sys, warnings
warnings.simplefilter("ignore")
print("the script runs", flush=True)
from mt_core import TokenLoader, TokenStore, TransformerDataset
dataset = TransformerDataset(TokenStore.from_token_ids(range(41), vocab_size=41), seq_length=4)
for settings in ({}, {"num_workers": 1, "start_method": "spawn"}, {"num_workers": 2, "start_method": "forkserver"}):
    loader = TokenLoader(dataset, batch_size=3, shuffle=True, **settings)
    print([batch["input_ids"][:, 0].tolist() for batch in loader], flush=True)
assert sys.modules["__main__"].__file__ == __file__
"""


def test_workers_start_from_a_script_without_a_main_guard(start_script: Callable) -> None:
    """Started by spawn and by forkserver, they do not run the script again, and read the same rows."""
    script = start_script(UNGUARDED)
    out, err = script.communicate(timeout=120)
    assert script.returncode == 0, err
    first, *orders = out.splitlines()
    assert first == "the script runs" and len(orders) == 3
    assert len(set(orders)) == 1


def test_workers_import_the_main_program_only_for_what_it_defines(monkeypatch: pytest.MonkeyPatch) -> None:
    main = sys.modules["__main__"]
    with main_module_hidden(create().dataset):
        assert sys.modules["__main__"] is not main
    assert sys.modules["__main__"] is main
    own = type("Own", (TransformerDataset,), {"__module__": "__main__"})
    monkeypatch.setattr(main, "Own", own, raising=False)
    with main_module_hidden(own(stream(9), seq_length=4)):
        assert sys.modules["__main__"] is main
    with pytest.raises(RuntimeError), main_module_hidden(create().dataset):
        raise RuntimeError("workers failed to start")
    assert sys.modules["__main__"] is main


ORPHANS = """
import sys, time
from mt_core import TokenLoader, TokenStore, TransformerDataset

if __name__ == "__main__":
    store = TokenStore.from_token_ids(range(4000), vocab_size=4000)
    dataset = TransformerDataset(store, seq_length=4)
    batches = iter(TokenLoader(dataset, batch_size=2, num_workers=1, start_method=sys.argv[1]))
    next(batches)
    import multiprocessing
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a killed Windows process takes no signal to be seen by its pid")
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_workers_end_when_their_parent_is_killed(tmp_path: Path, method: str) -> None:
    program = tmp_path / "orphans.py"
    program.write_text(ORPHANS, encoding="utf-8")
    with subprocess.Popen([sys.executable, str(program), method], stdout=subprocess.PIPE, encoding="utf-8") as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        process.kill()
    assert workers
    deadline = time.monotonic() + 30
    while any(is_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if is_alive(pid)]
