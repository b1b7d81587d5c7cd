"""The simulated copy engine, and figures of real ones as they are measured."""

import contextlib
import json
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mt_core.lab import transfers
from mt_core.lab.copy_engine import CopyEngine

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
