"""The record of a run and its points: what is written is what is read, by reports too, and damage is one line."""

import csv
import json
import math
import os
import shutil
import zipfile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leyden.base.errors import UserError
from leyden.config.values import flatten
from leyden.exact.files import damage
from leyden.loggers import MetricsCSV
from leyden.report.ranking import read_sweep
from leyden.run.curves import HEADER, read_curves, read_points
from leyden.run.directory import Run
from leyden.run.files import read_fingerprints, write_json
from leyden.run.lock import is_held
from leyden.run.record import RunRecord, read_record, read_summary
from leyden.run.result import Result
from tests import mistakes, records

NUMBERS = {"epochs": 5, "optimizer_steps": 10, "seconds": 1.0, "samples_per_second": None}
START = {
    "time": "2026-01-01T00:00:00+00:00",
    "overrides": ["seed=1"],
    "job": "7",
    "data": {"a": "b"},
    "git": {"diff": "+a\n" * 9},
    "groups": {"model": "mlp"},
    "machine": {"threads": 2},
}
SCALARS = st.none() | st.booleans() | st.integers(-(10**39), 10**39) | st.floats() | st.text()
KEYS = st.text() | st.sampled_from(["a.b", "[0]", "", "'"])


def containers(part):
    return st.lists(part, max_size=3) | st.dictionaries(KEYS, part, max_size=3)


CONFIGS = st.dictionaries(KEYS, st.recursive(SCALARS, containers), max_size=5)
READERS = {"both": (read_record, read_summary), "record": (read_record,)}
DAMAGED = r"not a run directory, run\.json can't be read \([^\n]*\)$"


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
    result = Result.from_dict(
        {"status": status, "objective": objective, "metrics": {}, **NUMBERS, "error": error}
    )
    config = {
        "name": "é",
        "x": value,
        "y": [1, 1.0, True, "\u2028"],
        "z": {},
        "m": {"n": [{"o": "x" * 10**5}]},
    }
    record = RunRecord(config, [START, START | {"job": None}], result)
    record.write(tmp_path)
    assert repr(read_record(tmp_path)) == repr(record)
    summary = read_summary(tmp_path)
    assert repr(summary.config) == repr(dict(flatten(config)))
    assert repr(summary.result) == repr(result)
    digest = summary.head["data"]
    assert len(digest) == 32
    assert summary.head == {
        "overrides": ["seed=1"],
        "times": [START["time"]] * 2,
        "data": digest,
        "job": None,
        "groups": {"model": "mlp"},
        "threads": 2,
    }
    lines = (tmp_path / "run.json").read_text().splitlines()
    assert lines[1:3] == [' "format": 1,', f' "status": "{status}",']
    # By another program's formatting, and in another order.
    for name in ("run.json", "starts.json"):
        content = json.loads((tmp_path / name).read_text())
        (tmp_path / name).write_text(json.dumps(dict(reversed(content.items()))))
        assert repr(read_summary(tmp_path)) == repr(summary)
        assert repr(read_record(tmp_path)) == repr(record)


LATER = START | {"time": "2026-01-02T00:00:00+00:00"}


def test_killed_between_its_two_files_a_record_is_as_it_was(tmp_path):
    first = RunRecord({"name": "x"}, [START])
    second = RunRecord({"name": "x"}, [START, LATER])
    first.write(tmp_path)
    before = (tmp_path / "run.json").read_bytes()
    second.write(tmp_path)
    assert read_record(tmp_path) == second
    (tmp_path / "run.json").write_bytes(before)
    assert read_record(tmp_path) == first


def test_starts_of_another_run_are_foreign(tmp_path):
    run = tmp_path / "run"
    other = tmp_path / "other"
    run.mkdir()
    other.mkdir()
    RunRecord({"name": "x"}, [START]).write(run)
    assert read_record(run).is_own
    for starts in ([LATER], [], [LATER, START]):
        RunRecord({}, starts).write(other)
        shutil.copy(other / "starts.json", run)
        assert not read_record(run).is_own
    records.sign(run, {"format": 1, "starts": [START]}, name="starts.json", is_own=False)
    assert not read_record(run).is_own
    (run / "starts.json").unlink()
    with pytest.raises(UserError, match=r"starts\.json can't be read \(No such file"):
        read_record(run)
    assert read_summary(str(run)).head["times"] == [START["time"]]


def test_a_file_in_another_format_is_one_line(tmp_path):
    RunRecord({"name": "x"}, [START]).write(tmp_path)
    Run(tmp_path).submission = {"job_id": "7"}
    write_json(tmp_path / "sweep.json", {"name": "x"})
    reads = {
        "run.json": lambda: (read_record(tmp_path), read_summary(str(tmp_path))),
        "starts.json": lambda: read_record(tmp_path),
        "job.json": lambda: Run(tmp_path).submission,
        "sweep.json": lambda: read_sweep(tmp_path),
    }
    for name, read in reads.items():
        content = records.content(tmp_path, name)
        read()
        assert next(iter(content)) == "format"
        for number, told in (
            (2, "has format 2, and this version of leyden reads 1 alone"),
            (0, "has format 0, "),
            ("1", "has format '1'"),
        ):
            records.sign(tmp_path, {**content, "format": number}, name=name)
            with pytest.raises(UserError, match=rf"^[^\n]*/{name}: {told}[^\n]*$"):
                read()
        records.sign(tmp_path, content, name=name)


def test_no_record_is_none_and_one_that_is_cut_off_is_a_line(tmp_path):
    assert read_record(tmp_path) is None
    RunRecord({"name": "x"}, [START]).write(tmp_path)
    whole = (tmp_path / "run.json").read_bytes()
    for end in range(len(whole) - 2):
        (tmp_path / "run.json").write_bytes(whole[:end])
        with pytest.raises(UserError, match=DAMAGED):
            read_record(tmp_path)


# A text of the record, what stands in its place, and who reads that. A result of other types would end reports.
HUGE = "1" + "0" * 400
NEVER_WRITTEN = rf"""
"y": 2  =>  "y": 2, "name": 3  =>  both
"y": 2  =>  "y": 2}}, "config": 3, "other": {{"z": 1  =>  both
"y": 2  =>  "y": {"[" * 9999}{"]" * 9999}  =>  both
"y": 2  =>  "name": "a\n"  =>  both
"status": "finished"  =>  "status": null}}, {{  =>  both
"data": ""  =>  "data": 1  =>  both
"y": 2  =>  "y": 2, "y.z": 3  =>  record
"y": 2  =>  "y.": 2  =>  record
"y": 2  =>  "x.[1].y": 2  =>  record
"seed=1"  =>  1  =>  both
"epochs": 5  =>  "": 5  =>  both
"""
OF_RESULT = f"""status ["a"]; status {{}}; epochs "x"; epochs [1]; epochs {HUGE}; stages [1]; stages "test"
seconds "x"; metrics [1]; metrics {{"a": "x"}}; metrics {{"a": {HUGE}}}; stages {{"val": 5}}; stages {{"val": [[]]}}
stages {{"test": ["x"]}}"""
OF_RESULT = [each.partition(" ")[::2] for each in OF_RESULT.replace("\n", "; ").split("; ")]
OF_RESULT = [(f'"{key}": ', f'"{key}": {value}, "": ', "both") for key, value in OF_RESULT]


@pytest.mark.parametrize(
    ("old", "new", "readers"), mistakes(NEVER_WRITTEN) + OF_RESULT, ids=lambda text: text[:30]
)
def test_what_no_run_writes_is_one_line(tmp_path, old, new, readers):
    result = Result.from_dict({"status": "finished", "objective": None, "metrics": {}, **NUMBERS})
    RunRecord({"y": 2}, [{**START, "data": {}}], result).write(tmp_path)
    text = (tmp_path / "run.json").read_text()
    assert old in text
    (tmp_path / "run.json").write_text(text.replace(old, new, 1))
    for read in READERS[readers]:
        with pytest.raises(UserError, match=DAMAGED):
            read(tmp_path)


def test_a_damaged_note_of_a_job_is_a_line_and_a_compressed_checkpoint_is_refused_unread(tmp_path):
    for content in ("[" * 99999, "[1]", '{"format": 1, "job_id": 5}', '{"format": 1, "log": "a"}'):
        (tmp_path / "job.json").write_text(content)
        with pytest.raises(UserError, match=r"job\.json: (is damaged|can't be read)"):
            _ = Run(tmp_path).submission
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
    refused = ("is not a regular file", "is a link, which is not followed")
    assert damage(tmp_path / "best.ckpt") in refused
    with pytest.raises(OSError, match="|".join(refused)):
        read_fingerprints(tmp_path)
    for read in (read_record, read_summary, lambda directory: Run(directory).submission):
        with pytest.raises(UserError, match=r"can't be read \(is (a link|not a regular)"):
            read(tmp_path)


def test_a_record_that_none_could_read_loses_the_changes_of_its_earlier_starts(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("leyden.run.record.MAX_JSON_BYTES", 2**16)
    changes = {"sha": "a", "diff": "x" * 2**14}
    starts = [START | {"git": changes, "more": "y" * 2**10}] * 6
    RunRecord({"a": 1}, starts).write(tmp_path)
    *earlier, last = [start["git"] for start in read_record(tmp_path).starts]
    for git in earlier:
        assert git["diff"] is None
        assert git["left_out"] == ["all changes"]
    assert last == changes
    assert "the changes of the code at its first 5 starts are left out" in capsys.readouterr().err
    RunRecord({"a": 1}, starts * 20).write(tmp_path)
    assert len(read_record(tmp_path).starts) == 120
    with pytest.raises(UserError, match="larger than a record may be"):
        RunRecord({"a": "x" * 2**16}, starts).write(tmp_path)


def test_lost_curves_are_a_line_before_the_first_batch(tmp_path, capsys):
    path = tmp_path / "metrics.csv"
    line = f"leyden: {path}: is missing or damaged, so the curves begin at step 2\n"
    MetricsCSV(save_dir=str(tmp_path), purge_step=2).save()
    assert capsys.readouterr().err == line
    for content, said in (("", line), ("step,metric,value\n", ""), ("1,a,2.0\n", "")):
        path.write_text(content)
        MetricsCSV(save_dir=str(tmp_path), purge_step=2).save()
        assert capsys.readouterr().err == said
    MetricsCSV(save_dir=str(tmp_path / "new"), purge_step=0)
    assert not capsys.readouterr().err


NAMES = st.sampled_from(["val/acc", "train/loss_step", 'a "name", with a comma', "ü"])
POINTS = st.lists(st.tuples(st.integers(0, 10**6), NAMES, st.floats(allow_nan=False)), max_size=9)
BYTE = st.binary(min_size=1, max_size=1)


@given(table=POINTS, data=st.data(), byte=BYTE)
def test_of_points_that_are_cut_off_or_damaged_the_whole_lines_are_read(
    tmp_path_factory, table, data, byte
):
    path = tmp_path_factory.mktemp("points") / "metrics.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *table])
    content = path.read_bytes()
    assert read_points(path) == table
    part = content[: data.draw(st.integers(0, len(content)))]
    path.write_bytes(part)
    num_whole = max(0, part.count(b"\n") - 1)  # without the header
    assert read_points(path) == table[:num_whole]
    place = data.draw(st.integers(0, len(content) - 1))
    path.write_bytes(content[:place] + byte + content[place + 1 :])
    found = read_points(path)
    line = content[:place].count(b"\n") - 1  # in the table; it may be joined to the next one
    num_before = max(0, line)
    rest = table[max(0, line + 2) :]
    assert found[:num_before] == table[:num_before]
    assert found[len(found) - len(rest) :] == rest


def test_deleted_while_it_is_written_it_has_a_header_again_and_a_run_that_goes_on_keeps_what_was(
    tmp_path,
):
    logger = MetricsCSV(save_dir=str(tmp_path), purge_step=0)
    logger.log_metrics({"a": 1.0}, 0)
    logger.path.unlink()
    logger.log_metrics({"a": 2.0, "epoch": 0}, 1)
    logger.log_metrics({"a": float("nan")}, 2)
    assert logger.path.read_text().splitlines() == ["step,metric,value", "1,a,2.0", "2,a,nan"]
    logger.path.unlink()
    for step in range(4):
        logger.log_metrics({"a": float(step), "b": step / 3}, step)
    whole = logger.path.read_text().splitlines()
    logger.path.write_bytes(logger.path.read_bytes().replace(b"step,metric,value", b"\xff,\0")[:-3])
    resumed = MetricsCSV(save_dir=str(tmp_path), purge_step=2)
    resumed.log_metrics({"c": 5}, 2)
    assert resumed.path.read_text().splitlines() == [*whole[:5], "2,c,5"]
    assert read_points(resumed.path)[-1] == (2, "c", 5.0)


def test_a_name_with_a_bad_byte_is_no_curve(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"step,metric,value\n1,val/\xffoss,0.5\n2,val/loss,0.25\n")
    assert read_points(path) == [(2, "val/loss", 0.25)]


def test_a_run_that_was_killed_before_its_first_record_is_new(train, tmp_path):
    """Its starts are written before it."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "starts.json").write_text("{}")
    run, *_ = train("a")
    assert run.result.status == "finished"
    assert len(run.starts) == 1
