"""Queues of a site's own commands, by programs that answer as they are told to: what is missing, garbled, late, or meant to harm."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from leyden import queue
from leyden.base.errors import UserError
from leyden.queue import RejectedError, Work, commands
from leyden.queue.commands import PHASES, Commands, ask, filled
from leyden.queue.hosts import by_host
from leyden.report.records import read_records
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
    monkeypatch.setattr(commands, "ANSWER_S", 3)

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
    "sleep 9": "timed out",
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
    told = site("submit", "echo banner; echo job 7.head; echo bye")  # once and then not again
    accepted = submit(made, name="lr=$(x) 'y'")
    assert (accepted["scheduler"], accepted["job_id"]) == ("commands", "7.head")
    assert told()[:2] == ["-N", "leyden-lr-x-y-"]
    assert Path(told()[-1]).parent == made.folder  # as one word, and no shell has read it
    assert not (tmp_path / "harm").exists()


def test_a_command_that_is_missing_is_said_before_anything_is_submitted(site, tmp_path):
    made = queue_of(tmp_path)
    with pytest.raises(UserError, match="site-submit is not installed"):
        made.check([], 0, "python3")
    with pytest.raises(RejectedError, match="No such file"):
        submit(made)


STATED = "7 running\n8 done\n9 queued\n"
ANSWERS = [
    (STATED, 0, ["running", "done", "queued"]),
    (f"banner\n{STATED}bye\n", 0, ["running", "done", "queued"]),
    ("7 running\n", 0, ["running", "GONE", "GONE"]),
    ("77 running\n7.8 done\n", 0, ["GONE", "GONE", "GONE"]),  # of others
    ("", 0, ["GONE", "GONE", "GONE"]),
    ("7 thinking\n8 done\n", 0, ["unknown", "done", "GONE"]),
    (STATED, 1, []),
    ("Welcome to the cluster!\n", 0, []),
    ("\x1b[31m\x00\xff", 0, []),
]


@pytest.mark.parametrize(("says", "code", "states"), ANSWERS)
def test_what_a_command_says_of_jobs_and_what_is_no_answer(site, tmp_path, says, code, states):
    (tmp_path / "says").write_text(says)
    told = site("state", f"cat {tmp_path}/says; exit {code}")
    patterns = {name: rf"\b{name}\b" for name in PHASES}
    found, problem = ask(["site-state", "{ids}"], patterns, ["7", "8", "9", "--help", "a b"])
    assert [state.text for state in found.values()] == states
    assert bool(problem) == (not states)
    assert told() == ["7", "8", "9"]


OF_PBS = "Job Id: {}\n    Job_Name = 8 running\n    job_state = {}\n    comment = é\n\n"
OF_SGE = " {} 0.5 leyden-l root  {}  12/02/2026 18:27:24 all.q@g1     1\n"
OF_RAY = (
    "INFO [JobDetails(job_id=None, submission_id='{}', status=<JobStatus.{}: ''>, message='{}')]\n"
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
    says = "".join(line.format(job, *values) for job, values in jobs.items())
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
"""


@pytest.mark.parametrize(("overrides", "message"), mistakes(WRONG))
def test_wrong_commands_are_refused(tmp_path, overrides, message):
    with pytest.raises(UserError, match=re.escape(message)):
        queue_of(tmp_path, overrides, "cluster.notify=true").check([], 0, "python3")


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
    made = queue_of(tmp_path)
    seen = 'echo "$LEYDEN_JOB $LEYDEN_RESTARTS $SLURM_JOB_ID $OMP_NUM_THREADS"'
    for asks, requeue, code in (("", None, 0), ('; echo >"$LEYDEN_REQUEUE"', "exit 99", 99)):
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
        for path in made.folder.iterdir():
            path.unlink()


def test_only_what_the_user_has_signed_is_asked_of_a_record(site, tmp_path):
    """A record may be a stranger's."""
    told = site("state", "echo 7 queued; echo 8 queued")
    asks = json.dumps([["site-state", "{ids}"], {"queued": "queued"}])
    theirs = json.dumps([["bash", "-c", f"touch {tmp_path}/harm"], {}])
    of_7 = {"scheduler": "commands", "job_id": "7", "log": "", "ask": asks}
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
    assert (queue.current_job(), queue.num_restarts()) == ("7.head", 2)
    queue.leave_job()
    assert (queue.current_job(), queue.num_restarts()) == (None, 0)


def test_a_process_of_a_host_is_known_by_its_number_and_its_beginning():
    assert by_host(["me@a:7:1", "b:8:2", "me@a:9:3"]) == {"me@a": ["7:1", "9:3"], "b": ["8:2"]}
    with pytest.raises(ValueError, match="invalid literal"):
        by_host(["a:$(reboot):1"])
