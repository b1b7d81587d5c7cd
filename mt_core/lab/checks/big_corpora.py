"""The exercises of notebook 09: the size of a store, writing as one goes, an executor that tries again, one byte."""

from __future__ import annotations

import json
import tempfile
import textwrap
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, InvalidStateError
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mt_core.lab.checks.explained import UntouchedError, WrongError, as_number, explained, touched
from mt_core.lab.checks.guesses import in_words
from mt_core.prepare import prepare_corpus
from mt_core.store import ENDS, TOKENS, StoreError, TokenStore, dtype_for
from mt_core.tokenizer import MicroTransformerTokenizer

_LONG_TEXT = "abcde" * 600  # 3,000 tokens
_MOST_HELD = 500_000  # bytes, where all tokens together are 1.2 million


@lru_cache
def _letters() -> MicroTransformerTokenizer:
    """A token for each byte."""
    return MicroTransformerTokenizer.train(["a"], vocab_size=260)


def store_bytes(my_store_bytes: Callable[..., Any]) -> None:
    """Check `my_store_bytes(text_bytes, bytes_per_token, n_documents, vocab_size)`: bytes of ids and document ends."""
    with explained(my_store_bytes):
        for text_bytes, per_token, n_documents, vocab_size in (
            (4_000, 4.0, 1, 1024),
            (4_000_000, 4.0, 50_000, 1024),
            (10**12, 4.4, 5 * 10**8, 50_257),
            (10**12, 4.0, 10**9, 65_536),
            (10**12, 4.0, 10**9, 65_537),
            (10**13, 4.5, 10**10, 128_256),
        ):
            case = (
                f"{text_bytes:,} bytes of text, {per_token} a token, {n_documents:,} documents, "
                f"a vocabulary of {vocab_size:,}"
            )
            got = my_store_bytes(text_bytes, per_token, n_documents, vocab_size)
            found = float(as_number(got, case, "a number of bytes"))
            tokens, width = text_bytes / per_token, dtype_for(vocab_size).itemsize
            wanted = tokens * width + 8 * n_documents
            if not _close(found, wanted):
                hint = _size_hint(found, tokens, width, text_bytes, n_documents)
                raise WrongError(f"{case}: you returned {found:,.0f} bytes, {wanted:,.0f} are needed{hint}")
        print("Right: 6 corpora; ids of 2 bytes up to a vocabulary of 65,536, of 4 beyond, 8 bytes for each document.")


def _close(got: float, wanted: float) -> bool:
    return abs(got - wanted) <= 0.001 * wanted


def _size_hint(got: float, tokens: float, width: int, text_bytes: int, n_documents: int) -> str:
    ends = 8 * n_documents
    if _close(got, tokens * width):
        return ". The ids are right: each document also has its end, 8 bytes"
    for found, hint in (
        (tokens * (6 - width), f"An id of this vocabulary needs {width} bytes: 16 bits hold 65,536 different ids"),
        (tokens, f"That is one byte a token; an id takes {width}"),
        (text_bytes * width, "You counted a token for each byte of text: divide by bytes_per_token"),
    ):
        if _close(got, found) or _close(got, found + ends):
            return f". {hint}"
    return ""


def writing(my_prepare: Callable[..., Any]) -> None:
    """Check `my_prepare(documents, tokenizer, folder)`: writes the two files of a store, in memory that stays small."""
    with (
        explained(my_prepare),
        tempfile.TemporaryDirectory(prefix="mt-write-", ignore_cleanup_errors=True) as name,
    ):
        texts = ["ab", "b", "größer", "a b " * 50]
        for number, (case, documents) in enumerate({"4 texts": texts, "1 text": ["a"]}.items()):
            folder = Path(name) / str(number)
            folder.mkdir()
            my_prepare((text for text in documents), _letters(), folder)
            if number == 0 and not any(folder.iterdir()):
                raise UntouchedError
            _compare_files(folder, documents, case)
        _judge_memory(my_prepare, Path(name))
        print("Right: the bytes of the package. Of 1.2 MB of ids no more than 0.5 MB was in memory at a time.")


def _compare_files(folder: Path, documents: Sequence[str], case: str) -> None:
    store = TokenStore.from_documents(documents, _letters())
    for name, wanted in ((TOKENS, store.token_ids), (ENDS, store.document_ends)):
        if not (folder / name).is_file():
            found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
            raise WrongError(f"{case}: {name} is missing, the folder holds {found}")
        raw = (folder / name).read_bytes()
        if raw == wanted.tobytes():
            continue
        what = f"{case}: {name} has {len(raw)} bytes, {wanted.nbytes} are needed"
        if len(raw) == wanted.nbytes:
            values = np.frombuffer(raw, wanted.dtype).tolist()
            at = next(i for i, (a, b) in enumerate(zip(values, wanted.tolist(), strict=True)) if a != b)
            raise WrongError(f"{case}: {name} has {values[at]} at place {at}, {int(wanted[at])} is needed")
        if wanted.tobytes().startswith(raw):
            raise WrongError(
                f"{what}: the end is missing. Close the files (with … open(…) as file), and write each end"
            )
        if len(raw) > wanted.nbytes and len(raw) % wanted.nbytes == 0:
            raise WrongError(f"{what}: is the type right? ids are '<u2', ends '<u8'")
        raise WrongError(what)


def _judge_memory(my_prepare: Callable[..., Any], folder: Path) -> None:
    def documents(count: int) -> Iterator[str]:
        for number in range(count):
            yield _LONG_TEXT + str(number)

    target = folder / "long"
    target.mkdir()
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        my_prepare(documents(200), _letters(), target)
        most = tracemalloc.get_traced_memory()[1] - before
    finally:
        if not tracing:
            tracemalloc.stop()
    if most > _MOST_HELD:
        raise WrongError(
            f"the bytes are right, but for 200 documents of 3,000 tokens {most / 1e6:.1f} MB were held at once, and "
            "for more documents it would be more: write each document's ids before you take the next"
        )
    _compare_files(target, list(documents(200)), "200 long documents")


def trying_again(my_executor: Callable[[int], Any]) -> None:
    """Check the class `my_executor(tries)`: an Executor that works here and tries up to `tries` times."""
    with explained(my_executor):
        executor = my_executor(3)
        future = touched(_submitted(executor, "submit(divmod, 17, 5)", divmod, 17, 5))
        if not isinstance(executor, Executor):
            raise WrongError("a class that inherits from Executor is needed: class MyExecutor(Executor)")
        _judge_future(future, "submit(divmod, 17, 5)")
        if future.exception() or future.result() != (3, 2):
            raise WrongError(f"submit(divmod, 17, 5): the future holds {_inside(future)}, (3, 2) is needed")
        for tries, fails in ((1, 0), (3, 2), (3, 3), (1, 1), (2, 5)):
            _judge_tries(my_executor, tries, fails)
        _judge_prepare(my_executor)
        print("Right: work that fails is tried again, at most `tries` times; then the last error is in the future.")
        print("prepare_corpus with this executor, each unit failing once: the same bytes.")


class _Unlucky:
    """Work that fails some times before it succeeds."""

    def __init__(self, fails: int, work: Callable[..., Any] = str) -> None:
        self.fails, self.work, self.calls = fails, work, 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        if self.calls <= self.fails:
            raise OSError(f"attempt {self.calls} failed")
        return self.work(*arguments, **named)


def _submitted(executor: Any, case: str, *work: Any) -> Any:
    try:
        return executor.submit(*work)
    except InvalidStateError:
        raise WrongError(
            f"{case}: the future was set twice, and takes one result or one error: stop when the work has worked, and "
            "set the error of the last attempt alone"
        ) from None


def _judge_future(future: Any, case: str) -> None:
    if not isinstance(future, Future):
        raise WrongError(f"{case} returned {future!r}: a concurrent.futures.Future is needed, with the result set")
    if not future.done():
        raise WrongError(f"{case}: the future is not done: call set_result or set_exception before you return it")


def _inside(future: Future[Any]) -> str:
    error = future.exception()
    return f"the error {error}" if error else in_words(future.result())


def _judge_tries(my_executor: Callable[[int], Any], tries: int, fails: int) -> None:
    work, case = _Unlucky(fails), f"tries={tries}, work that fails {fails} time{'s' * (fails != 1)}"
    try:
        future = _submitted(my_executor(tries), case, work, 7)
    except OSError:
        raise WrongError(
            f"{case}: submit itself raised the error. It belongs in the future, set_exception(error): who submits may "
            "have other units on their way"
        ) from None
    _judge_future(future, case)
    wanted = min(tries, fails + 1)
    if work.calls != wanted:
        why = "stop when it has worked" if work.calls > fails + 1 else "as often as allowed, until it has worked"
        raise WrongError(f"{case}: called {work.calls} times, {wanted} are needed: {why}")
    if fails < tries and future.exception():
        raise WrongError(f"{case}: attempt {fails + 1} worked, but the future holds {_inside(future)}")
    if fails >= tries and str(future.exception()) != f"attempt {tries} failed":
        raise WrongError(f"{case}: the future holds {_inside(future)}, the error of attempt {tries} is needed")


def _judge_prepare(my_executor: Callable[[int], Any]) -> None:
    executor = my_executor(2)
    submit = executor.submit
    executor.submit = lambda work, /, *arguments, **named: submit(_Unlucky(1, work), *arguments, **named)
    texts = ["ab", "b", "größer"]
    with tempfile.TemporaryDirectory(prefix="mt-tries-", ignore_cleanup_errors=True) as name:
        corpus = _write(Path(name) / "corpus.jsonl", texts)
        store = prepare_corpus(corpus, Path(name) / "store", _letters(), executor=executor)
        same = store.fingerprint() == TokenStore.from_documents(texts, _letters()).fingerprint()
        del store
    if not same:
        raise WrongError("prepare_corpus with this executor makes other bytes: is every result that of its own work?")


def _write(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8", newline="\n")
    return path


def damage(my_damage: Callable[[Path], Any]) -> None:
    """Check `my_damage(folder)`: a store that still opens, and does not pass `verify`. Shows the error."""
    with (
        explained(my_damage),
        tempfile.TemporaryDirectory(prefix="mt-damage-", ignore_cleanup_errors=True) as name,
    ):
        corpus = _write(Path(name) / "corpus.jsonl", ["the cat", "a mat"])
        folder = Path(name) / "store"
        prepare_corpus(corpus, folder, _letters())
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        my_damage(folder)
        if {path.name: path.read_bytes() for path in folder.iterdir()} == before:
            raise UntouchedError
        try:
            store = TokenStore.open(folder)
        except StoreError as error:
            raise WrongError(
                f"open has noticed it already: {_without(error, folder)}. Sizes must remain; change a byte"
            ) from None
        texts = [_letters().decode(store.document(d)) for d in range(store.n_documents)]
        try:
            store.verify()
        except StoreError as error:
            message = _without(error, folder)
        else:
            raise WrongError("verify found nothing: no byte of the ids or the ends is another, nor a checksum")
        finally:
            del store
        print(f"open says nothing, and the texts are {in_words(texts)}.")
        print(textwrap.fill(f"verify says: {message}", 100))
        print("open compares sizes, which takes no time. verify reads every byte: run it after a copy.")


def _without(error: StoreError, folder: Path) -> str:
    return str(error).replace(str(folder), "store").replace("\\", "/")
