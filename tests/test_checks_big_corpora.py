"""Checks of notebook 09: right answers pass, wrong ones are explained in the learner's terms."""

import json
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mt_core import MicroTransformerTokenizer
from mt_core.lab.checks import big_corpora

Say = Callable[..., str]


def right_size(text_bytes: int, bytes_per_token: float, n_documents: int, vocab_size: int) -> float:
    return text_bytes / bytes_per_token * (2 if vocab_size <= 65_536 else 4) + 8 * n_documents


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda b, p, n, v: None, "returns nothing yet"),
        (lambda b, p, n, v: b / p * 2, "each document also has its end, 8 bytes"),
        (lambda b, p, n, v: b / p * 2 + 8 * n, "needs 4 bytes: 16 bits hold 65,536"),
        (lambda b, p, n, v: b / p * (2 if v < 65_536 else 4) + 8 * n, "a vocabulary of 65,536: you returned"),
        (lambda b, p, n, v: b / p + 8 * n, "one byte a token; an id takes 2"),
        (lambda b, p, n, v: b * 2 + 8 * n, "divide by bytes_per_token"),
        (lambda b, p, n, v: b * p, "you returned 16,000 bytes, 2,008 are needed"),
        (lambda b, p, n, v: "many", "you returned 'many', a number of bytes is needed"),
        (lambda b, p: 0, "stopped with TypeError"),
    ],
)
def test_wrong_sizes_are_explained(say: Say, answer: Callable[..., Any], why: str) -> None:
    printed = say(big_corpora.store_bytes, answer)
    assert why in printed and "Right" not in printed


@pytest.mark.parametrize("kind", [float, int, np.float64])
def test_right_sizes_pass(say: Say, kind: Callable[..., Any]) -> None:
    assert say(big_corpora.store_bytes, lambda *given: kind(right_size(*given))).startswith("Right: 6 corpora")


def prepare(documents: Iterable[str], tokenizer: MicroTransformerTokenizer, folder: Path, **how: Any) -> None:
    end, ids_type, ends_type = 0, how.get("ids", "<u2"), how.get("ends", "<u8")
    with (folder / "token_ids.bin").open("wb") as ids_file, (folder / "document_ends.bin").open("wb") as ends_file:
        for text in how.get("first", lambda documents: documents)(documents):
            ids = tokenizer.encode(text)["input_ids"][how.get("from", 0) :]
            end = end + len(ids) - how.get("less", 0)
            ids_file.write(np.array(ids, ids_type).tobytes())
            ends_file.write(np.array([end], ends_type).tobytes())


def held(documents: Iterable[str], tokenizer: MicroTransformerTokenizer, folder: Path) -> None:
    ids, ends = [], []
    for text in documents:
        ids += tokenizer.encode(text)["input_ids"]
        ends.append(len(ids))
    (folder / "token_ids.bin").write_bytes(np.array(ids, "<u2").tobytes())
    (folder / "document_ends.bin").write_bytes(np.array(ends, "<u8").tobytes())


def no_ends(documents: Iterable[str], tokenizer: MicroTransformerTokenizer, folder: Path) -> None:
    prepare(documents, tokenizer, folder)
    (folder / "document_ends.bin").unlink()


def cut_short(documents: Iterable[str], tokenizer: MicroTransformerTokenizer, folder: Path) -> None:
    prepare(documents, tokenizer, folder)
    path = folder / "token_ids.bin"
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda *_: None, "returns nothing yet"),
        (held, "MB were held at once"),
        (lambda d, t, f: prepare(d, t, f, first=list), "MB were held at once"),
        (lambda d, t, f: prepare(d, t, f, ids="<u4"), "is the type right? ids are '<u2', ends '<u8'"),
        (lambda d, t, f: prepare(d, t, f, ids=">u2"), "token_ids.bin has 256 at place 0, 1 is needed"),
        (lambda d, t, f: prepare(d, t, f, less=1), "document_ends.bin has 3 at place 0, 4 is needed"),
        (lambda d, t, f: prepare(d, t, f, **{"from": 1}), "token_ids.bin has "),
        (no_ends, "document_ends.bin is missing, the folder holds token_ids.bin"),
        (cut_short, "the end is missing. Close the files"),
        (lambda d, t, f: len(d), "stopped with TypeError"),
    ],
)
def test_wrong_preparations_are_explained(say: Say, answer: Callable[..., Any], why: str) -> None:
    printed = say(big_corpora.writing, answer)
    assert why in printed and "Right" not in printed


def test_a_right_preparation_passes(say: Say) -> None:
    assert say(big_corpora.writing, prepare).startswith("Right: the bytes of the package.")


class Right(Executor):
    def __init__(self, tries: int) -> None:
        self.tries = tries

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future:
        future: Future = Future()
        for attempt in range(1, self.tries + 1):
            try:
                future.set_result(work(*arguments, **named))
                break
            except OSError as error:
                if attempt == self.tries:
                    future.set_exception(error)
        return future


class Untouched(Executor):
    def __init__(self, tries: int) -> None: ...
    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Any: ...


class NoExecutor:
    __init__, submit = Right.__init__, Right.submit


class Once(Right):
    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Any:
        return Right.submit(type(self)(1), work, *arguments, **named)


class Greedy(Right):
    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Any:
        future = super().submit(work, *arguments, **named)
        work(*arguments, **named) if future.exception() is None else None
        return future


class Restless(Right):
    """Goes on when the work has succeeded."""

    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Any:
        future: Future = Future()
        for _ in range(self.tries):
            future.set_result(work(*arguments, **named))
        return future


class Hasty(Right):
    """Sets the error of each attempt."""

    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Any:
        future: Future = Future()
        for _ in range(self.tries):
            try:
                future.set_result(work(*arguments, **named))
                break
            except OSError as error:
                future.set_exception(error)
        return future


class Raising(Right):
    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Any:
        future = super().submit(work, *arguments, **named)
        future.result()
        return future


class Empty(Right):
    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Any:
        return Future()


class Bare(Right):
    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Any:
        return super().submit(work, *arguments, **named).result()


class FirstError(Right):
    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Any:
        future = super().submit(work, *arguments, **named)
        if future.exception():
            future = Future()
            future.set_exception(OSError("attempt 1 failed"))
        return future


class WithoutArguments(Right):
    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Any:
        return super().submit(work)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Untouched, "returns nothing yet"),
        (NoExecutor, "a class that inherits from Executor"),
        (Once, "called 1 times, 3 are needed: as often as allowed"),
        (Greedy, "called 2 times, 1 are needed: stop when it has worked"),
        (Restless, "submit(divmod, 17, 5): the future was set twice"),
        (Hasty, "work that fails 2 times: the future was set twice"),
        (Raising, "submit itself raised the error"),
        (Empty, "the future is not done"),
        (Bare, "returned (3, 2): a concurrent.futures.Future is needed"),
        (FirstError, "holds the error attempt 1 failed, the error of attempt 3"),
        (WithoutArguments, "stopped with TypeError"),
    ],
)
def test_wrong_executors_are_explained(say: Say, answer: Callable[..., Any], why: str) -> None:
    printed = say(big_corpora.trying_again, answer)
    assert why in printed and "Right" not in printed


def test_a_right_executor_passes_and_prepares_a_corpus(say: Say) -> None:
    printed = say(big_corpora.trying_again, Right)
    assert printed.startswith("Right: work that fails is tried again") and "the same bytes" in printed


def change(name: str, place: int, value: int) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        raw = bytearray((folder / name).read_bytes())
        raw[place] = value
        (folder / name).write_bytes(raw)

    return changed


def shorten(folder: Path) -> None:
    (folder / "token_ids.bin").write_bytes(b"12")


def another_layout(folder: Path) -> None:
    header = json.loads((folder / "header.json").read_text(encoding="utf-8"))
    (folder / "header.json").write_text(json.dumps(header), encoding="utf-8")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda folder: None, "returns nothing yet"),
        (shorten, "open has noticed it already: store/token_ids.bin has 2 bytes, the header promises"),
        (lambda folder: (folder / "header.json").unlink(), "open has noticed it already: store is not a token store"),
        (another_layout, "verify found nothing"),
        (lambda folder: folder / 3, "stopped with TypeError"),
    ],
)
def test_a_store_that_was_not_damaged_as_asked_is_explained(say: Say, answer: Callable[..., Any], why: str) -> None:
    printed = say(big_corpora.damage, answer)
    assert why in printed and "verify says" not in printed


def test_the_damaged_store_shows_its_texts_and_the_error(say: Say) -> None:
    printed = say(big_corpora.damage, change("token_ids.bin", 2, 70))
    assert printed.startswith(
        "open says nothing, and the texts are ['che cat', 'a mat'].\nverify says: store: token_ids"
    )
    assert "prepare the corpus again" in printed
