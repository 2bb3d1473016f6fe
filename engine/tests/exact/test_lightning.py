"""What `exact/lightning.py` knows of Lightning's private parts: a new Lightning that has changed one is named in words."""

import ast
import inspect
import re
import warnings

import lightning as L
import pytest
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.connectors.logger_connector import result
from torchmetrics import MeanMetric

from leyden.config.paths import LIBRARY
from leyden.exact import lightning

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    TRAINER = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
VALUE = result._ResultMetric(result._Metadata("training_step", "loss"), is_tensor=True)
FIRST = "the first value after a resume resets the means of its epoch"
# Each private name, where it is looked for, and what would be lost without it.
NAMES = {
    "_combined_loader": (
        TRAINER.fit_loop,
        "loaders that a schedule has made too early are not made again",
    ),
    "_iteration_based_training": (
        TRAINER.fit_loop,
        "with max_steps, an epoch that has ended ends once more",
    ),
    "_resuming_from_checkpoint": (
        TRAINER.fit_loop,
        "a new epoch keeps iterators that drew before the restore",
    ),
    "_restarting": (
        TRAINER.fit_loop,
        "schedules that follow a metric are not stepped as a resumed epoch ends",
    ),
    "_results": (TRAINER.fit_loop.epoch_loop, "means over a resumed epoch are over its rest only"),
    "_batches_that_stepped": (TRAINER.fit_loop.epoch_loop, "the step of a logged value is unknown"),
    "_logger_connector": (TRAINER, FIRST),
    "_first_loop_iter": (TRAINER._logger_connector, FIRST),
    "_ResultCollection": (result, "means over an epoch can't be kept"),
    "_forward_cache": (VALUE, "the last step's value can't be kept"),
    "_forked_name": (
        result._ResultCollection,
        "the names of metrics by step and epoch are unknown",
    ),
    "_data_parallel_size": (ModelParallelStrategy(), "processes of FSDP2 train on the same data"),
    "_update_count": (MeanMetric(), "torchmetrics warns of a metric without updates"),
    "_computed": (MeanMetric(), "torchmetrics returns a value of before the restore"),
}


def private_names(source):
    """Private names that a file takes from objects and modules of others."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        names |= {alias.name for alias in node.names} if isinstance(node, ast.ImportFrom) else set()
        names.add(getattr(node, "attr", None) or (isinstance(node, ast.keyword) and node.arg) or "")
    return {name for name in names if re.match("_[a-zA-Z]", name)}


@pytest.mark.parametrize("name", NAMES)
def test_lightning_has_a_private_name(name):
    where, loss = NAMES[name]
    assert hasattr(where, name), f"this Lightning has no {name}: {loss}"


def test_all_private_names_are_known_and_no_other_file_knows_them():
    assert private_names(inspect.getsource(lightning)) == {*NAMES}
    for path in LIBRARY.rglob("*.py"):
        found = private_names(path.read_text()) & ({*NAMES} - {"_results"})  # a common name
        assert not found or path.name == "lightning.py", f"{path}: {found}"
