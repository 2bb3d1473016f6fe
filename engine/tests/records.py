"""Changes of the record of a run, as a kill, a user or a stranger would make them."""

import csv
import json
from pathlib import Path

from leyden.run import owner
from leyden.run.record import HEAD, RunRecord, read_record

START = "2026-01-01T00:00:00+00:00"
ROOT = ("format", "config", *HEAD, "signature")


def content(directory, name="run.json"):
    return json.loads((Path(directory) / name).read_text())


def starts(directory):
    return content(directory, "starts.json")["starts"]


def config(directory):
    return read_record(Path(directory)).config


def sign(directory, values, *, name="run.json", is_own=True):
    """Write a file of the record with these values, perhaps not valid ones."""
    values = {key: value for key, value in values.items() if key != "signature"}
    signed = owner.signature(json.dumps(values, sort_keys=True)) if is_own else ""
    content = {**values, "signature": signed}
    (Path(directory) / name).write_text(json.dumps(content))


def put(directory, *, config=None, starts=None, result=..., is_own=True):
    """Replace parts of a record: the nested configuration, the starts, or the result, also as raw values."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    there = read_record(directory) or RunRecord({}, [])
    if starts is None:
        starts = there.starts
    else:
        starts = [{"time": START, "job": None, **start} for start in starts]
    known = there.result if result is ... or isinstance(result, dict) else result
    if config is None:
        config = there.config
    RunRecord(config, starts, known, is_own).write(directory)
    if isinstance(result, dict):  # perhaps not a valid one
        fields = {key: value for key, value in result.items() if key not in ROOT}
        sign(directory, {**content(directory), **fields}, is_own=is_own)


def forget_result(directory):
    """As if the run had been killed before it ended."""
    put(directory, result=None)


def table(path):
    """The rows of a CSV file, by column."""
    with Path(path).open(newline="") as file:
        return [*csv.DictReader(file)]


def write_table(path, rows):
    """Write rows, which all have the columns of the first one, to a CSV file."""
    with Path(path).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def files(folder):
    """All files below a folder with their content, to see that nothing has changed."""
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def ended(folder, pattern="*/run.json"):
    """The directories of the runs in a folder that have a result, sorted."""
    directories = sorted(path.parent for path in Path(folder).glob(pattern))
    return [each for each in directories if content(each)["status"]]
