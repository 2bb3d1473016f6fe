"""A sweep on a Ray cluster of two nodes, one of which is lost; and what is refused before."""

import os
import subprocess
import sys
import time

import pytest

from tests import records
from tests.conftest import QUICK, assert_same_bits

CLUSTER = """
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
FEW = (*QUICK, "callbacks.checkpoint.every_n_steps=2", "trainer.accelerator=cpu")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A cluster's address, and a function that takes one of its two nodes away; Ray is too large for every developer."""
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--target", site, "ray"], check=True)
    for each in ("filelock", "packaging", "yaml", "typing_extensions.py"):  # which are here
        subprocess.run(["rm", "-rf", site / each], check=True)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(site)]))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    process = subprocess.Popen([sys.executable, "-c", CLUSTER], **pipes)

    def lose():
        process.stdin.write("\n")
        process.stdin.flush()
        assert "lost" in process.stdout.readline()

    yield process.stdout.readline().strip(), lose
    process.communicate("\n\n", timeout=60)


def command(place, *arguments):
    words = ["-m", "leyden.train", "-m", *FEW, f"outputs={place}", *arguments]
    return subprocess.Popen([sys.executable, *words], env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.nightly  # minutes beside other tests; what it shares with other launchers is tested by day
@pytest.mark.system
def test_a_sweep_on_nodes_of_which_one_is_lost(cluster, tmp_path, mnist_root):
    address, lose = cluster
    on_ray = ("cluster=ray", f"cluster.address={address}", "cluster.cpus=1")
    grid = ("sweep_name=s", "seed=0,1", "trainer.max_epochs=20")
    sweep = command(tmp_path / "ray", *on_ray, *grid)
    folder = tmp_path / "ray" / "sweeps" / "s"
    while len([*folder.glob("*/checkpoints/last.ckpt")]) < 2:  # on each node a run is under way
        assert sweep.poll() is None
        time.sleep(0.1)
    lose()
    assert command(tmp_path / "local", *grid).wait() == sweep.wait() == 0
    assert sum(len(records.starts(path)) for path in records.ended(folder)) == 3  # one was resumed
    for path in records.ended(folder):
        assert_same_bits(path, tmp_path / "local" / "sweeps" / "s" / path.name)


IN_A_JOB = """
import os, sys, tarfile
from leyden import cluster
from leyden.run.identity import RunIdentity
from leyden.scheduler import slurm
from leyden.sweep.jobs import Call

tarfile.open("code.tar", "w").close()
cluster.command_of_job = lambda *_: print(slurm.job_id(), os.environ.get("SLURM_PROCID"), flush=True) or 0
cluster._run_on_ray(Call("", None, RunIdentity({"run_dir": "run"}), []), "log", "code.tar")
"""


def test_a_job_is_not_that_of_slurm_in_which_ray_runs(tmp_path):
    environment = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_PROCID": "1"}
    subprocess.run([sys.executable, "-c", IN_A_JOB], env=environment, cwd=tmp_path, check=True)
    assert (tmp_path / "log").read_text() == "None None\n"
