"""Sets the course up and opens, tests or runs it, on Linux, macOS and Windows. Holds no course code.

    python start.py lab           set up, then open the course in JupyterLab
    python start.py test          set up, then run every test, the notebooks included
    python start.py test-browser  set up, then run every notebook in JupyterLab in a Chromium, Chrome or Edge
    python start.py train         set up, then run the main training job without a notebook
    python start.py bench         set up, then measure the loaders on this machine
    python start.py bench-train   set up, then measure training against the well-known character model
    python start.py labs          set up, then make nbgrader assignments of the exercises, in runs/labs
    python start.py site          set up, then build the course as static pages, in runs/site, and check them
    python start.py notebooks     set up, then run all stored notebooks again and store their outputs
    python start.py setup         set up only

Options of the set-up:
    --cpu               Linux: PyTorch's build without CUDA (0.2 GB to download instead of several)
    --here              use this Python and its packages as they are, a conda environment for instance;
                        only `setup --here` installs anything, into this Python
    --find-links DIR    set up without a network, from the packages in DIR alone

Everything else is passed on: `python start.py test -k store`, `python start.py lab --no-browser`.
The command runs in this folder, from wherever it is called.

The set-up makes a virtual environment in .venv, once; deleting that folder undoes it. A stamp written last
says what was installed from what, so that the next run installs nothing, takes up a changed pyproject.toml
or constraints.txt, and makes an interrupted set-up anew. `test`, `test-browser`, `labs` and `site` install more
than the others: the tools that tests need, other people's loaders and training loops, what drives a browser,
nbgrader, Sphinx.
"""
# The standard library alone, and nothing that Python 3.6 cannot read: it has to say that it is too old.

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "microtransformer.json"
LOCK = ROOT / ".mt_cache" / "setup.lock"
OLDEST, NEWEST = (3, 11), (3, 14)
LINUX = sys.platform.startswith("linux")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
NEEDED_GB = 2
COMMANDS = ("lab", "test", "test-browser", "train", "bench", "bench-train", "labs", "site", "notebooks", "setup")
LAB = ("lab",)  # extras in pyproject.toml
MORE = {  # the commands that need other extras
    "test": ("lab", "test", "peers", "clients", "tensorboard", "classes", "site"),
    "test-browser": ("lab", "test", "site", "browser"),
    "labs": ("lab", "classes"),
    "site": ("lab", "site"),
}
COURSE = tuple(  # what --here looks for
    "torch numpy tokenizers tiktoken safetensors tqdm tyro matplotlib ipywidgets jupyterlab".split()
)
NEEDS = {  # other commands need the course alone
    "test": (*COURSE, "pytest", "nbval", "xdist", "hypothesis"),
    "test-browser": (*COURSE, "pytest", "xdist", "hypothesis", "playwright", "axe_playwright_python"),
    "labs": (*COURSE, "nbgrader"),
    "site": ("nbformat", "sphinx", "myst_nb", "sphinx_book_theme"),
}
ADVICE = (  # words in pip's complaint, what they mean and what to do; the first that fits is shown
    (("No space left", "Errno 28"), "The disk is full: free about 2 GB (8 GB with CUDA) and run this again."),
    (
        ("Windows Long Path",),
        "Windows cuts paths of more than 260 characters: move this folder to a short path, C:\\course for instance.",
    ),
    (
        ("externally-managed",),
        "This Python belongs to the system: run this without --here, or in an environment of your own.",
    ),
    (
        ("Permission denied", "Errno 13", "Access is denied", "used by another process"),
        "A file could not be written: is this folder yours, and is no program still running from .venv?",
    ),
    (
        ("Failed to establish", "name resolution", "getaddrinfo", "timed out", "Max retries", "No matching"),
        "pip did not get a package. Is there a network? Behind a proxy set HTTPS_PROXY, for a mirror of PyPI set\n"
        "PIP_INDEX_URL. For a machine without a network, fetch the packages on one with the same system and Python:\n"
        '    python -m pip download -d wheels -c constraints.txt ".[lab]"\n'
        "carry the folder over, then: python start.py setup --find-links wheels",
    ),
)


class StartError(Exception):
    """The user has to do something first; the message says what."""


def main(arguments: "list[str]") -> int:
    """Set up if needed, then run one command; returns the exit status, 2 if nothing could be run."""
    try:
        command, options, extra = parse(arguments)
        if not command:
            print(__doc__)
            return 0
        check_python(sys.version_info[:2])
        if options.here:
            use_this_python(command, options)
        else:
            set_up(command, options)
        if command == "setup":
            print("Ready. Open the course: python start.py lab")
            return 0
        python = Path(sys.executable) if options.here else venv_python()
        return run(command_line(command, python, extra), environment(command, options.here))
    except StartError as stop:
        print(f"start.py: {stop}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("start.py: interrupted; the next run takes care of a half-made set-up", file=sys.stderr)
        return 130


def parse(arguments: "list[str]") -> "tuple[str, argparse.Namespace, list[str]]":
    """The command ("" for help), the options of the set-up, and what is passed on."""
    options = argparse.Namespace(cpu=False, here=False, find_links=None)
    rest, passed_on = list(arguments), []
    while rest:
        word = rest.pop(0)
        if word in ("--cpu", "--here"):
            setattr(options, word[2:], True)
        elif word == "--find-links" or word.startswith("--find-links="):
            folder = word.partition("=")[2] or (rest.pop(0) if rest else "")
            if not folder or not Path(folder).is_dir():
                raise StartError(f"--find-links needs a folder with packages, got {folder!r}")
            options.find_links = str(Path(folder).resolve())
        else:
            passed_on.append(word)
    if not passed_on or passed_on[0] in ("-h", "--help", "help"):
        return "", options, []
    command = passed_on.pop(0)
    if command not in COMMANDS:
        raise StartError(f"there is no command {command!r}, only {', '.join(COMMANDS)}. Try: python start.py lab")
    if command == "setup" and passed_on:
        raise StartError(f"setup does not know {passed_on[0]!r}, only --cpu, --here and --find-links DIR")
    return command, options, passed_on


def check_python(version: "tuple[int, ...]") -> None:
    """StartError on a Python that cannot run the course; name a better one if this machine has it."""
    got, oldest, newest = ("{}.{}".format(*v) for v in (version, OLDEST, NEWEST))
    if version < OLDEST:
        raise StartError(f"this is Python {got}, the course needs {oldest} to {newest}.\n{better_python()}")
    if sys.maxsize < 2**32:
        raise StartError("this is a 32-bit Python, PyTorch needs a 64-bit one: https://www.python.org/downloads/")
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        raise StartError("PyTorch has no packages for Intel Macs; on Apple silicon use an arm64 Python, not Rosetta")
    if version > NEWEST:
        print(f"Note: this is Python {got}, newer than {newest}, the last one tested; packages may be missing.")


def better_python() -> str:
    """How to run with a Python that the course is tested with: the newest one on this machine, or where to get one."""
    launcher = "py -{}.{}" if sys.platform == "win32" else "python{}.{}"
    names = (launcher.format(NEWEST[0], minor) for minor in range(NEWEST[1], OLDEST[1] - 1, -1))
    found = next((name for name in names if works(name)), None)
    return f"Run: {found} start.py lab" if found else "Get {}.{} from https://www.python.org/downloads/".format(*NEWEST)


def works(program: str) -> bool:
    """Whether `program`, with its options, is there and runs Python code."""
    command = [*program.split(), "-c", ""]
    with contextlib.suppress(OSError):
        return subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    return False


def use_this_python(command: str, options: argparse.Namespace) -> None:
    """`--here`: install into this interpreter if asked to, else only see that it has what `command` needs."""
    if command == "setup":
        install(Path(sys.executable), LAB, options, ())
        importlib.invalidate_caches()
    missing = [name for name in NEEDS.get(command, COURSE) if importlib.util.find_spec(name) is None]
    if missing:
        raise StartError(
            f"{sys.executable} has no {', '.join(missing)}. Either run without --here, or install first:\n"
            f"    {install_by_hand(MORE[command]) if command in MORE else 'python start.py setup --here'}\n"
            "with conda: conda env create -f environment.yml, then conda activate microtransformer"
        )


def install_by_hand(extras: "tuple[str, ...]") -> str:
    """The pip command that installs the course with these extras."""
    return f'python -m pip install -e ".[{",".join(extras)}]" -c constraints.txt'


def set_up(command: str, options: argparse.Namespace) -> None:
    """Make .venv hold what `command` needs by pyproject.toml and constraints.txt; done in a moment if it does."""
    options.extras = MORE.get(command, LAB)
    if is_ready(read_stamp(), options):
        return
    try:
        LOCK.parent.mkdir(exist_ok=True)
        lock = open(LOCK, "a", encoding="utf-8")  # stays there: removing a lock file is a race of its own
    except OSError as error:
        raise StartError(f"cannot write into {ROOT} ({error.strerror}): copy it to a folder of yours") from error
    with lock:
        wait_for_turn(lock)
        stamp = read_stamp()  # the one we waited for may have done it all
        if is_ready(stamp, options):
            return
        cpu = bool(options.cpu or stamp.get("cpu"))
        if not is_repairable(stamp, options):
            make_venv(cpu, lock.fileno())
        elif stamp:
            write_stamp({**stamp, "finished": False})
        print("Installing the course's packages: some minutes the first time.", flush=True)
        before = (extra for extra in extras_of(stamp) if extra not in options.extras)
        extras = (*options.extras, *before)  # never less than before
        install(venv_python(), extras, argparse.Namespace(cpu=cpu, find_links=options.find_links), (lock.fileno(),))
        made_for = {"python": python_version(), "root": str(ROOT), "cpu": cpu, "extras": extras}
        write_stamp({**made_for, "packages": packages(), "finished": True})


def is_ready(stamp: "dict[str, object]", options: argparse.Namespace) -> bool:
    """Whether .venv is finished, for this Python, folder and option, from the files as they are now."""
    enough = set(options.extras) <= set(extras_of(stamp))
    return enough and fits(stamp, options) and stamp.get("packages") == packages() and venv_python().exists()


def extras_of(stamp: "dict[str, object]") -> "tuple[str, ...]":
    """The extras that were installed; none if the stamp does not say."""
    extras = stamp.get("extras")
    return tuple(map(str, extras)) if isinstance(extras, list) else ()


def fits(stamp: "dict[str, object]", options: argparse.Namespace) -> bool:
    """Whether a finished set-up can be kept, if its packages are brought up to date."""
    made_for = (stamp.get("finished"), stamp.get("python"), stamp.get("root"))
    return made_for == (True, python_version(), str(ROOT)) and bool(stamp.get("cpu") or not options.cpu)


def is_repairable(stamp: "dict[str, object]", options: argparse.Namespace) -> bool:
    """Whether pip can work in the .venv that is there: not one cut off, moved, or without a working pip.

    A .venv that was not made here (no stamp) is kept if it works. Raises StartError if it has another Python.
    """
    if not VENV.exists() or (stamp and not fits(stamp, options)):
        return False
    probe = "import pip, sys; print('%d.%d' % sys.version_info[:2])"
    try:
        got = subprocess.run([str(venv_python()), "-c", probe], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return False
    version = got.stdout.decode().strip()
    if got.returncode == 0 and version != python_version():
        raise StartError(f".venv is yours, not ours, and has Python {version}: use that Python, or delete .venv")
    return got.returncode == 0


def make_venv(cpu: bool, lock: int) -> None:
    """Make .venv anew. The stamp comes first, unfinished: whatever stops us now, the next run starts over."""
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        raise StartError(
            "this Python cannot make virtual environments. On Debian and Ubuntu:\n"
            f"    sudo apt install python{python_version()}-venv\n"
            "elsewhere install the whole Python from https://www.python.org/downloads/"
        )
    if VENV.exists() and Path(sys.prefix).resolve() == VENV.resolve():
        raise StartError("the set-up has to be made anew and this Python is part of it: deactivate .venv, run again")
    free = shutil.disk_usage(str(ROOT)).free / 1e9
    if free < NEEDED_GB:
        raise StartError(f"{free:.1f} GB free at {ROOT}, the set-up takes {NEEDED_GB} (8 with CUDA): free some")
    print(f"Making {VENV} with Python {python_version()}.", flush=True)
    if LINUX and not cpu and not shutil.which("nvidia-smi"):
        print("Hint: no NVIDIA GPU found; with --cpu the download is several GB smaller (stop, and run it so).")
    try:
        if VENV.is_symlink() or VENV.is_file():
            VENV.unlink()
        elif VENV.exists():
            shutil.rmtree(str(VENV))
        VENV.mkdir()
        write_stamp({"finished": False, "cpu": cpu})
    except OSError as error:
        raise StartError(f"cannot make {VENV} anew ({error}): close what runs from it, or delete it") from error
    if call([sys.executable, "-m", "venv", str(VENV)], (lock,))[0]:
        raise StartError(f"python -m venv failed; on Debian: sudo apt install python{python_version()}-venv")


def install(python: Path, extras: "tuple[str, ...]", options: argparse.Namespace, inherit: "tuple[int, ...]") -> None:
    """Install the course, editable, and its pinned packages with pip; raise StartError with advice if that fails."""
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-warn-script-location"]
    if options.cpu and LINUX:  # elsewhere PyPI's build is that one
        command += ["--extra-index-url", CPU_INDEX]
    if options.find_links:
        command += ["--no-index", "--find-links", options.find_links]
    status, said = call([*command, "-e", f".[{','.join(extras)}]", "-c", "constraints.txt"], inherit)
    if status:
        advice = next((text for words, text in ADVICE if any(word in said for word in words)), "Its words are above.")
        if sys.version_info[:2] > NEWEST:
            advice += f"\nOr a package is not there for Python {python_version()} yet. {better_python()}"
        raise StartError(f"pip could not install the packages (exit status {status}).\n{advice}")


def call(command: "list[str]", inherit: "tuple[int, ...]") -> "tuple[int, str]":
    """Run `command` in ROOT; returns its exit status and what it wrote to stderr, which is shown as it comes.

    It inherits the lock: if we are killed, the next run waits for it to end before it touches .venv.
    """
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PIP_TARGET")}
    env["PIP_USER"] = "0"
    inherit = () if os.name == "nt" else inherit
    said = []
    with subprocess.Popen(
        command, cwd=str(ROOT), env=env, stderr=subprocess.PIPE, encoding="utf-8", errors="replace", pass_fds=inherit
    ) as process:
        for line in process.stderr or ():
            said.append(line)
            print(line, end="", file=sys.stderr, flush=True)
    return process.returncode, "".join(said)


def wait_for_turn(lock: "IO[str]") -> None:
    """Wait until no other start.py sets this folder up. The lock goes when the last process that holds it ends."""
    told = False
    while not try_lock(lock):
        if not told:
            print("Another set-up of this folder is under way; waiting for it to end.", flush=True)
        told = True
        time.sleep(0.3)


def try_lock(lock: "IO[str]") -> bool:
    """Lock the open file `lock` if it is free; True also where the file system knows no locks."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
    else:
        import fcntl

        with contextlib.suppress(OSError):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
    return True


def read_stamp() -> "dict[str, object]":
    """What the last set-up recorded; empty if there is none that can be read."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(stamp: "dict[str, object]") -> None:
    """Replace the stamp in one step."""
    unfinished = STAMP.with_suffix(".tmp")
    unfinished.write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(STAMP)


def packages() -> str:
    """A hash of the two files that say what is installed."""
    files = (ROOT / name for name in ("pyproject.toml", "constraints.txt"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def python_version() -> str:
    """The running Python as "3.11"."""
    return "{}.{}".format(*sys.version_info[:2])


def venv_python() -> Path:
    """The interpreter inside .venv."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def command_line(command: str, python: Path, extra: "list[str]") -> "list[str]":
    """The command to run in ROOT; a path among `extra` counts from where start.py was called."""
    if Path.cwd() != ROOT:
        extra = [str(Path(word).resolve()) if Path(word).exists() else word for word in extra]
    if command == "lab":
        words = ["-m", "jupyterlab", f"--ServerApp.root_dir={ROOT / 'notebooks'}"]
        if (ROOT / "notebooks" / "00_start_here.ipynb").exists():
            words.append("--LabApp.default_url=/lab/tree/00_start_here.ipynb")
        if hasattr(os, "geteuid") and os.geteuid() == 0:  # in a container; JupyterLab asks to have it said
            words.append("--allow-root")
    elif command == "test":  # one process a file, as a notebook's cells share a kernel
        words = ["-m", "pytest", "--nbval", "-n", "2", "--dist", "loadfile"]
        if not any((ROOT / word.split("::")[0]).exists() for word in extra):
            words += ["notebooks", "tests", "mt_core"]
    elif command == "test-browser":  # one process a notebook, as the tests of one share a page
        words = ["-m", "pytest", "-n", "2", "--dist", "loadgroup", "tests/browser"]
    else:
        words = {
            "train": ["-m", "mt_core.lab.train"],
            "bench": ["benchmarks/bench_loader.py"],
            "bench-train": ["benchmarks/bench_train.py"],
            "labs": ["tools/labs.py"],
            "site": ["tools/make_site.py"],
            "notebooks": ["tools/nbrun.py"],
        }[command]
    return [str(python), *words, *extra]


def environment(command: str, here: bool) -> "dict[str, str]":
    """The variables the command runs with: this environment's programs and kernels first, text in UTF-8."""
    env = dict(os.environ, JUPYTER_PREFER_ENV_PATH="1", PYTHONUTF8="1")
    env.pop("PYTHONHOME", None)
    if here:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), env.get("PYTHONPATH"))))
    else:
        env["VIRTUAL_ENV"] = str(VENV)
        env["PATH"] = os.pathsep.join((str(venv_python().parent), env.get("PATH", "")))
    if command in (*MORE, "notebooks"):  # on small tensors a second thread costs more than it brings
        env.setdefault("OMP_NUM_THREADS", "1")
    return env


def run(command: "list[str]", env: "dict[str, str]") -> int:
    """Run `command` in ROOT and return its exit status; where the system can, become that process."""
    sys.stdout.flush()
    os.chdir(str(ROOT))
    if os.name != "nt":
        os.execve(command[0], command, env)
    with subprocess.Popen(command, env=env) as process:
        while True:
            with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is the command's to answer
                return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
