"""What the README shows is what happens: its program runs, its links lead somewhere, its commands exist."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_program_runs(tmp_path):
    shutil.copytree(ROOT / "data", tmp_path / "data", ignore=shutil.ignore_patterns(".mt_cache"))
    program = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "fit(" in block)
    program = program.replace("TrainConfig(epochs=1)", "TrainConfig(max_steps=2)")  # a whole epoch takes minutes
    assert "max_steps=2" in program
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=250
    )
    assert done.returncode == 0, done.stderr
    assert "torch.Size([16, 128]) torch.Size([16, 128])" in done.stdout
    assert (tmp_path / "runs" / "mine" / "checkpoints").is_dir()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/experimenters.md", "docs/teachers.md"])
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert links and not [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]


def test_every_notebook_is_in_the_table():
    assert {path.name for path in (ROOT / "notebooks").glob("*.ipynb")} == set(
        re.findall(r"notebooks/(\w+\.ipynb)", README)
    )


def test_commands_exist():
    commands = re.findall(r"(?:^|`)(?:make|python start\.py) ([\w-]+)", README, re.MULTILINE)
    assert len(set(commands)) > 5
    for command in commands:
        assert re.search(
            rf"^{command}\b|\b{command}\b.*:$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
        )
        assert f'"{command}"' in (ROOT / "start.py").read_text(encoding="utf-8")
