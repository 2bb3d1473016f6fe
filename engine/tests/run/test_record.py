"""The record of a run: what is written is what is read, by reports too, and damage is one line."""

import json
import math
import os
import zipfile
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leyden.config.errors import UserError
from leyden.config.values import flatten
from leyden.run.directory import Run
from leyden.run.files import damage, read_fingerprints
from leyden.run.lock import is_held
from leyden.run.record import RunRecord, read_record, read_summary
from leyden.run.result import Result, read_curves

NUMBERS = {"epochs": 5, "optimizer_steps": 10, "seconds": 1.0, "samples_per_second": None}
START = {"time": "2026-01-01T00:00:00+00:00", "overrides": ["seed=1"], "job": "7", "data": {"a": "b"}}
START |= {"git": {"diff": "+a\n" * 9}}
SCALARS = st.none() | st.booleans() | st.integers(-(10**39), 10**39) | st.floats() | st.text()
KEYS = st.text() | st.sampled_from(["a.b", "[0]", "", "'"])
INNER = st.recursive(SCALARS, lambda part: st.lists(part, max_size=3) | st.dictionaries(KEYS, part, max_size=3))
CONFIGS = st.dictionaries(KEYS, INNER, max_size=5)


@given(CONFIGS)
@example({"a": {"b": 1}, "a.b": 2, "a[0]": 3, "": 4})
def test_a_configuration_is_read_as_it_was_written(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("run")
    config.pop("name", None)
    RunRecord(config, [START]).write(folder)
    assert repr(sorted(read_record(folder).config.items())) == repr(sorted(config.items()))
    assert repr(sorted(read_summary(str(folder)).config.items())) == repr(sorted(flatten(config)))


@pytest.mark.parametrize("value", [math.nan, -math.inf, None])
def test_what_is_written_is_read(tmp_path, value):
    error = None if value else {"type": "E", "message": "a\nb", "where": "é"}
    objective = {"metric": "m", "mode": "min", "value": value}
    status = "finished" if value else "failed"
    result = Result.from_dict({"status": status, "objective": objective, "metrics": {}, **NUMBERS, "error": error})
    config = {"name": "é", "x": value, "y": [1, 1.0, True, "\u2028"], "z": {}, "m": {"n": [{"o": "x" * 10**5}]}}
    record = RunRecord(config, [START, {**START, "job": None}], result)
    record.write(tmp_path)
    assert repr(read_record(tmp_path)) == repr(record)
    summary = read_summary(tmp_path)
    assert repr((summary.config, summary.result)) == repr((dict(flatten(record.config)), result))
    assert len(digest := summary.head["data"]) == 32
    assert summary.head == {"overrides": ["seed=1"], "times": [START["time"]] * 2, "data": digest, "job": None}
    lines = (tmp_path / "run.json").read_text().splitlines()
    assert lines[1] == f'"status": "{result.status}",'
    # By another program's formatting, and in another order.
    content = json.loads((tmp_path / "run.json").read_text())
    for indent in (None, 2):
        (tmp_path / "run.json").write_text(json.dumps(dict(reversed(content.items())), indent=indent))
        assert repr(read_summary(tmp_path)) == repr(summary)
        assert repr(read_record(tmp_path)) == repr(replace(record, is_own=False))


def test_no_record_is_none_and_damage_is_one_line(tmp_path):
    assert read_record(tmp_path) is None
    RunRecord({"name": "x"}, [START]).write(tmp_path)
    whole = (tmp_path / "run.json").read_bytes()
    for end in range(len(whole) - 2):
        (tmp_path / "run.json").write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"not a run directory, run\.json can't be read \([^\n]*\)$"):
            read_record(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "readers"),
    [
        ('"y": 2', '"y": 2, "name": 3', (read_record, read_summary)),
        ('"y": 2', '"y": 2}, "config": 3, "other": {"z": 1', (read_record, read_summary)),
        ('"y": 2', f'"y": {"[" * 9999}{"]" * 9999}', (read_record, read_summary)),
        ('"y": 2', '"name": "a\\n"', (read_record, read_summary)),
        ('"status": "finished"', '"status": null}, {', (read_record, read_summary)),
        ('"data": ""', '"data": 1', (read_summary,)),
        ('"overrides": ["seed=1"]', '"overrides": [1]', (read_summary,)),
        # A result of other types, which would end a report of all runs below a folder.
        *((f'"{key}": ', f'"{key}": {value}, "": ', (read_record, read_summary)) for key, value in [
            ("status", '["a"]'), ("status", "{}"), ("epochs", '"x"'), ("epochs", "[1]"), ("epochs", 10**400),
            ("stages", "[1]"), ("stages", '"test"'), ("seconds", '"x"'), ("metrics", "[1]"),
            ("metrics", '{"a": "x"}'), ("metrics", f'{{"a": {10**400}}}'), ("stages", '{"val": 5}'), ("stages", '{"val": [[]]}'),
            ("stages", '{"test": ["x"]}'),
        ]),
        ('"epochs": 5', '"": 5', (read_record, read_summary)),
    ],
)  # fmt: skip
def test_what_no_run_writes_is_one_line(tmp_path, old, new, readers):
    result = Result.from_dict({"status": "finished", "objective": None, "metrics": {}, **NUMBERS})
    RunRecord({"y": 2}, [{**START, "data": {}}], result).write(tmp_path)
    text = (tmp_path / "run.json").read_text()
    assert old in text
    (tmp_path / "run.json").write_text(text.replace(old, new, 1))
    for read in readers:
        with pytest.raises(UserError, match=r"not a run directory, run\.json can't be read \([^\n]*\)$"):
            read(tmp_path)


@pytest.mark.parametrize("content", ["[" * 99999, "[1]", '{"job_id": 5}', '{"log": "a"}'])
def test_the_note_of_a_job_is_texts(tmp_path, content):
    (tmp_path / "job.json").write_text(content)
    with pytest.raises(UserError, match=r"job\.json: (is damaged|can't be read)"):
        _ = Run(tmp_path).submission


def test_a_checkpoint_that_is_compressed_is_refused_unread(tmp_path):
    with zipfile.ZipFile(tmp_path / "best.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", "0" * 999)
    assert damage(tmp_path / "best.ckpt") == "is compressed, as PyTorch's files never are"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_nothing_waits_for_a_pipe_or_reads_a_device(tmp_path, make):
    for name in ("run.json", "metrics.csv", "fingerprint.csv", "best.ckpt", "job.json", ".lock.0"):
        make(tmp_path / name)
    assert read_curves(tmp_path / "metrics.csv") == {}
    assert not is_held(tmp_path)
    assert damage(tmp_path / "best.ckpt") == "is not a regular file"
    with pytest.raises(OSError, match="is not a regular file"):
        read_fingerprints(tmp_path)
    for read in (read_record, read_summary, lambda directory: Run(directory).submission):
        with pytest.raises(UserError, match=r"can't be read \(is not a regular file\)"):
            read(tmp_path)
