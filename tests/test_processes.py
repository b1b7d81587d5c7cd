"""Processes from a notebook: each knows its rank, errors come back in words, and none is left behind."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from distributed_programs import small

from mt_core.lab import processes


@pytest.fixture
def started(monkeypatch) -> list[subprocess.Popen]:
    """Every process that is started."""
    found: list[subprocess.Popen] = []
    start = subprocess.Popen

    def noted(*given, **settings):
        found.append(start(*given, **settings))
        return found[-1]

    monkeypatch.setattr(subprocess, "Popen", noted)
    return found


def test_each_process_is_a_rank_and_they_talk_to_each_other(started) -> None:
    found = processes.run(small.who, 2, word="größer")
    assert [one["ranks"] for one in found] == [[0, 2], [1, 2]]
    assert [(one["word"], one["sum"], one["threads"]) for one in found] == [("größer", 3, 1)] * 2
    assert len({os.getpid(), *(one["pid"] for one in found)}) == 3
    assert [process.returncode for process in started] == [0, 0]


def test_the_first_error_comes_back_in_one_line_and_the_others_are_ended(started) -> None:
    with pytest.raises(processes.ProcessError) as caught:
        processes.run(small.fail, 2, rank=1)
    assert str(caught.value) == "fail: process 1 of 2 stopped with KeyError: 'no such row'"
    assert len(started) == 2 and all(process.returncode for process in started)


def test_processes_that_take_too_long_are_ended(started) -> None:
    begin = time.monotonic()
    with pytest.raises(processes.ProcessError, match=r"hang: after 0.3 seconds 2 of 2 processes still ran, and were"):
        processes.run(small.hang, 2, time_limit=0.3)
    assert all(process.returncode for process in started) and time.monotonic() - begin < 60


def test_a_process_that_is_killed_is_told_by_its_exit_code(tmp_path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", "import os; os._exit(9)"])
    with pytest.raises(processes.ProcessError, match="work: process 0 of 1 was ended with exit code 9"):
        processes._wait([dead], tmp_path, "work", 60)


def test_a_process_ends_with_the_one_that_started_it(tmp_path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    task = {"function": "distributed_programs.small:hang", "settings": {}, "time_limit": 60, "parent": ended.pid}
    (tmp_path / "task.json").write_text(json.dumps(task), encoding="utf-8", newline="\n")
    command = [sys.executable, "-m", "mt_core.lab.processes", str(tmp_path)]
    done = subprocess.run(command, env=processes._environment(0, 2, 1), capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["task.json"]


def test_what_cannot_be_started_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="n=0, a whole number of processes from 1"):
        processes.run(small.who, 0)
    with pytest.raises(ValueError, match="cannot be imported by another process: put the function into a module"):
        processes.run(lambda: 1, 2)
    inside = type(small.who)(small.who.__code__, {}, "who")
    inside.__module__ = "__main__"
    with pytest.raises(ValueError, match="__main__:who cannot be imported"):
        processes.run(inside, 2)


def test_the_surroundings_are_those_of_torchrun(monkeypatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "3")
    environment = processes._environment(1, 4, 5000)
    wanted = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "5000"}
    assert wanted.items() <= environment.items() and "TORCHELASTIC_RESTART_COUNT" not in environment
    assert str(Path(small.__file__).parents[1]) in environment["PYTHONPATH"].split(os.pathsep)
