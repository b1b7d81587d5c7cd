"""What a loader did and when: hand-made timelines first, then real loaders, which must not be changed by it."""

import copy
import itertools
import multiprocessing
import time

import pytest
import torch
from slow_datasets import ROW_SECONDS, SlowRows, SlowStream, begin_at_row_200
from torch.utils.data import DataLoader

from mt_core import TokenLoader, TokenStore, TransformerDataset
from mt_core.lab import timeline as module
from mt_core.lab.spans import Span, Timeline
from mt_core.lab.timeline import record

# Two workers, one batch each ahead, times in seconds. Batch 1 is late: the main process waits from 4 to 7.
HAND = Timeline(
    spans=(
        Span(lane="main", kind="wait", batch=0, start=0, end=1),
        Span(lane="worker 0", kind="fetch", batch=0, start=-2, end=0.5),
        Span(lane="worker 1", kind="fetch", batch=1, start=-1, end=6.5),
        Span(lane="main", kind="compute", batch=0, start=1, end=4),
        Span(lane="main", kind="wait", batch=1, start=4, end=7),
        Span(lane="main", kind="compute", batch=1, start=7, end=10),
    ),
    n_batches=2,
    wall=10,
    num_workers=2,
    prefetch_factor=1,
)


def test_a_timeline_by_hand() -> None:
    assert HAND.throughput == 0.2
    assert HAND.stall == 0.4  # 1 + 3 of 10 seconds
    assert HAND.seconds("compute").tolist() == [3, 3]
    assert HAND.seconds("fetch").tolist() == [2.5, 7.5]
    assert HAND.seconds("fetch", "worker 1").tolist() == [7.5]
    assert HAND.queued().tolist() == [0.5, 0.5]
    assert HAND.lanes() == ["worker 0", "worker 1", "main"]
    assert HAND.columns()[2] == [0, 1, 0, 0, 1, 1] and HAND.columns()[3] == [-2, -1, 0, 1, 4, 7]
    assert HAND.words().startswith("2 batches in 10.00 s, 0 a second. fetch: 5000.00 ms at the median.")
    assert HAND.words().endswith("The step waited for data 40% of the time.")
    with pytest.raises(ValueError, match="kind='idle', it must be one of fetch, pin"):
        HAND.seconds("idle")


def test_a_device_that_is_busy_meanwhile_is_not_stalled() -> None:
    busy = Span(lane="device", kind="compute", batch=0, start=0.5, end=6)
    both = Timeline(spans=(*HAND.spans, busy), n_batches=2, wall=10)
    assert both.stall == pytest.approx(0.15)  # 0 to 0.5 and 6 to 7
    assert both.lanes()[-2:] == ["main", "device"]


def dataloader(dataset, num_workers: int, **settings) -> DataLoader:
    context = "forkserver" if num_workers and "forkserver" in multiprocessing.get_all_start_methods() else None
    return DataLoader(dataset, batch_size=4, num_workers=num_workers, multiprocessing_context=context, **settings)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_lane_of_a_loader_nobody_here_wrote(num_workers: int) -> None:
    seen = []
    line = record(dataloader(SlowRows(), num_workers), lambda batch: seen.append(batch[:, 0].tolist()), 20)
    skipped = 2 + 2 * num_workers
    assert seen == [list(range(i, i + 4)) for i in range(0, 4 * (20 + skipped), 4)], "the same batches in order"
    assert (line.n_batches, line.num_workers, line.prefetch_factor) == (20, num_workers, 2 if num_workers else None)
    fetches = [span for span in line.spans if span.kind == "fetch"]
    assert all(span.seconds >= 4 * ROW_SECONDS for span in fetches)
    assert {span.batch for span in fetches} >= set(range(20))
    if num_workers:
        assert line.lanes() == ["worker 0", "worker 1", "main"]
        assert all(span.lane == f"worker {(span.batch + skipped) % 2}" for span in fetches)
        came = {span.batch: span.end for span in line.spans if span.kind == "wait"}
        assert all(span.end <= came[span.batch] for span in fetches if span.batch in came), "one clock for all"
        assert len(line.queued()) == 20 and (line.queued() > 0).all()
    else:
        assert line.lanes() == ["main"] and len(line.queued()) == 0
        assert line.stall > 0.5
    for lane in line.lanes():
        spans = sorted((span for span in line.spans if span.lane == lane), key=lambda span: span.start)
        assert all(a.end <= b.start for a, b in itertools.pairwise(spans)), "one thing at a time"
    assert not multiprocessing.active_children(), "the workers have ended"


def test_streams_and_plain_iterables() -> None:
    line = record(dataloader(SlowStream(), 1), lambda batch: None, 10)
    assert len(line.seconds("fetch")) >= 10 and (line.seconds("fetch") >= 4 * ROW_SECONDS).all()
    line = record(([i] for i in range(12)), lambda batch: time.sleep(ROW_SECONDS), 10)
    assert line.lanes() == ["main"] and line.n_batches == 10
    assert (line.seconds("compute") >= ROW_SECONDS).all() and len(line.seconds("fetch")) == 10
    assert min(s.start for s in line.spans) == 0 and 0.9 * line.wall < sum(s.seconds for s in line.spans) <= line.wall


def test_what_a_worker_sets_on_its_dataset_reaches_it() -> None:
    seen = []
    loader = dataloader(SlowStream(), 1, worker_init_fn=begin_at_row_200)
    record(loader, lambda batch: seen.append(batch[:, 0].tolist()), 2, skip=0)
    assert seen == [[200, 201, 202, 203], [204, 205, 206, 207]]


def token_loader(**settings) -> TokenLoader:
    dataset = TransformerDataset(TokenStore.from_token_ids(range(401), vocab_size=500), seq_length=8, provenance=True)
    return TokenLoader(dataset, batch_size=2, shuffle=True, **settings)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_our_loader_stays_where_it_was(num_workers: int) -> None:
    loader, other = token_loader(num_workers=num_workers, persistent_workers=False), token_loader()
    list(other), list(loader) if num_workers == 0 else loader.set_epoch(1)
    before, seen = copy.deepcopy(loader.state_dict()), []
    record(loader, lambda batch: seen.append(batch["input_ids"]), 10, device="cpu")
    expected = [batch["input_ids"] for batch in other]
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=False)), "the pass it is about to make"
    assert loader.state_dict() == before
    if num_workers == 0:
        assert all(torch.equal(a["input_ids"], b) for a, b in zip(loader, expected, strict=True))


def test_a_loader_with_workers_of_its_own_keeps_them() -> None:
    loader = token_loader(num_workers=1)
    running = iter(loader)
    next(running)
    workers = {process.pid for process in multiprocessing.active_children()}
    list(running)
    line = record(loader, lambda batch: None, 5)
    assert line.lanes() == ["worker 0", "main"], "by workers of its own, which are timed"
    assert {process.pid for process in multiprocessing.active_children()} == workers


def test_copies_are_measured_where_there_is_a_device_to_copy_to(monkeypatch) -> None:
    line = record([{"x": torch.ones(3), "names": ["a"], "pair": (torch.ones(1), 2)}] * 5, lambda batch: None, 3)
    assert len(line.seconds("copy")) == 0
    line = record([{"x": torch.ones(3)}] * 5, lambda batch: batch["x"] + 1, 3, device="cpu")
    assert len(line.seconds("copy")) == 3
    seen = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: seen.append("waited"))
    record([{"x": torch.ones(3), "pair": (torch.ones(1), 2)}] * 4, seen.append, 2, device="meta")
    assert seen[0]["x"].is_meta and seen[0]["pair"][0].is_meta and seen[0]["pair"][1] == 2 and seen[1] == "waited"


def test_the_pin_thread_is_timed_and_pins_each_tensor(monkeypatch) -> None:
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.shape) or tensor)
    timed = module._TimedBatch({"a": torch.ones(2), "b": [torch.ones(3), 1]}, fetch=(1.0, 2.0))
    assert timed.pin_memory() is timed and timed["b"][1] == 1
    assert pinned == [(2,), (3,)] and timed.pin[0] <= timed.pin[1]
    spans = list(module._loader_spans(timed, 0, 1.5, 9.0, 1))
    assert [span[:2] for span in spans] == [("worker 0", "fetch"), ("pin thread", "pin"), ("main", "wait")]
    assert list(module._loader_spans(timed, 7, 0.5, timed.pin[1], 0)) == [
        ("main", "fetch", 7, 0.5, timed.pin[0]),
        ("main", "pin", 7, *timed.pin),
    ]


def test_cuda_is_timed_by_events_on_the_device(monkeypatch) -> None:
    """Events of a made-up device: it works 10 seconds behind the host and takes 2 for a copy and 3 for a step."""
    made: list[float] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            assert stream == "stream"
            self.at = 0.0 if not made else 10.0 + 5 * ((len(made) - 1) // 3) + (0, 2, 5)[(len(made) - 1) % 3]
            made.append(self.at)

        def elapsed_time(self, other: "Event") -> float:
            return 1000 * (other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "stream")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(module, "_clock", lambda: 100.0)
    monkeypatch.setattr(module, "each_tensor", lambda batch, change: batch)
    work = module._CudaWork(torch.device("cuda"))
    for batch in range(2):
        work.run(lambda batch: None, batch, batch)
    assert work.finish() == 100.0
    device = [span[1:] for span in work.spans if span[0] == "device"]
    assert device == [
        ("copy", 0, 110, 112),
        ("compute", 0, 112, 115),
        ("copy", 1, 115, 117),
        ("compute", 1, 117, 120),
    ]


def test_too_few_batches_and_bad_numbers_are_explained() -> None:
    with pytest.raises(ValueError, match="gave 3 batches, 2 to warm up and at least 2 to measure are needed"):
        record([1, 2, 3], lambda batch: None)
    for numbers in ({"n_batches": 1}, {"skip": -1}, {"skip": 0.5}):
        with pytest.raises(ValueError, match=f"{next(iter(numbers))}=.*, a whole number"):
            record([1, 2, 3], lambda batch: None, **numbers)
    assert record([1, 2, 3], lambda batch: None, skip=0).n_batches == 3


def test_what_is_no_loader_and_no_step_is_said() -> None:
    for loader, said in (
        (None, "a NoneType"),
        (lambda: [], "a function"),
        ((dataloader(SlowRows(), 0),) * 2, "a tuple"),
    ):
        with pytest.raises(ValueError, match=f"got {said}.*: one loader is needed"):
            record(loader, lambda batch: None)
    with pytest.raises(ValueError, match="step is a NoneType"):
        record([1] * 9, None)


def test_a_step_that_fails_leaves_no_workers() -> None:
    def step(batch):
        raise RuntimeError("the step failed")

    with pytest.raises(RuntimeError, match="the step failed"):
        record(dataloader(SlowRows(), 1), step)
    assert not multiprocessing.active_children()
