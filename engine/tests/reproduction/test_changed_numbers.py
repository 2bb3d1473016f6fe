"""What the action says on a pull request, by runs that are made up; at night, of three planted commits."""

import random
from types import SimpleNamespace

import pytest
import yaml

from leyden.base.errors import UserError
from leyden.config.checks import Objective
from tests import ENGINE, example
from tests.example import git

ACTION = ENGINE / "action"
program = example.script(ACTION / "changed_numbers.py")
# Bits of the base, of the base again, of the head; their first losses; the head's accuracy; and what is said.
JUDGED = [
    ("aaa", (2.0, 2.0), 0.9, "same", "same bits"),
    (
        "aab",
        (2.0, 2.0000004),
        0.9,
        "rounding",
        "first by 2e-07 of train/loss at step 0, as rounding",
    ),
    ("aab", (2.0, 2.0), 0.9, "rounding", "no metric shows it, as rounding does; within the base's"),
    ("aab", (2.0, 2.1), 0.9, "numbers", "more than rounding; within the base's own noise: val/acc"),
    ("aab", (2.0, 2.1), 0.5, "beyond", "beyond the base's own noise: val/acc 0."),
    ("abc", (2.0, 2.1), 0.9, "numbers", "the base parts from itself, so bits say nothing; within"),
    ("abc", (2.0, 2.1), 0.5, "beyond", "the base parts from itself, so bits say nothing; beyond"),
]


@pytest.mark.parametrize(("bits", "losses", "accuracy", "kind", "text"), JUDGED)
def test_bits_the_first_difference_and_the_noise_are_told(
    tmp_path, monkeypatch, bits, losses, accuracy, kind, text
):
    def trained(self, code, number=0, place=""):
        is_head = code == "head"
        found = bits[2 if is_head else int(bool(place))]
        noise = random.Random(f"{found} {number}").gauss(0, 0.005)
        value = (accuracy if is_head else 0.9) + noise
        result = SimpleNamespace(objective=Objective("val/acc", "max", value))
        folder = tmp_path / f"{code}{place}"
        folder.mkdir(exist_ok=True)
        rows = f"0,train/acc,{value}\n0,train/loss,{losses[is_head]}\n0,time/x,{noise}\n"
        if losses[0] == losses[1]:
            rows = "0,train/loss,2.0\n"
        (folder / "metrics.csv").write_text(f"step,metric,value\n{rows}")
        return SimpleNamespace(result=result, bits=found, directory=folder)

    def equality(a, b):
        line = "diverged: step 1 is the first fingerprint that differs, in weights"
        return a.bits == b.bits, [line], []

    monkeypatch.setattr(program.Judge, "trained", trained)
    monkeypatch.setattr(program, "equality", equality)
    found = program.Judge(SimpleNamespace(directory=tmp_path), "base", "head", tmp_path).judge()
    assert found.kind == kind, found
    assert text in found.text, found
    assert program.comment({"runs/a": found}).startswith(program.MARK)


def test_what_is_typed_wrong_is_a_line(tmp_path, monkeypatch):
    git(tmp_path, "init", "-q")
    monkeypatch.setattr(program, "root", lambda: tmp_path)
    for words, said in (([], "usage"), (["base=--all", "x"], "base=--all: is no commit")):
        with pytest.raises(UserError, match=said):
            program.main(words)


def test_the_action_finds_its_comment_by_the_mark_and_quotes_what_others_have_typed():
    text = (ACTION / "action.yml").read_text()
    action = yaml.safe_load(text)
    assert program.MARK in text
    for step in action["runs"]["steps"]:
        assert "${{" not in step["run"]  # what a pull request names comes by the environment
    assert {*program.OPTIONS} == {"base", "head", "seeds", "comment", "data_root"}
    for key in program.OPTIONS:
        assert f'{key}="$' in action["runs"]["steps"][0]["run"]


@pytest.mark.slow
@pytest.mark.nightly
def test_a_refactoring_a_rounding_and_a_mistake_are_said_rightly(tmp_path, monkeypatch):
    planted = example.script(ENGINE / "bench" / "planted.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("leyden.trained.reproduction.root", lambda: tmp_path / "here")
    (tmp_path / "here").mkdir()
    names = ["another name", "two halves of a sum", "labels off by one"]
    assert planted.main(tmp_path / "here", names)
