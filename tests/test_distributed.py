"""Many ranks: who reads what, and real processes over gloo that train as one does, are killed, and go on."""

import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from distributed_programs import kinds
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from mt_core import TrainConfig, fit
from mt_core.checkpoints import latest_checkpoint, load_checkpoint, read_state
from mt_core.command_line import main
from mt_core.distributed import (
    SHARED,
    SPLIT,
    create_mesh,
    default_parallel,
    group_of_loader,
    is_main,
    main_first,
    processes,
    ranks_of,
    started_by_torchrun,
)
from mt_core.evaluation import loss_of
from mt_core.training import History, create_optimizers

PROGRAMS = Path(__file__).parent / "distributed_programs"
ENVIRONMENT = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}

# -- who reads what ----------------------------------------------------------------------------------------


def place(names, shape, coordinate):
    """As much of a mesh as `ranks_of` looks at."""
    return SimpleNamespace(
        mesh_dim_names=names,
        shape=shape,
        ndim=len(shape),
        get_coordinate=lambda: coordinate,
    )


def test_ranks_of_a_mesh_worked_by_hand() -> None:
    read = [ranks_of(place(("dp", "tp"), (2, 2), list(c))) for c in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert read == [(0, 2), (0, 2), (1, 2), (1, 2)]
    assert ranks_of(place(("pp", "dp_replicate", "cp", "dp_shard"), (2, 3, 4, 5), [1, 2, 3, 4])) == (14, 15)
    assert ranks_of(place(("tp",), (8,), [5])) == (0, 1)
    assert ranks_of() == (0, 1)


@given(st.data())
def test_peers_that_share_a_model_read_the_same_and_all_rows_are_read(data) -> None:
    names = data.draw(st.lists(st.sampled_from(SPLIT + SHARED), min_size=1, max_size=4, unique=True))
    shape = tuple(data.draw(st.integers(1, 3)) for _ in names)
    read: dict[tuple, set] = {}
    for coordinate in itertools.product(*map(range, shape)):
        rank, world_size = ranks_of(place(tuple(names), shape, list(coordinate)))
        own = tuple(c for c, name in zip(coordinate, names, strict=True) if name in SPLIT)
        read.setdefault(own, set()).add(rank)
        assert world_size == math.prod(n for n, name in zip(shape, names, strict=True) if name in SPLIT)
    assert all(len(ranks) == 1 for ranks in read.values())
    assert sorted(rank for ranks in read.values() for rank in ranks) == list(range(len(read)))


def test_a_dimension_that_does_not_say_what_it_reads_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'banana' for a name.*one of dp, .*to share out rows, or one of tp"):
        ranks_of(place(("dp", "banana"), (2, 2), [0, 0]))
    with pytest.raises(ValueError, match="'no name'"):
        ranks_of(place(None, (2,), [0]))


# -- one process -------------------------------------------------------------------------------------------


@pytest.fixture
def alone():
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_without_processes_there_is_one_rank(monkeypatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    with processes() as many, main_first():
        assert (many, is_main(), default_parallel(), create_mesh("none")) == (False, True, "none", None)
    with pytest.raises(ValueError, match=r"parallel='tensor' needs several processes: start with `torchrun"):
        create_mesh("tensor")


@pytest.mark.parametrize("missing", ["LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK"])
def test_half_an_environment_is_refused_by_name(missing, monkeypatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert started_by_torchrun()
    monkeypatch.delenv(missing)
    with pytest.raises(ValueError, match=f"{missing} is not set: start with `torchrun"), processes("cpu"):
        pass
    if missing != "MASTER_ADDR":
        monkeypatch.setenv(missing, "two")
        with pytest.raises(ValueError, match=f"{missing}='two' is no whole number"):
            started_by_torchrun()


@pytest.mark.parametrize("name", ["all", "DDP", True])
def test_an_unknown_kind_is_refused(name) -> None:
    with pytest.raises(ValueError, match=f"parallel={name!r}, it must be 'none', 'ddp'"):
        TrainConfig(parallel=name)


def test_what_does_not_fit_a_kind_is_refused(alone) -> None:
    def fitted(parallel):
        train, _ = kinds.loaders("", 0, 1)
        config = replace(kinds.CONFIG, parallel=parallel)
        return fit(kinds.make(), train, None, config, mesh=mesh, progress=False)

    mesh = None
    with pytest.raises(ValueError, match="parallel='pipeline' has two stages and there are 1 processes"):
        fitted("pipeline")
    mesh = create_mesh("tensor")
    with pytest.raises(ValueError, match=r"parallel='ddp' needs a mesh with dimensions .* alone, this one has tp"):
        fitted("ddp")
    mesh = create_mesh("fsdp")
    with pytest.raises(ValueError, match="parallel='tensor' needs a mesh with exactly one of tp, tensor, this one has"):
        fitted("tensor")
    assert group_of_loader(1, None) is None and default_parallel() == "none"


def test_packed_rows_are_trained_with_their_documents_apart() -> None:
    train, _ = kinds.loaders("packed", 0, 1)
    first = loss_of(kinds.make(), next(iter(train))).item()
    train, _ = kinds.loaders("packed", 0, 1)
    history = fit(kinds.make(), train, None, replace(kinds.CONFIG, max_steps=1), progress=False)
    assert history.steps[0].loss == pytest.approx(first, rel=1e-6)


# -- two and four processes --------------------------------------------------------------------------------

TWO = (
    "ddp",
    "fsdp",
    "tensor",
    "pipeline",
    "ddp padded",  # ranks with unequal numbers of targets
    "ddp packed muon",
    "fsdp muon",
    "tensor muon",
    "pipeline muon",
    "fsdp packed accumulated untied",
    "tensor packed accumulated",
    "pipeline packed accumulated",
    "pipeline untied",
    *(f"{kind} resumed" for kind in ("ddp", "fsdp", "tensor", "pipeline")),
)
FOUR = tuple(kinds.MESHES)


def environment(**more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    return own | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1", "PYTHONPATH": str(PROGRAMS.parents[1])} | more


def start(*command: object, **more: str) -> subprocess.Popen[str]:
    """A program that leads a group of its own, so that nothing of it is left behind."""
    group = {"start_new_session": True} if os.name == "posix" else {}
    arguments = [sys.executable, *map(str, command)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        arguments, stdout=pipe, stderr=pipe, text=True, encoding="utf-8", env=environment(**more), **group
    )


def finish(process: subprocess.Popen[str], timeout: float) -> tuple[int, str, str]:
    """How a program ended and what it said; whatever still runs of it is killed."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        if os.name == "posix":
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass  # it is over
        process.kill()
    return process.returncode, out, err


def torchrun(n: int, *arguments: object, restarts: int = 0, timeout: float = 240) -> None:
    launch = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", f"--max-restarts={restarts}")
    code, out, err = finish(start(*launch, *arguments), timeout)
    assert code == 0, out + err


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """Results of one process, by what is changed; the folder, in which `start` is a run that stopped at step 4."""
    folder = tmp_path_factory.mktemp("kinds")
    done: dict[str, dict] = {}

    def result(kind: str = ""):
        changes = " ".join(word for word in kind.split() if word in kinds.CHANGES)
        if changes not in done:
            done[changes] = kinds.train(changes, folder / f"one {changes}", kinds.config_of(changes))
        return done[changes]

    result()
    shutil.copytree(folder / "one ", folder / "start")
    shutil.rmtree(folder / "start" / "checkpoints" / "step-00000008")
    return result, folder


@pytest.fixture(scope="module")
def two(single):
    for name, n in (("train", 40), ("val", 9)):
        text = " ".join(f"{i * n} cats on {i} mats." for i in range(n))
        (single[1] / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")
    torchrun(2, PROGRAMS / "kinds.py", single[1], *TWO)
    return single


def assert_as_one(kind: str, ranks: int, single) -> None:
    result, folder = single
    expected = result(kind)
    for rank in range(ranks):
        found = json.loads((folder / f"{kind}.{rank}.json").read_text(encoding="utf-8"))
        steps = slice(4, None) if "resumed" in kind and rank else slice(None)  # rank 0 reads the whole log
        # Muon's iteration is in bfloat16, which makes more of a difference in the last digit.
        near = 3e-4 if "muon" in kind else 3e-6
        assert found["losses"] == pytest.approx(expected["losses"][steps], abs=near)
        assert found["norms"] == pytest.approx(expected["norms"][steps], abs=near)
        assert found["rates"] == expected["rates"][steps] and found["tokens"] == expected["tokens"][steps]
        evaluations = [e for e in expected["evaluations"] if e[0] > 4 or not steps.start]
        assert [[e[0], e[2]] for e in found["evaluations"]] == [[e[0], e[2]] for e in evaluations]
        assert [e[1] for e in found["evaluations"]] == pytest.approx([e[1] for e in evaluations], abs=near)
        assert found["again"] == pytest.approx(expected["again"], abs=near)
        assert found["tied"] == expected["tied"]
        assert found["weights"] == pytest.approx(expected["weights"], abs=near)


@pytest.mark.parametrize("kind", TWO)
def test_two_processes_train_as_one(kind, two) -> None:
    assert_as_one(kind, 2, two)


@pytest.mark.parametrize("kind", ("ddp", "fsdp", "tensor", "pipeline", "pipeline untied"))
def test_a_checkpoint_of_two_processes_is_one_of_one(kind, two) -> None:
    """It holds what that of one process holds, and one process goes on from it to the same end."""
    result, folder = two
    one, other = (latest_checkpoint(folder / name / "checkpoints") for name in (f"one {kind[9:]}", kind))
    models = [kinds.make(tied="untied" not in kind) for _ in range(2)]
    optimizers = [create_optimizers(model, kinds.CONFIG) for model in models]
    states = [load_checkpoint(path, *what) for path, *what in zip((one, other), models, optimizers, strict=True)]
    assert sorted(path.name for path in other.iterdir()) == sorted(path.name for path in one.iterdir())
    assert states[1] | {"seconds": 0} == states[0] | {"seconds": 0}
    for ours, theirs in zip(*optimizers, strict=True):
        saved, expected = theirs.state_dict(), ours.state_dict()
        assert saved["param_groups"] == expected["param_groups"] and saved["state"].keys() == expected["state"].keys()
        for number, values in expected["state"].items():
            torch.testing.assert_close(saved["state"][number], values, rtol=0, atol=3e-6)
    shutil.copytree(folder / kind, folder / f"{kind} back")
    shutil.rmtree(folder / f"{kind} back" / "checkpoints" / other.name)
    back = kinds.train(f"{kind} resumed", folder / f"{kind} back", replace(kinds.CONFIG))
    assert read_state(latest_checkpoint(folder / f"{kind} back" / "checkpoints"))["step"] == 8
    assert back["losses"] == pytest.approx(result(kind)["losses"], abs=3e-6)
    assert back["weights"] == pytest.approx(result(kind)["weights"], abs=3e-6)


def test_the_command_line_on_two_processes_does_what_it_does_on_one(two, capsys) -> None:
    folder = two[1]
    main(kinds.command(folder, "none"))
    said = [(folder / f"said.{rank}.txt").read_text(encoding="utf-8") for rank in range(2)]
    text = capsys.readouterr().out
    assert said[1] == "" and said[0].splitlines()[:2] == text.splitlines()[:2] and "3 of 4 rows, 96 tokens" in said[0]
    runs = [folder / f"cli-{kind}" for kind in ("fsdp", "none")]
    histories = [History.read(run) for run in runs]
    assert [s.loss for s in histories[0].steps] == pytest.approx([s.loss for s in histories[1].steps], abs=3e-6)
    assert [e.n_targets for e in histories[0].evaluations] == [e.n_targets for e in histories[1].evaluations]
    weights, expected = (load_file(run / "model.safetensors") for run in runs)
    torch.testing.assert_close(weights, expected, rtol=0, atol=3e-6)
    assert {p.name for p in runs[0].iterdir()} == {p.name for p in runs[1].iterdir()}


def test_what_cannot_work_on_two_processes_is_refused_on_both(two) -> None:
    for rank in range(2):
        said = json.loads((two[1] / f"refused.{rank}.json").read_text(encoding="utf-8"))
        reads = f"this process is data rank {rank} of 2: give create_dataloaders rank and world_size as"
        for words, text in zip(
            (
                "the newest step is [0, 1] on ranks 0 to 1, it must be the same on all of them",
                reads,
                f"train_loader reads as rank {rank} of 2, this process is data rank 0 of 1",
                "n_head=3 and n_inner=32 cannot be shared equally by 2 processes of tensor parallelism",
                "model n_layer=1: use 2 and at least 2",
                "the loader is split over 3 ranks, there are 2 processes and 1 data ranks",
            ),
            said,
            strict=True,
        ):
            assert words in text


def test_four_processes_in_two_dimensions_train_as_one(single) -> None:
    torchrun(4, PROGRAMS / "kinds.py", single[1], *FOUR)
    for kind in FOUR:
        assert_as_one(kind, 4, single)
        files = [json.loads((single[1] / f"{kind}.{rank}.json").read_text(encoding="utf-8")) for rank in range(4)]
        four = [(0, 4), (1, 4), (2, 4), (3, 4)]
        assert [tuple(f["ranks"]) for f in files] == (four if "fsdp" in kind else [(0, 2), (0, 2), (1, 2), (1, 2)])


# -- a process that is killed, or hangs --------------------------------------------------------------------


def test_a_killed_process_ends_the_others_and_torchrun_goes_on_from_the_last_whole_checkpoint(single, tmp_path) -> None:
    torchrun(2, PROGRAMS / "killed.py", tmp_path, restarts=1)
    seen = {p.name: [int(x) for x in p.read_text(encoding="utf-8").split()] for p in tmp_path.glob("?.?")}
    assert seen["0.1"] == [1, 2, 3, 4, 5, 6, 7] and seen["1.0"] == seen["1.1"] == [5, 6, 7, 8]
    assert seen["0.0"][-1] in (6, 7), "it cannot have gone on alone"
    expected, steps = single[0](), History.read(tmp_path / "run").steps
    assert [step.step for step in steps] == list(range(1, 9))
    assert [step.loss for step in steps] == pytest.approx(expected["losses"], abs=3e-6)


def test_with_nobody_to_look_after_it_a_process_ends_when_its_peer_dies_or_hangs() -> None:
    stores, started = [], {}
    for what in ("dies", "hangs"):
        stores.append(dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False))
        common = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(stores[-1].port)}
        common["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # the store is here, so there is no port to find
        for rank in "01":
            program = start(PROGRAMS / "left_alone.py", what, RANK=rank, LOCAL_RANK=rank, **common)
            started[what, rank] = program
    try:
        for what in ("dies", "hangs"):
            first = started[what, "0"]
            assert [first.stdout.readline() for _ in range(3)] == ["1\n", "2\n", "3\n"]
            code, out, err = finish(first, timeout=25)  # it waits for six seconds
            assert code != 0 and out == "" and "Error" in err, err
    finally:
        for program in started.values():
            finish(program, 0.01) if program.poll() is not None else (program.kill(), program.communicate())
