"""The processes of jobs on this machine, and their devices."""

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

from leyden import cluster
from leyden.config.errors import UserError
from leyden.run.directory import Run
from leyden.run.identity import RunIdentity
from leyden.run.result import Failure
from leyden.sweep import launcher
from leyden.sweep.jobs import Call
from leyden.sweep.launcher import LocalLauncher, failure_of, run_job, worker_environments


@pytest.fixture(autouse=True)
def _nothing_exported(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def test_a_process_that_starts_jobs_and_is_killed_is_reported_in_a_line(tmp_path):
    (tmp_path / "killed.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    code = "from leyden.sweep import launcher\nlauncher.CONTEXT.set_forkserver_preload(['killed'])\n"
    code += "from leyden.config.errors import ending\nwith ending():\n    launcher.start_process(print, environment={})\n"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stderr.startswith("leyden: no process could be started for a job (")
    assert done.stderr.endswith("the same command resumes\n")
    assert done.stderr.count("\n") == 1


def test_a_launcher_of_hydras_plugins_is_refused():
    config = {"cluster": {"launcher": "local"}, "hydra": {"runtime": {"choices": {"hydra/launcher": "joblib"}}}}
    with pytest.raises(UserError, match="hydra/launcher=joblib: has no effect; cluster=NAME"):
        cluster.launcher(OmegaConf.create(config), "leyden.train")


@pytest.mark.parametrize(
    ("num_jobs", "num_cores", "exported", "num", "threads"),
    [
        (None, 4, {}, 4, "1"),
        (2, 8, {}, 2, "4"),
        (3, 2, {}, 3, "1"),
        (2, 8, {"OMP_NUM_THREADS": "3"}, 2, "3"),
        (2, 8, {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "2"}, 2, "2"),  # as PyTorch itself has it
        (2, 8, {"OMP_NUM_THREADS": "many"}, 2, "4"),
    ],
)
def test_cores_are_divided_among_the_jobs(monkeypatch, num_jobs, num_cores, exported, num, threads):
    for name, value in exported.items():
        monkeypatch.setenv(name, value)
    assert worker_environments(num_jobs, [], num_cores) == num * [{"OMP_NUM_THREADS": threads}]


DEVICES = [
    (None, 2, ["0", "1"]),
    ("", 0, []),
    ("2,5", 2, ["2", "5"]),
    ("0,-1,1", 1, ["0"]),  # CUDA reads it up to the first name that is none
    ("MIG-c6d4f1ef, GPU-b1028956", 2, ["MIG-c6d4f1ef", "GPU-b1028956"]),
]


@pytest.mark.parametrize(("chosen", "num", "devices"), DEVICES)
def test_the_devices_are_those_that_pytorch_counts_and_shared_by_jobs(monkeypatch, chosen, num, devices):
    monkeypatch.setattr("torch.cuda.device_count", lambda: num)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    monkeypatch.setattr(launcher, "call_in_process", lambda function: function())
    monkeypatch.setattr(launcher, "num_cores", lambda: 8)
    for trainer, slots in (
        ({"devices": 1, "strategy": "auto"}, devices or 8 * [None]),
        ({"devices": 2, "strategy": "ddp"}, [",".join(devices) or None]),  # one by one, with all devices
    ):
        pool = local(None, accelerator="auto")
        job = SimpleNamespace(compose=lambda trainer=trainer: OmegaConf.create({"trainer": trainer}))
        assert pool.check([job], 1)
        assert [slot.get("CUDA_VISIBLE_DEVICES") for slot in pool.slots] == slots
        num_threads = 4 if trainer["devices"] == 2 else 8 // len(slots)
        assert {slot["OMP_NUM_THREADS"] for slot in pool.slots} == {str(num_threads)}


def local(num_jobs, module="leyden.train", accelerator="cpu"):
    config = {"cluster": {"num_jobs": num_jobs}, "trainer": {"accelerator": accelerator}, "dry_run": True}
    return LocalLauncher(OmegaConf.create(config), module)


def call(place, accelerator="cpu", module="leyden.train"):
    """A job that is of no use but to end."""
    trainer = {"accelerator": accelerator, "devices": 1, "strategy": "auto", "max_epochs": 1}
    config = {"run_dir": str(place / "run"), "trainer": trainer, "objective": None}
    return Call(module, OmegaConf.create(config), RunIdentity(config), [])


@pytest.mark.parametrize(("accelerator", "fails"), [("auto", True), ("cpu", False)])
def test_a_job_whose_gpu_can_not_be_used_does_not_train_on_the_cpu(monkeypatch, tmp_path, accelerator, fails):
    trained = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(launcher, "run_task", lambda task, config: trained.append("leyden.train"))
    if fails:
        with pytest.raises(SystemExit, match="2"):
            run_job(*call(tmp_path, accelerator))
        assert Run(tmp_path / "run").result.error.message.startswith("CUDA_VISIBLE_DEVICES=3: PyTorch")
    else:
        run_job(*call(tmp_path, accelerator))
    assert trained == ([] if fails else ["leyden.train"])


class Numbered:
    num = 0


def count(module, *_):
    """A job, which counts in a class and in the environment, and leaves a thread."""
    with open(module, "a") as file:  # noqa: PTH123
        file.write(f"{os.getpid()} {Numbered.num} {os.environ.get('OF_A_JOB')}\n")
    Numbered.num += 1
    os.environ["OF_A_JOB"] = "set"
    threading.Thread(target=time.sleep, args=(600,)).start()


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("job", [count, die])
def test_nothing_leaks_from_job_to_job_and_one_that_hangs_or_dies_stops_no_other(monkeypatch, tmp_path, job):
    monkeypatch.setattr(launcher, "CONTEXT", get_context("fork"))
    monkeypatch.setattr(launcher, "run_job", job)
    pool, failures = local(1, str(tmp_path / "found")), []
    pool.check([], 0)
    for _ in range(3):
        made = SimpleNamespace(run=Run(tmp_path / "run"), log=None)
        made.call = lambda module: call(tmp_path, module=module)
        pool.start([made])
        ended = []
        while not ended:
            ended, _ = pool.wait()
        failures.append(ended[0][1])
    assert multiprocessing.active_children() == []
    if job is die:
        assert failures == 3 * [Failure("Killed", "by SIGKILL, perhaps out of memory")]
        return
    assert failures == 3 * [None]
    found = [line.split() for line in (tmp_path / "found").read_text().splitlines()]
    assert [rest for _, *rest in found] == 3 * [["0", "None"]]
    assert len({pid for pid, *_ in found}) == 3


BEFORE_THE_RUN = {
    "raise ValueError('before')": Failure("ValueError", "before"),
    "from leyden.config.errors import UserError\nraise UserError('x')": Failure("UserError", "x"),
    "import os\nos._exit(3)": Failure("SystemExit", "its process ended with 3"),
    "import os\nos.kill(os.getpid(), 9)": Failure("SystemExit", "its process ended with 137"),
}


@pytest.mark.nightly  # an error within a run is tested by day
@pytest.mark.slow(minutes=0.2)
def test_an_error_before_the_run_begins_is_that_of_the_job_each_time(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    run = Run(tmp_path / "run")
    for text, told in BEFORE_THE_RUN.items():
        (tmp_path / "of_a_job.py").write_text(text)
        num_starts = len(run.starts)
        failure = failure_of(run, launcher.command_of_job(*call(tmp_path, module="of_a_job")), num_starts)
        assert (failure.type, failure.message) == (told.type, told.message)
