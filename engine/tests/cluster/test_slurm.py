"""The cluster itself: what the other tests here take for granted."""

import pytest

pytestmark = pytest.mark.cluster


def test_an_array_completes(slurm):
    job = slurm.submit("true", "--array=0-3")
    slurm.wait(job, "COMPLETED")
    assert len(slurm.states(job)) == 4


def test_a_preempted_job_gets_its_signal_and_comes_back(slurm, tmp_path):
    log = tmp_path / "log"
    step = tmp_path / "step.sh"
    step.write_text(f"""
        trap 'echo USR1 >> {log}; exit' USR1
        echo start "$SLURM_RESTART_COUNT" >> {log}
        while [ -z "$SLURM_RESTART_COUNT" ]; do sleep 0.1; done
    """)
    job = slurm.submit(f"srun sh {step}", "--signal=USR1@60")
    slurm.wait_for(log.exists, "the step")
    slurm.run("srun", "--partition=urgent", "--nodes=2", "--exclusive", "true")
    slurm.wait(job, "COMPLETED")
    assert log.read_text().splitlines() == ["start ", "USR1", "start 1"]


def test_a_requeued_job_starts_again(slurm):
    job = slurm.submit('[ "$SLURM_RESTART_COUNT" = 1 ] || sleep 3600')
    slurm.wait(job, "RUNNING")
    slurm.run("scontrol", "requeue", job)
    slurm.wait(job, "COMPLETED")
