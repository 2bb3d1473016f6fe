"""The processes of jobs on this machine, and their devices."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from leyden.base.errors import UserError
from leyden.queue import Work, here, loop
from leyden.queue.here import Here, worker_environments
from leyden.queue.loop import Launcher
from leyden.run.directory import Run
from leyden.run.identity import RunIdentity
from leyden.run.result import Failure
from leyden.sweep import work
from leyden.sweep.work import command_of_job, run_job


@pytest.fixture(autouse=True)
def _nothing_exported(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def test_a_process_that_starts_jobs_and_is_killed_is_reported_in_a_line(tmp_path):
    (tmp_path / "killed.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    code = "from leyden.queue import here\nhere.CONTEXT.set_forkserver_preload(['killed'])\n"
    code += "from leyden.base.errors import ending\nwith ending():\n    here.start_process(print, environment={})\n"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    told = r"leyden: no process could be started for a job \(.*the same command resumes\n"
    assert re.fullmatch(told, done.stderr), done.stderr


def test_a_launcher_of_hydras_plugins_is_refused():
    config = {
        "cluster": {"launcher": "local"},
        "hydra": {"runtime": {"choices": {"hydra/launcher": "joblib"}}},
    }
    with pytest.raises(UserError, match="hydra/launcher=joblib: has no effect; cluster=NAME"):
        loop.launcher(OmegaConf.create(config), "leyden.train", None)


def test_cores_are_divided_among_the_jobs(monkeypatch):
    for num_jobs, num_cores, num, threads in (
        (None, 4, 4, "1"),
        (2, 8, 2, "4"),
        (3, 2, 3, "1"),
    ):
        assert worker_environments(num_jobs, [], num_cores) == num * [{"OMP_NUM_THREADS": threads}]
    # As PyTorch itself has it.
    for name, value, threads in (
        ("OMP", "many", "4"),
        ("OMP", "3", "3"),
        ("MKL", "2", "2"),
    ):
        monkeypatch.setenv(f"{name}_NUM_THREADS", value)
        assert worker_environments(2, [], 8) == 2 * [{"OMP_NUM_THREADS": threads}]


DEVICES = [(None, 2, ["0", "1"]), ("", 0, []), ("2,5", 2, ["2", "5"])]
DEVICES += [("0,-1,1", 1, ["0"])]  # CUDA reads it up to the first name that is none
DEVICES += [("MIG-c6d4f1ef, GPU-b1028956", 2, ["MIG-c6d4f1ef", "GPU-b1028956"])]


@pytest.mark.parametrize(("chosen", "num", "devices"), DEVICES)
def test_the_devices_are_those_that_pytorch_counts_and_shared_by_jobs(
    monkeypatch, chosen, num, devices
):
    monkeypatch.setattr("torch.cuda.device_count", lambda: num)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    monkeypatch.setattr(here, "call_in_process", lambda function: function())
    monkeypatch.setattr(here, "num_cores", lambda: 8)
    one_by_one = [",".join(devices) or None]  # with all devices
    for asked, strategy, slots in (
        (1, "auto", devices or 8 * [None]),
        (2, "ddp", one_by_one),
    ):
        pool = local(None, accelerator="auto")
        trainer = {"devices": asked, "strategy": strategy}
        job = SimpleNamespace(
            compose=lambda trainer=trainer: OmegaConf.create({"trainer": trainer})
        )
        assert pool.check([job], 1)
        assert [slot.get("CUDA_VISIBLE_DEVICES") for slot in pool.queue.slots] == slots
        num_threads = 4 if asked == 2 else 8 // len(slots)
        assert {slot["OMP_NUM_THREADS"] for slot in pool.queue.slots} == {str(num_threads)}


def local(num_jobs, accelerator="cpu"):
    config = {
        "cluster": {"num_jobs": num_jobs, "launcher": "local"},
        "trainer": {"accelerator": accelerator},
    }
    return Launcher(OmegaConf.create(config), "leyden.train", Here, Path())


def call(place, accelerator="cpu", module="leyden.train"):
    trainer = {"accelerator": accelerator, "devices": 1, "strategy": "auto", "max_epochs": 1}
    config = {"run_dir": str(place / "run"), "trainer": trainer, "objective": None}
    return module, OmegaConf.create(config), RunIdentity(config), []


def test_a_job_whose_gpu_can_not_be_used_does_not_train_on_the_cpu(monkeypatch, tmp_path):
    trained = []
    run = Run(tmp_path / "run")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(
        work, "run_task", lambda task, config: trained.append(config.trainer.accelerator)
    )
    with pytest.raises(SystemExit, match="2"):
        run_job(*call(tmp_path, "auto"))
    assert run.result.error.message.startswith("CUDA_VISIBLE_DEVICES=3: PyTorch")
    run_job(*call(tmp_path, "cpu"))
    assert trained == ["cpu"]
    # The error that it has recorded, unless that is of an earlier start.
    for num_starts, code in ((0, 2), (1, 2), (1, 137), (1, 0)):
        ended = here.JobState("ended", here.how_it_ended(code), is_completed=code == 0)
        told = Failure("SystemExit", f"its process ended with {code}")
        expected = {0: run.result.error, 1: told if code else None}[num_starts]
        assert loop._failure_here(run, ended, num_starts) == expected
    monkeypatch.setattr(subprocess, "run", lambda command, **_: SimpleNamespace(returncode=-9))
    assert command_of_job(*call(tmp_path)) == 137


def count(module, *_):
    """A job, which changes a function and the environment, and leaves a thread."""
    with open(module, "a") as file:  # noqa: PTH123
        file.write(f"{os.getpid()} {vars(count)} {os.environ.get('OF_A_JOB')}\n")
    count.num = os.environ["OF_A_JOB"] = "1"
    threading.Thread(target=time.sleep, args=(600,)).start()


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("job", [count, die])
def test_nothing_leaks_from_job_to_job_and_one_that_hangs_or_dies_stops_no_other(
    monkeypatch, tmp_path, job
):
    monkeypatch.setattr(here, "CONTEXT", get_context("fork"))
    pool = local(1)
    failures = []
    pool.check([], 0)
    arguments = call(tmp_path, module=str(tmp_path / "found"))
    made = SimpleNamespace(
        run=Run(tmp_path / "run"), work=lambda *_, **__: Work(job, arguments, None, None)
    )
    for _ in range(3):
        pool.start([made])
        while not (ended := pool.wait()[0]):
            pass
        failures.append(ended[0][1])
    assert multiprocessing.active_children() == []
    assert failures == 3 * [
        Failure("Killed", "by SIGKILL, perhaps out of memory") if job is die else None
    ]
    if job is count:
        found = [line.split() for line in (tmp_path / "found").read_text().splitlines()]
        assert [rest for _, *rest in found] == 3 * [["{}", "None"]]
        assert len({pid for pid, *_ in found}) == 3
