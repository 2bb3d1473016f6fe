"""Each kind of work in the table of docs/tasks.md."""

import pytest

from tests.cluster.test_cluster import runs, submit
from tests.conftest import finish
from tests.tasks.rows import FEW, ROWS

PLAIN = ROWS["a LightningModule of your own"][1:]
pytestmark = pytest.mark.cluster


def test_every_kind_of_work_runs_on_a_cluster(slurm, tmp_path, mnist_root):
    # And data that know nothing of a node without network.
    rows = {**ROWS, "data of your own": ("data=own", "data._target_=tests.data.own.Plain", "task=own", *PLAIN)}
    names = {row: f"s{number}" for number, row in enumerate(rows)}
    jobs = [submit(tmp_path, *rows[row], *FEW, "seed=0", name=names[row]) for row in rows]
    for row, job in zip(rows, jobs, strict=True):
        finish(job)
        (run,) = runs(tmp_path, names[row])
        assert run.submission["job_id"]
        assert (row, run.result.status) == (row, "finished")
