"""Corpora by name: the Python on a machine, the catalogue, and what a word resolves to. No test leaves loopback."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import sys
import threading
import tracemalloc
import types
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import pytest

from mt_core.lab import corpora, corpus_files, python_files
from mt_core.lab.catalogue import CATALOGUE, Entry
from mt_core.lab.corpora import cache_directory, fetch, main, prepare_python_corpus, resolve
from mt_core.lab.corpus_files import Corpus, prepared_corpus, split_by_hash, write_corpus
from mt_core.lab.download import ChecksumError, DownloadError, RemoteFile


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing here may touch the user's cache or a proxy."""
    monkeypatch.setenv("MICROTRANSFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache"


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[types.SimpleNamespace]:
    """A directory served on loopback: `put(name, bytes)` gives its RemoteFile, `asked` lists the paths fetched."""
    directory, asked = tmp_path / "shelf", []
    directory.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(directory))

        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def put(name: str, data: bytes) -> RemoteFile:
        (directory / name).write_bytes(data)
        url = f"http://127.0.0.1:{server.server_address[1]}/{name}"
        return RemoteFile(name=name, url=url, size=len(data), sha256=hashlib.sha256(data).hexdigest())

    yield types.SimpleNamespace(put=put, asked=asked)
    server.shutdown()
    thread.join()
    server.server_close()


def records(path: Path) -> list[dict[str, str]]:
    data = path.read_bytes()
    assert data.endswith(b"\n") and b"\r" not in data
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


def texts(path: Path) -> list[str]:
    return [record["text"] for record in records(path)]


# The catalogue


def test_tinyshakespeare_is_the_known_file():
    (remote,) = CATALOGUE["tinyshakespeare"].train
    assert remote.size == 1_115_394
    assert remote.sha256 == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_file_is_pinned_to_a_revision(name):
    entry = CATALOGUE[name]
    assert re.fullmatch(r"[a-z0-9-]+", name)  # it becomes a directory
    assert entry.title and entry.licence and entry.note
    assert entry.kind in {"text", "stories", "articles", "documents"}
    assert (entry.kind == "text") or bool(entry.val) != bool(entry.val_fraction)  # one way to hold documents out
    for remote in entry.train + entry.val:
        url = urlsplit(remote.url)
        assert url.scheme == "https" and not url.query
        assert re.search(r"/[0-9a-f]{40}/", url.path), "a branch may move: pin a commit"
        assert PurePosixPath(url.path).suffix == PurePosixPath(remote.name).suffix
    files = entry.train + entry.val
    assert len({remote.name for remote in files}) == len({remote.sha256 for remote in files}) == len(files)


def test_the_listing_names_size_and_licence():
    listing = corpora._listing()
    for name, entry in CATALOGUE.items():
        assert name in listing and entry.licence in listing
    assert "2,250.3 MB" in listing and "needs pyarrow" in listing and str(cache_directory()) in listing


def test_a_file_put_there_by_hand_needs_no_network(own_cache):
    shared = Path(__file__).resolve().parents[2] / "shared" / "corpora" / "tinyshakespeare.txt"
    if not shared.is_file():
        pytest.skip("tinyshakespeare.txt is not beside the checkout")
    (own_cache / "tinyshakespeare").mkdir(parents=True)
    (own_cache / "tinyshakespeare" / "tinyshakespeare.txt").write_bytes(shared.read_bytes())
    corpus = resolve("tinyshakespeare")
    assert corpus.val is None and corpus.is_jsonl is False
    assert corpus.train.read_text(encoding="utf-8").startswith("First Citizen:")


# The cache directory


def test_the_cache_follows_the_system(monkeypatch, tmp_path):
    assert cache_directory("here") == Path("here").absolute()
    assert cache_directory() == tmp_path / "cache"  # the variable
    monkeypatch.delenv("MICROTRANSFORMER_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    expected = {
        "linux": tmp_path / ".cache",
        "darwin": tmp_path / "Library" / "Caches",
        "win32": tmp_path / "AppData" / "Local",
    }
    for system, base in expected.items():
        monkeypatch.setattr(sys, "platform", system)
        assert cache_directory() == base / "microtransformer"
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_directory() == tmp_path / "local" / "microtransformer"
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "microtransformer"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_directory() == tmp_path / ".cache" / "microtransformer"


# Fetching


STORIES = [f"Story {number}.\nIt had a second line, “quoted”." for number in range(400)]
STORIES_TEXT = "\n<|endoftext|>\n".join(STORIES) + "\n<|endoftext|>\n"


def test_fetch_prepares_documents_once(shelf, monkeypatch, own_cache):
    remote = shelf.put("stories.txt", STORIES_TEXT.encode())
    entry = Entry(title="Stories", licence="none", kind="stories", train=(remote,), val_fraction=0.1)
    monkeypatch.setitem(CATALOGUE, "stories", entry)
    corpus = fetch("stories", progress=False)
    assert corpus == Corpus(
        train=own_cache / "stories" / "train.jsonl",
        val=own_cache / "stories" / "val.jsonl",
        is_jsonl=True,
        title="Stories",
    )
    assert sorted(texts(corpus.train) + texts(corpus.val)) == sorted(STORIES)
    assert 20 < len(texts(corpus.val)) < 60  # a tenth of 400, give or take
    (own_cache / "stories" / "stories.txt").unlink()  # no longer needed
    assert resolve("stories", progress=False) == corpus
    assert shelf.asked == ["/stories.txt"]


def test_validation_files_are_used_where_they_are_published(shelf, monkeypatch):
    train, val = shelf.put("a.txt", b"one<|endoftext|>two"), shelf.put("b.txt", b"three")
    entry = Entry(title="Both", licence="none", kind="stories", train=(train,), val=(val,))
    monkeypatch.setitem(CATALOGUE, "both", entry)
    corpus = fetch("both", progress=False)
    assert (texts(corpus.train), texts(corpus.val)) == (["one", "two"], ["three"])


def test_a_changed_checksum_prepares_again(shelf, monkeypatch):
    for data in (b"old", b"new"):
        entry = Entry(title="T", licence="none", kind="stories", train=(shelf.put("a.txt", data),), val_fraction=1e-9)
        monkeypatch.setitem(CATALOGUE, "changing", entry)
        assert texts(fetch("changing", progress=False).train) == [data.decode()]


def test_nothing_is_prepared_from_wrong_bytes(shelf, monkeypatch, own_cache):
    remote = shelf.put("a.txt", b"right")
    shelf.put("a.txt", b"wrong")
    entry = Entry(title="T", licence="none", kind="stories", train=(remote,), val_fraction=0.1)
    monkeypatch.setitem(CATALOGUE, "swapped", entry)
    with pytest.raises(ChecksumError):
        fetch("swapped", progress=False)
    assert not [path for path in own_cache.rglob("*") if path.suffix in (".txt", ".jsonl")]


def test_the_size_limit_comes_before_the_download(shelf, monkeypatch, own_cache):
    entry = Entry(title="T", licence="none", kind="text", train=(shelf.put("a.txt", b"12345"),))
    monkeypatch.setitem(CATALOGUE, "large", entry)
    with pytest.raises(DownloadError, match="5 bytes to download, the limit is 4: pass max_bytes=5"):
        fetch("large", max_bytes=4, progress=False)
    assert main(["fetch", "large", "--max-megabytes", "nan"]) == 1  # no number is no limit to stay below
    assert shelf.asked == [] and not own_cache.exists()
    assert main(["fetch", "large", "--max-megabytes", "inf", "--quiet"]) == 0


@pytest.mark.parametrize("name", ["", "..", "../tinyshakespeare", "/tmp", "tinyshakespeare/", "TINYSHAKESPEARE", "nul"])
def test_only_names_of_the_catalogue_are_fetched(name, own_cache):
    with pytest.raises(ValueError, match="there are: tinyshakespeare"):
        fetch(name)
    assert not own_cache.exists()


# Documents of downloaded files


def test_stories_are_cut_at_the_separator_wherever_it_falls(tmp_path):
    mark = "<|endoftext|>"
    for shift in range(len(mark) + 1):  # the separator straddles the block of 2**20 characters in every way
        first = "x" * (2**20 - shift)
        path = tmp_path / "stories.txt"
        path.write_text(f"{mark}{mark}".join([first, "two"])[: 2**20 + 60], encoding="utf-8")
        assert [len(text) for text in corpus_files._stories(path)] == [len(first), 3]


def test_wikitext_rows_become_articles():
    rows = [
        "",
        " = One = \n",
        "",
        " Text of one . \n",
        "",
        " = = Part = = \n",
        "",
        " a = b = c \n",
        " = not alone = \n",
    ]
    rows += ["", " = Two = \n", "", " Text of two . \n", "", " = X = \n", " not a title, then .\n"]
    assert list(corpus_files._articles(rows)) == [
        "= One = \n Text of one . \n = = Part = = \n a = b = c \n = not alone =",
        "= Two = \n Text of two . \n = X = \n not a title, then .",
    ]
    assert list(corpus_files._articles([])) == []
    assert list(corpus_files._articles(["", " = A = \n", "", "", " = B = \n", ""])) == ["= A =", "= B ="]


def test_equal_documents_fall_on_one_side():
    everything = [f"text {number % 500}" for number in range(1000)]
    split = list(split_by_hash(everything, [], 0.2))
    train, val = ({record["text"] for is_val, record in split if is_val == side} for side in (False, True))
    assert not train & val and len(split) == 1000
    assert 60 < len(val) < 140  # a fifth of 500


def test_parquet_without_pyarrow_says_what_to_install(monkeypatch, own_cache):
    monkeypatch.setattr(corpora.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        fetch("fineweb-edu")
    assert not own_cache.exists()  # known before half a gigabyte is downloaded


class FakeTable:
    """Stands in for pyarrow.parquet.ParquetFile: a file of one text a line, read in batches of `text`."""

    def __init__(self, path: Path) -> None:
        self.lines = path.read_text(encoding="utf-8").split("\n")

    def __enter__(self) -> FakeTable:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def iter_batches(self, *, batch_size: int, columns: list[str]) -> Iterator[types.SimpleNamespace]:
        assert columns == ["text"]
        for start in range(0, len(self.lines), batch_size):
            column = types.SimpleNamespace(to_pylist=lambda start=start: self.lines[start : start + batch_size])
            yield types.SimpleNamespace(column=lambda index, column=column: column)


def test_parquet_rows_reach_the_documents(shelf, monkeypatch):
    parquet = types.ModuleType("pyarrow.parquet")
    parquet.ParquetFile = FakeTable
    package = types.ModuleType("pyarrow")
    package.parquet = parquet
    monkeypatch.setitem(sys.modules, "pyarrow", package)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)
    monkeypatch.setattr(corpora.importlib.util, "find_spec", lambda name: package)
    train = shelf.put("a.parquet", b"\n = One = \n\n one\n\n = Two = ")
    train_2 = shelf.put("b.parquet", b"\n two goes on")
    val = shelf.put("c.parquet", b"\n = Val = \n\nheld out")
    entry = Entry(title="T", licence="none", kind="articles", train=(train, train_2), val=(val,))
    monkeypatch.setitem(CATALOGUE, "wiki", entry)
    corpus = fetch("wiki", progress=False)
    assert texts(corpus.train) == ["= One =  one", "= Two =  two goes on"]  # an article may go on in the next file
    assert texts(corpus.val) == ["= Val = held out"]


def test_a_real_parquet_file(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow, an optional extra, is not installed")
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    expected = [f"page {number}" for number in range(3000)]
    parquet.write_table(pyarrow.table({"text": expected, "score": list(range(3000))}), path)
    assert list(corpus_files.read_downloaded("documents", [path])) == expected


# Writing


def test_a_failure_leaves_the_earlier_corpus(tmp_path):
    def broken() -> Iterator[tuple[bool, dict[str, str]]]:
        yield False, {"text": "new"}
        raise RuntimeError("the source broke")

    earlier = write_corpus(tmp_path, {"v": 1}, "T", [(False, {"text": "a\u2028b"}), (True, {"text": "ü"})])
    with pytest.raises(RuntimeError, match="the source broke"):
        write_corpus(tmp_path, {"v": 2}, "T", broken())
    assert prepared_corpus(tmp_path, {"v": 1}) == earlier and prepared_corpus(tmp_path, {"v": 2}) is None
    assert (texts(earlier.train), texts(earlier.val)) == (["a\u2028b"], ["ü"])
    assert {path.name for path in tmp_path.iterdir()} == {"train.jsonl", "val.jsonl", "corpus.json", "corpus.lock"}


@pytest.mark.parametrize("damage", ["corpus.json", "train.jsonl", "val.jsonl"])
def test_a_damaged_corpus_is_not_taken_for_whole(tmp_path, damage):
    write_corpus(tmp_path, {}, "T", [(False, {"text": "a"}), (True, {"text": "b"})])
    assert prepared_corpus(tmp_path, {}) is not None
    (tmp_path / damage).write_bytes((tmp_path / damage).read_bytes()[:-3])
    assert prepared_corpus(tmp_path, {}) is None
    (tmp_path / damage).write_text("[]", encoding="utf-8")
    assert prepared_corpus(tmp_path, {}) is None


def test_half_of_a_new_corpus_and_half_of_an_old_one_are_none(tmp_path, monkeypatch):
    def write(text: str) -> None:
        write_corpus(tmp_path, {"name": "x"}, "T", [(False, {"text": text}), (True, {"text": text})])

    write("old")
    assert prepared_corpus(tmp_path, {"name": "x"}) is not None
    replace, left = corpus_files.os.replace, [True, False]  # stopped between the two files, which keep their sizes
    monkeypatch.setattr(corpus_files.os, "replace", lambda a, b: replace(a, b) if left.pop(0) else sys.exit(1))
    with pytest.raises(SystemExit):
        write("new")
    monkeypatch.undo()
    assert texts(tmp_path / "train.jsonl") == ["new"] and texts(tmp_path / "val.jsonl") == ["old"]
    assert prepared_corpus(tmp_path, {"name": "x"}) is None


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    many = ((number % 20 == 0, {"text": f"{number} " * 2000}) for number in range(3000))
    tracemalloc.start()
    try:
        write_corpus(tmp_path, {}, "T", many)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "train.jsonl").stat().st_size > 20_000_000
    assert peak < 1_000_000


# The Python on this machine


def module_text(number: int, lines: int = 40) -> str:
    return "".join(f"value_{number}_{line} = {line}\n" for line in range(lines))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """30 good files, and one of each kind that is left out."""
    root = tmp_path / "root"
    for number in range(30):
        path = root / f"package_{number % 3}" / f"module_{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(module_text(number), encoding="utf-8", newline="\n")
    bad = {
        "package_0/copy.py": module_text(4).encode(),  # equal to another
        "package_0/copy_crlf.py": module_text(5).replace("\n", "\r\n").encode(),  # equal but for the line ends
        "package_0/copy_bom.py": b"\xef\xbb\xbf" + module_text(6).encode(),  # equal but for the mark
        "package_0/latin.py": b"# -*- coding: latin-1 -*-\n" + b"name = '\xe9'\n" * 40,
        "package_0/binary.py": b"\0" * 200,
        "package_0/empty.py": b"",
        "package_0/long_line.py": b"table = '" + b"x" * 1100 + b"'\n",
        "package_0/huge.py": b"value = 1\n" * 110_000,
        "package_0/made.py": b"# Generated by a program. DO NOT EDIT!\n" + module_text(90).encode(),
        "__editable___package_finder.py": module_text(89).encode(),  # written by pip, full of this machine's paths
        "package_0/notes.txt": module_text(91).encode(),
        "package_0/test_it.py": module_text(92).encode(),
        "package_0/it_test.py": module_text(93).encode(),
        "package_0/conftest.py": module_text(94).encode(),
        "package_0/tests/data.py": module_text(95).encode(),
        "package_0/__pycache__/x.py": module_text(96).encode(),
        "site-packages/other.py": module_text(97).encode(),
        ".venv/hidden.py": module_text(98).encode(),
    }
    for name, data in bad.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_only_written_source_is_taken(tree, tmp_path):
    corpus = prepare_python_corpus(tmp_path / "out", roots=[tree], megabytes=0.0265, val_fraction=0.1)
    train, val = records(corpus.train), records(corpus.val)
    assert sorted(record["text"] for record in train + val) == sorted(module_text(n) for n in range(30))
    assert len(val) == 3  # a tenth of the documents
    assert not {r["path"] for r in train} & {r["path"] for r in val}
    assert not {r["text"] for r in train} & {r["text"] for r in val}
    for record in train + val:
        path = PurePosixPath(record["path"])
        assert not path.is_absolute() and ".." not in path.parts and str(tree) not in record["path"]


def test_the_sample_depends_on_seed_and_paths_alone(tree, tmp_path):
    def run(name: str, seed: int) -> list[str]:
        corpus = prepare_python_corpus(tmp_path / name, roots=[tree], megabytes=0.01, val_fraction=0.2, seed=seed)
        return [record["path"] for record in records(corpus.train)]

    first = run("a", 0)
    assert run("b", 0) == first != run("c", 1)
    assert first != sorted(first)  # mixed
    assert len({path.split("/")[0] for path in first}) == 3
    (tree / "package_9").mkdir()
    (tree / "package_9" / "module.py").write_text(module_text(99), encoding="utf-8")
    grown = [path for path, _ in python_files.python_documents([tree])]
    grown.remove("package_9/module.py")
    (tree / "package_9" / "module.py").unlink()
    assert grown == [path for path, _ in python_files.python_documents([tree])]  # the others kept their order


def test_the_size_asked_is_a_limit(tree, tmp_path):
    corpus = prepare_python_corpus(tmp_path / "out", roots=[tree], megabytes=0.01, val_fraction=0.2)
    size = sum(len(text.encode()) for text in texts(corpus.train) + texts(corpus.val))
    assert 0.009 * 10**6 < size <= 0.01 * 10**6
    assert "asked" not in corpus.title


def test_less_than_asked_is_said_only_where_it_is_so(tree, tmp_path):
    long = module_text(60, lines=1000)  # does not fit into what is left
    for number in range(9):
        (tree / f"long_{number}.py").write_text(f"# {number}\n{long}", encoding="utf-8")
    corpus = prepare_python_corpus(tmp_path / "out", roots=[tree], megabytes=0.035, val_fraction=0.1)
    assert "asked" not in corpus.title
    corpus = prepare_python_corpus(tmp_path / "out", roots=[tree], megabytes=5, val_fraction=0.1)
    assert re.search(r"machine, 0\.\d+ MB of 5 MB asked: this machine has no more", corpus.title)


def test_a_second_root_does_not_repeat_a_path(tree, tmp_path):
    other = tmp_path / "other" / "package_0"
    other.mkdir(parents=True)
    (other / "module_0.py").write_text(module_text(77), encoding="utf-8")
    found = dict(python_files.python_documents([tree, tmp_path / "other"]))
    assert found["package_0/module_0.py"] == module_text(0) and len(found) == 30


def test_a_name_that_is_no_text_is_left_out(tree):
    found = list(python_files.python_documents(tree))  # one root may stand without a list
    assert found == list(python_files.python_documents([tree]))
    try:
        Path(tree, os.fsdecode(b"caf\xe9.py")).write_text(module_text(99), encoding="utf-8")
    except OSError as error:
        pytest.skip(f"this system has no such names: {error}")
    assert found == list(python_files.python_documents([tree]))


def test_too_little_and_wrong_settings(tree, tmp_path):
    out = tmp_path / "out"
    earlier = prepare_python_corpus(out, roots=[tree], megabytes=0.01, val_fraction=0.2)
    before = earlier.train.read_bytes()
    with pytest.raises(ValueError, match=r"too little Python source for two files \(1 documents"):
        prepare_python_corpus(out, roots=[tree], megabytes=0.001)
    assert earlier.train.read_bytes() == before
    with pytest.raises(ValueError, match="is no directory"):
        prepare_python_corpus(out, roots=[tmp_path / "nowhere"])
    with pytest.raises(ValueError, match=r"train\.jsonl is a file: name a directory"):
        prepare_python_corpus(earlier.train, roots=[tree], megabytes=0.01, val_fraction=0.2)
    for settings in ({"megabytes": 0}, {"megabytes": float("nan")}, {"val_fraction": 0}, {"val_fraction": 1}):
        with pytest.raises(ValueError, match="needed are megabytes above 0"):
            prepare_python_corpus(out, **settings)


def test_this_machine_has_python():
    found = dict(itertools.islice(python_files.python_documents(), 50))
    assert len(found) == 50 and all(path.endswith(".py") and "\n" in text for path, text in found.items())
    roots = python_files._default_roots()
    assert any((root / "json" / "decoder.py").is_file() for root in roots)  # the standard library
    assert any(root.name in ("site-packages", "dist-packages") for root in roots)  # the installed packages


# What a word means


def test_resolve_paths(tmp_path, monkeypatch):
    text = tmp_path / "my text.txt"
    text.write_text("hello", encoding="utf-8")
    assert resolve(str(text)) == Corpus(train=text, val=None, is_jsonl=None, title="my text.txt")
    with pytest.raises(ValueError, match=r"has no train\.jsonl and val\.jsonl"):
        resolve(tmp_path)
    for name in ("train", "val"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    pair = resolve(tmp_path)
    assert (pair.train, pair.val, pair.is_jsonl) == (tmp_path / "train.jsonl", tmp_path / "val.jsonl", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "python").write_text("a file", encoding="utf-8")
    assert resolve(Path("python")).train == resolve("./python").train == Path("python")  # not the corpus


@pytest.mark.parametrize("word", ["shakespear", "python:", "python:fifty", "python:-5MB", "", "no/such/file.txt"])
def test_an_unknown_word_lists_what_exists(word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if not word:
        word = "nothing"
    with pytest.raises(ValueError, match=r"known are: python, python:50MB, tinyshakespeare, .*fineweb-edu"):
        resolve(word)


def test_resolve_python_prepares_once(tree, monkeypatch, own_cache):
    monkeypatch.setattr(python_files, "_default_roots", lambda: [tree])
    corpus = resolve("python:0.02MB")
    assert corpus.train == own_cache / "python-0.02MB" / "train.jsonl" and corpus.is_jsonl
    monkeypatch.setattr(python_files, "_default_roots", lambda: pytest.fail("prepared twice"))
    assert resolve("Python:0.02mb") == corpus
    monkeypatch.setattr(python_files, "_default_roots", lambda: [tree])
    assert resolve("python:0.00002GB").train.parent == corpus.train.parent
    assert resolve("python").train == own_cache / "python-20MB" / "train.jsonl"


# The command line


def test_command_line(tree, monkeypatch, capsys, tmp_path, shelf):
    assert main(["list"]) == 0
    assert "tinyshakespeare" in capsys.readouterr().out
    monkeypatch.setattr(python_files, "_default_roots", lambda: [tree])
    out = tmp_path / "out"
    assert main(["python", "--megabytes", "0.01", "--out", str(out), "--val-fraction", "0.2"]) == 0
    title, *paths = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"Python source on this machine, 0\.0\d+ MB", title)
    assert paths == [str(out / "train.jsonl"), str(out / "val.jsonl")]
    first = (out / "train.jsonl").read_bytes()
    assert main(["python", "--megabytes", "0.01", "--out", str(out), "--val-fraction", "0.2", "--seed", "3"]) == 0
    assert (out / "train.jsonl").read_bytes() != first
    capsys.readouterr()
    assert main(["python", "--megabytes", "-1", "--out", str(out)]) == 1
    assert "needed are megabytes above 0" in capsys.readouterr().err
    remote = shelf.put("a.txt", b"12345")
    entry = Entry(title="T", licence="none", kind="text", train=(remote,))
    monkeypatch.setitem(CATALOGUE, "five", entry)
    monkeypatch.setattr(sys, "argv", ["corpora"])
    assert main(["fetch", "five", "--cache-dir", str(tmp_path / "c"), "--max-megabytes", "0.000004"]) == 1
    assert "the limit is 4" in capsys.readouterr().err
    assert main(["fetch", "five", "--cache-dir", str(tmp_path / "c"), "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"T\n{tmp_path / 'c' / 'five' / 'a.txt'}\n" and captured.err == ""

    def interrupted(*_: object, **__: object) -> Corpus:
        raise KeyboardInterrupt

    monkeypatch.setattr(corpora, "fetch", interrupted)
    assert main(["fetch", "five"]) == 130
    assert "run it again" in capsys.readouterr().err
