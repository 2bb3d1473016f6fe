"""Queues of a site's own commands, by programs that answer as they are told to: what is missing, garbled, late, or meant to harm."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock, Mock

import pytest

from leyden import queue
from leyden.base.errors import UserError
from leyden.queue import RejectedError, Work, commands, hosts, loop, script
from leyden.queue.commands import Commands, ask, filled
from leyden.queue.hosts import by_host
from leyden.report.records import read_records
from leyden.run.lock import hold_directory
from leyden.run.owner import signature
from leyden.testing.contracts import compose
from tests import ENGINE, mistakes
from tests.report.test_summary import write

SITE = (
    "cluster=queue",
    "cluster.submit='site-submit -N {name} -o {log} {script}'",
    r"cluster.id='^job (\S+)$'",
    "cluster.state='site-state {ids}'",
    "cluster.cancel='site-cancel {ids}'",
)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Sets what a command does, and returns what it was told."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(script, "ANSWER_S", 1)
    monkeypatch.setattr(script, "MAX_OUTPUT", 10**6)

    def set_command(name, does):
        path = tmp_path / "bin" / f"site-{name}"
        path.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" >{path}.told\n{does}\n')
        path.chmod(0o755)
        return lambda: Path(f"{path}.told").read_text().splitlines()

    return set_command


def queue_of(tmp_path, *overrides):
    return Commands(compose(*SITE, *overrides), tmp_path / "my $(touch harm); folder")


def submit(made, name="lr-0.1"):
    (accepted,) = made.submit([Work(print, ("trained",), None, None)], name, sys.executable)
    return accepted


NO_ANSWER = {
    "exit 1": "exit code 1",
    "echo Welcome to the cluster!": "no id",
    "": "no id",
    "echo 'job -rf'": "no id",
    "echo 'job ../../x'": "no id",
    "echo 'job 7;reboot'": "no id",
    "printf 'job \\xff\\x1b[31m'; exit 3": "exit code 3",
    "sleep 9": "no answer within 1 s",
    "yes": "or too long a one",
}


@pytest.mark.parametrize(("does", "why"), NO_ANSWER.items())
def test_without_an_id_nothing_is_left_that_a_job_could_run(site, tmp_path, does, why):
    made = queue_of(tmp_path)
    site("submit", does)
    with pytest.raises(RejectedError, match=why) as raised:
        submit(made)
    assert len(str(raised.value).splitlines()) == 1
    assert "\x1b" not in str(raised.value)
    assert not [*made.folder.iterdir()]
    # Once, and then not again; what it leaves running holds its output.
    told = site("submit", "sleep 3 & echo banner; echo job 7.head; echo bye")
    accepted = submit(made, name="lr=$(x) 'y'")
    assert accepted["scheduler"] == "commands"
    assert accepted["job_id"] == "7.head"
    assert told()[:2] == ["-N", "leyden-lr-x-y-"]
    assert Path(told()[-1]).parent == made.folder  # as one word, and no shell has read it
    assert not (tmp_path / "harm").exists()


def test_an_id_is_that_of_one_job(site, tmp_path):
    """A pattern may find the number of a banner, and a queue may begin anew with its numbers."""
    made = queue_of(tmp_path)
    site("state", "echo 5 done")
    made.states(["5"])
    site("submit", "echo job 7")
    submit(made)
    files = {*made.folder.iterdir()}
    for number in (5, 7):
        site("submit", f"echo job {number}")
        with pytest.raises(RejectedError, match=f"{number} in what it says is the id of another"):
            submit(made)
    assert {*made.folder.iterdir()} == files


@pytest.fixture
def typed(tmp_path):
    """Types a sweep of one job, and returns its launcher; and the job."""
    work = Work(print, ("trained",), None, None)
    run = MagicMock(directory=tmp_path / "r", submission={}, result=None)
    job = Mock(run=run, work=lambda *_, **__: work)
    config = compose(*SITE, "cluster.snapshot=false")

    def type_it():
        launcher = loop.Launcher(config, "leyden.train", Commands, tmp_path)
        launcher.pause_s = 0
        launcher.start([job])
        return launcher

    return type_it, job


def test_whatever_is_said_of_a_job_it_is_submitted_once_and_not_lost(site, typed, tmp_path, capsys):
    type_it, job = typed
    site("submit", f"echo >>{tmp_path}/submitted; echo job 7")
    launcher = type_it()
    for does in (None, "sleep 9", "exit 1", "echo Welcome"):
        if does:
            site("state", does)
        with pytest.raises(UserError, match="does not answer, and some of the jobs may be in its"):
            type_it()
        assert launcher.wait() == ([], 0)
        assert len(capsys.readouterr().err.splitlines()) == 2
        launcher.pause_s = launcher.queried_at = 0
    site("state", "echo 7 thinking")
    assert launcher.wait() == ([], 0)
    assert "none is found in what is said of job 7" in capsys.readouterr().err
    site("state", "echo 7 running")
    again = type_it()
    assert [*again.running] == [*launcher.running] == ["7"]
    assert (tmp_path / "submitted").read_text() == "\n"
    assert [*again.queue.folder.glob("*.call")]
    again.tidy(job)  # it has finished while nobody waited; the file has the key
    assert not [*again.queue.folder.glob("*.call")]


def test_the_files_of_a_killed_command_are_removed_but_none_that_a_run_knows(
    site, typed, tmp_path, monkeypatch
):
    type_it, job = typed
    site("submit", "echo job 7")
    launcher = type_it()
    (known,) = launcher.queue.folder.glob("*.call")
    lost = launcher.queue.folder / "0123456789ab_0.call"
    lost.touch()
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.yaml").touch()
    monkeypatch.setattr(loop, "Run", lambda directory: job.run)
    with hold_directory(tmp_path / "r", 1):  # somebody may be submitting
        launcher.tidy_up()
    assert lost.exists()
    launcher.tidy_up()
    assert not lost.exists()
    assert known.exists()


def test_without_ids_nothing_is_cancelled(site, tmp_path):
    told = site("cancel", "")
    made = queue_of(tmp_path)
    made.cancel(["--all", "a b"])
    with pytest.raises(FileNotFoundError):
        told()
    made.cancel(["--all", "7"])
    assert told() == ["7"]


HOSTS = [
    (hosts.start_on, ("1", "script", "log", "dead", "good"), 0, "good:1:2\n"),
    (hosts.start_on, ("1", "script", "log", "full"), 1, ""),
    (hosts.start_on, ("1", "script", "log", "hangs", "good"), 1, ""),  # it may have started there
    (hosts.look, ("good:1:2",), 0, "good:1:2\n"),
    (hosts.look, ("dead:1:2", "hangs:3:4"), 0, "dead:1:2 lost\nhangs:3:4 lost\n"),
    (hosts.look, ("good:1:2", "broken:1:2"), 127, "good:1:2\n"),  # no answer
]


@pytest.mark.parametrize(("function", "given", "code", "says"), HOSTS)
def test_a_host_that_is_dead_hangs_or_is_broken(
    site, tmp_path, monkeypatch, capsys, function, given, code, says
):
    hosts_do = "hangs) sleep 9;; dead) exit 255;; full) exit 7;; broken) exit 127;; *) echo 1:2;;"
    site("ssh", f"case $2 in {hosts_do} esac")
    monkeypatch.setattr(hosts, "SSH_S", 0.5)
    monkeypatch.setattr(hosts.random, "sample", lambda names, num: names)
    assert function(["site-ssh"], *given) == code
    assert capsys.readouterr().out == says


def test_a_command_that_is_missing_is_said_before_anything_is_submitted(site, tmp_path):
    made = queue_of(tmp_path)
    with pytest.raises(UserError, match="site-submit is not installed"):
        made.check([], 0, "python3")
    with pytest.raises(RejectedError, match="No such file"):
        submit(made)


STATED = "7 running\n8 done\n9 queued\n"
ANSWERS = [
    (STATED, "", ["running", "done", "queued"]),
    (f"banner\n{STATED}bye\n", "", ["running", "done", "queued"]),
    ("7 running\n", "", ["running", "GONE", "GONE"]),
    ("77 running\n7.8 done\n", "", ["GONE", "GONE", "GONE"]),  # of others
    ("", "", ["GONE", "GONE", "GONE"]),
    ("7 thinking\n8 done\n", "", ["unknown", "done", "GONE"]),
    # Strangers' jobs stand between.
    ("7 queued\n5 running\n8 done\n     4 failed\n", "", ["queued", "done", "GONE"]),
    (STATED, "exit 1", []),
    (STATED, "sleep 9", []),
    (STATED, "yes", []),
    ("Welcome to the cluster!\n", "", []),
    ("All of it is running again, what was lost is done.\n", "", []),
    ("\x1b[31m\x00\xff", "", []),
]


@pytest.mark.parametrize(("says", "then", "states"), ANSWERS)
def test_what_a_command_says_of_jobs_and_what_is_no_answer(site, tmp_path, says, then, states):
    (tmp_path / "says").write_text(says)
    told = site("state", f"cat {tmp_path}/says; {then}")
    patterns = queue_of(tmp_path).patterns
    found, problem = ask(["site-state", "{ids}"], patterns, ["7", "8", "9", "--help", "a b"])
    assert [state.text for state in found.values()] == states
    assert len(problem.splitlines()) == (not states)
    assert told() == ["7", "8", "9"]


OF_PBS = "Job Id: {}\n    Job_Name = 8 running\n    job_state = {}\n    comment = é\n\n"
OF_SGE = " {} 0.5 leyden-l root  {}  12/02/2026 18:27:24 all.q@g1     1\n"
OF_RAY = (
    "JobDetails(job_id='01', submission_id='{}', driver_info=DriverInfo(id='01', pid='7'), "
    "status=<JobStatus.{}: ''>, message='{}'), "
)
LOST = ("FAILED", "Job supervisor actor died because of a node failure")
SHIPPED = [
    ("pbs", OF_PBS, {"7.head": ("Q",), "8.head": ("R",), "9[1]": ("F",)}, "queued running done"),
    ("sge", OF_SGE, {"7": ("r",), "8": ("qw",), "9": ("Eqw",), "10": ("Rr",), "11": ("dr",)}, None),
    ("condor", "{} status {}\n", {"1.0": (1,), "1.1": (2,), "2.0": (5,), "2.1": (3,)}, None),
    (
        "ray",
        OF_RAY,
        {"leyden-a": ("RUNNING", ""), "leyden-b": LOST, "leyden-c": ("FAILED", "x")},
        None,
    ),
]
EXPECTED = {
    "sge": "running queued stuck running failed",
    "condor": "queued running stuck failed",
    "ray": "running lost failed",
}


@pytest.mark.parametrize(("name", "line", "jobs", "states"), SHIPPED)
def test_the_shipped_files_read_what_their_queues_say(site, tmp_path, name, line, jobs, states):
    made = Commands(compose(f"cluster={name}"), tmp_path)
    made._check_commands()
    strangers = {"pbs": "6.head", "condor": "6.0", "ray": "raysubmit_a"}.get(name, "6")
    first = next(iter(jobs.values()))
    says = ""
    for job, values in jobs.items():
        says += line.format(job, *values) + line.format(strangers, *first)
    (tmp_path / "says").write_text("header of it\n" + says)
    site("state", f"cat {tmp_path}/says")
    found, _ = ask(["site-state"], made.patterns, [*jobs])
    assert [state.text for state in found.values()] == (states or EXPECTED[name]).split()


PAGE = (ENGINE / "docs" / "cluster.md").read_text()
OF_PAGE = [site for site in re.findall("(?ms)^```yaml\n(.*?)^```", PAGE) if "- queue" in site]
SAID = ["7 RUN\n8 PEND\n9 EXIT\n", "7 1 <none> <none>\n8 <none> <none> <none>\n9 <none> <none> 1\n"]


@pytest.mark.parametrize(("text", "says"), [*zip(OF_PAGE, SAID, strict=True)])
def test_the_files_of_the_page_read_what_their_queues_say(site, tmp_path, text, says):
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "mine.yaml").write_text(text)
    made = Commands(compose("cluster=mine", f"hydra.searchpath=[file://{tmp_path}]"), tmp_path)
    made._check_commands()
    (tmp_path / "says").write_text(says)
    site("state", f"cat {tmp_path}/says")
    found, _ = ask(["site-state"], made.patterns, ["7", "8", "9", "10"])
    assert [state.text for state in found.values()] == ["running", "queued", "failed", "GONE"]


WRONG = r"""
cluster.submit=null  =>  cluster.submit: is needed
cluster.submit='"a'  =>  cluster.submit: No closing quotation
cluster.state='q {job}'  =>  cluster.state: no field {job}; there are name, script, log
+cluster.states.over='x'  =>  cluster.states.over: must be one of queued, running, done
cluster.id='('  =>  cluster: the pattern of id, (: missing )
cluster.nodes=2  =>  cluster.nodes=2: must be 1
cluster.cpus=many  =>  cluster.cpus=many: must be of the same kind as 2
cluster.wait=false  =>  cluster.notify: nobody calls it
cluster.submit=[qsub,x]  =>  cluster.submit=['qsub', 'x']: must be a text
cluster.cancel=7  =>  cluster.cancel=7: must be a text
cluster.state=' '  =>  cluster.state: is needed
cluster.notify=true  =>  cluster.notify=True: must be a text
cluster.states=done  =>  cluster.states=done: must be of the same kind as {}
+cluster.states.done=7  =>  cluster: the pattern of done, 7:
cluster.submit='q {mem_gb}'  cluster.mem_gb=null  =>  cluster.mem_gb=null: cluster.submit needs a value
cluster.time_min=2  =>  cluster.signal_delay_s=120: must be a minute less than cluster.time_min=2
"""


@pytest.mark.parametrize(("overrides", "message"), mistakes(WRONG))
def test_wrong_commands_are_refused(tmp_path, overrides, message):
    with pytest.raises(UserError, match=re.escape(message)):
        queue_of(tmp_path, "cluster.notify=date", *overrides.split("  ")).check([], 0, "python3")


def test_fields_in_a_program_for_a_shell_are_quoted_and_no_shell_reads_the_others(tmp_path):
    harm = f"x'$(touch {tmp_path}/harm)'\"; touch {tmp_path}/harm; `id`"
    words = filled("bash -c 'printf %s {script}'", {"script": harm})
    assert subprocess.run(words, capture_output=True, text=True).stdout == harm
    assert filled("q --jobs={ids} {unknown}", {"ids": ["1", "2"]}) == [
        "q",
        "--jobs=1,2",
        "{unknown}",
    ]
    assert not (tmp_path / "harm").exists()


def test_scripts_lie_where_nobody_else_can_write(site, tmp_path):
    site("submit", "echo job 7")
    made = queue_of(tmp_path)
    made.folder.mkdir()
    made.folder.chmod(0o777)
    with pytest.raises(UserError, match="you alone may write to"):
        submit(made)
    made.folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    made.folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="you alone may write to"):
        submit(made)


def run_script(made, **environment):
    (script,) = made.folder.glob("*.sh")
    of_test = {"PATH": os.environ["PATH"], "TMPDIR": str(made.folder.parent), **environment}
    return subprocess.run([script], env=of_test, check=False).returncode


def test_a_job_that_nobody_has_recorded_ends_and_another_one_is_told_who_it_is(
    site, tmp_path, monkeypatch
):
    monkeypatch.setattr(commands, "ID_S", 1)
    site("submit", "echo job 7")
    seen = 'echo "$LEYDEN_JOB $LEYDEN_RESTARTS $SLURM_JOB_ID $OMP_NUM_THREADS"'
    for asks, requeue, code in (
        ("", None, 0),
        ('; echo >"$LEYDEN_REQUEUE"', "exit 99", 99),
    ):
        made = queue_of(tmp_path)
        made.cluster.requeue = requeue
        work = Work(os.system, (seen + asks,), None, None)
        (accepted,) = made.submit([work], "r", "python3")
        (script,) = made.folder.glob("*.sh")
        text = script.read_text()
        line = next(line for line in text.splitlines() if line.startswith("timeout "))
        script.write_text(text.replace(line, f"({seen}{asks}) &"))
        log = Path(accepted["log"])
        assert run_script(made, SLURM_JOB_ID="5") == code
        assert log.read_text().split() == ["7", "0", "2"]
        left = {path.suffix for path in made.folder.iterdir()}
        assert left == ({".sh", ".log"} if not asks else {".sh", ".log", ".call", ".id"})
        if asks:
            assert run_script(made) == code
            assert log.read_text().split()[3:] == ["7", "1", "2"]
            log.with_suffix(".id").unlink()
            assert run_script(made) == 1
            assert "nobody waits for this job" in log.read_text()
            assert not [*made.folder.glob("*.call")]
        for path in made.folder.iterdir():
            path.unlink()


def test_only_what_the_user_has_signed_is_asked_of_a_record(site, tmp_path):
    """A record may be a stranger's."""
    told = site("state", "echo 7 queued; echo 8 queued")
    asks = json.dumps([["site-state", "{ids}"], {"queued": "queued"}])
    theirs = json.dumps([["bash", "-c", f"touch {tmp_path}/harm"], {}])
    of_7 = {"format": 1, "scheduler": "commands", "job_id": "7", "log": "", "ask": asks}
    of_7["signed"] = signature(asks)
    of_8 = {**of_7, "job_id": "8", "ask": theirs}
    for name, job in (("a", of_7), ("b", of_8)):
        write(tmp_path / "s" / name, ["seed=1"], status=None)
        (tmp_path / "s" / name / "job.json").write_text(json.dumps(job))
    assert [record.status for record in read_records(tmp_path / "s")] == 2 * ["queued"]
    assert told() == ["7"]
    assert not (tmp_path / "harm").exists()


def test_the_job_of_a_process_is_that_of_its_script_and_not_of_a_slurm_behind_it(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    assert queue.current_job() == "5"
    monkeypatch.setenv("LEYDEN_JOB", "7.head")
    monkeypatch.setenv("LEYDEN_RESTARTS", "2")
    assert queue.current_job() == "7.head"
    assert queue.num_restarts() == 2
    queue.leave_job()
    assert queue.current_job() is None
    assert queue.num_restarts() == 0


def test_a_process_of_a_host_is_known_by_its_number_and_its_beginning():
    assert by_host(["me@a:7:1", "b:8:2", "me@a:9:3"]) == {"me@a": ["7:1", "9:3"], "b": ["8:2"]}
    with pytest.raises(ValueError, match="invalid literal"):
        by_host(["a:$(reboot):1"])
