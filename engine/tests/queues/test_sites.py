"""Sweeps on real queues: a job is removed, a node dies, the command that waits is killed and typed again."""

import os
import re
import signal

import pytest

from leyden.run.directory import Run
from tests.conftest import QUICK, assert_same_bits, finish, start
from tests.forks import TIMEOUT_S
from tests.queues import sites

pytestmark = pytest.mark.cluster

NUM = int(os.environ.get("SITES_N", "3"))  # jobs of the sweep
SWEEP = (
    "-m",
    *QUICK,
    f"seed=range(0,{NUM})",
    "sweep_name=s",
    "data.batch_size=5",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "callbacks.checkpoint.every_n_steps=20",
    "+callbacks.slow={_target_:tests.queues.slow.SlowSteps,seconds:0.02}",
    "+callbacks.held={_target_:tests.queues.slow.Held,step:21}",
)
GO = "go"  # a file of the folder, for which runs wait


def runs(folder):
    return [Run(path.parent) for path in sorted(folder.glob("sweeps/s/*/config.yaml"))]


def under_way(folder):
    """Runs that have saved, and have not ended."""
    saved = [run for run in runs(folder) if (run.directory / "checkpoints/last.ckpt").exists()]
    return [run for run in saved if not run.result]


def held_in(folder):
    return f"outputs={folder}", f"+callbacks.held.until={folder / GO}"


@pytest.fixture(scope="module")
def alone(tmp_path_factory, mnist_root):
    """The same sweep on this machine."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / GO).touch()
    quick = ("callbacks.slow.seconds=0", *held_in(folder))
    finish(start(*SWEEP, *quick, OMP_NUM_THREADS="1"))
    return folder


def typed(site, folder):
    environment = {**site.environment, "PATH": sites.path_of(site)}
    return start(*SWEEP, *site.arguments, *held_in(folder), anew=True, **environment)


# Those that `.ci/run` may draw have their packages there; the others need more.
ALONE = pytest.mark.nightly(alone=True)
SITES = [
    "condor",
    pytest.param("slurm", marks=pytest.mark.nightly),
    pytest.param("sge", marks=ALONE),
    pytest.param("ssh", marks=ALONE),
    pytest.param("pbs", marks=ALONE),
    pytest.param("ray", marks=ALONE),
]


@pytest.mark.parametrize("name", SITES)
def test_a_sweep_that_loses_a_job_a_node_and_its_command_ends_as_on_one_machine(
    name, tmp_path, alone, monkeypatch
):
    with sites.running(name) as site:
        process = typed(site, tmp_path)
        several = sites.wait_for(
            lambda: (found := under_way(tmp_path))[1:] and found, "two runs under way"
        )
        site.remove(several[0].submission["job_id"])
        site.lose([*site.daemons][-1])
        process.send_signal(signal.SIGKILL)
        process.communicate()
        (tmp_path / GO).touch()
        process = typed(site, tmp_path)
        output, _ = process.communicate(timeout=TIMEOUT_S + 20 * NUM)
        print(output)
        assert process.returncode == 0
    assert f"{NUM}/{NUM} jobs, 0 failed" in output
    found = runs(tmp_path)
    assert [run.result.status for run in found] == NUM * ["finished"]
    for run in found:
        assert_same_bits(run.directory, alone / "sweeps" / "s" / run.directory.name)
    assert sum(len(run.starts) > 2 for run in found) >= 1  # with the submission; one was resumed
    assert not [*tmp_path.rglob("*.call")]  # they have the key
    assert not re.search("Traceback", output)
