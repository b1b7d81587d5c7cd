"""Settings, states, names and servers that are anything: refused in our own words. And no network unasked."""

import ast
import json
import linecache
import math
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mt_core import (
    CorpusError,
    FillInTheMiddle,
    LoaderStateError,
    MicroTransformerTokenizer,
    OffsetJitter,
    TokenLoader,
    TokenMasking,
    TokenStore,
    TrainConfig,
    TransformerDataset,
    create_dataloaders,
    mixing,
)
from mt_core.command_line import RunSettings
from mt_core.lab import corpora
from mt_core.lab.download import DownloadError, RemoteFile, download
from mt_core.model import ModelConfig
from mt_core.recipe import create_optimizers, schedule_of

ROOT = Path(__file__).parent.parent
NUMBERS = st.integers() | st.sampled_from([-1, 0, 1, 2, 2**31, 2**63, 10**30, 10**400]) | st.floats()
FLAT = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=6), st.binary(max_size=4), st.complex_numbers())
ANYTHING = st.one_of(
    FLAT,
    st.lists(FLAT, max_size=3),
    st.lists(FLAT, max_size=3).map(tuple),
    st.dictionaries(st.text(max_size=3), FLAT, max_size=2),
    st.sampled_from([object(), np.zeros(3), torch.zeros(2), np.float32(0.5), "x" * 5000, "\0", Path("x")]),
)


def is_ours(error: BaseException) -> bool:
    """Whether an error was written here: a ValueError or TypeError from a line of this package that says `raise`."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(last.filename, last.lineno or 0)
    return (
        isinstance(error, ValueError | TypeError)
        and "mt_core" in Path(last.filename).parts
        and line.lstrip().startswith("raise ")
    )


def refused(make: Callable[[], Any], name: str) -> bool:
    """Whether `make` refuses, and then in our words, which name the setting."""
    try:
        make()
    except Exception as error:
        if not is_ours(error):
            raise
        assert name in str(error) or isinstance(error, CorpusError), error
        return True
    return False


# -- configs ------------------------------------------------------------------------------------------------


def named(kind: type) -> st.SearchStrategy[str]:
    return st.sampled_from([field.name for field in fields(kind)])


@settings(max_examples=400)
@given(named(TrainConfig), ANYTHING)
@example("betas", 5)
@example("warmup_steps", math.inf)
@example("learning_rate", 10**400)
def test_training_settings_are_refused_by_name_or_can_be_used(name: str, value: Any) -> None:
    if refused(lambda: TrainConfig(**{name: value}), name):
        return
    config = TrainConfig(**{name: value})
    create_optimizers(torch.nn.Linear(2, 2), config)
    json.dumps(asdict(config))
    assert all(0 <= schedule_of(config, 10)(step) <= 1 for step in range(11))


@settings(max_examples=250)
@given(named(ModelConfig), ANYTHING)
def test_model_settings_are_refused_by_name_or_make_a_shape(name: str, value: Any) -> None:
    if not refused(lambda: ModelConfig(**{"vocab_size": 300, name: value}), name):
        assert ModelConfig(**{"vocab_size": 300, name: value}).n_parameters() > 0


@settings(max_examples=250)
@given(named(RunSettings), ANYTHING)
def test_settings_of_a_run_are_refused_by_name(name: str, value: Any) -> None:
    refused(lambda: RunSettings(**{"train": Path("t"), "val": Path("v"), name: value}), name)


@settings(max_examples=100)
@given(st.sampled_from(["rate", "markers"]), ANYTHING)
def test_augmentations_are_refused_by_name(name: str, value: Any) -> None:
    refused(lambda: FillInTheMiddle(**{"rate": 0.5, name: value}), name)
    if name == "rate":
        refused(lambda: TokenMasking(rate=value), name)


@pytest.mark.parametrize("vocab_size", [None, "300", 300.5, True, -5, 10**12, 2**70])
def test_a_vocabulary_size_that_no_tokenizer_can_have(vocab_size: Any) -> None:
    """Room for 10**12 entries is asked for at once, and the whole process would end."""
    assert refused(lambda: MicroTransformerTokenizer.train(["a"], vocab_size=vocab_size), "vocab_size")


# -- loaders ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    for name, line in (("train.txt", "The cat sat on the mat.\n\n"), ("val.txt", "It's 10 o'clock.\n\n")):
        (folder / name).write_text(line * 9, encoding="utf-8", newline="\n")
    return folder


ARGUMENTS = "train_path val_path tokenizer batch_size seq_length token_budget rank world_size is_jsonl seed stride"
ARGUMENTS += " chunking mask_documents length_buckets tokenize augment text_field sample_by on_error start_method"
ARGUMENTS += " pin_memory prefetch_factor persistent_workers provenance cache_dir num_workers"
# Settings that are right in themselves, and refused because of what the corpus holds, or of another setting.
ALSO = {
    "train_path": "there is nothing to mix",
    "stride": "batch_size",
    "token_budget": "length_buckets",
    "cache_dir": "cannot write the store",
}


@settings(max_examples=500)
@given(st.sampled_from(ARGUMENTS.split()), ANYTHING, st.sampled_from(["contiguous", "per_document", "packed"]))
@example("train_path", ["a.txt", "b.txt"], "contiguous")
@example("seq_length", 10**9, "packed")
@example("cache_dir", "x" * 5000, "contiguous")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_arguments_of_loaders_are_refused_by_name_or_give_batches(
    texts: Path, tokenizer: MicroTransformerTokenizer, name: str, value: Any, chunking: str
) -> None:
    given_settings = {"train_path": texts / "train.txt", "val_path": texts / "val.txt", "tokenizer": tokenizer}
    given_settings |= {"batch_size": 2, "seq_length": 8, "chunking": chunking, "cache_dir": texts / "cache"}
    given_settings |= {"sample_by": "paragraph", name: value}

    def make() -> None:
        loaders = create_dataloaders(**given_settings)
        if name != "num_workers":  # it would start them
            for loader in loaders:
                assert next(iter(loader))["input_ids"].dtype == torch.int64

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(texts)  # a cache_dir may be any name
        try:
            refused(make, name)
        except AssertionError as error:
            if ALSO.get(name, "\0") not in str(error):
                raise


STREAM = TokenStore.from_token_ids(range(41), vocab_size=41, document_ends=[7, 20, 41])


STATE = "epoch samples_delivered corpus seq_length stride chunking mask_documents length_buckets augment seed".split()
STATE += ["shuffle", "mix", "n_samples", "another", "all"]


def loader(kind: int) -> TokenLoader:
    more: dict[str, Any] = {"seed": 5, "augment": [OffsetJitter()]} if kind == 1 else {}
    if kind == 2:
        more = {"chunking": "per_document", "length_buckets": 2}
    dataset = TransformerDataset(STREAM, seq_length=4, **more)
    rows: Any = mixing.MixedDataset([(dataset, 2), (dataset, 1)]) if kind == 3 else dataset
    return TokenLoader(rows, batch_size=2, shuffle=True, drop_last=True, seed=5)


@settings(max_examples=300)
@given(st.integers(0, 3), st.sampled_from(STATE), ANYTHING | NUMBERS)
@example(0, "corpus", np.zeros(3))
@example(1, "epoch", 2**62)
@example(0, "all", None)
def test_a_state_that_says_anything_is_refused_or_gone_on_from(kind: int, name: str, value: Any) -> None:
    ours = loader(kind)
    try:
        ours.load_state_dict(value if name == "all" else {**ours.state_dict(), name: value})
    except LoaderStateError as error:
        assert is_ours(error)
        assert ours.state_dict() == loader(kind).state_dict()
    else:
        assert len(next(iter(ours))["input_ids"]) == 2


@settings(max_examples=60)
@given(st.sampled_from(["batch_size", "token_budget"]), st.integers(1, 2**80), st.booleans())
@example("batch_size", 2**61, False)
def test_sizes_far_beyond_the_corpus(name: str, size: int, drop_last: bool) -> None:
    dataset = TransformerDataset(STREAM, seq_length=4, chunking="per_document", length_buckets=2)

    def make() -> None:
        rows = TokenLoader(dataset, drop_last=drop_last, **{name: size})  # type: ignore[arg-type]
        assert sum(len(batch["input_ids"]) for batch in rows) <= len(dataset)

    refused(make, name)


# -- names and servers --------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.text(max_size=12) | st.text("./\\:~a0 \0", max_size=12), ANYTHING, ANYTHING)
@example("../x", 1, "x")
def test_no_name_of_a_download_leads_out_of_the_cache(name: str, size: Any, url: Any) -> None:
    good = {"name": "a.bin", "url": "https://example.org/x", "size": 1, "sha256": "0" * 64}
    for field, value in (("name", name), ("size", size), ("url", url), ("sha256", url)):
        if not refused(lambda: RemoteFile(**{**good, field: value}), "") and field == "name":  # noqa: B023
            for cache in (PurePosixPath("/cache"), PureWindowsPath("C:/cache")):
                assert (cache / name).parent == cache and (cache / name).name == name


@settings(max_examples=150)
@given(st.text(max_size=9) | st.text("./\\~:pythonMGB0123456789", max_size=14) | st.just("x" * 5000))
@example("~nobody-of-this-name")
@example("python:" + "9" * 400 + "MB")
@example("../../etc/passwd")
def test_any_word_for_a_corpus_is_refused_without_a_trace(texts: Path, word: str) -> None:
    cache = texts / "corpora"

    def nothing(*_: Any, **__: Any) -> Any:
        raise ValueError("made of Python source")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "write_corpus", nothing)
        patch.setattr(socket.socket, "connect", nothing)
        with pytest.raises(ValueError):
            corpora.resolve(word if not Path(word[:99].replace("\0", "")).exists() else "nothing", cache_dir=cache)
    assert not cache.exists()


@pytest.fixture(scope="module")
def babbler() -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers every request with the bytes in a list, whatever they are, and hangs up."""
    answers: list[bytes] = [b""]
    server = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):  # the other side hanging up is part of it
            connection.settimeout(5)
            connection.recv(65536)
            connection.sendall(answers[0])

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()  # one may stop reading midway

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}/x", answers
    server.close()


LINES = [b"HTTP/1.1 200 OK", b"HTTP/1.1 206 Partial", b"HTTP/1.1 302 Found", b"HTTP/1.1 999", b"HTTP/9 200", b"junk"]
HEADERS = [b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: x", b"Content-Range: bytes 2-4/5"]
HEADERS += [b"Content-Range: bytes " + b"9" * 5000 + b"-1/5", b"Transfer-Encoding: chunked", b"ETag: \xff\0"]
HEADERS += [b"Location: file:///etc/passwd", b"Location: http://[", b"Location: //", b"Location: ftp://x/y"]
HEADERS += [b"Location: data:,12345", b"Location: \xe9", b"X: " + b"y" * 70000, b":", b"ETag: a\rb", b"Z" * 300]


@settings(max_examples=120)
@given(
    st.sampled_from(LINES) | st.binary(max_size=20),
    st.lists(st.sampled_from(HEADERS) | st.binary(max_size=20), max_size=4),
    st.binary(max_size=12) | st.just(b"12345"),
    st.sampled_from([b"", b'{"sha256": "%s", "etag": ["x"]}', b'{"sha256": "%s", "etag": "a\\nb: c"}', b"[" * 99999]),
)
@example(b"HTTP/1.1 302 Found", [b"Location: http://["], b"", b"")
@example(b"HTTP/1.1 206 Partial", [HEADERS[4]], b"345", b'{"sha256": "%s", "etag": "a\\nb: c"}')
@example(b"HTTP/1.1 302 Found", [b"Location: file:///etc/passwd"], b"", b"")
def test_whatever_a_server_sends_no_wrong_byte_appears(
    texts: Path, babbler: tuple[str, list[bytes]], line: bytes, headers: list[bytes], body: bytes, note: bytes
) -> None:
    url, answers = babbler
    answers[0] = b"\r\n".join([line, *headers, b"", body])
    sha256 = "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"  # of 12345
    directory = texts / "downloads"
    directory.mkdir(exist_ok=True)
    (directory / "x.bin.part").write_bytes(b"12")
    (directory / "x.bin.part.json").write_bytes(note.replace(b"%s", sha256.encode()))
    remote = RemoteFile(name="x.bin", url=url, size=5, sha256=sha256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "*")
        try:
            path = download(remote, directory, progress=False, timeout=5, retries=2, backoff=0)
        except DownloadError as error:
            assert "Without a network: fetch" in str(error)
            assert not (directory / "x.bin").exists()
        else:
            assert path.read_bytes() == b"12345"
            path.unlink()
    assert {file.name for file in directory.iterdir()} <= {"x.bin.part", "x.bin.part.json", "x.bin.lock"}


def test_no_module_unpacks_archives() -> None:
    """Names in an archive can lead anywhere. Whoever unpacks one here has to confine them, and to change this test."""
    unpackers = {"zipfile", "tarfile", "pickle.load", "unpack_archive", "torch.load"}
    for path in (ROOT / "mt_core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Attribute):
                names += [node.attr, f"{getattr(node.value, 'id', '')}.{node.attr}"]
            assert not unpackers & set(names), path


# -- no network ---------------------------------------------------------------------------------------------

OFFLINE = """
import importlib, pkgutil, sys
from pathlib import Path

asked = []

def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        asked.append((event, str(arguments)))
    if event in ("socket.connect", "socket.sendto", "socket.bind") and isinstance(arguments[1], tuple):
        asked.append((event, str(arguments)))  # an address of the network, not the name of a pipe

sys.addaudithook(watch)
import mt_core
names = [module.name for module in pkgutil.walk_packages(mt_core.__path__, "mt_core.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
from mt_core import *
from mt_core.lab import corpora
import torch

if "CONNECT" in sys.argv:
    import socket
    socket.socket().connect_ex(("127.0.0.1", 9))
folder = Path(sys.argv[1])
for name in ("train", "val"):
    (folder / f"{name}.txt").write_text(f"{name}: the cat sat on the mat. " * 20, encoding="utf-8")
tokenizer = MicroTransformerTokenizer.train(["the cat sat on the mat. "] * 4, vocab_size=270)
tokenizer.save_pretrained(folder / "tokenizer")
tokenizer = MicroTransformerTokenizer.from_pretrained(folder / "tokenizer")
prepare_corpus(folder / "train.txt", folder / "store", tokenizer).verify()
train, val = create_dataloaders(folder / "train.txt", folder / "val.txt", tokenizer, batch_size=2, seq_length=8)
model = MicroTransformer(vocab_size=len(tokenizer), n_layer=1, n_head=1, n_embd=8)
config = TrainConfig(epochs=1, max_steps=2, warmup_steps=0)
fit(model, train, val, config, tokenizer=tokenizer, run_dir=folder / "run", progress=False)
corpora.main(["list"])
print("modules", len(names))
print("asked", asked)
"""


@pytest.mark.parametrize("connects", [False, True])
def test_importing_preparing_and_training_ask_nothing_of_the_network(tmp_path: Path, connects: bool) -> None:
    more = ["CONNECT"] if connects else []  # so that the watch is seen to watch
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OFFLINE, str(tmp_path), *more],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    *_, modules, asked = done.stdout.splitlines()
    assert int(modules.split()[1]) > 60
    assert (asked == "asked []") is not connects, asked
