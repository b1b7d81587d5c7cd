"""The report of an audit: counts of what a loader delivered, and the words for them. Does not count.

A target is a token with a token before it in its own document.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mt_core.lab.shuffling import OrderStatistics


@dataclass(frozen=True, kw_only=True)
class EpochCoverage:
    """What one epoch delivered. Targets are tokens with a token before them in their own document.

    Attributes:
        batches: batches of each rank.
        rows: rows of all ranks.
        rows_repeated: rows that began where an earlier row of this epoch began.
        once, repeated, never: targets seen once, more than once, not at all.
        surplus: deliveries beyond the first of each target.
        starts_once, starts_repeated, starts_never: the same for first tokens of documents. Whether a loader
            predicts these, from the end of another document, is its choice.
        order: numbers of the order of rows, ranks taken in turn; None for fewer than 4 rows.
        same_order_as_before: whether rows came exactly as in the epoch before.
    """

    batches: tuple[int, ...]
    rows: int
    rows_repeated: int
    once: int
    repeated: int
    never: int
    surplus: int
    starts_once: int
    starts_repeated: int
    starts_never: int
    order: OrderStatistics | None
    same_order_as_before: bool


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """What a loader delivered; `print(report)` says it in words.

    Attributes:
        n_tokens, n_documents: of the counting corpus.
        n_targets: tokens with a token before them in their own document: n_tokens - n_documents.
        epochs: the counts of each epoch.
        rows, rows_crossing_documents: all rows, and those with tokens of more than one document.
        crossing_targets: labels that are the first token of a document, predicted from another document.
        ignored_labels: labels of -100, which the loss leaves out.
        foreign_ids: other inputs and labels that are no token of the corpus (added tokens, padding that is not
            ignored, numbers damaged by a narrow type).
        wrong_labels: labels that do not follow their input, neither as the next token nor as the first token of
            a document after the last of another.
        label_shift: the most frequent label - input: 1 is right, 0 is not shifted, 2 is shifted twice.
        counts: int64 (E, N), how often each token was a label, by epoch.
        document_starts: int64 (D,).
    """

    n_tokens: int
    n_documents: int
    n_targets: int
    epochs: tuple[EpochCoverage, ...]
    rows: int
    rows_crossing_documents: int
    crossing_targets: int
    ignored_labels: int
    foreign_ids: int
    wrong_labels: int
    label_shift: int | None
    counts: np.ndarray = field(repr=False, compare=False)
    document_starts: np.ndarray = field(repr=False, compare=False)

    @property
    def exact(self) -> bool:
        """Whether each epoch shows every target once and nothing twice, and each label follows its input."""
        whole = all(epoch.repeated == epoch.never == epoch.starts_repeated == 0 for epoch in self.epochs)
        return whole and self.wrong_labels == 0

    def targets(self, what: Literal["once", "repeated", "never"], epoch: int = 0) -> np.ndarray:
        """int64: the targets of one epoch that were seen once, repeated or never; document starts are left out."""
        counts = self.counts[epoch]
        seen = {"once": counts == 1, "repeated": counts > 1, "never": counts == 0}
        if what not in seen:
            raise ValueError(f"what={what!r}, it must be one of {', '.join(seen)}")
        return np.setdiff1d(np.flatnonzero(seen[what]), self.document_starts)

    @property
    def findings(self) -> tuple[str, ...]:
        """What differs from a loader that shows each target once an epoch, a sentence each."""
        found = []
        if self.wrong_labels:
            meaning = {0: ", as if labels were not shifted", 2: ", as if labels were shifted twice"}
            found.append(
                f"labels: {self.wrong_labels:,} do not follow their input; most often label - input is "
                f"{self.label_shift}{meaning.get(self.label_shift or 0, '')}"
            )
        for number, epoch in enumerate(self.epochs):
            if epoch.never:
                which = _listed(self.targets("never", number))
                found.append(f"epoch {number}: {epoch.never:,} of {self.n_targets:,} targets never seen: {which}")
            if epoch.repeated or epoch.starts_repeated:
                repeated = epoch.repeated + epoch.starts_repeated
                found.append(
                    f"epoch {number}: {repeated:,} targets seen more than once, {epoch.surplus:,} deliveries too "
                    f"many; {epoch.rows_repeated:,} of {epoch.rows:,} rows begin where another did"
                )
            if len(set(epoch.batches)) > 1:
                each = " and ".join(f"{count:,}" for count in epoch.batches)
                found.append(f"epoch {number}: ranks have {each} batches, so one waits for the others without end")
            if epoch.same_order_as_before and epoch.order is not None and epoch.order.distance_moved.value:
                found.append(f"epoch {number}: rows come in exactly the order of epoch {number - 1}")
        return tuple(found)

    def __str__(self) -> str:
        lines = [
            f"{self.n_tokens:,} tokens in {self.n_documents:,} documents: {self.n_targets:,} targets",
            f"{'':10}{'once':>9}{'repeated':>10}{'never':>9}",
        ]
        for number, epoch in enumerate(self.epochs):
            lines.append(f"{f'epoch {number}':10}{epoch.once:>9,}{epoch.repeated:>10,}{epoch.never:>9,}")
        batches = sum(sum(epoch.batches) for epoch in self.epochs)
        ranks = len(self.epochs[0].batches)
        lines.append(f"rows: {self.rows:,} in {batches:,} batches" + (f" of {ranks} ranks" if ranks > 1 else ""))
        lines.append(f"rows with tokens of more than one document: {self.rows_crossing_documents:,}")
        lines.append(f"labels: {self.wrong_labels:,} wrong, {self.ignored_labels:,} ignored")
        if self.foreign_ids:
            lines.append(f"ids that are no token of the corpus: {self.foreign_ids:,}")
        if self.epochs[0].order is not None:
            lines += [f"order: {line}" for line in str(self.epochs[0].order).splitlines()]
        lines += [f"- {finding}" for finding in self.findings] or ["every target is seen exactly once in each epoch"]
        if self.wrong_labels and self.label_shift == 0:
            lines.append('Where the model shifts labels itself, that is right: audit with shifted_by="model".')
        return "\n".join(lines)


def _listed(tokens: np.ndarray) -> str:
    """Token numbers for a reader: runs, a regular spacing, or the first few."""
    breaks = np.flatnonzero(np.diff(tokens) != 1)
    firsts, lasts = tokens[np.append(0, breaks + 1)], tokens[np.append(breaks, len(tokens) - 1)]
    runs = [f"{a}" if a == b else f"{a} to {b}" for a, b in zip(firsts, lasts, strict=True)]
    if len(runs) <= 4:
        return ", ".join(runs)
    gaps = np.unique(np.diff(firsts))
    return ", ".join(runs[:3]) + (f", … (every {gaps[0]})" if len(gaps) == 1 else f", … and {len(runs) - 3:,} more")
