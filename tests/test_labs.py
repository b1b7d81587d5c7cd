"""Labs for a class: what the builder makes of cells, and a real nbgrader that collects, grades and explains."""

import ast
import copy
import html
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
import pytest
from helpers import load_tool
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mt_core.lab import bugs, checks

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
GUIDE = (ROOT / "docs" / "teachers.md").read_text(encoding="utf-8")


labs = load_tool("labs")


# -- a check that counts


def test_a_check_counts_once_and_says_what_it_said(capsys) -> None:
    checks.start.targets(lambda batch: 12)
    printed = capsys.readouterr().out.strip()
    with pytest.raises(AssertionError, match="every label was counted") as wrong:
        checks.must_be_right()
    assert str(wrong.value) == printed
    with pytest.raises(RuntimeError, match="no check has ended"):
        checks.must_be_right()
    checks.start.targets(lambda batch: None)
    with pytest.raises(AssertionError, match="returns nothing yet"):
        checks.must_be_right()
    checks.start.targets(lambda batch: 1 / 0)
    with pytest.raises(AssertionError, match="stopped with ZeroDivisionError"):
        checks.must_be_right()
    checks.start.targets(lambda batch: 9)
    checks.must_be_right()


def test_a_check_that_is_cut_off_does_not_leave_the_verdict_of_the_one_before() -> None:
    def never_ends(batch: dict) -> int:
        raise KeyboardInterrupt

    checks.start.targets(lambda batch: 9)
    with pytest.raises(KeyboardInterrupt):
        checks.start.targets(never_ends)
    with pytest.raises(RuntimeError, match="no check has ended"):
        checks.must_be_right()


# -- the builder


def stub(docstring: str = "Modify. Difficulty 2 of 3, 5 minutes.", name: str = "my_sum") -> NotebookNode:
    return new_code_cell(f'def {name}(a, b):\n    """{docstring}"""\n    ...', metadata={"tags": ["exercise"]})


def solution(check: str = "checks.sums.right(solved)") -> NotebookNode:
    source = f"import operator\n\n\ndef solved(a, b):\n    # add\n    return operator.add(a, b)\n\n\n{check}"
    return new_code_cell(source, metadata={"tags": ["solution"], "jupyter": {"source_hidden": True}})


CHECK = new_code_cell("from mt_core.lab import checks\n\nchecks.sums.right(my_sum)", execution_count=3)


def lesson(*cells: NotebookNode) -> NotebookNode:
    cells = (new_markdown_cell("# Sums"), *map(copy.deepcopy, cells))
    return new_notebook(cells=[nbformat.from_dict({**cell, "id": f"cell-{i}"}) for i, cell in enumerate(cells)])


def test_an_exercise_becomes_a_cell_with_its_solution_and_a_check_that_counts() -> None:
    before = lesson(stub(), CHECK, solution())
    nb = copy.deepcopy(before)
    words, folder, title, task, check = labs.teachers_version(nb, "02_sums").cells
    assert nb == before
    assert "02_sums, 2 points" in words.source and "`my_sum` (2 points)" in words.source and title.source == "# Sums"
    first, begin, answer = task.source.partition("### BEGIN SOLUTION\n")
    assert first == stub().source + "\n" and begin
    assert answer == (
        "import operator\n\n\ndef my_sum(a, b):\n    # add\n    return operator.add(a, b)\n### END SOLUTION"
    )
    assert check.source.startswith(CHECK.source) and "checks.must_be_right()" in check.source
    marks = [cell.metadata.nbgrader for cell in (words, folder, task, check)]
    assert [m.grade_id for m in marks] == ["lab_words", "lab_folder", "my_sum", "my_sum_check"]
    assert [(m.locked, m.solution, m.grade) for m in marks] == [
        (True, False, False),
        (True, False, False),
        (False, True, False),
        (True, False, True),
    ]
    assert marks[-1].points == 2 and check.execution_count is None
    namespace: dict = {}
    exec(task.source, namespace)
    assert namespace["my_sum"](2, 3) == 5


def test_of_a_check_cell_the_last_line_counts() -> None:
    check = new_code_cell("print('Is it right?')\nchecks.sums.right(my_sum)")
    (exercise,) = labs.find_exercises(lesson(stub(), check, solution()))
    assert exercise.check == check.source


PAIR = (
    new_code_cell(f"{stub().source}\n\n\n{stub('Easy, 2 minutes.', 'my_product').source}", metadata=stub().metadata),
    new_code_cell(f"{CHECK.source}\nchecks.sums.product(my_product)"),
    new_code_cell(
        "import operator\n\n\ndef solved(a, b):\n    return operator.add(a, b)\n\n\n"
        "def done(a, b):\n    return sum((solved(a, 0) for _ in range(b)), 0)\n\n\n"
        "checks.sums.right(solved)\nchecks.sums.product(done)",
        metadata=solution().metadata,
    ),
)

SWAPPED = new_code_cell(
    "def done(a, b):\n    return a * b\n\n\ndef solved(a, b):\n    return a + b\n\n\n"
    "checks.sums.right(solved)\nchecks.sums.product(done)",
    metadata=solution().metadata,
)


def test_two_exercises_that_share_cells_are_graded_each_by_itself() -> None:
    _, _, _, task, check, task_2, check_2 = labs.teachers_version(lesson(*PAIR), "02_sums").cells
    marks = [cell.metadata.nbgrader for cell in (task, check, task_2, check_2)]
    assert [(m.grade_id, m.get("points")) for m in marks] == [
        ("my_sum", None),
        ("my_sum_check", 2),
        ("my_product", None),
        ("my_product_check", 1),
    ]
    assert check.source == (f"{CHECK.source}\n### BEGIN HIDDEN TESTS\nchecks.must_be_right()\n### END HIDDEN TESTS")
    assert check_2.source.startswith("checks.sums.product(my_product)\n### BEGIN HIDDEN TESTS\n")
    assert "my_product" not in task.source and "def my_sum" not in task_2.source
    assert task_2.source.startswith(stub("Easy, 2 minutes.", "my_product").source + "\n### BEGIN SOLUTION\n")
    namespace: dict = {}
    for cell in (task, task_2):
        exec(cell.source, namespace)
    assert namespace["my_sum"](2, 3) == 5 and namespace["my_product"](2, 3) == 6


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ((PAIR[0], CHECK, solution()), "cell 1: defines 2 functions and classes, cell 2 calls 1: one check for each"),
        ((PAIR[0], PAIR[1], SWAPPED), "cell 3: solutions are due in the order of the exercises of cell 1"),
        ((PAIR[0], PAIR[1], solution()), r"cell 3: the solution is not checked by checks.sums.product\(my_product\)"),
        ((stub(), CHECK, solution("checks.sums.right(my_sum)")), "cell 3: the solution is not checked"),
        ((stub(), CHECK), r"exercises are cells \[1\], solutions \[\]"),
        ((stub(), CHECK, new_markdown_cell("words"), solution()), r"solutions \[4\]"),
        ((stub("Add."), CHECK, solution()), "cell 1: the docstring of my_sum states no difficulty"),
        ((stub(), CHECK, solution("checks.sums.wrong(solved)")), "not checked by checks.sums.right"),
        ((stub(), CHECK, solution("print(solved(1, 2))")), "cell 3: the solution is not checked"),
        ((stub(), new_code_cell("print(my_sum(1, 2))"), solution("print(solved(1, 2))")), "cell 3: the solution"),
        ((new_code_cell("x = 1", metadata={"tags": ["exercise"]}), CHECK, solution()), "cell 1: defines 0"),
        ((stub(), CHECK, solution(), stub(), CHECK, solution()), "two exercises have one name: my_sum, my_sum"),
        ((new_code_cell("print(1)"),), "no cell has the tag exercise"),
    ],
)
def test_cells_that_cannot_be_graded_are_refused_by_number(cells, problem) -> None:
    with pytest.raises(labs.LabError, match=problem):
        labs.teachers_version(lesson(*cells), "02_sums")


def test_a_notebook_that_cannot_become_a_lab_is_named(tmp_path, capsys) -> None:
    nbformat.write(lesson(stub(), CHECK), tmp_path / "02_sums.ipynb")
    assert labs.main([str(tmp_path / "02_sums.ipynb"), "--out", str(tmp_path / "course")]) == 1
    assert "02_sums.ipynb: exercises are cells [1]" in capsys.readouterr().err


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_becomes_a_lab(path: Path) -> None:
    nb = nbformat.read(path, as_version=4)
    lab = labs.teachers_version(nb, path.stem)
    nbformat.validate(lab)
    found = labs.find_exercises(nb)
    assert sum("nbgrader" in cell.metadata for cell in lab.cells) == 2 + 2 * len(found)
    assert not any("solution" in cell.metadata.get("tags", []) for cell in lab.cells)
    for exercise in found:
        assert f"def {exercise.name}(" in exercise.answer or f"class {exercise.name}" in exercise.answer
        compile(exercise.answer, exercise.name, "exec")
        call = ast.parse(exercise.check).body[-1].value.func
        check = getattr(getattr(checks, call.value.attr), call.attr)
        assert "explained(" in inspect.getsource(check), f"{exercise.name}: must_be_right would not hear of its check"


def test_a_lab_works_in_any_folder_as_if_it_lay_with_the_notebooks(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(labs.FOLDER, {})
    assert Path.cwd() == ROOT / "notebooks" and Path("../data/train.jsonl").exists()


# -- a real nbgrader: one lab of the exercises of two notebooks, four students

LAB, LESSONS = "lab_02_and_16", ("02_dataset.ipynb", "16_bug_museum.ipynb")
EASY = ["my_starts", "my_lookup", "my_store", "my_encode", "my_pair", "my_split"]
WORTH = dict.fromkeys(EASY, 1) | dict.fromkeys(["my_shuffled_starts", "my_rows", "my_votes", "my_batches"], 2)
WORTH |= {"MyNoise": 2, "MyWorkers": 2} | dict.fromkeys(["my_coverage", "MyBatches", "my_send"], 3)
WRONG = {
    "my_starts": """def my_starts(n_tokens, seq_length):
    return list(range(0, n_tokens - seq_length, seq_length + 1))""",
    "my_coverage": """def my_coverage(rows, n_tokens):
    asked = [label for _, labels in rows for label in labels]
    return len(set(asked)), len(asked) - len(set(asked)), n_tokens - len(set(asked))""",
    "my_store": """def my_store(token_ids):
    return np.clip(token_ids, 0, 65535).astype(np.uint16)""",
    "MyNoise": """class MyNoise(SameNoise):
    def start_worker(self, worker):
        self.generator = np.random.default_rng((self.seed, worker))""",
    "my_votes": """def my_votes(n_rows, rank, n_ranks):
    return list(range(rank, n_rows, n_ranks))""",
    "MyBatches": """class MyBatches(VanishedBatches):
    def state_dict(self):
        return {"place": max(self.place - self.prefetch, 0)}""",
}
BROKEN = {"my_encode": "def my_encode(text)\n    return 1", "my_split": "def my_split(*_):\n    raise SystemExit"}


def shortened() -> NotebookNode:
    """The set-up of two lessons and their exercises: what is between is run, unchanged, by the tests of notebooks."""
    nb, museum = (nbformat.read(ROOT / "notebooks" / name, as_version=4) for name in LESSONS)
    first = next(i for i, cell in enumerate(nb.cells) if cell.cell_type == "code")
    exercises = next(i for i, cell in enumerate(nb.cells) if "## Exercises" in cell.source)
    lines = [line for cell in museum.cells for line in cell.source.splitlines()]
    setup = new_code_cell("\n".join(line for line in lines if re.match(r"(import|from mt_core\S*) ", line)))
    triples = [museum.cells[place : place + 3] for place in sorted({e.place for e in labs.find_exercises(museum)})]
    cells = [*nb.cells[: first + 1], *nb.cells[exercises:], setup, *(cell for cells in triples for cell in cells)]
    nb.cells = [nbformat.from_dict({**cell, "id": f"cell-{i}"}) for i, cell in enumerate(cells)]
    return nb


def handed_in(released: Path, answers: dict[str, str], check: str = "") -> NotebookNode:
    """A released notebook with answers in the cells of some exercises and, if `check` is given, other checks."""
    nb = nbformat.read(released, as_version=4)
    for cell in nb.cells:
        of_nbgrader = cell.metadata.get("nbgrader", {})
        if of_nbgrader.get("grade_id") in answers:
            assert cell.source.rstrip().endswith("...")
            cell.source = answers[of_nbgrader.grade_id]
        elif of_nbgrader.get("grade") and check:
            cell.source = check
    return nb


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A course whose lab was handed in by four students, collected, graded and commented by nbgrader."""
    pytest.importorskip("nbgrader", reason='needs nbgrader: pip install -e ".[classes]"')
    folder = tmp_path_factory.mktemp("labs")
    lesson, out = folder / "02_and_16.ipynb", folder / "course"
    nbformat.write(shortened(), lesson)
    own = {f"JUPYTER_{what}_DIR": str(folder / what.lower()) for what in ("CONFIG", "DATA", "RUNTIME")}
    env = {**os.environ, **own, "IPYTHONDIR": str(folder / "ipython"), "JUPYTER_PREFER_ENV_PATH": "1"}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    env["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))

    def run(cwd: Path, *words: str) -> None:
        done = subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"

    run(folder, str(ROOT / "tools" / "labs.py"), str(lesson), "--out", str(out))
    released, inbox = out / "release" / LAB / f"{LAB}.ipynb", out / "downloaded" / LAB / "archive"
    right = {exercise.name: exercise.answer for exercise in labs.find_exercises(shortened())}
    inbox.mkdir(parents=True)
    # one downloaded her file twice, one has a name with more in it, one made the checks easier, one left errors in it
    nbformat.write(handed_in(released, right), inbox / f"ada_{LAB} (1).ipynb")
    nbformat.write(handed_in(released, {}, check="print('Right')"), inbox / f"bo-2_{LAB}.ipynb")
    nbformat.write(handed_in(released, {**right, **WRONG}), inbox / f"Cy Dee_{LAB}.ipynb")
    eve = handed_in(released, {**right, **BROKEN})
    stub = next(i for i, cell in enumerate(eve.cells) if cell.metadata.get("nbgrader", {}).get("grade_id") == "my_pair")
    eve.cells.insert(stub, nbformat.from_dict({**eve.cells[stub], "id": "copied"}))
    del eve.cells[stub + 2]  # the check of my_pair
    nbformat.write(eve, inbox / f"eve_{LAB}.ipynb")
    for step in ("zip_collect", "autograde", "generate_feedback"):
        run(out, "-m", "nbgrader", step, LAB)
    return out


def marks(course: Path, student: str, by_hand: Sequence[str] = ()) -> dict[str, float]:
    """The points of a student for each exercise; `by_hand` are those that nbgrader leaves to the teacher."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course / 'gradebook.db'}", "microtransformer") as gradebook:
        submission = gradebook.find_submission(LAB, student)
        grades = submission.notebooks[0].grades
        assert submission.max_score == sum(WORTH.values())
        assert [grade.name for grade in grades if grade.needs_manual_grade] == [f"{name}_check" for name in by_hand]
        return {grade.name.removesuffix("_check"): grade.score for grade in grades}


def feedback(course: Path, student: str) -> str:
    """The words of the page that a student gets back, without its markup."""
    page = (course / "feedback" / student / LAB / f"{LAB}.html").read_text(encoding="utf-8")
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", page)))


def test_students_get_stubs_and_checks_but_no_solution(course: Path) -> None:
    nb = nbformat.read(course / "release" / LAB / f"{LAB}.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in nb.cells)
    assert "SOLUTION" not in text and "HIDDEN" not in text and "must_be_right" not in text
    answers = labs.find_exercises(shortened())
    assert len(answers) == len(WORTH) == 15 and not any(exercise.answer in text for exercise in answers)
    checked = [cell for cell in nb.cells if cell.metadata.get("nbgrader", {}).get("grade")]
    assert len(checked) == len(WORTH) and all(cell.metadata.editable is False for cell in checked)


def test_right_answers_get_full_marks(course: Path) -> None:
    assert marks(course, "ada") == WORTH


def test_stubs_get_nothing_even_beside_easier_checks(course: Path) -> None:
    assert marks(course, "bo-2") == dict.fromkeys(WORTH, 0)
    assert feedback(course, "bo-2").count("returns nothing yet") >= len(WORTH) - 1  # one is meant to fail


def test_typical_mistakes_cost_their_points_and_are_explained(course: Path) -> None:
    assert marks(course, "Cy Dee") == WORTH | dict.fromkeys(WRONG, 0)
    words = feedback(course, "Cy Dee")
    assert "AssertionError: Not yet. 40 tokens, seq_length=8: you returned" in words and "is never asked" in words
    assert "Token 0 has no token before it" in words
    assert "AssertionError: Not yet. written [11, 65535, 65536, 70000], read [11, 65535, 65535, 65535]" in words
    assert "is given other noise than without workers, so a result depends on the machine" in words
    assert "the ranks take [3, 3, 2, 2] steps, so some wait without end" in words
    assert "batches [8, 9, 10] are delivered twice" in words


def test_what_is_broken_costs_its_own_points_alone(course: Path) -> None:
    """An answer that is no Python, one that leaves, a check that is gone; and a cell that was copied stops nobody."""
    assert marks(course, "eve", by_hand=["my_pair"]) == WORTH | dict.fromkeys([*BROKEN, "my_pair"], 0)


# -- the guide


def test_the_guide_names_for_every_notebook_an_exhibit_that_exists() -> None:
    rows = dict(re.findall(r"^\| (\d\d) \|.*\|(.*)\|$", GUIDE, re.MULTILINE))
    assert [path.name for path in NOTEBOOKS if path.name[:2] not in rows] == []
    for number, cure in rows.items():
        named = re.findall(r"`(\w+)`", cure)
        assert named and set(named) <= set(bugs.EXHIBITS), f"{number}: {named}"
