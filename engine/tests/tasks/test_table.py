"""Each cell of the table in docs/tasks.md, but for the cluster's, which are in tests/cluster."""

import pytest
from PIL import Image

from leyden.run.directory import Run
from tests import records
from tests.callbacks.events import texts
from tests.tasks.rows import FEW, MODULES, ROWS, TABLE


def test_the_table_has_a_row_for_each():
    assert list(TABLE) == list(ROWS) == list(MODULES)


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.parametrize("row", ROWS)
def test_sweep_and_prune(row, cli, tmp_path):
    search = ("hydra/sweeper=optuna", "hydra.sweeper.num_trials=3", "+callbacks/pruning=median", "sweep_name=s")
    always = ("callbacks.pruning.pruner.n_startup_trials=0", "callbacks.pruning.pruner.n_warmup_steps=0")
    trying = (*search, *always, "seed=int(interval(0,100000))")  # hardly one twice
    code, out, err = cli("train", "-m", *ROWS[row], *FEW, *trying)
    assert code == 0, out + err
    runs = [Run(path) for path in records.ended(tmp_path / "outputs" / "sweeps" / "s")]
    assert {run.result.status for run in runs} <= {"finished", "pruned"}
    assert len(runs) == 3
    assert all(run.result.objective.value is not None for run in runs)
    assert (tmp_path / "outputs" / "sweeps" / "s" / "summary.png").exists()


@pytest.mark.matrix
@pytest.mark.parametrize("row", ROWS)
def test_pictures_evaluate_export_and_predict(row, cli, tmp_path):
    run, cells = Run(tmp_path / "run"), TABLE[row]
    code, out, err = cli("train", f"run_dir={run.directory}", *ROWS[row], *FEW)
    assert code == 0, out + err
    pictures, cell = {path.name for path in run.directory.glob("*.png")}, cells["pictures"].strip("`")
    if cell.endswith(".png"):
        assert cell in pictures
    elif cell == "curves":
        assert pictures == {"curves.png"}
    else:
        assert "generated" in texts(run)

    code, out, err = cli("evaluate", f"run={run.directory}")
    measured = {name: value for name, value in run.result.metrics.items() if name.startswith("test/")}
    assert code == (0 if measured else 2), err
    assert measured or "has no test_step" in err
    for name, value in measured.items():
        assert f"{value:.4f}" in out or f"{value:.3g}" in out, name

    code, out, err = cli("export", f"run={run.directory}")
    assert code == (0 if cells["export"] == "yes" else 2), err
    assert ("agrees on" in out) if code == 0 else ("this command needs a Task" in err)

    Image.new("L", (28, 28), 40).save(tmp_path / "image.png")
    (tmp_path / "places.csv").write_text("longitude,latitude\n-84.2,36.5\n-84.3,36.6\n")
    of_table = cells["predict"] == "table"
    given = f"table={tmp_path / 'places.csv'}" if of_table else f"images={tmp_path / 'image.png'}"
    code, out, err = cli("predict", f"run={run.directory}", given)
    assert code == (2 if cells["predict"] == "no" else 0), out + err
