"""Without a Slurm: what it is asked and how its answers are read; jobs beside one with limits, whose answers come late; their code."""

import contextlib
import json
import os
import re
import stat
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, Mock

import pytest
from omegaconf import OmegaConf

from leyden import queue
from leyden.assembly.trainer import check_strategy, plain_trainer
from leyden.base.errors import UserError
from leyden.queue import (
    REQUEUE_VARIABLE,
    ArrayError,
    JobState,
    Queue,
    RejectedError,
    Work,
    bootstrap,
    loop,
    script,
    slurm,
    snapshot,
)
from leyden.queue.loop import GRACE_S, Launcher
from leyden.queue.slurm import Slurm
from leyden.report.records import read_records
from leyden.run.lock import InUseError
from leyden.run.process import write_call
from leyden.run.result import Failure
from leyden.testing.contracts import compose
from tests import ENGINE, mistakes
from tests.report.test_summary import write


@pytest.fixture
def answer(monkeypatch):
    """Sets the answer to each command, and returns those that will be called."""

    def set_answer(out, problem=""):
        called = []
        monkeypatch.setattr(
            slurm, "call", lambda *command, **_: called.append(command) or (out, problem)
        )
        return called

    return set_answer


def test_jobs_are_asked_for_by_their_arrays(answer):
    never = "DependencyNeverSatisfied"
    held = "launch failed requeued held"
    out = f"7_0|RUNNING|None|\n7_1|PENDING|Priority|\n8|PENDING|({held})|\n9|COMPLETED|None|\n12|PREEMPTED|None|\n11|PENDING|{never}|\n"
    called = answer(out)
    states = {
        "7_0": JobState("running", "RUNNING"),
        "7_1": JobState("queued", "PENDING"),
        "8": JobState("queued", "PENDING", reason=held),
        "9": JobState("ended", "COMPLETED", is_completed=True),
        "10": JobState("ended", "GONE"),
        "12": JobState("ended", "PREEMPTED", is_completed=True),
        "11": JobState("ended", f"waiting for ever ({never})", reason=never),
    }
    assert slurm.slurm_states([*states]) == states
    slurm_of().cancel(["11", "--all"])
    # Of the one that it has forgotten, the accounting.
    assert [command[-1] for command in called] == ["10,11,12,7,8,9", "10", "11"]
    slurm.slurm_states([str(number) for number in range(100, 100 + slurm.QUERIED + 1)])
    assert [command[0] for command in called[2:]] == [
        "scancel",
        "squeue",
        "squeue",
        "sacct",
        "sacct",
    ]
    answer("", "slurm_load_jobs error: Invalid job id specified")
    assert slurm.slurm_states(["5"]) == {"5": JobState("ended", "GONE")}
    answer("", "Unable to contact slurm controller")
    assert slurm.slurm_states(["5"]) == {}


def test_a_job_is_requeued_by_its_script_as_a_container_has_no_scontrol(monkeypatch, tmp_path):
    for name, value in {
        "SLURM_JOB_ID": "7",
        "SLURMD_NODENAME": "n1",
        REQUEUE_VARIABLE: f"{tmp_path}/7.0.requeue",
    }.items():
        monkeypatch.setenv(name, value)
    by_slurm = Mock(return_value=True)
    monkeypatch.setattr(queue.of_slurm, "requeue_job", by_slurm)
    cases = [
        ("8", 1, True, []),
        ("7", 1, False, [""]),
        ("7", 1, True, ["n1"]),
        ("7", 2, True, [""]),
    ]
    for of_script, num_nodes, elsewhere, written in cases:
        monkeypatch.setenv("LEYDEN_JOB", of_script)
        monkeypatch.setenv("SLURM_JOB_NUM_NODES", str(num_nodes))
        assert queue.requeue(elsewhere=elsewhere)
        assert [path.read_text() for path in tmp_path.iterdir()] == written
        assert by_slurm.call_count == 1
    # What its script could not do either, the waiting command is told once.
    batch = 12 * "a"
    (tmp_path / f"{batch}_0.1.requeue").touch()
    asked = slurm_of(folder=tmp_path)
    told = [asked.has_asked({"call": f"{name}.call"}) for name in ("*", batch, f"{batch}_1")]
    assert told == [False, False, False]
    assert [asked.has_asked({"call": f"{batch}_0.call"}) for _ in range(2)] == [True, False]


SRUN = """#!/bin/bash
export SCRIPT=$PPID
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
ASKS = 'echo >"$LEYDEN_REQUEUE"'
# What the process does, whether there is a scontrol; then the files that are left, and what scontrol was told.
ENDS = [
    ("exit 3", True, set(), ""),
    (ASKS, True, {".call"}, "requeue 7_1"),
    (ASKS, False, {".call", ".requeue"}, ""),
    ("kill -TERM $SCRIPT", True, {".call"}, ""),  # Slurm may start the job again
]


@pytest.mark.parametrize(("does", "has_scontrol", "left", "told"), ENDS)
def test_the_script_hands_the_key_on_and_removes_it_when_the_job_does_not_come_back(
    tmp_path, monkeypatch, does, has_scontrol, left, told
):
    """Also where neither the site nor its `srun` hand on variables."""
    tools = tmp_path / "tools"
    work = tmp_path / "work"
    tools.mkdir()
    work.mkdir()
    programs = {"srun": SRUN, "scontrol": f'#!/bin/bash\necho "$*" >{tmp_path}/told\n'}
    if not has_scontrol:
        del programs["scontrol"]
    for name in programs:
        (tools / name).write_text(programs[name])
        (tools / name).chmod(0o755)
    seen = f'echo "$LEYDEN_KEY $MINE $SLURM_EXPORT_ENV" >{tmp_path}/seen; {does}'
    files = []
    for number in range(2):
        files.append(work / f"{12 * 'a'}_{number}.call")
        write_call(files[-1], os.system, (seen,), {"LEYDEN_KEY": "k", "MINE": "theirs"})
        assert stat.S_IMODE(files[-1].stat().st_mode) == 0o600
    python = f"{sys.executable} {bootstrap.__file__} {ENGINE} src"
    text = slurm_of(folder=work).script(2, python, calls=str(work / (12 * "a")))
    of_slurm = {
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "1",
        "SLURM_JOB_ID": "7",
        "SLURM_CPUS_PER_TASK": "1",
    }
    environment = {**of_slurm, "SLURM_EXPORT_ENV": "NONE", "MINE": "site", "TMPDIR": str(tmp_path)}
    environment["PATH"] = f"{tools}:/usr/bin:/bin"
    subprocess.run(
        ["bash"], input=text, text=True, env=environment, capture_output=True, check=False
    )
    assert (tmp_path / "seen").read_text() == "k site \n"
    assert {path.suffix for path in work.iterdir() if path != files[0]} == left
    assert files[0].exists()  # of another job
    assert (
        (tmp_path / "told").read_text().strip() == told
        if told
        else not (tmp_path / "told").exists()
    )


def test_a_call_that_others_could_have_written_is_not_executed(tmp_path, monkeypatch):
    call = tmp_path / "call"
    call.touch(mode=0o600)
    os.close(bootstrap.open_own(str(call)))
    (tmp_path / "link").symlink_to(call)
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "open").touch()
    (tmp_path / "open").chmod(0o620)
    for name in ("link", "pipe", "open", "none"):
        with pytest.raises(SystemExit, match=f"leyden: {tmp_path}/{name}: "):
            bootstrap.open_own(str(tmp_path / name))
    monkeypatch.setattr(bootstrap.os, "getuid", lambda: 54321)
    with pytest.raises(SystemExit, match="must be a file of yours"):
        bootstrap.open_own(str(call))


def test_settings_win_over_variables_of_sbatch(answer, monkeypatch, tmp_path, capsys):
    for name in ("PARTITION", "TIMELIMIT", "MEM_PER_NODE", "QOS"):
        monkeypatch.setenv(f"SBATCH_{name}", "17")
    called = answer("Submitted batch job 7\n")
    of_gpu = slurm_of("cluster.partition=gpu", folder=tmp_path)
    of_gpu.submit([Work(os.system, ("true",), None, None)], "r", "python3")
    assert {"--partition=gpu", "--time=60", "--mem=8GB", "--requeue"} < {*called[0]}
    lost = re.findall(r"SBATCH_(\w+)=17 has no effect, since .* (--\w+)", capsys.readouterr().err)
    assert lost == [
        ("MEM_PER_NODE", "--mem"),
        ("PARTITION", "--partition"),
        ("TIMELIMIT", "--time"),
    ]


def slurm_of(*overrides, cluster="slurm", folder=Path("/work")):
    """The queue, whose settings were checked."""
    config = compose(f"cluster={cluster}", *overrides)
    found = Slurm(config, folder)
    found.check_settings()
    found.check_trainer(config.trainer)
    return found


WRONG = r"""
cluster.gpus_per_task=0.5  =>  gpus_per_task=0.5: must be 0 or 1, one device for each process
cluster.snapshot=1  =>  cluster.snapshot=1: must be of the same kind as True, the default
cluster.setup=module  =>  cluster.setup=module: must be of the same kind as []
+cluster.use_srun=false  =>  cluster.use_srun: no such key; there are launcher, partition, account
cluster.signal_delay_s=3541  =>  must be a minute less than cluster.time_min=60
trainer.devices=4  =>  trainer.devices=4: follows from cluster.tasks_per_node=1; set that
trainer.accelerator=gpu  =>  with cluster.gpus_per_task=0 must be cpu or auto
cluster.gpus_per_node=a100:2  =>  cluster.gpus_per_node=a100:2: must be 0 (cluster.gpus_per_task x
cluster.gpus_per_task=1  =>  accelerator=cpu: with cluster.gpus_per_task=1 must be gpu
"""


@pytest.mark.parametrize(("override", "message"), mistakes(WRONG))
def test_wrong_resources_are_refused(override, message):
    with pytest.raises(UserError, match=re.escape(message)):
        slurm_of("trainer.accelerator=cpu", override)


def test_each_process_has_a_gpu(tmp_path):
    four = ("cluster.tasks_per_node=4", "cluster.cpus_per_task=3")
    gres = ("+cluster.options.gres=gpu:a100:1", "+cluster.options.gpus_per_node=null")
    of_four = ("gpus-per-node=4", "cpus-per-task=3", "array=0-4%5")
    several = ("cluster.partition=[a,b]", "cluster.tasks_per_node=4")
    types = (*several, "cluster.gpus_per_node={a100: 3, h100: 1}")
    of_types = ("partition=a,b", "gpus-per-node=a100:3,h100:1")
    one_type = (*several, "cluster.gpus_per_node=a100:4")
    cases = [
        (types, 1, of_types, "gres"),
        (one_type, 1, ("gpus-per-node=a100:4",), "gres"),
        (four, 5, of_four, "gres"),
        (gres, 1, ("gres=gpu:a100:1",), "gpus-per-node"),
    ]
    for overrides, num_jobs, expected, absent in cases:
        asked = slurm_of(*overrides, cluster="slurm_gpu", folder=tmp_path)
        lines = asked.script(num_jobs, "python3").splitlines()
        assert {f"#SBATCH --{option}" for option in expected} <= {*lines}
        assert not [line for line in lines if f"--{absent}" in line]
    asked.cluster.options = {"comment": "two\nlines"}  # the second one would be a command
    assert "#SBATCH --comment='two lines'" in asked.script(1, "python3").splitlines()


PAGE = (ENGINE / "docs" / "cluster.md").read_text()
SITES = re.findall("(?ms)^```yaml\n(.*?)^```", PAGE)


@pytest.mark.parametrize("site", [site for site in SITES if "- slurm" in site])
def test_the_site_files_of_the_page_make_a_script(tmp_path, site):
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "site.yaml").write_text(site)
    asked = slurm_of(f"hydra.searchpath=[file://{tmp_path}]", cluster="site", folder=tmp_path)
    script = asked.script(4, asked.cluster.python or "python3")
    given = OmegaConf.create(site).cluster
    for line in (
        f"{given.get('python', 'python3')} -u -m leyden.run.process",
        *given.get("setup", []),
    ):
        assert line in script
    assert ("--mem=" in script) == (given.get("mem_gb", 8) is not None)


def test_the_status_of_a_run_is_that_of_its_job(answer, tmp_path):
    write(tmp_path / "a", ["seed=1"], status=None)
    (tmp_path / "a" / "job.json").write_text(
        json.dumps({"format": 1, "scheduler": "slurm", "job_id": "9", "log": "9.log"})
    )
    told = {
        "PENDING|Priority|\n": "queued",
        "RUNNING|None|\n": "running",
        "TIMEOUT|None|\n": "interrupted",
    }
    told["TIM"] = "queued"  # no answer, and the job has not started the run yet
    for state, status in told.items():
        answer(f"9|{state}")
        assert [record.status for record in read_records(tmp_path)] == [status]


def test_processes_that_srun_has_started_are_those_of_the_trainer(monkeypatch):
    """Otherwise Lightning would start others."""
    four = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.num_nodes=2")
    cfg = compose(*four, "callbacks=bare")
    of_srun = {
        "JOB_ID": 9,
        "NTASKS": 4,
        "NTASKS_PER_NODE": 2,
        "PROCID": 0,
        "LOCALID": 0,
        "NODEID": 0,
    }
    for name, value in of_srun.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    check_strategy(cfg)
    environment = plain_trainer(cfg, []).strategy.cluster_environment
    assert environment.world_size() == 4
    assert environment.auto_requeue is False
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")  # of torchrun, which srun may start
    assert slurm.environment() is None


DONE = JobState("ended", "COMPLETED", is_completed=True)
FAILED = JobState("ended", "NODE_FAIL")


class Limited(Queue):
    several = 4
    room = 9
    max_array = 4

    def __init__(self, config, folder):
        super().__init__(config, folder)
        self.jobs = {}
        self.num_queries = 0
        self.asked = []
        self.arrays = []
        self.cancel = Mock()

    def states(self, ids):
        self.num_queries += 1
        return {job: self.jobs[job] for job in ids}

    def has_asked(self, submission):
        return submission.get("job_id") in self.asked

    def submit(self, works, name, python, *, after=()):
        if len(works) > self.max_array:
            raise ArrayError("too large")
        if sum(state.phase != "ended" for state in self.jobs.values()) + len(works) > self.room:
            raise RejectedError("too many jobs")
        ids = [f"j{len(self.jobs) + number}" for number in range(len(works))]
        self.arrays.append(len(ids))
        self.jobs |= dict.fromkeys(ids, JobState("running", "RUNNING"))
        return [{"scheduler": "slurm", "job_id": job, "log": f"{self.folder}/{job}"} for job in ids]


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when this thread sleeps; others, such as a lock's heartbeat, sleep as ever."""
    now = SimpleNamespace(s=1000.0)
    mine = threading.get_ident()
    others_sleep = time.sleep

    def sleep(seconds):
        if threading.get_ident() == mine:
            now.s += seconds
        else:
            others_sleep(seconds)

    monkeypatch.setattr(loop.time, "monotonic", lambda: now.s)
    monkeypatch.setattr(loop.time, "sleep", sleep)
    return now


def jobs(num):
    return [
        Mock(run=MagicMock(directory=Path(f"r{n}"), submission={}, result=None)) for n in range(num)
    ]


@pytest.fixture
def started(tmp_path, clock):
    """Starts jobs by a launcher of its own, in a queue with limits or in that of an earlier launcher."""

    def start(mine, *, beside=None, room=9, max_array=4, **settings):
        of_site = {
            "launcher": "limited",
            "snapshot": False,
            "python": None,
            "num_jobs": None,
            "max_requeues": 2,
        }
        config = SimpleNamespace(cluster=OmegaConf.create({**of_site, **settings}))
        limits = type(
            "OfSite",
            (Limited,),
            {"room": room, "max_array": max_array, "several": max(4, max_array)},
        )
        running = Launcher(config, "leyden.train", limits, tmp_path)
        running.queue = beside.queue if beside else running.queue
        running.start(mine)
        return running

    return start


@pytest.fixture
def one(started):
    """A launcher, its only job, and its queue."""
    (mine,) = jobs(1)
    running = started([mine])
    return running, mine, running.queue


def test_what_is_not_accepted_yet_is_submitted_as_others_end(started):
    mine = jobs(9)
    done = []
    running = started(mine, room=6)
    scheduler = running.queue
    assert len(running.running) == 4
    assert running.note == "5 not accepted yet"
    again = started(mine, beside=running)  # the same command, while the jobs of the first one run
    assert len(again.running) == 4
    assert again.waiting == mine[4:]
    while running.running or running.waiting:
        for number in running.running:
            scheduler.jobs[number] = DONE
            for job in running.running[number].jobs:
                job.run.result = SimpleNamespace(error=None)
        over, _ = running.wait()
        assert not any(error for _, error in over)
        done += [job.run.directory.name for job, _ in over]
    assert done == [f"r{n}" for n in range(9)]
    assert running.note == ""
    with pytest.raises(RejectedError, match="too many jobs"):
        started(jobs(9), room=3)


def test_arrays_become_smaller_where_a_site_limits_them(started, capsys):
    running = started(jobs(5), room=99, max_array=2, wait=False, num_jobs=3)
    assert running.queue.arrays == [2, 2, 1]
    assert len(running.running) == 5
    assert running.waiting == []
    assert (
        "(MaxArraySize): 2 jobs in each; cluster.num_jobs=3 limits each array"
        in capsys.readouterr().err
    )
    with pytest.raises(ArrayError):
        started(jobs(1), room=99, max_array=0)


def faster(job, number):
    """Another command submits a job while this one waits for its lock."""
    job.run.locked.side_effect = lambda *_, **__: (
        job.run.__setattr__("submission", {"job_id": number, "log": number})
        or contextlib.nullcontext()
    )


def test_what_another_command_submits_meanwhile_is_not_submitted_again(started):
    mine = jobs(2)
    running = started([])
    running.queue.jobs["j7"] = JobState("running", "RUNNING")
    faster(mine[0], "j7")
    running.start(mine)
    found = {number: [*map(mine.index, each.jobs)] for number, each in running.running.items()}
    assert found == {"j7": [0], "j1": [1]}


def test_a_run_in_use_is_looked_at_again(started, clock):
    (mine,) = jobs(1)
    mine.run.locked.side_effect = InUseError("r0: in use by process 7")
    running = started([mine])
    running.wait()
    assert running.running == {}
    assert running.note == "1 in use by other processes"
    with pytest.raises(InUseError, match="process 7"):
        started([mine], wait=False)
    mine.run.locked.side_effect = None
    running.wait()
    assert [*running.running] == ["j0"]
    assert running.note == ""


def test_a_job_that_could_not_be_requeued_is_submitted_again(one, clock, capsys):
    running, mine, scheduler = one
    for number in ("j0", "j1"):
        scheduler.asked.append(number)
        scheduler.jobs[number] = FAILED
        while number in running.running:
            assert running.wait()[0] == []
    assert [*running.running] == ["j2"]
    assert (
        "r0: job j1 has saved, and its node could not requeue it (see its log): submitted again, 2 of 2"
        in capsys.readouterr().err
    )
    scheduler.asked.append("j2")
    scheduler.jobs["j2"] = FAILED
    while not (over := running.wait()[0]):
        assert clock.s < 2000
    assert over == [(mine, Failure("Scheduler", "job j2 is NODE_FAIL without a result"))]
    assert "cluster.max_requeues=2 is reached" in capsys.readouterr().err


def test_a_job_that_is_lost_with_its_machine_is_submitted_again(one, capsys):
    running, _, scheduler = one
    scheduler.jobs["j0"] = JobState("ended", "lost", is_lost=True)
    while "j1" not in running.running:
        assert running.wait()[0] == []
    assert "r0: job j0 is lost with its machine: submitted again, 1 of 2" in capsys.readouterr().err


def test_a_job_that_its_queue_does_not_name_runs_if_it_says_so_itself(one, monkeypatch, clock):
    running, mine, scheduler = one
    held = [True]
    monkeypatch.setattr(loop, "is_held", lambda directory: held[0])
    scheduler.jobs["j0"], began = JobState("ended", "GONE", is_completed=True), clock.s
    while clock.s < began + 900:
        assert running.wait()[0] == []
    held[0] = False
    while not (over := running.wait()[0]):
        assert clock.s < began + 1200
    assert over == [(mine, Failure("Scheduler", "job j0 is GONE without a result"))]


@pytest.mark.parametrize("num", [1, 300])
def test_a_queue_is_asked_once_a_minute_in_the_mean_whatever_goes_on(started, clock, num):
    """The worst case: results that are seen late, one after the other, and jobs that are not accepted."""
    mine = jobs(num)
    running = started(mine, room=max(1, num - 4))
    began = clock.s
    asked = running.queue.num_queries
    while clock.s < began + 3600:
        running.wait()
        ended = int(clock.s - began) // 60
        running.queue.jobs |= dict.fromkeys([f"j{n}" for n in range(min(ended, num - 5))], DONE)
    assert running.queue.num_queries - asked <= 60 + loop.AT_ONCE


@pytest.mark.parametrize(("column", "several"), [(1, 500), (2, 1)])
def test_how_often_each_command_is_called_says_the_page(started, clock, column, several):
    """A hundred jobs of an hour, all at once, whose results come before the queue says that they have ended."""
    mine = jobs(100)
    running = started(mine, room=100, max_array=several)
    queue = running.queue
    end = clock.s + 3600
    while running.running:
        running.wait()
        if clock.s >= end:
            for job in mine:
                job.run.result = SimpleNamespace(error=None)
    counts = (len(queue.arrays), queue.num_queries, queue.cancel.call_count)
    for name, count in zip(("submit", "state", "cancel"), counts, strict=True):
        (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {name} |")]
        assert int(line.split("|")[column + 1]) == count


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
    num_queries = []
    began = clock.s
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


WITHOUT = "job 7 is FAILED without a result"
WORDS = [
    ("", WITHOUT),
    (
        "slurmstepd: error: Exceeded job memory limit\nsrun: error: n1: task 0: Killed\nsrun: Terminating",
        "Exceeded job memory limit",
    ),
    ("a\x1b[31m\nsrun: error: n1: task 0: Killed", "srun: error: n1: task 0: Killed"),
    (
        "leyden: data.root=x: is missing\nsrun: error: n1: task 0: Exited with exit code 2",
        "data.root=x: is missing",
    ),
]


@pytest.mark.parametrize(("log", "cause"), WORDS)
def test_a_job_without_a_result_has_the_last_error_of_its_log(one, tmp_path, log, cause):
    (tmp_path / "log").write_text(log)
    assert one[0]._failure("7", "FAILED", tmp_path / "log").message.endswith(cause)
    assert one[0]._failure("7", "FAILED", tmp_path / "none").message == WITHOUT


def test_each_job_unpacks_once_to_a_folder_of_its_own_user_that_its_script_removes(
    tmp_path, monkeypatch
):
    """Another job that runs from the same archive keeps its own."""
    (tmp_path / "train.py").write_text("mine")
    archive = tmp_path / "code.tar.gz"
    with tarfile.open(archive, "w:gz") as opened:
        opened.add(tmp_path / "train.py", "src/train.py")
    monkeypatch.setattr(bootstrap.tempfile, "gettempdir", lambda: str(tmp_path))
    folders = []
    for job in ("g1:7:0", "7_1"):
        monkeypatch.setenv("LEYDEN_JOB", job)
        folders.append(bootstrap.unpack(archive))
        name = job.replace(":", "_")  # as PYTHONPATH is cut at a colon
        assert folders[-1].parent.name == f"{name}.0"
        assert bootstrap.unpack(archive) == folders[-1]
        assert (folders[-1] / "src" / "train.py").read_text() == "mine"
    environment = {"TMPDIR": str(tmp_path), "LEYDEN_JOB": "g1:7:0", "PATH": os.environ["PATH"]}
    subprocess.run(["bash", "-c", f"rm -rf {script.NODE_FOLDER}"], env=environment, check=True)
    assert [folder.exists() for folder in folders] == [False, True]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert bootstrap.unpack(archive).parent.name == "7_1.1"  # the start before may end late
    (tmp_path / "leyden-54321" / "7_1.1" / folders[1].name).mkdir(
        parents=True
    )  # with other code in it
    monkeypatch.setattr(bootstrap.os, "getuid", lambda: 54321)
    with pytest.raises(SystemExit, match="belongs to another user; set TMPDIR"):
        bootstrap.unpack(archive)


@pytest.mark.parametrize("layout", ["src", "."])
def test_what_links_lead_to_is_archived(tmp_path, monkeypatch, layout):
    """An edit of the files elsewhere would change waiting jobs, and a node may not have them."""
    project = tmp_path / "project"
    elsewhere = tmp_path / "elsewhere"
    mine = project / layout / "mine"
    nested = elsewhere / "shared" / "nested"
    conf = elsewhere / "conf"
    for path in (
        mine / "__init__.py",
        nested / "__init__.py",
        nested / "net.py",
        conf / "model" / "net.yaml",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    (project / "conf").symlink_to(conf)
    (mine / "shared").symlink_to(elsewhere / "shared")
    (mine / "net.py").symlink_to(nested / "net.py")
    (project / layout / ".#net.py").symlink_to("me@here.4711")  # of an editor; it leads nowhere
    for name, path in {"root": project, "src": project / layout, "conf": project / "conf"}.items():
        monkeypatch.setattr(snapshot, name, lambda path=path: path)
    monkeypatch.setattr(bootstrap.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = bootstrap.unpack(snapshot.snapshot(tmp_path / "code"))
    found = [path for path in folder.rglob("*") if "engine" not in path.parts and not path.is_dir()]
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    names = ("__init__.py", "net.py", "shared/nested/__init__.py", "shared/nested/net.py")
    expected = [
        "conf/model/net.yaml",
        "git.json",
        *(str(Path(layout, "mine", name)) for name in names),
    ]
    assert sorted(str(path.relative_to(folder)) for path in found) == sorted(expected)
