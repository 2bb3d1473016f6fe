"""Training on a real Slurm: arrays, requeues in the middle of an epoch, preemption, two nodes."""

import re
import shlex
import shutil
import signal
import sys
import tarfile
from pathlib import Path

import pytest

from leyden.base.paths import environment_of
from leyden.queue import slurm as of_library
from leyden.run.directory import Run
from tests import ENGINE, ROOT
from tests.callbacks.events import scalars
from tests.conftest import QUICK, SMALL, assert_same_bits, finish, start
from tests.example import commit, git
from tests.queues.conftest import WORKER, running
from tests.sweep.test_sweep import BUGGY, PLACE_OF_BUG
from tests.training.test_start import curves

pytestmark = pytest.mark.cluster

CLUSTER = ("cluster.cpus_per_task=1", "cluster.mem_gb=1", "cluster.signal_delay_s=60")
# 12 s, most of them asleep, with all that a resumed run could get wrong: dropout, an order per epoch, sums in the middle of one.
LONG = (
    *QUICK,
    "model.dropout=0.2",
    "data.batch_size=5",
    "trainer.log_every_n_steps=20",
    "trainer.max_epochs=3",
    "+callbacks.slow={_target_:tests.queues.slow.SlowSteps,seconds:0.02}",
)
NUM_STEPS = 200  # an epoch
IN_SECOND_EPOCH = NUM_STEPS + 40
SHORT = (*QUICK, "trainer.max_epochs=1")
NODES = (
    "cluster=slurm_multinode",
    "cluster.tasks_per_node=1",
    "cluster.gpus_per_task=0",
    "cluster.mem_gb=1",
    "trainer.accelerator=cpu",
)
BROKEN = "+callbacks.broken={_target_:tests.queues.slow.Broken,where:%s,how:%s}"
USR1 = "scancel --signal=USR1"
PREEMPT = "srun --partition=urgent --nodes=2 --exclusive true"


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


def log_of(run):
    """What all processes of its job have said."""
    there = Path(run.submission["log"]).parent.glob(f"{run.submission['job_id']}_*_log.out")
    return "".join(path.read_text() for path in there)


def alone(directory, *arguments):
    """A run on this machine, never stopped."""
    where = (f"run_dir={directory / 'run'}", f"outputs={directory}", "trainer.accelerator=cpu")
    finish(start(*arguments, *where, "callbacks.slow.seconds=0", OMP_NUM_THREADS="1"))
    return Run(directory / "run")


@pytest.fixture(scope="module")
def whole(slurm, tmp_path_factory):
    """The long run, never stopped."""
    return alone(tmp_path_factory.mktemp("whole"), *LONG)


def assert_the_same(run, whole):
    assert_same_bits(run.directory, whole.directory)
    assert curves(run) == curves(whole)
    assert run.result.metrics == whole.result.metrics


def test_an_array_of_two(slurm, tmp_path, monkeypatch):
    """On a site that exports nothing, by a user whose variables of sbatch say other things than what is typed."""
    with_pictures = (*SMALL, "trainer.max_epochs=1")
    (tmp_path / "node").mkdir()
    of_site = {
        "EXPORT": "NONE",
        "PARTITION": "none",
        "TIMELIMIT": "1",
        "MEM_PER_NODE": "100000",
        "ACCOUNT": "",
    }
    for name, value in of_site.items():
        monkeypatch.setenv(f"SBATCH_{name}", value)
    typed = (
        "cluster.partition=test",
        "cluster.account=physics",
        f"cluster.setup=['export TMPDIR={tmp_path}/node']",
    )
    process = submit(tmp_path, *with_pictures, *typed, "seed=0,1", anew=True)
    slurm.wait_for(lambda: [*(tmp_path / "node").glob("leyden-*/*/code-*")], "the code on a node")
    assert "2/2 jobs, 0 failed" in finish(process)
    assert [run.result.status for run in runs(tmp_path)] == 2 * ["finished"]
    slurm.wait_for(lambda: not [*(tmp_path / "node").glob("leyden-*/*")], "the end of the jobs")
    slurm.wait_for(lambda: not [*tmp_path.rglob("*.call")], "the key to be removed")
    ids = [run.submission["job_id"] for run in runs(tmp_path)]
    assert len({job.split("_")[0] for job in ids}) == 1
    assert [run.starts[-1]["job"] for run in runs(tmp_path)] == ids
    assert all(" job " in log_of(run) for run in runs(tmp_path))


def test_a_task_of_an_array_by_exact_alone_requeues_itself_alone(slurm, tmp_path):
    command = f"srun {sys.executable} -u {ENGINE}/tests/queues/exact.py {tmp_path}"
    options = (
        "--array=0-1",
        "--cpus-per-task=1",
        "--mem=1G",
        "--open-mode=append",
        f"--output={tmp_path}/log%a",
    )
    job = slurm.submit(command, *options)
    logs = [tmp_path / "log0", tmp_path / "log1"]
    slurm.wait_for(
        lambda: all(log.exists() and "step 9" in log.read_text() for log in logs), "training"
    )
    slurm.run(*USR1.split(), f"{job}_1")
    slurm.wait(job, "COMPLETED")
    assert ["requeue of job" in log.read_text() for log in logs] == [False, True]
    assert [log.read_text().count("step 99") for log in logs] == [1, 1]
    assert [log.read_text().count("step 3\n") for log in logs] == [1, 1]  # none has begun anew


@pytest.mark.nightly  # what one command does then, tests/queues/test_slurm.py has by day
def test_typed_at_once_twice_each_job_of_more_than_an_array_is_submitted_once(slurm, tmp_path):
    both = [submit(tmp_path, *SHORT, "seed=0,1,2,3,4,5") for _ in range(2)]
    outputs = [finish(process) for process in both]
    for output in outputs:
        assert "6 finished" in output
    # A command that comes after the last job's end has nothing to wait for.
    assert any("6/6 jobs, 0 failed" in output for output in outputs)
    # The submission, and one in the job.
    assert [len(run.starts) for run in runs(tmp_path)] == 6 * [2]
    first = min(int(run.submission["job_id"].partition("_")[0]) for run in runs(tmp_path))
    listed = slurm.run("squeue", "-h", "-r", "--states=all", "-o", "%i").split()
    mine = [job for job in listed if int(job.partition("_")[0]) >= first]
    assert sorted(mine) == sorted(run.submission["job_id"] for run in runs(tmp_path))


@pytest.mark.nightly  # the script and the launcher have theirs by day, in tests/queues/test_slurm.py
def test_without_scontrol_on_the_nodes_the_waiting_command_submits_again(slurm, tmp_path, whole):
    process, run = training(slurm, tmp_path, "cluster.setup=['scontrol() { return 127; }']")
    first = run.submission["job_id"]
    disturb(slurm, USR1, run)
    output = finish(process)
    assert (
        f"job {first} has saved, and its node could not requeue it (see its log): submitted again, 1 of 10"
        in output
    )
    assert run.submission["job_id"] != first
    assert_the_same(run, whole)


def disturb(slurm, by, run):
    slurm.run(*by.split(), *([] if by == PREEMPT else [run.submission["job_id"]]))


@pytest.mark.matrix
@pytest.mark.parametrize("by", [USR1, PREEMPT, "scontrol requeue"])  # the last one by SIGTERM
def test_disturbed_in_an_epoch_it_goes_on_where_it_was(slurm, tmp_path, whole, by):
    process, run = training(slurm, tmp_path)
    disturb(slurm, by, run)
    assert "1/1 jobs, 0 failed" in finish(process)
    assert "Interrupted. " in log_of(run)
    (step,) = map(int, re.findall(r"resumes from \S+, step (\d+)", log_of(run)))
    assert step > IN_SECOND_EPOCH
    assert step % NUM_STEPS != 0  # not from the end of the epoch before
    # the submission, and two in the job
    assert run.result.requeues == 1
    assert len(run.starts) == 3
    assert_the_same(run, whole)
    # TensorBoard shows one curve, that of the run that was never stopped.
    assert scalars(run)["train/loss_step"] == scalars(whole)["train/loss_step"]


def test_a_signal_while_python_is_importing_is_not_lost(slurm, tmp_path, whole):
    process = submit(tmp_path, *LONG)
    run = the_run(slurm, tmp_path)
    slurm.wait(run.submission["job_id"], "RUNNING")
    slurm.wait_for(lambda: " job " in log_of(run), "the start of Python")
    disturb(slurm, USR1, run)
    assert len(run.starts) == 1, "training has started already"
    finish(process)
    assert run.result.requeues == 1
    assert_the_same(run, whole)


def test_a_signal_in_a_long_validation_requeues_without_saving(slurm, tmp_path):
    slow = "+callbacks.slow={_target_:tests.queues.slow.SlowValidation,seconds:12}"
    slow = (*SHORT, "trainer.max_epochs=2", slow)
    process = submit(tmp_path, *slow, "cluster.signal_delay_s=6")
    run = the_run(slurm, tmp_path)
    slurm.wait_for(lambda: "validates" in log_of(run), "the validation")
    disturb(slurm, USR1, run)
    finish(process)
    assert "no training step came within 3 s after the signal to requeue" in log_of(run)
    assert run.result.requeues == 1
    assert_the_same(run, alone(tmp_path / "alone", *slow))


def test_a_node_that_loses_its_connection_is_avoided(slurm, tmp_path, whole):
    finish(submit(tmp_path, *LONG, BROKEN % ("n1", "lost")))
    (run,) = runs(tmp_path)
    assert "DistNetworkError: Connection reset by peer" in log_of(run)
    assert run.result.requeues == 1
    assert [start["step"] for start in run.starts] == [None, 0, NUM_STEPS]
    assert_the_same(run, whole)


@pytest.mark.matrix
@pytest.mark.parametrize("killed", [None, 0, 1])
def test_two_nodes_are_one_process_of_the_same_batch(slurm, tmp_path, killed):
    """Requeued by a signal, or as one of their processes dies: the other one sees a plain RuntimeError of gloo's."""
    two = (*NODES, "trainer.max_epochs=2")
    if killed is None:
        process, run = training(slurm, tmp_path, *two)
        disturb(slurm, USR1, run)
        finish(process)
    else:
        finish(submit(tmp_path, *LONG, *two, BROKEN % (killed, "dies")))
        (run,) = runs(tmp_path)
        assert "gloo/transport" in log_of(run)
        assert f"requeue of job {run.submission['job_id']} on other nodes: requested" in log_of(run)
    assert run.result.requeues == 1
    finish(submit(tmp_path, *LONG, *two, name="undisturbed"))
    (undisturbed,) = runs(tmp_path, "undisturbed")
    assert undisturbed.result.requeues == 0
    assert_the_same(run, undisturbed)


@pytest.mark.nightly  # other numbers of processes have theirs by day, in tests/exact/test_elastic.py
@pytest.mark.parametrize("how", ["requeued", "submitted anew"])
def test_preempted_at_two_nodes_an_elastic_run_has_the_same_bits_with_one(slurm, tmp_path, how):
    ranks = ("trainer=elastic", "trainer.strategy=elastic", "trainer.virtual_ranks=2")
    two = (*NODES, *ranks, "+cluster.options.nodes=1-2")
    process, run = training(slurm, tmp_path, *two)
    urgent = ("--partition=urgent", "--nodelist=n2", "--exclusive", "--mem=1G")
    preempting = slurm.submit("sleep 1000", *urgent)
    if how == "requeued":  # on the node that is left
        finish(process)
        assert run.result.requeues == 1
    else:
        slurm.run("scancel", run.submission["job_id"])
        finish(process, code=2)
        finish(submit(tmp_path, *LONG, *NODES, *ranks, "cluster.nodes=1"))
    slurm.run("scancel", preempting)
    logs = "".join(path.read_text() for path in (tmp_path / "sweeps").rglob("*_log.out"))
    assert re.findall(r"(\d) x cpu", logs) == ["2", "1"]
    assert_the_same(run, alone(tmp_path / "alone", *LONG, *ranks, "trainer.devices=1"))


def test_the_error_of_one_process_is_that_of_the_run(slurm, tmp_path):
    """The other fails, too, since it has broken the connection; nothing is requeued."""
    output = finish(
        submit(tmp_path, *SHORT, "trainer.max_epochs=2", *NODES, BROKEN % (1, "fails")), code=2
    )
    (run,) = runs(tmp_path)
    assert run.result.error.type == "KeyError"
    assert run.result.error.message == "'of this process alone'"
    assert "KeyError: 'of this process alone'" in output
    slurm.wait(run.submission["job_id"], "FAILED")
    assert len(run.starts) == 2  # the submission, and one in the job
    assert "requeue of job" not in log_of(run)


def test_without_multirun_it_is_one_job_and_another_verb_is_run_by_srun(slurm, tmp_path):
    finish(
        start(
            "cluster=slurm", *CLUSTER, *SHORT, f"outputs={tmp_path}", "sweep_name=s", "resume=never"
        )
    )
    (run,) = runs(tmp_path)
    assert run.result.status == "finished"
    assert "_" not in run.submission["job_id"]
    command = (
        sys.executable,
        "-m",
        "leyden.evaluate",
        f"run={run.directory}",
        f"outputs={tmp_path}",
    )
    assert "test/acc" in slurm.run(
        "srun", "--mem=1G", "--cpus-per-task=2", f"--chdir={ROOT}", *command
    )


def test_a_cancelled_job_is_reported_and_its_siblings_stay(slurm, tmp_path):
    process = submit(tmp_path, *LONG, "seed=0,1")
    slurm.wait_for(
        lambda: len([run for run in runs(tmp_path) if run.submission]) == 2, "the submission"
    )
    victim = runs(tmp_path)[0]
    slurm.wait(victim.submission["job_id"], "RUNNING")
    slurm.run("scancel", victim.submission["job_id"])
    output = finish(process, code=2)
    assert "1 of 2 jobs failed" in output
    assert "is CANCELLED without a result" in output
    assert victim.submission["log"] in output
    assert [run.result.status for run in runs(tmp_path)].count("finished") == 1
    assert victim.result.error.type == "Scheduler"
    # Rerunning submits only what is missing, and what is new.
    before = [run.submission for run in runs(tmp_path)]
    finish(submit(tmp_path, *LONG, "seed=0,1,2"))
    after = [run.submission for run in runs(tmp_path)]
    assert [a == b for a, b in zip([*before, None], after, strict=True)] == [False, True, False]
    assert [run.result.status for run in runs(tmp_path)] == 3 * ["finished"]


def test_a_search_is_a_job_of_its_own_that_submits_its_trials(slurm, tmp_path, mnist_root):
    """As on the page of clusters, for those who leave; its resources are not those of the trials."""
    search = (
        "hydra/sweeper=optuna",
        "'optimizer.lr=tag(log,interval(0.001,0.01))'",
        "hydra.sweeper.num_trials=2",
    )
    where = (f"data.root={mnist_root}", f"outputs={tmp_path}", "sweep_name=s", "cluster=slurm_cpu")
    arguments = map(shlex.quote, (*where, "cluster.num_jobs=2", *CLUSTER, *SHORT))
    command = (
        f"cd {ROOT} && {sys.executable} -m leyden.train -m {' '.join(arguments)} {' '.join(search)}"
    )
    job = slurm.submit(
        command, "--mem-per-cpu=500M", "--cpus-per-task=2", f"--output={tmp_path}/log"
    )
    slurm.wait(job, "COMPLETED FAILED")
    assert "2/2 jobs, 0 failed" in (tmp_path / "log").read_text()
    assert [run.result.status for run in runs(tmp_path)] == 2 * ["finished"]
    assert job not in {run.submission["job_id"] for run in runs(tmp_path)}


def test_later_edits_do_not_change_waiting_jobs(slurm, tmp_path, mnist_root):
    for name in ("src", "conf", "engine/src"):
        shutil.copytree(ROOT / name, (project := tmp_path / "project") / name)
    git(project, "init", "-q")
    commit(project)
    arguments = (*CLUSTER, *SHORT, f"data.root={mnist_root}", f"outputs={tmp_path}", "sweep_name=s")
    held = ("-m", "cluster=slurm_cpu", "cluster.wait=false", "+cluster.options.hold=true")
    # Either of two partitions; the summary is written, and told of, once the job has ended.
    held = (*held, "cluster.partition=test,urgent", f"cluster.notify='touch {tmp_path}/told'")
    output = finish(start(*held, *arguments, cwd=project, **environment_of(project)))
    (run,) = runs(tmp_path)
    assert f"job {run.submission['job_id']}: {run.directory.name}\n" in output
    assert output.endswith(f"leyden summarize {tmp_path / 'sweeps' / 's'}\n")
    (project / "engine" / "src" / "leyden" / "train.py").write_text("raise SystemExit('xyzzy')\n")
    shutil.rmtree(project / "conf")
    slurm.run("scontrol", "release", run.submission["job_id"])
    slurm.wait_for(lambda: run.result, "the end of the job")
    assert run.result.status == "finished"
    assert "the summary, once the others have ended" in output
    slurm.wait_for((tmp_path / "told").exists, "the end of the summary's job")
    assert (tmp_path / "sweeps" / "s" / "summary.csv").exists()
    archive, bootstrap = sorted((tmp_path / "sweeps" / "s" / "code").iterdir(), reverse=True)
    assert bootstrap.suffix == ".py"
    with tarfile.open(archive) as opened:  # the only other file
        assert {"engine/src/leyden/train.py", "conf/train.yaml", "git.json"} <= {*opened.getnames()}
        assert not [
            name for name in opened.getnames() if "__pycache__" in name or "egg-info" in name
        ]
    assert run.starts[-1]["git"] == run.starts[0]["git"]
    assert run.starts[-1]["git"]["sha"] == git(project, "rev-parse", "HEAD").strip()
    assert "xyzzy" not in str(run.starts[-1]["git"])


def test_a_bug_in_a_network_is_shown_by_its_line(slurm, tmp_path):
    output = finish(
        submit(tmp_path, "data.val_size=59000", *BUGGY, "cluster.snapshot=false"), code=2
    )
    (run,) = runs(tmp_path)
    assert run.result.error.where == PLACE_OF_BUG
    slurm.wait(run.submission["job_id"], "FAILED")
    shown = slurm.run("scontrol", "show", "job", run.submission["job_id"])
    assert re.search(r" ExitCode=(\S+)", shown)[1] == "1:0"
    assert f"\n      at {PLACE_OF_BUG}\n      {run.submission['log']}" in output
    assert "# the bug" in log_of(run)


@pytest.mark.nightly  # one of a sweep is requeued by day
def test_a_plain_job_with_two_requeues(slurm, tmp_path, whole, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the script works
    options = ("--cpus-per-task=1", "--mem=1G", f"--output={tmp_path}/log")
    arguments = (
        f"outputs={tmp_path}",
        *LONG,
        "trainer.accelerator=cpu",
        f"data.root={ROOT / 'data'}",
    )
    (tmp_path / "outputs").mkdir()
    command = ("sbatch", "--parsable", f"--export=ALL,PYTHON={sys.executable}", *options)
    job = slurm.run(*command, str(ROOT / "scripts" / "slurm.sh"), *arguments)
    run = Run(tmp_path / "outputs" / "slurm" / job)
    for number, step in enumerate((100, 340), start=1):
        slurm.wait_for(lambda step=step: last_step(run) > step, f"step {step}")
        slurm.run(*USR1.split(), job)
        slurm.wait_for(lambda number=number: len(run.starts) > number, "the next start")
    slurm.wait(job, "COMPLETED")
    assert run.result.requeues == 2
    assert_the_same(run, whole)


def test_what_the_site_asks_for_is_said_and_given_by_an_example_of_the_page(
    slurm, tmp_path, monkeypatch
):
    """The first one, for a partition of this site and its processors."""
    monkeypatch.delenv("SBATCH_ACCOUNT")
    assert "Please give an account: --account=physics" in finish(
        submit(tmp_path, *SHORT, "seed=0,1"), code=2
    )
    assert not runs(tmp_path)
    page = (ENGINE / "docs/cluster.md").read_text()
    site = re.search(r"(?ms)^```yaml\n(# @package _global_.*?)^```$", page)[1]
    text = site.replace("slurm_gpu", "slurm_cpu").replace("partition: gpu", "partition: test")
    conf = tmp_path / "conf" / "cluster"
    conf.mkdir(parents=True)
    (conf / "site.yaml").write_text(text)
    finish(
        submit(
            tmp_path, *SHORT, "seed=0", "--config-dir", str(conf.parent), cluster="site", anew=True
        )
    )
    (run,) = runs(tmp_path)
    assert run.result.status == "finished"
    assert (
        slurm.run("sacct", "-n", "-X", "-j", run.submission["job_id"], "-o", "Account").strip()
        == "physics"
    )


@pytest.mark.nightly  # a job without an account is refused by day
def test_what_does_not_fit_is_said_in_slurms_words(slurm, tmp_path):
    failed = slurm.submit("exit 1")
    slurm.wait(failed, "FAILED")
    for why, *arguments in (
        ("MaxSubmit", "cluster.qos=limited", "seed=0,1,2,3"),
        ("Slurm rejects the job: sbatch: error: Memory", "cluster.mem_gb=1000"),
        (
            "DependencyNeverSatisfied",
            f"+cluster.options.dependency=afterok:{failed}",
        ),  # it never starts
    ):
        output = finish(submit(tmp_path, *SHORT, *arguments), code=2)
        assert why in output
        assert "Traceback" not in output
    assert not slurm.run("squeue", "-h", "-t", "PD")


def test_a_sweep_runs_within_a_job(slurm, tmp_path):
    """On sites that charge for whole nodes."""
    arguments = ("seed=0,1", *SHORT, "sweep_name=s", f"outputs={tmp_path}")
    command = (
        "srun",
        "--mem=2G",
        "--cpus-per-task=2",
        sys.executable,
        "-m",
        "leyden.train",
        "-m",
        *arguments,
    )
    assert "2/2 jobs, 0 failed" in slurm.run(*command)
    assert [run.result.status for run in runs(tmp_path)] == 2 * ["finished"]


@pytest.mark.nightly  # the answers of such a Slurm are those of tests/queues/test_slurm.py
def test_a_job_that_slurm_has_forgotten_has_its_result(request, mnist_root, tmp_path):
    """The sweep looks again only when a second Slurm has purged a job, as on a login node that was asleep."""
    with running(request, number=10 + WORKER, min_job_age=2) as slurm:
        process = submit(tmp_path, *SHORT, "seed=0,1", "cluster.num_jobs=1")
        slurm.wait_for(lambda: any(run.submission for run in runs(tmp_path)), "the submission")
        process.send_signal(signal.SIGSTOP)
        job_id, *_ = [run.submission["job_id"] for run in runs(tmp_path) if run.submission]
        cancelled = slurm.submit("sleep 60")
        slurm.wait(cancelled, "RUNNING")
        slurm.run("scancel", cancelled)
        listed = ("squeue", "-h", "--me", "--states=all", "-o", "%i")
        both = {job_id, cancelled}
        slurm.wait_for(lambda: not both & {*slurm.run(*listed).split()}, "Slurm to forget the jobs")
        told = {cancelled: "CANCELLED", "999999": "GONE"}  # the first one by its accounting
        assert {job: state.text for job, state in of_library.slurm_states([*told]).items()} == told
        process.send_signal(signal.SIGCONT)
        assert "2/2 jobs, 0 failed" in finish(process)
