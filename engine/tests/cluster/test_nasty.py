"""Clusters as sites have them: limits, purged jobs, preemption by SIGTERM, submission from within a job."""

import signal
import sys
from pathlib import Path

import pytest

from leyden.scheduler import slurm as of_library
from tests.cluster import test_cluster as of_cluster
from tests.cluster.test_cluster import LONG, SHORT, assert_the_same, failing, preempt, runs, submit, training
from tests.conftest import finish

pytestmark = pytest.mark.cluster


@pytest.mark.nightly  # a requeue runs by day
def test_a_container_without_scontrol_is_requeued(nasty_slurm, tmp_path, whole):
    """By the job's script, which is outside of it."""
    container = tmp_path / "container"
    container.write_text('#!/bin/sh\nPATH=/nowhere exec "$@"\n')
    container.chmod(0o755)
    setup = "cluster.setup=['set -euo pipefail']"
    process, run = training(nasty_slurm, tmp_path, f"cluster.python='{container} {sys.executable}'", setup)
    nasty_slurm.run("scancel", "--signal=USR1", run.submission["job_id"])
    finish(process)
    assert run.result.requeues == 1
    assert_the_same(run, whole)
    assert not [*Path(run.submission["log"]).parent.glob("*.requeue")]


def test_a_job_that_slurm_has_forgotten_has_its_result(nasty_slurm, tmp_path):
    """The sweep looks again only when Slurm has purged a job, as on a login node that was asleep."""
    process = submit(tmp_path, *SHORT, "seed=0,1", "cluster.num_jobs=1")
    nasty_slurm.wait_for(lambda: any(run.submission for run in runs(tmp_path)), "the submission")
    process.send_signal(signal.SIGSTOP)
    job_id, *_ = [run.submission["job_id"] for run in runs(tmp_path) if run.submission]
    cancelled = nasty_slurm.submit("sleep 60")
    nasty_slurm.wait(cancelled, "RUNNING")
    nasty_slurm.run("scancel", cancelled)
    listed, both = ("squeue", "-h", "--me", "--states=all", "-o", "%i"), {job_id, cancelled}
    nasty_slurm.wait_for(lambda: not both & {*nasty_slurm.run(*listed).split()}, "Slurm to forget the jobs")
    assert of_library.states([cancelled])[cancelled].text == "CANCELLED"  # by its accounting
    assert of_library.states(["999999"])["999999"].text == "GONE"
    process.send_signal(signal.SIGCONT)
    assert "2/2 jobs, 0 failed" in finish(process)


@pytest.mark.nightly  # a signal to requeue does by day
@pytest.mark.matrix
@pytest.mark.parametrize("partition", ["test", "cheap"])
def test_preempted_by_sigterm_it_resumes(nasty_slurm, tmp_path, whole, partition):
    """By Slurm, or with PreemptMode=CANCEL by the same command."""
    process, run = training(nasty_slurm, tmp_path, f"cluster.partition={partition}")
    preempt(nasty_slurm, None)
    if partition == "cheap":
        assert "1 of 1 jobs failed" in failing(process)
        process = submit(tmp_path, *LONG, "cluster.partition=cheap")
    finish(process)
    assert run.result.requeues == (partition == "test")
    assert of_cluster.was_saved_at_its_step(run)
    assert_the_same(run, whole)


def test_a_sweep_runs_within_a_job(nasty_slurm, tmp_path):
    """On sites that charge for whole nodes."""
    arguments = ("seed=0,1", *SHORT, "sweep_name=s", f"outputs={tmp_path}")
    command = ("srun", "--mem=2G", "--cpus-per-task=2", sys.executable, "-m", "leyden.train", "-m", *arguments)
    assert "2/2 jobs, 0 failed" in nasty_slurm.run(*command)
    assert [run.result.status for run in runs(tmp_path)] == 2 * ["finished"]
