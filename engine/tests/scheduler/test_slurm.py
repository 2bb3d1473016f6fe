"""What Leyden asks of Slurm and how it reads the answers, without a Slurm."""

import json
import re

import pytest
from omegaconf import OmegaConf

from leyden.assembly.trainer import check_strategy, plain_trainer
from leyden.config.errors import UserError
from leyden.report.records import read_records
from leyden.scheduler import slurm
from leyden.scheduler.slurm import JobState
from leyden.testing.contracts import compose
from tests import ENGINE
from tests.report.test_summary import write


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """Slurm's commands are looked for nowhere."""
    monkeypatch.setattr(slurm.shutil, "which", lambda name: name)


@pytest.fixture
def answer(monkeypatch):
    """A function that sets the answers to commands, by a word of each; the commands that were called."""

    def set_answers(**answers):
        called = []

        def call(*command, **_):
            called.append(command)
            out, problem = next(
                value for word, value in answers.items() if f"--{word}" in command or word in command
            )
            return out, problem

        monkeypatch.setattr(slurm, "_call", call)
        return called

    return set_answers


def test_jobs_are_asked_for_at_once_and_those_of_others_by_their_ids(answer):
    mine = "7_0|RUNNING|None|\n7_1|PENDING|Priority|\n8|PENDING|(launch failed requeued held)|\n9|COMPLETED|None|\n"
    called = answer(
        me=(mine, ""), jobs=("5|PENDING|JobHeldUser|\n", "slurm_load_jobs error: Invalid job id specified")
    )
    assert slurm.states(["7_0", "7_1", "8", "9"]) == {
        "7_0": JobState("running", "RUNNING"),
        "7_1": JobState("queued", "PENDING"),
        "8": JobState("queued", "PENDING", reason="launch failed requeued held"),
        "9": JobState("ended", "COMPLETED", is_completed=True),
    }
    assert len(called) == 1
    assert slurm.states(["5", "6"]) == {
        "5": JobState("queued", "PENDING", reason="JobHeldUser"),
        "6": JobState("ended", "GONE"),
    }
    slurm.states([str(number) for number in range(100, 100 + slurm.QUERIED + 1)])
    asked = [command[0] for command in called]
    assert (asked.count("squeue"), asked.count("sacct")) == (3 + 3, 1 + 2)


def test_without_an_answer_nothing_is_known(answer):
    answer(me=("", "Slurm does not answer"))
    assert slurm.states(["5"]) == {}
    answer(me=("", ""), jobs=("", "Unable to contact slurm controller"))
    assert slurm.states(["5"]) == {}


def composed(*overrides, cluster="slurm"):
    return compose(f"cluster={cluster}", *overrides)


def check(config):
    slurm.check_resources(config.cluster)
    slurm.check_trainer(config.cluster, config.trainer)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("cluster.gpus_per_task=0.5",), "gpus_per_task=0.5: must be 0 or 1, as a process trains on one device"),
        (("cluster.gpus_per_task=2",), "a process trains on one device"),
        (("cluster.gpus_per_task=true",), "gpus_per_task=True: must be 0 or 1"),
        (("cluster.time_min=0",), "time_min=0: must be a whole number, 1 or larger"),
        (("cluster.snapshot=1",), "must be true or false"),
        (("cluster.options=hold",), "must be set key by key, by .cluster.options.KEY=VALUE"),
        (("+cluster.use_srun=false",), "cluster.use_srun: no such key; there are partition, account"),
        (("cluster.srun_args=--mpi",), "must be a list of texts"),
        (("cluster.mem_gb=0",), "must be a whole number, 1 or larger"),
        (("cluster.setup=module",), "cluster.setup=module: must be a list of texts"),
        (("cluster.signal_delay_s=3600",), "must be less than cluster.time_min"),
        (("cluster.nodes=0",), "cluster.nodes=0: must be a whole number, 1 or larger"),
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


def test_one_job_is_tested_for_all(answer, tmp_path):
    """Each job of an array counts for a QOS with MaxSubmitJobs; a full queue is no reason to refuse a sweep."""
    cluster = composed("trainer.accelerator=cpu").cluster
    limit = "sbatch: error: QOSMaxSubmitJobPerUserLimit sbatch: error: Job violates accounting/QOS policy"
    called = answer(**{"test-only": ("", limit)})
    text = slurm.script(tmp_path, cluster, 30, "python3")
    assert "#SBATCH --array=0-29%30" in text
    slurm.try_script(text)
    assert called == [("sbatch", "--test-only", "--array=0")]
    answer(**{"test-only": ("", "sbatch: error: invalid partition")})
    with pytest.raises(UserError, match="sbatch rejects this job: sbatch: error: invalid partition"):
        slurm.try_script(text)


def test_an_array_waits_for_others(tmp_path):
    cluster = composed("+cluster.options.dependency=afterok:3", "trainer.accelerator=cpu").cluster
    text = slurm.script(tmp_path, cluster, 3, "python3", after={"7_0", "7_1", "8"})
    assert "#SBATCH --dependency=afterok:3,afterany:7:8\n" in text


SITES = re.findall("^```yaml\n(.*?)^```", (ENGINE / "docs" / "cluster.md").read_text(), re.DOTALL | re.MULTILINE)


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
    answer(me=(state, ""))
    write(tmp_path / "a", ["seed=1"], status=None)
    (tmp_path / "a" / "job.json").write_text(json.dumps({"scheduler": "slurm", "job_id": "9", "log": "9.log"}))
    assert [record.status for record in read_records(tmp_path)] == [status]


def test_processes_that_srun_has_started_are_those_of_the_trainer(monkeypatch):
    """Otherwise Lightning would start others."""
    cfg = compose(
        "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.num_nodes=2", "callbacks=bare"
    )
    with pytest.raises(UserError, match="nothing starts the other nodes' processes"):
        check_strategy(cfg)
    of_srun = {"JOB_ID": 9, "NTASKS": 4, "NTASKS_PER_NODE": 2, "PROCID": 0, "LOCALID": 0, "NODEID": 0}
    for name, value in of_srun.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    check_strategy(cfg)
    environment = plain_trainer(cfg, []).strategy.cluster_environment
    assert (environment.world_size(), environment.auto_requeue) == (4, False)
