"""Each extra alone: what it has without what the others bring, and a line where something is missing.

Imports are refused here; tests/test_distribution.py installs the wheel into environments of their own.
"""

import json
import shutil
import subprocess
import sys

import pytest

from leyden.base.extras import OF_TRAIN
from tests import ENGINE
from tests.test_imports import VERBS

# Refuses packages, and calls commands in one process.
REFUSING = """
import contextlib, io, json, runpy, sys
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec

def called(words):
    said = io.StringIO()
    sys.argv = ["leyden", *words]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main()
    except SystemExit as stop:
        return stop.code, said.getvalue()
    return 0, said.getvalue()

refused, commands = json.loads(sys.argv[1])
PathFinder.find_spec = lambda name, *args: None if name in refused else find_spec(name, *args)
"""
CALLED = """
from leyden.__main__ import main
print(json.dumps([called(words) for words in commands]))
"""
NOT_OF_EXACT = ("hydra", "omegaconf", "optuna", "tensorboard")
TABLE = "results.csv"
AIM = (TABLE, "metric=acc", "mode=max")
GIVEN = {  # what is typed of a verb, and what is said where `leyden` alone is installed
    "compare": ([*AIM, "a=model=mlp", "b=model=moe"], "Verdict: B is better"),
    "summarize": (AIM, "best setting is row 1."),
    "plan": ([TABLE, "metric=acc", "difference=0.02"], "then a difference of 0.02 shows."),
    "init": ([], "task=PACKAGE.MODULE.CLASS: name the LightningModule"),
    "new": ([], "give one of model=NAME"),
    "resumetest": (
        ["--", sys.executable, "{dir}"],
        "torch is not installed; pip install 'leyden[exact]' installs it",
    ),
}
MISSING = "is not installed; pip install 'leyden[train]' installs it"


def refusing(script, packages=OF_TRAIN, commands=(), cwd=None):
    words = [sys.executable, "-c", REFUSING + script, json.dumps([packages, commands])]
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd)


def test_leyden_alone_has_the_verbs_of_a_table_and_the_others_name_what_is_missing(tmp_path):
    commands = [[verb, *GIVEN.get(verb, ([],))[0]] for verb in VERBS]
    expected = [GIVEN.get(verb, ((), MISSING))[1] for verb in VERBS]
    commands += [["compare", "runs", "a=x=1", "b=x=2"], ["summarize", "."]]
    expected += [MISSING, MISSING]
    shutil.copy(ENGINE / "docs" / "tables" / TABLE, tmp_path)
    done = refusing(CALLED, commands=commands, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for words, text, (code, printed) in zip(commands, expected, said, strict=True):
        assert text in printed, words
        is_of_table = TABLE in words
        assert code == (0 if is_of_table else 2), words
        assert is_of_table or printed.count("\n") == 1, words


def test_leyden_alone_has_the_front_of_a_table_and_explains_each_verb(tmp_path):
    commands = [["--help"], ["summarize", TABLE, "front=acc:max"]]
    commands += [[verb, "--help"] for verb in VERBS if verb != "train"]
    shutil.copy(ENGINE / "docs" / "tables" / TABLE, tmp_path)
    done = refusing(CALLED, commands=commands, cwd=tmp_path)
    for words, (code, printed) in zip(commands, json.loads(done.stdout), strict=True):
        assert code == 0, (words, printed)


def test_a_name_of_python_says_which_extra_has_it_and_the_plugin_of_pytest_needs_none():
    script = """
import leyden, leyden.testing, leyden.verdict
for door, name in (("exact", "Exact"), ("exact", "mark"), ("data", "Table"), ("run", "Run")):
    try:
        getattr(__import__(f"leyden.{door}", fromlist=[name]), name)
        print(name)
    except ImportError as error:
        print(error)
"""
    done = refusing(script)
    installs = "is not installed; pip install 'leyden[EXTRA]' installs it"
    assert done.stdout.splitlines() == [
        f"leyden.exact.Exact: torch {installs.replace('EXTRA', 'exact')}",
        "mark",
        f"leyden.data.Table: numpy {installs.replace('EXTRA', 'train')}",
        f"leyden.run.Run: yaml {installs.replace('EXTRA', 'train')}",
    ], done.stderr


@pytest.mark.slow
def test_exact_resume_needs_no_more_than_its_extra_brings(tmp_path):
    script = f"""
sys.argv = ["train.py", {str(tmp_path)!r}, "--exact"]
runpy.run_path({str(ENGINE / "tests" / "testing" / "lightning_alone.py")!r}, run_name="__main__")
from leyden.exact import FSDP2, shard
"""
    done = refusing(script, NOT_OF_EXACT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
