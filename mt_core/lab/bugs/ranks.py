"""Exhibits about many ranks: which of them reads what, and for how many steps. Starts no process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mt_core.lab.audit import AuditReport, CountingCorpus, audit, counting_corpus
from mt_core.lab.bugs.exhibit import Exhibit, FaultError, Source, WrongMend, call, counted, items, numbers, short
from mt_core.windows import IGNORE

Batches = list[list[int | None]]  # of one rank: row numbers, None for padding that is not counted


def _audit_ranks(n_rows: int, n_ranks: int, batches_of: Callable[[int], Batches]) -> AuditReport:
    """Audit what the ranks read of rows 0, 1, … n_rows - 1; row i asks for token i + 1 after token i."""

    def create(corpus: CountingCorpus, *, rank: int, world_size: int) -> list[tuple[np.ndarray, np.ndarray]]:
        made = []
        for batch in batches_of(rank):
            inputs = [[0 if row is None else row] for row in batch]
            labels = [[IGNORE if row is None else row + 1] for row in batch]
            made.append((np.array(inputs, dtype=np.int64), np.array(labels, dtype=np.int64)))
        return made

    return audit(create, counting_corpus(n_rows + 1, n_documents=1), world_size=n_ranks)


def _checked(rows: Any, n_rows: int, what: str) -> list[int | None]:
    rows = items(rows, what)
    found = [row for row in rows if row is not None]
    for row in numbers(found, what):
        if not 0 <= row < n_rows:
            raise FaultError(f"{what} holds row {row}, rows go from 0 to {n_rows - 1}")
    return rows


# -- evaluation --------------------------------------------------------------------------------------------------


def double_votes(n_rows: int, rank: int, n_ranks: int) -> list[int]:
    """The rows that one rank evaluates."""
    rows = list(range(n_rows))
    rows += rows[: -n_rows % n_ranks]
    return rows[rank::n_ranks]


def _padded(n_rows: int, rank: int, n_ranks: int) -> list[int | None]:
    steps = -(-n_rows // n_ranks)
    rows = [step * n_ranks + rank for step in range(steps)]
    return [row if row < n_rows else None for row in rows]


def _tail_dropped(n_rows: int, rank: int, n_ranks: int) -> list[int]:
    return list(range(rank, n_rows // n_ranks * n_ranks, n_ranks))


def _unequal(n_rows: int, rank: int, n_ranks: int) -> list[int]:
    return list(range(rank, n_rows, n_ranks))


def _last_row_again(n_rows: int, rank: int, n_ranks: int) -> list[int]:
    return [min(row, n_rows - 1) for row in range(rank, -(-n_rows // n_ranks) * n_ranks, n_ranks)]


def _votes(candidate: Callable[..., Any], n_rows: int, n_ranks: int) -> str:
    case = f"{counted(n_rows, 'row')} on {counted(n_ranks, 'rank')}"
    shares = [
        _checked(call(candidate, n_rows, rank, n_ranks), n_rows, f"{case}: rank {rank}") for rank in range(n_ranks)
    ]
    report = _audit_ranks(n_rows, n_ranks, lambda rank: [[row] for row in shares[rank]])
    epoch = report.epochs[0]
    if epoch.repeated:
        rows = [token - 1 for token in report.targets("repeated").tolist()]
        raise FaultError(
            f"{case}: rows {short(rows)} are evaluated more than once, {n_rows + epoch.surplus} votes are counted "
            f"where {n_rows} are cast"
        )
    if epoch.never:
        rows = [token - 1 for token in report.targets("never").tolist()]
        raise FaultError(f"{case}: rows {short(rows)} are never evaluated, and others with another number of ranks")
    if len(set(map(len, shares))) > 1:
        raise FaultError(f"{case}: the ranks take {short(list(map(len, shares)))} steps, so some wait without end")
    return f"{case}: each row once, {counted(len(shares[0]), 'step')} each"


def _look_votes(candidate: Callable[..., Any]) -> str:
    return _votes(candidate, 10, 4)


def _examine_votes(candidate: Callable[..., Any]) -> str:
    cases = [(10, 4), (8, 4), (9, 4), (5, 1), (3, 4), (11, 2), (100, 7)]
    for n_rows, n_ranks in cases:
        _votes(candidate, n_rows, n_ranks)
    return f"{len(cases)} cases, also with fewer rows than ranks: each row counts once, and no rank waits"


DOUBLE_VOTES = Exhibit(
    name="double_votes",
    title="Votes that count twice",
    question="10 rows on 4 ranks: how many rows are evaluated, and which count twice?",
    task=(
        "rows_of(n_rows, rank, n_ranks) returns the rows one rank evaluates, one a step. Over all ranks each row "
        "comes once; all ranks take equally many steps; None fills a step in which a rank has no row."
    ),
    source=Source(
        where="pytorch/pytorch#25162",
        title="Incorrect Validation Accuracy Due to Distributed Sampler",
        link="https://github.com/pytorch/pytorch/issues/25162",
    ),
    broken=double_votes,
    symptom="The same model has another validation loss on another number of ranks.",
    tool="coverage audit",
    look=_look_votes,
    examine=_examine_votes,
    hints=(
        "Count each row over all ranks together.",
        "Why are rows added at all? And what else could fill the gap?",
        "A step may be empty as long as everyone takes it: give None where there is no row left.",
    ),
    mend=_padded,
    wrong_mends=(
        WrongMend(candidate=_tail_dropped, mistake="drops the tail: some rows are never evaluated"),
        WrongMend(candidate=_unequal, mistake="unequal shares: a rank that is done leaves the others waiting"),
        WrongMend(candidate=_last_row_again, mistake="repeats the last row instead of the first ones"),
    ),
)


# -- training ----------------------------------------------------------------------------------------------------


def waiting_rank(n_rows: int, batch_size: int, rank: int, n_ranks: int) -> list[list[int]]:
    """The training batches of one rank."""
    rows = list(range(rank, n_rows, n_ranks))
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def _global_batches(n_rows: int, batch_size: int, rank: int, n_ranks: int) -> list[list[int]]:
    size = batch_size * n_ranks
    starts = [step * size + rank * batch_size for step in range(n_rows // size)]
    return [list(range(start, start + batch_size)) for start in starts]


def _own_tail_dropped(n_rows: int, batch_size: int, rank: int, n_ranks: int) -> list[list[int]]:
    return [batch for batch in waiting_rank(n_rows, batch_size, rank, n_ranks) if len(batch) == batch_size]


def _wrapped_around(n_rows: int, batch_size: int, rank: int, n_ranks: int) -> list[list[int]]:
    size = batch_size * n_ranks
    steps = -(-n_rows // size)
    return [
        [(step * size + rank * batch_size + place) % n_rows for place in range(batch_size)] for step in range(steps)
    ]


def _one_step_less(n_rows: int, batch_size: int, rank: int, n_ranks: int) -> list[list[int]]:
    return _global_batches(n_rows, batch_size, rank, n_ranks)[:-1]


def _steps(candidate: Callable[..., Any], n_rows: int, batch_size: int, n_ranks: int) -> str:
    case = f"{n_rows} rows in batches of {batch_size} on {counted(n_ranks, 'rank')}"
    batches: list[Batches] = []
    for rank in range(n_ranks):
        returned = call(candidate, n_rows, batch_size, rank, n_ranks)
        batches.append([_checked(batch, n_rows, f"{case}: a batch of rank {rank}") for batch in items(returned, case)])
    counts = [len(own) for own in batches]
    if len(set(counts)) > 1:
        last, first = counts.index(max(counts)), counts.index(min(counts))
        raise FaultError(
            f"{case}: rank {last} has {max(counts)} batches and rank {first} has {min(counts)}; at step {min(counts)} "
            f"rank {last} waits for gradients that rank {first} never sends"
        )
    odd = next((batch for own in batches for batch in own if len(batch) != batch_size or None in batch), None)
    if odd is not None:
        raise FaultError(f"{case}: a batch is {short(odd)}, {batch_size} rows are needed")
    report = _audit_ranks(n_rows, n_ranks, lambda rank: batches[rank])
    if report.epochs[0].repeated:
        rows = [token - 1 for token in report.targets("repeated").tolist()]
        raise FaultError(f"{case}: rows {short(rows)} are trained on twice in one epoch")
    wanted = n_rows // (batch_size * n_ranks)
    if counts[0] != wanted:
        raise FaultError(f"{case}: {counted(counts[0], 'step')}, {wanted} whole global batches are there")
    return f"{case}: {counted(wanted, 'step')} on every rank"


def _look_steps(candidate: Callable[..., Any]) -> str:
    return _steps(candidate, 9, 2, 2)


def _examine_steps(candidate: Callable[..., Any]) -> str:
    cases = [(9, 2, 2), (7, 2, 2), (11, 2, 3), (16, 2, 2), (7, 4, 2), (30, 4, 1), (100, 3, 4)]
    for n_rows, batch_size, n_ranks in cases:
        _steps(candidate, n_rows, batch_size, n_ranks)
    return f"{len(cases)} cases: as many whole batches on every rank, no row twice"


WAITING_RANK = Exhibit(
    name="waiting_rank",
    title="The rank that waits for ever",
    question="9 rows in batches of 2 on 2 ranks: at which step does training stop, and with which message?",
    task=(
        "batches_of(n_rows, batch_size, rank, n_ranks) returns the training batches of one rank: all full, as many on "
        "every rank, no row twice in an epoch, and as many steps as the rows allow."
    ),
    source=Source(
        where="Lightning-AI/litData#233",
        title="Uneven number of batches returned across ranks in StreamingDataset/DataLoader",
        link="https://github.com/Lightning-AI/litData/issues/233",
    ),
    broken=waiting_rank,
    symptom="Training hangs at the end of an epoch, without a message, until a timeout.",
    tool="coverage audit, batches of each rank",
    look=_look_steps,
    examine=_examine_steps,
    hints=(
        "Count the batches of each rank.",
        "What is decided by each rank for itself, that all of them must agree on?",
        "Count global batches first, of batch_size rows for every rank; then hand out each of them.",
    ),
    mend=_global_batches,
    wrong_mends=(
        WrongMend(candidate=_own_tail_dropped, mistake="each rank drops its own tail: still unequal for 7 rows"),
        WrongMend(candidate=_wrapped_around, mistake="fills the last batches with rows from the beginning"),
        WrongMend(candidate=_one_step_less, mistake="gives up a step to be safe, also where all rows fit"),
    ),
)

EXHIBITS = (DOUBLE_VOTES, WAITING_RANK)
