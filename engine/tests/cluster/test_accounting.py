"""What a site's accounting, limits and plugins say of jobs."""

import re

import pytest

from tests import ENGINE
from tests.cluster.test_cluster import SHORT, failing, runs, submit
from tests.conftest import finish

pytestmark = pytest.mark.cluster
SITES = re.findall(r"(?ms)^```yaml\n(# @package _global_.*?)^```$", (ENGINE / "docs/cluster.md").read_text())


def test_what_the_site_asks_for_is_said_and_given_by_an_example_of_the_page(slurm, tmp_path, monkeypatch):
    """The first one, for a partition of this site and its processors."""
    monkeypatch.delenv("SBATCH_ACCOUNT")
    output = failing(submit(tmp_path, *SHORT, "seed=0,1"))
    assert "Please give an account: --account=physics" in output
    assert not runs(tmp_path)
    text = SITES[0].replace("slurm_gpu", "slurm_cpu").replace("partition: gpu", "partition: test")
    (tmp_path / "conf" / "cluster").mkdir(parents=True)
    (tmp_path / "conf" / "cluster" / "site.yaml").write_text(text)
    finish(submit(tmp_path, *SHORT, "seed=0", "--config-dir", str(tmp_path / "conf"), cluster="site", anew=True))
    (run,) = runs(tmp_path)
    assert run.result.status == "finished"
    assert slurm.run("sacct", "-n", "-X", "-j", run.submission["job_id"], "-o", "Account").strip() == "physics"


@pytest.mark.nightly  # tests/scheduler has it without a Slurm
def test_a_sweep_beyond_the_limit_of_jobs_is_submitted_as_others_end(slurm, tmp_path):
    asked = (*SHORT, "seed=0,1,2,3", "cluster.qos=limited")
    assert "MaxSubmit" in failing(submit(tmp_path, *asked))
    assert not runs(tmp_path)
    finish(submit(tmp_path, *asked, "cluster.num_jobs=3"))
    assert [run.result.status for run in runs(tmp_path)] == ["finished"] * 4


REFUSED = {  # the last one is submitted, and never starts
    "Slurm rejects the job: sbatch: error: .*invalid partition": ("cluster.partition=nowhere",),
    "Slurm rejects the job: sbatch: error: Memory": ("cluster.mem_gb=1000",),
    "PartitionTimeLimit|more than the time limit|time limit": ("cluster.partition=short", "cluster.time_min=10"),
    "DependencyNeverSatisfied": ("+cluster.options.dependency=afterok:{}",),
}


@pytest.mark.nightly  # a rejected job is, in tests/scheduler
def test_what_does_not_fit_is_said_in_slurms_words(slurm, tmp_path):
    failed = slurm.submit("exit 1")
    slurm.wait(failed, "FAILED")
    for why, arguments in REFUSED.items():
        output = failing(submit(tmp_path, *SHORT, "seed=0", *(each.format(failed) for each in arguments)))
        assert re.search(why, output, re.IGNORECASE), output
        assert "Traceback" not in output
        assert not ("rejects" in why and runs(tmp_path))
    assert not slurm.run("squeue", "-h", "-t", "PD")
