"""Exhibits about the question a row asks: shifted never, twice, or to an answer that was seen in training."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

from mt_core.lab.audit import audit, counting_corpus
from mt_core.lab.bugs.exhibit import Exhibit, FaultError, Source, WrongMend, call, items, numbers, pair, short
from mt_core.lab.stories import generate

Pair = tuple[Sequence[int], Sequence[int]]  # the input ids and labels of a row


# -- shifted never, once, twice --------------------------------------------------------------------------------


def too_good(token_ids: Sequence[int]) -> Pair:
    """Inputs and labels of one document, for a model that compares place t with label t."""
    input_ids = list(token_ids)
    labels = list(token_ids)
    return input_ids, labels


def _shifted_once(token_ids: Sequence[int]) -> Pair:
    return token_ids[:-1], token_ids[1:]


def _shifted_back(token_ids: Sequence[int]) -> Pair:
    return token_ids[1:], token_ids[:-1]


def _shifted_twice(token_ids: Sequence[int]) -> Pair:
    return token_ids[:-2], token_ids[2:]


def _rolled(token_ids: Sequence[int]) -> Pair:
    return token_ids, [*token_ids[1:], token_ids[0]]


def _pair(candidate: Callable[..., Any], token_ids: list[int]) -> tuple[list[int], list[int]]:
    shown, asked_for = pair(call(candidate, list(token_ids)), "(input_ids, labels)")
    inputs, labels = numbers(shown, "input_ids"), numbers(asked_for, "labels")
    if len(inputs) != len(labels):
        raise FaultError(f"{len(inputs)} inputs and {len(labels)} labels: each place needs one label")
    return inputs, labels


@lru_cache(maxsize=1)
def _stories() -> tuple[tuple[list[int], ...], float]:
    """Stories as characters between the marks 0 and 1, and the floor of the loss in nats a target."""
    stories = [generate(2, index) for index in range(40)]
    streams = tuple([0, *map(ord, story.text), 1] for story in stories)
    return streams, sum(s.bits for s in stories) * math.log(2) / sum(len(stream) - 1 for stream in streams)


def _look_floor(candidate: Callable[..., Any]) -> str:
    """The loss of the simplest model, a table of what follows each character, against the floor of the stories."""
    streams, floor = _stories()
    pairs = Counter(pair for s in streams for pair in zip(*_pair(candidate, s), strict=True))
    inputs: Counter[int] = Counter()
    for (shown, _), times in pairs.items():
        inputs[shown] += times
    loss = sum(times * math.log(inputs[x] / times) for (x, _), times in pairs.items()) / pairs.total()
    seen = f"a table of single characters reaches {loss:.2f} nats a target, the floor of these stories is {floor:.2f}"
    if loss < floor:
        raise FaultError(f"{seen}: no model can do that, so the answer must be in the question")
    return f"{seen}: possible"


def _examine_single_shift(candidate: Callable[..., Any]) -> str:
    for stream in (list(range(10)), [3, 1, 4, 1, 5, 9, 2, 6], [7, 7]):
        inputs, labels = _pair(candidate, stream)
        if (inputs, labels) == (stream[:-1], stream[1:]):
            continue
        what = f"stream {short(stream)}: input_ids {short(inputs)}, labels {short(labels)}"
        gaps = {label - token for token, label in zip(inputs, labels, strict=True)}
        if stream == list(range(10)) and gaps == {0}:
            _look_floor(candidate)
            raise FaultError(f"{what}: each place is asked for the token it is shown")
        if gaps == {-1}:
            raise FaultError(f"{what}: each place is asked for the token before it, which the model has seen")
        if gaps == {2}:
            raise FaultError(f"{what}: each place is asked for the token after the next, and one target is lost")
        if labels and labels[-1] == stream[0]:
            raise FaultError(f"{what}: the last place is asked for the first token, which does not follow it")
        raise FaultError(f"{what}: {short(stream[:-1])} and {short(stream[1:])} are needed")
    return f"each place is asked for the next token, the last token is no input; {_look_floor(candidate)}"


TOO_GOOD = Exhibit(
    name="too_good",
    title="A loss that is too good",
    question="No model can get below the floor of the stories. On these labels it will: how far, and how?",
    task=(
        "pair(token_ids) returns (input_ids, labels) of one document, of equal length, for a model that compares its "
        "answer at place t with label t. Every token but the first is asked once."
    ),
    source=Source(
        where="KempnerInstitute/KempnerForge#154",
        title="VLM captioning loss collapses to 0: labels not shifted for next-token",
        link="https://github.com/KempnerInstitute/KempnerForge/issues/154",
    ),
    broken=too_good,
    symptom="The loss falls to 0.0000 within minutes, and the model writes nonsense.",
    tool="floor of the stories",
    look=_look_floor,
    examine=_examine_single_shift,
    hints=(
        "A loss below the floor is not luck. Where could the answer be read?",
        "At place t the model is shown input t. Which token is it asked for?",
        "The model does not shift, so the row must: labels begin with the second token. What then is the last input?",
    ),
    mend=_shifted_once,
    wrong_mends=(
        WrongMend(candidate=_shifted_back, mistake="shifts the wrong way: the model is asked for the past"),
        WrongMend(candidate=_shifted_twice, mistake="shifts twice"),
        WrongMend(candidate=_rolled, mistake="rolls: the last place is asked for the first token"),
    ),
)


def next_but_one(window: Sequence[int]) -> Pair:
    """Inputs and labels from seq_length + 1 neighbours, for a model that shifts the labels itself."""
    input_ids = window[:-1]
    labels = window[1:]
    return input_ids, labels


def asked(input_ids: Sequence[int], labels: Sequence[int]) -> list[tuple[int, int]]:
    """What a model that shifts inside makes of a row: (last token shown, token asked for), place by place."""
    return list(zip(input_ids[:-1], labels[1:], strict=True))


def _same_twice(window: Sequence[int]) -> Pair:
    return window, window


def _same_but_shorter(window: Sequence[int]) -> Pair:
    return window[:-1], window[:-1]


def _look_gap(candidate: Callable[..., Any]) -> str:
    inputs, labels = _pair(candidate, list(range(9)))
    batch = {"input_ids": [inputs], "labels": [labels]}
    report = audit(lambda corpus: [batch], counting_corpus(9, n_documents=1), shifted_by="model")
    if report.wrong_labels:
        raise FaultError(f"tokens 0…8, {short(list(asked(inputs, labels)), 2)}: {report.findings[0]}")
    return f"tokens 0…8: {report.epochs[0].once} questions, each for the next token"


def _examine_gap(candidate: Callable[..., Any]) -> str:
    _look_gap(candidate)
    for stream in (list(range(9)), [3, 1, 4, 1, 5, 9, 2, 6], [7, 8]):
        questions = asked(*_pair(candidate, stream))
        wanted = list(pairwise(stream))
        if questions != wanted:
            raise FaultError(
                f"window {short(stream)}: the model is asked {len(questions)} questions, {len(wanted)} are needed; "
                f"target {wanted[-1][1]} is never asked if rows overlap by one token"
            )
    return "shifted once in all: a window of T + 1 tokens asks for T, each the next one"


NEXT_BUT_ONE = Exhibit(
    name="next_but_one",
    title="The word after the next",
    question="The dataset shifts its labels. This model shifts them, too. After token 3, which token is asked for?",
    task=(
        "pair(window) takes seq_length + 1 neighbours and returns (input_ids, labels), of equal length, for a model "
        "that shifts inside as `asked` does. Every token of the window but the first is asked for once."
    ),
    source=Source(
        where="LLM360/amber-train#6",
        title="Aligning logits with labels through two shifts？",
        link="https://github.com/LLM360/amber-train/issues/6",
    ),
    broken=next_but_one,
    shown=(asked,),
    symptom="The loss falls and settles far above the floor; what the model writes skips every second token.",
    tool="coverage audit",
    look=_look_gap,
    examine=_examine_gap,
    hints=(
        "Feed it the numbers 0 to 8, where every mistake has a number.",
        "Count the shifts between the stream and the loss. Which of them is in your hands?",
        "Leave the shifting to the model, and give it every token of the window to shift.",
    ),
    mend=_same_twice,
    wrong_mends=(
        WrongMend(candidate=_same_but_shorter, mistake="cuts the window first: one target in each row is lost"),
        WrongMend(candidate=_shifted_back, mistake="shifts back, not just not at all: the model is asked what it sees"),
    ),
)


# -- training on the exam --------------------------------------------------------------------------------------


def familiar_validation(documents: Sequence[str], n_val: int, seed: int) -> tuple[list[str], list[str]]:
    """Training and validation documents."""
    shuffled = list(documents)
    random.Random(seed).shuffle(shuffled)
    train = shuffled[n_val:]
    val = list(documents[:n_val])
    return train, val


def _split_once(documents: Sequence[str], n_val: int, seed: int) -> tuple[list[str], list[str]]:
    shuffled = list(documents)
    random.Random(seed).shuffle(shuffled)
    return shuffled[n_val:], shuffled[:n_val]


def _split_two_seeds(documents: Sequence[str], n_val: int, seed: int) -> tuple[list[str], list[str]]:
    return _split_once(documents, n_val, seed)[0], _split_once(documents, n_val, seed + 1)[1]


def _split_unseeded(documents: Sequence[str], n_val: int, seed: int) -> tuple[list[str], list[str]]:
    shuffled = random.SystemRandom().sample(list(documents), len(documents))
    return shuffled[n_val:], shuffled[:n_val]


def _split_filtered(documents: Sequence[str], n_val: int, seed: int) -> tuple[list[str], list[str]]:
    train, val = familiar_validation(documents, n_val, seed)
    return [text for text in train if text not in val], val


def _split(candidate: Callable[..., Any], n: int, n_val: int, seed: int) -> tuple[list[str], list[str]]:
    returned = call(candidate, [f"story {number}" for number in range(n)], n_val, seed)
    train, val = pair(returned, "(train, val) of lists of documents")
    return items(train, "train"), items(val, "val")


def _overlap(candidate: Callable[..., Any], n: int, n_val: int, seed: int) -> str:
    train, val = _split(candidate, n, n_val, seed)
    both = sorted(set(train) & set(val))
    if both:
        raise FaultError(
            f"{n} documents, {n_val} for validation: {len(both)} of them are in the training set as well, "
            f"such as {both[0]!r}"
        )
    return f"{n} documents, {n_val} for validation: none is in both sets"


def _look_overlap(candidate: Callable[..., Any]) -> str:
    return _overlap(candidate, 50, 10, 0)


def _examine_split(candidate: Callable[..., Any]) -> str:
    for n, n_val, seed in ((50, 10, 0), (50, 1, 3), (7, 6, 1), (20, 10, 2)):
        seen = _overlap(candidate, n, n_val, seed)
        documents = [f"story {number}" for number in range(n)]
        train, val = _split(candidate, n, n_val, seed)
        if len(val) != n_val or sorted([*train, *val]) != sorted(documents):
            raise FaultError(
                f"{seen}, but there are {len(train)} + {len(val)} documents where {n - n_val} + {n_val} are needed: "
                f"{n - len({*train, *val})} documents are in neither"
            )
        if _split(candidate, n, n_val, seed) != (train, val):
            raise FaultError(
                f"{seen}, but a second call with seed={seed} gives another split: a run that is resumed would train "
                "on what it was validated on"
            )
    return "4 splits: nothing in both sets, nothing in neither, the same for the same seed"


FAMILIAR_VALIDATION = Exhibit(
    name="familiar_validation",
    title="An exam the pupil has read",
    question="50 documents, 10 for validation. How many of the 10 does the model train on?",
    task=(
        "split(documents, n_val, seed) returns (train, val): n_val different documents for validation, all others for "
        "training, and the same split for the same seed."
    ),
    source=Source(
        where="marin-community/marin#2700",
        title="Fix train and val set overlap bug by splitting before shuffling",
        link="https://github.com/marin-community/marin/pull/2700",
    ),
    broken=familiar_validation,
    symptom="Validation loss follows training loss down, even below the floor, and never warns of overfitting.",
    tool="overlap of the two sets",
    look=_look_overlap,
    examine=_examine_split,
    hints=(
        "Ask for the intersection of the two sets.",
        "Which list is each of the two sets cut from?",
        "Decide the order once, then cut that one list in two.",
    ),
    mend=_split_once,
    wrong_mends=(
        WrongMend(candidate=_split_two_seeds, mistake="two orders, one for each set: they overlap as before"),
        WrongMend(candidate=_split_unseeded, mistake="a new split each time: validation is trained on after a restart"),
        WrongMend(candidate=_split_filtered, mistake="filters the overlap away: as many documents are in neither set"),
    ),
)

EXHIBITS = (TOO_GOOD, NEXT_BUT_ONE, FAMILIAR_VALIDATION)
