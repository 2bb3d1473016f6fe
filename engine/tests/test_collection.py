"""Each test is run by a command that `.ci/run` runs, or that the workflow at night runs, and workflows run both."""

import collections
import itertools
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from _pytest.mark.expression import (
    Expression,
)  # pytest has no public way to ask whether `-m` takes a test

from tests import ENGINE, ROOT, conftest
from tests.conftest import COLLECTED, is_drawn, is_left_to_the_night
from tests.example import git
from tests.pages.commands import PAGES


@pytest.fixture(scope="module")
def collected(pytestconfig):
    """The markers of all tests that pytest finds, by file and function."""
    tests = pytestconfig.stash[COLLECTED]
    if {pytestconfig.rootpath / each for each in pytestconfig.args} != {ENGINE / "tests"}:
        pytest.skip("this command names some files only; -k collection finds all")
    found = collections.defaultdict(lambda: collections.defaultdict(set))
    for path, function, markers in tests:
        found[path][function].add(markers)
    return found


@pytest.fixture(scope="module")
def ci(tmp_path_factory):
    """The library's commands of pytest that `.ci/run` and the workflow at night come to, by a `make` that says what it would do."""
    place = tmp_path_factory.mktemp("ci")
    for name, line in {"make": f'{shutil.which("make")} -n "$@"', "apt-get": ":"}.items():
        (place / name).write_text(f"#!/bin/sh\n{line}\n")
        (place / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{place}:{os.environ['PATH']}"}
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yml").read_text())
    nightly = "\n".join(step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step)
    how = {"cwd": ROOT, "env": environment, "text": True}
    output = "".join(
        subprocess.check_output(["bash", *words], **how) for words in ([".ci/run"], ["-c", nightly])
    )
    python = str(
        ENGINE.parent / ".venv" / "bin" / "python"
    )  # by engine/Makefile; the project's is relative
    lines = [shlex.split(line, comments=True) for line in output.replace("\\\n", " ").splitlines()]
    commands = [
        [*itertools.dropwhile(lambda word: "=" in word, words)] for words in lines
    ]  # without variables
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
    for words in ci:
        assert not re.search(" (--ignore|--deselect|-k)", " ".join(["", *words]))
    for path, functions in collected.items():
        for markers in set.union(*functions.values()):
            assert any(selected(words, markers, shlex.join(addopts)) for words in ci), (
                f"{path}: {sorted(markers)}"
            )


def test_workflows_run_what_a_change_must_pass_and_each_test_knows_that_it_is_in_ci():
    workflows = [
        yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")
    ]
    jobs = [job for workflow in workflows for job in workflow["jobs"].values()]
    commands = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    assert "bash .ci/run" in commands
    assert not [command for command in commands if "sudo" in command]  # it drops CI


def test_what_is_run_at_night_alone_is_in_the_table_of_contributing(collected):
    """Of a test with cells by day a part is seen; of these nothing is, but for the draw."""
    page = PAGES["CONTRIBUTING"].read_text().partition("## What only a night sees")[2]
    alone = set()
    for functions in collected.values():
        for name, kinds in functions.items():
            if all("nightly" in markers for markers in kinds):
                alone.add(name)
    assert {*re.findall(r"`(test_\w+)`", page)} == alone


def test_commits_draw_other_tests_of_the_night_until_all_were_drawn(monkeypatch):
    tests = [f"tests/test_a.py::test_b[{number}]" for number in range(400)]
    draws = []
    for seed in range(90):
        draws.append({test for test in tests if is_drawn(test, str(seed))})
    for draw in draws:
        assert 15 < len(draw) < 70
    assert set.union(*draws) == {*tests}

    def is_left(test, **given):
        marker = pytest.mark.nightly(**given).mark
        return is_left_to_the_night(
            SimpleNamespace(nodeid=test, get_closest_marker=lambda name: marker)
        )

    monkeypatch.setattr(conftest, "NIGHTLY_SEED", "7")
    assert {test for test in tests if not is_left(test)} == draws[7]
    assert all(is_left(test, alone=True) for test in tests)
    monkeypatch.setattr(conftest, "NIGHTLY_SEED", None)
    assert all(map(is_left, tests))
