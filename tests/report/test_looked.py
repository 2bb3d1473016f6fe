"""What `summarize` and `compare` say of looks at the test set."""

import importlib
import json
import re
import shutil

import pytest

from leyden import compare, summarize
from leyden.config.paths import ROOT
from leyden.report import summary
from leyden.run.directory import Run
from leyden.run.looks import NAME, record_look
from tests.report.test_summary import write


def add(folder, name, *overrides, tested=True, named="x", value=0.5):
    """A run, which has looked at the test set in the end."""
    directory = folder / name
    write(directory, [f"name={named}", *overrides], value=value)
    if tested:
        path = directory / "result.json"
        result = json.loads(path.read_text())
        _, look = record_look(str(folder), Run(directory), "best", {"test/acc": 0.9})
        result["metrics"]["test/acc"] = 0.9
        path.write_text(json.dumps({**result, "look": vars(look)}))
    return directory


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr(summary, "draw", lambda *args, **kwargs: b"")  # they take a second each


@pytest.fixture
def said(called, tmp_path):
    """What is said of looks by a verb, line by line."""

    def said(verb, *arguments):
        lines = json.loads(called(verb, *arguments, "format=json"))["looks"]
        text = called(verb, *arguments)
        assert all(line in text for line in lines)
        return lines

    return said


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


def test_runs_that_have_not_looked_are_told_nothing(said, tmp_path):
    add(tmp_path, "other", named="y")
    for n in range(3):
        add(tmp_path / "sweep", str(n), f"seed={n}", tested=False)
    assert said(summarize, "sweep") == []
    assert said(compare, "sweep/0", "sweep/1") == []


def test_how_often_the_experiment_has_looked(said, tmp_path):
    for n in range(2):
        add(tmp_path, f"x{n}", f"optimizer.lr={n + 1}")
    add(tmp_path, "y", named="y")
    assert said(summarize, "x0") == [f"Looks at the test set so far: x 2 ({tmp_path / NAME})"]
    assert said(compare, "x0", "x1") == [f"Looks at the test set so far: x 2 ({tmp_path / NAME})"]
    assert said(summarize, ".") == [f"Looks at the test set so far: x 2, y 1 ({tmp_path / NAME})"]


def test_a_job_of_a_sweep_that_was_evaluated_later(said, tmp_path):
    for n in range(2):
        add(tmp_path / "sweep", str(n), f"seed={n}", tested=False)
    record_look(str(tmp_path), Run(tmp_path / "sweep" / "1"), "best", {})
    assert said(summarize, "sweep") == [f"Looks at the test set so far: x 1 ({tmp_path / NAME})"]


@pytest.mark.parametrize(("edit", "at"), [(lambda lines: lines.pop(1), 2), (lambda lines: lines.reverse(), 1)])
def test_a_list_that_was_edited(said, tmp_path, edit, at):
    for n in range(3):
        add(tmp_path, f"x{n}", f"optimizer.lr={n + 1}")
    lines = lines_of(tmp_path / NAME)
    edit(lines)
    (tmp_path / NAME).write_bytes(b"".join(lines))
    for verb, *arguments in ((summarize, "x2"), (compare, "x1", "x2")):
        assert any(f"{NAME}: a line was removed or changed at line {at}" in line for line in said(verb, *arguments))


@pytest.mark.parametrize("num", [0, 3])  # of lines that are left: the list is gone, or its last line
def test_a_run_whose_line_is_gone(said, tmp_path, num):
    for n in range(3):
        add(tmp_path, f"x{n}", f"optimizer.lr={n + 1}")
    missing = f"{tmp_path / NAME}: a line is missing, of the look by x2"
    assert missing not in said(summarize, "x2")
    lines = lines_of(tmp_path / NAME)
    (tmp_path / NAME).write_bytes(b"".join(lines[:num]))
    if not num:
        (tmp_path / NAME).unlink()
    for verb, *arguments in ((summarize, "x2"), (compare, "x0", "x2")):
        assert any(line.startswith(f"{tmp_path / NAME}: a line is missing") for line in said(verb, *arguments))
    assert (missing in said(summarize, "x0")) is False
    assert missing in said(summarize, "x2")


def test_runs_that_come_from_elsewhere_are_not_suspected(said, tmp_path):
    """A copy of a run, the whole of outputs/ moved, and a run of an older engine."""
    theirs = add(tmp_path / "theirs", "x0")
    shutil.copytree(theirs, tmp_path / "ours" / "copied")
    add(tmp_path / "ours", "x1", "optimizer.lr=1")
    (tmp_path / "theirs").rename(tmp_path / "moved")
    older = add(tmp_path / "ours", "older", "optimizer.lr=2", tested=False)
    result = json.loads((older / "result.json").read_text())
    result["metrics"]["test/acc"] = 0.9
    (older / "result.json").write_text(json.dumps(result))
    assert said(summarize, "ours") == [f"Looks at the test set so far: x 1 ({tmp_path / 'ours' / NAME})"]
    assert said(summarize, "moved") == [f"Looks at the test set so far: x 1 ({tmp_path / 'moved' / NAME})"]


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


def test_seeds_that_did_not_look_are_no_lottery(said, tmp_path):
    add(tmp_path, "s0", "seed=0")
    for n in range(1, 5):
        add(tmp_path, f"s{n}", f"seed={n}", tested=False)
    assert not any("setting" in line for line in said(summarize, "."))


def test_a_list_that_can_not_be_read_is_named(tmp_path, capsys):
    add(tmp_path, "x0")
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).mkdir()
    summary.summarize(tmp_path / "x0", lambda ids: {})
    assert f"{tmp_path / NAME} can't be read" in capsys.readouterr().err


@pytest.mark.parametrize("outputs", ["\0", "x" * 5000, "/dev/null", ""])
def test_a_strangers_result_names_any_place(called, tmp_path, outputs):
    directory = add(tmp_path, "x0")
    result = json.loads((directory / "result.json").read_text())
    (directory / "result.json").write_text(json.dumps({**result, "look": {"outputs": outputs, "chain": ""}}))
    assert "Looks at the test set so far: x 1" in called(summarize, "x0")


LINES = re.findall(r"^python -m leyden\.(\w+) (.*)$", (ROOT / "docs" / "test_set.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("verb", "typed"), LINES)
def test_the_commands_of_the_page(called, tmp_path, verb, typed):
    for n, name in enumerate("ab"):
        add(tmp_path / "outputs" / "mnist_mlp", name, f"optimizer.lr={n + 1}")
    assert "Looks at the test set so far" in called(importlib.import_module(f"leyden.{verb}"), *typed.split())
