"""A verb as a job of a Slurm that runs each job at once, or never."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from leyden.cluster import verb
from leyden.run.process import COMMAND, write_call
from leyden.scheduler import slurm
from tests import mistakes
from tests.conftest import QUICK


@pytest.fixture
def job(monkeypatch, tmp_path):
    """Submits a call as Slurm does, which ends before this returns; the environment of its process."""
    environment = {
        **os.environ,
        "SLURM_JOB_ID": "7",
        "LEYDEN_JOB": "7",
        "LEYDEN_REQUEUE": str(tmp_path / "requeue"),
    }

    def submit(folder, cluster, work, arguments, *, python):
        folder.mkdir(parents=True, exist_ok=True)
        write_call(path := tmp_path / "call", work, *arguments)
        with (log := tmp_path / "log").open("wb") as file:
            command = [sys.executable, "-m", COMMAND, path]
            subprocess.run(command, env=environment, stdout=file, stderr=file, check=False)
        return [{"scheduler": "slurm", "job_id": "7", "log": str(log)}]

    monkeypatch.setattr(slurm, "submit", submit)
    monkeypatch.setattr(verb, "POLL_S", 0.001)
    monkeypatch.setattr(verb, "ROOT", tmp_path)
    return environment


def test_its_output_is_that_of_the_verb_alone(job, train, cli):
    run, *_ = train("run", *QUICK)
    code, out, err = cli("evaluate", f"run={run.directory}", "cluster=slurm", "format=json")
    assert code == 0, err
    assert "test/acc" in json.loads(out)["metrics"]
    assert "job 7 on " in err
    code, out, err = cli("evaluate", "run=nowhere", "cluster=slurm")
    assert (code, out) == (2, "")
    assert "not a run directory" in err


REFUSED = """
cluster=slurm_ddp  =>  cluster.tasks_per_node=4: evaluate is one process; set it to 1, or choose cluster=slurm_gpu
cluster=slurm_multinode  =>  cluster.nodes=2: evaluate is one process
cluster=slurm cluster.wait=false  =>  cluster.wait=false: evaluate prints what its job finds, so it waits for it
cluster=local  =>  cluster=local: runs jobs by local; evaluate is sent to Slurm alone
"""


@pytest.mark.parametrize(("typed", "told"), mistakes(REFUSED))
def test_what_a_verb_can_not_be_is_refused_in_a_line(job, cli, typed, told):
    code, _, err = cli("evaluate", "run=nowhere", *typed.split())
    assert (code, err.count("\n")) == (2, 1), err
    assert told in err


def test_a_dry_run_prints_the_script(job, monkeypatch, cli):
    monkeypatch.setattr(slurm, "submit", None)
    code, out, _ = cli("evaluate", "run=nowhere", "cluster=slurm", "cluster.dry_run=true")
    assert code == 0
    assert "#SBATCH --ntasks-per-node=1" in out


def requeue():
    print(slurm.job_id(), slurm.requeue())


def call():
    """Call a verb that wants to be requeued."""
    sys.modules["leyden.wanting"] = SimpleNamespace(main=requeue)
    verb.call_verb("wanting", [], ".", "code")


def test_nothing_that_a_verb_does_requeues_its_job(job, tmp_path):
    write_call(path := tmp_path / "call", call, ())
    subprocess.run([sys.executable, "-m", COMMAND, path], env=job, cwd=tmp_path, check=True)
    assert (tmp_path / "code.out").read_text() == "None False\n"
    assert (tmp_path / "code").read_text() == "0"
    assert not (tmp_path / "requeue").exists()
