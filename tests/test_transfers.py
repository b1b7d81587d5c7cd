"""The simulated copy engine, the figures of real ones: measured, recorded, or marked as published by others."""

import contextlib
import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from mt_core.lab import recorded, transfers
from mt_core.lab.copy_engine import CopyEngine

ROOT = Path(__file__).resolve().parents[1]

# -- the simulated engine --------------------------------------------------------------------------------------------


def five_from_one_buffer(behind: int) -> list[int]:
    arrived, buffer = [], torch.zeros(2)
    with CopyEngine(behind) as engine:
        for number in range(5):
            buffer.fill_(number)
            arrived.append(engine.copy(buffer))
    return [int(rows[1]) for rows in arrived]


@pytest.mark.parametrize(
    ("behind", "arrives"),
    [(0, [0, 1, 2, 3, 4]), (1, [1, 2, 3, 4, 4]), (3, [3, 4, 4, 4, 4]), (9, [4, 4, 4, 4, 4])],
)
def test_an_engine_that_is_behind_reads_what_stands_there_later(behind: int, arrives: list[int]) -> None:
    assert five_from_one_buffer(behind) == arrives


def test_an_event_is_reached_when_the_copies_before_it_are_made_and_no_others() -> None:
    buffers = [torch.full((1,), n) for n in range(3)]
    with CopyEngine(behind=10) as engine:
        first = engine.copy(buffers[0])
        event = engine.record_event()
        engine.copy(buffers[1])
        assert not event.query() and first.tolist() == [0] and engine.n_made == 0
        buffers[0].fill_(7)
        event.synchronize()
        assert event.query() and first.tolist() == [7] and (engine.n_made, engine.n_asked, engine.n_waits) == (1, 2, 1)
        event.synchronize()
        assert engine.n_waits == 1, "what is there needs no waiting"
        engine.synchronize()
        assert engine.n_made == 2
        engine.copy(buffers[2])
    assert engine.n_made == 3 and not engine._thread.is_alive()


def test_the_engine_ends_after_an_error_and_refuses_what_it_cannot_do() -> None:
    with pytest.raises(TypeError, match="tensor by tensor"), CopyEngine() as engine:
        engine.copy({"input_ids": torch.zeros(1)})
    assert not engine._thread.is_alive()
    with pytest.raises(ValueError, match="behind=-1"):
        CopyEngine(-1)


# -- a device that is not there --------------------------------------------------------------------------------------


class FakeEvent:
    """As `torch.cuda.Event`, of a device that takes 2 ms for everything it is asked to do."""

    clock = 0.0

    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self) -> None:
        FakeEvent.clock += 2.0
        self.at = FakeEvent.clock

    def elapsed_time(self, other: "FakeEvent") -> float:
        return other.at - self.at


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """The processor in place of a CUDA device: the measuring runs, its figures mean nothing."""
    calls = {"locked": 0, "unlocked": 0}

    def count(name: str) -> int:
        calls[name] += 1
        return 0

    driver = SimpleNamespace(
        cudaHostRegister=lambda pointer, size, flags: count("locked"),
        cudaHostUnregister=lambda pointer: count("unlocked"),
    )
    for name, stand_in in {
        "is_available": lambda: True,
        "synchronize": lambda: time.sleep(1e-5),
        "get_device_name": lambda: "Made-up 1",
        "cudart": lambda: driver,
        "check_error": lambda result: None,
        "Event": FakeEvent,
        "Stream": lambda: "side",
        "current_stream": lambda: "main",
        "stream": lambda stream: contextlib.nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    real = {name: getattr(torch, name) for name in ("empty", "empty_like", "ones")}

    def here(name: str) -> Any:
        def make(*arguments: Any, device: Any = None, pin_memory: bool = False, **settings: Any) -> torch.Tensor:
            return real[name](*arguments, **settings)

        return make

    for name in real:
        monkeypatch.setattr(torch, name, here(name))
    small = real["ones"](8, 8)
    monkeypatch.setattr(torch, "ones", lambda *size, device: small)  # 2,048 squared takes a processor seconds
    to = torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor, "to", lambda self, where, **k: self.clone() if where == "cuda" else to(self, where)
    )
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    yield calls


def test_measuring_gives_every_figure_and_unlocks_what_it_locked(fake_cuda: dict[str, int]) -> None:
    record = transfers.measure(sizes=(1024, 1 << 20), rounds=3)
    assert json.loads(json.dumps(record)) == record
    assert [row["bytes"] for row in record["copies"]] == [1024, 1 << 20]
    figures = [row[name] for row in record["copies"] for name in ("pageable_gb_s", "pinned_gb_s", "lock_seconds")]
    figures += [s for part in ("ways", "returns", "overlap") for s in record[part].values()]
    assert len(figures) == 6 + 3 + 3 + 4 and all(figure > 0 for figure in figures)
    assert record["returns"]["arrived"] == pytest.approx(0.002), "events count in milliseconds"
    assert fake_cuda == {"locked": 6, "unlocked": 6}
    printed = transfers.lines(record)
    assert printed[0].startswith("measured on Made-up 1, ") and "1 MiB" in "\n".join(printed)


def test_without_a_device_the_live_cell_prints_its_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert transfers.live() is None
    line = "Nothing measured here: this cell needs a CUDA device. The next one shows figures from elsewhere.\n"
    assert capsys.readouterr().out == line
    with pytest.raises(RuntimeError, match="no CUDA device"):
        transfers.measure()


def test_with_a_device_the_live_cell_prints_the_figures(fake_cuda: Any, capsys: pytest.CaptureFixture[str]) -> None:
    record = transfers.live(sizes=(1024,), rounds=3)
    assert record is not None and capsys.readouterr().out.splitlines() == transfers.lines(record)


# -- recorded, or published ------------------------------------------------------------------------------------------

RECORD: dict[str, Any] = {
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


def test_without_a_record_what_is_shown_is_marked_as_published_by_others(tmp_path: Path) -> None:
    assert recorded.load(tmp_path) is None
    first, *rest = recorded.lines(None)
    assert first == "PUBLISHED BY OTHERS, not measured by us:"
    assert all(each.source in line and each.words in line for each, line in zip(recorded.PUBLISHED, rest, strict=True))
    rates = recorded.bandwidths(None)
    assert rates and all(name.endswith("(published)") for name in rates)
    assert not [line for line in rest if "H200" in line], "nobody measured one for us"


def test_a_record_is_shown_with_its_device_and_date_and_as_recorded(tmp_path: Path) -> None:
    (tmp_path / "transfers.json").write_text(json.dumps(RECORD), encoding="utf-8")
    record = recorded.load(tmp_path)
    assert record == RECORD
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
    (tmp_path / "transfers.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words) as caught:
        recorded.load(tmp_path)
    assert "bench_transfer.py" in str(caught.value)


# -- the program that records ----------------------------------------------------------------------------------------


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
    monkeypatch.setattr(transfers, "measure", lambda rounds: RECORD)
    out = tmp_path / "new" / "transfers.json"
    assert bench.main(["--out", str(out)]) == 0
    assert recorded.load(out.parent) == RECORD and b"\r" not in out.read_bytes()
    assert "Made-up 1" in capsys.readouterr().out


def test_without_a_device_the_benchmark_writes_nothing(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main(["--out", str(tmp_path / "x.json")]) == 1
    assert "nothing was written: no CUDA device" in capsys.readouterr().err and not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        bench.main(["--rounds", "2"])


def test_its_record_is_where_the_notebook_looks() -> None:
    assert recorded.RECORDS == ROOT / "benchmarks" / "records"
