"""Stored notebooks keep their contract, and each of its rules can fail. Runs no cell: `pytest --nbval` does."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from helpers import load_tool
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]


nbrun = load_tool("nbrun")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_stored_notebook_keeps_the_contract(path: Path) -> None:
    found = nbrun.all_problems(path)
    assert not found, "\n  ".join([f"{path.name}:", *found])


def test_every_notebook_is_numbered_and_no_number_comes_twice() -> None:
    numbers = [path.name[:3] for path in NOTEBOOKS if path.stem not in ("gallery", "glossary")]
    assert all(number[:2].isdigit() and number[2] == "_" for number in numbers), numbers
    assert len(set(numbers)) == len(numbers), numbers


def code(source: str, *outputs: nbformat.NotebookNode, tags: tuple[str, ...] = ()) -> nbformat.NotebookNode:
    cell = new_code_cell(source, outputs=list(outputs))
    if tags:
        cell.metadata["tags"] = list(tags)
    return cell


def text(words: str, name: str = "stdout") -> nbformat.NotebookNode:
    return new_output("stream", name=name, text=words)


def shown(**data: str) -> nbformat.NotebookNode:
    return new_output("display_data", data={mime.replace("_", "/"): value for mime, value in data.items()})


def notebook(*cells: nbformat.NotebookNode) -> nbformat.NotebookNode:
    nb = new_notebook(metadata=nbrun.METADATA, cells=list(cells))
    for count, cell in enumerate(nbrun.code_cells(nb), 1):
        cell.execution_count = count
    for number, cell in enumerate(nb.cells):
        cell.id = f"cell-{number}"
    return nb


def found(nb: nbformat.NotebookNode) -> str:
    return "\n".join(nbrun.problems(nb))


def test_a_good_notebook_has_no_problems() -> None:
    nb = notebook(
        new_markdown_cell("words"),
        code("print(1)", text("1\n")),
        code("# NBVAL_IGNORE_OUTPUT\nclock()", text("0.5 s\n")),
        code("print(faster)", text("True\n")),
        code("show(fig, 'a line')", shown(text_plain="figure: a line", image_png="AAAA")),
        code("1 / 0", new_output("error", ename="E", evalue="e", traceback=["E: e"]), tags=("raises-exception",)),
    )
    assert found(nb) == ""


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        (code("warn()", text("careful\n", "stderr")), "stderr output"),
        (code("1 / 0", new_output("error", ename="ZeroDivisionError", evalue="", traceback=[])), "ZeroDivisionError"),
        (code("plot();"), "trailing ';'"),
        (code("%%time\nf()"), "timing magic"),
        (code("x = 1\n%timeit f()"), "timing magic"),
        (code(""), "empty code cell"),
        (code("# NBVAL_SKIP\nf()"), "the only marker"),
        (code("# NBVAL_IGNORE_OUTPUT: a time\nf()"), "the only marker"),
        (code("f()", tags=("nbval-ignore-output",)), "tag 'nbval-ignore-output'"),
        (code("# NBVAL_IGNORE_OUTPUT\nf()"), "needs an exact cell right after it"),
        (code("open('/home/someone/text.txt')"), "absolute path '/home/someone/text.txt'"),
        (code("f", text("saved to /tmp/x\n")), "absolute path '/tmp/x'"),
        (code("f", text("saved to C:\\Users\\someone\n")), "absolute path 'C:\\\\Users"),
        (code("f", shown(text_html="<a href='file:///x'>")), "absolute path 'file:///x"),
        (code("f", shown(text_plain="<Figure size 640x480 with 1 Axes>", image_png="AAAA")), "picture without words"),
        (code("f", shown(image_png="AAAA")), "picture without words"),
        (code("f", shown(**{nbrun.WIDGET: "{}", "text_plain": "0%"})), "widget without a picture"),
        (code("f", text("10%\r20%\r")), "carriage return"),
        (code("f", shown(text_plain="<object at 0x7f3d3dda7240>")), "object's address"),
        (code("compare_guess(guess, 3)\nguess = None  # your guess: and then?"), "sets 'guess' and compares it"),
        (code("near_guess: int | None = None\npredict(a=1, b=near_guess)"), "sets 'near_guess' and compares it"),
        (code("compare_guess(\n    guess, 3\n)\nguess = None"), "sets 'guess' and compares it"),
    ],
)
def test_each_rule_for_a_cell_can_fail(cell: nbformat.NotebookNode, problem: str) -> None:
    good = code("print(1)", text("1\n"))
    problems = found(notebook(good, cell))
    assert problem in problems and "cell 1: " in problems and "cell 0: " not in problems


@pytest.mark.parametrize(
    "source",
    [
        "compare_guess(guess, 3)\nnext_guess = None  # your guess, as in compare(next_guess, 4)",
        "if guess == 3:\n    compare_guess(guess, right)",
        "compare_guess(\n    guess=guess,\n    answer=3,\n)",
    ],
)
def test_a_cell_may_compare_one_guess_and_ask_for_another(source: str) -> None:
    assert found(notebook(code(source))) == ""


@pytest.mark.parametrize(
    "harmless",
    [
        "and/or",
        "https://example.org/home/page",
        "loss/var/ratio",
        "1/2",
        "a ratio of a:b",
        "data/stories.jsonl",
        "../data/x",
    ],
)
def test_what_only_looks_like_a_path_passes(harmless: str) -> None:
    assert found(notebook(code("f", text(harmless + "\n")))) == ""


def unrun(nb: nbformat.NotebookNode) -> None:
    nb.cells[0].execution_count = None


def out_of_order(nb: nbformat.NotebookNode) -> None:
    nb.cells[0].execution_count, nb.cells[1].execution_count = 2, 1


def local_metadata(nb: nbformat.NotebookNode) -> None:
    nb.metadata["vscode"] = {"interpreter": 1}


def local_cell_metadata(nb: nbformat.NotebookNode) -> None:
    nb.cells[0].metadata["ExecuteTime"] = 1


def widget_state(nb: nbformat.NotebookNode) -> None:
    nb.metadata["widgets"] = {}


def split_stream(nb: nbformat.NotebookNode) -> None:
    nb.cells[0].outputs.append(text("2\n"))


def full_traceback(nb: nbformat.NotebookNode) -> None:
    error = new_output("error", ename="E", evalue="e", traceback=["File x, line 1", "E: e"])
    nb.cells[0] |= {"outputs": [error], "metadata": nbformat.from_dict({"tags": ["raises-exception"]})}


def same_id(nb: nbformat.NotebookNode) -> None:
    nb.cells[0].id = "not an id"


def mostly_ignored(nb: nbformat.NotebookNode) -> None:
    nb.cells[0].source = nbrun.IGNORE


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (unrun, "execution count None, expected 1"),
        (out_of_order, "execution count 2, expected 1"),
        (local_metadata, "local metadata"),
        (local_cell_metadata, "local metadata"),
        (widget_state, "local metadata"),
        (split_stream, "split streams"),
        (full_traceback, "store it with tools/nbrun.py"),
        (same_id, "not a valid notebook"),
        (mostly_ignored, "1 of 3 code cells are not compared"),
    ],
)
def test_each_rule_for_a_notebook_can_fail(damage: Callable[[nbformat.NotebookNode], None], problem: str) -> None:
    nb = notebook(*(code(f"print({i})", text(f"{i}\n")) for i in range(3)))
    assert found(nb) == ""
    damage(nb)
    assert problem in found(nb)


def test_what_clean_removes_is_what_the_rules_reject() -> None:
    nb = notebook(*(code(f"print({i})", text(f"{i}\n")) for i in range(3)))
    widget = shown(**{nbrun.WIDGET: "{}", "text_plain": "figure: words", "image_png": "AAAA"})
    widget.metadata = nbformat.from_dict({"image/png": {"alt": "words", "needs_background": "light"}})
    nb.cells[0].outputs = [widget]
    for damage in (local_metadata, local_cell_metadata, widget_state):
        damage(nb)
    cleaned = nbrun.clean(nb)
    assert found(nb) and found(cleaned) == ""
    assert cleaned.cells[0].outputs[0].metadata == {"image/png": {"alt": "words"}}
    assert "vscode" in nb.metadata, "clean works on a copy"


def lesson(
    top: str = "The question. After it you will be able to count. 10 minutes. What you need: nothing.",
    end: str = "Five recall questions. What comes next.",
    middle: int = 30,
    words: int = 1000,
    setup: int = 6,
    guesses: int = 3,
    seconds: int | None = 60,
    stubs: tuple[int, ...] = (),
) -> nbformat.NotebookNode:
    first = code("\n".join(f"import m{i}" for i in range(setup)))
    predictions = [code("guess = None") for _ in range(guesses)]
    between = [new_markdown_cell("word " * (words // middle)) for _ in range(middle)]
    exercises = [code(f'"""Make. Difficulty 1 of 3, {minutes} minutes."""', tags=("exercise",)) for minutes in stubs]
    nb = notebook(new_markdown_cell(top), first, *predictions, *between, *exercises, new_markdown_cell(end))
    if seconds is not None:
        nb.metadata["microtransformer"] = nbformat.from_dict({"seconds": seconds})
    return nb


TIMED = "The question. You can count. **Minutes:** 10, with exercises 35. **You need** nothing."


def test_a_lesson_with_its_whole_frame_has_no_problems() -> None:
    assert list(nbrun.frame_problems(lesson())) == []
    assert list(nbrun.frame_problems(lesson(top=TIMED, stubs=(5, 20)))) == []


@pytest.mark.parametrize(
    ("damaged", "problem"),
    [
        (lesson(top="You can count. 10 minutes. What you need: nothing."), "the top does not say the question"),
        (lesson(top="The question. 10 minutes. What you need: nothing."), "able to do"),
        (lesson(top="The question. You can count. What you need: nothing."), "the minutes"),
        (lesson(top="The question. You can count. 10 minutes."), "what you need"),
        (lesson(end="What comes next."), "the recall questions"),
        (lesson(end="Five to recall."), "what comes next"),
        (lesson(middle=10), "16 cells, a lesson has 25 to 45"),
        (lesson(middle=50), "56 cells, a lesson has 25 to 45"),
        (lesson(words=600), "words of prose, a lesson has 900"),
        (lesson(words=2400), "words of prose, a lesson has 900"),
        (lesson(setup=7), "the set-up cell has 7 lines"),
        (lesson(guesses=2), "2 predictions"),
        (lesson(seconds=61), "the stored run took 61 s, a lesson takes at most 60"),
        (lesson(seconds=None), "the stored run took None s"),
        (lesson(top=TIMED, stubs=(5, 10)), "says 35 minutes with exercises; with those of the stubs it is 25"),
        (lesson(top=TIMED), "says 35 minutes with exercises; with those of the stubs it is 10"),
    ],
)
def test_each_rule_for_a_lesson_can_fail(damaged: nbformat.NotebookNode, problem: str) -> None:
    assert [line for line in nbrun.frame_problems(damaged) if problem in line]


def test_every_lesson_says_its_minutes_with_exercises() -> None:
    tops = {path.name: nbformat.read(path, as_version=4).cells[0].source for path in NOTEBOOKS if nbrun.is_lesson(path)}
    silent = [name for name, top in tops.items() if not nbrun.MINUTES.search(top)]
    assert silent == [], "a top in other words is not checked: **Minutes:** 45, with exercises 80."


def test_only_numbered_lessons_need_the_frame_and_long_cells_are_advice(tmp_path: Path) -> None:
    assert nbrun.is_lesson(Path("01_text.ipynb")) and nbrun.is_lesson(Path("12_x.ipynb"))
    assert not nbrun.is_lesson(Path("00_start_here.ipynb")) and not nbrun.is_lesson(Path("scratch.ipynb"))
    long = notebook(new_markdown_cell("word " * 81), code("\n".join(f"a = {i}" for i in range(13))))
    assert [line.partition(":")[2].split(",")[0] for line in nbrun.advice(long)] == [
        " 81 words of prose before it",
        " 13 lines",
    ]
    for name, fine in (("00_start_here.ipynb", True), ("01_text.ipynb", False)):
        nbformat.write(notebook(code("print(1)", text("1\n"))), tmp_path / name)
        assert (nbrun.all_problems(tmp_path / name) == []) is fine


def test_storing_runs_in_a_fresh_kernel_of_this_interpreter_and_keeps_a_failing_file(tmp_path, monkeypatch) -> None:
    shadow = tmp_path / "jupyter" / "kernels" / "python3"
    shadow.mkdir(parents=True)
    (shadow / "kernel.json").write_text('{"argv": ["no-such-program"], "display_name": "x"}', encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(shadow.parents[1]))
    path = tmp_path / "00_x.ipynb"
    nbformat.write(notebook(code("import sys\nprint(len(sys.executable))"), code("print(2)")), path)
    assert nbrun.main([str(path)]) == 0
    stored = path.read_bytes()
    assert f"{len(sys.executable)}\\n".encode() in stored and b"\r" not in stored
    assert nbrun.main(["--check", str(path)]) == 0
    broken = nbformat.reads(stored.decode(), as_version=4)
    broken.cells[1].source = "1 / 0"
    nbformat.write(broken, path)
    before = path.read_bytes()
    assert nbrun.main([str(path)]) == 1
    assert path.read_bytes() == before


@pytest.mark.parametrize("source", ["print(time.perf_counter())", "print(record(loader, step).words())", "tune(make)"])
def test_a_cell_that_measures_is_not_compared(source: str) -> None:
    exact = notebook(code(source, text("1\n")), code("print(1)", text("1\n")), *(code("print(2)") for _ in range(3)))
    assert "measures, but its output is compared" in found(exact)
    exact.cells[0].source = f"{nbrun.IGNORE}\n{source}"
    assert found(exact) == ""
    silent = notebook(code("def seconds():\n    return time.perf_counter()"))
    assert found(silent) == "", "a function that will measure is not a measurement"


def test_links_between_notebooks_lead_somewhere() -> None:
    for path in NOTEBOOKS:
        prose = " ".join(
            cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"
        )
        links = re.findall(r"\]\((?!https?:|#)([^)#]+)", prose)
        assert not [link for link in links if not (path.parent / link).is_file()], path.name


def test_the_glossary_is_in_order_and_says_each_word_once() -> None:
    text = "".join(cell.source for cell in nbformat.read(ROOT / "notebooks" / "glossary.ipynb", as_version=4).cells)
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", text, re.M)
    assert len(words) > 50 and words == sorted(set(words), key=lambda word: (word.lower().lstrip("-"), word))
