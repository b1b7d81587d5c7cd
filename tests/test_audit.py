"""The coverage audit: exact loaders are found exact, and each planted fault is found with its own figures."""

import math
import multiprocessing
import sys
from collections import namedtuple
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import starts_workers
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, get_worker_info

from mt_core import TokenLoader, TransformerDataset
from mt_core.lab.any_batch import inputs_and_labels
from mt_core.lab.audit import CountingCorpus, audit, counting_corpus, interrupted

T = 8
Pair = tuple[np.ndarray, np.ndarray]
CORPUS = counting_corpus(201, n_documents=4)


def ours(corpus: CountingCorpus, **settings: Any) -> TokenLoader:
    rows = {name: settings.pop(name) for name in ("stride", "chunking") if name in settings}
    return TokenLoader(
        TransformerDataset(corpus.store(), seq_length=T, **rows), **{"batch_size": 4, "shuffle": True, **settings}
    )


def worker_context() -> Any:
    """How workers start that are not ours: never by plain fork, and quickly where that can be had."""
    context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload(["mt_core.token_loader"])
    return context


def pairs(starts: Any, size: int = T) -> list[Pair]:
    """Batches of one row (x, y) that begin at `starts`."""
    return [(np.arange(s, s + size)[None], np.arange(s + 1, s + size + 1)[None]) for s in starts]


# The corpus.


@given(n_documents=st.integers(1, 30), spare=st.integers(0, 50), seed=st.integers(0, 9))
def test_documents_of_the_counting_corpus(n_documents: int, spare: int, seed: int) -> None:
    corpus = counting_corpus(2 * n_documents + spare, n_documents=n_documents, seed=seed)
    documents = corpus.documents()
    assert len(documents) == n_documents and min(map(len, documents)) >= 2
    assert np.concatenate(documents).tolist() == list(range(2 * n_documents + spare))
    assert corpus.document_starts.tolist() == [document[0] for document in documents]
    store = corpus.store()
    assert (store.vocab_size, store.pad_token_id) == (len(corpus.token_ids) + 1, len(corpus.token_ids))
    assert [store.document(d).tolist() for d in range(n_documents)] == [d.tolist() for d in documents]


# By hand.


def to_arrays(batch: Any) -> Pair:
    return np.array(batch[0]), np.array(batch[1])


def test_a_report_by_hand() -> None:
    corpus = CountingCorpus(token_ids=np.arange(7), document_ends=np.array([4, 7]))  # 0 1 2 3 | 4 5 6
    report = audit(lambda _: [([[0, 1]], [[1, 2]]), ([[1, 2]], [[2, 3]]), ([[3]], [[4]])], corpus, adapt=to_arrays)
    assert (report.n_tokens, report.n_documents, report.n_targets) == (7, 2, 5)
    epoch = report.epochs[0]
    assert report.counts.tolist() == [[0, 1, 2, 1, 1, 0, 0]]
    assert (epoch.once, epoch.repeated, epoch.never, epoch.surplus) == (2, 1, 2, 1)  # 1 3, 2, 5 6
    assert (epoch.starts_once, epoch.starts_repeated, epoch.starts_never) == (1, 0, 1)  # 4, and 0
    assert (report.rows, report.rows_crossing_documents, report.crossing_targets) == (3, 1, 1)
    assert (report.wrong_labels, report.label_shift, report.ignored_labels, report.foreign_ids) == (0, 1, 0, 0)
    assert [report.targets(what).tolist() for what in ("once", "repeated", "never")] == [[1, 3], [2], [5, 6]]
    assert not report.exact and len(report.findings) == 2
    assert epoch.batches == (3,) and epoch.order is None


def test_documents_joined_in_another_order_follow_each_other() -> None:
    corpus = CountingCorpus(token_ids=np.arange(6), document_ends=np.array([3, 6]))
    swapped = np.array([[3, 4, 5, 0, 1, 2]])  # as when documents are shuffled before they are joined
    report = audit(lambda _: [swapped], corpus)
    assert report.exact and (report.crossing_targets, report.wrong_labels) == (1, 0)
    assert (report.epochs[0].starts_once, report.epochs[0].starts_never) == (1, 1)
    around = audit(lambda _: [np.array([[3, 4, 5, 3]])], corpus)  # from the end of a document to its own beginning
    assert (around.crossing_targets, around.wrong_labels) == (0, 1)
    inside = audit(lambda _: [np.array([[1, 2, 4]])], corpus)  # into the middle of another
    assert (inside.crossing_targets, inside.wrong_labels, inside.rows_crossing_documents) == (0, 1, 1)


def test_a_document_start_that_repeats_is_not_exact() -> None:
    corpus = CountingCorpus(token_ids=np.arange(6), document_ends=np.array([3, 6]))
    rows = [np.array([row]) for row in ([0, 1, 2], [2, 3], [2, 3], [3, 4, 5])]
    assert audit(lambda _: [rows[0], rows[3]], corpus).exact
    report = audit(lambda _: rows, corpus)
    assert (report.epochs[0].once, report.epochs[0].repeated, report.epochs[0].never) == (4, 0, 0)
    assert report.epochs[0].starts_repeated == 1 and not report.exact and report.findings


def test_added_and_ignored_ids_are_no_tokens() -> None:
    corpus = CountingCorpus(token_ids=np.arange(6), document_ends=np.array([6]))
    batch = (np.array([[9, 0, 1, 9]]), np.array([[0, 1, 9, -100]]))
    report = audit(lambda _: [batch], corpus)
    # An added input before 0, an added label after 1; the last label is ignored, and its input with it.
    assert (report.foreign_ids, report.ignored_labels, report.wrong_labels) == (2, 1, 0)
    assert report.counts.tolist() == [[1, 1, 0, 0, 0, 0]] and "no token of the corpus: 2" in str(report)
    nothing = audit(lambda _: [(np.array([[9, 9], [0, 1]]), np.array([[9, -100], [1, 2]]))], corpus)
    assert (nothing.rows, nothing.rows_crossing_documents) == (2, 0)  # a row without a token is of no document


# Loaders without a fault.


@pytest.mark.parametrize("n_tokens", [9, 10, 16, 17, 18, 200, 201])
@pytest.mark.parametrize("chunking", ["contiguous", "per_document"])
def test_our_loaders_are_exact(n_tokens: int, chunking: str) -> None:
    corpus = counting_corpus(n_tokens, n_documents=3)
    report = audit(lambda c: ours(c, chunking=chunking), corpus, epochs=2)
    assert report.exact and report.findings == ()
    assert report.counts[:, 1:].max() == 1 and report.epochs[0].once == n_tokens - 3
    crossing = chunking == "contiguous"
    assert (report.rows_crossing_documents > 0) == (report.crossing_targets > 0) == crossing
    assert report.crossing_targets == (2 * 2 if crossing else 0) and report.foreign_ids == 0
    assert str(report).endswith("every target is seen exactly once in each epoch")


@starts_workers
def test_our_loader_with_workers_is_the_same_to_the_last_figure() -> None:
    settings: dict[str, Any] = {"num_workers": 2, **({"start_method": "spawn"} if sys.platform == "win32" else {})}
    plain, workers = (audit(lambda c, s=s: ours(c, **s), CORPUS, epochs=2) for s in ({}, settings))  # type: ignore[misc]
    assert workers == plain and np.array_equal(workers.counts, plain.counts) and workers.exact


@pytest.mark.parametrize("after", [0, 1, 6])
def test_our_loader_resumes_without_loss(after: int) -> None:
    assert len(ours(CORPUS)) == 7
    assert audit(interrupted(ours, after=after), CORPUS, epochs=2) == audit(ours, CORPUS, epochs=2)


def test_the_order_statistics_are_those_of_the_rows() -> None:
    corpus = counting_corpus(4001, n_documents=40)
    shuffled, straight = (audit(lambda c, s=s: ours(c, shuffle=s), corpus).epochs[0] for s in (True, False))  # type: ignore[misc]
    assert shuffled.order is not None and straight.order is not None
    assert (shuffled.order.rows, straight.order.rows) == (500, 500)
    assert shuffled.order.like_a_full_shuffle and not straight.order.like_a_full_shuffle
    assert straight.order.distance_moved.value == 0
    assert straight.order.document_mixing is not None
    one = audit(ours, counting_corpus(401, n_documents=1)).epochs[0].order
    assert one is not None and one.document_mixing is None  # one document mixes with nothing


# Planted faults.


def test_stride_1_repeats_every_target() -> None:
    assert audit(lambda c: ours(c, stride=1), CORPUS).counts.max() == T
    report = audit(lambda _: pairs(range(193)), CORPUS)
    epoch = report.epochs[0]
    assert epoch.rows == 193 and epoch.surplus == 193 * T - 200
    assert epoch.repeated + epoch.starts_repeated == 198  # all but the first target and the last
    assert "198 targets seen more than once" in report.findings[0]


def test_disjoint_blocks_lose_one_target_in_each() -> None:
    report = audit(lambda _: pairs(range(0, 189, T + 1)), counting_corpus(189, n_documents=1))
    assert report.targets("never").tolist() == list(range(9, 189, 9))
    assert report.findings == ("epoch 0: 20 of 188 targets never seen: 9, 18, 27, … (every 9)",)


def distributed(corpus: CountingCorpus, *, rank: int, world_size: int, drop_last: bool = False) -> DataLoader[Any]:
    dataset = TransformerDataset(corpus.store(), seq_length=T)
    sampler = DistributedSampler(dataset, num_replicas=world_size, rank=rank, drop_last=drop_last)
    return DataLoader(dataset, batch_size=2, sampler=sampler)


def test_a_distributed_sampler_pads_with_rows_that_came_before() -> None:
    corpus = counting_corpus(10 * T + 1, n_documents=1)
    padded = audit(distributed, corpus, world_size=4)
    epoch = padded.epochs[0]
    assert (epoch.rows, epoch.rows_repeated, epoch.repeated, epoch.never) == (12, 2, 2 * T, 0)
    assert epoch.batches == (2, 2, 2, 2)
    assert "2 of 12 rows begin where another did" in padded.findings[0]
    dropped = audit(lambda c, **rank: distributed(c, drop_last=True, **rank), corpus, world_size=4).epochs[0]
    assert (dropped.rows, dropped.repeated, dropped.never) == (8, 0, 2 * T)


def test_set_epoch_forgotten_repeats_the_order() -> None:
    forgotten = audit(distributed, CORPUS, epochs=3, world_size=1)
    assert [epoch.same_order_as_before for epoch in forgotten.epochs] == [False, True, True]
    assert forgotten.exact and "epoch 1: rows come in exactly the order of epoch 0" in forgotten.findings
    told = audit(distributed, CORPUS, epochs=3, world_size=1, begin_epoch=lambda loader, e: loader.sampler.set_epoch(e))
    assert told.findings == () and not any(epoch.same_order_as_before for epoch in told.epochs)
    in_order = audit(lambda c: ours(c, shuffle=False), CORPUS, epochs=2)
    assert in_order.epochs[1].same_order_as_before and in_order.findings == ()  # as validation should


def test_ranks_of_unequal_length_are_seen() -> None:
    def every_other(corpus: CountingCorpus, *, rank: int, world_size: int) -> list[Pair]:
        return pairs(range(rank * T, 200, world_size * T))

    report = audit(every_other, CORPUS, world_size=2)
    assert report.exact and report.epochs[0].batches == (13, 12)
    assert report.findings == ("epoch 0: ranks have 13 and 12 batches, so one waits for the others without end",)
    order = report.epochs[0].order
    assert order is not None and order.distance_moved.value == 0  # taken in turn, the ranks give the rows in order


def test_shards_with_dropped_tails() -> None:
    def create(corpus: CountingCorpus) -> Iterator[Pair]:
        for shard in np.split(corpus.token_ids, [50, 100, 150]):
            yield from pairs(range(shard[0], shard[-1] - T + 1, T))

    report = audit(create, counting_corpus(200, n_documents=1))
    assert report.targets("never").tolist() == [49, 50, 99, 100, 149, 150, 199]
    assert report.findings == ("epoch 0: 7 of 199 targets never seen: 49 to 50, 99 to 100, 149 to 150, 199",)


def test_random_starts_with_replacement_miss_one_target_in_e() -> None:
    def get_batches(corpus: CountingCorpus) -> Iterator[Pair]:
        random = np.random.default_rng(0)
        while True:
            starts = random.integers(0, len(corpus.token_ids) - T, 10)
            yield tuple(np.concatenate(part) for part in zip(*pairs(starts), strict=True))  # type: ignore[misc]

    corpus = counting_corpus(20_001, n_documents=1)
    with pytest.raises(ValueError, match=r"delivered 900 batches and goes on: pass max_batches="):
        audit(get_batches, counting_corpus(9, n_documents=1))
    report = audit(get_batches, corpus, max_batches=250)  # 2500 rows of 8: as many targets as there are
    # Each is seen a number of times that is close to Poisson with mean 1: never with chance 1/e, once with 1/e.
    assert abs(report.epochs[0].never / 20_000 - 1 / math.e) < 0.02
    assert abs(report.epochs[0].once / 20_000 - 1 / math.e) < 0.02
    assert report.epochs[0].surplus == report.epochs[0].never + report.epochs[0].starts_never - 1


class LosesTheEpoch(TokenLoader):
    """Resumes at the beginning of the next epoch."""

    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict({**state, "epoch": state["epoch"] + 1, "samples_delivered": 0})


class CountsPrefetched(TokenLoader):
    """Saves how many batches were asked for, two more than were delivered."""

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return {**state, "samples_delivered": state["samples_delivered"] + 2 * 4}


class StartsAgain(TokenLoader):
    """Forgets its place in the epoch."""

    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict({**state, "samples_delivered": 0})


@pytest.mark.parametrize(
    ("kind", "rows", "repeated_rows", "never"),
    [
        (LosesTheEpoch, 25 + 12, None, None),
        (CountsPrefetched, 25 - 8, 0, 8 * T),
        (StartsAgain, 25 + 12, 12, 0),
    ],
)
def test_faults_of_resuming(kind: type[TokenLoader], rows: int, repeated_rows: int | None, never: int | None) -> None:
    def create(corpus: CountingCorpus) -> TokenLoader:
        return kind(TransformerDataset(corpus.store(), seq_length=T), batch_size=4, shuffle=True)

    corpus = counting_corpus(25 * T + 1, n_documents=1)
    report = audit(interrupted(create, after=3), corpus, epochs=2)
    first, second = report.epochs
    assert first.rows == rows and not report.exact
    if kind is LosesTheEpoch:  # 12 rows of epoch 0, then all of epoch 1: the rest of epoch 0 is lost
        assert first.rows_repeated == 12 and first.once == 13 * T
        whole = audit(ours, corpus, epochs=2)
        assert first.order != whole.epochs[0].order
    else:
        assert (first.rows_repeated, first.never) == (repeated_rows, never)
    assert (second.once, second.repeated, second.never) == (25 * T, 0, 0)


def test_a_lost_epoch_shows_as_never() -> None:
    """A loader that counts the interrupted epoch as done: what is left of it never comes."""

    class Run:
        def __init__(self, corpus: CountingCorpus) -> None:
            self.passes = [pairs(range(0, 200, T)), pairs(range(0, 96, T)), pairs(range(0, 200, T))]

        def __iter__(self) -> Iterator[Pair]:
            return iter(self.passes.pop(0))

    report = audit(Run, counting_corpus(201, n_documents=1), epochs=3)
    assert [epoch.never for epoch in report.epochs] == [0, 104, 0]
    assert report.findings == ("epoch 1: 104 of 200 targets never seen: 97 to 200",)


@pytest.mark.parametrize(("shift", "meaning"), [(0, "as if labels were not shifted"), (2, "shifted twice")])
def test_labels_shifted_wrongly(shift: int, meaning: str) -> None:
    batches = [(np.arange(s, s + T)[None], np.arange(s + shift, s + T + shift)[None]) for s in range(0, 184, T)]
    report = audit(lambda _: batches, CORPUS)
    assert report.label_shift == shift and not report.exact and meaning in report.findings[0]
    # From the last token of a document to the first of its own or another there is no wrong shift of 2, but of 0 is.
    assert report.wrong_labels == len(batches) * T
    assert ('audit with shifted_by="model"' in str(report)) == (shift == 0)


def test_ids_damaged_by_a_narrow_type() -> None:
    corpus = counting_corpus(300, n_documents=1)
    report = audit(lambda c: [(x.astype(np.uint8), y.astype(np.uint8)) for x, y in pairs(range(0, 296, T))], corpus)
    assert report.targets("never").tolist() == list(range(256, 300))
    assert report.targets("repeated").tolist() == list(range(1, 41))
    assert report.wrong_labels == 1  # from 255 to 0


class Rows(IterableDataset[dict[str, torch.Tensor]]):
    """Rows in order; with `shared` each worker takes its part, otherwise each takes all."""

    def __init__(self, n_rows: int, shared: bool) -> None:
        self.n_rows, self.shared = n_rows, shared

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info is not None and self.shared else (0, 1)
        for row in range(first, self.n_rows, step):
            ids = torch.arange(row * T, row * T + T + 1)
            yield {"input_ids": ids[:-1], "labels": ids[1:]}


@starts_workers
@pytest.mark.parametrize("shared", [True, False])
def test_workers_that_do_not_share_deliver_everything_twice(shared: bool) -> None:
    def create(corpus: CountingCorpus) -> DataLoader[Any]:
        rows = Rows(25, shared)
        return DataLoader(rows, batch_size=4, num_workers=2, multiprocessing_context=worker_context())

    epoch = audit(create, CORPUS).epochs[0]
    assert (epoch.once, epoch.repeated, epoch.surplus) == ((197, 0, 0) if shared else (0, 197, 200))


# Batches of every kind.

X, Y = np.array([[1, 2], [5, 6]]), np.array([[2, 3], [6, 7]])
LONG = np.array([[1, 2, 3], [5, 6, 7]])
Named = namedtuple("Named", "input_ids labels")


@pytest.mark.parametrize(
    "batch",
    [
        {"input_ids": X, "labels": Y},
        {"input_ids": torch.tensor(X), "labels": torch.tensor(Y, dtype=torch.int32), "more": "x"},
        {"input_ids": X.tolist(), "labels": Y.tolist()},
        {"x": X, "y": Y},
        SimpleNamespace(input_ids=X, labels=Y),
        (X, Y),
        [torch.tensor(X), torch.tensor(Y)],
        [{"input_ids": x, "labels": y} for x, y in zip(X, Y, strict=True)],
        [(x, y) for x, y in zip(X, Y, strict=True)],
        LONG,
        torch.tensor(LONG),
        LONG.tolist(),
        {"input_ids": LONG},
        [{"input_ids": row} for row in LONG.tolist()],
        (X.tolist(), Y.tolist()),
        [(x, y) for x, y in zip(X.tolist(), Y.tolist(), strict=True)],
        {"input_ids": X, "target_ids": Y},
        Named(input_ids=X, labels=Y),
        [torch.tensor(LONG)],  # of TensorDataset(rows)
        ([LONG],),
        [{"input_ids": torch.tensor(row)[None]} for row in LONG],
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_batches_of_many_kinds_mean_the_same(batch: Any) -> None:
    inputs, labels = inputs_and_labels(batch)
    assert inputs.dtype == labels.dtype == np.int64
    assert inputs.tolist() == X.tolist() and labels.tolist() == Y.tolist()


def test_a_model_that_shifts_and_rows_of_unequal_length() -> None:
    inputs, labels = inputs_and_labels({"input_ids": LONG, "labels": LONG}, shifted_by="model")
    assert inputs.tolist() == X.tolist() and labels.tolist() == Y.tolist()
    inputs, labels = inputs_and_labels([[1, 2, 3, 4], [5, 6]])
    assert labels.tolist() == [[2, 3, 4], [6, -100, -100]]
    inputs, labels = inputs_and_labels({"input_ids": np.array([1, 2]), "labels": np.array([2, 3])})
    assert inputs.shape == labels.shape == (1, 2)
    inputs, labels = inputs_and_labels(([1, 2], [2, 3]))  # a pair; in a list they would be two rows
    assert inputs.tolist() == [[1, 2]] and labels.tolist() == [[2, 3]]
    inputs, labels = inputs_and_labels([[1, 2], [2, 3]])
    assert inputs.tolist() == [[1], [2]] and labels.tolist() == [[2], [3]]
    inputs, labels = inputs_and_labels([[], [1, 2]])
    assert labels.tolist() == [[-100], [2]]


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"pixels": X}, "a dict with pixels"),
        ("text", "a str of 4"),
        (7, "a int"),
        ([], "a list"),
        (X.astype(float), r"a ndarray of shape \(2, 2\) and type float64"),
        ((X, Y[:1]), r"input_ids have shape \(2, 2\), labels \(1, 2\)"),
        ([torch.tensor(X), torch.ones(2, 2), torch.tensor(Y)], r"a row is a Tensor of shape \(2, 2\).*pass adapt="),
        ([X.tolist(), Y.tolist()], "a row is a list of 2, the first of them a list"),  # pairs of rows, or a pair?
        (({"input_ids": X}, Y), r"a row is a ndarray of shape \(2, 2\)"),
        ([torch.tensor(1), torch.tensor(2)], r"a row is a Tensor of shape \(\)"),
        ([[1.0, 2.0], [2.0, 3.0]], "a list of 2, the first of them a list"),
        ([np.array([1.0, 2.5]), np.array([2.0, 3.0]), X[0]], "a row is a ndarray .*float64"),
        ({"input_ids": ["a b"], "labels": ["b c"]}, "a row is a str"),
        ({"input_ids": torch.ones(2, 2, requires_grad=True)}, "type torch.float32"),
        (SimpleNamespace(shape=3), "a SimpleNamespace"),
    ],
)
def test_a_batch_of_unknown_kind_says_what_it_is(batch: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        inputs_and_labels(batch)


@pytest.mark.parametrize(
    ("factory", "settings", "said"),
    [
        (lambda _: iter(pairs([0])), {"epochs": 2}, "passed over once, and epochs=2"),
        (ours, {"epochs": 0}, "epochs=0"),
        (ours, {"epochs": 1.5}, "epochs=1.5, a whole number"),
        (ours, {"world_size": 0}, "world_size=0"),
        (ours, {"max_batches": -1}, "max_batches=-1"),
        (ours, {"shifted_by": "me"}, "shifted_by='me'"),
        (ours, {"corpus": 1000}, r"got function and int.*counting_corpus\(1000\)"),
        (pairs([0]), {}, "got list and CountingCorpus, needed are a function that makes a loader"),
        (lambda _: None, {}, "got a NoneType: loader_factory must return one loader"),
        (lambda c: (ours(c), ours(c)), {}, "got a tuple of 2, the first of them a TokenLoader: .* one loader"),
        (lambda _: {"input_ids": X, "labels": Y}, {}, "got a dict with input_ids, labels: .* one loader"),
        (interrupted(lambda _: pairs([0]), after=0), {}, "a list has no state_dict and load_state_dict"),
        (interrupted(ours, after=8), {}, "has 7 batches, after=8 comes too late"),
    ],
)
def test_refusals(factory: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        audit(factory, **{"corpus": CORPUS, **settings})


def test_refusals_of_what_audits_need() -> None:
    with pytest.raises(ValueError, match="2 tokens for each"):
        counting_corpus(5, n_documents=3)
    with pytest.raises(ValueError, match="what='twice'"):
        audit(ours, CORPUS).targets("twice")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="after=-1"):
        interrupted(ours, after=-1)


def test_a_loader_that_delivers_nothing() -> None:
    report = audit(lambda _: [], counting_corpus(9, n_documents=1))
    assert (report.rows, report.label_shift, report.epochs[0].never) == (0, None, 8) and "1 to 8" in str(report)


def test_the_words() -> None:
    said = str(audit(lambda _: pairs(range(0, 24, 4), 5), counting_corpus(31, n_documents=2)))
    assert said.splitlines() == [
        "31 tokens in 2 documents: 29 targets",
        "               once  repeated    never",
        "epoch 0          19         5        5",
        "rows: 6 in 6 batches",
        "rows with tokens of more than one document: 1",
        "labels: 0 wrong, 0 ignored",
        "order: serial correlation 0.500 (full shuffle: -0.167 ± 0.324)",
        "order: distance moved 0.000 (full shuffle: 0.324 ± 0.097)",
        "- epoch 0: 5 of 29 targets never seen: 26 to 30",
        "- epoch 0: 5 targets seen more than once, 5 deliveries too many; 0 of 6 rows begin where another did",
    ]


# Loaders nobody here wrote. They are installed with the extra `peers`.

peer = pytest.mark.filterwarnings("ignore")  # what they warn of is theirs


def package(name: str) -> Any:
    return pytest.importorskip(name, reason=f"needs {name}: pip install microtransformer[peers]")


def grouped(corpus: CountingCorpus) -> Any:
    """Rows of T tokens by the recipe of Hugging Face's examples: join, cut, copy as labels for a model that shifts."""
    datasets = package("datasets")
    datasets.disable_progress_bars()

    def group(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = [token for document in batch["input_ids"] for token in document]
        rows = [joined[start : start + T] for start in range(0, len(joined) // T * T, T)]
        return {"input_ids": rows, "labels": rows}

    documents = datasets.Dataset.from_dict({"input_ids": [document.tolist() for document in corpus.documents()]})
    return documents.map(group, batched=True)


def streamed(corpus: CountingCorpus, **ranks: int) -> Any:
    rows = grouped(corpus).to_iterable_dataset(num_shards=4).shuffle(seed=0, buffer_size=10)
    if ranks:
        rows = package("datasets.distributed").split_dataset_by_node(rows, **ranks)
    return rows.batch(4)


@peer
def test_hugging_face_rows_lose_the_target_at_each_joint() -> None:
    def create(corpus: CountingCorpus) -> DataLoader[Any]:
        rows = grouped(corpus).with_format("torch")
        return DataLoader(rows, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(0))

    report = audit(create, counting_corpus(204, n_documents=1), epochs=2, shifted_by="model")
    for epoch in range(2):  # the first token of each row after the first, and the tail that fills no row
        assert report.targets("never", epoch).tolist() == [*range(8, 200, 8), 200, 201, 202, 203]
    assert report.epochs[0].repeated == report.wrong_labels == 0 and report.epochs[0].rows == 25
    assert not report.epochs[1].same_order_as_before


@peer
def test_hugging_face_streams_with_ranks_epochs_and_resume() -> None:
    corpus = counting_corpus(801, n_documents=1)
    joints = set(range(8, 801, 8))
    told = audit(streamed, corpus, epochs=2, shifted_by="model", begin_epoch=lambda rows, epoch: rows.set_epoch(epoch))
    forgotten = audit(streamed, corpus, epochs=2, shifted_by="model")
    ranks = audit(streamed, corpus, world_size=2, shifted_by="model")
    for report in (told, forgotten, ranks):
        assert set(report.targets("never").tolist()) == joints and report.epochs[0].repeated == 0
    assert (told.epochs[1].same_order_as_before, forgotten.epochs[1].same_order_as_before) == (False, True)
    # Resuming fills the shuffle buffer anew: rows that waited in it when the state was taken never come.
    resumed = audit(interrupted(streamed, after=10), corpus, shifted_by="model")
    assert len(set(resumed.targets("never").tolist()) - joints) >= 4 * (T - 1)


@peer
@starts_workers
def test_the_stateful_loader_of_torchdata_over_our_rows() -> None:
    stateful = package("torchdata.stateful_dataloader").StatefulDataLoader

    def create(corpus: CountingCorpus, num_workers: int = 0) -> Any:
        dataset = TransformerDataset(corpus.store(), seq_length=T)
        context = worker_context() if num_workers else None
        generator = torch.Generator().manual_seed(3)
        settings = {"num_workers": num_workers, "multiprocessing_context": context, "generator": generator}
        return stateful(dataset, batch_size=4, shuffle=True, **settings)

    whole, resumed = audit(create, CORPUS), audit(interrupted(create, after=3), CORPUS)
    assert whole.exact and whole.findings == () and resumed == whole
    resumed = audit(interrupted(partial(create, num_workers=2), after=3), CORPUS)
    assert resumed.exact and resumed.findings == ()  # in another order: workers change what is drawn


def grains(corpus: CountingCorpus, *, rank: int = 0, world_size: int = 1, size: int = T) -> Any:
    ids = corpus.token_ids
    rows = package("grain").MapDataset.source(range((len(ids) - 1) // size)).shuffle(seed=0)[rank::world_size]
    return rows.map(lambda row: (ids[row * size :][:size], ids[row * size + 1 :][:size])).batch(100)


@peer
def test_grain_delivers_each_target_once_on_one_rank_or_three() -> None:
    corpus = counting_corpus(801, n_documents=5)
    for world_size in (None, 3):
        report = audit(grains, corpus, world_size=world_size)
        assert report.exact and report.epochs[0].once == 796 and report.rows == 100


@peer
def test_grain_0_2_18_repeats_a_row_where_rows_are_2_to_the_16_and_1() -> None:
    if package("grain").__version__ != "0.2.18":
        pytest.skip("known of grain 0.2.18 alone")

    def create(corpus: CountingCorpus) -> Iterator[Any]:
        rows = grains(corpus, size=1)
        return (rows[number] for number in range(len(rows)))  # its own iterator gives the same, in half a minute

    epoch = audit(create, counting_corpus(2**16 + 2, n_documents=1)).epochs[0]
    assert (epoch.rows, epoch.rows_repeated, epoch.repeated, epoch.never) == (2**16 + 1, 1, 1, 1)
