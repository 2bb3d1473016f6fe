"""`summarize` and `compare` report test evaluations."""

import importlib
import json
import re
import shutil

import pytest

from leyden import compare, summarize
from leyden.report import summary
from leyden.run.directory import Run
from leyden.run.evaluations import TEST_EVALUATIONS_FILE, record_test_evaluation
from tests import ENGINE, records
from tests.report.test_summary import write


def add(folder, name, *overrides, tested=True, named="x", value=0.5):
    """A run, which was evaluated on the test set in the end."""
    directory = folder / name
    write(directory, [f"name={named}", *overrides], value=value)
    if tested:
        result = records.content(directory)
        record_test_evaluation(str(folder), Run(directory), "best", {"test/acc": 0.9})
        result["metrics"]["test/acc"] = 0.9
        result["stages"] = {"test": ["test/acc"]}
        records.put(directory, result=result)
    return directory


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr(summary, "draw_summary", lambda *args, **kwargs: b"")  # they take a second each


@pytest.fixture
def said(called, tmp_path):
    """The lines of a verb on test evaluations."""

    def said(verb, *arguments):
        found = json.loads(called(verb, *arguments, "format=json"))["remarks"]
        lines = [line for line in found if "est evaluations" in line]
        assert [line for line in called(verb, *arguments).splitlines() if "Test evaluations" in line] == lines
        return lines

    return said


def test_the_number_of_an_experiments_test_evaluations_is_reported(said, tmp_path):
    for n in range(2):
        add(tmp_path, f"x{n}", f"optimizer.lr={n + 1}")
    add(tmp_path, "y", named="y")
    for n in range(3):
        add(tmp_path / "sweep", str(n), f"seed={n}", tested=False, named="z")
    for arguments, nums in (
        ((summarize, "x0"), "x 2"),
        ((compare, "x0", "x1"), "x 2"),
        ((summarize, "."), "x 2, y 1"),
    ):
        assert said(*arguments) == [f"Test evaluations so far: {nums} ({tmp_path / TEST_EVALUATIONS_FILE})"]
    assert said(summarize, "sweep") == said(compare, "sweep/0", "sweep/1") == []


def test_a_copy_of_a_run_and_a_folder_that_was_moved_are_found(said, tmp_path):
    theirs = add(tmp_path / "theirs", "x0")
    shutil.copytree(theirs, tmp_path / "ours" / "copied")
    add(tmp_path / "ours", "x1", "optimizer.lr=1")
    (tmp_path / "theirs").rename(tmp_path / "moved")
    for name in ("ours", "moved"):
        where = tmp_path / name / TEST_EVALUATIONS_FILE
        assert said(summarize, name) == [f"Test evaluations so far: x 1 ({where})"]


def test_a_list_that_can_not_be_read_is_named(tmp_path, capsys):
    add(tmp_path, "x0")
    (tmp_path / TEST_EVALUATIONS_FILE).unlink()
    (tmp_path / TEST_EVALUATIONS_FILE).mkdir()
    summary.summarize(tmp_path / "x0")
    assert f"{tmp_path / TEST_EVALUATIONS_FILE} can't be read" in capsys.readouterr().err


LINES = re.findall(r"^leyden (\w+) (.*)$", (ENGINE / "docs" / "test_set.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("verb", "typed"), LINES)
def test_the_commands_of_the_page(called, tmp_path, verb, typed):
    for n, name in enumerate("ab"):
        add(tmp_path / "outputs" / "mnist_mlp", name, f"optimizer.lr={n + 1}")
    assert "Test evaluations so far" in called(importlib.import_module(f"leyden.{verb}"), *typed.split())
