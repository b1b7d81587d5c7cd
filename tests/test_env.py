"""pyproject.toml (ranges), constraints.txt (what is tested with) and environment.yml (conda) say the same.

Does not install anything: it compares the three files with each other and with what is installed.
"""

import importlib.metadata
import importlib.util
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
CONDA_NAMES = {  # the others are called the same
    "torch": "pytorch",
    "matplotlib": "matplotlib-base",
    "backports-zstd": "backports.zstd",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
COURSE = [Requirement(line) for line in [*PROJECT["dependencies"], *EXTRAS["lab"], *EXTRAS["test"]]]
BROWSER = list(map(Requirement, EXTRAS["browser"]))
DIRECT = [
    *COURSE,
    *[Requirement(line) for name in ("peers", "clients", "tensorboard", "classes", "site") for line in EXTRAS[name]],
    *BROWSER,
]
# `make test` does without the browser tests' own packages; where `make test-browser` ran they are checked too.
HAS_BROWSER = importlib.util.find_spec("playwright") is not None
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINS = {canonicalize_name(pin.name): pin for pin in map(Requirement, (s for s in LINES if s and s[0] != "#"))}
RENEW = "renew constraints.txt as its first lines say"


def version_of(pin: Requirement) -> str:
    return next(iter(pin.specifier)).version


def installed_closure() -> dict[str, str]:
    """Name -> installed version of everything the project needs on this system, followed to the end.

    What torch requires with `==` (the CUDA libraries of its Linux build) is pinned by torch itself.
    """
    found: dict[str, str] = {}
    wanted = DIRECT if HAS_BROWSER else [requirement for requirement in DIRECT if requirement not in BROWSER]
    queue = [(requirement, "") for requirement in wanted if requirement.marker is None or requirement.marker.evaluate()]
    while queue:
        requirement, wanted_by = queue.pop()
        name = canonicalize_name(requirement.name)
        exact = any(clause.operator == "==" for clause in requirement.specifier)
        if wanted_by == "torch" and (exact or name.startswith(("cuda-", "nvidia-"))):
            continue
        seen = name in found
        distribution = importlib.metadata.distribution(name)
        found[name] = Version(distribution.version).public
        extras = {"", *requirement.extras}
        if seen and extras == {""}:
            continue
        for line in distribution.requires or ():
            inner = Requirement(line)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
                queue.append((inner, name))
    return found


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_every_direct_dependency_is_pinned_within_its_range(requirement: Requirement) -> None:
    pin = PINS.get(canonicalize_name(requirement.name))
    assert pin is not None, f"{requirement.name} is not pinned: {RENEW}"
    assert requirement.specifier.contains(version_of(pin)), f"{pin} is outside {requirement}"


def test_constraints_are_exact_sorted_and_named_once() -> None:
    pins = [Requirement(line) for line in LINES if line and line[0] != "#"]
    names = [canonicalize_name(pin.name) for pin in pins]
    assert names == sorted(set(names)), "constraints.txt: sort by name, each name once"
    for pin in pins:
        (clause,) = pin.specifier
        assert clause.operator == "==" and not pin.extras and not pin.url, f"{pin}: write name==version"
        assert Version(clause.version).local is None, f"{pin}: a local version exists in one index only"


def test_everything_installed_for_the_course_is_pinned_and_nothing_else() -> None:
    here = {name for name, pin in PINS.items() if pin.marker is None or pin.marker.evaluate()}
    closure = installed_closure()
    assert closure.keys() - here == set(), f"installed for the course, but not pinned: {RENEW}"
    elsewhere = {"pexpect", "ptyprocess"}  # needed wherever there is a Unix terminal
    if not HAS_BROWSER:
        elsewhere |= {"axe-playwright-python", "greenlet", "playwright"}
    assert here - closure.keys() <= elsewhere, f"pinned, but nothing needs it: {RENEW}"


def test_what_is_installed_is_what_is_pinned() -> None:
    got = {name: version for name, version in installed_closure().items() if name in PINS}
    wanted = {name: version_of(PINS[name]) for name in got}
    assert got == wanted, "python start.py setup installs the pinned versions"


def conda_versions() -> dict[str, str]:
    lines = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    specs = [line.partition("=") for line in lines if isinstance(line, str) and line != "pip"]
    return {name: version for name, _, version in specs}


def test_conda_installs_the_same_packages_at_the_same_versions() -> None:
    names = [canonicalize_name(requirement.name) for requirement in COURSE]
    wanted = {CONDA_NAMES.get(name, name): version_of(PINS[name]) for name in names}
    got = conda_versions()
    del got["python"]
    assert got == wanted


def test_conda_uses_a_supported_python_from_conda_forge_and_installs_this_project() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert Requirement("python" + PROJECT["requires-python"]).specifier.contains(conda_versions()["python"])
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    assert environment["dependencies"][-1] == {"pip": ["-e .[lab,test]"]}, "pip comes last and adds no versions"


def test_the_workflow_tests_the_oldest_and_the_newest_python_on_three_systems() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.14"]
    assert [name.partition("-")[0] for name in matrix["system"]] == ["ubuntu", "macos", "windows"]
    assert PROJECT["requires-python"] == ">=" + matrix["python"][0]
    assert any("python start.py test" in step.get("run", "") for step in workflow["jobs"]["test"]["steps"])


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert script[0] == "#!/usr/bin/env bash" and "set -euo pipefail" in script and script[-1] == "make test"
