"""The same sweep on two machines that share a folder, without a scheduler: each takes what nobody else runs."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from leyden.run.directory import Run
from tests.conftest import QUICK, ROOT, assert_same_bits
from tests.forks import TIMEOUT_S

RATES = (0.001, 0.002, 0.005)
LONG = (*QUICK, "trainer.max_epochs=60", "callbacks=default", "sweep.pictures=none", "cluster.num_jobs=1")
GRID = (f"optimizer.lr={','.join(map(str, RATES))}",)
OTHER = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"]  # it sees no other process


@pytest.fixture
def begin():
    """Starts a sweep on a machine, with its output in a file: here, or with processes and a name of its own."""
    begun = []

    def begin(folder, machine=()):
        command = [sys.executable, "-m", "leyden.train", "-m", "sweep_name=s", f"outputs={folder}", *LONG, *GRID]
        if machine and subprocess.run([*OTHER, "true"], capture_output=True, check=False).returncode == 0:
            command = [*OTHER, "sh", "-c", 'hostname elsewhere && exec "$@"', "sh", *command]
        how = {"cwd": ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "start_new_session": True}
        with (folder / f"output{len(machine)}").open("a") as output:
            begun.append(subprocess.Popen(command, stdout=output, stderr=output, **how))
        return begun[-1]

    yield begin
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ends(process, folder):
    assert process.wait(TIMEOUT_S) == 0, "".join(path.read_text() for path in folder.glob("output*"))


def runs(folder):
    return {path.parent.name: Run(path.parent) for path in folder.glob("sweeps/s/*/run.json")}


@pytest.mark.slow(minutes=2)
@pytest.mark.nightly  # by day `test_sweep_run.py` has the loop, and `run/test_lock.py` machines that do not see each other
def test_they_share_a_grid_and_one_takes_over_what_the_other_leaves(tmp_path, mnist_root, begin):
    for folder in (alone := tmp_path / "alone", shared := tmp_path / "shared"):
        folder.mkdir()
    ends(begin(alone), alone)
    first, second = begin(shared), begin(shared, machine="b")
    until, left = time.monotonic() + TIMEOUT_S, None
    while left is None and time.monotonic() < until:
        assert first.poll() is None, (shared / "output0").read_text()
        time.sleep(0.05)
        with contextlib.suppress(FileNotFoundError):  # of what ends meanwhile
            for path in shared.glob("sweeps/s/*/.lock.*"):
                if '"host": "elsewhere"' in path.read_text() and (path.parent / "checkpoints/last.ckpt").exists():
                    left = Run(path.parent)
    os.killpg(second.pid, signal.SIGKILL)
    ends(first, shared)
    assert len(left.starts) == 2  # begun there, and taken over here
    found, expected = runs(shared), runs(alone)
    assert sorted(found) == sorted(expected) == [f"lr-{rate}" for rate in RATES]
    for name, run in found.items():
        assert run.result.status == "finished"
        assert len(run.starts) == (2 if name == left.directory.name else 1)
        assert_same_bits(run.directory, expected[name].directory)
