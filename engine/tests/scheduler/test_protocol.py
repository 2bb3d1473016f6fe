"""Another batch system is a class: nothing outside of `leyden.scheduler` asks which one it is."""

import ast
import json

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment

from leyden import scheduler
from leyden.assembly.trainer import check_strategy, plain_trainer
from leyden.cluster.submit import ClusterRunner
from leyden.config.errors import UserError
from leyden.config.paths import LIBRARY
from leyden.report.records import read_records
from leyden.scheduler.protocol import JobState, Submitted
from leyden.testing.contracts import compose
from tests.report.test_summary import write


class Queue:
    """A batch system in a variable: a job is a line in it."""

    name = "queue"
    title = "Queue"
    cancel_command = "qdel"

    def __init__(self):
        self.jobs = {}

    def job_id(self):
        return None

    def num_restarts(self):
        return 0

    def environment(self):
        self.started = LightningEnvironment()
        self.started.world_size = lambda: 4
        return self.started

    def states(self, ids):
        return {job: self.jobs[job] for job in ids if job in self.jobs}

    def submit(self, folder, cluster, work, arguments, *, python, starts_processes=False, after=()):
        ids = [f"q{len(self.jobs) + number}" for number in range(len(arguments))]
        self.jobs |= {job: JobState("queued", "Q") for job in ids}
        return [Submitted(job, folder / f"{job}.log") for job in ids]


@pytest.fixture
def queue(monkeypatch):
    monkeypatch.setitem(scheduler.SCHEDULERS, "queue", made := Queue())
    return made


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (JobState("queued", "Q"), "queued"),
        (JobState("running", "R"), "running"),
        (JobState("ended", "X"), "interrupted"),
        (None, "queued"),  # it does not answer, and has not started the run yet
    ],
)
def test_the_status_of_a_run_is_that_of_its_job_in_any_batch_system(queue, tmp_path, state, status):
    write(tmp_path / "a", ["seed=1"], status=None)
    queue.jobs = {"q0": state} if state else {}
    (tmp_path / "a" / "job.json").write_text(json.dumps({"scheduler": "queue", "job_id": "q0", "log": "q0.log"}))
    assert [record.status for record in read_records(tmp_path)] == [status]


def test_a_job_of_an_unknown_batch_system_is_named_and_stops_nothing(tmp_path, capsys):
    write(tmp_path / "a", ["seed=1"], status=None)
    write(tmp_path / "b", ["seed=2"], value=0.5)
    (tmp_path / "a" / "job.json").write_text(json.dumps({"scheduler": "pbs", "job_id": "1", "log": "x"}))
    records = read_records(tmp_path)
    assert [(record.run.directory.name, record.status) for record in records] == [
        ("a", "queued"),
        ("b", "finished"),
    ]
    assert "job.json: pbs is no scheduler, but slurm" in capsys.readouterr().err


def test_jobs_go_to_the_batch_system_that_the_launcher_names(queue, tmp_path):
    cluster = type("Cluster", (), {"snapshot": False, "python": None, "num_jobs": None})
    runner = ClusterRunner(queue, tmp_path, cluster, "leyden.train")
    runner.code = tmp_path
    made = runner.map([[(print, ("a",))], [(print, ("b",))]], [[None], [None]])
    assert [(job.job_id, job.log) for job in made] == [(f"q{n}", tmp_path / "queue" / f"q{n}.log") for n in (0, 1)]
    assert runner.alive(["q0", "q1"]) == {"q0", "q1"}


def test_processes_that_a_batch_system_has_started_are_those_of_the_trainer(queue, monkeypatch):
    """Otherwise Lightning would start others."""
    cfg = compose(
        "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.num_nodes=2", "callbacks=bare"
    )
    with pytest.raises(UserError, match="nothing starts the other nodes' processes"):
        check_strategy(cfg)
    monkeypatch.setattr(queue, "job_id", lambda: "q0")
    check_strategy(cfg)
    assert plain_trainer(cfg, []).strategy.cluster_environment is queue.started


def test_no_other_module_names_slurm():
    """But a sentence for a person."""
    for path in (LIBRARY).rglob("*.py"):
        # process.py has the variables of srun; exact is used without a scheduler of ours.
        if path.parent.name == "scheduler" or path.name == "process.py" or path.match("exact/fit.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
                assert "slurm" not in node.value.lower(), f"{path}:{node.lineno}: {node.value}"
            if isinstance(node, ast.alias):
                assert "slurm" not in node.name.lower(), f"{path}: imports {node.name}"
