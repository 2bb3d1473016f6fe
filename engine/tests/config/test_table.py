"""What is printed: a table as wide as a terminal, the same rows as CSV and JSON, and commands that can be typed."""

import csv
import io
import json
import os
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from leyden.base.table import csv_text, json_text, table_lines
from leyden.base.terminal import leyden_command

RUNS = [
    {"run": "outputs/a/" + "x" * 40 + "-1", "n": 3, "lr": 0.1},
    {"run": "b", "n": 12, "lr": None},
    {"n": 1234},
]
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")
NAN = float("nan")
INF = float("inf")
CELLS = st.text() | st.floats() | st.none()


@pytest.mark.parametrize(
    ("rows", "options", "lines"),
    [
        # A pipe gets whole lines; whole numbers stand at the right; what a row lacks is a gap, and null is a value.
        (RUNS[1:], {}, ["run     n  lr", "b      12  null", "     1234"]),
        (RUNS[:1], {}, ["run" + " " * 49 + "  n  lr", "outputs/a/" + "x" * 40 + "-1  3  0.1"]),
        # On a terminal the widest cells lose their middle.
        (RUNS[:1], {"width": 30}, ["run" + " " * 21 + "n  lr", "outpu…" + "x" * 14 + "-1  3  0.1"]),
        ([{"a": 1, "b": 2}], {"width": 1}, ["a  b", "1  2"]),
        # A wide character takes two columns.
        ([{"a": "猫", "b": 1}, {"a": "abc", "b": 2}], {}, ["a    b", "猫   1", "abc  2"]),
        ([{"a": "猫" * 9}], {"width": 10}, ["a", "猫… 猫猫猫"]),
        # No cell and no name of a column can write elsewhere on the terminal.
        (
            [{"a\n": "\x1b[31m", "b": "c\nd\te\u202e\udcff"}],
            {},
            ["a\\n       b", r"\x1b[31m  c\nd\te\u202e\udcff"],
        ),
        (
            [{"a": NAN, "b": INF, "c": 123456.7, "d": True}],
            {"header": False},
            ["nan  inf  1.235e+05  True"],
        ),
        ([{"optimizer.lr": 1}], {"names": {"optimizer.lr": "lr"}}, ["lr", " 1"]),
        ([{"a": 1, "b": 2}], {"columns": ["b", "c"]}, ["b  c", "2"]),
        ([], {"columns": ["a", "b"]}, ["a  b"]),
        ([], {}, []),
    ],
)
def test_the_lines_of_a_table(rows, options, lines):
    assert table_lines(rows, **options) == lines


@given(st.lists(st.dictionaries(st.sampled_from("abc"), CELLS), min_size=1), st.text())
def test_a_table_fits_and_has_no_control_characters(rows, text):
    lines = table_lines(rows, width=30)
    for line in lines:
        assert cell_len(line) <= 30
        assert not UNSAFE.search(line)
    assert len(lines) == 1 + len(rows) or not any(rows)
    _, (found,) = read(csv_text([{"x": text}]))
    assert not {"\x1b", "\x9b"} & {*found}


def read(text):
    return [*csv.reader(io.StringIO(text, newline=""))]


def test_the_same_rows_in_other_forms():
    texts = ["-0.5", "+1e5", "-inf", "nan", "0.1,0.2", "a=b", "a\nb", "猫", "\udcff", ""]
    for value in (*texts, -0.5, -1e-9, NAN, True, [1]):
        assert read(csv_text([{"x": value}])) == [["x"], [str(value)]]
    assert read(csv_text(RUNS[1:])) == [["run", "n", "lr"], ["b", "12", "null"], ["", "1234", ""]]
    assert read(csv_text([], ["a", "b"])) == [["a", "b"]]


def test_json_has_no_value_that_is_no_json():
    text = json_text([{"a": NAN, "b": [INF, {"c": -INF}], "d": (1.5, "\x1b\u202e")}])
    (row,) = json.loads(text)
    assert row == {"a": None, "b": [None, {"c": None}], "d": [1.5, "\x1b\u202e"]}
    assert text.isascii()
    assert "\x1b" not in text


def test_a_reader_that_has_left_is_no_error():
    for words in (["leyden", "runs", "--help"], ["leyden.train", "--help"]):
        command = [sys.executable, "-m", *words]
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
        os.close(writer)
        assert done.returncode == 141
        assert done.stderr == ""


def test_a_verb_by_the_program_beside_this_python(monkeypatch, tmp_path):
    """How one calls this Python is how one can call it in this terminal."""
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin")
    programs = tmp_path / "bin"
    python = programs / "python"
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.chdir(tmp_path)
    programs.mkdir()
    python.touch(mode=0o755)
    assert leyden_command("train") == "bin/python -m leyden.train"  # the program is not installed
    (programs / "leyden").touch(mode=0o755)
    assert leyden_command("train") == "bin/leyden train"
    monkeypatch.setenv("PATH", str(programs))
    assert leyden_command("train") == "leyden train"
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert leyden_command("train") == "uv run leyden train"
