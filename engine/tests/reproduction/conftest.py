import shutil
import sys

import pytest

from leyden.run.provenance import installed_versions
from leyden.trained import reproduction
from tests import ROOT, example, records
from tests.conftest import here
from tests.example import git


@pytest.fixture(scope="session")
def commit(tmp_path_factory):
    """A repository of this code as it is now, and its commit."""
    folder = tmp_path_factory.mktemp("repository")
    for name, root in {"src": "", "conf": "", "engine/src": "engine/"}.items():
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
        (folder / root / "pyproject.toml").write_text(
            f"[project]\nname = '{'leyden' if root else 'x'}'\n"
        )
    git(folder, "init", "-q")
    example.commit(folder)
    return folder, git(folder, "rev-parse", "HEAD").strip()


@pytest.fixture
def repository(commit, monkeypatch):
    """The project is that repository."""
    folder, _ = commit
    monkeypatch.setattr(reproduction, "root", lambda: folder)
    yield folder
    assert len(git(folder, "worktree", "list").splitlines()) == 1, "a work tree was left behind"
    shutil.rmtree(folder / "outputs", ignore_errors=True)


@pytest.fixture
def call(capfd):
    """Runs the verb in this process; gives its exit code and all that was printed."""
    return lambda *arguments: (here("reproduce", *arguments), "".join(capfd.readouterr()))


@pytest.fixture
def make(tmp_path, commit):
    """Writes a run directory by hand, of that commit."""

    def make(name="run", *, fingerprints="1111", config=None, starts=None, metrics=None, step=10):
        directory = tmp_path / name
        directory.mkdir()
        lines = [
            f"{step * n},{','.join([digit * 32] * 3)}" for n, digit in enumerate(fingerprints, 1)
        ]
        (directory / "fingerprint.csv").write_text(
            "\n".join(["step,weights,optimizer,random", *lines, ""])
        )
        result = None
        if metrics is not None:
            numbers = {
                "epochs": 1,
                "optimizer_steps": 40,
                "seconds": 1.0,
                "samples_per_second": 1.0,
            }
            stages = {"test": ["test/acc"]} if "test/acc" in metrics else {"val": [*metrics]}
            result = {
                "status": "finished",
                "objective": None,
                "metrics": metrics,
                "stages": stages,
                **numbers,
            }
        root = {
            "name": "x",
            "seed": 0,
            "init_from": None,
            "trainer": {"accelerator": "cpu", "devices": 1},
        }
        starts = [start(commit[1])] if starts is None else starts
        records.put(directory, config={**root, **(config or {})}, starts=starts, result=result)
        return directory

    return make


def start(sha, **more):
    """As a record tells one."""
    git_there = {"sha": sha, "dirty": False, "diff": "", "left_out": []}
    machine = {"cores": 1, "threads": 1, "gpus": []}
    here = {"python": ".".join(map(str, sys.version_info[:3])), "versions": installed_versions()}
    return {"overrides": [], "git": git_there, "machine": machine, "parent": None, **here, **more}
