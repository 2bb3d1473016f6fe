import os
import subprocess
import sys
from multiprocessing import get_context
from types import ModuleType, SimpleNamespace

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from leyden.config.checks import check_num_jobs
from leyden.config.errors import UserError
from leyden.sweep import launcher, worker
from leyden.sweep.jobs import slug
from leyden.sweep.launcher import Pool, worker_environments


@pytest.fixture(autouse=True)
def _nothing_exported(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def test_a_process_that_starts_jobs_and_is_killed_is_reported_in_a_line(tmp_path):
    (tmp_path / "killed.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    code = "from leyden.sweep import launcher\nlauncher.CONTEXT.set_forkserver_preload(['killed'])\n"
    code += "try:\n    launcher.Worker({})\nexcept launcher.UserError as error:\n    print(error)\n"
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


def test_each_job_has_a_gpu_of_its_own():
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in worker_environments(None, ["0", "1", "2"], 8)] == [
        "0",
        "1",
        "2",
    ]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in worker_environments(4, ["GPU-a", "GPU-b"], 8)] == 2 * [
        "GPU-a",
        "GPU-b",
    ]


@pytest.mark.parametrize("num_jobs", [0, -1, 1.5, "many", True])
def test_a_number_of_jobs_that_is_none(num_jobs):
    with pytest.raises(UserError, match=r"cluster\.num_jobs="):
        check_num_jobs(num_jobs)


def test_a_slug_is_readable_and_does_not_depend_on_the_order():
    name = slug(
        ["seed=1", "optimizer.lr=0.01", "model.hidden_sizes=[512,256]", "sweep_name=x", "cluster.num_jobs=2"]
    )
    assert name == "model.hidden_sizes-512-256_optimizer.lr-0.01_seed-1"
    assert slug(["optimizer.lr=0.01", "seed=1", "model.hidden_sizes=[512,256]"]) == name
    assert slug([]) == "defaults"


def test_no_two_jobs_share_a_slug():
    lists = [["a='x y'"], ["a='x z'"], ["a=x-y"], ["+a=x-y"], ["a=x/y"], [f"a={'b' * 200}"], [f"a={'b' * 201}"]]
    names = {slug(overrides) for overrides in lists}
    assert len(names) == len(lists)
    assert all("=" not in name and "/" not in name and len(name) < 140 for name in names)


def count(module, config):
    """A job, which counts in a class; returns its process, and what it has found."""
    made = get_object(config.task["_target_"])
    made.num += config.add
    return f"{os.getpid()} {made.num}"


def test_a_process_in_which_a_job_has_changed_a_class_is_replaced(monkeypatch):
    module = ModuleType("of_a_sweep")
    module.__file__ = __file__
    module.Numbered = type("Numbered", (), {"__module__": "of_a_sweep", "num": 0})
    monkeypatch.setitem(sys.modules, "of_a_sweep", module)
    monkeypatch.setattr(launcher, "CONTEXT", get_context("fork"))
    pool = Pool([{"OMP_NUM_THREADS": "1"}], "", count)
    found = []
    for add in (0, 0, 1, 1):
        config = OmegaConf.create({"task": {"_target_": "of_a_sweep.Numbered"}, "add": add, "seed": 0})
        pool.start([SimpleNamespace(resolved_config=config, log=None)])
        ended = []
        while not ended:
            ended, _ = pool.wait()
        found.append(ended[0][1].split())
    pool.stop()
    assert [num for _, num in found] == ["0", "0", "1", "1"]
    assert len({pid for pid, _ in found[:3]}) == 1
    assert found[3][0] != found[2][0]


def process_of(module, config):
    """A job, which returns its process."""
    return str(os.getpid())


def test_a_process_that_has_run_its_number_of_jobs_is_replaced(monkeypatch):
    monkeypatch.setattr(launcher, "CONTEXT", get_context("fork"))
    monkeypatch.setattr(worker, "MAX_JOBS", 2)
    pool = Pool([{"OMP_NUM_THREADS": "1"}], "", process_of)
    found = []
    for _ in range(5):
        pool.start([SimpleNamespace(resolved_config=None, log=None)])
        ended = []
        while not ended:
            ended, _ = pool.wait()
        found.append(ended[0][1])
    pool.stop()
    first, second, third = found[0], found[2], found[4]
    assert found == [first, first, second, second, third]
    assert len({first, second, third}) == 3
