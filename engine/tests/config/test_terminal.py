"""How one calls this Python is how one can call it in this terminal."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.config.terminal import csv_text, leyden_command, metric_text, python_command


def cell(value):
    (row,) = csv.reader(io.StringIO(csv_text([["x", value]]), newline=""))
    return row[1]


@pytest.mark.parametrize(
    "value", [-0.5, -1e-9, "-0.5", "+1e5", "-inf", "nan", "0.1,0.2", "a=b", "a\nb", "猫", "\udcff", ""]
)
def test_numbers_and_plain_texts_are_themselves_in_a_csv_file(value):
    assert cell(value) == str(value)


@pytest.mark.parametrize(
    "text", ["=1+1", "=HYPERLINK(1)", "+x", "-x", "- 1", "@SUM(1)", "\t=1", "\n=1", "=\x1b[31m"]
)
def test_a_formula_is_a_text_in_a_csv_file(text):
    assert cell(text).startswith("'")


@given(st.text())
def test_no_cell_is_an_escape_sequence_or_a_formula(text):
    found = cell(text)
    assert "\x1b" not in found
    assert "\x9b" not in found
    if found.startswith(("=", "+", "-", "@", "\t")):
        float(found)


@pytest.mark.parametrize(
    "words", [["leyden"], ["leyden", "runs", "--help"], ["leyden.new", "-h"], ["leyden.train", "--help"]]
)
def test_a_reader_that_has_left_is_no_error(words):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", *words], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


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


@given(value=st.floats(), spread=st.none() | st.floats(min_value=0))
def test_a_metric_keeps_two_digits_of_its_spread_and_its_own_size(value, spread):
    own, _, beside = metric_text(value, spread).partition(" ± ")
    assert len(own) <= 16
    assert (spread is None) == (beside == "")
    if abs(value) < 1e308 and (spread is None or spread < 1e308):  # larger ones may round to infinity
        unit = max(1.0, abs(value)) if abs(value) >= 1e-3 else abs(value)
        off = max(0.06 * spread, 1e-8 * unit) if spread else 0.06 * abs(value)
        assert float(own) == pytest.approx(value, abs=off, rel=0)
        assert not spread or float(beside) == pytest.approx(spread, rel=0.11)


def test_usual_metrics_have_four_decimals():
    assert metric_text(0.97954) == "0.9795"
    assert metric_text(0.97954, 0.00137) == "0.9795 ± 0.0014"
    assert metric_text(12.3456789, 1.23456) == "12.3457 ± 1.2346"
