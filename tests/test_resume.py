"""Exact resume: killed at any moment, as often as you like, the next process delivers what would have come."""

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
import torch
from distributed_programs import killable
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mt_core import (
    CheckpointError,
    LoaderStateError,
    MicroTransformer,
    MicroTransformerTokenizer,
    TokenLoader,
    TrainConfig,
    TransformerDataset,
    fit,
)
from mt_core.checkpoints import latest_checkpoint, load_checkpoint, read_state
from mt_core.training import History, create_optimizers, training_steps

# Processes are forked from one that has imported torch and nothing else, so that each costs milliseconds.
CONTEXT = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
RUNS, KILLS = (1, 3) if sys.platform == "win32" else (6, 10)  # where none can be forked, each costs seconds

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
    CONTEXT.set_forkserver_preload(["mt_core.training", "torch._dynamo"])  # optimizers import the latter
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
        return process.exitcode == 0
    finally:
        process.kill()
        if os.name == "posix":
            with suppress(ProcessLookupError, PermissionError):  # there is nobody left
                os.killpg(process.pid, signal.SIGKILL)
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


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_workers_prefetch_and_ranks_may_change_where_it_was_killed(tmp_path) -> None:
    """What was prefetched but not delivered comes again."""
    for attempt, changed in enumerate(
        (
            {"num_workers": 2, "prefetch_factor": 4},
            {"world_size": 2, "num_workers": 1, "prefetch_factor": 1},
            {"world_size": 4},
            {"num_workers": 1, "prefetch_factor": 7},
        )
    ):
        before = reached(tmp_path)
        ends(killable.deliver, tmp_path, attempt, (6, 3.0), **changed)
        assert before + 6 <= reached(tmp_path) < killable.N_BATCHES
    assert ends(killable.deliver, tmp_path, 4, None, num_workers=2)
    assert_whole(tmp_path, 5)
    ends(killable.train, tmp_path / "run", 0, (6, 3.0), num_workers=2, prefetch_factor=3)
    ends(killable.train, tmp_path / "run", 1, (6, 3.0))
    assert 12 <= reached(tmp_path / "run") < len(whole_losses())
    assert ends(killable.train, tmp_path / "run", 2, None, num_workers=1)
    assert [step.loss for step in History.read(tmp_path / "run").steps] == whole_losses()


# -- what may not change -----------------------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path, write_jsonl):
    """`resume(**changed)` goes on with a run that stopped after three steps, with something changed."""
    texts = [f"{n} cats sat on {n * n} mats." for n in range(60)]
    train = write_jsonl("train.jsonl", texts)
    other = write_jsonl("other.jsonl", [*texts[:-1], "the last text is another"])
    tokenizers = [MicroTransformerTokenizer.train(learned, vocab_size=264) for learned in (texts, ["zebras"] * 9)]

    def resume(*, corpus=train, tokenizer=0, seed=0, seq_length=8, stop_after=None):
        dataset = TransformerDataset(corpus, tokenizers[tokenizer], seq_length, cache_dir=tmp_path / "cache")
        loader = TokenLoader(dataset, batch_size=4, shuffle=True, drop_last=True, seed=seed)
        torch.manual_seed(0)
        model = MicroTransformer(vocab_size=264, n_layer=1, n_head=2, n_embd=8)
        config = TrainConfig(max_steps=6, checkpoint_every=1)
        records = training_steps(model, loader, None, config, run_dir=tmp_path / "run")
        return [record.loss for _, record in zip(range(stop_after or 9), records, strict=False)]

    resume(stop_after=4)
    return resume, other


def test_the_same_run_goes_on_and_another_is_refused_with_what_differs(stopped) -> None:
    resume, other = stopped
    for error, words, changed in (
        (LoaderStateError, "corpus=", {"corpus": other}),
        (CheckpointError, "tokenizer=", {"tokenizer": 1}),
        (LoaderStateError, "seed=0, this loader has seed=1", {"seed": 1}),
        (LoaderStateError, "seq_length=8, this loader has seq_length=9", {"seq_length": 9}),
    ):
        with pytest.raises(error, match=words):
            resume(**changed)
    assert len(resume()) == 3
