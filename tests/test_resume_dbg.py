"""Exact resume: killed at any moment, as often as you like, the next process delivers what would have come."""

import multiprocessing
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from distributed_programs import killable
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mt_core import fit
from mt_core.checkpoints import latest_checkpoint, load_checkpoint, read_state
from mt_core.training import History, create_optimizers

# Processes are forked from one that has imported torch and nothing else, so that each costs milliseconds.
CONTEXT = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
RUNS, KILLS = (1, 3) if sys.platform == "win32" else (4, 10)  # where none can be forked, each costs seconds

# -- killed ------------------------------------------------------------------------------------------------


@cache
def whole_stream() -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        killable.deliver(Path(folder), 0)
        return (Path(folder) / "0.txt").read_text(encoding="utf-8").splitlines()


@cache
def whole_losses() -> list[float]:
    history = fit(killable.model(), killable.loader(), killable.loader(), killable.TRAIN, progress=False)
    return [step.loss for step in history.steps]


def reached(folder: Path) -> int:
    newest = latest_checkpoint(folder / "checkpoints")
    return 0 if newest is None else read_state(newest)["step"]


def ends(target, folder: Path, attempt: int, moment: tuple[int, float] | None, **changed) -> bool:
    """Run `target` in a process of its own; whether it came to its end.

    It is killed when it has written so many checkpoints, and some milliseconds later; None leaves it alone.
    """
    CONTEXT.set_forkserver_preload(["mt_core.training", "torch.distributed"])
    process = CONTEXT.Process(target=target, args=(folder, attempt), kwargs=changed)
    seen = newest = latest_checkpoint(folder / "checkpoints")
    process.start()
    try:
        if moment is None:
            process.join(120)
        else:
            left, deadline = moment[0], time.monotonic() + 60
            while left and process.is_alive() and time.monotonic() < deadline:
                newest, seen = latest_checkpoint(folder / "checkpoints"), newest
                left -= newest != seen
                time.sleep(0.0005)
            process.join(moment[1] / 1000)
        print("END", target.__name__, moment, process.exitcode, reached(folder)); return process.exitcode == 0
    finally:
        process.kill()
        process.join()


# How many checkpoints it may write, milliseconds from there to its death, and on how many ranks it runs.
kill = st.tuples(st.integers(0, 5), st.floats(0, 25), st.sampled_from([1, 2, 4]))
kills = st.lists(kill, min_size=KILLS, max_size=KILLS)
thorough = settings(max_examples=RUNS, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


def assert_whole(folder: Path, attempts: int) -> None:
    """Each attempt goes on at a checkpoint of the one before, and all give the lines of the uninterrupted stream."""
    delivered = 0
    for attempt in range(attempts):
        path = folder / f"{attempt}.txt"  # not there if it was killed before it began
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        lines = [line.rstrip("\n") for line in lines if line.endswith("\n")]  # the last may be half written
        if lines:
            first = int(lines[0].partition(":")[0])
            assert delivered - 3 <= first <= delivered, "it goes on from the last checkpoint, and none is left out"
            assert lines == whole_stream()[first : first + len(lines)]
            delivered = first + len(lines)
    assert delivered == killable.N_BATCHES


@thorough
@given(kills)
def test_a_stream_that_is_killed_again_and_again_is_the_whole_one(moments) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for attempt, (written, milliseconds, ranks) in enumerate(moments):
            ended = ends(killable.deliver, folder, attempt, (written, milliseconds), world_size=ranks)
            assert not ended or reached(folder) == killable.N_BATCHES
        assert ends(killable.deliver, folder, len(moments), None), "left alone, it comes to its end"
        assert_whole(folder, len(moments) + 1)


@thorough
@given(kills)
def test_training_that_is_killed_again_and_again_has_the_losses_of_the_whole(moments) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for attempt, (written, milliseconds, _) in enumerate(moments):
            ends(killable.train, folder, attempt, (written, milliseconds))
            if newest := latest_checkpoint(folder / "checkpoints"):
                load_checkpoint(newest, model := killable.model(), create_optimizers(model, killable.TRAIN))
        assert ends(killable.train, folder, len(moments), None)
        assert [step.loss for step in History.read(folder).steps] == whole_losses()
