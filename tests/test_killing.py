"""Processes to be killed: what they leave behind, that they are really dead, and what is said if they die alone."""

import json
import os
import time
from pathlib import Path

import pytest

from mt_core import TokenStore, TrainConfig, TransformerDataset
from mt_core.lab import killing


@pytest.fixture
def dataset() -> TransformerDataset:
    """480 rows, 30 batches of 16."""
    ids = [i * i % 64 for i in range(1921)]
    return TransformerDataset(TokenStore.from_token_ids(ids, vocab_size=64), seq_length=4, provenance=True)


def work_and_fail(path: Path) -> None:
    path.write_text("one line\n", encoding="utf-8", newline="\n")
    raise ValueError("out of ideas")


def say_who(path: Path) -> None:
    """Write numbers of this process for ever."""
    with path.open("a", encoding="utf-8", newline="\n", buffering=1) as file:
        while True:
            file.write(f"{os.getpid()}\n")
            time.sleep(0.002)


def test_the_killed_are_dead_at_once_and_nothing_more_is_written(tmp_path: Path) -> None:
    path = tmp_path / "who.txt"
    found = killing.kill_when(5, path, say_who, path)
    content = path.read_text(encoding="utf-8")
    assert 5 <= found == content.count("\n")
    time.sleep(0.05)
    assert path.read_text(encoding="utf-8") == content
    if os.name == "posix":
        with pytest.raises(ProcessLookupError):
            os.kill(int(content.split()[0]), 0)


def test_a_stream_that_was_killed_goes_on_to_the_same_lines(tmp_path: Path, dataset: TransformerDataset) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    killing.deliver(whole, dataset)
    found = killing.kill_when(8, cut, killing.deliver, cut, dataset, pause=0.02)
    assert 8 <= found < 30
    with cut.open("a", encoding="utf-8") as file:
        file.write('{"rows": [1, 2')  # a line that was half written
    killing.deliver(cut, dataset)
    assert killing.cut_and_read(cut) == killing.cut_and_read(whole)
    rows = [row for record in killing.cut_and_read(cut) for row in record["rows"]]
    assert sorted(rows) == list(range(480))
    before = cut.read_bytes()
    killing.deliver(cut, dataset)
    assert cut.read_bytes() == before, "an epoch that was read is not read again"


def test_training_that_was_killed_ends_with_the_same_losses(tmp_path: Path, dataset: TransformerDataset) -> None:
    config = TrainConfig(max_steps=12, checkpoint_every=2)
    losses = killing.train(tmp_path / "whole", dataset, config)
    log = tmp_path / "killed" / "log.jsonl"
    assert 5 <= killing.kill_when(5, log, killing.train, log.parent, dataset, config, pause=0.05) < 12
    assert killing.train(log.parent, dataset, config) == losses and len(losses) == 12


def test_a_process_that_ends_by_itself_is_not_taken_for_a_killed_one(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    with pytest.raises(RuntimeError, match=r"exit code 1 and 1 lines, .* killed at 2: ValueError: out of ideas"):
        killing.kill_when(2, path, work_and_fail, path)


def test_only_a_line_without_its_end_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert killing.cut_and_read(path) == [] and not path.exists()
    lines = [json.dumps({"step": step}) + "\n" for step in range(3)]
    for half, kept in (("", 3), (lines[2][:5], 2), (lines[2][:-1], 2)):
        path.write_text("".join([*lines[:kept], half]), encoding="utf-8", newline="\n")
        assert killing.cut_and_read(path) == [{"step": step} for step in range(kept)]
        assert path.read_text(encoding="utf-8") == "".join(lines[:kept])
