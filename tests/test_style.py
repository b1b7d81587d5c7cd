"""The rules a program can check, over the whole repository: style, types, imports, and what is written in it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# The way data flows. A module imports only from those before it; a name that is no file yet does no harm.
ORDER = (
    "tokenizer bulk files corpus store locks units shards assemble prepare cache packing windows order augment "
    "text_index on_the_fly bpe_dropout augmented_rows dataset mixing workers token_loader loaders prefetch model "
    "training distributed"
).split()
DATA_PATH = set(ORDER[: ORDER.index("model")])


def run(*command: str) -> str:
    """What `python -m command` says, in the repository; empty if all is well."""
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, encoding="utf-8")
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    assert run("-m", "ruff", "check", "--no-cache", "--output-format", "concise", ".") == ""


def test_everything_is_formatted() -> None:
    assert run("-m", "ruff", "format", "--no-cache", "--check", ".") == ""


def test_the_types_fit() -> None:
    assert run("-m", "mypy") == ""


def test_importing_the_package_loads_neither_matplotlib_nor_widgets() -> None:
    code = "import mt_core, sys; assert not {'matplotlib', 'ipywidgets', 'IPython'} & set(sys.modules)"
    assert run("-c", code) == ""


# Imports follow the data.


def imports_of(source: str, module: str) -> set[str]:
    """The modules of mt_core that `source` imports anywhere, functions included, by dotted name below mt_core.

    `module` is the dotted name of the file below mt_core, to resolve relative imports.
    """
    package = ["mt_core", *module.split(".")[:-1]]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            whole = ".".join(filter(None, (base, node.module)))
            found |= {f"{whole}.{alias.name}" for alias in node.names} | {whole}
    return {name.removeprefix("mt_core.") for name in found if name.startswith("mt_core.")}


def import_problems(module: str, source: str) -> list[str]:
    """What a core module may not import: the lab, or a module that stands after it."""
    imported = {name.partition(".")[0] for name in imports_of(source, module)}
    problems = [f"{module} imports the lab, which depends on the core"] if "lab" in imported else []
    own = module.partition(".")[0]
    if own in ORDER:
        later = imported & set(ORDER[ORDER.index(own) + 1 :])
        problems += [f"{module} imports {name}, which stands after it" for name in sorted(later)]
    if own == "model":
        problems += [f"model imports {name} of the data path" for name in sorted(imported & DATA_PATH)]
    return problems


def core_modules() -> list[Path]:
    return [path for path in sorted((ROOT / "mt_core").rglob("*.py")) if "lab" not in path.relative_to(ROOT).parts]


@pytest.mark.parametrize("path", core_modules(), ids=lambda path: path.name)
def test_imports_follow_the_data(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT / "mt_core").with_suffix("").parts)
    assert import_problems(module, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source", "problem"),
    [
        ("store", "import mt_core.lab.plots", "store imports the lab"),
        ("store", "from mt_core import lab", "store imports the lab"),
        ("store", "def f():\n    from .lab.stories import x", "store imports the lab"),
        ("__init__", "from mt_core.lab import plots", "__init__ imports the lab"),
        ("store", "from mt_core.dataset import TransformerDataset", "store imports dataset"),
        ("store", "from . import loaders", "store imports loaders"),
        ("loaders", "from .distributed import rank", "loaders imports distributed"),
        ("model", "from mt_core.tokenizer import MicroTransformerTokenizer", "model imports tokenizer"),
    ],
)
def test_a_wrong_import_is_seen(module: str, source: str, problem: str) -> None:
    assert [line for line in import_problems(module, source) if line.startswith(problem)]


def test_a_right_import_is_not_reported() -> None:
    assert import_problems("dataset", "from mt_core.store import TokenStore\nfrom .windows import rows") == []
    assert import_problems("__init__", "from mt_core.training import fit\nfrom mt_core.model import x") == []


# What is written in the repository.

TEXT = {".py", ".md", ".ipynb", ".toml", ".txt", ".yml", ".yaml", ".cfg", ".json", ".sh", ""}
NOT_OURS = {"data", "LICENSE"}  # a corpus may say what it likes
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.~/:-])/(?:(?:root|work|opt)(?:/|\b)|(?:home|Users)/\w)|[A-Za-z]:\\Users",
    "a package mirror": r"(?i)\bpypi[-_.]?mirror|\bdevpi\b|(?:index[-_]url|find[-_]links)[ =:]+['\"]?(?:file:|/)",
    "an issue number": r"(?i)(?<![\w/])(?:issue|ticket|bug|pr|pull request) ?#?\d+\b|(?<![\w&#/\"'])#\d{1,5}\b",
    "an unfinished mark": r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX|HA" + r"CK|WI" + r"P)\b",
}


def tracked() -> list[Path]:
    """Text files that git has or would take, this one and test data excepted."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive: everything that is not hidden or built
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*")]
        names = [name for name in names if not any(part[0] in "._" for part in Path(name).parts)]
    paths = [Path(name) for name in names if name and (ROOT / name).is_file()]
    return [p for p in paths if p.suffix in TEXT and p.parts[0] not in NOT_OURS and p.name != "test_style.py"]


def text_problems(text: str) -> list[str]:
    """What a text of this repository may not contain, with its line number."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if '"image/' in line:  # a picture in a notebook is letters and digits, nothing written
            continue
        for what, pattern in FORBIDDEN.items():
            if match := re.search(pattern, line):
                found.append(f"line {number}: {what}: {match.group()!r}")
    return found


def test_the_repository_speaks_only_of_itself() -> None:
    found = []
    for path in tracked():
        if path.name == "test_notebooks_contract.py" or path == Path("tools/nbrun.py"):
            continue  # they hold the patterns of such paths, and examples
        found += [f"{path}: {line}" for line in text_problems((ROOT / path).read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "cd /root/x",
        "see /work/main",
        "from /opt/wheels",
        "in /home/someone/course",
        r"C:\Users\someone",
        "find-links = file:///srv",
        "fixes #12",
        "see issue 12",
        "TO" + "DO: later",
        "# FIX" + "ME",
    ],
)
def test_each_forbidden_text_is_seen(line: str) -> None:
    assert len(text_problems("fine\n" + line)) >= 1


@pytest.mark.parametrize(
    "line",
    ["frameworks/opt", "https://example.org/work/x", "text/plain", "#### 1. Title", "&#39;", "color #101010ab", "a/b"],
)
def test_harmless_text_is_not(line: str) -> None:
    assert text_problems(line) == []


# Text is read and written the same way on every system.


def encoding_problems(source: str) -> list[str]:
    """Calls that open text without naming its encoding."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = {keyword.arg for keyword in node.keywords}
        if name in ("read_text", "write_text") and "encoding" not in given:
            found.append(f"line {node.lineno}: {name} without encoding")
        if name == "open" and isinstance(node.func, ast.Name) and "encoding" not in given:
            mode = (
                node.args[1] if len(node.args) > 1 else next((k.value for k in node.keywords if k.arg == "mode"), None)
            )
            if mode is None or (isinstance(mode, ast.Constant) and "b" not in str(mode.value)):
                found.append(f"line {node.lineno}: open without encoding")
    return found


def test_text_files_are_opened_with_their_encoding() -> None:
    found = []
    for path in tracked():
        if path.suffix == ".py":
            found += [f"{path}: {line}" for line in encoding_problems((ROOT / path).read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source", ["p.read_text()", "p.write_text('')", "open(p)", "open(p, 'w')", "open(p, mode='a')"]
)
def test_a_missing_encoding_is_seen(source: str) -> None:
    assert encoding_problems(source) and not encoding_problems("open(p, 'rb')\np.read_text(encoding='utf-8')")
