"""macOS and Windows, as far as they can be had on Linux: what they lack is taken away before anything of Leyden is imported."""

import multiprocessing
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from leyden.base.paths import LIBRARY, src
from leyden.data.streamed import SeededSamples, StreamLoader
from leyden.run.directory import Run
from tests import ROOT
from tests.conftest import SMALL, assert_same_bits
from tests.example import OWN

FILES = [
    path.relative_to(folder)
    for folder in (LIBRARY.parent, src())
    for path in sorted(folder.rglob("*.py"))
]
NAMES = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in FILES]
SHORT = (*SMALL, "trainer.max_epochs=1", "callbacks.progress.refresh_rate=0")


def on(platform, *arguments, modules=()):
    fake = (sys.executable, "-X", "warn_default_encoding", "-m", "tests.platforms.fake", platform)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*fake, *modules, "--", *SHORT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("platform", ["win32", "darwin"])
@pytest.mark.slow
@pytest.mark.matrix
def test_every_module_is_imported_and_a_run_is_the_run_that_it_is_on_linux(
    platform, train, tmp_path
):
    assert {"leyden.train", f"{OWN}.models.mlp", "leyden.queue.loop"} <= {*NAMES}
    out, err = on(platform, f"outputs={tmp_path}", f"run_dir={tmp_path / platform}", modules=NAMES)
    assert f"imported {len(NAMES)}\n" in out
    assert Run(tmp_path / platform).result.metrics["test/acc"] > 0
    assert "failed" not in err
    assert ("on Windows a run can't save" in err) is (platform == "win32")
    run, *_ = train("linux", *SHORT)
    assert_same_bits(tmp_path / platform, run.directory)


@pytest.mark.nightly  # macOS alone; .ci/run has a run
def test_a_sweep_trains_in_processes_that_import_for_themselves(tmp_path, mnist_root):
    # On Windows by the same way; Python's own of starting processes here needs signals that are not there.
    on("darwin", "-m", f"outputs={tmp_path}", "seed=0,1", "sweep_name=s", "cluster.num_jobs=2")
    runs = [Run(path.parent) for path in (tmp_path / "sweeps" / "s").glob("*/config.yaml")]
    assert [run.result.status for run in runs] == ["finished", "finished"]


@pytest.mark.nightly  # .ci/run has a whole run as Windows would start it
def test_workers_that_read_import_for_themselves(monkeypatch):
    samples = SeededSamples([(torch.tensor([1.0, 2.0]), 3)], 0, None)
    monkeypatch.setattr("leyden.data.streamed.sys", SimpleNamespace(platform="darwin"))
    loader = StreamLoader(samples, torch.arange(1), batch_size=1, num_workers=1)
    batches = iter(loader)
    inputs_NI, targets_N = next(batches)
    monkeypatch.undo()
    assert inputs_NI.tolist() == [[1.0, 2.0]]
    assert targets_N.tolist() == [3]
    assert [type(process).__name__ for process in multiprocessing.active_children()] == [
        "SpawnProcess"
    ]
    loader.close()


def pinned(text):
    """The versions of each package, by Python."""
    rows = re.findall(r"^([\w.-]+)==([\w.]+)([^\\\n]*)", text, re.MULTILINE)
    return {
        re.sub(r"[-_.]+", "-", name).lower(): version
        for name, version, rest in rows
        if "< '3.11'" not in rest
    }


def test_files_have_the_hashes_of_the_tested_versions():
    tested = pinned((ROOT / "constraints.txt").read_text())
    for name in ("train", "test"):
        text = (ROOT / "hashes" / f"{name}.txt").read_text()
        assert (hashed := pinned(text))
        assert {key: value for key, value in hashed.items() if tested.get(key) != value} == {}
        assert all(
            "--hash=sha256:" in entry for entry in re.split(r"(?<!\\)\n", text) if "==" in entry
        )
