"""Each cell of the table in docs/tasks.md, but for the cluster's, which are in tests/cluster."""

import re

import pytest
from PIL import Image

from leyden.run.directory import Run
from tests import records
from tests.callbacks.events import texts
from tests.data import folders, small
from tests.tasks.rows import DATA, FEW, LEARNED, MADE, ROWS, TABLE
from tests.training.test_start_exact import assert_same_run, stopping


def test_the_table_has_a_row_for_each():
    assert list(TABLE) == list(ROWS)
    assert list(DATA) == list(LEARNED)


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.parametrize("row", ROWS)
def test_sweep_and_prune(row, command, tmp_path):
    search = ("hydra/sweeper=optuna", "hydra.sweeper.num_trials=3", "+callbacks/pruning=median", "sweep_name=s")
    always = ("callbacks.pruning.pruner.n_startup_trials=0", "callbacks.pruning.pruner.n_warmup_steps=0")
    trying = (*search, *always, "seed=int(interval(0,100000))")  # hardly one twice
    command("train", "-m", *ROWS[row], *FEW, *trying)
    runs = [Run(path) for path in records.ended(tmp_path / "outputs" / "sweeps" / "s")]
    assert {run.result.status for run in runs} <= {"finished", "pruned"}
    assert len(runs) == 3
    assert all(run.result.objective.value is not None for run in runs)
    assert (tmp_path / "outputs" / "sweeps" / "s" / "summary.png").exists()


@pytest.mark.matrix
@pytest.mark.parametrize("row", ROWS)
def test_pictures_evaluate_export_and_predict(row, command, tmp_path):
    run, cells = Run(tmp_path / "run"), TABLE[row]
    command("train", f"run_dir={run.directory}", *ROWS[row], *FEW)
    pictures, cell = {path.name for path in run.directory.glob("*.png")}, cells["pictures"].strip("`")
    if cell.endswith(".png"):
        assert cell in pictures
    elif cell == "curves":
        assert pictures == {"curves.png"}
    else:
        assert "generated" in texts(run)

    measured = {name: value for name, value in run.result.metrics.items() if name.startswith("test/")}
    out, err = command("evaluate", f"run={run.directory}", code=0 if measured else 2)
    assert measured or "has no test_step" in err
    for name, value in measured.items():
        assert f"{value:.4f}" in out or f"{value:.3g}" in out, name

    out, err = command("export", f"run={run.directory}", code=0 if cells["export"] == "yes" else 2)
    is_refused = err.startswith(f"leyden: {run.directory}: ") and err.count("\n") == 1
    assert ("agrees on" in out) if cells["export"] == "yes" else is_refused

    Image.new("L", (28, 28), 40).save(tmp_path / "image.png")
    (tmp_path / "places.csv").write_text("longitude,latitude\n-84.2,36.5\n-84.3,36.6\n")
    of_table = cells["predict"] == "table"
    given = f"table={tmp_path / 'places.csv'}" if of_table else f"images={tmp_path / 'image.png'}"
    command("predict", f"run={run.directory}", given, code=2 if cells["predict"] == "no" else 0)


OF_DATA = (*FEW, "callbacks.checkpoint.every_n_steps=3", "trainer.limit_test_batches=2")
STOP = 14  # of 20 batches


def given(row, column, root):
    """What is typed for these data."""
    name = MADE.get(row, "tests.data.own.Noisy")
    classes = ("data.dataset.targets=rooms", "data.dataset.classes=true") if "classification" in row else ()
    streamed = ("data.num_workers=0", "data.batch_size=3", "data.eval_batch_size=4")
    dataset = f"{{_target_: {name}, _partial_: true}}"
    others = (f"data.val={dataset}", f"data.test={dataset}")
    return {
        "images": (*small.overrides("mnist", root), "data.batch_size=20"),
        "table": (*small.overrides("table", root), *classes),
        "text": small.overrides("text", root),
        "folder": ("data=folder", f"data.root={root}/pets", "data.image_size=[28,28]", *streamed),
        "dataset": ("data=dataset", f"data.train._target_={name}", *others, *streamed),
        "own": ("data=own", "data._target_=tests.data.own.Given", f"+data.kind={name}"),
    }[column]


@pytest.fixture(scope="session")
def pets(small_files):
    folders.write(small_files / "pets", train=20, val=5, test=6)


def stop_and_resume(command, tmp_path, *arguments):
    """Two runs that must have the same bits, of which one was stopped within its second epoch."""
    whole, stopped = Run(tmp_path / "whole"), Run(tmp_path / "stopped")
    command("train", f"run_dir={whole.directory}", *arguments)
    with stopping(STOP):
        command("train", f"run_dir={stopped.directory}", *arguments, code=1)
    out, err = command("train", f"run_dir={stopped.directory}", "resume=must", *arguments)
    assert re.search(r"resumes from .*step 1\d", out + err), out + err
    assert_same_run(whole, stopped)
    return whole


def cells():
    """All of them; what learns is trained in the fast suite where a row or a column has not been, else in the slow one."""
    rows, columns = set(), set()
    for row, columns_of_row in DATA.items():
        for column, learns in columns_of_row.items():
            is_slow = learns == "yes" and row in rows and column in columns
            yield pytest.param(row, column, marks=[pytest.mark.slow] * is_slow)
            if learns == "yes":
                rows.add(row)
                columns.add(column)


@pytest.mark.matrix
@pytest.mark.parametrize(("row", "column"), [*cells()])
def test_a_task_and_data(command, tmp_path, small_root, pets, row, column):
    arguments = (*LEARNED[row], *given(row, column, small_root), *OF_DATA)
    if DATA[row][column] == "no":
        _, err = command("train", f"run_dir={tmp_path / 'whole'}", *arguments, code=2)
        assert len(err.splitlines()) == 1
        return
    assert DATA[row][column] == "yes"
    run = stop_and_resume(command, tmp_path, *arguments)
    command("evaluate", f"run={run.directory}")
