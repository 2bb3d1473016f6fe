"""The rows of the table in docs/tasks.md, and what is typed for each."""

import re

from tests import ENGINE

OWN = ("task=own", "task._target_=tests.tasks.own.Plain", "objective.metric=val/acc", "objective.mode=max")
GAN = ("task=own", "task._target_=tests.tasks.own.GAN", "objective.metric=val/critic")
TRANSFORMER = ("model.hidden_size=16", "model.num_layers=1")
FEW = ("trainer.limit_train_batches=10", "trainer.limit_val_batches=2")
FEW = (*FEW, "trainer.log_every_n_steps=3", "trainer.max_epochs=2")
LM = "a LightningModule of your own"
ROWS = {
    "`task=classification`": ("task=classification", "model.hidden_sizes=[16]", "model.dropout=0.2"),
    "`task=regression`": ("experiment=regression", "model.hidden_sizes=[16]", "model.dropout=0.2"),
    "`task=autoencoder`": ("experiment=vae", "model.hidden_size=16"),
    "`task=language`": ("experiment=char_lm", *TRANSFORMER, "data.dataset.context=32"),
    LM: OWN,
    "one that steps several optimizers by hand": GAN,
}
COLUMNS = ("images", "table", "text", "folder", "dataset", "own")  # images in memory
# What is typed beside each kind of data.
LEARNED = {
    "`task=classification`": ROWS["`task=classification`"],
    "`task=regression`": ("task=regression", "model.hidden_sizes=[16]", "model.dropout=0.2"),
    "`task=autoencoder`": ("task=autoencoder", "model=vae", "model.hidden_size=16"),
    "`task=language`": ("task=language", "model=transformer", *TRANSFORMER),
    LM: ("task=own", "task._target_=tests.tasks.own.AnyData", "objective.metric=val/loss"),
}
# Data of one's own; else images.
MADE = {"`task=regression`": "tests.data.own.Rows", "`task=language`": "tests.data.own.Tokens"}


def read():
    """The table of the page: for each kind of work, by column, what the cell says."""
    text = (ENGINE / "docs" / "tasks.md").read_text()
    (table,) = re.findall(r"\| kind of work .*?(?=\n\n)", text, re.DOTALL)
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def learns(cell, data):
    """Whether a cell of the last column names the data: `all`, `all but` some, or these alone."""
    return (f"`{data}`" in cell) != cell.startswith("all")


TABLE = read()
DATA = {
    kind: {data: "yes" if learns(row["data"], data) else "no" for data in COLUMNS}
    for kind, row in TABLE.items()
    if "by hand" not in kind  # tests/tasks/test_table.py has it
}
