"""Files to documents: what is one, in every format, and what a bad record costs (itself, never its neighbours)."""

import codecs
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt_core import CorpusError, CorpusWarning, read_documents
from mt_core.corpus import iterate_documents
from mt_core.files import find_files, is_packed, name_of, suffix_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

POEM = "One line.\nTwo lines.\n\n\nAnother block.\n  \nThe end"


def write(folder: Path, name: str, data: str | bytes) -> Path:
    """A file with these bytes; packed when its name ends in .gz or .zst."""
    raw = data.encode("utf-8") if isinstance(data, str) else data
    path = folder / name
    pack = {".gz": gzip.compress, ".zst": zstd.compress}.get(path.suffix.lower(), bytes)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pack(raw))
    return path


def write_parquet(path: Path, texts: list[Any], **settings: Any) -> Path:
    """A Parquet file with a column `text` beside another."""
    table = pyarrow.table({"id": list(range(len(texts))), "text": texts})
    pyarrow.parquet.write_table(table, path, **settings)
    return path


@pytest.mark.parametrize(
    "sample_by, documents, lines",
    [
        ("document", [POEM], [1]),
        ("paragraph", ["One line.\nTwo lines.", "Another block.", "The end"], [1, 5, 7]),
        ("line", ["One line.", "Two lines.", "Another block.", "The end"], [1, 2, 5, 7]),
    ],
)
@pytest.mark.parametrize("name", ["poem.txt", "poem.txt.gz", "poem", "poem.txt.zst"])
def test_plain_text_three_ways(
    tmp_path: Path, name: str, sample_by: str, documents: list[str], lines: list[int]
) -> None:
    found = list(iterate_documents(write(tmp_path, name, POEM), sample_by=sample_by))
    assert [document.text for document in found] == documents
    assert [document.line for document in found] == lines


@pytest.mark.parametrize("sample_by", ["paragraph", "line"])
def test_windows_line_ends_give_the_same_pieces(tmp_path: Path, sample_by: str) -> None:
    unix = list(read_documents(write(tmp_path, "unix.txt", POEM), sample_by=sample_by))
    windows = list(read_documents(write(tmp_path, "windows.txt", POEM.replace("\n", "\r\n")), sample_by=sample_by))
    assert [text.replace("\r\n", "\n") for text in windows] == unix


def test_only_the_line_ends_around_a_piece_are_no_part_of_it(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", " a \r\nb\t\r\n \r\n\tc \n")
    assert list(read_documents(path, sample_by="line")) == [" a ", "b\t", "\tc "]
    assert list(read_documents(path, sample_by="paragraph")) == [" a \r\nb\t", "\tc "]


def test_a_whole_file_keeps_its_line_ends(tmp_path: Path) -> None:
    text = "\r\nA line.\r\n\r\nAnother.\r\n"
    assert list(read_documents(write(tmp_path, "a.txt", text))) == [text]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "A.JSONL", "a.jsonl.gz", "a.jsonl.zst"])
def test_a_suffix_says_jsonl(tmp_path: Path, name: str) -> None:
    assert list(read_documents(write(tmp_path, name, '{"text": "a"}\n{"id": 1, "text": "b\\nc"}'))) == ["a", "b\nc"]


def test_is_jsonl_overrules_the_suffix(tmp_path: Path) -> None:
    record = '{"text": "a"}'
    assert list(read_documents(write(tmp_path, "a.txt", record), is_jsonl=True)) == ["a"]
    assert list(read_documents(write(tmp_path, "a.jsonl", record), is_jsonl=False)) == [record]


def test_another_field_can_hold_the_text(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"story": "a", "text": "b"}')
    assert list(read_documents(path, text_field="story")) == ["a"]


@pytest.mark.parametrize("name, data", [("a.txt", "é"), ("a.jsonl", '{"text": "é"}'), ("a.txt.gz", "é")])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, name: str, data: str) -> None:
    assert list(read_documents(write(tmp_path, name, codecs.BOM_UTF8 + data.encode()))) == ["é"]


def test_blank_lines_and_windows_line_ends_in_jsonl(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '\r\n{"text": "a"}\r\n   \r\n\r\n{"text": "b"}\r\n\n')
    assert [(document.text, document.line) for document in iterate_documents(path)] == [("a", 2), ("b", 5)]


def test_only_a_line_feed_ends_a_record(tmp_path: Path) -> None:
    """str.splitlines would also cut at these characters, in the middle of a JSON string."""
    text = "a\u2028b\u0085c\u000bd"
    path = write(tmp_path, "a.jsonl", json.dumps({"text": text}, ensure_ascii=False).replace("\\u000b", "\v"))
    with pytest.raises(CorpusError, match="control character"):  # JSON itself wants \v escaped
        list(read_documents(path))
    path = write(tmp_path, "b.jsonl", json.dumps({"text": text[:-2]}, ensure_ascii=False))
    assert list(read_documents(path)) == [text[:-2]]


def test_texts_of_white_space_alone_are_no_documents(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"text": ""}\n{"text": " \\n\\t"}\n{"text": " a "}\n')
    assert list(read_documents(path)) == [" a "]


def test_several_files_in_the_order_given(tmp_path: Path) -> None:
    paths = [write(tmp_path, "z.txt", "first"), write(tmp_path, "a.jsonl", '{"text": "second"}')]
    assert list(read_documents(paths)) == ["first", "second"]
    assert list(read_documents([str(path) for path in reversed(paths)])) == ["second", "first"]


def test_a_folder_gives_its_corpus_files_by_name_and_a_pattern_whatever_fits(tmp_path: Path) -> None:
    for name in ("b/two.jsonl", "a.txt", "b/one.txt.gz", "b/notes.md", ".hidden/x.txt", "b/.x.txt", "c.json.zst"):
        write(tmp_path, name, json.dumps({"text": name}) if "json" in name else name)
    assert list(read_documents(tmp_path)) == ["a.txt", "b/one.txt.gz", "b/two.jsonl", "c.json.zst"]
    assert list(read_documents(tmp_path / "*")) == ["a.txt", "c.json.zst"]  # without the folder b
    assert list(read_documents(tmp_path / "b" / "*")) == ["b/notes.md", "b/one.txt.gz", "b/two.jsonl"]
    assert list(read_documents([tmp_path / "**" / "*.txt", tmp_path / "a.t?t"])) == ["a.txt", "a.txt"]


def test_stores_and_tokenizers_in_a_corpus_folder_are_no_text(tmp_path: Path) -> None:
    write(tmp_path, "b/header.json", '{"text": "a header of hers"}')
    for name in ("store/header.json", "store/token_ids.bin", "tokenizer.json", "t/tokenizer_config.json"):
        write(tmp_path, name, "{\n")
    for name in ("new.partial/1f.json", "new.partial/store/header.json", "new.partial/tokenizer/vocab.json"):
        write(tmp_path, name, "{\n")
    write(tmp_path, "x.partial/a.txt", "a text of hers")
    assert list(read_documents(tmp_path)) == ["a header of hers", "a text of hers"]
    named = write(tmp_path, "y.partial/a.json", '{"text": "in a folder that is named"}')
    assert list(read_documents(named.parent)) == ["in a folder that is named"]


def test_a_name_that_looks_like_a_pattern_is_a_name_if_there_is_such_a_file(tmp_path: Path) -> None:
    assert list(read_documents(write(tmp_path, "a[1].txt", "one"))) == ["one"]


def test_a_column_of_a_parquet_file(tmp_path: Path) -> None:
    texts = ["Größe", "two\n\nblocks", " ", "", "four"]
    path = write_parquet(tmp_path / "a.parquet", texts, row_group_size=2)
    found = [(document.text, document.line) for document in iterate_documents(path)]
    assert found == [("Größe", 1), ("two\n\nblocks", 2), ("four", 5)]
    with pytest.raises(CorpusError, match=r"no column 'body' \(found 'id', 'text'\): name one with text_field="):
        list(read_documents(path, text_field="body"))


def test_a_bad_row_of_a_parquet_file_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", ["a", None, "c"])
    with pytest.raises(CorpusError, match=r"a\.parquet, row 2: column 'text' holds NoneType, a string is needed"):
        list(read_documents(path))
    with pytest.warns(CorpusWarning, match="skipped 1"):
        assert list(read_documents(path, on_error="skip")) == ["a", "c"]
    bad = pyarrow.array([b"fine", b"\xff"], pyarrow.binary()).view(pyarrow.utf8())
    pyarrow.parquet.write_table(pyarrow.table({"text": bad}), path)
    with pytest.raises(CorpusError, match="row 2: byte 0xff is not valid UTF-8"):
        list(read_documents(path))


@pytest.mark.parametrize("cut", [3, 60])
def test_a_parquet_file_cut_short(tmp_path: Path, cut: int) -> None:
    path = write_parquet(tmp_path / "a.parquet", ["a" * 100] * 50)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(CorpusError, match="is no readable Parquet file"):
        list(read_documents(path))


class ServerFile(fsspec.spec.AbstractBufferedFile):
    """A file far away, as fsspec has them: each line is looked for in a whole block."""

    copied = 0

    def _fetch_range(self, start: int, end: int) -> bytes:
        if "breaks" in self.path:
            raise ServerError("503, gone for lunch")
        return LINES[start:end]

    def read(self, length: int = -1) -> bytes:
        found = super().read(length)
        ServerFile.copied += len(found)
        return found


class ServerError(Exception):
    """Servers have errors of their own, which are no OSError."""


class Server(fsspec.AbstractFileSystem):
    def info(self, path: str, **_: Any) -> dict[str, Any]:
        if "closed" in path:
            raise ServerError("403, forbidden")
        return {"name": path, "size": len(LINES), "type": "file"}

    def _open(self, path: str, mode: str = "rb", **_: Any) -> ServerFile:
        return ServerFile(self, path, mode, block_size=1 << 14)


LINES = b"".join(b'{"text": "line %d"}\n' % n for n in range(2000))


def test_lines_of_a_url_are_read_in_one_go_and_errors_of_servers_told() -> None:
    fsspec.register_implementation("server", Server, clobber=True)
    ServerFile.copied = 0
    assert len(list(read_documents("server://a.jsonl"))) == 2000
    assert ServerFile.copied == len(LINES), "not a block for each line"
    with pytest.raises(CorpusError, match=r"closed\.jsonl: cannot be reached \(403, forbidden\)"):
        list(read_documents("server://closed.jsonl"))
    with pytest.raises(CorpusError, match=r"breaks\.jsonl, line 1: cannot be read \(503, gone .*\): download it"):
        list(read_documents("server://breaks.jsonl"))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_a_web_server_is_asked_is_no_part_of_the_name(scheme: str) -> None:
    url = f"{scheme}://a.org/b/stories.jsonl.gz?download=true&name=x.txt#top"
    assert (name_of(url), suffix_of(url), is_packed(url)) == ("stories.jsonl.gz", ".jsonl", True)
    assert suffix_of("s3://bucket/why?.txt") == suffix_of(Path("why?.txt")) == ".txt"


def test_urls_are_read_through_fsspec() -> None:
    memory = fsspec.filesystem("memory")
    for name, data in {"b.txt": b"two", "a.jsonl": b'{"text": "one"}', "c.txt.gz": gzip.compress(b"three")}.items():
        memory.pipe(f"/corpus/{name}", data)
    try:
        assert list(read_documents("memory://corpus/b.txt")) == ["two"]
        assert list(read_documents("memory://corpus")) == ["one", "two", "three"]
        assert find_files("memory://corpus/*.txt*") == ["memory:///corpus/b.txt", "memory:///corpus/c.txt.gz"]
        assert next(iterate_documents("memory://corpus/b.txt")).path == "memory://corpus/b.txt"
        with pytest.raises(CorpusError, match=r"memory://corpus/d\.txt: no such file there"):
            find_files("memory://corpus/d.txt")
    finally:
        memory.rm("/corpus", recursive=True)
    with pytest.raises(CorpusError, match="fsspec cannot open this URL"):
        find_files("nowhere://a.txt")


@pytest.mark.parametrize(
    "name, module", [("a.txt.zst", "backports.zstd"), ("a.parquet", "pyarrow"), ("memory://a", "fsspec")]
)
def test_what_to_install_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str) -> None:
    source = name if "://" in name else write(tmp_path, name, "a")
    if module == "backports.zstd" and sys.version_info >= (3, 14):
        module = "compression.zstd"
    monkeypatch.setitem(sys.modules, module, None)  # importing it fails
    with pytest.raises(CorpusError, match=r'needs the package .*: pip install "microtransformer\[big\]"'):
        list(read_documents(source))


def test_a_pair_of_surrogate_escapes_is_one_character(tmp_path: Path) -> None:
    assert list(read_documents(write(tmp_path, "a.jsonl", r'{"text": "\ud83d\ude42"}'))) == ["🙂"]


@given(st.lists(st.text()))
def test_jsonl_gives_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("jsonl")
    for ascii_only, name in ((True, "a.jsonl"), (False, "b.jsonl.gz")):
        path = write(folder, name, "".join(json.dumps({"text": t}, ensure_ascii=ascii_only) + "\n" for t in texts))
        assert list(read_documents(path)) == [text for text in texts if text.strip()]


def test_reading_is_a_stream(tmp_path: Path) -> None:
    """The first document is there before the bad second line is looked at."""
    documents = read_documents(write(tmp_path, "a.jsonl", '{"text": "a"}\nnot json\n'))
    assert next(documents) == "a"
    with pytest.raises(CorpusError, match="line 2"):
        next(documents)


# -- bad records --------------------------------------------------------------------------------------------

BAD_RECORDS = {
    "broken JSON": (b'{"text": "a', "broken JSON (Unterminated string starting at character 10)"),
    "two records on a line": (b'{"text": "a"} {"text": "b"}', "broken JSON (Extra data at character 15)"),
    "no field": (b'{"id": 1, "body": "a"}', "no field 'text' (found 'id', 'body')"),
    "no fields at all": (b"{}", "no field 'text' (found no fields)"),
    "a list over several lines": (b"[", "JSON that goes on over several lines: write it as JSONL, one whole record a"),
    "an object": (b'{"text": {"en": "a"}}', "field 'text' is an object, a string is needed"),
    "a number": (b'{"text": 5}', "field 'text' is a number, a string is needed"),
    "null": (b'{"text": null}', "field 'text' is a null, a string is needed"),
    "a list": (b'{"text": ["a"]}', "field 'text' is a list, a string is needed"),
    "true": (b'{"text": true}', "field 'text' is a true/false, a string is needed"),
    "not an object": (b'["text"]', "a JSON list, each line must be an object"),
    "a bare string": (b'"text"', "a JSON string, each line must be an object"),
    "a bad byte": (b'{"text": "\xe9"}', "byte 0xe9 is not valid UTF-8"),
    "a surrogate cut in half": (rb'{"text": "ab\ud83d"}', "half of a surrogate pair at character 3 of 'text'"),
    "nested too deep": (b"[" * 100_000, "JSON that cannot be read"),
    "a number too long": (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "JSON that cannot be read"),
}


@pytest.mark.parametrize("bad, reason", BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_a_bad_record_is_named_by_path_line_and_reason(tmp_path: Path, bad: bytes, reason: str) -> None:
    path = write(tmp_path, "a.jsonl", b'{"text": "one"}\n\n' + bad + b'\n{"text": "four"}\n')
    with pytest.raises(CorpusError) as caught:
        list(read_documents(path))
    assert (caught.value.path, caught.value.line) == (path, 3)
    assert reason in caught.value.reason
    assert str(caught.value) == f"{path}, line 3: {caught.value.reason}"


@pytest.mark.parametrize("bad", [bad for bad, _ in BAD_RECORDS.values()], ids=BAD_RECORDS)
def test_skip_leaves_out_the_bad_record_and_nothing_else(tmp_path: Path, bad: bytes) -> None:
    path = write(tmp_path, "a.jsonl", b'{"text": "one"}\n' + bad + b'\n{"text": "three"}\n')
    with pytest.warns(CorpusWarning, match=r"skipped 1 bad record; the first is .*a\.jsonl, line 2: "):
        assert list(read_documents(path, on_error="skip")) == ["one", "three"]


def test_skip_counts_over_all_files_and_reports_once(tmp_path: Path) -> None:
    paths = [write(tmp_path, name, b'bad\n{"text": "a"}\n{}\n') for name in ("a.jsonl", "b.jsonl")]
    with pytest.warns(CorpusWarning, match=r"skipped 4 bad records; the first is .*a\.jsonl, line 1: ") as seen:
        assert list(read_documents(paths, on_error="skip")) == ["a", "a"]
    assert len(seen) == 1


def test_a_clean_file_is_read_without_a_warning(tmp_path: Path) -> None:
    assert list(read_documents(write(tmp_path, "a.jsonl", '{"text": "a"}'), on_error="skip")) == ["a"]


@pytest.mark.parametrize(
    "sample_by, line, kept",
    [("line", 3, ["a", "b", "d"]), ("paragraph", 3, ["d"]), ("document", 3, [])],
)
def test_a_bad_byte_in_plain_text_costs_its_own_document(
    tmp_path: Path, sample_by: str, line: int, kept: list[str]
) -> None:
    path = write(tmp_path, "a.txt", b"a\nb\nc\xff\n\nd\n")
    with pytest.raises(CorpusError, match="byte 0xff is not valid UTF-8") as caught:
        list(read_documents(path, sample_by=sample_by))
    assert caught.value.line == line
    with pytest.warns(CorpusWarning, match="skipped 1"):
        assert list(read_documents(path, sample_by=sample_by, on_error="skip")) == kept


# -- bad files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le"])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_utf_16_is_named(tmp_path: Path, encoding: str, on_error: str) -> None:
    mark = {"utf-16-be": codecs.BOM_UTF16_BE, "utf-16-le": codecs.BOM_UTF16_LE}.get(encoding, b"")
    path = write(tmp_path, "a.txt", mark + "text".encode(encoding))
    with pytest.raises(CorpusError, match="UTF-16, UTF-8 is needed"):
        list(read_documents(path, on_error=on_error))


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_gzip_file_cut_short_is_an_error_with_its_line(tmp_path: Path, on_error: str) -> None:
    """Quietly ending there would train on half a corpus."""
    lines = b"".join(b'{"text": "%d"}\n' % (n * 7919 % 10007) for n in range(5000))
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines)[:-4000])
    documents = read_documents(path, on_error=on_error)
    read = []
    with pytest.raises(CorpusError, match=r"the gzip file is damaged .*get it again") as caught:
        for text in documents:
            read.append(text)
    assert 0 < len(read) < 5000 and caught.value.line == len(read) + 1


def test_a_zstandard_file_cut_short_or_damaged(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt.zst", "text " * 1000)
    whole = path.read_bytes()
    for damaged in (whole[:-3], b"plain text"):
        path.write_bytes(damaged)
        with pytest.raises(CorpusError, match=r"line 1: the Zstandard file is damaged .*get it again"):
            list(read_documents(path))
    path.write_bytes(whole + zstd.compress(b"more"))  # frames one after the other are one file
    assert list(read_documents(path)) == ["text " * 1000 + "more"]


def test_a_file_named_gz_that_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(b"plain text")
    with pytest.raises(CorpusError, match="the gzip file is damaged"):
        list(read_documents(tmp_path / "a.txt.gz"))


def test_missing_files_are_named_before_anything_is_read(tmp_path: Path) -> None:
    good = write(tmp_path, "a.txt", "a")
    with pytest.raises(CorpusError, match=r"b\.txt: no such file \(looked in "):
        next(read_documents([good, tmp_path / "b.txt"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=r"empty: is a folder without files that end in .*\.jsonl.*name files"):
        next(read_documents([good, tmp_path / "empty"]))
    with pytest.raises(CorpusError, match=r"\*\.jsonl: no file fits this pattern"):
        next(read_documents([good, tmp_path / "*.jsonl"]))
    with pytest.raises(ValueError, match="paths is empty"):
        next(read_documents([]))
    with pytest.raises(ValueError, match="paths is an empty name"):
        next(read_documents([good, ""]))


def test_a_table_is_no_text_unless_it_is_called_so(tmp_path: Path) -> None:
    table = write(tmp_path, "a.csv", "text,label\nA hen.,1\n")
    with pytest.raises(CorpusError, match=r"a\.csv: is a table: .* is_jsonl=False"):
        next(read_documents(table))
    assert list(read_documents(table, is_jsonl=False)) == ["text,label\nA hen.,1\n"]


@pytest.mark.parametrize("text", ["Is it a cat?\nIt is.", "word " * 60], ids=["lines", "one long line"])
def test_a_text_is_not_taken_for_the_name_of_a_file(text: str) -> None:
    with pytest.raises(
        ValueError, match=rf"{len(text)} characters of text; the name .*from_documents\(\[text\]"
    ) as seen:
        next(read_documents(text))
    assert len(str(seen.value)) < 250


@pytest.mark.parametrize("name", ["a.zip", "a.TAR", "a.tar.gz", "a.tgz", "a.jsonl.bz2", "a.txt.xz"])
def test_archives_are_not_taken_for_text(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, "a .tar file of texts may well be valid UTF-8")
    for path in (tmp_path / name, tmp_path / "*"):
        with pytest.raises(CorpusError, match=rf"{name}: is an archive, or packed otherwise than .*: unpack it"):
            next(read_documents(path))


@pytest.mark.parametrize("wrong", [{"sample_by": "sentence"}, {"on_error": "ignore"}])
def test_unknown_choices_list_the_known_ones(tmp_path: Path, wrong: dict[str, str]) -> None:
    (name, value), known = (
        next(iter(wrong.items())),
        {"sample_by": "document, paragraph, line", "on_error": "'raise' or 'skip'"},
    )
    with pytest.raises(ValueError, match=f"{name}='{value}'.*{known[name]}"):
        next(read_documents(write(tmp_path, "a.txt", "a"), **wrong))  # type: ignore[arg-type]
