"""Each cell of the table in docs/tasks.md, but for the cluster's, which are in tests/queue."""

import itertools
import re

import pytest
from PIL import Image

from leyden.run.directory import Run
from tests import ENGINE
from tests.callbacks import events
from tests.data import folders, small
from tests.training.test_start_exact import assert_same_run, stopping

OWN = (
    "task=own",
    "task._target_=tests.tasks.own.Plain",
    "objective.metric=val/acc",
    "objective.mode=max",
)
BY_HAND = ("task=own", "task._target_=tests.tasks.by_hand.ByHand", "objective.metric=val/loss")
DROPOUT = ("model.hidden_sizes=[16]", "model.dropout=0.2")
TRANSFORMER = ("model.hidden_size=16", "model.num_layers=1")
FEW = (
    "trainer.limit_train_batches=10",
    "trainer.limit_val_batches=2",
    "trainer.log_every_n_steps=3",
    "trainer.max_epochs=2",
)
LM = "a LightningModule of your own"
# What is typed for each row, with data of its own.
ROWS = {
    "`task=classification`": ("task=classification", *DROPOUT),
    "`task=regression`": ("experiment=regression", *DROPOUT),
    "`task=autoencoder`": ("experiment=vae", "model.hidden_size=16"),
    "`task=language`": ("experiment=char_lm", *TRANSFORMER, "data.dataset.context=32"),
    LM: OWN,
    "one that steps several optimizers by hand": BY_HAND,
}
COLUMNS = ("images", "table", "text", "folder", "dataset", "own")  # images in memory
# What is typed beside each kind of data.
LEARNED = {
    "`task=classification`": ROWS["`task=classification`"],
    "`task=regression`": ("task=regression", *DROPOUT),
    "`task=autoencoder`": ("task=autoencoder", "model=vae", "model.hidden_size=16"),
    "`task=language`": ("task=language", "model=transformer", *TRANSFORMER),
    LM: ("task=own", "task._target_=tests.tasks.own.AnyData", "objective.metric=val/loss"),
}
# Data of one's own; else images.
MADE = {"`task=regression`": "tests.data.own.Rows", "`task=language`": "tests.data.own.Tokens"}
OF_DATA = (*FEW, "callbacks.checkpoint.every_n_steps=3", "trainer.limit_test_batches=2")
STOP = 14  # of 20 batches


def read():
    """The table of the page: for each kind of work, by column, what the cell says."""
    text = (ENGINE / "docs" / "tasks.md").read_text()
    (table,) = re.findall(r"\| kind of work .*?(?=\n\n)", text, re.DOTALL)
    lines = [re.split(r"\s*\|\s*", line)[1:-1] for line in table.splitlines()]
    head, _, *rows = lines
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


TABLE = read()


def learns(row, column):
    """Whether a cell of the last column names the data: `all`, `all but` some, or these alone."""
    cell = TABLE[row]["data"]
    return (f"`{column}`" in cell) != cell.startswith("all")


def test_the_table_has_a_row_for_each():
    assert list(TABLE) == list(ROWS) == [*LEARNED, "one that steps several optimizers by hand"]


@pytest.mark.matrix
@pytest.mark.parametrize("row", ROWS)
def test_pictures_evaluate_export_and_predict(row, command, tmp_path):
    run = Run(tmp_path / "run")
    cells = TABLE[row]
    command("train", f"run_dir={run.directory}", *ROWS[row], *FEW)
    pictures = {path.name for path in run.directory.glob("*.png")}
    cell = cells["pictures"].strip("`")
    if cell.endswith(".png"):
        assert cell in pictures
    elif cell == "curves":
        assert pictures == {"curves.png"}
    else:
        assert "generated/text_summary" in events.read(run).Tags()["tensors"]

    of_run = f"run={run.directory}"
    if run.result.test_metrics:
        out, _ = command("evaluate", of_run)
        for name, value in run.result.test_metrics.items():
            assert f"{value:.4f}" in out or f"{value:.3g}" in out, name
    else:
        _, err = command("evaluate", of_run, code=2)
        assert "has no test_step" in err

    if cells["export"] == "yes":
        out, _ = command("export", of_run)
        assert "agrees on" in out
    else:
        _, err = command("export", of_run, code=2)
        assert err.startswith(f"leyden: {run.directory}: ")
        assert err.count("\n") == 1

    image = tmp_path / "image.png"
    Image.new("L", (28, 28), 40).save(image)
    places = tmp_path / "places.csv"
    places.write_text("longitude,latitude\n-84.2,36.5\n-84.3,36.6\n")
    samples = f"table={places}" if cells["predict"] == "table" else f"images={image}"
    command("predict", of_run, samples, code=2 if cells["predict"] == "no" else 0)


def given(row, column, root):
    name = MADE.get(row, "tests.data.own.Noisy")
    classes = ()
    if "classification" in row:
        classes = ("data.dataset.targets=rooms", "data.dataset.classes=true")
    streamed = ("data.num_workers=0", "data.batch_size=3", "data.eval_batch_size=4")
    others = (f"data.{split}={{_target_: {name}, _partial_: true}}" for split in ("val", "test"))
    return {
        "images": (*small.overrides("mnist", root), "data.batch_size=20"),
        "table": (*small.overrides("table", root), *classes),
        "text": small.overrides("text", root),
        "folder": ("data=folder", f"data.root={root}/pets", "data.image_size=[28,28]", *streamed),
        "dataset": ("data=dataset", f"data.train._target_={name}", *others, *streamed),
        "own": ("data=own", "data._target_=tests.data.own.Given", f"+data.kind={name}"),
    }[column]


def stop_and_resume(command, tmp_path, *arguments):
    """Two runs that must have the same bits, of which one was stopped within its second epoch."""
    whole = Run(tmp_path / "whole")
    stopped = Run(tmp_path / "stopped")
    # Of one experiment, the first run alone would be evaluated on the test set.
    first = ("name=whole", f"run_dir={whole.directory}", *arguments)
    other = ("name=stopped", f"run_dir={stopped.directory}", *arguments)
    command("train", *first)
    with stopping(STOP):
        command("train", *other, code=1)
    out, err = command("train", "resume=must", *other)
    assert re.search(r"resumes from .*step 1\d", out + err), out + err
    assert_same_run(whole, stopped)
    return whole


def cells():
    """All of them; what learns is trained in the fast suite where a row or a column has not been, else in the slow one."""
    trained = set()
    for row, column in itertools.product(LEARNED, COLUMNS):
        marks = []
        if learns(row, column):
            if {row, column} <= trained:
                marks.append(pytest.mark.slow)
            trained |= {row, column}
        yield pytest.param(row, column, marks=marks)


@pytest.mark.matrix
@pytest.mark.parametrize(("row", "column"), [*cells()])
def test_a_task_and_data(command, tmp_path, small_root, row, column):
    if column == "folder" and not (small_root / "pets").exists():
        folders.write(small_root / "pets", train=20, val=5, test=6)
    arguments = (*LEARNED[row], *given(row, column, small_root), *OF_DATA)
    if learns(row, column):
        run = stop_and_resume(command, tmp_path, *arguments)
        command("evaluate", f"run={run.directory}")
        return
    _, err = command("train", f"run_dir={tmp_path / 'whole'}", *arguments, code=2)
    assert len(err.splitlines()) == 1
