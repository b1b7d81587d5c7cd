"""The bug museum: each exhibit shows its bug, accepts the right mend and rejects wrong ones in its own words."""

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mt_core.lab import bugs
from mt_core.lab.bugs import EXHIBITS, Exhibit, WrongMend
from mt_core.lab.bugs.chance import SameNoise
from mt_core.lab.bugs.order import DeafWorkers
from mt_core.lab.bugs.resume import ForgottenPlace, VanishedBatches

# What the verdict on the broken code says, then on each wrong mend in order.
SAYS = {
    "changed_words": ["70000 as 4464", "70000 as 65535", "written [65536], read [0]", "take 8 bytes each, 2 hold them"],
    "lost_lines": [
        "4 of 6 good texts are lost, from 'story 2' on",
        "is read, which nobody wrote",
        "0 bad records are reported, 1 are there",
        r"lost, from 'one\u2028two' on",
    ],
    "forged_end": [
        "1 mark inside the text, 2 ends of document for one document",
        "comes back as ' ends it'",
        "comes back as '[ SEP] ends it'",
        "'[CLS]' becomes [256, 256, 257]",
    ],
    "false_end": [
        "teaches that the text ends after 6 bytes, where it was cut",
        "a text of 3 bytes, max_length=8: [256, 0, 1, 2] has no end",
        "a text of 6 bytes, max_length=8: [256, 0, 1, 2, 3, 4, 5] has no end",
        "9 ids, at most 8 are allowed",
    ],
    "long_epoch": [
        "the epoch asks 148 questions about 40 targets",
        "8 of 40 targets are never asked: [5, 10,",
        "the epoch asks 76 questions about 40 targets",
        "the epoch asks 36 questions about 40 targets",
    ],
    "missing_targets": [
        "8 of 40 targets are never asked: [5, 10,",
        "10 of 40 targets are never asked: [4, 8,",
        "the epoch asks 148 questions",
    ],
    "short_epoch": [
        "4 of 40 targets are never asked: [37, 38, 39, 40]",
        "row 1 has 3 inputs and 3 labels",
        "8 of 40 targets are never asked: [33, 34,",
    ],
    "endless_document": [
        "4,611,686,018,427,387,903 rows in a document of 0 tokens",
        "-1 rows in a document of 0 tokens",
        "1 row in a document of 4 tokens, 0 are there",
        "3 answers for 4 documents",
    ],
    "too_good": [
        "reaches 0.00 nats a target, the floor of these stories is",
        "asked for the token before it",
        "asked for the token after the next",
        "the last place is asked for the first token",
    ],
    "next_but_one": [
        "label - input is 2, as if labels were shifted twice",
        "asked 7 questions, 8 are needed",
        "label - input is 0, as if labels were not shifted",
    ],
    "familiar_validation": [
        "7 of them are in the training set as well",
        "8 of them are in the training set as well",
        "a second call with seed=0 gives another split",
        "7 documents are in neither",
    ],
    "same_noise": [
        "2 workers: row 1 is given the same noise as row 0",
        "other noise than without workers",
        "row 0 of epoch 1 with seed 0 is given the same noise as row 0 of epoch 0",
        "row 0 of epoch 1 with seed 0 is given the same noise as row 1 of epoch 0",
    ],
    "twin_runs": [
        "seed 1 in epoch 0 gives the order of seed 0 in epoch 1",
        "seed 0 in epoch 1000 gives the order of seed 1 in epoch 0",
        "seed 11 in epoch 1 gives the order of seed 1 in epoch 11",
        "two different orders when asked twice",
    ],
    "watched_training": [
        "epoch 1 begins [12, 1, 13, 14, 10, …] without evaluation",
        "epoch 1 begins [16, 14, 3, 9, 7, …] without evaluation",
        "evaluation draws from the global generator",
        "epoch 1 comes in the order of epoch 0",
    ],
    "deaf_workers": [
        "the worker never heard of it",
        "a run that is resumed at epoch 2 has another order",
        "it cannot be repeated",
    ],
    "colliding_rows": [
        "n=17: rows 0 and 16 both go to place",
        "n=1,152,921,504,606,846,977: rows 0 and 1,152,921,504,606,846,976",
        "n=15: rows 0 and 1 both go to place",
        "_one_bit_more(0, 1, 1) stopped with ValueError",
    ],
    "double_votes": [
        "rows [0, 1] are evaluated more than once, 12 votes are counted where 10 are cast",
        "rows [8, 9] are never evaluated",
        "the ranks take [3, 3, 2, 2] steps",
        "rows [9] are evaluated more than once",
    ],
    "waiting_rank": [
        "at step 2 rank 0 waits for gradients that rank 1 never sends",
        "7 rows in batches of 2 on 2 ranks: rank 0 has 2 batches and rank 1 has 1",
        "rows [0, 1, 2] are trained on twice",
        "1 step, 2 whole global batches are there",
    ],
    "vanished_batches": [
        "batches [11] were in the queue, and are never delivered",
        "batches [8, 9, 10] are delivered twice",
        "batches [10] are delivered twice",
        "batches [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10] are delivered twice",
    ],
    "forgotten_place": [
        "and 0 batches, with a state that says 6 of 10: the next batches are [0, 1, 2, 3]",
        "the warning changes nothing",
        "and 1 batch, with a state that says 6 of 10: the next batches are [1, 2, 3, 4]",
        "loaded in time: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]",
    ],
    "hasty_buffer": [
        "batch 0 was [0, 1] and arrives as [30, 31]",
        "no copy was waited for (4 of 6 batches are damaged)",
        "never are two copies under way",
        "6 buffers are pinned for 6 batches",
        "copies were waited for, but too late",
    ],
}

each_exhibit = pytest.mark.parametrize("exhibit", EXHIBITS.values(), ids=list(EXHIBITS))


def test_every_exhibit_has_its_words_here() -> None:
    assert list(SAYS) == list(EXHIBITS) == [exhibit.name for exhibit in EXHIBITS.values()]


@each_exhibit
def test_broken_code_fails_and_the_verdict_names_the_symptom(exhibit: Exhibit) -> None:
    verdict = exhibit.check(exhibit.broken)
    assert not verdict.ok
    assert SAYS[exhibit.name][0] in verdict.explanation
    assert str(verdict).startswith("Not yet: ")


@each_exhibit
def test_the_mend_passes(exhibit: Exhibit) -> None:
    verdict = exhibit.check(exhibit.mend)
    assert verdict.ok, verdict
    assert str(verdict).startswith("Right: ")


@each_exhibit
def test_each_wrong_mend_is_rejected_in_its_own_words(exhibit: Exhibit) -> None:
    assert len(exhibit.wrong_mends) == len(SAYS[exhibit.name]) - 1 >= 2
    verdicts = [exhibit.check(exhibit.broken)]
    for wrong, says in zip(exhibit.wrong_mends, SAYS[exhibit.name][1:], strict=True):
        verdicts.append(exhibit.check(wrong.candidate))
        assert not verdicts[-1].ok, wrong.mistake
        assert says in verdicts[-1].explanation, verdicts[-1]
    assert len({verdict.explanation for verdict in verdicts}) == len(verdicts)


@each_exhibit
def test_the_detector_flags_the_broken_code_and_clears_the_mend(exhibit: Exhibit) -> None:
    assert exhibit.detector().found
    assert not exhibit.detector(exhibit.mend).found
    assert str(exhibit.detector()).startswith(f"{exhibit.tool}: ")


@each_exhibit
def test_hints_help_without_giving_the_code(exhibit: Exhibit) -> None:
    assert len(set(exhibit.hints)) == len(exhibit.hints) >= 3
    broken = {line.strip() for line in inspect.getsource(exhibit.broken).splitlines()}
    code = [line.strip() for line in inspect.getsource(exhibit.mend).splitlines()[1:]]
    ladder = "".join(" ".join(exhibit.hints).split())
    given = [line for line in code if len(line) > 12 and line not in broken and "".join(line.split()) in ladder]
    assert not given


@each_exhibit
def test_the_plate_says_where_the_bug_was_met(exhibit: Exhibit) -> None:
    repository = re.match(r"([\w.-]+/[\w.-]+)(?:#\d+|: [\w./]+)$", exhibit.source.where)
    assert repository and exhibit.source.link.startswith(f"https://github.com/{repository[1]}/")
    thread = re.search(r"#(\d+)$", exhibit.source.where)
    if thread:
        assert exhibit.source.link.endswith((f"/issues/{thread[1]}", f"/pull/{thread[1]}"))


@each_exhibit
def test_a_visit_shows_the_code_and_not_the_answer(exhibit: Exhibit, capsys: pytest.CaptureFixture[str]) -> None:
    bugs.visit(exhibit.name)
    shown = capsys.readouterr().out
    assert textwrap.dedent(inspect.getsource(exhibit.broken)).strip() in shown
    assert exhibit.title in shown and exhibit.source.link in shown
    hidden = [exhibit.mend.__name__, *exhibit.hints, *(wrong.mistake for wrong in exhibit.wrong_mends)]
    assert not [words for words in hidden if words in shown]
    assert len(inspect.getsource(exhibit.broken).splitlines()) <= 25


@each_exhibit
def test_whatever_a_candidate_does_is_a_verdict(exhibit: Exhibit) -> None:
    def explosive(*arguments: object) -> None:
        raise RuntimeError("boom")

    def untouched(*arguments: object) -> object: ...

    def silly(*arguments: object) -> str:
        return "a string"

    assert exhibit.check(explosive).explanation.endswith("RuntimeError: boom")
    assert exhibit.check(untouched).explanation.endswith(
        "untouched returns nothing yet: replace the ... by your own lines"
    )
    for nothing in (None, ..., 3):
        assert exhibit.check(nothing).explanation.startswith("a function or class is needed")
    for candidate in (silly, object, lambda: 1):
        assert not exhibit.check(candidate).ok
        assert exhibit.detector(candidate).found


def test_the_broken_code_does_what_the_questions_ask_about() -> None:
    assert len(EXHIBITS["long_epoch"].broken(range(41), 4)) * 4 == 148
    assert EXHIBITS["short_epoch"].broken(range(9), 4) == [(range(4), range(1, 5))]  # one row, where two fit


def test_another_right_mend_is_accepted_too() -> None:
    """The checks ask for what the task says, not for the author's lines."""

    class Refusing(ForgottenPlace):
        started = False

        def __iter__(self):  # type: ignore[no-untyped-def]
            self.started = True
            batches = super().__iter__()
            try:
                yield from batches
            finally:
                self.started = False

        def load_state_dict(self, state: dict[str, int]) -> None:
            if self.started:
                raise ValueError("an iterator is running: call load_state_dict before iter(loader)")
            super().load_state_dict(state)

    assert EXHIBITS["forgotten_place"].check(Refusing).ok

    def last_row_moved_back(token_ids: list[int], seq_length: int) -> list[tuple[list[int], list[int]]]:
        if len(token_ids) <= seq_length:
            return []
        rows, last = [], len(token_ids) - 1 - seq_length
        for start in range(0, last + seq_length, seq_length):
            moved = max(start - last, 0)
            window = token_ids[start - moved : start - moved + seq_length + 1]
            rows.append((window[:-1], [-100] * moved + window[1 + moved :]))
        return rows

    for name in ("long_epoch", "missing_targets", "short_epoch"):
        assert EXHIBITS[name].check(last_row_moved_back).ok, EXHIBITS[name].check(last_row_moved_back)


def test_numbers_may_come_as_arrays_or_tensors() -> None:
    def arrays(token_ids: list[int], seq_length: int) -> object:
        rows = EXHIBITS["long_epoch"].mend(np.array(token_ids), seq_length)
        return ((inputs, torch.from_numpy(labels)) for inputs, labels in rows)

    assert EXHIBITS["long_epoch"].check(arrays).ok, EXHIBITS["long_epoch"].check(arrays)
    place = EXHIBITS["colliding_rows"].mend
    assert EXHIBITS["colliding_rows"].check(lambda row, n, seed: np.int64(place(row, n, seed))).ok
    assert not EXHIBITS["colliding_rows"].check(lambda row, n, seed: float(place(row, n, seed))).ok


@pytest.mark.parametrize(
    ("name", "candidate", "says"),
    [
        ("too_good", lambda token_ids: token_ids, "a pair (input_ids, labels) is needed, not [0, 1, 2"),
        ("familiar_validation", lambda *_: 3, "a pair (train, val) of lists of documents is needed, not 3"),
        ("familiar_validation", lambda *_: (3, 4), "train: a list is needed, not 3"),
        ("lost_lines", lambda data: ["story 0"], "a pair (texts, bad) is needed, not ['story 0']"),
        ("double_votes", lambda *_: 3, "10 rows on 4 ranks: rank 0: a list is needed, not 3"),
        ("waiting_rank", lambda *_: 3, "9 rows in batches of 2 on 2 ranks: a list is needed, not 3"),
        ("waiting_rank", lambda *_: [3], "a batch of rank 0: a list is needed, not 3"),
        ("hasty_buffer", lambda *_: 3, "the copies: a list is needed, not 3"),
    ],
)
def test_an_answer_of_another_kind_is_named_and_not_taken_for_an_error_of_its_author(
    name: str, candidate: Callable[..., object], says: str
) -> None:
    assert says in EXHIBITS[name].check(candidate).explanation


def test_pairs_and_batches_may_come_from_generators() -> None:
    for name in ("too_good", "familiar_validation", "waiting_rank", "double_votes"):
        mend = EXHIBITS[name].mend
        verdict = EXHIBITS[name].check(lambda *given, mend=mend: (part for part in mend(*given)))
        assert verdict.ok, verdict


# Mends that are wrong in a way that no mend of the museum is: each by itself, or it hides behind another fault.


def mend_of(name: str) -> Callable[..., Any]:
    return EXHIBITS[name].mend


def backwards(token_ids: list[int], seq_length: int) -> list[tuple[list[int], list[int]]]:
    return [(inputs[::-1], labels[::-1]) for inputs, labels in mend_of("long_epoch")(token_ids, seq_length)]


def short_last_batch(n_rows: int, batch_size: int, rank: int, n_ranks: int) -> list[list[int]]:
    own = list(range(rank, n_rows // n_ranks * n_ranks, n_ranks))
    return [own[start : start + batch_size] for start in range(0, len(own), batch_size)]


def filled_with_none(n_rows: int, batch_size: int, rank: int, n_ranks: int) -> list[list[int | None]]:
    size = batch_size * n_ranks
    rows = [[start + rank * batch_size + place for place in range(batch_size)] for start in range(0, n_rows, size)]
    return [[row if row < n_rows else None for row in batch] for batch in rows]


def front_shuffled(n: int, seed: int, epoch: int) -> list[int]:
    front = np.random.default_rng((seed, epoch)).permutation(n)[:10].tolist()
    return front + [row for row in range(n) if row not in front]


def loaders(n: int = 20, shuffle_val: bool = False) -> Callable[..., Any]:
    def create(train: list[int], val: list[int], seed: int) -> tuple[DataLoader, DataLoader]:
        own, other = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
        return (
            DataLoader(train[:n], batch_size=4, shuffle=True, generator=own),
            DataLoader(val, batch_size=4, shuffle=shuffle_val, generator=other),
        )

    return create


class WorkerLater(SameNoise):
    worker = 0

    def start_worker(self, worker: int) -> None:
        self.worker = worker

    def __getitem__(self, row: int) -> int:
        key = (self.seed, self.epoch, row, self.worker * self.epoch)
        return int(np.random.default_rng(key).integers(2**31))


class SeedForgotten(DeafWorkers):
    def message(self) -> int:
        return self.epoch

    def rows(self, message: int) -> list[int]:
        return np.random.default_rng(message).permutation(self.n).tolist()


class Drawing(SeedForgotten):
    def rows(self, message: int) -> list[int]:
        return np.random.default_rng((self.seed, message)).integers(self.n, size=self.n).tolist()


class OnePass(VanishedBatches):
    def __iter__(self) -> Iterator[int]:
        while self.place < self.n_batches:
            self.place += 1
            yield self.place - 1


class SinceItsStart(VanishedBatches):
    def __iter__(self) -> Iterator[int]:
        self.delivered = 0
        for batch in range(self.place, self.n_batches):
            self.delivered += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"place": getattr(self, "delivered", 0)}


class NeverAnew(ForgottenPlace):
    def __iter__(self) -> Iterator[int]:
        while self.place < self.n_batches:
            self.place += 1
            yield self.place - 1


@pytest.mark.parametrize(
    ("name", "candidate", "says"),
    [
        ("changed_words", lambda ids: np.array(ids, dtype=np.uint32), "take 4 bytes each, 2 hold them"),
        ("changed_words", lambda ids: np.array(ids, dtype=object), "a NumPy array of whole numbers is needed"),
        ("false_end", lambda ids, n: [256, *ids, 257] if len(ids) + 2 <= n else [256, *ids[: n - 2]], "cut that fits"),
        ("long_epoch", lambda ids, n: mend_of("long_epoch")(ids, n) or [(ids, ids)], "fits, yet you return 1"),
        ("long_epoch", lambda ids, n: [], "you return no row, 10 fit"),
        ("long_epoch", backwards, "row 0 asks [4, 3, 2, 1] after [3, 2, 1, 0]: not the next token"),
        ("familiar_validation", lambda texts, n, seed: (texts[n + 1 :], texts[: n + 1]), "39 + 11 documents where 40"),
        ("same_noise", WorkerLater, "epoch 2 depends on the number of workers"),
        ("twin_runs", lambda n, *pair: np.random.default_rng(pair).integers(n, size=n), "is no order of 50 rows"),
        ("twin_runs", front_shuffled, "1,000 rows are not shuffled"),
        ("watched_training", lambda train, val, seed: loaders()(train, val, 0), "seeds 0 and 1 give the same orders"),
        ("watched_training", loaders(n=16), "all 20 rows, each once, are needed"),
        ("watched_training", loaders(shuffle_val=True), "rows 100 to 107 in order are needed"),
        ("deaf_workers", SeedForgotten, "seeds 0 and 1 give the same orders"),
        ("deaf_workers", Drawing, "is no order of 40 rows"),
        ("colliding_rows", lambda row, n, seed: row, "seeds 0 and 1 give the same order of 500 rows"),
        ("colliding_rows", lambda row, n, seed: row + 1, "row 14 goes to 15, a place from 0 to 14 is needed"),
        (
            "double_votes",
            lambda *given: [given[0] if r is None else r for r in mend_of("double_votes")(*given)],
            "row 10,",
        ),
        ("waiting_rank", short_last_batch, "7 rows in batches of 2 on 2 ranks: a batch is [4], 2 rows are needed"),
        ("waiting_rank", filled_with_none, "a batch is [8, None], 2 rows are needed"),
        ("vanished_batches", OnePass, "two passes over 5 batches deliver [0, 1, 2, 3, 4] and []"),
        (
            "vanished_batches",
            SinceItsStart,
            "stopped after 3 batches, four times over, it delivers [0, 1, 2, 3, 4, 5, 3",
        ),
        ("forgotten_place", NeverAnew, "the epoch after a resumed one is []"),
    ],
)
def test_each_case_of_a_check_refuses_a_mend_that_only_it_can_tell(
    name: str, candidate: Callable[..., Any], says: str
) -> None:
    verdict = EXHIBITS[name].check(candidate)
    assert not verdict.ok and says in verdict.explanation, verdict


def test_the_printing_functions(capsys: pytest.CaptureFixture[str]) -> None:
    bugs.tour()
    assert len(capsys.readouterr().out.splitlines()) == len(EXHIBITS) >= 14
    bugs.hint("twin_runs", 2)
    assert capsys.readouterr().out == "Hint 2 of 3: In how many ways can a sum come about?\n"
    bugs.hint("twin_runs", 4)
    assert capsys.readouterr().out == "There are 3 hints: bugs.hint('twin_runs', 1) to bugs.hint('twin_runs', 3).\n"
    bugs.detect("twin_runs")
    assert capsys.readouterr().out.startswith("orders compared: seed 1 in epoch 0 gives the order of seed 0 in epoch 1")
    bugs.detect("twin_runs", EXHIBITS["twin_runs"].mend)
    assert capsys.readouterr().out == "orders compared: 4 pairs of seed and epoch: 4 different orders\n"
    bugs.check("twin_runs", lambda n, seed, epoch: 1 / 0)
    assert capsys.readouterr().out == "Not yet: <lambda>(50, 0, 0) stopped with ZeroDivisionError: division by zero\n"
    with pytest.raises(ValueError, match="no exhibit 'nothing': it must be one of changed_words, "):
        bugs.visit("nothing")


def test_an_exhibit_needs_hints_and_wrong_mends() -> None:
    fields = dict(vars(EXHIBITS["twin_runs"]))
    with pytest.raises(ValueError, match="'twin_runs' has 3 hints and 1 wrong mends, it needs at least 3 and 2"):
        Exhibit(**{**fields, "wrong_mends": (WrongMend(candidate=int, mistake="none"),)})
