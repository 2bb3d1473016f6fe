"""macOS and Windows, as far as they can be had on Linux: what they lack is taken away before anything of Leyden is imported."""

import multiprocessing
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from leyden.config.errors import UserError
from leyden.config.paths import LIBRARY, ROOT, SRC
from leyden.data.streamed import SeededSamples, StreamLoader
from leyden.run.directory import Run
from leyden.run.lock import hold_directory, is_held
from tests.conftest import SMALL, assert_same_bits
from tests.example import OWN

FILES = [path.relative_to(folder) for folder in (LIBRARY.parent, SRC) for path in sorted(folder.rglob("*.py"))]
NAMES = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in FILES]


def on(platform, *arguments, modules=()):
    fake = (sys.executable, "-X", "warn_default_encoding", "-m", "tests.platforms.fake", platform)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*fake, *modules, "--", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def small(tmp_path, mnist_root):
    return (*SMALL, "trainer.max_epochs=1", "callbacks.progress.refresh_rate=0", f"outputs={tmp_path}")


@pytest.mark.parametrize("platform", ["win32", "darwin"])
@pytest.mark.slow
@pytest.mark.matrix
def test_every_module_is_imported_and_a_run_is_the_run_that_it_is_on_linux(platform, small, cli, tmp_path):
    assert {"leyden.train", f"{OWN}.models.mlp", "leyden.cluster"} <= {*NAMES}
    out, err = on(platform, *small, f"run_dir={tmp_path / platform}", modules=NAMES)
    assert f"imported {len(NAMES)}\n" in out
    assert Run(tmp_path / platform).result.metrics["test/acc"] > 0
    assert "failed" not in err
    assert ("on Windows a run can't save" in err) is (platform == "win32")
    assert cli("train", *small, f"run_dir={tmp_path / 'linux'}")[0] == 0
    assert_same_bits(tmp_path / platform, tmp_path / "linux")


@pytest.mark.nightly  # macOS alone; .ci/run has a run
def test_a_sweep_trains_in_processes_that_import_for_themselves(small, tmp_path):
    # On Windows by the same way; Python's own of starting processes here needs signals that are not there.
    on("darwin", "-m", *small, "seed=0,1", "sweep_name=s", "cluster.num_jobs=2")
    results = [Run(path.parent).result for path in (tmp_path / "sweeps" / "s").glob("*/config.yaml")]
    assert [result.status for result in results] == ["finished", "finished"]


def test_a_folder_is_locked_on_windows_and_goes_if_it_is_empty(monkeypatch, tmp_path):
    monkeypatch.setattr("leyden.run.lock.sys", SimpleNamespace(platform="win32"))
    directory = tmp_path / "run"
    assert not is_held(directory)
    with hold_directory(directory, timeout_s=0):
        assert is_held(directory)
        with pytest.raises(UserError, match="in use by"), hold_directory(directory, timeout_s=0):
            pass
    assert not directory.exists()
    with hold_directory(directory, timeout_s=0):
        (directory / "config.yaml").touch()
    assert not is_held(directory)
    assert (directory / "config.yaml").exists()


@pytest.mark.slow(minutes=0.1)
def test_workers_that_read_import_for_themselves(monkeypatch):
    samples = SeededSamples([(torch.tensor([1.0, 2.0]), 3)], 0, None)
    monkeypatch.setattr("leyden.data.streamed.sys", SimpleNamespace(platform="darwin"))
    loader = StreamLoader(samples, torch.arange(1), batch_size=1, num_workers=1)
    batches = iter(loader)
    inputs_NI, targets_N = next(batches)
    monkeypatch.undo()
    assert (inputs_NI.tolist(), targets_N.tolist()) == ([[1.0, 2.0]], [3])
    assert [type(process).__name__ for process in multiprocessing.active_children()] == ["SpawnProcess"]
    loader.close()
