"""The loader benchmark runs, its contenders do the same work, its figures are all there. Looks at no time."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SKIPPABLE = {"torchdata StatefulDataLoader"}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("bench_loader")


@pytest.fixture
def peers(bench: ModuleType) -> ModuleType:
    return importlib.import_module("peers")


def test_tiny_run_prints_its_tables_and_writes_every_figure(tmp_path: Path) -> None:
    temporary, out = tmp_path / "temporary", tmp_path / "new" / "loader.json"
    temporary.mkdir()
    places = {name: str(temporary) for name in ("TMPDIR", "TEMP", "TMP")}
    words = ["--tokens", "200000", "--rounds", "3", "--seconds", "0.001", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "bench_loader.py"), *words],
        env=os.environ | places,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert list(temporary.glob("mt-bench-*")) == [], "the corpora stay behind"

    result = json.loads(out.read_text(encoding="utf-8"))
    assert set(result["skipped"]) <= SKIPPABLE
    shapes = {(row["batch_size"], row["seq_length"]) for row in result["speed"]}
    assert shapes == {(16, 128), (32, 1024), (64, 2048)}
    names = {row["contender"] for row in result["speed"]}
    assert {"bare NumPy gather", "mt_core TokenLoader", "Python list, stride 1"} <= names
    assert len(result["speed"]) == len(shapes) * len(names), "each contender has a record for each shape"
    for row in result["speed"]:
        bare = row["contender"] == "bare NumPy gather"
        assert len(row["ratios"]) == 3 and all(ratio > 0 for ratio in row["ratios"])
        assert row["ratio"] == np.median(row["ratios"])
        assert row["passes"] is (None if bare else row["ratio"] >= result["settings"]["needed_ratio"])
        assert row["contender"] in done.stdout and (not bare or row["ratios"] == [1, 1, 1])
    assert [row["tokens"] for row in result["opening"]["stores"]] == [4_000, 40_000, 200_000, 800_000]
    if sys.platform == "linux":
        assert result["memory"]["large"]["tokens"] == 800_000 and result["memory"]["small"]["tokens"] == 40_000
    else:
        assert result["memory"] is None and "not measured here" in done.stdout


def test_every_contender_gives_shuffled_windows_of_the_stream(
    bench: ModuleType, peers: ModuleType, tmp_path: Path
) -> None:
    store = bench.write_store(tmp_path / "store", np.arange(2_001, dtype=np.uint16))  # each id is its own position
    for name, start in (peers.ON_DISK | peers.IN_MEMORY).items():
        try:
            batches = start(store, 8, 20)
        except ImportError:
            assert name in SKIPPABLE
            continue
        epoch = [next(batches) for _ in range(100 // 8)]  # 100 rows of 20 at stride 20
        inputs, labels = (np.concatenate([np.asarray(b[key]) for b in epoch]) for key in ("input_ids", "labels"))
        assert inputs.dtype == labels.dtype == np.int64, name
        assert (labels == inputs + 1).all() and (np.diff(inputs) == 1).all(), name
        firsts = inputs[:, 0]
        assert (np.diff(firsts) < 0).any(), f"{name} is in order"
        if name != "nanoGPT's way, random offsets":  # the one that draws with replacement
            assert len(set(firsts.tolist())) == len(firsts), f"{name} repeats a row within an epoch"
        next(batches)  # and the next epoch begins by itself


def test_a_contender_that_does_other_work_is_refused(peers: ModuleType) -> None:
    ids = np.arange(12).reshape(3, 4)
    one, two = ids + 1, ids + 1
    one[2, :2] = two[1:, :2] = -100
    for labels in (ids + 1, one):  # in the corpus's last row, targets that were there before are ignored
        peers.check_batch("right", {"input_ids": ids, "labels": labels}, 3, 4)
    wrong = {
        "labels that are not the next": {"input_ids": ids, "labels": ids},
        "several rows": {"input_ids": ids, "labels": two},
        "another type": {"input_ids": ids.astype(np.int32), "labels": (ids + 1).astype(np.int32)},
        "another shape": {"input_ids": ids[:2], "labels": ids[:2] + 1},
        "repeats one row": {"input_ids": ids[[0, 0, 0]], "labels": ids[[0, 0, 0]] + 1},
    }
    for words, batch in wrong.items():
        with pytest.raises(AssertionError, match=words):
            peers.check_batch("wrong", batch, 3, 4)


@pytest.mark.parametrize(
    ("setting", "needed"), [({"tokens": 999_999, "quick": True}, "1,000,000"), ({"rounds": 2}, "3")]
)
def test_settings_too_small_to_measure_say_what_is_needed(
    bench: ModuleType, setting: dict[str, int], needed: str
) -> None:
    with pytest.raises(ValueError, match=f"at least {needed} are needed: raise --"):
        bench.BenchConfig(**setting)
