"""The column of the cluster in docs/tasks.md."""

import pytest

from leyden.config.paths import ROOT
from tests.cluster.test_cluster import runs, submit
from tests.conftest import finish
from tests.tasks.rows import FEW, ROWS, TABLE

pytestmark = pytest.mark.cluster
MODULES_OF_TESTS = f"cluster.setup=['export PYTHONPATH={ROOT}:$PYTHONPATH']"


def test_every_kind_of_work_runs_on_a_cluster(slurm, tmp_path, mnist_root):
    assert {cells["cluster"] for cells in TABLE.values()} == {"yes"}
    names = {row: f"s{number}" for number, row in enumerate(ROWS)}
    jobs = [submit(tmp_path, *ROWS[row], *FEW, MODULES_OF_TESTS, "seed=0", name=names[row]) for row in ROWS]
    for row, job in zip(ROWS, jobs, strict=True):
        finish(job)
        (run,) = runs(tmp_path, names[row])
        assert run.submission["job_id"]
        assert (row, run.result.status) == (row, "finished")
