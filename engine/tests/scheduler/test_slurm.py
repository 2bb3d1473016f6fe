"""Without a Slurm: what it is asked and how its answers are read; jobs beside one with limits, whose answers come late; their code."""

import json
import os
import re
import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, Mock

import pytest
from omegaconf import OmegaConf

from leyden import cluster
from leyden.assembly.trainer import check_strategy, plain_trainer
from leyden.cluster import GRACE_S, QueueLauncher, bootstrap
from leyden.config.errors import UserError
from leyden.report.records import read_records
from leyden.run.result import Failure
from leyden.scheduler import JobState, RejectedError, slurm
from leyden.testing.contracts import compose
from tests import ENGINE, mistakes
from tests.report.test_summary import write


@pytest.fixture
def answer(monkeypatch):
    """Sets the answer to each command, and returns those that will be called."""

    def set_answer(out, problem=""):
        called = []
        monkeypatch.setattr(slurm, "_call", lambda *command, **_: called.append(command) or (out, problem))
        return called

    return set_answer


def test_jobs_are_asked_for_by_their_arrays(answer):
    never, held = "DependencyNeverSatisfied", "launch failed requeued held"
    out = f"7_0|RUNNING|None|\n7_1|PENDING|Priority|\n8|PENDING|({held})|\n9|COMPLETED|None|\n11|PENDING|{never}|\n"
    called = answer(out)
    states = {
        "7_0": JobState("running", "RUNNING"),
        "7_1": JobState("queued", "PENDING"),
        "8": JobState("queued", "PENDING", reason=held),
        "9": JobState("ended", "COMPLETED", is_completed=True),
        "10": JobState("ended", "GONE"),
        "11": JobState("ended", f"waiting for ever ({never})", reason=never),
    }
    assert slurm.states([*states]) == states
    slurm.cancel_stuck(states)
    # Of the one that it has forgotten, the accounting.
    assert [command[-1] for command in called] == ["10,11,7,8,9", "10", "11"]
    slurm.states([str(number) for number in range(100, 100 + slurm.QUERIED + 1)])
    assert [command[0] for command in called[2:]] == ["scancel", "squeue", "squeue", "sacct", "sacct"]
    answer("", "slurm_load_jobs error: Invalid job id specified")
    assert slurm.states(["5"]) == {"5": JobState("ended", "GONE")}
    answer("", "Unable to contact slurm controller")
    assert slurm.states(["5"]) == {}


def test_a_job_is_requeued_by_its_script_as_a_container_has_no_scontrol(answer, monkeypatch, tmp_path):
    for name, value in {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1", slurm.REQUEUE: f"{tmp_path}/file"}.items():
        monkeypatch.setenv(name, value)
    cases = [("8", 1, True, []), ("7", 1, False, [""]), ("7", 1, True, ["n1"]), ("7", 2, True, [""])]
    for of_script, num_nodes, elsewhere, written in cases:
        monkeypatch.setenv("LEYDEN_JOB", of_script)
        monkeypatch.setenv("SLURM_JOB_NUM_NODES", str(num_nodes))
        called = answer("")
        assert slurm.requeue(elsewhere=elsewhere)
        assert [path.read_text() for path in tmp_path.iterdir()] == written
        assert called == ([] if written else [("scontrol", "requeue", "7")])


def checked(*overrides, cluster="slurm"):
    config = compose(f"cluster={cluster}", *overrides)
    slurm.check_resources(config.cluster)
    slurm.check_trainer(config.cluster, config.trainer)
    return config.cluster


WRONG = r"""
cluster.gpus_per_task=0.5  =>  gpus_per_task=0.5: must be 0 or 1, one device for each process
cluster.snapshot=1  =>  cluster.snapshot=1: must be of the same kind as True, the default
cluster.setup=module  =>  cluster.setup=module: must be of the same kind as []
+cluster.use_srun=false  =>  cluster.use_srun: no such key; there are launcher, partition, account
cluster.signal_delay_s=3600  =>  must be less than cluster.time_min
trainer.devices=4  =>  trainer.devices=4: follows from cluster.tasks_per_node=1; set that
trainer.accelerator=gpu  =>  with cluster.gpus_per_task=0 must be cpu or auto
cluster.gpus_per_task=1  =>  accelerator=cpu: with cluster.gpus_per_task=1 must be gpu
"""


@pytest.mark.parametrize(("override", "message"), mistakes(WRONG))
def test_wrong_resources_are_refused(override, message):
    with pytest.raises(UserError, match=re.escape(message)):
        checked("trainer.accelerator=cpu", override)


def test_each_process_has_a_gpu(tmp_path):
    four = ("cluster.tasks_per_node=4", "cluster.cpus_per_task=3")
    gres = ("+cluster.options.gres=gpu:a100:1", "+cluster.options.gpus_per_node=null")
    of_four = ("gpus-per-node=4", "cpus-per-task=3", "array=0-4%5")
    cases = [(four, 5, of_four, "gres"), (gres, 1, ("gres=gpu:a100:1",), "gpus-per-node")]
    for overrides, num_jobs, expected, absent in cases:
        lines = slurm.script(tmp_path, checked(*overrides, cluster="slurm_gpu"), num_jobs, "python3").splitlines()
        assert {f"#SBATCH --{option}" for option in expected} <= {*lines}
        assert not [line for line in lines if f"--{absent}" in line]


SITES = re.findall("(?ms)^```yaml\n(.*?)^```", (ENGINE / "docs" / "cluster.md").read_text())


@pytest.mark.parametrize("site", [site for site in SITES if "- slurm" in site])
def test_the_site_files_of_the_page_make_a_script(tmp_path, site):
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "site.yaml").write_text(site)
    asked = checked(f"hydra.searchpath=[file://{tmp_path}]", cluster="site")
    script = slurm.script(tmp_path, asked, 4, asked.python or "python3")
    given = OmegaConf.create(site).cluster
    for line in (f"{given.get('python', 'python3')} -u -m leyden.run.process", *given.get("setup", [])):
        assert line in script
    assert ("--mem=" in script) == (given.get("mem_gb", 8) is not None)


def test_the_status_of_a_run_is_that_of_its_job(answer, tmp_path):
    write(tmp_path / "a", ["seed=1"], status=None)
    (tmp_path / "a" / "job.json").write_text(json.dumps({"scheduler": "slurm", "job_id": "9", "log": "9.log"}))
    told = {"PENDING|Priority|\n": "queued", "RUNNING|None|\n": "running", "TIMEOUT|None|\n": "interrupted"}
    told["TIM"] = "queued"  # no answer, and the job has not started the run yet
    for state, status in told.items():
        answer(f"9|{state}")
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


DONE, FAILED = JobState("ended", "COMPLETED", is_completed=True), JobState("ended", "NODE_FAIL")


class Limited:
    MAX_ARRAY = 4
    leave_job = cancel_stuck = Mock()

    def __init__(self, room):
        self.room, self.jobs, self.num_queries = room, {}, 0

    def states(self, ids):
        self.num_queries += 1
        return {job: self.jobs[job] for job in ids}

    def submit(self, folder, cluster, work, arguments, *, python):
        if sum(state.phase != "ended" for state in self.jobs.values()) + len(arguments) > self.room:
            raise RejectedError("too many jobs")
        ids = [f"j{len(self.jobs) + number}" for number in range(len(arguments))]
        self.jobs |= dict.fromkeys(ids, JobState("running", "RUNNING"))
        return [{"scheduler": "slurm", "job_id": job, "log": f"{folder}/{job}"} for job in ids]


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when somebody sleeps."""
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(cluster.time, "monotonic", lambda: now.s)
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: setattr(now, "s", now.s + seconds))
    return now


def jobs(num):
    return [Mock(run=MagicMock(directory=Path(f"r{n}"), submission={}, result=None)) for n in range(num)]


@pytest.fixture
def started(tmp_path, clock, monkeypatch):
    """Starts jobs by a launcher of its own beside a scheduler."""

    def start(scheduler, mine):
        monkeypatch.setattr(cluster.scheduler, "named", {"limited": scheduler}.get)
        of_site = OmegaConf.create({"launcher": "limited", "snapshot": False, "python": None, "num_jobs": None})
        config = SimpleNamespace(cluster=of_site, outputs=tmp_path, sweep_name="s")
        (running := QueueLauncher(config, "leyden.train")).start(mine)
        return running

    return start


@pytest.fixture
def one(started):
    """A launcher, its only job, and its scheduler."""
    (mine,), scheduler = jobs(1), Limited(room=9)
    return started(scheduler, [mine]), mine, scheduler


def test_what_is_not_accepted_yet_is_submitted_as_others_end(started):
    mine, scheduler, done = jobs(9), Limited(room=6), []
    running = started(scheduler, mine)
    assert (len(running.running), running.note) == (4, "5 not accepted yet")
    again = started(scheduler, mine)  # the same command, while the jobs of the first one run
    assert (len(again.running), again.waiting) == (4, mine[4:])
    while running.running or running.waiting:
        for number in running.running:
            scheduler.jobs[number] = DONE
            for job in running.running[number]:
                job.run.result = SimpleNamespace(error=None)
        over, _ = running.wait()
        assert not any(error for _, error in over)
        done += [job.run.directory.name for job, _ in over]
    assert (done, running.note) == ([f"r{n}" for n in range(9)], "")
    with pytest.raises(RejectedError, match="too many jobs"):
        started(Limited(room=3), jobs(9))


@pytest.mark.parametrize(("state", "lies"), [(DONE, 80.0), (FAILED, 3.0)])
def test_a_result_may_be_seen_after_the_end_of_its_job(one, clock, state, lies):
    running, mine, scheduler = one
    scheduler.jobs["j0"], began = state, clock.s
    while clock.s < began + lies:
        assert running.wait()[0] == []
    mine.run.result = SimpleNamespace(error=None)
    assert running.wait()[0] == [(mine, None)]


def test_a_job_without_a_result_has_failed_if_it_has_ended_twice(one, clock):
    """A job that is being requeued ends, too, for a moment; the scheduler is asked once a minute, and more at first."""
    running, mine, scheduler = one
    num_queries, began = [], clock.s
    for until in (600, 1800):
        while clock.s < began + until:
            running.wait()
        num_queries.append(scheduler.num_queries)
    assert num_queries[0] < 16
    assert num_queries[1] - num_queries[0] <= 20
    scheduler.jobs["j0"] = FAILED
    while not running.ended:
        assert running.wait()[0] == []
    scheduler.jobs["j0"] = JobState("queued", "PENDING")
    for _ in range(20):
        assert running.wait()[0] == []
    scheduler.jobs["j0"], since = FAILED, clock.s
    while not (over := running.wait()[0]):
        assert clock.s < since + 2 * GRACE_S[False] + 100
    assert over == [(mine, Failure("Scheduler", "job j0 is NODE_FAIL without a result"))]


def test_each_job_unpacks_once_to_a_folder_of_its_own_user_that_its_script_removes(tmp_path, monkeypatch):
    """Another job that runs from the same archive keeps its own."""
    (tmp_path / "train.py").write_text("mine")
    with tarfile.open(archive := tmp_path / "code.tar.gz", "w:gz") as opened:
        opened.add(tmp_path / "train.py", "src/train.py")
    monkeypatch.setattr(bootstrap.tempfile, "gettempdir", lambda: str(tmp_path))
    folders = []
    for job in ("7_0", "7_1"):
        monkeypatch.setenv("LEYDEN_JOB", job)
        folders.append(bootstrap.unpack(archive))
        assert folders[-1].parent.name == job
        assert bootstrap.unpack(archive) == folders[-1]
        assert (folders[-1] / "src" / "train.py").read_text() == "mine"
    environment = {"TMPDIR": str(tmp_path), "LEYDEN_JOB": "7_0", "PATH": os.environ["PATH"]}
    subprocess.run(["bash", "-c", f"rm -rf {slurm.NODE_FOLDER}"], env=environment, check=True)
    assert [folder.exists() for folder in folders] == [False, True]
    (tmp_path / "leyden-54321" / "7_1" / folders[1].name).mkdir(parents=True)  # with other code in it
    monkeypatch.setattr(bootstrap.os, "getuid", lambda: 54321)
    with pytest.raises(SystemExit, match="belongs to another user; set TMPDIR"):
        bootstrap.unpack(archive)


@pytest.mark.parametrize("layout", ["src", "."])
def test_what_links_lead_to_is_archived(tmp_path, monkeypatch, layout):
    """An edit of the files elsewhere would change waiting jobs, and a node may not have them."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    mine, nested, conf = project / layout / "mine", elsewhere / "shared" / "nested", elsewhere / "conf"
    for path in (mine / "__init__.py", nested / "__init__.py", nested / "net.py", conf / "model" / "net.yaml"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    (project / "conf").symlink_to(conf)
    (mine / "shared").symlink_to(elsewhere / "shared")
    (mine / "net.py").symlink_to(nested / "net.py")
    (project / layout / ".#net.py").symlink_to("me@here.4711")  # of an editor; it leads nowhere
    for name, path in {"ROOT": project, "SRC": project / layout, "CONF": project / "conf"}.items():
        monkeypatch.setattr(cluster, name, path)
    monkeypatch.setattr(bootstrap.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = bootstrap.unpack(cluster.snapshot(tmp_path / "code"))
    found = [path for path in folder.rglob("*") if "engine" not in path.parts and not path.is_dir()]
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    names = ("__init__.py", "net.py", "shared/nested/__init__.py", "shared/nested/net.py")
    expected = ["conf/model/net.yaml", "git.json", *(str(Path(layout, "mine", name)) for name in names)]
    assert sorted(str(path.relative_to(folder)) for path in found) == sorted(expected)
