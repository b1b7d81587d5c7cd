"""The simulator: cases worked out by hand, then what holds for every pipeline. Measures no time."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt_core.lab import played_loader
from mt_core.lab.simulate import Pipeline, bound, bounds, simulate
from mt_core.lab.spans import DEVICE, MAIN, PIN, Span, Timeline

# -- by hand -------------------------------------------------------------------------------------------------


def table(timeline: Timeline, lane: str, kind: str) -> list[tuple[float, float]]:
    """Start and end of the spans of a kind in a lane, by batch."""
    found = sorted((s for s in timeline.spans if (s.lane, s.kind) == (lane, kind)), key=lambda s: s.batch)
    assert [s.batch for s in found] == list(range(len(found)))
    return [(round(s.start, 9), round(s.end, 9)) for s in found]


def play(fetch: list[float], compute: list[float], *, skip: int = 0, **settings: object) -> Timeline:
    return played_loader.play(Pipeline(fetch=1, compute=1, **settings), fetch, compute, skip)  # type: ignore[arg-type]


def test_one_worker_slower_than_the_step() -> None:
    timeline = simulate(Pipeline(num_workers=1, prefetch_factor=1, fetch=3, compute=2), 4, skip=0)
    assert table(timeline, "worker 0", "fetch") == [(0, 3), (3, 6), (6, 9), (9, 12)]
    assert table(timeline, MAIN, "wait") == [(0, 3), (5, 6), (8, 9), (11, 12)]
    assert table(timeline, MAIN, "compute") == [(3, 5), (6, 8), (9, 11), (12, 14)]
    assert (timeline.wall, timeline.n_batches, timeline.num_workers, timeline.prefetch_factor) == (14, 4, 1, 1)
    assert timeline.stall == 6 / 14


def test_without_workers_one_thing_comes_after_the_other() -> None:
    timeline = simulate(Pipeline(fetch=3, pin=0.5, copy=0.25, compute=2), 2, skip=0)
    assert table(timeline, MAIN, "fetch") == [(0, 3), (5.75, 8.75)]
    assert table(timeline, MAIN, "pin") == [(3, 3.5), (8.75, 9.25)]
    assert table(timeline, MAIN, "copy") == [(3.5, 3.75), (9.25, 9.5)]
    assert table(timeline, MAIN, "compute") == [(3.75, 5.75), (9.5, 11.5)]
    assert timeline.prefetch_factor is None and timeline.throughput == 2 / 11.5


@pytest.mark.parametrize(
    ("prefetch_factor", "fetches"),
    [(1, [(0, 2), (2, 4), (5, 7), (8, 10)]), (2, [(0, 2), (2, 4), (4, 6), (6, 8)])],
)
def test_a_worker_starts_only_when_its_index_list_is_sent(prefetch_factor: int, fetches: list[tuple[int, int]]) -> None:
    """Deliveries are at 2, 5, 8, 11, each sends one list: for the next batch, or for the one after it."""
    timeline = play([2] * 6, [3] * 4, num_workers=1, prefetch_factor=prefetch_factor)
    assert table(timeline, "worker 0", "fetch") == fetches
    assert [end for _, end in table(timeline, MAIN, "wait")] == [2, 5, 8, 11]


def test_a_late_batch_holds_up_those_behind_it() -> None:
    timeline = play([8, 1, 1, 1, 1, 1], [1, 1, 1, 1], num_workers=2, prefetch_factor=1)
    assert table(timeline, MAIN, "wait") == [(0, 8), (9, 9), (10, 10), (11, 11)]
    fetches = sorted((s.batch, s.lane, s.start, s.end) for s in timeline.spans if s.kind == "fetch")
    assert fetches == [
        (0, "worker 0", 0, 8),
        (1, "worker 1", 0, 1),  # and then waits for a list until 8, though it has nothing to do
        (2, "worker 0", 8, 9),
        (3, "worker 1", 9, 10),
    ]


def test_batches_are_passed_on_at_a_cost_to_both_sides() -> None:
    timeline = play([3, 3, 3, 3], [2, 2], num_workers=1, transfer=0.5, receive=0.25)
    assert table(timeline, "worker 0", "fetch") == [(0, 3), (3.5, 6.5)]
    assert table(timeline, MAIN, "wait") == [(0, 3.75), (5.75, 7.25)]


def test_those_that_come_too_early_are_received_first() -> None:
    timeline = play([4, 1, 1, 1], [1, 1], num_workers=2, prefetch_factor=1, receive=0.5)
    assert table(timeline, MAIN, "wait") == [(0, 4.5), (5.5, 5.5)]  # batch 1 was received at 1 to 1.5
    timeline = play([4, 3.75, 1, 1], [1, 1], num_workers=2, prefetch_factor=1, receive=0.5)
    assert table(timeline, MAIN, "wait")[0] == (0, 4.75)  # batch 1 is being received when batch 0 comes


def test_the_pin_thread_receives_in_place_of_the_main_process() -> None:
    timeline = play([3, 3, 3, 3], [2, 2], num_workers=1, receive=0.25, pin=0.5)
    assert table(timeline, PIN, "pin") == [(3.25, 3.75), (6.25, 6.75)]
    assert table(timeline, MAIN, "wait") == [(0, 3.75), (5.75, 6.75)]
    assert timeline.lanes() == ["worker 0", PIN, MAIN]


def test_a_device_computes_while_the_main_process_fetches() -> None:
    """Pinned: the copy, too, goes on without the main process. Not pinned: it waits, and for the step before."""
    pinned = play([2, 2, 2], [5, 5, 5], pin=0, copy=1, launch=0.5)
    assert table(pinned, MAIN, "fetch") == [(0, 2), (2.5, 4.5), (5, 7)]
    assert table(pinned, DEVICE, "copy") == [(2, 3), (8, 9), (14, 15)]
    assert table(pinned, DEVICE, "compute") == [(3, 8), (9, 14), (15, 20)]
    assert pinned.wall == 20
    plain = play([2, 2, 2], [5, 5, 5], copy=1, launch=0.5)
    assert table(plain, MAIN, "fetch") == [(0, 2), (3.5, 5.5), (9.5, 11.5)]
    assert table(plain, MAIN, "copy") == [(2, 3), (5.5, 9), (11.5, 15)]
    assert table(plain, DEVICE, "compute") == table(pinned, DEVICE, "compute")


def test_a_device_has_done_the_warm_up_when_the_timeline_starts() -> None:
    timeline = play([1, 1, 1], [5, 5, 5], skip=1, pin=0, copy=1, launch=0.5)
    assert table(timeline, MAIN, "fetch") == [(0, 1), (1.5, 2.5)]
    assert table(timeline, DEVICE, "compute") == [(2, 7), (8, 13)]


def test_work_that_needs_a_core_shares_the_cores_there_are() -> None:
    timeline = play([3, 3, 3, 3], [2, 2], num_workers=1, prefetch_factor=1, cores=1)
    # From 3 on the step and the next fetch have half a core each; from 7 on the fetch, with 1 to go, has all of it.
    assert table(timeline, MAIN, "compute")[0] == (3, 7)
    assert table(timeline, "worker 0", "fetch")[1] == (3, 8)
    sleeping = play([3, 3, 3, 3], [2, 2], num_workers=1, prefetch_factor=1, cores=1, fetch_cores=0)
    assert table(sleeping, MAIN, "compute")[0] == (3, 5)
    half = play([4, 4, 4, 4], [2, 2], num_workers=1, prefetch_factor=1, cores=1, fetch_cores=0.5)
    assert table(half, "worker 0", "fetch") == [(0, 4), (4, 8)]  # waits while the step computes, then needs the core
    wide = play([3, 3, 3, 3], [2, 2], num_workers=1, prefetch_factor=1, cores=2, compute_cores=3)
    # Four cores are wanted from 3 on: all go at half speed until the step ends at 7; then one core is enough.
    assert table(wide, MAIN, "compute")[0] == (3, 7) and table(wide, "worker 0", "fetch")[1] == (3, 8)


def test_the_timeline_starts_after_the_warm_up_and_keeps_what_was_done_ahead() -> None:
    timeline = play([1] * 8, [3] * 6, num_workers=1, skip=3)
    assert table(timeline, MAIN, "wait") == [(0, 0), (3, 3), (6, 6)]
    assert table(timeline, "worker 0", "fetch") == [(-6, -5), (-3, -2), (0, 1)]  # two batches ahead of the step
    assert (timeline.wall, timeline.n_batches) == (9, 3)
    assert len(simulate(Pipeline(num_workers=2, fetch=1, compute=1), 7).seconds("wait")) == 7


# -- for every pipeline --------------------------------------------------------------------------------------

seconds = st.integers(1, 200).map(lambda n: n / 8)  # exact in binary
small = st.integers(0, 16).map(lambda n: n / 8)
workers = st.integers(0, 4)


@st.composite
def pipelines(draw: st.DrawFn, **fixed: object) -> Pipeline:
    settings = {
        "num_workers": draw(workers),
        "prefetch_factor": draw(st.integers(1, 3)),
        "fetch": draw(seconds),
        "compute": draw(seconds),
        "fetch_spread": draw(st.sampled_from([0.0, 0.3, 1.0])),
        "compute_spread": draw(st.sampled_from([0.0, 0.2])),
        "transfer": draw(small),
        "receive": draw(small),
        "pin": draw(st.none() | small),
        "copy": draw(small),
        "launch": draw(st.none() | small),
        "cores": draw(st.none() | st.sampled_from([0.5, 1.0, 1.7, 2.0, 4.0])),
        "fetch_cores": draw(st.sampled_from([0.0, 0.5, 1.0])),
        "compute_cores": draw(st.sampled_from([0.0, 1.0, 2.0])),
    }
    return Pipeline(**settings | fixed)  # type: ignore[arg-type]


@given(pipelines(fetch_spread=0.0, compute_spread=0.0, cores=None))
def test_where_nothing_varies_throughput_is_the_least_of_the_bounds(pipeline: Pipeline) -> None:
    n = 24 * max(1, pipeline.num_workers * pipeline.prefetch_factor)
    assert simulate(pipeline, n, skip=n).throughput == pytest.approx(bound(pipeline), rel=0.04)


@given(pipelines(fetch_spread=0.0, compute_spread=0.0))
def test_sharing_cores_never_beats_the_bound(pipeline: Pipeline) -> None:
    n = 24 * max(1, pipeline.num_workers * pipeline.prefetch_factor)
    assert simulate(pipeline, n, skip=n).throughput <= bound(pipeline) * 1.04


@given(pipelines(cores=None), st.integers(0, 1000))
def test_everything_is_in_order_and_nothing_is_done_twice_at_once(pipeline: Pipeline, seed: int) -> None:
    timeline = simulate(pipeline, 12, seed=seed, skip=2)
    for lane in timeline.lanes():
        spans = sorted((s for s in timeline.spans if s.lane == lane), key=lambda s: (s.start, s.end))
        assert all(a.end <= b.start + 1e-9 for a, b in pairwise(spans)), lane
        if lane != PIN:  # it takes batches as they come
            assert [s.batch for s in spans] == sorted(s.batch for s in spans), lane
    ready = {s.batch: s.end for s in timeline.spans if s.kind == "fetch"}
    for span in timeline.spans:
        if span.kind in ("copy", "compute"):
            assert span.batch not in ready or span.start >= ready[span.batch] - 1e-9
        if span.lane.startswith("worker"):  # the lists go round
            assert span.lane == f"worker {(span.batch + 2) % pipeline.num_workers}"
    last = MAIN if pipeline.launch is None else DEVICE
    assert len(timeline.seconds("compute", last)) == timeline.n_batches == 12
    assert max(s.end for s in timeline.spans) == pytest.approx(timeline.wall)


@given(pipelines(cores=None, receive=0.0, pin=0.0), st.integers(0, 1000))
def test_with_cores_enough_more_is_never_slower(pipeline: Pipeline, seed: int) -> None:
    """The same times each: twice the workers share out each one's work, and more lists only come earlier.

    Where receiving or pinning takes time this need not be: a batch that came too early can be in the way.
    """
    wall = simulate(pipeline, 24, seed=seed, skip=0).wall
    more = simulate(replace(pipeline, prefetch_factor=pipeline.prefetch_factor + 1), 24, seed=seed, skip=0).wall
    assert more <= wall * (1 + 1e-9)
    if pipeline.num_workers:
        twice = simulate(replace(pipeline, num_workers=2 * pipeline.num_workers), 24, seed=seed, skip=0).wall
        assert twice <= wall * (1 + 1e-9)


@given(pipelines(fetch_spread=0.0, compute_spread=0.0, cores=None))
def test_where_nothing_varies_one_more_worker_is_never_slower(pipeline: Pipeline) -> None:
    pipeline = replace(pipeline, num_workers=max(1, pipeline.num_workers))
    one_more = replace(pipeline, num_workers=pipeline.num_workers + 1)
    assert simulate(one_more, 24, skip=0).wall <= simulate(pipeline, 24, skip=0).wall * (1 + 1e-9)


def test_a_seed_decides_the_times_and_nothing_else_does() -> None:
    for spread in ({"fetch_spread": 0.5}, {"compute_spread": 0.1}):
        pipeline = Pipeline(num_workers=2, fetch=1, compute=0.4, **spread)
        assert simulate(pipeline, 20, seed=3) == simulate(pipeline, 20, seed=3)
        assert simulate(pipeline, 20, seed=3) != simulate(pipeline, 20, seed=4)
    pipeline = replace(pipeline, fetch_spread=0.5)
    more = replace(pipeline, num_workers=3)
    one, other = (simulate(p, 20, seed=3, skip=0).seconds("fetch") for p in (pipeline, more))
    np.testing.assert_allclose(one, other)


def test_the_times_have_the_mean_and_spread_asked_for() -> None:
    timeline = simulate(Pipeline(fetch=2, fetch_spread=0.5, compute=1, compute_spread=0.1), 20_000)
    assert timeline.seconds("fetch").mean() == pytest.approx(2, rel=0.02)
    assert timeline.seconds("fetch").std() == pytest.approx(1, rel=0.03)
    assert timeline.seconds("compute").std() == pytest.approx(0.1, rel=0.03)


def test_spread_costs_more_the_fewer_lists_are_sent_ahead() -> None:
    pipeline = Pipeline(num_workers=2, fetch=2, fetch_spread=1, compute=1)
    speeds = [simulate(replace(pipeline, prefetch_factor=p), 3000).throughput for p in (1, 2, 8)]
    assert bound(pipeline) == 1 and speeds == sorted(speeds) and speeds[0] < 0.7 < 0.85 < speeds[2] < 1


# -- bounds and settings -------------------------------------------------------------------------------------


def test_bounds_name_each_part() -> None:
    pipeline = Pipeline(num_workers=2, prefetch_factor=2, fetch=0.75, transfer=0.25, receive=0.25, compute=0.25)
    assert bounds(pipeline) == {"workers": 2, "prefetch": 4 / 1.25, "main process": 2}
    pinned = bounds(replace(pipeline, pin=0.25, cores=1))
    assert pinned == {"workers": 2, "prefetch": 4 / 1.5, "pin thread": 2, "main process": 4, "cores": 1 / 1.75}
    device = Pipeline(fetch=1, compute=4, copy=1, launch=0.5)
    assert bounds(device) == {"main process": 1 / 2.5, "device": 1 / 5}
    assert bounds(replace(device, pin=0.5)) == {"main process": 1 / 2, "device": 1 / 5}
    assert bound(device) == 1 / 5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_workers": -1}, "num_workers=-1, a whole number from 0"),
        ({"num_workers": 1.5}, "num_workers=1.5"),
        ({"num_workers": True}, "num_workers=True"),
        ({"prefetch_factor": 0}, "prefetch_factor"),
        ({"fetch": -1}, "fetch=-1, a number from 0"),
        ({"fetch": float("nan")}, "fetch=nan"),
        ({"compute": float("inf")}, "compute=inf"),
        ({"fetch_spread": None}, "fetch_spread=None"),
        ({"pin": "yes"}, "pin='yes'"),
        ({"cores": 0}, "cores=0"),
        ({"fetch_cores": 2}, "fetch_cores=2, a share from 0 to 1"),
        ({"fetch": 0, "compute": 0}, "no time at all"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Pipeline(**{"fetch": 1, "compute": 1} | settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["n_batches", "seed", "skip"])
def test_numbers_of_a_simulation_are_checked(name: str) -> None:
    for value in (-1, 1.5):
        with pytest.raises(ValueError, match=name):
            simulate(Pipeline(fetch=1, compute=1), **{name: value})  # type: ignore[arg-type]


def test_numbers_of_numpy_are_numbers_and_a_timeline_is_no_pipeline() -> None:
    plain = Pipeline(fetch=0.5, compute=1, num_workers=2)
    line = simulate(plain, 5)
    swept = Pipeline(fetch=np.float32(0.5), compute=np.int64(1), num_workers=np.arange(3)[2])  # type: ignore[arg-type]
    assert simulate(swept, 5) == line
    with pytest.raises(ValueError, match="got a Timeline, a Pipeline is needed"):
        simulate(line)  # type: ignore[arg-type]


# -- from a measured timeline --------------------------------------------------------------------------------


def test_settings_come_back_from_a_simulated_timeline() -> None:
    asked = Pipeline(fetch=2, fetch_spread=0.5, compute=1, compute_spread=0.2, pin=0.25, copy=0.125)
    found = Pipeline.from_timeline(simulate(asked, 5000), cores=2)
    assert (found.num_workers, found.pin, found.copy, found.cores, found.launch) == (0, 0.25, 0.125, 2, None)
    near = (found.fetch, found.fetch_spread, found.compute, found.compute_spread)
    assert near == pytest.approx((2, 0.5, 1, 0.2), rel=0.05)


def test_what_passing_a_batch_on_costs_comes_from_timelines_with_workers() -> None:
    alone = Pipeline(fetch=2, compute=1)
    worked = replace(alone, num_workers=1, transfer=0.25, receive=0.125)
    slow_fetch, slow_step = simulate(worked, 30), simulate(replace(worked, compute=5), 30)
    found = Pipeline.from_timeline(simulate(alone, 30), slow_fetch, slow_step, num_workers=3, prefetch_factor=4)
    assert (found.num_workers, found.prefetch_factor) == (3, 4)
    assert (found.fetch, found.transfer, found.receive) == pytest.approx((2, 0.25, 0.125))
    assert Pipeline.from_timeline(slow_step).receive == pytest.approx(0.125)
    assert Pipeline.from_timeline(slow_fetch).transfer == pytest.approx(0.25)
    assert Pipeline.from_timeline(slow_fetch).receive == 0, "batches that were waited for do not show it"
    assert Pipeline.from_timeline(simulate(alone, 30)).transfer == 0
    pinned = simulate(replace(worked, compute=5, pin=0.25), 30)
    assert Pipeline.from_timeline(slow_step, pinned).receive == 0.125, "a pin thread receives unseen"


def test_a_device_shows_its_copy_and_compute_and_the_main_process_its_launch() -> None:
    asked = Pipeline(fetch=2, compute=4, copy=0.5, launch=0.25, pin=0.125)
    found = Pipeline.from_timeline(simulate(asked, 30))
    assert (found.compute, found.copy, found.launch, found.pin) == pytest.approx((4, 0.5, 0.25, 0.125))


def test_a_timeline_without_fetches_is_refused() -> None:
    span = Span(lane=MAIN, kind="compute", batch=0, start=0, end=1)
    with pytest.raises(ValueError, match="no fetch spans"):
        Pipeline.from_timeline(Timeline(spans=(span,), n_batches=1, wall=1))
