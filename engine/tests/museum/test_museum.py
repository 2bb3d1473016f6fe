"""The museum: runs of each kind in each format that was released; every verb reads them, and they are resumed.

A room is made once by `scripts/museum.py`, and never edited. Its records are signed with the museum's own key.
"""

import io
import json
import shutil
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from leyden.base import paths
from leyden.config.checks import Objective
from leyden.exact.memory import read_plain
from leyden.run import owner
from leyden.run.directory import Run
from leyden.run.provenance import machine, origin
from leyden.run.record import RunRecord
from leyden.run.result import Failure, Result
from tests import ENGINE, records
from tests.conftest import here
from tests.example import git

MUSEUM = Path(__file__).parent
ROOMS = sorted(path.name.removesuffix(".tar.xz") for path in MUSEUM.glob("*.tar.xz"))


@pytest.fixture(params=ROOMS)
def room(request, tmp_path, monkeypatch):
    """The museum's project, with the runs of a room in its outputs."""
    project = tmp_path / "project"
    shutil.copytree(MUSEUM / "project", project)
    with tarfile.open(MUSEUM / f"{request.param}.tar.xz") as archive:
        archive.extractall(project, filter="data")
    git(project, "init", "-q")
    monkeypatch.chdir(project)
    monkeypatch.setattr(paths, "_found", project)
    monkeypatch.setattr(sys, "path", [str(project), str(project / "src"), *sys.path])
    monkeypatch.setenv("LEYDEN_KEY", (MUSEUM / "key").read_text())
    owner.key.cache_clear()
    yield project / "outputs"
    for name in [name for name in sys.modules if name.partition(".")[0] == "museum"]:
        del sys.modules[name]
    owner.key.cache_clear()


STATUSES = {
    "finished": "finished",
    "interrupted": "interrupted",
    "failed": "failed",
    "fork": "finished",
    "queued": "queued",
}
# What is typed, the exit code, and what is printed then.
SWEEP = "outputs/sweeps/sweep"
READ = [
    (f"summarize {SWEEP}", 0, "2 finished"),
    ("summarize outputs/sweeps/search", 0, "pruned"),
    (f"compare {SWEEP} a=optimizer.lr=0.1 b=optimizer.lr=0.01", 0, "Verdict: n too small to tell"),
    ("evaluate run=outputs/finished data_root=data", 0, "test/acc"),
    (f"evaluate runs={SWEEP} data_root=data", 0, "test/acc"),
    ("predict run=outputs/finished table=data/points.csv", 0, "up"),
    ("export run=outputs/finished data_root=data", 0, "model.onnx"),
    ("reproduce run=outputs/finished against=outputs/fork", 0, "equal"),
    ("reproduce run=outputs/finished data_root=data", 2, "commit"),
]


def said(capfd, command, code=0):
    """What a command prints, which must end with this code."""
    verb, *words = command.split()
    capfd.readouterr()
    found = here(verb, *words)
    text = "".join(capfd.readouterr())
    assert found == code, text
    return text


def test_every_verb_reads_the_runs(room, capfd):
    listed = json.loads(said(capfd, "runs format=json").partition("\nleyden:")[0])
    found = {Path(each["directory"]).name: each["status"] for each in listed}
    assert STATUSES.items() <= found.items()
    assert {"pruned", "finished"} == {
        each["status"] for each in listed if "search" in each["directory"]
    }
    for path in room.rglob("run.json"):
        assert Run(path.parent).record.is_own
    for command, code, expected in READ:
        assert expected in said(capfd, command, code), command


def test_runs_are_resumed_and_written_in_the_format_of_today(room, capfd):
    before = Run(room / "interrupted")
    config = before.config
    starts = before.starts
    assert "note" in said(capfd, "note run=outputs/finished note=wider")
    assert Run(room / "finished").config["note"] == "wider"
    assert "step 10" in said(capfd, "train run_dir=outputs/interrupted")
    resumed = Run(room / "interrupted").record
    assert resumed.is_own
    assert resumed.result.status == "finished"
    assert resumed.starts[: len(starts)] == starts
    assert {**config, "data": None} == {**resumed.config, "data": None}
    assert "epoch 5/5" in said(capfd, "train run_dir=outputs/fork trainer.max_epochs=5")
    assert "resumes" not in said(capfd, "train run_dir=outputs/finished")


@pytest.mark.slow
@pytest.mark.matrix
def test_a_sweep_is_continued(room, capfd):
    assert "3 finished" in said(capfd, "train -m sweep_name=sweep optimizer.lr=0.1,0.01 seed=0,1,2")


def keys_of(content):
    """All keys of nested values but those of the user's: settings, metrics, files, packages."""
    own = ("config", "groups", "metrics", "stages", "versions", "code", "data", "checkpoints")
    found = set()
    for key, value in content.items():
        found.add(key)
        if isinstance(value, dict) and key not in (*own, "variables", "flags", "test_batches"):
            found |= keys_of(value)
    return found


def test_the_page_names_each_key(tmp_path):
    result = Result("failed", Objective("m", "min", 1.0), {}, 1, 1, None, None)
    result = replace(result, error=Failure("E", "text", "net.py:1"))
    parent = {"checkpoint": "a.ckpt", "sha256": "a", "step": 1}
    start = {**origin([], machine=machine(), parent=parent), "result": {}}
    RunRecord({}, [start], result).write(tmp_path)
    run = records.content(tmp_path, "run.json")
    starts = records.content(tmp_path, "starts.json")
    keys = keys_of(run) | keys_of(starts) | keys_of(starts["starts"][0])
    with tarfile.open(MUSEUM / f"{ROOMS[-1]}.tar.xz") as room:
        for name in ("queued/job", "sweeps/sweep/sweep", "sweeps/search/sweep"):
            keys |= {*json.load(room.extractfile(f"outputs/{name}.json"))}
        checkpoint = room.extractfile("outputs/fork/checkpoints/last.ckpt").read()
    keys |= {*read_plain(io.BytesIO(checkpoint), "cpu")}
    page = (ENGINE / "docs" / "formats.md").read_text()
    assert len(keys) > 60
    assert sorted(key for key in keys if f"`{key}`" not in page) == []
    assert ROOMS[-1] == f"format-{run['format']}"
