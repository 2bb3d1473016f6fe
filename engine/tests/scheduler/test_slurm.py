"""What Leyden asks of Slurm and how it reads the answers, without a Slurm."""

import json
import re

import pytest
from omegaconf import OmegaConf

from leyden.assembly.trainer import check_strategy, plain_trainer
from leyden.config.errors import UserError
from leyden.report.records import read_records
from leyden.scheduler import JobState, slurm
from leyden.testing.contracts import compose
from tests import ENGINE
from tests.report.test_summary import write


@pytest.fixture
def answer(monkeypatch):
    """A function that sets the answer to each command; the commands that were called."""

    def set_answer(out, problem=""):
        called = []
        monkeypatch.setattr(slurm, "_call", lambda *command, **_: called.append(command) or (out, problem))
        return called

    return set_answer


def test_jobs_are_asked_for_by_their_arrays(answer):
    out = "7_0|RUNNING|None|\n7_1|PENDING|Priority|\n8|PENDING|(launch failed requeued held)|\n9|COMPLETED|None|\n"
    called = answer(out)
    assert slurm.states(["7_0", "7_1", "8", "9", "10"]) == {
        "7_0": JobState("running", "RUNNING"),
        "7_1": JobState("queued", "PENDING"),
        "8": JobState("queued", "PENDING", reason="launch failed requeued held"),
        "9": JobState("ended", "COMPLETED", is_completed=True),
        "10": JobState("ended", "GONE"),
    }
    # Of the one that it has forgotten, the accounting.
    assert [command[-1] for command in called] == ["10,7,8,9", "10"]
    slurm.states([str(number) for number in range(100, 100 + slurm.QUERIED + 1)])
    assert [command[0] for command in called[2:]] == ["squeue", "squeue", "sacct", "sacct"]
    answer("", "slurm_load_jobs error: Invalid job id specified")
    assert slurm.states(["5"]) == {"5": JobState("ended", "GONE")}
    answer("", "Unable to contact slurm controller")
    assert slurm.states(["5"]) == {}


def composed(*overrides, cluster="slurm"):
    return compose(f"cluster={cluster}", *overrides)


def check(config):
    slurm.check_resources(config.cluster)
    slurm.check_trainer(config.cluster, config.trainer)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("cluster.gpus_per_task=0.5",), "gpus_per_task=0.5: must be 0 or 1, one device for each process"),
        (("cluster.snapshot=1",), "cluster.snapshot=1: must be of the same kind as True, the default"),
        (("cluster.setup=module",), "cluster.setup=module: must be of the same kind as \\[]"),
        (("+cluster.use_srun=false",), "cluster.use_srun: no such key; there are launcher, partition, account"),
        (("cluster.signal_delay_s=3600",), "must be less than cluster.time_min"),
        (("trainer.devices=4",), "trainer.devices=4: follows from cluster.tasks_per_node=1; set that"),
        (("trainer.accelerator=gpu",), "with cluster.gpus_per_task=0 must be cpu or auto"),
        (("cluster.gpus_per_task=1",), "accelerator=cpu: with cluster.gpus_per_task=1 must be gpu"),
    ],
)
def test_wrong_resources_are_refused(overrides, message):
    config = composed("trainer.accelerator=cpu", *overrides)
    with pytest.raises(UserError, match=message):
        check(config)


def test_each_process_has_a_gpu(tmp_path):
    config = composed("cluster.tasks_per_node=4", "cluster.cpus_per_task=3", cluster="slurm_gpu")
    check(config)
    script = slurm.script(tmp_path, config.cluster, 5, "python3")
    assert "#SBATCH --gpus-per-node=4" in script
    assert "#SBATCH --cpus-per-task=3" in script
    assert "#SBATCH --array=0-4%5" in script
    gres = ("+cluster.options.gres=gpu:a100:1", "+cluster.options.gpus_per_node=null")
    script = slurm.script(tmp_path, composed(*gres, cluster="slurm_gpu").cluster, 1, "python3")
    assert "#SBATCH --gres=gpu:a100:1\n" in script
    assert "--gpus-per-node" not in script


SITES = re.findall("^```yaml\n(.*?)^```", (ENGINE / "docs" / "cluster.md").read_text(), re.DOTALL | re.MULTILINE)
SITES = [site for site in SITES if "- slurm" in site]


@pytest.mark.parametrize("site", SITES)
def test_the_site_files_of_the_page_make_a_script(tmp_path, site):
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "site.yaml").write_text(site)
    config = composed(f"hydra.searchpath=[file://{tmp_path}]", cluster="site")
    check(config)
    script = slurm.script(tmp_path, config.cluster, 4, config.cluster.python or "python3")
    given = OmegaConf.create(site).cluster
    assert f"{given.get('python', 'python3')} -u -m leyden.run.process" in script
    assert all(line in script for line in given.get("setup", []))
    assert ("--mem=" in script) == (given.get("mem_gb", 8) is not None)


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("9|PENDING|Priority|\n", "queued"),
        ("9|RUNNING|None|\n", "running"),
        ("9|TIMEOUT|None|\n", "interrupted"),
        ("9|TIM", "queued"),  # no answer, and the job has not started the run yet
    ],
)
def test_the_status_of_a_run_is_that_of_its_job(answer, tmp_path, state, status):
    answer(state)
    write(tmp_path / "a", ["seed=1"], status=None)
    (tmp_path / "a" / "job.json").write_text(json.dumps({"scheduler": "slurm", "job_id": "9", "log": "9.log"}))
    assert [record.status for record in read_records(tmp_path)] == [status]


def test_processes_that_srun_has_started_are_those_of_the_trainer(monkeypatch):
    """Otherwise Lightning would start others."""
    four = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.num_nodes=2")
    cfg = compose(*four, "callbacks=bare")
    of_srun = {"JOB_ID": 9, "NTASKS": 4, "NTASKS_PER_NODE": 2, "PROCID": 0, "LOCALID": 0, "NODEID": 0}
    for name, value in of_srun.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    check_strategy(cfg)
    environment = plain_trainer(cfg, []).strategy.cluster_environment
    assert (environment.world_size(), environment.auto_requeue) == (4, False)
