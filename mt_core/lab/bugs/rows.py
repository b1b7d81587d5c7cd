"""Exhibits about rows: which targets an epoch asks for, and how often."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np

from mt_core.lab.audit import audit, counting_corpus
from mt_core.lab.bugs.exhibit import Exhibit, FaultError, Source, WrongMend, call, counted, numbers, short
from mt_core.windows import IGNORE

Pair = tuple[Sequence[int], Sequence[int]]  # the input ids and labels of a row
_ROWS_TASK = (
    "rows(token_ids, seq_length) returns the rows of one epoch as pairs (input_ids, labels), each of seq_length ids, "
    "labels one token further on. Every target that fits into whole rows is asked once; a remainder shorter than a "
    "row may be left out. A stream too short for one row gives an empty list."
)


# -- what the three exhibits about coverage share --------------------------------------------------------------


def _rows_of(candidate: Callable[..., Any], n: int, seq_length: int, case: str) -> list[tuple[list[int], list[int]]]:
    returned = call(candidate, list(range(n)), seq_length)
    try:
        pairs = [(inputs, labels) for inputs, labels in islice(returned, 10_000)]
    except (TypeError, ValueError):
        raise FaultError(f"{case}: a list of pairs (input_ids, labels) is needed, not {returned!r}") from None
    return [(numbers(inputs, f"{case}: a row"), numbers(labels, f"{case}: a row")) for inputs, labels in pairs]


def _coverage(rows: list[tuple[list[int], list[int]]], n: int, seq_length: int, case: str) -> str:
    """Audit the rows of the stream 0, 1, … n - 1; targets that fit into no whole row are let off."""
    batches = [{"input_ids": [inputs], "labels": [labels]} for inputs, labels in rows]
    report = audit(lambda corpus: batches, counting_corpus(n, n_documents=1))
    epoch = report.epochs[0]
    if epoch.repeated:
        raise FaultError(
            f"{case}: {epoch.repeated} targets are asked more than once, token {report.targets('repeated')[0]} first: "
            f"the epoch asks {epoch.once + epoch.repeated + epoch.surplus} questions about {report.n_targets} targets"
        )
    whole = (n - 1) // seq_length * seq_length
    never = [token for token in report.targets("never").tolist() if token <= whole]
    if never:
        raise FaultError(f"{case}: {len(never)} of {whole} targets are never asked: {short(never)}")
    return f"{case}: {epoch.once} targets are asked once, none twice"


def _look_coverage(candidate: Callable[..., Any]) -> str:
    case = "tokens 0…40, seq_length=4"
    return _coverage(_rows_of(candidate, 41, 4, case), 41, 4, case)


def _examine_coverage(candidate: Callable[..., Any]) -> str:
    cases = [(n, 4) for n in (41, 9, 8, 10, 5, 6, 4, 1, 0)] + [(100, 16), (3, 1), (64, 7)]
    for n, seq_length in cases:
        case = f"tokens 0…{n - 1}, seq_length={seq_length}" if n else f"no tokens, seq_length={seq_length}"
        rows = _rows_of(candidate, n, seq_length, case)
        if rows and n <= seq_length:
            raise FaultError(f"{case}: no whole row fits, yet you return {len(rows)}: an empty list is needed")
        for number, (inputs, labels) in enumerate(rows):
            if len(inputs) != seq_length or len(labels) != seq_length:
                raise FaultError(
                    f"{case}: row {number} has {len(inputs)} inputs and {len(labels)} labels, {seq_length} of each "
                    "are needed: rows of unequal length make no batch"
                )
            neighbours = inputs == list(range(inputs[0], inputs[0] + seq_length))
            if not neighbours or any(y not in (x + 1, IGNORE) for x, y in zip(inputs, labels, strict=True)):
                raise FaultError(f"{case}: row {number} asks {short(labels)} after {short(inputs)}: not the next token")
        if rows:
            _coverage(rows, n, seq_length, case)
        elif n > seq_length:
            raise FaultError(f"{case}: you return no row, {(n - 1) // seq_length} fit")
    return f"{len(cases)} streams, among them the empty one: every target of a whole row asked exactly once"


def _cut(token_ids: Sequence[int], seq_length: int, starts: Sequence[int]) -> list[Pair]:
    windows = [token_ids[start : start + seq_length + 1] for start in starts]
    return [(window[:-1], window[1:]) for window in windows]


def _right_rows(token_ids: Sequence[int], seq_length: int) -> list[Pair]:
    return _cut(token_ids, seq_length, range(0, len(token_ids) - seq_length, seq_length))


def _rows_every_token(token_ids: Sequence[int], seq_length: int) -> list[Pair]:
    return _cut(token_ids, seq_length, range(len(token_ids) - seq_length))


def _rows_disjoint(token_ids: Sequence[int], seq_length: int) -> list[Pair]:
    return _cut(token_ids, seq_length, range(0, len(token_ids) - seq_length, seq_length + 1))


def _rows_half_overlap(token_ids: Sequence[int], seq_length: int) -> list[Pair]:
    return _cut(token_ids, seq_length, range(0, len(token_ids) - seq_length, max(seq_length // 2, 1)))


def _rows_random_starts(token_ids: Sequence[int], seq_length: int) -> list[Pair]:
    possible, draw = len(token_ids) - seq_length, random.Random(0)
    return _cut(token_ids, seq_length, [draw.randrange(possible) for _ in range(max(possible, 0) // seq_length)])


def _rows_inside_blocks(token_ids: Sequence[int], seq_length: int) -> list[Pair]:
    blocks = [token_ids[start : start + seq_length] for start in range(0, len(token_ids) - seq_length, seq_length)]
    return [(block, [*block[1:], IGNORE]) for block in blocks]


def _rows_too_many(token_ids: Sequence[int], seq_length: int) -> list[Pair]:
    return _cut(token_ids, seq_length, [row * seq_length for row in range(len(token_ids) // seq_length)])


def _rows_too_few(token_ids: Sequence[int], seq_length: int) -> list[Pair]:
    n_rows = len(token_ids) // (seq_length + 1)
    return _cut(token_ids, seq_length, [row * seq_length for row in range(n_rows)])


def long_epoch(token_ids: Sequence[int], seq_length: int) -> list[Pair]:
    """The rows of one epoch."""
    rows: list[Pair] = []
    for start in range(len(token_ids) - seq_length):
        window = token_ids[start : start + seq_length + 1]
        rows.append((window[:-1], window[1:]))
    return rows


def missing_targets(token_ids: Sequence[int], seq_length: int) -> list[Pair]:
    """The rows of one epoch, no token in two of them."""
    size = seq_length + 1
    rows: list[Pair] = []
    for block in range(len(token_ids) // size):
        window = token_ids[block * size : (block + 1) * size]
        rows.append((window[:-1], window[1:]))
    return rows


def short_epoch(token_ids: Sequence[int], seq_length: int) -> list[Pair]:
    """The rows of one epoch."""
    n_rows = (len(token_ids) - (seq_length + 1)) // seq_length
    rows: list[Pair] = []
    for row in range(n_rows):
        window = token_ids[row * seq_length : (row + 1) * seq_length + 1]
        rows.append((window[:-1], window[1:]))
    return rows


LONG_EPOCH = Exhibit(
    name="long_epoch",
    title="The epoch that would not end",
    question="A corpus of 41 tokens, rows of 4: how many questions does one epoch ask about its 40 targets?",
    task=_ROWS_TASK,
    source=Source(
        where="iCog-Labs-Dev/PC-Transformers#134",
        title="Sliding Window Dataset Preparation and Model checkpointing Updates",
        link="https://github.com/iCog-Labs-Dev/PC-Transformers/pull/134",
    ),
    broken=long_epoch,
    symptom="One epoch takes seq_length times as long as planned, and the model has seen every token that often.",
    tool="coverage audit",
    look=_look_coverage,
    examine=_examine_coverage,
    hints=(
        "Write the numbers 0 to 9 on paper and mark the rows that are made from them.",
        "How far apart do neighbouring rows start, and how much of a row is new?",
        "A row should begin at the token that the row before it ended with as a label.",
    ),
    mend=_right_rows,
    wrong_mends=(
        WrongMend(candidate=_rows_disjoint, mistake="steps one token too far: a target between two rows is lost"),
        WrongMend(candidate=_rows_half_overlap, mistake="half a row of overlap still asks most targets twice"),
        WrongMend(candidate=_rows_random_starts, mistake="random starts repeat some targets and never reach others"),
    ),
)

MISSING_TARGETS = Exhibit(
    name="missing_targets",
    title="The words between the blocks",
    question="Blocks of 5 tokens give rows of 4. Of 40 targets, how many are never asked?",
    task=_ROWS_TASK,
    source=Source(
        where="rasbt/LLMs-from-scratch#46",
        title="Inconsistencies between the code in the book and the notebooks (2.6 Data sampling …)",
        link="https://github.com/rasbt/LLMs-from-scratch/issues/46",
    ),
    broken=missing_targets,
    symptom="None. The loss looks fine; one target in seq_length + 1 is never learned, in every epoch the same ones.",
    tool="coverage audit",
    look=_look_coverage,
    examine=_examine_coverage,
    hints=(
        "Nothing is read twice. Is everything asked once?",
        "Look at the last token of one block and the first token of the next: who predicts whom?",
        "An input may stand in two rows; a target may not. Let neighbouring rows share a token.",
    ),
    mend=_right_rows,
    wrong_mends=(
        WrongMend(candidate=_rows_inside_blocks, mistake="shorter blocks lose even more: their last label is masked"),
        WrongMend(candidate=_rows_every_token, mistake="a row from every token asks everything many times"),
    ),
)

SHORT_EPOCH = Exhibit(
    name="short_epoch",
    title="The row that was never read",
    question="9 tokens, rows of 4: two whole rows fit. How many does this function return?",
    task=_ROWS_TASK,
    source=Source(
        where="karpathy/minGPT#31",
        title="fix CharDataset::__len__ off by one error",
        link="https://github.com/karpathy/minGPT/pull/31",
    ),
    broken=short_epoch,
    symptom="The end of the corpus is never trained on; a corpus of exactly one row seems to be empty.",
    tool="coverage audit",
    look=_look_coverage,
    examine=_examine_coverage,
    hints=(
        "Try the smallest corpus that holds a row.",
        "With seq_length + 1 tokens there is one row. What does the formula say?",
        "Count the targets instead of the tokens: there is one fewer, and each row takes seq_length of them.",
    ),
    mend=_right_rows,
    wrong_mends=(
        WrongMend(candidate=_rows_too_many, mistake="counts inputs: a stream of 8 has no label for its eighth token"),
        WrongMend(candidate=_rows_too_few, mistake="counts seq_length + 1 tokens a row, though neighbours share one"),
    ),
)


# -- lengths that cannot be negative ---------------------------------------------------------------------------


def endless_document(document_ends: np.ndarray, seq_length: int) -> np.ndarray:
    """Whole rows in each document; document_ends is uint64 (D,)."""
    lengths = np.diff(document_ends, prepend=np.uint64(0))
    targets = lengths - np.uint64(1)
    return targets // np.uint64(seq_length)


def _rows_each(document_ends: np.ndarray, seq_length: int) -> np.ndarray:
    lengths = np.diff(document_ends.astype(np.int64), prepend=0)
    return np.maximum(lengths - 1, 0) // seq_length


def _rows_each_float(document_ends: np.ndarray, seq_length: int) -> np.ndarray:
    lengths = np.diff(document_ends.astype(np.float64), prepend=0.0)
    return np.floor((lengths - 1) / seq_length).astype(np.int64)


def _rows_each_of_tokens(document_ends: np.ndarray, seq_length: int) -> np.ndarray:
    return np.diff(document_ends, prepend=np.uint64(0)) // np.uint64(seq_length)


def _rows_each_without_empty(document_ends: np.ndarray, seq_length: int) -> np.ndarray:
    lengths = np.diff(document_ends, prepend=np.uint64(0))
    return (lengths[lengths > 0] - np.uint64(1)) // np.uint64(seq_length)


def _examine_lengths(candidate: Callable[..., Any], cases: Sequence[tuple[list[int], int]] = ()) -> str:
    cases = cases or (([9, 10, 10, 15], 4), ([0, 0, 5], 4), ([4, 8, 13], 4), ([1, 3], 1), ([2**60 + 1], 1))
    for ends, seq_length in cases:
        found = numbers(call(candidate, np.array(ends, dtype=np.uint64), seq_length), "the answer")
        lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        case = f"documents of {short(lengths)} tokens, seq_length={seq_length}"
        if len(found) != len(ends):
            raise FaultError(
                f"{case}: {len(found)} answers for {len(ends)} documents; from the empty one on, every row would be "
                "looked up in the wrong document"
            )
        for length, rows in zip(lengths, found, strict=True):
            wanted = max(length - 1, 0) // seq_length
            if rows != wanted:
                found_there = f"{counted(rows, 'row')} in a document of {counted(length, 'token')}"
                why = "" if length else ": 0 - 1 is not -1 where numbers have no sign"
                raise FaultError(f"{case}: {found_there}, {wanted} {'is' if wanted == 1 else 'are'} there{why}")
    return f"{counted(len(cases), 'case')}: empty documents hold no row, exact fits none too many"


def _look_lengths(candidate: Callable[..., Any]) -> str:
    return _examine_lengths(candidate, (([9, 10, 10, 15], 4),))


ENDLESS_DOCUMENT = Exhibit(
    name="endless_document",
    title="The endless document",
    question="Documents of 9, 1, 0 and 5 tokens, rows of 4: how many rows does the empty document have?",
    task="rows_each(document_ends, seq_length) returns the whole rows of each document; document_ends is uint64 (D,).",
    source=Source(
        where="grasp-lyrl/fast-feature-fields#6",
        title="Guard against unsigned integer underflow",
        link="https://github.com/grasp-lyrl/fast-feature-fields/pull/6",
    ),
    broken=endless_document,
    symptom="Fine for months. Then comes one empty document, and the epoch does not end.",
    tool="plain assertion",
    look=_look_lengths,
    examine=_examine_lengths,
    hints=(
        "Most corpora have no empty document. Give it one.",
        "What type has the array, and which numbers can that type not hold?",
        "Turn the ends into numbers with a sign before subtracting, and let no document have fewer than 0 targets.",
    ),
    mend=_rows_each,
    wrong_mends=(
        WrongMend(candidate=_rows_each_float, mistake="floor(-1 / 4) is -1, and floats lose whole numbers from 2**53"),
        WrongMend(candidate=_rows_each_of_tokens, mistake="counts tokens: a document of 4 has 3 targets, no row of 4"),
        WrongMend(candidate=_rows_each_without_empty, mistake="leaves empty documents out, so all later ones shift"),
    ),
)


EXHIBITS = (LONG_EPOCH, MISSING_TARGETS, SHORT_EPOCH, ENDLESS_DOCUMENT)
