"""Checks of notebook 17: right answers pass, wrong ones are explained in the learner's terms."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mt_core.lab.checks import own_data

Say = Callable[..., str]


def right_rows(joined: list[int], seq_length: int) -> list[list[int]]:
    return [joined[start : start + seq_length + 1] for start in range(0, len(joined) - 1, seq_length)]


def right_order(n_rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n_rows)


def right_split(texts: list[str], share: float) -> list[bool]:
    return [int(hashlib.sha256(text.encode()).hexdigest(), 16) < share * 2**256 for text in texts]


def right_file(folder: Path) -> Path:
    path = folder / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n[]\n', encoding="utf-8")
    return path


def written(name: str, text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(text, encoding="utf-8")
        return folder / name

    return write


CHECKS = {
    own_data.rows: (right_rows, "each target is asked exactly once"),
    own_data.order: (right_order, "every row once"),
    own_data.split: (right_split, "equal texts stay together"),
    own_data.bad_line: (right_file, "mt_core says: line 3: a JSON list, each line must be"),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_right_answer_passes_and_an_untouched_stub_is_told_so(say: Say, check: Callable[..., None]) -> None:
    answer, words = CHECKS[check]
    assert words in say(check, answer)
    assert "returns nothing yet" in say(check, lambda *_: None)
    assert "stopped with TypeError" in say(check, lambda: None)


def recipe(joined: list[int], t: int) -> list[list[int]]:
    return [joined[s : s + t] for s in range(0, len(joined) // t * t, t)]


def of_sum(n_rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(seed + epoch).permutation(n_rows)


def unseeded(n_rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.permutation(n_rows)


@pytest.mark.parametrize(
    ("check", "answer", "why"),
    [
        (own_data.rows, recipe, "40 tokens, seq_length 8: never asked are the tokens at 8, 16, 24, 32: the first"),
        (own_data.rows, lambda j, t: [j[s : s + t + 1] for s in range(0, len(j) - t, t)], "never asked are the tokens"),
        (own_data.rows, lambda j, t: right_rows(j, t) * 2, "asked more than once are the tokens at 1, 2, 3, 4 and 35"),
        (own_data.rows, lambda j, t: [j], "a row has 40 tokens; 9 are the most"),
        (own_data.rows, lambda j, t: [row[::-1] for row in right_rows(j, t)], "is no stretch of the stream"),
        (own_data.rows, lambda j, t: [(j[:t], j[1 : t + 1])], "row 0 is [[100, 101, 102, 103, 104, 105, 106, 107], ["),
        (own_data.rows, lambda j, t: j, "a list of rows is needed"),
        (own_data.order, lambda n, s, e: np.random.default_rng(s + e).integers(n, size=n), "rows never come"),
        (own_data.order, of_sum, "a sum of the two collides"),
        (own_data.order, lambda n, s, e: right_order(n, s, 0), "epoch 1 has the order of epoch 0"),
        (own_data.order, lambda n, s, e: right_order(n, 0, e), "seed 1 has the order of seed 0"),
        (own_data.order, unseeded, "called again, it gives another order"),
        (own_data.order, lambda n, s, e: "rows", "a list or array of row numbers is needed"),
        (own_data.split, lambda x, share: [hash(t) % 100 < 100 * share for t in x], "use hashlib"),
        (own_data.split, lambda x, share: [i < share * len(x) for i in range(len(x))], "change sides"),
        (own_data.split, lambda x, share: [False] * len(x), "share 0.1: 0 of 2,000 texts are held out"),
        (own_data.split, lambda x, share: right_split(x, 0.1), "share 0.5: "),
        (own_data.split, lambda x, share: x[:9], "True or False for each text"),
        (own_data.bad_line, written("a.txt", "x"), "end it in .jsonl"),
        (own_data.bad_line, written("a.jsonl", '{"text": "a"}\n'), "all 1 records can be read"),
        (own_data.bad_line, written("a.jsonl", '{"text": "a"}\n1\n2\n'), "2 records cannot be read"),
        (own_data.bad_line, written("a.jsonl", '{"text": "a"}\n1\n'), "1 record can be read, two are needed"),
        (own_data.bad_line, written("a.jsonl", "1\n"), "leave some records good"),
        (own_data.bad_line, lambda folder: folder / "none.jsonl", "no path of a file"),
    ],
)
def test_wrong_answers_are_explained(
    say: Say, check: Callable[..., None], answer: Callable[..., Any], why: str
) -> None:
    printed = say(check, answer)
    assert why in printed and "Right" not in printed and "One record is lost" not in printed


def test_a_split_by_place_among_equal_texts_is_caught(say: Say) -> None:
    """Decided by the text and by whether it came before: the same in reverse, and still on both sides."""

    def by_count(texts: list[str], share: float) -> list[bool]:
        seen: set[str] = set()
        verdicts = []
        for text in texts:
            held = right_split([text], share)[0]
            verdicts.append(held and text not in seen)
            seen.add(text)
        return verdicts

    assert "texts are on both sides" in say(own_data.split, by_count)
