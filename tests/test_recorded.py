"""Figures from other machines: read back as they were written, newest first, marked as recorded or as others'."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mt_core.lab import recorded, transfers

ROOT = Path(__file__).resolve().parents[1]
TRANSFERS: dict[str, Any] = {
    "device": "Made-up 1",
    "date": "2000-01-01",
    "torch": "0.0",
    "copies": [
        {"bytes": 1024, "pageable_gb_s": 0.1, "pinned_gb_s": 0.2, "lock_seconds": 1e-5},
        {"bytes": 1 << 28, "pageable_gb_s": 10.0, "pinned_gb_s": 50.0, "lock_seconds": 0.05},
    ],
    "ways": {"to": 1e-5, "pinned": 8e-6, "pin_then_to": 2e-5},
    "returns": {"pageable": 0.02, "pinned": 1e-5, "arrived": 0.005},
    "overlap": {"copy": 0.005, "compute": 0.005, "one_stream": 0.01, "two_streams": 0.006},
}
RUN: dict[str, Any] = {
    "device": "Made-up 1",
    "date": "2000-01-01",
    "preset": "124m",
    "parameters": 123_456_789,
    "seq_length": 1024,
    "tokens": 5_000_000,
    "tokens_per_second": 400_000.0,
    "mfu": 0.5,
    "stall": 0.001,
    "packed_ratio": 0.95,
    "validation": 1.25,
    "functions": {"words": "parse: 90%, 9 of 10 whole ones in 12 texts; of real files 99%, 99 of 100 whole ones"},
}


def write_run(folder: Path, **changes: Any) -> None:
    curve = recorded.as_csv(("step", "tokens", "loss"), [(1, 10, 6.5), (2, 20, 6.25)])
    recorded.write_folder(folder, {"run.json": recorded.as_json({**RUN, **changes}), "curve.csv": curve})


# -- copies ----------------------------------------------------------------------------------------------------------


def test_without_a_record_what_is_shown_is_marked_as_published_by_others(tmp_path: Path) -> None:
    assert recorded.load(tmp_path) is None and recorded.load(tmp_path / "nowhere") is None
    first, *rest = recorded.lines(None)
    assert first == "PUBLISHED BY OTHERS, not measured by us:"
    assert all(each.source in line and each.words in line for each, line in zip(recorded.PUBLISHED, rest, strict=True))
    rates = recorded.bandwidths(None)
    assert rates and all(name.endswith("(published)") for name in rates)
    assert not [line for line in rest if "H200" in line], "nobody measured one for us"


def test_a_record_is_shown_with_its_device_and_date_and_as_recorded(tmp_path: Path) -> None:
    recorded.write_folder(tmp_path / "made-up-1-2000-01-01", {"transfers.json": recorded.as_json(TRANSFERS)})
    record = recorded.load(tmp_path)
    assert record == TRANSFERS
    lines = recorded.lines(record)
    assert lines[0] == "RECORDED, not from this machine:"
    assert "Made-up 1" in lines[1] and "2000-01-01" in lines[1]
    assert "256 MiB" in lines[4] and "10.00 GB/s" in lines[4] and "50.000 ms" in lines[4]
    assert recorded.bandwidths(record) == {
        "Made-up 1, pageable (recorded)": 10.0,
        "Made-up 1, pinned (recorded)": 50.0,
    }


@pytest.mark.parametrize(("text", "words"), [("{", "holds no record"), ('{"device": "x"}', "lacks copies, date")])
def test_a_damaged_record_says_what_to_do(tmp_path: Path, text: str, words: str) -> None:
    recorded.write_folder(tmp_path / "x-2000-01-01", {"transfers.json": text, "run.json": text})
    with pytest.raises(ValueError, match=words) as caught:
        recorded.load(tmp_path)
    assert "bench_transfer.py" in str(caught.value)
    with pytest.raises(ValueError, match="record_run"):
        recorded.load_run(tmp_path)


@pytest.fixture
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_transfer", ROOT / "benchmarks" / "bench_transfer.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_writes_a_record_that_is_read_back(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(transfers, "measure", lambda rounds: TRANSFERS)
    runs = tmp_path / "new"
    assert bench.main(["--runs", str(runs)]) == bench.main(["--runs", str(runs)]) == 0
    assert recorded.load(runs) == TRANSFERS
    assert [path.name for path in recorded.folders(runs)] == ["made-up-1-2000-01-01-2", "made-up-1-2000-01-01"]
    assert all(b"\r" not in path.read_bytes() for path in runs.glob("*/*"))
    assert "Made-up 1" in capsys.readouterr().out


def test_without_a_device_the_benchmark_writes_nothing(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main(["--runs", str(tmp_path / "x")]) == 1
    assert "nothing was written: no CUDA device" in capsys.readouterr().err and not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        bench.main(["--rounds", "2"])


# -- whole runs ------------------------------------------------------------------------------------------------------


def test_without_a_record_it_says_not_yet_and_which_program_records(tmp_path: Path) -> None:
    assert recorded.load_run(tmp_path) is None
    (line,) = recorded.run_lines(None)
    assert line.startswith("not yet recorded") and "mt_core.lab.record_run" in line
    assert importlib.util.find_spec("mt_core.lab.record_run") is not None


def test_a_run_is_shown_with_its_device_its_date_and_its_figures(tmp_path: Path) -> None:
    write_run(tmp_path / "made-up-1-2000-01-01")
    record = recorded.load_run(tmp_path)
    assert record is not None and record["curve"] == {"step": [1, 2], "loss": [6.5, 6.25]}
    text = "\n".join(recorded.run_lines(record))
    assert text.startswith("RECORDED, not from this machine: Made-up 1, 2000-01-01")
    for figure in ("123,456,789", "400,000 tokens/s, MFU 50.0%", "0.10%", "0.95", "1.250", "9 of 10"):
        assert figure in text
    assert max(len(line) for line in text.splitlines()) <= 110
    assert "MFU unknown" in "\n".join(recorded.run_lines({**record, "mfu": None}))


def test_the_newest_record_that_holds_what_is_asked_counts(tmp_path: Path) -> None:
    write_run(tmp_path / "zzz-2001-12-31", tokens=1)
    write_run(tmp_path / "aaa-2002-01-01", tokens=2)
    write_run(tmp_path / "aaa-2002-01-01-10", tokens=10)
    write_run(tmp_path / "aaa-2002-01-01-9", tokens=9)
    recorded.write_folder(tmp_path / "aaa-2003-01-01", {"transfers.json": recorded.as_json(TRANSFERS)})
    (tmp_path / "not-a-record").mkdir()
    assert [path.name[-13:] for path in recorded.folders(tmp_path)][:3] == [
        "aaa-2003-01-01"[-13:],
        "2002-01-01-10",
        "-2002-01-01-9",
    ]
    record = recorded.load_run(tmp_path)
    assert record is not None and record["tokens"] == 10
    assert recorded.load(tmp_path) == TRANSFERS


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        recorded.write_folder(tmp_path / "x-2000-01-01", {"a.json": "1", "b.json": None})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []
    recorded.write_folder(tmp_path / "x-2000-01-01", {"a.json": "1"})
    with pytest.raises(FileExistsError, match="exists already"):
        recorded.write_folder(tmp_path / "x-2000-01-01", {"a.json": "2"})
    assert (tmp_path / "x-2000-01-01" / "a.json").read_text(encoding="utf-8") == "1"


def test_names_are_made_of_what_every_system_allows(tmp_path: Path) -> None:
    assert recorded.new_folder("NVIDIA A100-SXM4 80GB/2", "2026-01-31", tmp_path).name == (
        "nvidia-a100-sxm4-80gb-2-2026-01-31"
    )
    assert recorded.new_folder("??", "2026-01-31", tmp_path).name == "unknown-2026-01-31"


def test_what_is_stored_here_can_be_read() -> None:
    assert recorded.RUNS == ROOT / "data" / "runs" and (recorded.RUNS / "README.md").is_file()
    for folder in recorded.folders():
        assert (folder / "README.md").is_file()
        assert json.loads(next(folder.glob("*.json")).read_text(encoding="utf-8"))
    assert recorded.lines(recorded.load()) and recorded.run_lines(recorded.load_run())
