"""start.py: what it decides and says. No pip runs here: the calls to it are recorded, and .venv is a toy."""

import ast
import json
import os
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

import start

ROOT = Path(__file__).resolve().parents[1]


class Python:
    """Stands for the module `sys`: another version, all else as it is."""

    version_info = (3, 12, 1)

    def __getattr__(self, name: str) -> object:
        return getattr(sys, name)


class Machine:
    """A folder with a course in it; what start.py would call is in `calls`, `fail_at` makes a call fail or die."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls, self.ran = root, [], []
        self.fail_at, self.says, self.dies = "", "", False
        root.mkdir()
        for name in ("pyproject.toml", "constraints.txt"):
            (root / name).write_text(name, encoding="utf-8")

    def call(self, command: list[str], inherit: tuple[int, ...]) -> tuple[int, str]:
        step = command[2]  # "venv" or "pip"
        self.calls.append(command)
        if step == "venv":
            start.venv_python().parent.mkdir(parents=True)
        if step == self.fail_at:
            if self.dies:
                raise KeyboardInterrupt
            return 1, self.says
        if step == "venv":
            start.venv_python().write_text("", encoding="utf-8")
        return 0, ""

    @property
    def steps(self) -> list[str]:
        steps = [command[2] for command in self.calls]
        self.calls.clear()
        return steps


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path / "a course")
    monkeypatch.setattr(start, "ROOT", machine.root)
    monkeypatch.setattr(start, "VENV", machine.root / ".venv")
    monkeypatch.setattr(start, "STAMP", machine.root / ".venv" / "microtransformer.json")
    monkeypatch.setattr(start, "LOCK", machine.root / ".mt_cache" / "setup.lock")
    monkeypatch.setattr(start, "call", machine.call)
    monkeypatch.setattr(start, "run", lambda command, env: machine.ran.append((command, env)) or 7)
    monkeypatch.setattr(start, "sys", Python())
    monkeypatch.setattr(start, "LINUX", True)
    return machine


def test_a_fresh_folder_gets_an_environment_then_the_pinned_packages(machine: Machine) -> None:
    assert start.main(["setup"]) == 0
    venv, pip = machine.calls
    assert venv == [sys.executable, "-m", "venv", str(machine.root / ".venv")]
    assert pip[0] == str(start.venv_python())
    assert pip[-4:] == ["-e", ".[lab]", "-c", "constraints.txt"]
    assert json.loads(start.STAMP.read_text(encoding="utf-8"))["finished"] is True


def test_the_second_run_installs_nothing_and_passes_the_exit_status_on(machine: Machine) -> None:
    assert start.main(["test"]) == 7
    assert machine.steps == ["venv", "pip"]
    assert start.main(["test"]) == 7
    assert machine.steps == []
    assert len(machine.ran) == 2


def test_only_the_tests_install_what_only_they_need_and_nothing_takes_it_away(machine: Machine, monkeypatch) -> None:
    monkeypatch.setattr(start.subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=0, stdout=b"3.12\n"))
    start.main(["lab"])
    assert ".[lab]" in machine.calls[-1]
    machine.calls.clear()
    start.main(["test"])
    assert ".[lab,test,peers,clients,tensorboard,classes,site]" in machine.calls[-1] and machine.steps == ["pip"]
    start.main(["lab"])
    assert machine.steps == []
    (machine.root / "constraints.txt").write_text("newer", encoding="utf-8")
    start.main(["train"])
    assert ".[lab,test,peers,clients,tensorboard,classes,site]" in machine.calls[-1] and machine.steps == ["pip"]


def test_labs_bring_nbgrader_and_run_the_builder(machine: Machine) -> None:
    start.main(["labs", "--out", "elsewhere"])
    assert ".[lab,classes]" in machine.calls[-1]
    assert machine.ran[0][0][1:] == ["tools/labs.py", "--out", "elsewhere"]


def test_the_site_brings_sphinx_and_runs_the_builder(machine: Machine, capsys, monkeypatch) -> None:
    start.main(["site", "--out", "elsewhere"])
    assert ".[lab,site]" in machine.calls[-1]
    assert machine.ran[0][0][1:] == ["tools/make_site.py", "--out", "elsewhere"]
    monkeypatch.setattr(start.importlib.util, "find_spec", lambda name: None if name == "myst_nb" else name)
    assert start.main(["site", "--here"]) == 2
    assert "has no myst_nb" in capsys.readouterr().err


def test_the_browser_tests_bring_what_drives_a_browser_beside_what_was_there(machine: Machine, monkeypatch) -> None:
    monkeypatch.setattr(start.subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=0, stdout=b"3.12\n"))
    start.main(["test"])
    machine.calls.clear()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    start.main(["test-browser"])
    assert ".[lab,test,site,browser,peers,clients,tensorboard,classes]" in machine.calls[-1]
    assert machine.steps == ["pip"]
    start.main(["test"])
    assert machine.steps == []
    command, env = machine.ran[1]
    assert command[3:] == ["-n", "2", "--dist", "loadgroup", "tests/browser"] and env["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize("dies", [True, False], ids=["killed", "failed"])
@pytest.mark.parametrize("step", ["venv", "pip"])
def test_an_interrupted_set_up_is_made_anew(machine: Machine, step: str, dies: bool) -> None:
    machine.fail_at, machine.dies = step, dies
    assert start.main(["lab"]) == (130 if dies else 2)
    left_over = start.VENV / "half an installation"
    left_over.write_text("", encoding="utf-8")
    assert machine.ran == []
    machine.calls.clear()
    machine.fail_at = ""
    assert start.main(["lab"]) == 7
    assert machine.steps == ["venv", "pip"]
    assert not left_over.exists()


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_file_updates_the_environment_in_place(machine: Machine, name: str, monkeypatch) -> None:
    start.main(["setup"])
    machine.calls.clear()
    monkeypatch.setattr(start.subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=0, stdout=b"3.12\n"))
    (machine.root / name).write_text("newer", encoding="utf-8")
    machine.fail_at = "pip"
    assert start.main(["setup"]) == 2
    assert start.read_stamp()["finished"] is False, "an update that was cut off leaves no finished stamp"
    machine.fail_at = ""
    assert machine.steps == ["pip"]
    assert start.main(["setup"]) == 0
    assert machine.steps == ["venv", "pip"]
    assert start.main(["setup"]) == 0
    assert machine.steps == []


def test_another_python_or_another_folder_makes_it_anew(machine: Machine, monkeypatch) -> None:
    start.main(["setup"])
    machine.calls.clear()
    monkeypatch.setattr(start.sys, "version_info", (3, 13, 0))
    assert start.main(["setup"]) == 0
    assert machine.steps == ["venv", "pip"]
    start.write_stamp({**start.read_stamp(), "root": "where it was copied from"})
    assert start.main(["setup"]) == 0
    assert machine.steps == ["venv", "pip"]


def test_an_environment_without_a_stamp_is_kept_if_it_works_and_replaced_if_not(machine: Machine, monkeypatch) -> None:
    start.venv_python().parent.mkdir(parents=True)
    mine = start.VENV / "mine"
    mine.write_text("", encoding="utf-8")
    probe = SimpleNamespace(returncode=0, stdout=b"3.13\n")
    monkeypatch.setattr(start.subprocess, "run", lambda *a, **k: probe)
    assert start.main(["setup"]) == 2 and mine.exists(), "a working environment of another Python is not ours"
    probe.stdout = b"3.12\n"
    start.venv_python().write_text("", encoding="utf-8")
    assert start.main(["setup"]) == 0
    assert machine.steps == ["pip"] and mine.exists()
    start.STAMP.unlink()
    probe.returncode = 1
    assert start.main(["setup"]) == 0
    assert machine.steps == ["venv", "pip"] and not mine.exists()


def test_the_environment_that_this_python_is_part_of_is_not_deleted(machine: Machine, capsys, monkeypatch) -> None:
    start.VENV.mkdir()
    start.write_stamp({"finished": False})
    monkeypatch.setattr(start.sys, "prefix", str(start.VENV), raising=False)
    assert start.main(["setup"]) == 2
    assert "deactivate .venv" in capsys.readouterr().err and start.STAMP.exists() and machine.steps == []


def test_cpu_adds_pytorchs_index_on_linux_alone_and_is_remembered(machine: Machine, monkeypatch) -> None:
    start.main(["setup"])
    assert start.CPU_INDEX not in machine.calls[1]
    machine.calls.clear()
    start.main(["lab", "--cpu", "--no-browser"])
    index = machine.calls[1].index("--extra-index-url")
    assert machine.calls[1][index + 1] == start.CPU_INDEX
    assert "--cpu" not in machine.ran[0][0] and machine.ran[0][0][-1] == "--no-browser"
    machine.calls.clear()
    start.main(["lab"])
    assert machine.steps == [], "set up with --cpu, later commands need not say it again"
    machine.fail_at = "pip"
    start.STAMP.write_text('{"finished": false, "cpu": true}', encoding="utf-8")
    start.main(["lab"])
    assert start.CPU_INDEX in machine.calls[1], "nor after an interruption"
    machine.fail_at = ""
    machine.calls.clear()
    monkeypatch.setattr(start, "LINUX", False)
    start.main(["setup", "--cpu"])
    assert start.CPU_INDEX not in machine.calls[1]


def test_find_links_works_without_an_index(machine: Machine, capsys) -> None:
    wheels = machine.root / "wheels here"
    wheels.mkdir()
    assert start.main(["setup", "--find-links", str(wheels)]) == 0
    pip = machine.calls[1]
    assert pip[pip.index("--no-index") + 1 :][:2] == ["--find-links", str(wheels.resolve())]
    assert start.main(["setup", "--find-links=nowhere"]) == 2
    assert "needs a folder with packages, got 'nowhere'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pip_says", "advice"),
    [
        ("ERROR: [Errno 28] No space left on device", "disk is full"),
        ("NewConnectionError(... Failed to establish a new connection", "Is there a network?"),
        ("ERROR: No matching distribution found for torch==2.13.0", "--find-links wheels"),
        ("PermissionError: [Errno 13] Permission denied", "is this folder yours"),
        ("[WinError 32] The process cannot access the file because it is being used by another process", "running"),
        ("OSError: [Errno 2] No such file\nHINT: ... does not have Windows Long Path support enabled", "a short path"),
        ("error: externally-managed-environment", "without --here"),
        ("something never seen", "above"),
    ],
)
def test_a_failed_installation_says_what_to_do(machine: Machine, capsys, pip_says: str, advice: str) -> None:
    machine.fail_at, machine.says = "pip", pip_says
    assert start.main(["lab"]) == 2
    assert advice in capsys.readouterr().err


@pytest.mark.parametrize("version", [(3, 6), (3, 10)])
def test_an_old_python_is_told_what_is_needed(machine: Machine, capsys, monkeypatch, version) -> None:
    monkeypatch.setattr(start.sys, "version_info", (*version, 0))
    monkeypatch.setattr(start, "works", lambda name: name == "python3.13")
    assert start.main(["lab"]) == 2
    said = capsys.readouterr().err
    assert f"this is Python {version[0]}.{version[1]}, the course needs 3.11 to 3.14" in said
    assert "python3.13 start.py lab" in said and machine.steps == []


def test_a_python_that_is_too_new_is_named_when_a_package_is_missing(machine: Machine, capsys, monkeypatch) -> None:
    monkeypatch.setattr(start.sys, "version_info", (3, 15, 0))
    machine.fail_at, machine.says = "pip", "ERROR: No matching distribution found for torch==2.13.0"
    for found, advice in ("python3.12", "Run: python3.12 start.py lab"), ("", "Get 3.14 from https://www.python.org"):
        monkeypatch.setattr(start, "works", lambda name, found=found: name == found)
        assert start.main(["lab"]) == 2
        said = capsys.readouterr()
        assert "Python 3.15, newer than 3.14" in said.out and f"not there for Python 3.15 yet. {advice}" in said.err


def test_windows_finds_pythons_by_its_launcher(machine: Machine, monkeypatch) -> None:
    monkeypatch.setattr(start.sys, "platform", "win32", raising=False)
    monkeypatch.setattr(start.subprocess, "call", lambda command, **_: command != ["py", "-3.13", "-c", ""])
    assert start.better_python() == "Run: py -3.13 start.py lab"


def test_an_old_python_can_read_the_file() -> None:
    tree = ast.parse((ROOT / "start.py").read_text(encoding="utf-8"), feature_version=(3, 6))
    named = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {name.name for node in named for name in node.names} | {getattr(n, "module", None) for n in named}
    assert "__future__" not in modules, "Python 3.6 has no `from __future__ import annotations`"
    hints = [arg.annotation for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for arg in node.args.args]
    subscripts = [ast.unparse(hint) for hint in hints if isinstance(hint, ast.Subscript | ast.BinOp)]
    assert subscripts == [], "annotations that Python 3.6 cannot evaluate are written as strings"


def test_start_needs_the_standard_library_alone() -> None:
    tree = ast.parse((ROOT / "start.py").read_text(encoding="utf-8"))
    names = {alias.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    names |= {str(node.module).partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= sys.stdlib_module_names


def test_a_python_without_venv_is_told_which_package_to_install(machine: Machine, capsys, monkeypatch) -> None:
    monkeypatch.setattr(start.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else name)
    assert start.main(["lab"]) == 2
    assert "sudo apt install python3.12-venv" in capsys.readouterr().err
    assert not start.VENV.exists()


def test_a_full_disk_is_seen_before_anything_is_made(machine: Machine, capsys, monkeypatch) -> None:
    monkeypatch.setattr(start.shutil, "disk_usage", lambda path: SimpleNamespace(free=0.5e9))
    assert start.main(["lab"]) == 2
    assert "0.5 GB free" in capsys.readouterr().err and not start.VENV.exists()


def test_a_folder_that_cannot_be_written_says_so(machine: Machine, capsys) -> None:
    (machine.root / ".mt_cache").write_text("a file where a folder should be", encoding="utf-8")
    assert start.main(["lab"]) == 2
    assert f"cannot write into {machine.root}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [(["lob"], "there is no command 'lob'"), (["setup", "--gpu"], "setup does not know '--gpu'")],
)
def test_a_wrong_command_line_names_the_right_ones(machine: Machine, capsys, words, said) -> None:
    assert start.main(words) == 2
    assert said in capsys.readouterr().err and machine.steps == []


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_lists_every_command_and_sets_nothing_up(machine: Machine, capsys, words) -> None:
    assert start.main(words) == 0
    shown = capsys.readouterr().out
    assert all(f"start.py {command} " in shown for command in start.COMMANDS) and machine.steps == []


def test_the_makefile_has_every_command() -> None:
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [line.rstrip(":") for line in rules.splitlines() if line.endswith(":") and not line.startswith("help")]
    assert set(" ".join(targets).split()) == set(start.COMMANDS)


def test_the_makefile_hands_data_on_only_where_it_is_given() -> None:
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert 'start.py train $(if $(DATA),"$(DATA)") $(ARGS)' in rules


def test_here_installs_nothing_and_says_what_is_missing(machine: Machine, capsys, monkeypatch) -> None:
    assert start.main(["train", "--here", "--steps", "5"]) == 7
    command, env = machine.ran[0]
    assert command == [sys.executable, "-m", "mt_core.lab.train", "--steps", "5"]
    assert env["PYTHONPATH"].split(os.pathsep)[0] == str(machine.root) and machine.steps == []
    monkeypatch.setattr(start.importlib.util, "find_spec", lambda name: None if name == "nbval" else name)
    assert start.main(["test", "--here"]) == 2
    assert "has no nbval" in capsys.readouterr().err
    assert start.main(["setup", "--here"]) == 0
    assert [command[0] for command in machine.calls] == [sys.executable] and not start.VENV.exists()


def test_here_looks_for_everything_that_the_course_imports(machine: Machine, capsys, monkeypatch) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["lab"]]
    assert sorted(start.COURSE) == sorted(line.partition(">")[0] for line in lines)
    monkeypatch.setattr(start.importlib.util, "find_spec", lambda name: name if name == "torch" else None)
    assert start.main(["train", "--here"]) == 2
    assert "has no numpy, tokenizers" in capsys.readouterr().err and machine.ran == []


def test_commands_run_with_the_environments_own_programs_first(machine: Machine, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "elsewhere")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for command in ("lab", "test"):
        start.main([command])
    (lab, lab_env), (test, test_env) = machine.ran
    assert lab[:3] == [str(start.venv_python()), "-m", "jupyterlab"]
    assert f"--ServerApp.root_dir={machine.root / 'notebooks'}" in lab
    assert lab_env["PATH"].split(os.pathsep)[0] == str(start.venv_python().parent)
    assert "PYTHONHOME" not in lab_env and "OMP_NUM_THREADS" not in lab_env
    assert test_env["OMP_NUM_THREADS"] == "1"
    assert test[3:] == ["--nbval", "-n", "2", "--dist", "loadfile", "notebooks", "tests", "mt_core"]


def test_lab_opens_the_first_notebook_and_finds_the_kernel_of_the_course(machine: Machine) -> None:
    (machine.root / "notebooks").mkdir()
    (machine.root / "notebooks" / "00_start_here.ipynb").write_text("", encoding="utf-8")
    start.main(["lab"])
    command, env = machine.ran[0]
    assert "--LabApp.default_url=/lab/tree/00_start_here.ipynb" in command
    assert ("--allow-root" in command) == (hasattr(os, "geteuid") and os.geteuid() == 0)
    assert env["JUPYTER_PREFER_ENV_PATH"] == env["PYTHONUTF8"] == "1"


@pytest.mark.parametrize(
    ("system", "maxsize", "processor", "said"),
    [("win32", 2**31 - 1, "x86", "32-bit Python"), ("darwin", 2**63 - 1, "x86_64", "no packages for Intel Macs")],
)
def test_a_machine_without_packages_of_pytorch_is_told_so(
    machine: Machine, capsys, monkeypatch, system: str, maxsize: int, processor: str, said: str
) -> None:
    monkeypatch.setattr(start.sys, "platform", system, raising=False)
    monkeypatch.setattr(start.sys, "maxsize", maxsize, raising=False)
    monkeypatch.setattr(start.platform, "machine", lambda: processor)
    assert start.main(["lab"]) == 2
    assert said in capsys.readouterr().err and machine.steps == []


def test_pip_installs_into_the_environment_whatever_its_settings_say(monkeypatch) -> None:
    for name in ("PIP_USER", "PIP_TARGET", "PYTHONHOME"):
        monkeypatch.setenv(name, "elsewhere")
    code = "import os, sys; print(*(os.environ.get(n) for n in ('PIP_USER', 'PIP_TARGET')), file=sys.stderr)"
    assert start.call([sys.executable, "-c", code], ()) == (0, "0 None\n")


def test_named_tests_replace_the_default_ones_and_paths_count_from_the_caller(machine: Machine, monkeypatch) -> None:
    (machine.root / "tests").mkdir()
    monkeypatch.chdir(machine.root)
    assert start.command_line("test", Path("py"), ["tests::x"])[-2:] == ["loadfile", "tests::x"]
    monkeypatch.chdir(machine.root.parent)
    there = machine.root.parent / "text.txt"
    there.write_text("", encoding="utf-8")
    assert start.command_line("train", Path("py"), ["text.txt", "--lr"])[-2:] == [str(there.resolve()), "--lr"]


def test_two_set_ups_at_once_install_once(machine: Machine) -> None:
    real = machine.call

    def slow(command: list[str], inherit: tuple[int, ...]) -> tuple[int, str]:
        time.sleep(0.2)
        return real(command, inherit)

    start.call = slow  # the fixture puts the real one back
    threads = [threading.Thread(target=start.main, args=(["setup"],)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert machine.steps == ["venv", "pip"]


def test_a_killed_set_up_holds_the_lock_until_its_pip_has_ended(tmp_path: Path) -> None:
    if os.name == "nt":  # Windows has no inherited locks; there pip itself fails on files that are in use
        return
    lock, begun = tmp_path / "lock", tmp_path / "begun"
    child = f"import pathlib, time; pathlib.Path({str(begun)!r}).touch(); time.sleep(1.5)"
    code = (
        f"import start, sys; lock = open({str(lock)!r}, 'a'); start.wait_for_turn(lock);"
        f"start.call([sys.executable, '-c', {child!r}], (lock.fileno(),))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not begun.exists():
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    with lock.open("a", encoding="utf-8") as file:
        assert not start.try_lock(file)
        start.wait_for_turn(file)
        assert start.try_lock(file)
