"""`summarize` and `compare` report test evaluations, and one of many tested seeds that was picked."""

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
        lines = json.loads(called(verb, *arguments, "format=json"))["test_evaluations"]
        text = called(verb, *arguments)
        assert all(line in text for line in lines)
        return lines

    return said


def test_nothing_is_said_of_runs_that_were_not_tested(said, tmp_path):
    add(tmp_path, "other", named="y")
    for n in range(3):
        add(tmp_path / "sweep", str(n), f"seed={n}", tested=False)
    assert said(summarize, "sweep") == []
    assert said(compare, "sweep/0", "sweep/1") == []


def test_the_number_of_an_experiments_test_evaluations_is_reported(said, tmp_path):
    for n in range(2):
        add(tmp_path, f"x{n}", f"optimizer.lr={n + 1}")
    add(tmp_path, "y", named="y")
    assert said(summarize, "x0") == [f"Test evaluations so far: x 2 ({tmp_path / TEST_EVALUATIONS_FILE})"]
    assert said(compare, "x0", "x1") == [f"Test evaluations so far: x 2 ({tmp_path / TEST_EVALUATIONS_FILE})"]
    assert said(summarize, ".") == [f"Test evaluations so far: x 2, y 1 ({tmp_path / TEST_EVALUATIONS_FILE})"]


def test_a_job_of_a_sweep_that_was_evaluated_later(said, tmp_path):
    for n in range(2):
        add(tmp_path / "sweep", str(n), f"seed={n}", tested=False)
    record_test_evaluation(str(tmp_path), Run(tmp_path / "sweep" / "1"), "best", {})
    assert said(summarize, "sweep") == [f"Test evaluations so far: x 1 ({tmp_path / TEST_EVALUATIONS_FILE})"]


def test_a_copy_of_a_run_and_a_folder_that_was_moved_are_found(said, tmp_path):
    theirs = add(tmp_path / "theirs", "x0")
    shutil.copytree(theirs, tmp_path / "ours" / "copied")
    add(tmp_path / "ours", "x1", "optimizer.lr=1")
    (tmp_path / "theirs").rename(tmp_path / "moved")
    assert said(summarize, "ours") == [
        f"Test evaluations so far: x 1 ({tmp_path / 'ours' / TEST_EVALUATIONS_FILE})"
    ]
    assert said(summarize, "moved") == [
        f"Test evaluations so far: x 1 ({tmp_path / 'moved' / TEST_EVALUATIONS_FILE})"
    ]


def test_a_lottery_of_seeds(said, tmp_path):
    for n in range(2):
        add(tmp_path, f"s{n}", f"seed={n}")
    assert not any("setting" in line for line in said(summarize, "."))
    add(tmp_path, "again", "seed=1")  # the same seed is no further ticket
    add(tmp_path, "o0", "seed=0", "optimizer.lr=7")
    assert not any("setting" in line for line in said(summarize, "."))
    add(tmp_path, "s2", "seed=2")
    whole = "3 seeds of one setting were evaluated on the test set: report their mean, not the best of them"
    assert whole in said(summarize, ".")
    picked = "s1 is 1 of 3 seeds of one setting that were each evaluated on the test set"
    for verb, *arguments in ((summarize, "s1"), (compare, "s1", "o0"), (compare, "o0", "s1")):
        assert [line for line in said(verb, *arguments) if line.startswith(picked)], arguments
    assert not any("setting" in line for line in said(summarize, "o0"))
    for n in range(1, 4):
        add(tmp_path, f"o{n}", f"seed={n}", "optimizer.lr=7")
    assert any(line.startswith("3 to 4 seeds of each of 2 settings were") for line in said(summarize, "."))


def test_a_number_that_is_a_seed_by_chance_parts_no_setting_and_joins_none(said, tmp_path):
    for n in range(3):
        add(tmp_path, f"s{n}", f"seed={n}", "data.split_seed=1")  # the same split for all
        add(tmp_path, f"o{n}", f"seed={n}", f"data.split_seed={n + 7}")  # a split for each, by no rule
    assert not any("each of" in line for line in said(summarize, "."))
    assert any(line.startswith("3 seeds of one setting were evaluated") for line in said(summarize, "."))


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
