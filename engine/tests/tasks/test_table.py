"""Each cell of the table in docs/tasks.md, but for the cluster's, which are in tests/cluster."""

import csv

import pytest

from leyden.run.directory import Run
from tests import records
from tests.callbacks.events import texts
from tests.conftest import here
from tests.tasks.rows import FEW, MODULES, ROWS, TABLE


def test_the_table_has_a_row_for_each():
    assert list(TABLE) == list(ROWS) == list(MODULES)


@pytest.fixture(scope="module", params=ROWS)
def row(request):
    return request.param


@pytest.fixture(scope="module")
def whole(row, tmp_path_factory, mnist_root):
    """A run of each kind."""
    place = tmp_path_factory.mktemp("whole")
    arguments = (*ROWS[row], *FEW, "callbacks.checkpoint.every_n_steps=3", f"outputs={place}")
    assert here("train", f"run_dir={place / 'run'}", *arguments) == 0
    return Run(place / "run"), arguments


@pytest.mark.slow
@pytest.mark.matrix
def test_sweep_and_prune(row, cli, tmp_path):
    search = ("hydra/sweeper=optuna", "hydra.sweeper.num_trials=3", "+callbacks/pruning=median", "sweep_name=s")
    always = ("callbacks.pruning.pruner.n_startup_trials=0", "callbacks.pruning.pruner.n_warmup_steps=0")
    code, out, err = cli(
        "train", "-m", *ROWS[row], *FEW, *search, *always, "seed=int(interval(0,100000))"
    )  # hardly one twice
    assert code == 0, out + err
    runs = [Run(path) for path in records.ended(tmp_path / "outputs" / "sweeps" / "s")]
    assert {run.result.status for run in runs} <= {"finished", "pruned"}
    assert len(runs) == 3
    assert all(run.result.objective.value is not None for run in runs)
    assert (tmp_path / "outputs" / "sweeps" / "s" / "summary.png").exists()


@pytest.mark.matrix
def test_pictures(row, whole):
    run, _ = whole
    pictures = {path.name for path in run.directory.glob("*.png")}
    cell = TABLE[row]["pictures"].strip("`")
    if cell.endswith(".png"):
        assert cell in pictures
    elif cell == "curves":
        assert pictures == {"curves.png"}
    else:
        assert "generated" in texts(run)


@pytest.mark.matrix
def test_evaluate(row, whole, cli):
    run, _ = whole
    code, out, err = cli("evaluate", f"run={run.directory}")
    if "test/" not in str(run.result.metrics):  # it has no test_step
        assert code == 2
        assert "has no test_step" in err
        return
    assert code == 0, err
    for name, value in run.result.metrics.items():
        if name.startswith("test/"):
            assert f"{value:.4f}" in out or f"{value:.3g}" in out, name


@pytest.mark.matrix
def test_export(row, whole, cli):
    run, _ = whole
    code, out, err = cli("export", f"run={run.directory}")
    if TABLE[row]["export"] == "yes":
        assert code == 0, err
        assert "agrees on" in out
    else:
        assert code == 2
        assert "this command needs a Task" in err


@pytest.mark.matrix
def test_predict(row, whole, cli, tmp_path):
    run, _ = whole
    code, out, err = cli("predict", f"run={run.directory}", asked(row, tmp_path))
    assert code == (2 if TABLE[row]["predict"] == "no" else 0), out + err


def asked(row, tmp_path):
    return f"table={table(tmp_path)}" if TABLE[row]["predict"] == "table" else f"images={image(tmp_path)}"


def image(tmp_path):
    from PIL import Image

    path = tmp_path / "image.png"
    Image.new("L", (28, 28), 40).save(path)
    return path


def table(tmp_path):
    path = tmp_path / "places.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["longitude", "latitude"], [-84.2, 36.5], [-84.3, 36.6]])
    return path
