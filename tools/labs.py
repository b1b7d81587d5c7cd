"""Labs for a class: the exercises of the notebooks as nbgrader assignments. Changes no notebook, grades nothing.

    python tools/labs.py [NOTEBOOK ...] [--out DIR]    all numbered notebooks, into runs/labs, by default

A lab is a lesson whose folded solutions are taken out and whose checks count. DIR becomes an nbgrader course:
source/ holds the teacher's versions, release/ what students get, gradebook.db what each check is worth. Run again,
it takes up changed notebooks and keeps what was submitted and graded.

Cells are known by their tags: a cell tagged `exercise` with functions or classes to fill in, the cell that ends with
their checks, one a line, and a cell tagged `solution` that defines the same under other names and calls the same
checks. Each function or class is an exercise: in a lab it has a cell and a check of its own, so that one that is right
counts beside one that is not. The difficulty in its docstring is its points.
"""

import argparse
import ast
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "runs" / "labs"
CONFIG = r"""# nbgrader's settings for this course; written by tools/labs.py, and left alone once it is here.
from nbgrader.preprocessors import CheckCellMetadata, ClearOutput, DeduplicateIds, OverwriteCells, OverwriteKernelspec

c = get_config()  # noqa
c.CourseDirectory.course_id = "microtransformer"
c.ClearSolutions.code_stub = {"python": ""}  # the stub stands above the solution
c.Execute.timeout = 300  # seconds for a cell; an answer that never ends is stopped


class CopiedCells(DeduplicateIds):
    # Whoever copies or splits a cell of an exercise copies its id. nbgrader 0.9.6 empties the copy's mark, takes what
    # is left for an old format, and grades nobody any more; without the mark it is a cell like any other.
    def preprocess_cell(self, cell, resources, cell_index):
        cell, resources = super().preprocess_cell(cell, resources, cell_index)
        if not cell.metadata.get("nbgrader", True):
            del cell.metadata["nbgrader"]
        return cell, resources


steps = [ClearOutput, CopiedCells, OverwriteKernelspec, OverwriteCells, CheckCellMetadata]
c.Autograde.sanitize_preprocessors = steps
# Files handed in are called NAME_lab_02_dataset.ipynb; NAME is the student, whatever a browser puts behind.
c.FileNameCollectorPlugin.named_regexp = r".*[/\\](?P<student_id>[^/\\]+?)[_-](?P<file_id>lab_\d\d_\w+)"
"""
FOLDER = """# This notebook may lie in any folder: from here on it works as if it lay with the others.
import os
from pathlib import Path

import mt_core

os.chdir(Path(mt_core.__file__).parents[1] / "notebooks")"""
LEVELS = {"Easy": 1, "Difficulty 1 of 3": 1, "Difficulty 2 of 3": 2, "Difficulty 3 of 3": 3}


class LabError(Exception):
    """A notebook cannot become a lab; the message says which cell is in the way."""


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """One exercise of a notebook.

    Attributes:
        name: the function or class that a student fills in.
        points: what its check is worth, 1 to 3.
        place: the number of the stub's cell; the check and the solution follow it.
        stub, check: the source of its part of these two cells.
        answer: source that defines `name` as the solution does.
    """

    name: str
    points: int
    place: int
    stub: str
    check: str
    answer: str


def find_exercises(nb: NotebookNode) -> list[Exercise]:
    """The exercises of a notebook, in order; LabError where its cells are not as the header of this module says."""
    places = [i for i, cell in enumerate(nb.cells) if "exercise" in _tags(cell)]
    solutions = [i for i, cell in enumerate(nb.cells) if "solution" in _tags(cell)]
    if solutions != [place + 2 for place in places]:
        raise LabError(
            f"exercises are cells {places}, solutions {solutions}: two cells after each exercise, one is due"
        )
    found = [exercise for place in places for exercise in _exercises(nb.cells, place)]
    names = [exercise.name for exercise in found]
    if len(set(names)) < len(names):
        raise LabError(f"two exercises have one name: {', '.join(sorted(names))}")
    return found


def teachers_version(nb: NotebookNode, title: str) -> NotebookNode:
    """A copy of a notebook as nbgrader's source: solutions in the cells of their exercises, checks that count.

    Args:
        nb: a lesson; it stays as it is.
        title: the notebook's name, for the first cell.
    """
    found = find_exercises(nb)
    if not found:
        raise LabError("no cell has the tag exercise, so there is nothing to grade")
    cells: list[NotebookNode] = []
    for place, original in enumerate(nb.cells):
        here = [exercise for exercise in found if exercise.place == place]
        for exercise in here:
            stub, check = nb.cells[place].copy(), nb.cells[place + 1].copy()
            stub.source = f"{exercise.stub}\n### BEGIN SOLUTION\n{exercise.answer}\n### END SOLUTION"
            stub.metadata = _marks(exercise.name, solution=True)
            check.source = f"{exercise.check}\n### BEGIN HIDDEN TESTS\nchecks.must_be_right()\n### END HIDDEN TESTS"
            check.metadata = _marks(f"{exercise.name}_check", grade=True, locked=True, points=exercise.points)
            if exercise is not here[0]:
                stub.id, check.id = exercise.name, f"{exercise.name}_check"
            cells += [stub, check]
        if not here and not any(place - exercise.place in (1, 2) for exercise in found):
            cells.append(original.copy())
    for cell in cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    first = nbformat.v4.new_markdown_cell(_first_words(title, found), id="lab-words")
    folder = nbformat.v4.new_code_cell(FOLDER, id="lab-folder")
    first.metadata, folder.metadata = _marks("lab_words", locked=True), _marks("lab_folder", locked=True)
    return nbformat.from_dict({**nb, "metadata": nb.metadata, "cells": [first, folder, *cells]})


def build(notebooks: Sequence[Path], out: Path) -> dict[str, list[Exercise]]:
    """Write the teacher's version of each notebook, and nbgrader's settings, into the folder `out`.

    Returns:
        The exercises of each lab, by the lab's name: `lab_02_dataset` for `02_dataset.ipynb`.
    """
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "nbgrader_config.py").exists():
        (out / "nbgrader_config.py").write_text(CONFIG, encoding="utf-8", newline="\n")
    labs: dict[str, list[Exercise]] = {}
    for path in notebooks:
        name = f"lab_{path.stem}"
        try:
            nb = nbformat.read(path, as_version=4)
            labs[name] = find_exercises(nb)
            lab = teachers_version(nb, path.stem)
        except LabError as error:
            raise LabError(f"{path.name}: {error}") from error
        nbformat.validate(lab)
        target = out / "source" / name / f"{name}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(nbformat.writes(lab) + "\n", encoding="utf-8", newline="\n")
    return labs


def release(out: Path, names: Sequence[str]) -> None:
    """Let nbgrader write the students' versions of these labs and take their checks into the gradebook."""
    try:
        from nbgrader.apps import NbGraderAPI
    except ImportError as error:
        raise LabError('nbgrader is not installed: python -m pip install -e ".[classes]" -c constraints.txt') from error
    from traitlets.config import PyFileConfigLoader

    # nbgrader calls the program alembic; an environment that is not activated is not on the path.
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    config = PyFileConfigLoader("nbgrader_config.py", path=str(out)).load_config()
    config.CourseDirectory.root = str(out)
    api = NbGraderAPI(config=config)
    for name in names:
        result = api.generate_assignment(name)
        if not result["success"]:
            raise LabError(f"nbgrader did not release {name}:\n{result.get('error') or ''}{result.get('log') or ''}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build and release; returns the exit status."""
    parser = argparse.ArgumentParser(description="Make nbgrader assignments of the exercises of notebooks.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: every numbered notebook")
    parser.add_argument("--out", type=Path, default=OUT, help="the course's folder, default: runs/labs")
    options = parser.parse_args(arguments)
    notebooks = options.notebooks or sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    out = options.out.resolve()
    try:
        labs = build(notebooks, out)
        release(out, list(labs))
    except LabError as error:
        print(f"labs.py: {error}", file=sys.stderr)
        return 1
    for name, found in labs.items():
        print(f"{name:34} {len(found)} exercises, {sum(exercise.points for exercise in found):2} points")
    print(f"For students: {out / 'release'}\nWith solutions: {out / 'source'}\nHow to grade: docs/teachers.md")
    return 0


def _tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def _marks(grade_id: str, **different: Any) -> NotebookNode:
    """A cell's metadata for nbgrader: a plain cell but for what is `different`."""
    plain = {"schema_version": 3, "grade_id": grade_id, "grade": False, "locked": False, "solution": False}
    return nbformat.from_dict({"nbgrader": {**plain, "task": False, **different}})


def _exercises(cells: Sequence[NotebookNode], place: int) -> list[Exercise]:
    """The exercises of three cells, the stubs, their checks and their solutions, from `place` on."""
    stub, check, solution = (cell.source for cell in cells[place : place + 3])
    tasks, lines = _definitions(stub), [node for node in ast.parse(check).body if isinstance(node, ast.Expr)]
    if not tasks or len(tasks) > len(lines):
        found = f"{len(tasks)} functions and classes, cell {place + 1} calls {len(lines)}"
        raise LabError(f"cell {place}: defines {found}: one check for each is due, and at least one exercise")
    lines = lines[-len(tasks) :]
    solved = [_solved(solution, task.name, line, place) for task, line in zip(tasks, lines, strict=True)]
    if any(one.lineno >= other.lineno for one, other in pairwise(solved)):
        raise LabError(f"cell {place + 2}: solutions are due in the order of the exercises of cell {place}")
    answers = _cut(solution, solved)
    for task, definition in zip(tasks, solved, strict=True):
        answers = [re.sub(rf"\b{definition.name}\b", task.name, answer) for answer in answers]
    parts = zip(tasks, _cut(stub, tasks), _cut(check, lines), answers, strict=True)
    return [
        Exercise(name=task.name, points=_points(task, place), place=place, stub=stub, check=check, answer=answer)
        for task, stub, check, answer in parts
    ]


def _solved(solution: str, name: str, check: ast.stmt, place: int) -> ast.FunctionDef | ast.ClassDef:
    """What a solution's cell defines in place of `name`: it is there given to the same check."""
    wanted = ast.unparse(check)
    calls = [ast.unparse(node) for node in ast.parse(solution).body if isinstance(node, ast.Expr)]
    for definition in _definitions(solution):
        renamed = [re.subn(rf"\b{definition.name}\b", name, call) for call in calls]
        if wanted.startswith("checks.") and any(call == wanted and count for call, count in renamed):
            return definition
    raise LabError(f"cell {place + 2}: the solution is not checked by {wanted}, which cell {place + 1} ends with")


def _points(task: ast.FunctionDef | ast.ClassDef, place: int) -> int:
    points = [points for level, points in LEVELS.items() if f"{level}, " in (ast.get_docstring(task) or "")]
    if len(points) != 1:
        raise LabError(f"cell {place}: the docstring of {task.name} states no difficulty: one of {', '.join(LEVELS)}")
    return points[0]


def _definitions(source: str) -> list[ast.FunctionDef | ast.ClassDef]:
    return [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def _cut(source: str, nodes: Sequence[ast.stmt]) -> list[str]:
    """A cell's source in parts, each up to the end of one of its statements."""
    lines, ends = source.splitlines(), [node.end_lineno for node in nodes]
    return ["\n".join(lines[start:end]).strip("\n") for start, end in zip([0, *ends], ends, strict=False)]


def _first_words(title: str, found: Sequence[Exercise]) -> str:
    listed = ", ".join(f"`{e.name}` ({e.points} {'point' if e.points == 1 else 'points'})" for e in found)
    return (
        f"**Lab {title}, {sum(exercise.points for exercise in found)} points.** This is the copy to hand in: {listed}. "
        "Write your lines where a cell holds `...`, run the check below it, and read what it says. Before you hand it "
        "in: *Kernel → Restart Kernel and Run All Cells*, then save.\n\n"
        "Solutions are not in this copy, whatever the text below says. An exercise that is left alone is no error."
    )


if __name__ == "__main__":
    sys.exit(main())
