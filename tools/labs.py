"""Labs for a class: the exercises of the notebooks as nbgrader assignments. Changes no notebook, grades nothing.

    python tools/labs.py [NOTEBOOK ...] [--out DIR]    all numbered notebooks, into runs/labs, by default

A lab is a lesson whose folded solutions are taken out and whose checks count. DIR becomes an nbgrader course:
source/ holds the teacher's versions, release/ what students get, gradebook.db what each check is worth. Run again,
it takes up changed notebooks and keeps what was submitted and graded.

Cells are known by their tags: a cell tagged `exercise` with one function or class to fill in, the cell with its
check, and a cell tagged `solution` that defines the same under another name and calls the same check. The
difficulty in the exercise's docstring is its points.
"""

import argparse
import ast
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "runs" / "labs"
CONFIG = r"""# nbgrader's settings for this course; written by tools/labs.py, and left alone once it is here.
c = get_config()  # noqa
c.CourseDirectory.course_id = "microtransformer"
c.ClearSolutions.code_stub = {"python": ""}  # the stub stands above the solution
c.Execute.timeout = 300  # seconds for a cell; an answer that never ends is stopped
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
        answer: source that defines `name` as the solution does.
    """

    name: str
    points: int
    place: int
    answer: str


def find_exercises(nb: NotebookNode) -> list[Exercise]:
    """The exercises of a notebook, in order; LabError where its cells are not as the header of this module says."""
    places = [i for i, cell in enumerate(nb.cells) if "exercise" in _tags(cell)]
    solutions = [i for i, cell in enumerate(nb.cells) if "solution" in _tags(cell)]
    if solutions != [place + 2 for place in places]:
        raise LabError(
            f"exercises are cells {places}, solutions {solutions}: two cells after each exercise, one is due"
        )
    found = [_exercise(nb.cells, place) for place in places]
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
    cells = [cell.copy() for cell in nb.cells]
    for exercise in found:
        stub, check = cells[exercise.place], cells[exercise.place + 1]
        stub.source += f"\n### BEGIN SOLUTION\n{exercise.answer}\n### END SOLUTION"
        stub.metadata = _marks(exercise.name, solution=True)
        check.source += "\n### BEGIN HIDDEN TESTS\nchecks.must_be_right()\n### END HIDDEN TESTS"
        check.metadata = _marks(f"{exercise.name}_check", grade=True, locked=True, points=exercise.points)
    for cell in cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    cells = [cell for cell in cells if "solution" not in _tags(cell)]
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


def _exercise(cells: Sequence[NotebookNode], place: int) -> Exercise:
    stub, check, solution = cells[place : place + 3]
    (task,) = _definitions(stub, place, exactly=1)
    points = [points for level, points in LEVELS.items() if f"{level}, " in (ast.get_docstring(task) or "")]
    if len(points) != 1:
        raise LabError(f"cell {place}: the docstring of {task.name} states no difficulty: one of {', '.join(LEVELS)}")
    solved = _definitions(solution, place + 2)[-1].name
    answer, calls = _split(re.sub(rf"\b{solved}\b", task.name, solution.source))
    checked = ast.unparse(ast.parse(check.source).body[-1])
    if not checked.startswith("checks.") or checked not in calls:
        raise LabError(f"cell {place + 2}: the solution is not checked by {checked}, the last line of cell {place + 1}")
    return Exercise(name=task.name, points=points[0], place=place, answer=answer)


def _definitions(cell: NotebookNode, place: int, exactly: int | None = None) -> list[ast.FunctionDef | ast.ClassDef]:
    """The functions and classes that a cell defines."""
    found = [node for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    if not found or len(found) != (exactly or len(found)):
        raise LabError(f"cell {place}: defines {len(found)} functions and classes, {exactly or 'one or more'} needed")
    return found


def _split(source: str) -> tuple[str, list[str]]:
    """What a solution's cell defines, and the calls after it: its check, and what else it shows."""
    body = ast.parse(source).body
    calls = [node for node in body if isinstance(node, ast.Expr)]
    end = calls[0].lineno - 1 if calls else None
    return "\n".join(source.splitlines()[:end]).rstrip(), [ast.unparse(call) for call in calls]


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
