"""How one calls this Python is how one can call it in this terminal."""

import sys
from pathlib import Path

import pytest

from leyden.config.terminal import python_command


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
