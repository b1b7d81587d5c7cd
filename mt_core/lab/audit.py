"""What any loader delivers: each target counted as seen once, repeated or never. Does not time or mend it.

The loader under audit reads a counting corpus, in which token i is the integer i. So every number it delivers
says where in the corpus it comes from, and a label that does not follow its input shows by subtraction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any

import numpy as np

from mt_core.arguments import check_count
from mt_core.lab.any_batch import ShiftedBy, check_loader, inputs_and_labels
from mt_core.lab.audit_report import AuditReport, EpochCoverage
from mt_core.lab.shuffling import order_statistics
from mt_core.store import TokenStore
from mt_core.windows import IGNORE

__all__ = ["AuditReport", "CountingCorpus", "EpochCoverage", "audit", "counting_corpus", "interrupted"]


@dataclass(frozen=True, kw_only=True)
class CountingCorpus:
    """A corpus whose token i is the integer i, in the forms that loaders take.

    Attributes:
        token_ids: int64 (N,): 0, 1, 2, … N - 1.
        document_ends: int64 (D,), one past the last token of each document.
    """

    token_ids: np.ndarray
    document_ends: np.ndarray

    @property
    def vocab_size(self) -> int:
        """N + 1: every token, and padding."""
        return len(self.token_ids) + 1

    @property
    def pad_token_id(self) -> int:
        """N, an id that no token has, so that padding is not taken for one."""
        return len(self.token_ids)

    @property
    def document_starts(self) -> np.ndarray:
        """int64 (D,): the first token of each document."""
        return np.append(0, self.document_ends[:-1])

    def documents(self) -> list[np.ndarray]:
        """The documents, one array each."""
        return np.split(self.token_ids, self.document_ends[:-1])

    def store(self) -> TokenStore:
        """The same as a store in memory, for loaders of this package."""
        return TokenStore.from_token_ids(
            self.token_ids,
            vocab_size=self.vocab_size,
            document_ends=self.document_ends,
            pad_token_id=self.pad_token_id,
        )


def counting_corpus(n_tokens: int = 1000, *, n_documents: int = 7, seed: int = 0) -> CountingCorpus:
    """A counting corpus whose documents have random lengths of at least 2 tokens, where that many tokens are there.

    Raises:
        ValueError: too few tokens for the documents.

    >>> corpus = counting_corpus(12, n_documents=3)
    >>> [document.tolist() for document in corpus.documents()]
    [[0, 1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11]]
    """
    if n_documents < 1 or n_tokens < 2 * n_documents:
        raise ValueError(
            f"n_tokens={n_tokens} and n_documents={n_documents}: from 1 document, and 2 tokens for each, are needed"
        )
    free = n_tokens - 2 * n_documents  # what is left when each document has its two tokens
    cuts = np.sort(np.random.default_rng(seed).integers(0, free + 1, n_documents - 1))
    ends = np.append(cuts + 2 * np.arange(1, n_documents), n_tokens)
    return CountingCorpus(token_ids=np.arange(n_tokens), document_ends=ends.astype(np.int64))


def audit(
    loader_factory: Callable[..., Iterable[Any]],
    corpus: CountingCorpus | None = None,
    *,
    epochs: int = 1,
    world_size: int | None = None,
    begin_epoch: Callable[[Any, int], object] | None = None,
    max_batches: int | None = None,
    shifted_by: ShiftedBy = "loader",
    adapt: Callable[[Any], tuple[Any, Any]] | None = None,
) -> AuditReport:
    """Let a loader read a counting corpus and count what it delivers.

    Args:
        loader_factory: `loader_factory(corpus)` gives a loader; with `world_size` it is called once a rank, as
            `loader_factory(corpus, rank=…, world_size=…)`. Any number of workers may be behind it.
        corpus: what it reads; by default 1,000 tokens in 7 documents.
        epochs: passes over each loader.
        world_size: ranks that share the data; None for a loader that knows no ranks.
        begin_epoch: called as `begin_epoch(loader, epoch)` before each pass, for loaders that must be told.
        max_batches: batches in an epoch of a rank, for loaders without an end.
        shifted_by: "model" for loaders whose labels equal their inputs because the model shifts them.
        adapt: `adapt(batch)` gives (input_ids, labels), for batches that `inputs_and_labels` does not know.

    Raises:
        ValueError: a setting that cannot be, a factory that makes no loader, a batch of unknown kind, a loader that
            cannot be passed over again, or one without an end.

    >>> def create_loader(corpus):
    ...     starts = range(0, len(corpus.token_ids) - 4, 4)
    ...     return [{"input_ids": [[s, s + 1, s + 2, s + 3]], "labels": [[s + 1, s + 2, s + 3, s + 4]]} for s in starts]
    >>> report = audit(create_loader, counting_corpus(41, n_documents=1))
    >>> report.exact, report.epochs[0].once
    (True, 40)
    """
    for name, value in (("epochs", epochs), ("world_size", world_size), ("max_batches", max_batches)):
        if value is not None:
            check_count(name, value)
    corpus = counting_corpus() if corpus is None else corpus
    if not callable(loader_factory) or not isinstance(corpus, CountingCorpus):
        got = f"{type(loader_factory).__name__} and {type(corpus).__name__}"
        raise ValueError(
            f"got {got}, needed are a function that makes a loader and the counting corpus that the loader is to read: "
            "audit(lambda corpus: …, counting_corpus(1000))"
        )
    if world_size is None:
        loaders = [loader_factory(corpus)]
    else:
        loaders = [loader_factory(corpus, rank=rank, world_size=world_size) for rank in range(world_size)]
    for loader in loaders:
        check_loader(loader, "loader_factory must return one loader")
    tally = _Tally(corpus, epochs)
    covered: list[EpochCoverage] = []
    before: np.ndarray | None = None
    for epoch in range(epochs):
        rows: list[list[np.ndarray]] = []  # of each rank, for each batch, where its rows begin
        for rank, loader in enumerate(loaders):
            if epoch and isinstance(loader, Iterator):  # iter(loader) would tell too, and begin an epoch of ours
                raise ValueError(
                    f"the loader is a {type(loader).__name__} that can be passed over once, and epochs={epochs}: "
                    "return an object that begins anew at each iter(loader)"
                )
            if begin_epoch is not None:
                begin_epoch(loader, epoch)
            rows.append([])
            for batch in _until_the_end(loader, max_batches, limit=100 * len(corpus.token_ids)):
                pair = batch if adapt is None else adapt(batch)
                rows[rank].append(tally.add(epoch, *inputs_and_labels(pair, shifted_by=shifted_by)))
        steps = [np.concatenate(step) for step in zip_longest(*rows, fillvalue=np.empty(0, np.int64))]
        order = np.concatenate(steps) if steps else np.empty(0, np.int64)
        same = before is not None and np.array_equal(order, before)
        covered.append(tally.coverage(epoch, tuple(map(len, rows)), steps, order, same))
        before = order
    return tally.report(tuple(covered))


def _until_the_end(loader: Iterable[Any], max_batches: int | None, *, limit: int) -> Iterator[Any]:
    """The batches of one pass, and an error instead of going on for ever."""
    for number, batch in enumerate(islice(loader, max_batches)):
        if number >= limit and max_batches is None:
            raise ValueError(
                f"the loader delivered {limit:,} batches and goes on: pass max_batches=, how many are an epoch"
            )
        yield batch


def interrupted(loader_factory: Callable[..., Any], *, after: int) -> Callable[..., Iterable[Any]]:
    """A factory of the same loaders, each stopped once and resumed in a new loader, to be given to `audit`.

    In its first pass, `state_dict()` is taken after `after` batches; a new loader gets it by `load_state_dict`
    and goes on. The audit should look as if nothing had happened.

    Args:
        loader_factory: gives loaders with `state_dict` and `load_state_dict`, as for `audit`.
        after: batches before the stop, fewer than an epoch has.

    Raises:
        ValueError: `after` is no whole number from 0; later, in the audit, also that it comes after the end, and that
            a loader has no state to be saved.
    """
    check_count("after", after, least=0)

    def create(corpus: CountingCorpus, **rank: int) -> Iterable[Any]:
        return _Interrupted(lambda: loader_factory(corpus, **rank), after)

    return create


class _Interrupted:
    """A loader that is replaced in the middle of its first pass by one that resumes from its state."""

    def __init__(self, create: Callable[[], Any], after: int) -> None:
        self._create, self._after = create, after
        self._loader = create()
        self._resumed = False
        if not all(hasattr(self._loader, name) for name in ("state_dict", "load_state_dict")):
            kind = type(self._loader).__name__
            raise ValueError(f"a {kind} has no state_dict and load_state_dict: it cannot be stopped and resumed")

    def __iter__(self) -> Iterator[Any]:
        running = iter(self._loader)
        if not self._resumed:
            self._resumed = True
            for number in range(self._after):
                try:
                    batch = next(running)
                except StopIteration:
                    raise ValueError(
                        f"the epoch has {number} batches, after={self._after} comes too late: choose a smaller number"
                    ) from None
                yield batch
            state = deepcopy(self._loader.state_dict())
            self._loader = self._create()
            self._loader.load_state_dict(state)
            running = iter(self._loader)
        yield from running


class _Tally:
    """Counts of one audit while it runs."""

    def __init__(self, corpus: CountingCorpus, epochs: int) -> None:
        self.corpus, self.n_tokens = corpus, len(corpus.token_ids)
        self.counts = np.zeros((epochs, self.n_tokens), dtype=np.int64)
        self.rows = self.crossing_rows = self.crossing_targets = self.ignored = self.foreign = self.wrong = 0
        self.shifts: Counter[int] = Counter()

    def documents_of(self, tokens: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.corpus.document_ends, tokens, side="right")

    def add(self, epoch: int, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Count a batch, inputs and labels (B, T); the first labelled input of each of its rows, int64 (up to B,)."""
        wanted = labels != IGNORE
        known_label = wanted & (labels >= 0) & (labels < self.n_tokens)
        known_input = wanted & (inputs >= 0) & (inputs < self.n_tokens)
        np.add.at(self.counts[epoch], labels[known_label], 1)
        self.rows += len(labels)
        self.ignored += int((~wanted).sum())
        self.foreign += int((wanted & ~known_label).sum() + (wanted & ~known_input).sum())
        pairs = known_label & known_input
        before, after = inputs[pairs], labels[pairs]
        shift = after - before
        joint = np.isin(after, self.corpus.document_starts) & np.isin(before, self.corpus.document_ends - 1)
        crossing = joint & (self.documents_of(before) != self.documents_of(after))
        self.crossing_targets += int(crossing.sum())
        self.wrong += int(((shift != 1) & ~crossing).sum())
        self.shifts.update(shift.tolist())
        self.crossing_rows += int(self._crossing(inputs, labels, known_input, known_label).sum())
        filled = known_input.any(axis=1)
        first = known_input.argmax(axis=1) if inputs.shape[1] else np.zeros(len(inputs), np.int64)
        return inputs[np.flatnonzero(filled), first[filled]]

    def _crossing(self, inputs: np.ndarray, labels: np.ndarray, *known: np.ndarray) -> np.ndarray:
        """bool (B,): whether inputs and labels of a row belong to more than one document."""
        document = self.documents_of(np.concatenate([inputs, labels], axis=1))
        counted, none = np.concatenate(known, axis=1), len(self.corpus.document_ends)
        first = np.where(counted, document, none).min(axis=1, initial=none)
        last = np.where(counted, document, -1).max(axis=1, initial=-1)
        return last > first

    def coverage(
        self, epoch: int, batches: tuple[int, ...], steps: list[np.ndarray], order: np.ndarray, same: bool
    ) -> EpochCoverage:
        is_start = np.zeros(self.n_tokens, dtype=bool)
        is_start[self.corpus.document_starts] = True
        counts = self.counts[epoch]
        of_targets, of_starts = (
            np.bincount(np.minimum(part, 2), minlength=3) for part in (counts[~is_start], counts[is_start])
        )
        statistics = None
        if len(order) >= 4:
            sizes = [len(step) for step in steps]
            mixed = max(sizes) > 1 and is_start.sum() > 1  # or there is nothing to mix
            statistics = order_statistics(order, documents=self.documents_of(order) if mixed else None, batches=sizes)
        return EpochCoverage(
            batches=batches,
            rows=len(order),
            rows_repeated=len(order) - len(np.unique(order)),
            once=int(of_targets[1]),
            repeated=int(of_targets[2]),
            never=int(of_targets[0]),
            surplus=int(np.maximum(counts - 1, 0).sum()),
            starts_once=int(of_starts[1]),
            starts_repeated=int(of_starts[2]),
            starts_never=int(of_starts[0]),
            order=statistics,
            same_order_as_before=same,
        )

    def report(self, epochs: tuple[EpochCoverage, ...]) -> AuditReport:
        return AuditReport(
            n_tokens=self.n_tokens,
            n_documents=len(self.corpus.document_ends),
            n_targets=self.n_tokens - len(self.corpus.document_ends),
            epochs=epochs,
            rows=self.rows,
            rows_crossing_documents=self.crossing_rows,
            crossing_targets=self.crossing_targets,
            ignored_labels=self.ignored,
            foreign_ids=self.foreign,
            wrong_labels=self.wrong,
            label_shift=self.shifts.most_common(1)[0][0] if self.shifts else None,
            counts=self.counts,
            document_starts=self.corpus.document_starts,
        )
