"""The main job: from a corpus of any kind to a table, a picture and an honest comparison with the floor."""

import gzip
import json
import math

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from mt_core import TokenStore, read_documents
from mt_core.lab import stories, train
from mt_core.lab.corpora import Corpus

TINY = ["--max-steps", "4", "--n-layer", "1", "--n-embd", "32", "--batch-size", "8", "--warmup-steps", "1"]


def run(capsys, *arguments):
    train.main([*map(str, arguments), *TINY])
    return capsys.readouterr().out


def lines_of_text(path, lines=400):
    path.write_text("".join(f"line {i} says {i * i % 97} and goes on\n" for i in range(lines)), encoding="utf-8")
    return path


def test_unigram_entropy_counts_what_is_predicted_and_so_no_document_start():
    store = TokenStore.from_token_ids([1, 5, 5, 6, 2, 1, 5, 2], vocab_size=8, document_ends=[5, 8])
    shares = np.array([3, 1, 2]) / 6  # of the ids 5, 6 and 2
    assert train.unigram_entropy(store) == pytest.approx(-(shares * np.log(shares)).sum())


def test_comparison_with_the_floor_by_hand():
    found = train.compare_with_floor([2 * math.log(2), 5 * math.log(2)], [1.0, 4.0], [1, 2])
    assert found.floor == pytest.approx(5 * math.log(2) / 3)
    assert found.loss == pytest.approx(7 * math.log(2) / 3)
    assert found.excess == pytest.approx(2 / 5)
    assert found.error == pytest.approx(0)  # both stories lie one bit above their floor
    # Gaps of 1 and 3 nats: the sum of two varies by sqrt(2) times their standard deviation, sqrt(2); over 4 targets
    assert train.compare_with_floor([1.0, 3.0], [0.0, 0.0], [1, 3]).error == pytest.approx(2 / 4)


def test_split_keeps_every_line_and_a_tenth_for_validation(tmp_path):
    whole = lines_of_text(tmp_path / "a.txt")
    first, rest = (part.read_bytes() for part in train.split_file(whole, tmp_path / "parts"))
    assert first + rest == whole.read_bytes()
    assert 0.05 < len(rest) / len(whole.read_bytes()) <= 0.1


def test_a_packed_file_and_a_parquet_file_are_split_into_readable_ones(tmp_path):
    texts = [f"line {i:2} of twenty-one" for i in range(21)]
    packed, table = tmp_path / "a.jsonl.gz", tmp_path / "a.parquet"
    packed.write_bytes(gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode()))
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), table)
    for path in (packed, table):
        parts = train.split_file(path, tmp_path / path.suffix)
        assert [part.name for part in parts] == ["train.jsonl", "val.jsonl"]
        assert [list(read_documents(part)) for part in parts] == [texts[:19], texts[19:]]


def test_a_packed_file_of_stories_is_known_for_what_it_is(tmp_path):
    stories.write_corpus(tmp_path / "a.jsonl", seed=1, count=2)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    settings = train.default_settings(Corpus(train=tmp_path / "a.jsonl.gz", val=None, is_jsonl=None, title=""), "a")
    assert settings.chunking == "per_document"


@pytest.mark.parametrize("name", ["table.csv", "TABLE.TSV"])
def test_a_table_is_refused_before_anything_is_written(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("text,label\n" * 20, encoding="utf-8")
    with pytest.raises(SystemExit, match=rf"^error: {name}: is a table: write its column of texts as JSONL"):
        train.main([name])
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_without_the_folder_of_the_course_the_command_says_how_to_write_the_stories(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "_ROOT", tmp_path)
    with pytest.raises(SystemExit, match=r"python -m mt_core\.lab\.stories --out data writes them again"):
        train.main([])


def test_a_run_on_stories_ends_above_the_floor_and_leaves_its_records(tmp_path, capsys):
    corpus = tmp_path / "stories"
    corpus.mkdir()
    for name, seed, count in (("train", 1, 300), ("val", 2, 40)):
        stories.write_corpus(corpus / f"{name}.jsonl", seed=seed, count=count)
    said = run(capsys, corpus, "--out", tmp_path / "run", "--vocab-size", 600, "--seq-length", 200)
    assert "above the floor" in said and "one standard error" in said
    assert "-" not in said.split("above the floor")[1].split("±")[0]  # never below
    assert (tmp_path / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "floor" in (tmp_path / "run" / "loss.txt").read_text(encoding="utf-8")
    settings = json.loads((tmp_path / "run" / "settings.json").read_text(encoding="utf-8"))
    assert settings["chunking"] == "per_document" and settings["model"]["n_embd"] == 32


def test_rows_that_would_cut_a_story_are_refused(tmp_path):
    corpus = tmp_path / "stories"
    corpus.mkdir()
    for name, seed, count in (("train", 1, 100), ("val", 2, 20)):
        stories.write_corpus(corpus / f"{name}.jsonl", seed=seed, count=count)
    with pytest.raises(SystemExit, match=r"longest story has \d+ tokens .* raise --seq-length to \d+"):
        train.main([str(corpus), "--out", str(tmp_path / "run"), "--vocab-size", "400", "--seq-length", "32", *TINY])


def test_a_plain_text_file_trains_and_promises_no_floor(tmp_path, capsys):
    said = run(capsys, lines_of_text(tmp_path / "my.txt"), "--out", tmp_path / "run", "--vocab-size", 300)
    assert "bits per byte" in said and "above the floor" not in said
    assert {file.name for file in (tmp_path / "run" / "data").glob("*.txt")} == {"train.txt", "val.txt"}


def test_a_second_call_goes_on_from_the_checkpoint(tmp_path, capsys):
    data = lines_of_text(tmp_path / "my.txt")
    first = run(capsys, data, "--out", tmp_path / "run", "--vocab-size", 300)
    again = run(capsys, data, "--out", tmp_path / "run", "--vocab-size", 300)
    assert first.split("validation loss")[1] == again.split("validation loss")[1]


@pytest.mark.parametrize(
    ("argument", "words"),
    [("nothing-here.txt", "is no file, no directory and no known corpus"), ("one-line.txt", "1 line, too few")],
)
def test_a_corpus_that_cannot_be_used_ends_in_one_line(argument, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one-line.txt").write_text("all in one line", encoding="utf-8")
    with pytest.raises(SystemExit, match=words):
        train.main([argument, *TINY])
