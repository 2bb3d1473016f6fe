"""Changes of the record of a run, `run.json`, as a kill, a user or a stranger would make them."""

import csv
import json
from pathlib import Path

from leyden.run.record import HEAD, RunRecord, read_record, signature

START = "2026-01-01T00:00:00+00:00"
ROOT = ("config", *HEAD, "starts")


def content(directory):
    return json.loads((Path(directory) / "run.json").read_text())


def starts(directory):
    return content(directory)["starts"]


def put(directory, *, config=None, starts=None, result=..., is_own=True):
    """Replace parts of a record: the nested configuration, the starts, or the result, also as raw values."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    there = read_record(directory) or RunRecord({}, [])
    starts = (
        there.starts
        if starts is None
        else [{"time": START, "job": None, **start} for start in starts]
    )
    known = there.result if result is ... or isinstance(result, dict) else result
    RunRecord(there.config if config is None else config, starts, known, is_own).write(directory)
    if isinstance(result, dict):  # perhaps not a valid one
        fields = {key: value for key, value in result.items() if key not in (*ROOT, "signature")}
        values = {**fields, **content(directory), **fields}
        del values["signature"]
        values["starts"] = values.pop("starts")
        text = "{\n" + "".join(
            f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in values.items()
        )
        (directory / "run.json").write_text(
            f'{text}"signature": "{signature(text) if is_own else ""}"\n}}\n'
        )


def forget_result(directory):
    """As if the run had been killed before it ended."""
    put(directory, result=None)


def table(path):
    """The rows of a CSV file, by column."""
    with Path(path).open(newline="") as file:
        return [*csv.DictReader(file)]


def files(folder):
    """All files below a folder with their content, to see that nothing has changed."""
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def ended(folder, pattern="*/run.json"):
    """The directories of the runs in a folder that have a result, sorted."""
    return sorted(
        path.parent for path in Path(folder).glob(pattern) if content(path.parent)["status"]
    )
