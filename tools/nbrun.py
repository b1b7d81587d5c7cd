"""The one program that writes stored notebooks: fresh kernel, run from the top, clean, check.

    python tools/nbrun.py [NOTEBOOK ...]           run, clean and store (all of notebooks/ by default)
    python tools/nbrun.py --check [NOTEBOOK ...]   change nothing; say what a stored notebook breaks

Holds the rules for stored notebooks (`problems`), the frame of a numbered lesson (`frame_problems`) and
advice (`advice`); the tests import them from here. Does not compare outputs: `pytest --nbval` does.
"""

import argparse
import copy
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import ipykernel.kernelspec
import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
CELL_TIMEOUT = 300  # seconds
IGNORE = "# NBVAL_IGNORE_OUTPUT"
WIDGET = "application/vnd.jupyter.widget-view+json"
PICTURES = ("image/png", "image/jpeg", "image/svg+xml")
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
CELL_KEYS = ("alt", "jupyter", "mystnb", "nbgrader", "tags")
PICTURE_KEYS = ("alt", "height", "width")
MAX_LINES, MAX_SETUP_LINES, MAX_PROSE_WORDS, MAX_SECONDS = 12, 6, 80, 60
CELLS, WORDS, MIN_GUESSES = (25, 45), (900, 2000), 3
# Folders that exist on one machine only, wherever in a text they begin a path.
ABSOLUTE_PATH = re.compile(
    r"""(?<![\w.~/:-])/(?:home|Users|root|tmp|work|opt|usr|var|private|mnt|srv|content|workspace)/[^\s'"<>)]*"""
    r"""|(?<![\w/])[A-Za-z]:\\{1,2}[\w.][^\s'"<>)]*|file:///[^\s'"<>)]*"""
)
# What measures: its output differs from run to run.
MEASURES = re.compile(r"\b(?:perf_counter|process_time|monotonic|time\.time|getrusage|record|tune)\(")
FRAME_TOP = {"the question": r"\bquestion\b", "what the reader will be able to do": r"\b(able to|you can)\b"}
FRAME_TOP |= {"the minutes it takes": r"\bminutes\b", "what you need": r"\byou need\b"}
FRAME_END = {"the recall questions": r"\brecall\b", "what comes next": r"\bnext\b"}
# A name of a guess where a cell sets it, and where it hands it on to be compared.
GUESS_SET = re.compile(r"^(\w*guess\w*)\s*(?::.*?)?=", re.M)
GUESS_USED = re.compile(r"(?<!\w)(\w*guess\w*)[,)]")
# Minutes as a lesson's top and the stubs of its exercises say them.
MINUTES = re.compile(r"\bminutes\W+(\d+), with exercises (\d+)\b", re.I)
STUB_MINUTES = re.compile(r"Difficulty \d of \d, (\d+) minutes?\b")


class _ThisInterpreter(KernelSpecManager):
    """Every kernel name means the interpreter that runs this program, whatever specs a user has installed."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(resource_dir=ipykernel.kernelspec.RESOURCES, **ipykernel.kernelspec.get_kernel_dict())


class _Kernel(AsyncKernelManager):
    def _kernel_spec_manager_default(self) -> KernelSpecManager:
        return _ThisInterpreter()


def execute(nb: NotebookNode, folder: Path) -> None:
    """Run all cells of `nb` in place, from the top, in a fresh kernel working in `folder`.

    Raises CellExecutionError at the first cell that fails without the tag `raises-exception`.
    """
    for cell in code_cells(nb):
        cell.execution_count, cell.outputs = None, []
    with tempfile.TemporaryDirectory(prefix="mt-ipython-", ignore_cleanup_errors=True) as personal:
        # The surroundings of `pytest --nbval` (see conftest.py), so that a stored output is one it can repeat:
        # PYTEST_CURRENT_TEST keeps ipykernel from adding what subprocesses and C libraries print.
        env = {**os.environ, "OMP_NUM_THREADS": "1", "IPYTHONDIR": personal, "PYTEST_CURRENT_TEST": "nbrun"}
        env.pop("MPLBACKEND", None)
        client = NotebookClient(nb, kernel_manager_class=_Kernel, timeout=CELL_TIMEOUT, record_timing=False)
        client.store_widget_state = False
        client.execute(cwd=str(folder), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def clean(nb: NotebookNode) -> NotebookNode:
    """A copy of `nb` with only what belongs in git: no widget views, no local metadata, streams merged."""
    nb = copy.deepcopy(nb)
    own = {"microtransformer": nb.metadata["microtransformer"]} if "microtransformer" in nb.metadata else {}
    nb.metadata = nbformat.from_dict({**METADATA, **own})
    for cell in nb.cells:
        cell.metadata = _keep(cell.metadata, CELL_KEYS)
        if cell.cell_type == "code":
            cell.outputs = _clean_outputs(cell.outputs)
    return nb


def _keep(metadata: NotebookNode, keys: tuple[str, ...]) -> NotebookNode:
    return nbformat.from_dict({key: value for key, value in metadata.items() if key in keys})


def _clean_outputs(outputs: list[NotebookNode]) -> list[NotebookNode]:
    kept: list[NotebookNode] = []
    for out in outputs:
        if out.output_type == "stream":
            if kept and kept[-1].output_type == "stream" and kept[-1].name == out.name:
                kept[-1].text += out.text
                continue
        elif out.output_type == "error":  # the traceback names files of this machine; nbval does not read it
            out.traceback = [f"{out.ename}: {out.evalue}"]
        else:
            if WIDGET in out.data and len(out.data) > 2:  # picture and words stand in for the live widget
                del out.data[WIDGET]
            out.metadata = nbformat.from_dict(
                {mime: _keep(out.metadata[mime], PICTURE_KEYS) for mime in PICTURES if mime in out.metadata}
            )
        kept.append(out)
    return kept


def problems(nb: NotebookNode) -> Iterator[str]:
    """What a stored notebook may not have; each line names the cell (counted from 0) and what to do."""
    try:
        nbformat.validate(nb)
    except nbformat.ValidationError as error:
        yield f"not a valid notebook: {str(error).splitlines()[0]}"
        return
    if clean(nb) != nb:
        yield "holds widget views, split streams or local metadata: store it with tools/nbrun.py"
    expected, cells = 0, [(i, cell) for i, cell in enumerate(nb.cells) if cell.cell_type == "code"]
    for position, (i, cell) in enumerate(cells):
        expected += 1
        if cell.execution_count != expected:
            yield f"cell {i}: execution count {cell.execution_count}, expected {expected}: run it from the top"
        following = cells[position + 1][1] if position + 1 < len(cells) else None
        for problem in _source_problems(cell, following):
            yield f"cell {i}: {problem}"
        if cell.outputs and not is_measured(cell) and (found := MEASURES.search(cell.source)):
            yield f"cell {i}: {found.group()}…) measures, but its output is compared: mark it with '{IGNORE}'"
        for out in cell.outputs:
            for problem in _output_problems(out, cell.metadata.get("tags", [])):
                yield f"cell {i}: {problem}"
    ignored = sum(is_measured(cell) for _, cell in cells)
    if ignored and ignored * 3 >= len(cells):
        yield f"{ignored} of {len(cells)} code cells are not compared, less than a third may be: make them exact"


def _source_problems(cell: NotebookNode, following: NotebookNode | None) -> Iterator[str]:
    source = cell.source.strip()
    if not source:
        yield "empty code cell: remove it"
    if source.endswith(";"):
        yield "trailing ';' does not silence a result under nbval: end the cell with show(...)"
    if re.search(r"^\s*%%?time(it)?\b", source, re.M):
        yield "a timing magic prints another figure each time: measure, then assert what must hold"
    for line in source.splitlines():
        if "NBVAL_" in line and line.strip() != IGNORE:
            yield f"{line.strip()!r}: the only marker is '{IGNORE}', alone on its line"
    for tag in cell.metadata.get("tags", []):
        if tag.startswith("nbval-"):
            yield f"tag {tag!r} keeps the cell from being compared: remove it"
    if is_measured(cell) and (following is None or is_measured(following)):
        yield "a measured cell needs an exact cell right after it that asserts and prints what must hold"
    used = GUESS_USED.findall(re.sub("#.*", "", source))
    for name in sorted({*GUESS_SET.findall(source)}.intersection(used)):
        yield f"sets {name!r} and compares it, so a second run forgets the answer: set it earlier, or use another name"
    if path := ABSOLUTE_PATH.search(source):
        yield f"absolute path {path.group()!r} in the code: use a path relative to the notebook"


def _output_problems(out: NotebookNode, tags: list[str]) -> Iterator[str]:
    data = out.get("data", {})
    words = "".join(data.get("text/plain", ""))
    texts = [
        out.get("text", ""),
        out.get("evalue", ""),
        *(t for m, t in data.items() if m.startswith("text/")),
    ]
    if out.get("name") == "stderr":
        yield f"stderr output {out.text[:60]!r}: mend the cause of the warning"
    if out.output_type == "error" and "raises-exception" not in tags:
        yield f"{out.ename}: mend it, or tag the cell 'raises-exception' if the error is the lesson"
    if WIDGET in data:
        yield "widget without a picture and words to stand in for it: use a playground (or no progress bar)"
    if any(mime in data for mime in PICTURES) and re.match(r"\s*($|<.*>$)", words):
        yield "picture without words: end the cell with show(figure, words)"
    for text in map("".join, texts):
        if path := ABSOLUTE_PATH.search(text):
            yield f"absolute path {path.group()!r} in the output: print names, not places"
        if re.search(r"\bat 0x[0-9a-fA-F]{6,}", text):
            yield "an object's address in the output: print what it holds"
        if "\r" in text.replace("\r\n", "\n"):
            yield "carriage return in the output (a progress bar?): turn it off or use tqdm.auto"


def frame_problems(nb: NotebookNode) -> Iterator[str]:
    """What a numbered lesson must have: its frame, its measure and its predictions."""
    prose = [prose_of(cell) for cell in nb.cells if cell.cell_type == "markdown"]
    for place, parts, text in (("top", FRAME_TOP, prose[:3]), ("end", FRAME_END, prose[-4:])):
        for name, pattern in parts.items():
            if not re.search(pattern, " ".join(text), re.I):
                yield f"the {place} does not say {name} (looked for {pattern!r} in its markdown)"
    seconds = nb.metadata.get("microtransformer", {}).get("seconds")
    if not isinstance(seconds, int) or seconds > MAX_SECONDS:
        yield f"the stored run took {seconds} s, a lesson takes at most {MAX_SECONDS}: shorten it, or store it again"
    words = sum(map(word_count, prose))
    for name, got, (low, high) in (("cells", len(nb.cells), CELLS), ("words of prose", words, WORDS)):
        if not low <= got <= high:
            yield f"{got} {name}, a lesson has {low} to {high}"
    code = code_cells(nb)
    if code and line_count(code[0]) > MAX_SETUP_LINES:
        yield f"the set-up cell has {line_count(code[0])} lines, at most {MAX_SETUP_LINES}: move the rest out"
    if stated := MINUTES.search(" ".join(prose[:3])):
        alone, with_exercises = map(int, stated.groups())
        needed = alone + sum(int(minutes) for cell in code for minutes in STUB_MINUTES.findall(cell.source))
        if with_exercises != needed:
            yield f"the top says {with_exercises} minutes with exercises; with those of the stubs it is {needed}"
    guesses = sum(bool(GUESS_SET.search(cell.source)) for cell in code)
    if guesses < MIN_GUESSES:
        yield f"{guesses} predictions (`guess = ...`), a lesson has at least {MIN_GUESSES}"


def advice(nb: NotebookNode) -> Iterator[str]:
    """What is worth a second look but fails nothing: long cells, long prose between code."""
    words = 0
    for i, cell in enumerate(nb.cells):
        if cell.cell_type == "markdown":
            words += word_count(prose_of(cell))
            continue
        if words > MAX_PROSE_WORDS:
            yield f"cell {i}: {words} words of prose before it, {MAX_PROSE_WORDS} read well"
        words = 0
        if cell.cell_type == "code" and line_count(cell) > MAX_LINES:
            yield f"cell {i}: {line_count(cell)} lines, {MAX_LINES} read well"


def code_cells(nb: NotebookNode) -> list[NotebookNode]:
    """The code cells, in order."""
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def is_measured(cell: NotebookNode) -> bool:
    """Whether nbval is told not to compare the cell's output."""
    return any(line.strip() == IGNORE for line in cell.source.splitlines())


def line_count(cell: NotebookNode) -> int:
    """Lines a reader reads: neither blank ones nor the marker."""
    return sum(bool(line.strip()) and line.strip() != IGNORE for line in cell.source.splitlines())


def prose_of(cell: NotebookNode) -> str:
    """A markdown cell's text without code blocks, HTML tags and link targets."""
    return re.sub(r"```.*?```|<[^>]*>|\]\([^)]*\)", " ", cell.source, flags=re.S)


def word_count(text: str) -> int:
    """Words in `text`; a formula counts by its names and numbers."""
    return len(re.findall(r"\w+(?:['’.-]\w+)*", text))


def is_lesson(path: Path) -> bool:
    """Numbered 01 and up: the notebooks that keep the frame."""
    return bool(re.match(r"\d\d_", path.name)) and not path.name.startswith("00_")


def all_problems(path: Path) -> list[str]:
    """Every problem of the stored notebook at `path`, its frame included if it is a lesson."""
    nb = nbformat.read(path, as_version=4)
    return [*problems(nb), *(frame_problems(nb) if is_lesson(path) else ())]


def store(path: Path) -> float:
    """Run the notebook at `path` and replace it by its clean, executed form; returns the seconds it took.

    A notebook that fails stays as it was.
    """
    nb, start = nbformat.read(path, as_version=4), time.perf_counter()
    execute(nb, path.parent)
    nb.metadata["microtransformer"] = {"seconds": math.ceil(time.perf_counter() - start)}
    text = nbformat.writes(clean(nb)).rstrip("\n") + "\n"
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text, encoding="utf-8", newline="\n")
    unfinished.replace(path)
    return time.perf_counter() - start


def main(arguments: list[str]) -> int:
    """Run or check the notebooks; returns 1 if any has a problem."""
    parser = argparse.ArgumentParser(description="Run stored notebooks from the top, or check them.")
    parser.add_argument("--check", action="store_true", help="change nothing, only say what is wrong")
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of notebooks/")
    chosen = parser.parse_args(arguments)
    failed = False
    for path in chosen.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb")):
        try:
            seconds = None if chosen.check else store(path)
        except CellExecutionError as error:
            print(f"{path}: a cell failed, nothing was stored\n{error}")
            failed = True
            continue
        found = all_problems(path)
        failed = failed or bool(found)
        print(f"{path}: {'checked' if seconds is None else f'{seconds:.0f} s'}, {len(found) or 'no'} problems")
        for line in found:
            print(f"  problem: {line}")
        for line in advice(nbformat.read(path, as_version=4)):
            print(f"  advice: {line}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
