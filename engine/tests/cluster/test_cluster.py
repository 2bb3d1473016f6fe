"""Training on a real Slurm: arrays, requeues in the middle of an epoch, preemption, two nodes."""

import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from leyden.config.paths import ROOT, environment_of
from leyden.run.directory import Run
from tests.callbacks.events import scalars
from tests.conftest import QUICK, SMALL, assert_same_bits, finish, start
from tests.forks import TIMEOUT_S
from tests.sweep.test_sweep import BUGGY, PLACE_OF_BUG
from tests.training.test_start import curves

pytestmark = pytest.mark.cluster

CLUSTER = ("cluster.cpus_per_task=1", "cluster.mem_gb=1", "cluster.signal_delay_s=60")
# 12 s, most of them asleep, with all that a resumed run could get wrong: dropout, an order per epoch, sums in the middle of one.
LONG = (*QUICK, "model.dropout=0.2", "data.batch_size=5", "trainer.log_every_n_steps=20", "trainer.max_epochs=3")
LONG = (*LONG, "+callbacks.slow={_target_:tests.cluster.slow.SlowSteps,seconds:0.02}")
NUM_STEPS = 200  # an epoch
IN_SECOND_EPOCH = NUM_STEPS + 40
SHORT = (*QUICK, "trainer.max_epochs=1")
NODES = ("cluster=slurm_multinode", "cluster.tasks_per_node=1", "cluster.gpus_per_task=0", "cluster.mem_gb=1")
NODES = (*NODES, "trainer.accelerator=cpu")


def submit(tmp_path, *arguments, cluster="slurm_cpu", name="s", anew=False):
    """A sweep on the cluster as a process; `anew` where it is as a person starts it, not a copy."""
    where = (f"outputs={tmp_path}", f"sweep_name={name}")
    return start("-m", f"cluster={cluster}", *where, *CLUSTER, *arguments, anew=anew)


def runs(tmp_path, name="s"):
    return [Run(path.parent) for path in sorted((tmp_path / "sweeps" / name).glob("*/config.yaml"))]


def the_run(slurm, tmp_path):
    """The only run of a sweep, once it has been submitted."""
    slurm.wait_for(lambda: [run for run in runs(tmp_path) if run.submission], "the submission")
    (run,) = runs(tmp_path)
    return run


def last_step(run):
    """The last one that was logged; fails if the run has failed, as there will be no later one."""
    assert not (run.result and run.result.error), run.result.error
    points = curves(run) if (run.directory / "metrics.csv").exists() else []
    return int(points[-1][0]) if points else 0


def training(slurm, tmp_path, *arguments):
    """A sweep as a process, and its only run, which is in its second epoch."""
    process = submit(tmp_path, *LONG, *arguments)
    run = the_run(slurm, tmp_path)
    slurm.wait_for(lambda: last_step(run) > IN_SECOND_EPOCH, "the second epoch")
    return process, run


HELD = ("cluster.wait=false", "+cluster.options.hold=true")


def released(slurm, tmp_path):
    """The run of a job that was held, once it has ended."""
    (run,) = runs(tmp_path)
    slurm.run("scontrol", "release", run.submission["job_id"])
    slurm.wait_for(lambda: run.result, "the end of the job")
    return run


def failing(process):
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2, output
    return output


def was_saved_at_its_step(run):
    """Whether the run was resumed from the step at which it stopped, not from the end of the epoch before."""
    (step,) = re.findall(r"resumes from \S+, step (\d+)", log_of(run))
    return int(step) > IN_SECOND_EPOCH and int(step) % NUM_STEPS != 0


def alone(directory, *arguments):
    """A run on this machine, never stopped."""
    where = (f"run_dir={directory / 'run'}", f"outputs={directory}", "trainer.accelerator=cpu")
    finish(start(*arguments, *where, "callbacks.slow.seconds=0", OMP_NUM_THREADS="1"))
    return Run(directory / "run")


def assert_the_same(run, whole):
    assert_same_bits(run.directory, whole.directory)
    assert curves(run) == curves(whole)
    assert run.result.metrics == whole.result.metrics


def test_an_array_of_two_grows(slurm, tmp_path, monkeypatch):
    with_pictures = (*SMALL, "trainer.max_epochs=1")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "node"))
    (tmp_path / "node").mkdir()
    process = submit(tmp_path, *with_pictures, "seed=0,1", anew=True)
    slurm.wait_for(lambda: [*(tmp_path / "node").glob("leyden-*/*/code-*")], "the code on a node")
    output = finish(process)
    assert [run.result.status for run in runs(tmp_path)] == 2 * ["finished"]
    slurm.wait_for(lambda: not [*(tmp_path / "node").glob("leyden-*/*")], "the end of the jobs")
    ids = [run.submission["job_id"] for run in runs(tmp_path)]
    assert len({job.split("_")[0] for job in ids}) == 1
    assert all(run.starts[-1]["job"] == run.submission["job_id"] for run in runs(tmp_path))
    assert "2/2 jobs, 0 failed" in output
    # Again: nothing is submitted. One more value: only that is.
    finish(submit(tmp_path, *with_pictures, "seed=0,1"))
    assert [run.submission["job_id"] for run in runs(tmp_path)] == ids
    finish(submit(tmp_path, *with_pictures, "seed=0,1,2"))
    assert len({run.submission["job_id"] for run in runs(tmp_path)} - set(ids)) == 1


def usr1(slurm, job):
    slurm.run("scancel", "--signal=USR1", job)


def preempt(slurm, job):
    slurm.run("srun", "--partition=urgent", "--nodes=2", "--exclusive", "true")


def requeue(slurm, job):
    slurm.run("scontrol", "requeue", job)


@pytest.mark.matrix
@pytest.mark.parametrize("disturb", [usr1, preempt, requeue])
def test_disturbed_in_an_epoch_it_goes_on_where_it_was(slurm, tmp_path, whole, disturb):
    process, run = training(slurm, tmp_path)
    disturb(slurm, run.submission["job_id"])
    output = finish(process)
    assert run.result.requeues == 1
    assert "Interrupted. " in log_of(run)
    assert was_saved_at_its_step(run)
    assert len(run.starts) == 3  # the submission, and two in the job
    assert_the_same(run, whole)
    assert "1/1 jobs, 0 failed" in output
    # TensorBoard shows one curve, that of the run that was never stopped.
    assert scalars(run)["train/loss_step"] == scalars(whole)["train/loss_step"]


def test_a_signal_while_python_is_importing_is_not_lost(slurm, tmp_path, whole):
    process = submit(tmp_path, *LONG)
    run = the_run(slurm, tmp_path)
    slurm.wait(run.submission["job_id"], "RUNNING")
    slurm.wait_for(lambda: " job " in log_of(run), "the start of Python")
    usr1(slurm, run.submission["job_id"])
    assert len(run.starts) == 1, "training has started already"
    finish(process)
    assert run.result.requeues == 1
    assert_the_same(run, whole)


@pytest.mark.matrix
@pytest.mark.parametrize("seconds", [12, 1000])
def test_a_signal_in_a_long_validation_requeues_without_saving(slurm, tmp_path, seconds):
    """The first time only, or each time: then the job stops, since it would be requeued for ever."""
    slow = ("+callbacks.slow._target_=tests.cluster.slow.SlowValidation", f"+callbacks.slow.seconds={seconds}")
    slow += (f"+callbacks.slow.only_first={str(seconds < 100).lower()}",)
    short = (*SHORT, "trainer.max_epochs=2")
    process = submit(tmp_path, *short, *slow, "cluster.signal_delay_s=6")
    run = the_run(slurm, tmp_path)
    for number in range(1 if seconds < 100 else 2):
        starts = number + 2
        slurm.wait_for(lambda starts=starts: log_of(run).count("validates") == starts - 1, "the validation")
        usr1(slurm, run.submission["job_id"])
        slurm.wait_for(lambda starts=starts: len(run.starts) > starts, "the next start")
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert "no training step came within 3 s after the signal to requeue" in log_of(run)
    if seconds > 100:
        assert run.result.status == "failed"
        assert "requeued twice without a checkpoint after step 0" in output
        return
    assert run.result.requeues == 1
    assert_the_same(run, alone(tmp_path / "alone", *short, *slow))


@pytest.mark.matrix
@pytest.mark.parametrize("nodes", [("n1",), ("n1", "n2")])
def test_a_node_that_loses_its_connection_is_avoided(slurm, tmp_path, whole, nodes):
    """A job is tried on another node; if each of them fails, so does the run."""
    broken = [f"+callbacks.{node}={{_target_:tests.cluster.slow.BrokenNode,name:{node}}}" for node in nodes]
    work = LONG if len(nodes) == 1 else (*SHORT, "trainer.max_epochs=2")
    process = submit(tmp_path, *work, *broken)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    (run,) = runs(tmp_path)
    assert "DistNetworkError: Connection reset by peer" in log_of(run)
    if len(nodes) == 1:
        assert process.returncode == 0, output
        assert run.result.requeues == 1
        assert [start["step"] for start in run.starts] == [None, 0, NUM_STEPS]
        assert_the_same(run, whole)
    else:
        assert process.returncode == 2
        assert "requeued twice without a checkpoint after step 10;" in output


def log_of(run):
    path = Path(run.submission["log"])
    return path.read_text() if path.exists() else ""


def test_two_nodes_are_one_process_of_the_same_batch(slurm, tmp_path, whole):
    process, run = training(slurm, tmp_path, *NODES, "trainer.max_epochs=2")
    usr1(slurm, run.submission["job_id"])
    finish(process)
    assert run.result.requeues == 1
    finish(submit(tmp_path, *NODES, *LONG, "trainer.max_epochs=2", name="undisturbed"))
    (undisturbed,) = runs(tmp_path, "undisturbed")
    assert undisturbed.result.requeues == 0
    assert_the_same(run, undisturbed)


def state_and_code(slurm, job):
    shown = slurm.run("scontrol", "show", "job", job)
    return re.search(r"JobState=(\S+)", shown)[1], re.search(r"ExitCode=(\S+)", shown)[1]


BROKEN = "+callbacks.broken={_target_:tests.cluster.slow.BrokenRank,rank:%d,is_killed:%s}"


@pytest.mark.nightly  # a lost connection requeues it by day
@pytest.mark.matrix
@pytest.mark.parametrize("rank", [0, 1])
def test_a_peer_that_dies_requeues_the_job(slurm, tmp_path, rank):
    """The other process sees a plain RuntimeError of gloo's."""
    two = (*SHORT, "trainer.max_epochs=2", *NODES)
    finish(submit(tmp_path, *two, BROKEN % (rank, "true")))
    (run,) = runs(tmp_path)
    assert run.result.requeues == 1
    job = run.submission["job_id"]
    logs = "".join(path.read_text() for path in Path(run.submission["log"]).parent.glob(f"{job}_*_log.out"))
    assert "gloo/transport" in logs
    assert f"requeue of job {job} on other nodes: requested" in logs
    finish(submit(tmp_path, *two, BROKEN % (7, "true"), name="undisturbed"))
    (undisturbed,) = runs(tmp_path, "undisturbed")
    assert_the_same(run, undisturbed)


@pytest.mark.matrix
@pytest.mark.parametrize("rank", [0, 1])
def test_the_error_of_one_process_is_that_of_the_run(slurm, tmp_path, rank):
    """The others fail, too, since it has broken the connections; nothing is requeued."""
    output = failing(submit(tmp_path, *SHORT, "trainer.max_epochs=2", *NODES, BROKEN % (rank, "false")))
    (run,) = runs(tmp_path)
    assert (run.result.error.type, run.result.error.message) == ("KeyError", "'of this process alone'")
    assert "KeyError: 'of this process alone'" in output
    slurm.wait(run.submission["job_id"], "FAILED")
    assert len(run.starts) == 2  # the submission, and one in the job
    assert "requeue of job" not in log_of(run)


def test_without_multirun_it_is_one_job_that_can_be_told_never_to_resume(slurm, tmp_path):
    arguments = ("cluster=slurm", *CLUSTER, *SHORT, f"outputs={tmp_path}", "sweep_name=s", "resume=never")
    finish(start(*arguments))
    (run,) = runs(tmp_path)
    assert run.result.status == "finished"
    assert "_" not in run.submission["job_id"]


def test_a_cancelled_job_is_reported_and_its_siblings_stay(slurm, tmp_path):
    process = submit(tmp_path, *LONG, "seed=0,1")
    slurm.wait_for(lambda: len([run for run in runs(tmp_path) if run.submission]) == 2, "the submission")
    victim = runs(tmp_path)[0]
    slurm.wait(victim.submission["job_id"], "RUNNING")
    slurm.run("scancel", victim.submission["job_id"])
    output = failing(process)
    assert "1 of 2 jobs failed" in output
    assert "is CANCELLED without a result" in output
    assert victim.submission["log"] in output
    assert [run.result.status for run in runs(tmp_path)].count("finished") == 1
    assert victim.result.error.type == "Scheduler"
    # Rerunning submits only what is missing.
    before = [run.submission for run in runs(tmp_path)]
    finish(submit(tmp_path, *LONG, "seed=0,1"))
    after = [run.submission for run in runs(tmp_path)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, True]
    assert victim.result.status == "finished"


@pytest.mark.nightly  # its jobs are those of any sweep
def test_submit_and_leave(slurm, tmp_path):
    output = finish(submit(tmp_path, *SHORT, "seed=0,1", *HELD, anew=True))
    first, second = runs(tmp_path)
    for run in (first, second):
        assert f"job {run.submission['job_id']}: {run.directory.name}" in output
    summarize = ("-m", "leyden.summarize", str(tmp_path / "sweeps" / "s"))
    assert summarize[-1] in output
    assert "2 queued" in finish(start(script=summarize))
    # The same command takes up what is queued, and submits nothing.
    finish(submit(tmp_path, *SHORT, "seed=0,1", "cluster.wait=false"))
    assert [run.submission for run in runs(tmp_path)] == [first.submission, second.submission]
    slurm.run("scontrol", "release", first.submission["job_id"].split("_")[0])
    finish(submit(tmp_path, *SHORT, "seed=0,1"))
    assert "2 finished" in finish(start(script=summarize))


def test_a_search_is_a_job_of_its_own_that_submits_its_trials(slurm, tmp_path, mnist_root):
    """As on the page of clusters, for those who leave; its resources are not those of the trials."""
    search = ("hydra/sweeper=optuna", "'optimizer.lr=tag(log,interval(0.001,0.01))'", "hydra.sweeper.num_trials=2")
    where = (f"data.root={mnist_root}", f"outputs={tmp_path}", "sweep_name=s", "cluster=slurm_cpu")
    arguments = map(shlex.quote, (*where, "cluster.num_jobs=2", *CLUSTER, *SHORT))
    command = f"cd {ROOT} && {sys.executable} -m leyden.train -m {' '.join(arguments)} {' '.join(search)}"
    job = slurm.submit(command, "--mem-per-cpu=500M", "--cpus-per-task=2", f"--output={tmp_path}/log")
    slurm.wait(job, "COMPLETED FAILED")
    assert "2/2 jobs, 0 failed" in (tmp_path / "log").read_text()
    assert [run.result.status for run in runs(tmp_path)] == 2 * ["finished"]
    assert job not in {run.submission["job_id"] for run in runs(tmp_path)}


def test_later_edits_do_not_change_waiting_jobs(slurm, tmp_path, mnist_root):
    project = tmp_path / "project"
    for name in ("src", "conf", "engine/src"):
        shutil.copytree(ROOT / name, project / name)
    git = ["git", "-C", str(project), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "conf"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    arguments = ("-m", "leyden.train", "-m", "cluster=slurm_cpu", *CLUSTER, *SHORT, f"data.root={mnist_root}")
    arguments += (f"outputs={tmp_path}", "sweep_name=s", *HELD)
    finish(start(script=arguments, cwd=project, **environment_of(project)))
    (project / "engine" / "src" / "leyden" / "train.py").write_text("raise SystemExit('xyzzy')\n")
    shutil.rmtree(project / "conf")
    run = released(slurm, tmp_path)
    assert run.result.status == "finished"
    archive, bootstrap = sorted((tmp_path / "sweeps" / "s" / "code").iterdir(), reverse=True)
    assert bootstrap.suffix == ".py"
    with tarfile.open(archive) as opened:  # the only other file
        assert {"engine/src/leyden/train.py", "conf/train.yaml", "git.json"} <= {*opened.getnames()}
        assert not [name for name in opened.getnames() if "__pycache__" in name or "egg-info" in name]
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert run.starts[-1]["git"] == run.starts[0]["git"]
    assert run.starts[-1]["git"]["sha"] == head
    assert "xyzzy" not in str(run.starts[-1]["git"])


def test_a_node_that_finds_no_data_says_so(slurm, tmp_path, mnist_root):
    root = tmp_path / "data"
    shutil.copytree(mnist_root, root)
    finish(submit(tmp_path, *SHORT, f"data.root={root}", *HELD))
    shutil.rmtree(root)
    run = released(slurm, tmp_path)
    assert run.result.status == "failed"
    assert "the dataset is missing, and download=false" in run.result.error.message
    slurm.wait(run.submission["job_id"], "FAILED")
    assert state_and_code(slurm, run.submission["job_id"]) == ("FAILED", "2:0")  # as of a command


def test_a_bug_in_a_network_is_shown_by_its_line(slurm, tmp_path):
    few = ("data.val_size=59000", "+model.hidden=1", "cluster.snapshot=false")
    output, _ = submit(tmp_path, *BUGGY, *few).communicate(timeout=TIMEOUT_S)
    (run,) = runs(tmp_path)
    assert run.result.error.where == PLACE_OF_BUG
    slurm.wait(run.submission["job_id"], "FAILED")
    assert state_and_code(slurm, run.submission["job_id"]) == ("FAILED", "1:0")
    assert f"\n      at {PLACE_OF_BUG}\n      {run.submission['log']}" in output
    assert "# the bug" in Path(run.submission["log"]).read_text()


def test_requeues_have_a_limit(slurm, tmp_path):
    process, run = training(slurm, tmp_path, "cluster.max_requeues=0")
    usr1(slurm, run.submission["job_id"])
    assert "requeued 1 times, more than cluster.max_requeues=0" in failing(process)
    assert (run.result.status, run.result.requeues) == ("failed", 1)


@pytest.mark.nightly  # one of a sweep is requeued by day
def test_a_plain_job_with_two_requeues(slurm, tmp_path, whole, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the script works
    options = ("--cpus-per-task=1", "--mem=1G", f"--output={tmp_path}/log")
    arguments = (f"outputs={tmp_path}", *LONG, "trainer.accelerator=cpu", f"data.root={ROOT / 'data'}")
    (tmp_path / "outputs").mkdir()
    command = ("sbatch", "--parsable", f"--export=ALL,PYTHON={sys.executable}", *options)
    job = slurm.run(*command, str(ROOT / "scripts" / "slurm.sh"), *arguments)
    run = Run(tmp_path / "outputs" / "slurm" / job)
    for number, step in enumerate((100, 340), start=1):
        slurm.wait_for(lambda step=step: last_step(run) > step, f"step {step}")
        usr1(slurm, job)
        slurm.wait_for(lambda number=number: len(run.starts) > number, "the next start")
    slurm.wait(job, "COMPLETED")
    assert run.result.requeues == 2
    assert_the_same(run, whole)


@pytest.mark.nightly  # training is, by day
def test_another_verb_is_run_by_srun(slurm, tmp_path):
    finish(start(f"run_dir={tmp_path / 'run'}", *SHORT))
    command = (sys.executable, "-m", "leyden.evaluate", f"run={tmp_path / 'run'}", f"outputs={tmp_path}")
    assert "test/acc" in slurm.run("srun", "--mem=1G", "--cpus-per-task=2", f"--chdir={ROOT}", *command)
