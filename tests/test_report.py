"""A reader's corpus: its survey, how it is divided, and the report, in which every line is computed."""

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from mt_core import CorpusError, MicroTransformerTokenizer, TokenLoader, TokenStore, TransformerDataset
from mt_core.lab import corpora, own_corpus, report
from mt_core.lab.corpora import Corpus, resolve
from mt_core.lab.download import DownloadError
from mt_core.lab.own_corpus import divide, first_part, survey

Write = Callable[[str, Iterable[str]], Path]
GOOD = b'{"text": "a good record"}\n'


def tale(number: int) -> str:
    return f"Tale {number}: the fox met {number * 7} hens, and went home."


def test_a_survey_counts_documents_bytes_repeats_and_bad_lines(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_bytes(GOOD + b'{"text": "caf\xc3\xa9"}\n{"text": 7}\n\n' + GOOD + b'{"text": "cut\n')
    found = survey(path)
    assert (found.n_documents, found.n_bytes, found.n_characters, found.n_repeated) == (3, 31, 30, 1)
    assert found.lengths.tolist() == [13, 5, 13] and found.n_bad == 2
    assert found.first_bad is not None and found.first_bad.line == 3
    assert "3 documents, 31 bytes" in str(found) and "line 3: field 'text' is a number" in str(found)
    with pytest.raises(CorpusError, match="line 3"):
        survey(path, on_error="raise")


def test_a_packed_copy_is_the_same_corpus_and_another_order_is_not(write_jsonl: Write, tmp_path: Path) -> None:
    path = write_jsonl("a.jsonl", map(tale, range(5)))
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert survey(path) == survey(packed)
    assert survey(write_jsonl("c.jsonl", map(tale, range(4, -1, -1)))).sha256 != survey(path).sha256


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no text found (empty, or white space alone)"),
        (b"\n  \n", "no text found (empty, or white space alone)"),
        (b'{"title": "a"}\n' * 3, "of 3 bad records the first is line 1: no field 'text' (found 'title')"),
        (b"\xe9\xe8\n", "of 1 bad record the first is line 1: byte 0xe9 is not valid UTF-8"),
    ],
)
def test_a_corpus_without_a_document_is_explained(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "none.jsonl"
    path.write_bytes(data)
    for use in (survey, report.report):
        with pytest.raises(CorpusError) as caught:
            use(path)
        assert words in str(caught.value)


def counting(lengths: list[int]) -> TokenStore:
    n = sum(lengths)
    return TokenStore.from_token_ids(range(n), vocab_size=n, document_ends=np.cumsum(lengths))


def one_file(found: list[int], store: TokenStore, tokenizer: MicroTransformerTokenizer) -> own_corpus.Divided:
    corpus = Corpus(train=Path("x"), val=None, is_jsonl=None, title="x")
    hashes = np.array(found, dtype=np.uint64)
    seen = own_corpus.Survey(lengths=hashes, hashes=hashes, n_characters=0, sha256="", n_bad=0, first_bad=None)
    return divide(corpus, seen, store, tokenizer, most_val=30)


def test_the_last_tenth_begins_with_a_document(tokenizer: MicroTransformerTokenizer) -> None:
    parts = one_file(list(range(20)), counting([20] * 20), tokenizer)
    assert (len(parts.train), parts.train.n_documents, parts.n_val, parts.n_overlap) == (360, 18, 2, 0)
    assert parts.val.token_ids.tolist() == list(range(360, 380))  # no more than 30 tokens, whole documents
    assert one_file([*range(18), 3, 18], counting([20] * 20), tokenizer).n_overlap == 1


def test_one_long_document_is_cut_at_a_token(tokenizer: MicroTransformerTokenizer) -> None:
    for lengths in ([300], [5, 295]):
        parts = one_file(list(range(len(lengths))), counting(lengths), tokenizer)
        assert parts.train.token_ids[-1] == 269 or parts.train.n_documents == 1
        assert parts.val.token_ids[0] == 270 and len(parts.val) == 30 and parts.n_val == 0
    with pytest.raises(ValueError, match="the corpus has 255 tokens, 256 are needed"):
        one_file([1], counting([255]), tokenizer)


def test_a_first_part_ends_with_a_document_where_one_ends_in_its_second_half() -> None:
    store = counting([10, 4, 30])
    assert [len(first_part(store, n)) for n in (5, 10, 13, 14, 43, 44, 99)] == [5, 10, 10, 14, 43, 44, 44]
    assert first_part(store, 14).document_ends.tolist() == [10, 14]
    assert first_part(store, 43).document_ends.tolist() == [10, 14, 43]


def test_shares_are_those_worked_out_by_hand() -> None:
    store = counting([3, 4, 5])  # targets: 2, 3 and 4
    assert own_corpus.count_shares(store, 4, "per_document") == (9 / 12, 0.0)
    assert own_corpus.count_shares(store, 2, "per_document") == (9 / 10, 2 / 3)


@pytest.mark.parametrize(("n_tokens", "n_rows"), [(49, 6), (50, 7)])
def test_plain_rows_are_ours_but_for_a_last_one_that_is_not_full(n_tokens: int, n_rows: int) -> None:
    store = counting([n_tokens])
    ours, plain = TransformerDataset(store, seq_length=8), report.PlainRows(store, 8)
    assert (len(ours), len(plain)) == (n_rows, 6)
    for index in range(6):
        for name in ("input_ids", "labels"):
            assert torch.equal(ours[index][name], plain[index][name])
    assert report.PlainRows(store, 8, [40])[0]["labels"].tolist() == list(range(41, 49))


# -- the report --------------------------------------------------------------------------------------------

HOLDS = [
    "every record could be read",
    "no text comes twice",
    "no overlap of training and validation",
    "texts come back from their tokens",
    "the store is what was written",
    "each target once an epoch",
    "labels shifted once",
    "a new order each epoch",
    "resume exact",
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed is measured for a moment only."""
    monkeypatch.setattr(report.tokens_a_second, "__kwdefaults__", {"seconds": 0.01})


def test_a_good_corpus_gets_a_yes_in_each_line(write_jsonl: Write) -> None:
    found = report.report(write_jsonl("good.jsonl", map(tale, range(100))), loss=0.5)
    assert list(found.checklist) == [*HOLDS, "validation loss below the unigram entropy"]
    assert all(found.checklist.values())
    assert "not compared: an epoch has " in found.measured["speed"]
    assert "- [x] resume exact: yes" in str(found) and "100, with 0 whose text came before" in str(found)


@pytest.mark.parametrize("settings", [{"batch_size": 99}, {"seq_length": 500}])
def test_an_epoch_of_one_batch_is_too_few(write_jsonl: Write, settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"rows of seq_length=\d+ make fewer than 4 batches of batch_size=\d+"):
        report.report(write_jsonl("good.jsonl", map(tale, range(60))), **settings)


def test_what_is_measured_says_how_much(write_jsonl: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    # How fast a loader is on a busy machine is nothing to test: that ours is set over the plain one is.
    monkeypatch.setattr(report, "tokens_a_second", lambda loader: 3.0 if isinstance(loader, TokenLoader) else 2.0)
    measured = report.report(write_jsonl("good.jsonl", map(tale, range(200))), seq_length=8, batch_size=2).measured
    assert measured["speed"] == "1.5 times the tokens a second of a DataLoader over single rows"
    assert 0 <= float(measured["stall"].split()[-4].rstrip("%")) <= 100


@pytest.mark.parametrize(
    ("texts", "more", "fails"),
    [
        (
            [tale(n) for n in range(60)] + [tale(0)],
            b"",
            ["no text comes twice", "no overlap of training and validation"],
        ),
        ([tale(0)] + [tale(n) for n in range(60)], b"", ["no text comes twice"]),
        ([tale(n) for n in range(60)], b'{"text": 1}\n', ["every record could be read"]),
    ],
)
def test_what_is_wrong_with_a_corpus_gets_a_no(write_jsonl: Write, texts: list[str], more: bytes, fails: list) -> None:
    path = write_jsonl("some.jsonl", texts)
    path.write_bytes(path.read_bytes() + more)
    found = report.report(path)
    assert [what for what, holds in found.checklist.items() if not holds] == fails
    assert all(f"- [ ] {what}: NO" in str(found) for what in fails)


def test_tokens_a_second_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [{"input_ids": torch.zeros(2, 3)}, {"input_ids": torch.zeros(1, 3)}]
    monkeypatch.setattr(report.time, "perf_counter", iter([100, 101, 102, 103]).__next__)
    assert report.tokens_a_second(batches, seconds=2.5) == 5.0  # 6, 3 and again 6 in three seconds
    monkeypatch.undo()
    for ended in ([], iter(batches)):
        with pytest.raises(ValueError, match="an epoch without a batch"):
            report.tokens_a_second(ended, seconds=1e9)


def test_what_is_wrong_with_the_path_gets_a_no(write_jsonl: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jsonl("good.jsonl", map(tale, range(60)))
    monkeypatch.setattr(report, "TokenLoader", lambda rows, **_: _Broken(rows))
    monkeypatch.setattr(MicroTransformerTokenizer, "decode", lambda *_, **__: "another text")
    found = report.report(path, loss=99.0)
    wrong = [*HOLDS[5:], "texts come back from their tokens", "validation loss below the unigram entropy"]
    assert {what for what, holds in found.checklist.items() if not holds} == set(wrong)


class _Broken:
    """Rows in order, the same each epoch, labels not shifted; begins anew whatever state it is given."""

    def __init__(self, rows: TransformerDataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterable[dict[str, torch.Tensor]]:
        for index in range(len(self.rows)):
            inputs = self.rows[index]["input_ids"][None]
            yield {"input_ids": inputs, "labels": inputs}

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass


def test_a_damaged_store_gets_a_no(write_jsonl: Write) -> None:
    path = write_jsonl("good.jsonl", map(tale, range(60)))
    report.report(path)
    (file,) = path.parent.glob(".mt_cache/*/token_ids.bin")
    ids = bytearray(file.read_bytes())
    ids[0] ^= 1  # the first [CLS], which no text shows
    file.write_bytes(ids)
    assert not report.report(path).checklist["the store is what was written"]


def test_a_folder_is_compared_with_its_own_validation(write_jsonl: Write, tmp_path: Path) -> None:
    write_jsonl("train.jsonl", map(tale, range(60)))
    write_jsonl("val.jsonl", map(tale, range(55, 70)))
    found = report.report(resolve(tmp_path))
    assert found.facts["held out"] == "15 documents, 5 with a text that is trained on too"
    assert not found.checklist["no overlap of training and validation"]


def test_nothing_of_the_corpus_or_of_its_place_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "annas-letters"
    folder.mkdir()
    path = folder / "diary-of-anna.jsonl"
    records = [json.dumps({"text": f"Dear diary {n}, nobody may know of Quentin."}) + "\n" for n in range(60)]
    path.write_text("".join(records) + '{"secretfield": "Quentin"}\n' + '{"text": "Quentin\n', encoding="utf-8")
    found = report.report(path)
    out = tmp_path / "report.md"
    found.write(out)
    written = out.read_bytes().decode("utf-8")
    assert written == str(found) and "\r" not in written
    parts = {part for part in folder.parts if len(part) > 3}
    for private in {*parts, path.stem, "Quentin", "Dear", "diary", "nobody", "secretfield", str(Path.home())}:
        assert private not in written, private
    assert "| bad records | 2, the first in line 61 |" in written


def test_the_command_line_writes_prints_and_explains(
    write_jsonl: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl("good.jsonl", map(tale, range(60)))
    assert report.main([str(path), "--out", str(tmp_path / "r.md")]) == 0
    assert (tmp_path / "r.md").read_text(encoding="utf-8").startswith("# Report")
    path.write_bytes(path.read_bytes() * 2)
    assert report.main([str(path)]) == 2 and "- [ ] no text comes twice: NO" in capsys.readouterr().out
    assert report.main([str(tmp_path / "nowhere.txt")]) == 1
    assert "is no file, no directory and no known corpus" in capsys.readouterr().err
    for out in (tmp_path, tmp_path / "nowhere" / "r.md"):  # said before the work, not after it
        monkeypatch.setattr(report, "report", lambda *_, **__: pytest.fail("worked in vain"))
        with pytest.raises(SystemExit):
            report.main([str(path), "--out", str(out)])
        assert "name a file in a folder that is" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(corpora, "download", _no_network)
    monkeypatch.setenv("MICROTRANSFORMER_CACHE", str(tmp_path / "cache"))
    assert report.main(["tinyshakespeare"]) == 1 and capsys.readouterr().err == "there is no network\n"


def _no_network(*_: object, **__: object) -> None:
    raise DownloadError("there is no network")
