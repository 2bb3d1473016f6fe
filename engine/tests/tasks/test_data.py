"""The last column of the table in docs/tasks.md: what learns from which data, stopped within an epoch and resumed."""

import re

import pytest

from leyden.run.directory import Run
from tests.data import folders, small
from tests.tasks.rows import DATA, LEARNED, MADE
from tests.training.test_start_exact import assert_same_run, stopping

FEW = ("callbacks.checkpoint.every_n_steps=3", "trainer.max_epochs=2", "trainer.log_every_n_steps=3")
FEW = (*FEW, "trainer.limit_train_batches=10", "trainer.limit_val_batches=2", "trainer.limit_test_batches=2")
STOP = 14  # of 20 batches


def given(row, column, root):
    """What is typed for these data."""
    name = MADE.get(row, "tests.data.own.Noisy")
    classes = ("data.dataset.targets=rooms", "data.dataset.classes=true") if "classification" in row else ()
    streamed = ("data.num_workers=0", "data.batch_size=3", "data.eval_batch_size=4")
    dataset = f"{{_target_: {name}, _partial_: true}}"
    return {
        "images": (*small.overrides("mnist", root), "data.batch_size=20"),
        "table": (*small.overrides("table", root), *classes),
        "text": small.overrides("text", root),
        "folder": ("data=folder", f"data.root={root}/pets", "data.image_size=[28,28]", *streamed),
        "dataset": (
            f"data.train._target_={name}",
            f"data.val={dataset}",
            "data=dataset",
            f"data.test={dataset}",
            *streamed,
        ),
        "own": ("data=own", "data._target_=tests.data.own.Given", f"+data.kind={name.rpartition('.')[2]}"),
    }[column]


@pytest.fixture(scope="session")
def pets(small_files):
    folders.write(small_files / "pets", train=20, val=5, test=6)


def stop_and_resume(cli, tmp_path, *arguments):
    """Two runs that must have the same bits, of which one was stopped within its second epoch."""
    whole, stopped = Run(tmp_path / "whole"), Run(tmp_path / "stopped")
    code, out, err = cli("train", f"run_dir={whole.directory}", *arguments)
    assert code == 0, out + err
    with stopping(STOP):
        assert cli("train", f"run_dir={stopped.directory}", *arguments)[0] == 1
    code, out, err = cli("train", f"run_dir={stopped.directory}", "resume=must", *arguments)
    assert code == 0, out + err
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
def test_a_task_and_data(cli, tmp_path, small_root, pets, row, column):
    arguments = (*LEARNED[row], *given(row, column, small_root), *FEW)
    if DATA[row][column] == "no":
        code, out, err = cli("train", f"run_dir={tmp_path / 'whole'}", *arguments)
        assert code == 2, out + err
        assert len(err.splitlines()) == 1
        return
    assert DATA[row][column] == "yes"
    run = stop_and_resume(cli, tmp_path, *arguments)
    code, out, err = cli("evaluate", f"run={run.directory}")
    assert code == 0, out + err


def test_the_table_has_a_row_for_each():
    assert list(DATA) == list(LEARNED)
