"""Each test is run by a command that `.ci/run` runs, or that the workflow at night runs."""

import itertools
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from _pytest.mark.expression import Expression  # pytest has no public way to ask whether `-m` takes a test

from leyden.config.paths import ROOT
from tests import ENGINE
from tests.conftest import COLLECTED
from tests.example import git


@pytest.fixture(scope="module")
def collected(pytestconfig):
    """The markers of all tests that pytest finds, by file."""
    tests = pytestconfig.stash[COLLECTED]
    if {pytestconfig.rootpath / each for each in pytestconfig.args} != {ENGINE / "tests"}:
        pytest.skip("this command names some files only; -k collection finds all")
    return {path: {markers for there, markers in tests if there == path} for path, _ in tests}


@pytest.fixture(scope="module")
def ci(tmp_path_factory):
    """The library's commands of pytest that `.ci/run` and the workflow at night come to, by a `make` that says what it would do."""
    place = tmp_path_factory.mktemp("ci")
    for name, line in {"make": f'{shutil.which("make")} -n "$@"', "apt-get": ":", "sudo": '"$@"'}.items():
        (place / name).write_text(f"#!/bin/sh\n{line}\n")
        (place / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{place}:{os.environ['PATH']}"}
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yml").read_text())
    nightly = "\n".join(step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step)
    how = {"cwd": ROOT, "env": environment, "text": True}
    output = "".join(subprocess.check_output(["bash", *words], **how) for words in ([".ci/run"], ["-c", nightly]))
    python = str(ENGINE.parent / ".venv" / "bin" / "python")  # by engine/Makefile; the project's is relative
    lines = [shlex.split(line, comments=True) for line in output.replace("\\\n", " ").splitlines()]
    commands = [[*itertools.dropwhile(lambda word: "=" in word, words)] for words in lines]  # without variables
    return [words for words in commands if words[:3] == [python, "-m", "pytest"]]


def selected(words, markers, pyproject):
    """Whether a command of pytest runs a test with these markers, by its last `-m`."""
    given = [*shlex.split(pyproject), *words[3:]]
    expression = [given[n + 1] for n, word in enumerate(given[:-1]) if word == "-m"][-1]
    return Expression.compile(expression).evaluate(lambda name, **_: name in markers)


def test_each_file_of_tests_is_collected(collected):
    listed = git(ENGINE, "ls-files", "--cached", "--others", "--exclude-standard", "*test_*.py")
    there = {ENGINE / name for name in listed.split() if Path(name).name.startswith("test_")}
    assert len(there) > 60
    assert {str(path) for path in there if path.exists()} - {*collected} == set()


def test_each_test_is_run_by_a_command_of_ci(collected, ci, request):
    addopts = request.config.getini("addopts")
    assert len(ci) > 4
    assert not [words for words in ci if any(word.startswith(("--ignore", "--deselect", "-k")) for word in words)]
    for path, kinds in collected.items():
        for markers in kinds:
            assert any(selected(words, markers, shlex.join(addopts)) for words in ci), f"{path}: {sorted(markers)}"
