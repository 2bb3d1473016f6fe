import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import get_context
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from leyden.run.identity import RunIdentity
from leyden.run.result import Failure
from leyden.sweep import launcher
from leyden.sweep.launcher import LocalLauncher, worker_environments
from leyden.sweep.worker import run_as_command


@pytest.fixture(autouse=True)
def _nothing_exported(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def test_a_process_that_starts_jobs_and_is_killed_is_reported_in_a_line(tmp_path):
    (tmp_path / "killed.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    code = "from leyden.sweep import launcher\nlauncher.CONTEXT.set_forkserver_preload(['killed'])\n"
    code += "try:\n    launcher.Call({}, print)\nexcept launcher.UserError as error:\n    print(error)\n"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.startswith("no process could be started for a job (")
    assert done.stdout.endswith("the same command resumes\n")


def test_cores_are_divided_among_the_jobs():
    assert worker_environments(None, [], 4) == 4 * [{"OMP_NUM_THREADS": "1"}]
    assert worker_environments(2, [], 8) == 2 * [{"OMP_NUM_THREADS": "4"}]
    assert worker_environments(3, [], 2) == 3 * [{"OMP_NUM_THREADS": "1"}]


@pytest.mark.parametrize(
    ("exported", "threads"),
    [
        ({"OMP_NUM_THREADS": "3"}, "3"),
        ({"MKL_NUM_THREADS": "2"}, "2"),
        ({"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "2"}, "2"),  # as PyTorch itself has it
        ({"OMP_NUM_THREADS": ""}, "4"),
        ({"OMP_NUM_THREADS": "0"}, "4"),
        ({"OMP_NUM_THREADS": "many"}, "4"),
    ],
)
def test_threads_that_the_user_has_exported_are_those_of_each_job(monkeypatch, exported, threads):
    for name, value in exported.items():
        monkeypatch.setenv(name, value)
    assert worker_environments(2, [], 8) == 2 * [{"OMP_NUM_THREADS": threads}]


def outcomes(run, *configs):
    """What each of some jobs returns, one after the other."""
    cfg = {"cluster": {"num_jobs": 1}, "trainer": {"accelerator": "cpu"}, "dry_run": True}
    found, pool = [], LocalLauncher(OmegaConf.create(cfg), "")
    pool.check([], 0)
    pool.run = run
    for config in configs:
        pool.start([SimpleNamespace(resolved_config=config, identity=None, overrides=[], log=None)])
        ended = []
        while not ended:
            ended, _ = pool.wait()
        found.append(ended[0][1])
    pool.stop()
    return found


class Numbered:
    num = 0


def count(module, config, *_):
    """A job, which counts in a class and in the environment; returns its process, and what it has found."""
    found = f"{os.getpid()} {Numbered.num} {os.environ.get('OF_A_JOB')}"
    Numbered.num += 1
    os.environ["OF_A_JOB"] = "set"
    return found


def test_nothing_leaks_from_job_to_job(monkeypatch):
    monkeypatch.setattr(launcher, "CONTEXT", get_context("fork"))
    found = [each.split() for each in outcomes(count, 1, 2, 3)]
    assert [rest for _, *rest in found] == 3 * [["0", "None"]]
    assert len({pid for pid, *_ in found}) == 3


def hang(module, config, *_):
    """A job whose process does not end by itself."""
    threading.Thread(target=time.sleep, args=(600,)).start()
    return "done"


def die(module, config, *_):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("job", "told"), [(hang, "done"), (die, Failure("Killed", "by SIGKILL, perhaps out of memory"))]
)
def test_a_process_that_does_not_end_or_dies_does_not_stop_the_next(monkeypatch, job, told):
    monkeypatch.setattr(launcher, "CONTEXT", get_context("fork"))
    monkeypatch.setattr(launcher, "END_S", 0.1)
    assert outcomes(job, 1, 2) == [told, told]
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "from leyden.config.errors import UserError\nraise UserError('data.root=x')",
            Failure("UserError", "data.root=x"),
        ),
        ("import os\nos._exit(3)", Failure("SystemExit", "its process ended with 3")),
        ("import os\nos.kill(os.getpid(), 9)", Failure("Killed", "its process ended with -9")),
    ],
)
def test_an_error_before_the_run_begins_is_that_of_the_job(tmp_path, monkeypatch, text, told):
    (tmp_path / "of_a_job.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    config = {"run_dir": str(tmp_path / "run"), "trainer": {"accelerator": "cpu"}, "objective": None}
    identity = RunIdentity(config, {}.get)
    assert run_as_command("of_a_job", OmegaConf.create(config), identity, []) == told
