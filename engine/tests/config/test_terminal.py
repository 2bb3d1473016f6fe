"""How one calls this Python is how one can call it in this terminal."""

import os
import subprocess
import sys

import pytest

from leyden.config.terminal import leyden_command


@pytest.mark.parametrize("words", [["leyden", "runs", "--help"], ["leyden.train", "--help"]])
def test_a_reader_that_has_left_is_no_error(words):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", *words], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_verb_by_the_program_beside_this_python(monkeypatch, tmp_path):
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch(mode=0o755)
    assert leyden_command("train") == "bin/python -m leyden.train"  # the program is not installed
    (tmp_path / "bin" / "leyden").touch(mode=0o755)
    assert leyden_command("train") == "bin/leyden train"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert leyden_command("train") == "leyden train"
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert leyden_command("train") == "uv run leyden train"
