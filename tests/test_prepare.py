"""Files to a store on many cores and machines: the same bytes whoever works, and nothing lost or half made."""

import concurrent.futures
import gzip
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from helpers import is_alive
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mt_core import (
    CorpusError,
    CorpusWarning,
    MicroTransformerTokenizer,
    StoreError,
    TokenStore,
    assemble,
    bulk,
    locks,
    prepare,
    prepare_corpus,
    read_documents,
    shards,
    units,
)
from mt_core import cache as cache_module
from mt_core.bulk import BulkEncoder
from mt_core.cache import open_corpus
from mt_core.on_the_fly import open_text

FILES = ["document_ends.bin", "header.json", "token_ids.bin"]
StartScript = Callable[..., subprocess.Popen[str]]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


def jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> int:
    """Units of 64 bytes, so that a corpus of a few lines has several."""
    monkeypatch.setattr(units, "UNIT_BYTES", 64)
    return 64


@pytest.fixture
def long_corpus(tmp_path: Path, sentences: list[str]) -> Path:
    """30 documents in a JSONL file, 30 to 40 units of 64 bytes."""
    path = tmp_path / "long.jsonl"
    path.write_bytes(jsonl([f"{n} {sentences[n % 5]}" for n in range(30)]))
    return path


# -- the ids ------------------------------------------------------------------------------------------------

KINDS_OF_TEXT = {
    "empty": "",
    "contractions": "it's I'LL we've 'sound' ''s 're",
    "numbers": "1234 ½ ² ४५ 1a2b",
    "scripts": "Größe naïve Ωmega Привет שלום สวัสดี 你好世界 こんにちは 👩‍👩‍👧🇩🇪",
    "combining": "e\u0301 \u0301 a\u200db",
    "white space": " a  b   c\n\n d \t\t e\r\n\u00a0\u3000x\u2028y\u0085 z  \n",
    "all white space": " \n\t \u3000",
    "control": "\x00\x01\x1c\x1d \x1f\x7f a\x0bb\x0c",
    "special tokens": "[CLS]a[SEP] [PAD][MASK] <|endoftext|>",
    "what no token is": f"a{bulk._NO_TOKEN}b {bulk._NO_TOKEN}",
    "code": "def f(x):\n    return  x**2  # ok\n\n\nclass A: pass",
    "one long word": "ab" * 20_000,
    "one long run of signs": "^" * 40_000,
    "long white space": "a" + "\n" * 1_100_000 + "b",  # tiktoken alone would stop the program
}


@pytest.mark.parametrize("text", KINDS_OF_TEXT.values(), ids=KINDS_OF_TEXT)
def test_the_fast_encoder_gives_the_ids_of_the_tokenizer(tokenizer: MicroTransformerTokenizer, text: str) -> None:
    assert BulkEncoder(tokenizer).document(text).tolist() == tokenizer.encode(text)["input_ids"]


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.text(" \n\t\r'sa1.é你\u3000[SEP]"))
@settings(max_examples=150)
def test_the_fast_encoder_on_any_text(tokenizer: MicroTransformerTokenizer, text: str) -> None:
    encoder = BulkEncoder(tokenizer)
    ids = encoder(text).tolist()
    assert ids == tokenizer.encode(text)["input_ids"][1:-1]
    raw = text.encode()
    for end in bulk.word_ends(raw):  # the ids of two pieces, one after the other, are those of the text
        assert encoder(raw[:end].decode()).tolist() + encoder(raw[end:].decode()).tolist() == ids


def test_words_end_before_white_space_that_follows_none() -> None:
    """Cut after the wide space, the two spaces beside it would no longer be one word, as they are in the text."""
    raw = "ab c\u3000  d\u00a0\né\t 你\n".encode()
    assert [raw[:end].decode() for end in bulk.word_ends(raw)] == ["ab", "ab c\u3000  d\u00a0\né", raw[:-1].decode()]
    assert bulk.last_word_end(raw) == len(raw) - 1 and bulk.last_word_end(b"a b" * 9000 + b"c" * 9000) == 26_998


def test_a_tokenizer_that_tiktoken_cannot_follow_encodes_itself(
    tokenizer: MicroTransformerTokenizer, tmp_path: Path, small_units: int
) -> None:
    tokenizer.save_pretrained(tmp_path)
    rules = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    rules["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(rules), encoding="utf-8")
    lower = MicroTransformerTokenizer.from_pretrained(tmp_path)
    text = "HELLO there " * 20
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    store = prepare_corpus(tmp_path / "a.txt", tmp_path / "store", lower)
    assert store.document(0).tolist() == lower.encode(text)["input_ids"]
    assert lower.decode(store.document(0)) == text.lower()


# -- the same bytes however the work is cut up --------------------------------------------------------------

texts = st.lists(st.text("ab é你\u3000\n\t\r'", max_size=30), min_size=1, max_size=8)


@given(texts=texts, step=st.integers(2, 40), kind=st.sampled_from(["jsonl", "line", "paragraph", "document"]))
@settings(max_examples=50)
@example(texts=["\ufeffa"], step=2, kind="line")  # a byte order mark is one where a file begins, not where a unit does
def test_any_cut_gives_the_documents_that_are_read(
    tokenizer: MicroTransformerTokenizer,
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    step: int,
    kind: Any,
) -> None:
    """Units of a few bytes: their edges fall into characters, line ends, blank lines, and beyond the end."""
    folder = tmp_path_factory.mktemp("cuts")
    path = folder / ("a.jsonl" if kind == "jsonl" else "a.txt")
    path.write_bytes(jsonl(["x", *texts]) if kind == "jsonl" else ("x\n" + "\n".join(texts)).encode())
    rules = {} if kind == "jsonl" else {"sample_by": kind}
    wanted = [tokenizer.encode(text)["input_ids"] for text in read_documents(path, **rules)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "UNIT_BYTES", step)
        patch.setattr(units, "_BLOCK_BYTES", 7)  # a long document is read in blocks
        patch.setattr(shards, "_BUFFER_TOKENS", 5)
        patch.setattr(os, "fsync", lambda _: None)
        store = prepare_corpus(path, folder / "store", tokenizer, **rules)
    assert [store.document(d).tolist() for d in range(store.n_documents)] == wanted
    store.verify()
    assert store.header["sources"] == [{"name": path.name, "documents": len(wanted)}]
    assert names(folder) == [path.name, "store"]


def test_a_unit_has_no_say_in_what_is_written(
    tokenizer: MicroTransformerTokenizer, long_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = prepare_corpus(long_corpus, long_corpus.parent / "one", tokenizer)
    monkeypatch.setattr(units, "UNIT_BYTES", 64)
    many = prepare_corpus(long_corpus, long_corpus.parent / "many", tokenizer)
    assert one.path and many.path and contents(one.path) == contents(many.path)


def test_a_part_is_known_by_all_that_it_was_made_from() -> None:
    """Taken up for another field, tokenizer or kind of document, it would be another text without a word."""
    rules = units.Rules(is_jsonl=None, text_field="text", sample_by="line", on_error="raise", tokenizer_hash="a")
    unit = units.Unit(number=1, file_number=0, file=Path("a"), stamp="s", kind="jsonl", start=64, end=128, cost=64)
    others = [replace(unit, **{name: value}) for name, value in OTHER_UNIT.items()]
    keys = [other.key(rules) for other in (unit, *others)]
    keys += [unit.key(replace(rules, text_field="body")), unit.key(replace(rules, tokenizer_hash="b"))]
    assert len(set(keys)) == len(keys) == 8
    assert replace(unit, number=5, file_number=2).key(replace(rules, on_error="skip")) == keys[0]


OTHER_UNIT: dict[str, Any] = {"file": Path("b"), "stamp": "t", "kind": "line", "start": 65, "end": None}


def test_beyond_a_number_of_units_they_grow(
    long_corpus: Path, monkeypatch: pytest.MonkeyPatch, small_units: int
) -> None:
    rules = units.Rules(is_jsonl=None, text_field="text", sample_by="line", on_error="raise", tokenizer_hash="")
    size = long_corpus.stat().st_size
    assert len(units.plan_units([long_corpus], rules, cuts=True)) == -(-size // 64)
    monkeypatch.setattr(units, "MOST_UNITS", 4)
    plan = units.plan_units([long_corpus], rules, cuts=True)
    assert len(plan) <= 4 and plan[0].cost % 64 == 0 and sum(unit.cost for unit in plan) == size


ON_MANY_CORES = """
import sys
from mt_core import MicroTransformerTokenizer, prepare, prepare_corpus, units

units.UNIT_BYTES, prepare._WORTH_A_PROCESS = 256, 1
assert "torch" not in sys.modules  # nor in the processes, which would take seconds to start
corpus, tokenizer, out_dir = sys.argv[1:]
print("started")
for num_workers in (1, 2, 4):
    prepare_corpus(corpus, f"{out_dir}{num_workers}", MicroTransformerTokenizer.from_pretrained(tokenizer),
                   num_workers=num_workers)
"""


def test_the_same_bytes_for_1_2_and_4_processes_from_a_script_without_a_guard(
    tokenizer: MicroTransformerTokenizer, long_corpus: Path, tmp_path: Path, start_script: StartScript
) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    run = start_script(ON_MANY_CORES, long_corpus, tmp_path / "tokenizer", tmp_path / "store")
    out, err = run.communicate(timeout=120)
    assert (run.returncode, out) == (0, "started\n"), err  # once: the processes do not run the script again
    wanted = contents(prepare_corpus(long_corpus, tmp_path / "here", tokenizer).path)  # type: ignore[arg-type]
    for num_workers in (1, 2, 4):
        assert contents(tmp_path / f"store{num_workers}") == wanted


def test_any_executor_does_the_work(
    tokenizer: MicroTransformerTokenizer, long_corpus: Path, tmp_path: Path, small_units: int, monkeypatch: Any
) -> None:
    wanted = contents(prepare_corpus(long_corpus, tmp_path / "here", tokenizer).path)  # type: ignore[arg-type]
    monkeypatch.setattr(prepare, "encode_unit", lambda *_: pytest.fail("tokenized by this process"))
    monkeypatch.setattr(prepare, "_IN_FLIGHT", 3)
    with ThreadPoolExecutor(3) as executor:
        store = prepare_corpus(long_corpus, tmp_path / "threads", tokenizer, executor=executor)
        with pytest.raises(ValueError, match="num_workers=2: it does not go with executor="):
            prepare_corpus(long_corpus, tmp_path / "no", tokenizer, executor=executor, num_workers=2)
    assert store.path and contents(store.path) == wanted


def test_an_interrupt_is_answered_by_the_parent_alone() -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=prepare._follow_parent) as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result(timeout=60) == signal.SIG_IGN


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True])
def test_num_workers_is_a_whole_number_from_1(
    tokenizer: MicroTransformerTokenizer, corpus: Path, tmp_path: Path, wrong: Any
) -> None:
    with pytest.raises(ValueError, match=f"num_workers={wrong!r}: a whole number from 1 is needed"):
        prepare_corpus(corpus, tmp_path / "store", tokenizer, num_workers=wrong)


@pytest.mark.parametrize(
    "wrong, needed",
    [
        ({"executor": "tcp://scheduler"}, r"executor='tcp://scheduler', a concurrent\.futures\.Executor.*get_executor"),
        ({"tokenizer": "data/tokenizer"}, r"tokenizer='data/tokenizer', a MicroTransformerTokenizer.*from_pretrained"),
    ],
)
def test_what_only_looks_like_a_tokenizer_or_an_executor(
    tokenizer: MicroTransformerTokenizer, corpus: Path, wrong: dict[str, Any], needed: str
) -> None:
    with pytest.raises(TypeError, match=needed):
        prepare_corpus(corpus, corpus.parent / "store", **({"tokenizer": tokenizer} | wrong))
    if "tokenizer" in wrong:
        for use in (open_corpus, open_text, lambda path, other: TokenStore.from_documents(["a"], other)):
            with pytest.raises(TypeError, match=needed):
                use(corpus, wrong["tokenizer"])
    assert names(corpus.parent) == ["train.jsonl"]


def test_a_small_corpus_starts_no_process(
    tokenizer: MicroTransformerTokenizer,
    corpus: Path,
    tmp_path: Path,
    small_units: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prepare, "ProcessPoolExecutor", lambda *_, **__: pytest.fail("a process was started"))
    prepare_corpus(corpus, tmp_path / "store", tokenizer, num_workers=4)


# -- all kinds of files at once -----------------------------------------------------------------------------


def test_every_kind_of_file_in_one_store(
    tokenizer: MicroTransformerTokenizer, tmp_path: Path, small_units: int, sentences: list[str]
) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(jsonl(sentences))
    (folder / "b.txt.gz").write_bytes(gzip.compress(sentences[0].encode()))
    table = pyarrow.table({"text": sentences * 3})
    pyarrow.parquet.write_table(table, folder / "c.parquet", row_group_size=2)
    fsspec.filesystem("memory").pipe("/d.jsonl", jsonl(sentences * 3))
    try:
        store = prepare_corpus([folder, "memory://d.jsonl"], tmp_path / "store", tokenizer)
    finally:
        fsspec.filesystem("memory").rm("/d.jsonl")
    wanted = [*sentences, sentences[0], *sentences * 3, *sentences * 3]
    assert [tokenizer.decode(store.document(d)) for d in range(store.n_documents)] == wanted
    assert store.header["sources"] == [
        {"name": name, "documents": count}
        for name, count in {"a.jsonl": 5, "b.txt.gz": 1, "c.parquet": 15, "d.jsonl": 15}.items()
    ]
    assert store.header["reading"]["paths"][0] == "../corpus/a.jsonl"
    assert store.header["reading"]["paths"][-1] == "memory://d.jsonl"


@pytest.mark.parametrize("raw", [b"", b" \n\t\n" * 100, b'{"text": " "}\n' * 20], ids=["empty", "blank", "blank JSON"])
def test_files_without_text(tokenizer: MicroTransformerTokenizer, tmp_path: Path, small_units: int, raw: bytes) -> None:
    path = tmp_path / ("a.jsonl" if b"{" in raw else "a.txt")
    path.write_bytes(raw)
    with pytest.raises(StoreError, match=r"no text found \(empty, or white space alone\)"):
        prepare_corpus(path, tmp_path / "store", tokenizer)
    assert names(tmp_path) == [path.name]


def test_files_whose_records_were_all_skipped_are_not_called_empty(
    tokenizer: MicroTransformerTokenizer, corpus: Path
) -> None:
    """As with the name of another field, which the first record tells."""
    needed = (
        r"no text found: skipped 5 bad records; the first is .*train\.jsonl, line 1: no field 'body' \(found 'text'\)"
    )
    with pytest.raises(StoreError, match=needed):
        prepare_corpus(corpus, corpus.parent / "store", tokenizer, text_field="body", on_error="skip")
    assert names(corpus.parent) == ["train.jsonl"]


class Bar:
    """Stands for tqdm."""

    seen: list["Bar"]

    def __init__(self, **settings: Any) -> None:
        self.total, self.n = settings["total"], settings["initial"]
        assert settings["unit_scale"] and settings["unit"] == "B"  # MB/s and the time left come from these
        self.start = self.n
        Bar.seen.append(self)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, n: int) -> None:
        self.n += n


def test_the_progress_bar_counts_bytes_of_the_files(
    tokenizer: MicroTransformerTokenizer, long_corpus: Path, small_units: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Bar.seen = []
    monkeypatch.setattr(prepare, "tqdm", Bar)
    prepare_corpus(long_corpus, long_corpus.parent / "store", tokenizer)
    (bar,) = Bar.seen
    assert (bar.start, bar.n, bar.total) == (0, long_corpus.stat().st_size, long_corpus.stat().st_size)


def test_memory_does_not_grow_with_the_corpus(tokenizer: MicroTransformerTokenizer, tmp_path: Path) -> None:
    """1 MB and 5 MB, as JSONL and as one long document, in units of a quarter."""
    peaks: dict[str, list[int]] = {"a.jsonl": [], "a.txt": []}
    line = "the cat sat on the mat " * 20
    for copies in (2_000, 10_000):
        for name, found in peaks.items():
            path = tmp_path / name
            path.write_bytes(jsonl([line]) * copies if name == "a.jsonl" else (line + "\n").encode() * copies)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(units, "UNIT_BYTES", 1 << 18)
                patch.setattr(units, "_BLOCK_BYTES", 1 << 17)
                tracemalloc.start()
                prepare_corpus(path, tmp_path / f"{name}-{copies}", tokenizer, num_workers=1)
                found.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
    for name, (small, large) in peaks.items():
        assert large < 1.2 * small, (name, small, large)


# -- what goes wrong ----------------------------------------------------------------------------------------


def test_an_existing_folder_is_left_alone(
    mapped: TokenStore, tokenizer: MicroTransformerTokenizer, corpus: Path
) -> None:
    assert mapped.path is not None
    with pytest.raises(StoreError, match="exists already"):
        prepare_corpus(corpus, mapped.path, tokenizer)
    mapped.verify()


def full_disk(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


MOMENTS = {
    "while tokenizing": (shards._Writer, "_flush"),
    "before the header": (assemble, "make_header"),
    "before the rename": (prepare, "rename_folder"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_full_disk_leaves_nothing_behind_of_a_small_corpus(
    tokenizer: MicroTransformerTokenizer, corpus: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setattr(*MOMENTS[moment], full_disk)
    with pytest.raises(StoreError, match=r"cannot write the store .*disk is full.*nothing was kept"):
        prepare_corpus(corpus, corpus.parent / "store", tokenizer)
    assert names(corpus.parent) == ["train.jsonl"]


@pytest.mark.parametrize("many", [False, True])
def test_what_comes_after_a_bad_record_is_not_waited_for(
    tokenizer: MicroTransformerTokenizer, long_corpus: Path, small_units: int, monkeypatch: Any, many: bool
) -> None:
    long_corpus.write_bytes(b"bad\n" + long_corpus.read_bytes())
    encode, seen = shards.encode_unit, []
    for module in (prepare, shards):
        monkeypatch.setattr(module, "encode_unit", lambda *a: seen.append(a) or encode(*a))
    monkeypatch.setattr(prepare, "_IN_FLIGHT", 2)
    with pytest.raises(CorpusError, match=r"line 1: broken JSON"), ThreadPoolExecutor(1) as executor:
        prepare_corpus(long_corpus, long_corpus.parent / "store", tokenizer, executor=executor if many else None)
    assert len(seen) <= 3  # of more than 30: those that were on their way


def test_what_was_done_before_the_disk_was_full_is_not_done_again(
    tokenizer: MicroTransformerTokenizer, long_corpus: Path, small_units: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = long_corpus.parent / "store"
    with monkeypatch.context() as patch:
        patch.setattr(assemble, "make_header", full_disk)
        with pytest.raises(StoreError, match=r"disk is full\): finished parts are kept in .*store\.partial, and the"):
            prepare_corpus(long_corpus, store, tokenizer)
    for folder in (store, store.with_name("store.partial"), store.with_name("store.partial") / "store"):
        with pytest.raises(StoreError, match="is not a token store"):
            TokenStore.open(folder)
    monkeypatch.setattr(prepare, "encode_unit", lambda *_: pytest.fail("tokenized again"))
    prepare_corpus(long_corpus, store, tokenizer).verify()
    assert names(store.parent) == ["long.jsonl", "store"]


def test_a_store_may_lie_in_the_folder_of_its_corpus(
    tokenizer: MicroTransformerTokenizer, long_corpus: Path, small_units: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its parts, on the way, nor it are text for a store that is made later."""
    folder = long_corpus.parent
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "rename_folder", full_disk)
        with pytest.raises(StoreError, match="the same call goes on from there"):
            prepare_corpus(folder, folder / "store", tokenizer)
    assert (folder / "store.partial").is_dir()
    made = [prepare_corpus(folder, folder / name, tokenizer).fingerprint() for name in ("store", "again")]
    assert made[0] == made[1] and names(folder) == ["again", "long.jsonl", "store"]


@pytest.mark.parametrize("kind", ["jsonl", "paragraph", "line", "document"])
def test_a_bad_record_is_named_by_its_line_in_the_file_and_the_first_one_first(
    tokenizer: MicroTransformerTokenizer, tmp_path: Path, small_units: int, kind: Any
) -> None:
    lines = [b'{"text": "fine"}' if kind == "jsonl" else b"it is fine" for _ in range(60)]
    lines[1::2] = [b""] * 30
    lines[20] = lines[50] = b"caf\xe9"
    path = tmp_path / ("a.jsonl" if kind == "jsonl" else "a.txt")
    path.write_bytes(b"\n".join(lines))
    rules = {} if kind == "jsonl" else {"sample_by": kind}
    with pytest.raises(CorpusError, match=rf"{path.name}, line 21: byte 0xe9 is not valid UTF-8") as caught:
        with ThreadPoolExecutor(4) as executor:
            prepare_corpus(path, tmp_path / "store", tokenizer, executor=executor, **rules)
    assert caught.value.path == path and "store.partial for the next run" in caught.value.__notes__[0]
    if kind == "document":
        with pytest.raises(StoreError, match="no text found"):
            prepare_corpus(path, tmp_path / "store", tokenizer, on_error="skip", **rules)
        return
    with pytest.warns(CorpusWarning, match=r"skipped 2 bad records; the first is .*, line 21: ") as seen:
        store = prepare_corpus(path, tmp_path / "store", tokenizer, on_error="skip", **rules)
    assert (store.n_documents, len(seen)) == (28, 1)
    assert seen[0].filename == __file__


def test_a_bad_file_among_good_ones_costs_itself(
    tokenizer: MicroTransformerTokenizer, tmp_path: Path, small_units: int
) -> None:
    """A document in many pieces, one of them bad, goes whole."""
    bad = b"bad " * 20 + b"\xff " + b"bad " * 20
    for name, text in {"a.txt": b"good \n" * 40, "b.txt": bad, "c.txt": b"end " * 40}.items():
        (tmp_path / name).write_bytes(text)
    with pytest.warns(CorpusWarning, match=r"skipped 1 bad record; the first is .*b\.txt, line 1: "):
        store = prepare_corpus(tmp_path / "*.txt", tmp_path / "store", tokenizer, on_error="skip")
    assert [tokenizer.decode(store.document(d)) for d in range(2)] == ["good \n" * 40, "end " * 40]
    assert [source["documents"] for source in store.header["sources"]] == [1, 0, 1]


def test_a_file_that_goes_away_or_changes_meanwhile(
    tokenizer: MicroTransformerTokenizer, long_corpus: Path, small_units: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = prepare.plan_units
    for change, reason in (
        (long_corpus.unlink, "cannot be read"),
        (lambda: long_corpus.write_bytes(b"x"), "was changed"),
    ):
        before = long_corpus.read_bytes()

        def planned(*arguments: Any, change: Callable = change, **more: Any) -> Any:
            found = plan(*arguments, **more)
            change()
            return found

        monkeypatch.setattr(prepare, "plan_units", planned)
        with pytest.raises(CorpusError, match=rf"long\.jsonl: {reason}"):
            prepare_corpus(long_corpus, long_corpus.parent / "store", tokenizer)
        long_corpus.write_bytes(before)
    assert names(long_corpus.parent) == ["long.jsonl"]


def test_a_file_that_may_not_be_read(
    tokenizer: MicroTransformerTokenizer, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    real = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, *mode: (refused if path == corpus else real)(path, *mode))
        for prepare_it in (prepare_corpus, lambda file, _, tokenizer: open_corpus(file, tokenizer)):
            with pytest.raises(CorpusError, match=r"train\.jsonl, line 1: cannot be read \(Permission denied\)"):
                prepare_it(corpus, corpus.parent / "store", tokenizer)
    assert names(corpus.parent) == ["train.jsonl"]


class FarAway(Executor):
    """Works in another folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def submit(self, work: Callable, /, *arguments: Any, **more: Any) -> Future:
        future: Future = Future()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            future.set_result(work(*arguments, **more))
        return future


def test_a_worker_may_run_in_another_folder(
    tokenizer: MicroTransformerTokenizer, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(corpus.parent)
    store = prepare_corpus(corpus.name, "store", tokenizer, executor=FarAway(tmp_path / "elsewhere"))
    assert store.n_documents == 5 and store.path == tmp_path / "store"


class DyingExecutor(Executor):
    """Its third unit takes the process with it."""

    def __init__(self) -> None:
        self.left = 3

    def submit(self, work: Callable, /, *arguments: Any, **more: Any) -> Future:
        future: Future = Future()
        self.left -= 1
        if self.left:
            future.set_result(work(*arguments, **more))
        else:
            future.set_exception(concurrent.futures.process.BrokenProcessPool("it died"))
        return future


def test_a_process_that_dies_is_an_error_and_what_was_done_is_kept(
    tokenizer: MicroTransformerTokenizer, long_corpus: Path, small_units: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "_IN_FLIGHT", 1)
    with pytest.raises(StoreError, match=r"a worker process died .*num_workers=1.*finished parts are kept"):
        prepare_corpus(long_corpus, long_corpus.parent / "store", tokenizer, executor=DyingExecutor())
    assert len(list((long_corpus.parent / "store.partial").glob("*.json"))) == 2


def test_a_machine_that_does_not_share_the_folder_says_so(
    tokenizer: MicroTransformerTokenizer, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_unit = prepare.run_unit
    monkeypatch.setattr(prepare, "run_unit", lambda unit, rules, _: run_unit(unit, rules, str(tmp_path / "nowhere")))
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(StoreError, match=r"cannot write .*a worker does not see this folder: all machines must"):
            prepare_corpus(corpus, tmp_path / "store", tokenizer, executor=executor)


def test_a_folder_that_holds_another_tokenizer_meanwhile(
    tokenizer: MicroTransformerTokenizer, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ids would be others, in a store that promises those of the first."""
    other, run_unit = MicroTransformerTokenizer.train(["another"], vocab_size=260), prepare.run_unit

    def run_late(unit: units.Unit, rules: units.Rules, folder: str) -> shards.Shard:
        other.save_pretrained(Path(folder) / "tokenizer")
        return run_unit(unit, rules, folder)

    monkeypatch.setattr(prepare, "run_unit", run_late)
    with ThreadPoolExecutor(1) as executor, pytest.raises(RuntimeError, match="holds another tokenizer than the one"):
        prepare_corpus(corpus, tmp_path / "store", tokenizer, executor=executor)
    assert not (tmp_path / "store").exists()


# -- going on after a kill ----------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from mt_core import MicroTransformerTokenizer, assemble, prepare, prepare_corpus, shards, units

corpus, tokenizer, out_dir, moment, num_workers = sys.argv[1:]
units.UNIT_BYTES, prepare._WORTH_A_PROCESS = 64, 1
encode, left = prepare.encode_unit, 5

def kill(*_):
    if num_workers != "1":
        for process in prepare.multiprocessing.active_children():
            print(process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

def encode_unit(*arguments):
    global left
    left -= 1
    return encode(*arguments) if left else kill()

if moment == "unit":
    prepare.encode_unit = encode_unit
elif moment == "shard":
    shards._Writer.finish = kill
else:
    assemble.make_header = kill
prepare_corpus(corpus, out_dir, MicroTransformerTokenizer.from_pretrained(tokenizer), num_workers=int(num_workers))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_run_leaves_nothing_that_opens_and_is_gone_on_with(
    tokenizer: MicroTransformerTokenizer,
    long_corpus: Path,
    tmp_path: Path,
    start_script: StartScript,
    small_units: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed in a unit, alone and with processes, at the end of a unit, and with the header about to be written."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    wanted = contents(prepare_corpus(long_corpus, tmp_path / "wanted" / "store", tokenizer).path)  # type: ignore[arg-type]
    total = -(-long_corpus.stat().st_size // small_units)
    moments = [("unit", 1), ("unit", 3), ("shard", 1), ("header", 1)]
    runs = []
    for moment, num_workers in moments:
        out_dir = tmp_path / f"{moment}{num_workers}" / "store"
        runs.append(start_script(KILLED, long_corpus, tmp_path / "tokenizer", out_dir, moment, num_workers))
    encode = prepare.encode_unit
    for (moment, num_workers), run in zip(moments, runs, strict=True):
        out, err = run.communicate(timeout=120)
        assert run.returncode == -signal.SIGKILL, err
        folder = tmp_path / f"{moment}{num_workers}"
        assert names(folder) == ["store.partial"]
        for path in (folder / "store", *folder.rglob("*")):
            if path.is_dir() or not path.exists():
                with pytest.raises(StoreError, match="is not a token store"):
                    TokenStore.open(path)
        end = time.monotonic() + 20  # the processes end with their parent
        pids = [int(word) for word in out.split()]
        assert len(pids) == num_workers - 1
        while any(map(is_alive, pids)):
            assert time.monotonic() < end, "a worker outlived its parent"
            time.sleep(0.05)
        kept = len(list((folder / "store.partial").glob("*.json")))
        assert kept == {"unit": 4, "shard": 0, "header": total}[moment] or (num_workers == 3 and 4 <= kept < total)
        again = []
        monkeypatch.setattr(prepare, "encode_unit", lambda *a, again=again: again.append(a) or encode(*a))
        prepare_corpus(long_corpus, folder / "store", tokenizer)
        assert len(again) == total - kept
        assert contents(folder / "store") == wanted
        assert names(folder) == ["store"]


def keep_parts(corpus: Path, tokenizer: MicroTransformerTokenizer, **rules: Any) -> Path:
    """All parts of a store, without the store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "rename_folder", full_disk)
        with pytest.raises(StoreError, match="finished parts are kept"):
            prepare_corpus(corpus, corpus.parent / "store", tokenizer, **rules)
    return corpus.parent / "store.partial"


@pytest.mark.parametrize("change", ["file", "tokenizer", "bytes", "nothing"])
def test_only_parts_that_are_the_same_are_taken_up(
    tokenizer: MicroTransformerTokenizer,
    long_corpus: Path,
    sentences: list[str],
    small_units: int,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    folder = keep_parts(long_corpus, tokenizer)
    parts = sorted(folder.glob("*.ids"))
    if change == "file":
        when = long_corpus.stat().st_mtime_ns + 1_000_000
        long_corpus.write_bytes(long_corpus.read_bytes().replace(b"cat", b"dog"))
        os.utime(long_corpus, ns=(when, when))
    if change == "tokenizer":
        tokenizer = MicroTransformerTokenizer.train(sentences * 4, vocab_size=300)
    if change == "bytes":
        data = bytearray(parts[3].read_bytes())
        data[0] ^= 1
        parts[3].write_bytes(data)
    encode, again = prepare.encode_unit, []
    monkeypatch.setattr(prepare, "encode_unit", lambda *a: again.append(a) or encode(*a))
    store = prepare_corpus(long_corpus, long_corpus.parent / "store", tokenizer)
    assert len(again) == {"bytes": 1, "nothing": 0}.get(change, len(parts))
    texts = list(read_documents(long_corpus))
    assert [tokenizer.decode(store.document(d)) for d in range(store.n_documents)] == texts
    assert not folder.exists()


def test_a_part_made_without_its_bad_record_is_not_taken_for_whole(
    tokenizer: MicroTransformerTokenizer, tmp_path: Path, small_units: int
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' * 20 + b"bad\n" + b'{"text": "fine"}\n' * 20)
    keep_parts(path, tokenizer, on_error="skip")
    with pytest.raises(CorpusError, match=r"a\.jsonl, line 21: broken JSON"):
        prepare_corpus(path, tmp_path / "store", tokenizer)


# -- two at once, and the cache beside a file ---------------------------------------------------------------

TOGETHER = """
import sys, time
from pathlib import Path
from mt_core import MicroTransformerTokenizer, StoreError, cache, prepare, units

units.UNIT_BYTES = 64
corpus, tokenizer, cache_dir, number = sys.argv[1:]
rename, tokenizer = prepare.rename_folder, MicroTransformerTokenizer.from_pretrained(tokenizer)

def wait_for_the_other(partial, target):
    Path(f"{corpus}.in").touch()
    end = time.monotonic() + 60
    while not Path(f"{corpus}.waits").exists():  # the other cannot come here: it waits for the lock
        assert time.monotonic() < end, "the other process never came"
        time.sleep(0.01)
    rename(partial, target)

def taken(lock, taken=prepare.FolderLock._taken):
    mine = taken(lock)
    if not mine and Path(f"{corpus}.in").exists():
        Path(f"{corpus}.waits").touch()
    return mine

prepare.rename_folder, prepare.FolderLock._taken = wait_for_the_other, taken
opened = cache.open_corpus(corpus, tokenizer, cache_dir=cache_dir)
opened.verify()
print(opened.path, opened.fingerprint())
"""


def test_two_processes_that_start_at_once_share_one_whole_store(
    tokenizer: MicroTransformerTokenizer, long_corpus: Path, tmp_path: Path, start_script: StartScript
) -> None:
    """One has all but renamed its store when the other wants to begin, which waits and opens that one."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    cache = tmp_path / "cache"
    runs = [start_script(TOGETHER, long_corpus, tmp_path / "tokenizer", cache, n) for n in range(2)]
    results = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], results
    assert results[0][0] == results[1][0] != ""
    path, fingerprint = results[0][0].rstrip("\n").rsplit(" ", 1)
    assert [str(folder) for folder in cache.iterdir()] == [path]
    assert open_corpus(long_corpus, tokenizer, cache_dir=cache).fingerprint() == fingerprint


def test_a_second_run_waits_for_the_first_and_then_says_what_is_there(
    tokenizer: MicroTransformerTokenizer,
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(locks, "_SAY_AFTER_SECONDS", 0.1)
    store, rename = corpus.parent / "store", prepare.rename_folder
    with ThreadPoolExecutor(1) as other:
        started: list[Future] = []

        def start_another(*paths: Path) -> None:
            started.append(other.submit(prepare_corpus, corpus, store, tokenizer))
            time.sleep(0.3)
            assert not started[0].done()
            rename(*paths)

        monkeypatch.setattr(prepare, "rename_folder", start_another)
        prepare_corpus(corpus, store, tokenizer).verify()
        with pytest.raises(StoreError, match="exists already: open it"):
            started[0].result(timeout=60)
    assert names(corpus.parent) == ["store", "train.jsonl"]
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "waiting" in line] == [
        f"waiting for another process that works in {store}.partial"
    ]


@pytest.mark.skipif(os.name != "posix", reason="Windows does not remove a file that is open")
def test_a_lock_in_a_folder_that_was_removed_meanwhile_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lock_too_late(_: object) -> bool:  # the one that had it removes the folder, another makes it anew
        shutil.rmtree(tmp_path / "folder")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "lock").touch()
        return True

    monkeypatch.setattr(locks, "_lock", lock_too_late)
    assert not locks.FolderLock(tmp_path / "folder")._taken()


def test_a_file_is_tokenized_once_and_kept_beside_it(
    tokenizer: MicroTransformerTokenizer, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_corpus(corpus, tokenizer)
    assert first.path is not None and first.path.parent == corpus.parent / ".mt_cache"
    monkeypatch.setattr(cache_module, "prepare_corpus", lambda *_, **__: pytest.fail("tokenized again"))
    assert open_corpus(str(corpus), tokenizer).path == first.path


def test_parts_that_no_later_run_would_take_up_are_not_kept_in_the_cache(
    tokenizer: MicroTransformerTokenizer, tmp_path: Path, small_units: int
) -> None:
    """Mended, or read with `on_error="skip"`, the file has another place in the cache."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' * 20 + b"bad\n")
    with pytest.raises(CorpusError, match=r"a\.jsonl, line 21: broken JSON") as caught:
        open_corpus(path, tokenizer)
    assert names(tmp_path) == ["a.jsonl"] and not hasattr(caught.value, "__notes__")


def test_parts_of_a_url_are_kept_as_its_server_may_answer_next_time(
    tokenizer: MicroTransformerTokenizer, tmp_path: Path, small_units: int
) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/a.jsonl", b'{"text": "fine"}\n' * 20 + b"bad\n")
    with pytest.raises(CorpusError, match="line 21: broken JSON"):
        open_corpus("memory://a.jsonl", tokenizer, cache_dir=tmp_path)
    memory.rm("/a.jsonl")
    (folder,) = tmp_path.iterdir()
    assert folder.suffix == ".partial" and list(folder.glob("*.json"))


@pytest.mark.parametrize("open_it", [open_corpus, open_text])
def test_what_was_read_by_other_rules_is_not_opened(
    tokenizer: MicroTransformerTokenizer, tmp_path: Path, open_it: Callable
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"en": "one", "de": "eins"}\nbad\n')
    for field, text in (("en", "one"), ("de", "eins")):
        with pytest.warns(CorpusWarning, match="skipped 1"):
            opened = open_it(path, tokenizer, text_field=field, on_error="skip")
        assert tokenizer.decode(opened.document(0)) == text
        with pytest.raises(CorpusError, match="line 2: broken JSON"):
            open_it(path, tokenizer, text_field=field)


def test_the_cache_is_of_one_file(tokenizer: MicroTransformerTokenizer, corpus: Path, write_jsonl: Callable) -> None:
    write_jsonl("more.jsonl", ["more"])
    with pytest.raises(CorpusError, match="is one of 2 files: make a store of them with prepare_corpus"):
        open_corpus(corpus.parent / "*.jsonl", tokenizer)


def test_a_url_is_kept_in_the_users_cache(
    tokenizer: MicroTransformerTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MICROTRANSFORMER_CACHE", str(tmp_path))
    memory, found = fsspec.filesystem("memory"), []
    for text in ("one", "two"):
        memory.pipe("/a.txt", text.encode())
        found += [open_corpus("memory://a.txt", tokenizer), open_corpus("memory://a.txt", tokenizer)]
    memory.rm("/a.txt")
    assert [store.path and store.path.parent for store in found] == [tmp_path / "stores"] * 4
    assert [tokenizer.decode(store.document(0)) for store in found] == ["one", "one", "two", "two"]
    assert len({store.path for store in found}) == 2


def test_the_cache_can_live_elsewhere(tokenizer: MicroTransformerTokenizer, corpus: Path, tmp_path: Path) -> None:
    store = open_corpus(corpus, tokenizer, cache_dir=tmp_path / "elsewhere")
    assert store.path is not None and store.path.parent == tmp_path / "elsewhere"
    assert not (tmp_path / ".mt_cache").exists()


def test_a_change_of_file_tokenizer_or_rules_makes_a_new_store(
    tokenizer: MicroTransformerTokenizer, corpus: Path, sentences: list[str]
) -> None:
    other = MicroTransformerTokenizer.train(sentences * 4, vocab_size=300)
    stores = [
        open_corpus(corpus, tokenizer),
        open_corpus(corpus, other),
        open_corpus(corpus, tokenizer, is_jsonl=False),
        open_corpus(corpus, tokenizer, is_jsonl=False, sample_by="line"),
    ]
    when = corpus.stat()
    corpus.write_text(corpus.read_text(encoding="utf-8").replace("cat", "dog"), encoding="utf-8", newline="\n")
    os.utime(corpus, ns=(when.st_atime_ns, when.st_mtime_ns))  # same size, same time: the bytes decide
    stores.append(open_corpus(corpus, tokenizer))
    assert len({store.path for store in stores}) == len({store.fingerprint() for store in stores}) == 5
    assert "dog" in tokenizer.decode(stores[-1].document(0))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut short", "gone"])
def test_a_damaged_cache_is_made_anew(
    tokenizer: MicroTransformerTokenizer, corpus: Path, name: str, damage: str
) -> None:
    path = open_corpus(corpus, tokenizer).path
    assert path is not None
    before = {file: (path / file).read_bytes() for file in FILES}
    if damage == "gone":
        (path / name).unlink()
    else:
        os.truncate(path / name, 3)
    again = open_corpus(corpus, tokenizer)
    again.verify()
    assert again.path == path and {file: (path / file).read_bytes() for file in FILES} == before
    assert names(path.parent) == [path.name]


# -- many machines ------------------------------------------------------------------------------------------

ON_A_CLUSTER = """
import os, signal, sys, time
from pathlib import Path
from dask.distributed import Client
from mt_core import MicroTransformerTokenizer, prepare, prepare_corpus, units

corpus, tokenizer, out_dir, scheduler = sys.argv[1:]
units.UNIT_BYTES, prepare._IN_FLIGHT = 256, 40
killed = []

class Bar(prepare.tqdm):
    def update(self, n=1):
        super().update(n)
        if not killed and self.n > self.total / 3:  # midway, with units waiting on both
            killed.append(client.run(os.getpid, workers=[min(client.scheduler_info()["workers"])]))
            os.kill(*killed[0].values(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)

prepare.tqdm = Bar
with Client(scheduler_file=scheduler, timeout=60) as client:
    client.wait_for_workers(2, timeout=60)
    store = prepare_corpus(corpus, out_dir, MicroTransformerTokenizer.from_pretrained(tokenizer),
                           executor=client.get_executor())
    print(len(killed), store.fingerprint())
"""


@pytest.fixture
def dask_cluster(tmp_path: Path) -> Iterator[Path]:
    """A scheduler and two workers, three processes on this machine; gives the scheduler's file."""
    file = tmp_path / "scheduler.json"
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "error"}
    settings = ["--scheduler-file", str(file), "--no-dashboard"]
    commands = [["scheduler", "--host", "127.0.0.1", "--port", "0", *settings]]
    commands += [["worker", "--nthreads", "1", "--no-nanny", "--local-directory", str(tmp_path), *settings]] * 2
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "dask", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=quiet
        )
        for command in commands
    ]
    yield file
    for process in started:
        process.kill()
        process.wait()


def test_a_dask_cluster_with_a_worker_killed_midway_gives_the_store_of_one_machine(
    tokenizer: MicroTransformerTokenizer,
    sentences: list[str],
    tmp_path: Path,
    start_script: StartScript,
    dask_cluster: Path,
) -> None:
    path = tmp_path / "long.jsonl"
    path.write_bytes(jsonl([f"{n} {sentences[n % 5]}" for n in range(600)]))
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    run = start_script(ON_A_CLUSTER, path, tmp_path / "tokenizer", tmp_path / "cluster", dask_cluster)
    out, err = run.communicate(timeout=150)
    here = prepare_corpus(path, tmp_path / "here", tokenizer)
    assert (run.returncode, out) == (0, f"1 {here.fingerprint()}\n"), err
    assert here.path and contents(tmp_path / "cluster") == contents(here.path)
