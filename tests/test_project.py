"""The project as a whole: its one dependency list, its notebooks."""

import ast
import re
import statistics
import subprocess
import tomllib

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from helpers import paths
from helpers.execute import chapters, parameters

NOTEBOOKS = chapters.sources()
PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]


def lock() -> dict[str, Version]:
    lines = (paths.ROOT / "requirements.lock").read_text().split()
    pairs = [line.split("==") for line in lines]
    return {canonicalize_name(name): Version(v) for name, v in pairs}


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    lines = PROJECT["dependencies"] + extras["book"] + extras["test"]
    return [Requirement(line) for line in lines]


def test_lock_pins_every_dependency_within_its_bounds():
    pinned = lock()
    for wanted in requirements():
        version = pinned[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), wanted


def test_environment_file_defers_to_pyproject():
    content = yaml.safe_load((paths.ROOT / "environment.yml").read_text())
    python, pip, editable = content["dependencies"]
    assert python == "python" + PROJECT["requires-python"]
    assert pip == "pip" and editable == {"pip": ["-e .[book,test]"]}


def test_code_and_notebooks_are_clean():
    done = subprocess.run(
        ["make", "lint"], cwd=paths.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_help_lists_every_target():
    makefile = (paths.ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split()
    said = subprocess.run(
        ["make", "help"], cwd=paths.ROOT, capture_output=True, text=True
    ).stdout
    for target in phony:
        assert re.search(rf"make {target}\s+\w", said), target


def functions() -> list[tuple[str, int]]:
    found = []
    for file in sorted((paths.ROOT / "helpers").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1
                found.append((f"{file.name}:{node.name}", lines))
    return found


def test_functions_are_short():
    lengths = [lines for _, lines in functions()]
    assert statistics.median(lengths) <= 15
    assert [f for f in functions() if f[1] > 60] == []


def test_public_functions_have_docstrings():
    bare = []
    for file in sorted((paths.ROOT / "helpers").rglob("*.py")):
        for node in ast.parse(file.read_text()).body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if public and node.name[0] != "_" and not ast.get_docstring(node):
                bare.append(f"{file.name}:{node.name}")
    assert bare == []


@pytest.mark.parametrize("profile", parameters.profiles())
def test_every_profile_resolves(profile):
    values = parameters.resolve(NOTEBOOKS, profile, "")
    assert all(v["profile"] == profile for v in values.values())


def test_laptop_profile_is_what_the_notebooks_say():
    values = parameters.resolve(NOTEBOOKS, "laptop", "")
    for name, notebook in NOTEBOOKS.items():
        known = parameters.declared(notebook)
        assert values[name] == {p.name: p.default for p in known.values()}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_source_keeps_the_house_rules(name):
    notebook = NOTEBOOKS[name]
    nbformat.validate(notebook)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    prose = [c for c in notebook.cells if c.cell_type == "markdown"]
    assert len(prose) >= len(code)
    assert not any(c.outputs or c.execution_count for c in code)
    lengths = [
        len(c.source.splitlines())
        for c in code
        if "parameters" not in c.metadata.get("tags", [])
    ]
    assert max(lengths) <= 15 and statistics.median(lengths) <= 8
    assert len({c.id for c in notebook.cells}) == len(notebook.cells)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_parameter_is_explained_and_bounded(name):
    known = parameters.declared(NOTEBOOKS[name])
    assert {"profile", "seed"} <= set(known)
    for parameter in known.values():
        assert len(parameter.help.split()) >= 2, parameter.name
        bounded = parameter.low is not None
        assert bounded or parameter.type not in (int, float), parameter.name
        if parameter.name != "profile":
            parameter.check(parameter.default)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_needs_are_chapters(name):
    needs = NOTEBOOKS[name].metadata["book"]["needs"]
    assert set(needs) <= set(list(NOTEBOOKS)[: list(NOTEBOOKS).index(name)])
