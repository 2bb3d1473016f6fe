"""The processes of jobs on this machine, and their devices; and those on a Ray cluster."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from multiprocessing import get_context
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from leyden import cluster
from leyden.base.errors import UserError
from leyden.run.directory import Run
from leyden.run.identity import RunIdentity
from leyden.run.result import Failure
from leyden.sweep import launcher
from leyden.sweep.jobs import Call
from leyden.sweep.launcher import (
    LocalLauncher,
    command_of_job,
    failure_of,
    run_job,
    worker_environments,
)
from tests import records
from tests.conftest import QUICK, assert_same_bits, finish, start


@pytest.fixture(autouse=True)
def _nothing_exported(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def test_a_process_that_starts_jobs_and_is_killed_is_reported_in_a_line(tmp_path):
    (tmp_path / "killed.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    code = (
        "from leyden.sweep import launcher\nlauncher.CONTEXT.set_forkserver_preload(['killed'])\n"
    )
    code += "from leyden.base.errors import ending\nwith ending():\n    launcher.start_process(print, environment={})\n"
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
        cluster.launcher(OmegaConf.create(config), "leyden.train")


def test_cores_are_divided_among_the_jobs(monkeypatch):
    for num_jobs, num_cores, num, threads in ((None, 4, 4, "1"), (2, 8, 2, "4"), (3, 2, 3, "1")):
        assert worker_environments(num_jobs, [], num_cores) == num * [{"OMP_NUM_THREADS": threads}]
    # As PyTorch itself has it.
    for name, value, threads in (("OMP", "many", "4"), ("OMP", "3", "3"), ("MKL", "2", "2")):
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
    monkeypatch.setattr(launcher, "call_in_process", lambda function: function())
    monkeypatch.setattr(launcher, "num_cores", lambda: 8)
    one_by_one = [",".join(devices) or None]  # with all devices
    for asked, strategy, slots in ((1, "auto", devices or 8 * [None]), (2, "ddp", one_by_one)):
        pool, trainer = local(None, accelerator="auto"), {"devices": asked, "strategy": strategy}
        job = SimpleNamespace(
            compose=lambda trainer=trainer: OmegaConf.create({"trainer": trainer})
        )
        assert pool.check([job], 1)
        assert [slot.get("CUDA_VISIBLE_DEVICES") for slot in pool.slots] == slots
        num_threads = 4 if asked == 2 else 8 // len(slots)
        assert {slot["OMP_NUM_THREADS"] for slot in pool.slots} == {str(num_threads)}


def local(num_jobs, module="leyden.train", accelerator="cpu"):
    config = {
        "cluster": {"num_jobs": num_jobs},
        "trainer": {"accelerator": accelerator},
        "dry_run": True,
    }
    return LocalLauncher(OmegaConf.create(config), module)


def call(place, accelerator="cpu", module="leyden.train"):
    trainer = {"accelerator": accelerator, "devices": 1, "strategy": "auto", "max_epochs": 1}
    config = {"run_dir": str(place / "run"), "trainer": trainer, "objective": None}
    return Call(module, OmegaConf.create(config), RunIdentity(config), [])


def test_a_job_whose_gpu_can_not_be_used_does_not_train_on_the_cpu(monkeypatch, tmp_path):
    trained, run = [], Run(tmp_path / "run")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(
        launcher, "run_task", lambda task, config: trained.append(config.trainer.accelerator)
    )
    with pytest.raises(SystemExit, match="2"):
        run_job(*call(tmp_path, "auto"))
    assert run.result.error.message.startswith("CUDA_VISIBLE_DEVICES=3: PyTorch")
    run_job(*call(tmp_path, "cpu"))
    assert trained == ["cpu"]
    # The error that it has recorded, unless that is of an earlier start.
    assert failure_of(run, 2, num_starts=0) == run.result.error
    for code, told in (
        (2, "its process ended with 2"),
        (137, "its process ended with 137"),
        (0, None),
    ):
        assert failure_of(run, code, num_starts=1) == (told and Failure("SystemExit", told))
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
    monkeypatch.setattr(launcher, "CONTEXT", get_context("fork"))
    monkeypatch.setattr(launcher, "run_job", job)
    pool, failures = local(1, str(tmp_path / "found")), []
    pool.check([], 0)
    made = SimpleNamespace(
        run=Run(tmp_path / "run"), log=None, call=lambda module: call(tmp_path, module=module)
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


RAY = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(nodes[0], allow_graceful=False)
print("lost", flush=True)
sys.stdin.readline()
cluster.shutdown()
"""
GRID = (
    "-m",
    "sweep_name=s",
    "seed=0,1",
    *QUICK,
    "trainer.max_epochs=20",
    "trainer.accelerator=cpu",
)
GRID = (*GRID, "callbacks.checkpoint.every_n_steps=2")


@pytest.fixture
def ray(tmp_path, monkeypatch):
    """A cluster's address, and a function that takes one of its two nodes away; Ray is too large for every developer."""
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--target", site, "ray"], check=True
    )
    there = ("filelock", "packaging", "yaml", "typing_extensions.py")  # here
    subprocess.run(["rm", "-rf", *(site / each for each in there)], check=True)
    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}{os.pathsep}{site}")
    pipes = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
        "text": True,
    }
    process = subprocess.Popen([sys.executable, "-c", RAY], **pipes)

    def lose():
        process.stdin.write("\n")
        process.stdin.flush()
        assert "lost" in process.stdout.readline()

    yield process.stdout.readline().strip(), lose
    process.communicate("\n\n", timeout=60)


@pytest.mark.nightly(
    alone=True
)  # minutes beside other tests; what it shares with other launchers is tested by day
@pytest.mark.system
def test_a_sweep_on_nodes_of_which_one_is_lost(ray, tmp_path, mnist_root):
    address, lose = ray
    on_ray = (
        "cluster=ray",
        f"cluster.address={address}",
        "cluster.cpus=1",
        f"outputs={tmp_path / 'ray'}",
    )
    process = start(*GRID, *on_ray, anew=True, OMP_NUM_THREADS="1")
    folder = tmp_path / "ray" / "sweeps" / "s"
    while len([*folder.glob("*/checkpoints/last.ckpt")]) < 2:  # on each node a run is under way
        assert process.poll() is None
        time.sleep(0.1)
    lose()
    finish(start(*GRID, f"outputs={tmp_path / 'local'}", anew=True, OMP_NUM_THREADS="1"))
    finish(process)
    assert sum(len(records.starts(path)) for path in records.ended(folder)) == 3  # one was resumed
    for path in records.ended(folder):
        assert_same_bits(path, tmp_path / "local" / "sweeps" / "s" / path.name)


def test_a_job_is_not_that_of_slurm_in_which_ray_runs(monkeypatch, tmp_path):
    tarfile.open(tmp_path / "code.tar", "w").close()
    found, logs = [], []
    monkeypatch.setattr(os, "dup2", lambda _, descriptor: logs.append(descriptor))
    monkeypatch.setattr(cluster, "environment_of", lambda project: {})
    monkeypatch.setattr(cluster, "command_of_job", lambda *_: found.extend(os.environ) or 0)
    for name in ("SLURM_JOB_ID", "SLURM_PROCID"):
        monkeypatch.setenv(name, "7")
    assert (
        cluster._run_on_ray(call(tmp_path), str(tmp_path / "log"), str(tmp_path / "code.tar"))
        is None
    )
    assert not [name for name in found if name.startswith("SLURM_")]
    assert logs == [1, 2]
