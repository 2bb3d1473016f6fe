"""How one calls this Python is how one can call it in this terminal."""

import sys
from pathlib import Path

import pytest

from leyden.config.terminal import leyden_command, python_command


@pytest.fixture
def outside(monkeypatch):
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin")
    return monkeypatch


def test_by_its_path(outside, tmp_path):
    outside.setattr(sys, "executable", str(tmp_path / "my env" / "bin" / "python"))
    assert python_command() == f"'{tmp_path}/my env/bin/python'"
    outside.chdir(tmp_path)
    assert python_command() == "'my env/bin/python'"


def test_by_its_name_where_that_is_the_one(outside):
    outside.setenv("PATH", str(Path(sys.executable).parent))
    assert python_command() == "python"


def test_by_uv(outside):
    outside.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert python_command() == "uv run python"


def test_a_verb_by_the_program_beside_this_python(outside, tmp_path):
    outside.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    outside.chdir(tmp_path)
    assert leyden_command("train") == "bin/python -m leyden.train"  # the program is not installed
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "leyden").touch(mode=0o755)
    assert leyden_command("train") == "bin/leyden train"
    outside.setenv("PATH", str(tmp_path / "bin"))
    assert leyden_command("train") == "leyden train"
    outside.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert leyden_command("train") == "uv run leyden train"
