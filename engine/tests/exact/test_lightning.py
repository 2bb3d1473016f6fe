"""What `exact/lightning.py` knows of Lightning's private parts: a new Lightning that has changed one is named in words."""

import ast
import contextlib
import importlib
import inspect
import re
import warnings

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder, WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.connectors.logger_connector import result
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from leyden.base.paths import LIBRARY
from leyden.exact.lightning import logged_state
from tests.test_imports import MODULES, name_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    TRAINER = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    LOADERS = CombinedLoader([])
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
    "_results": (TRAINER.fit_loop.epoch_loop, "means over a resumed epoch are over its rest only"),
    "_batches_that_stepped": (TRAINER.fit_loop.epoch_loop, "the step of a logged value is unknown"),
    "_logger_connector": (TRAINER, FIRST),
    "_first_loop_iter": (TRAINER._logger_connector, FIRST),
    "_run_sanity_check": (TRAINER, "a resumed start runs a check that a module may have counted"),
    "_early_exit": (
        LearningRateFinder(),
        "a Tuner's search is taken for the training that follows it",
    ),
    "_start_method": (
        L.pytorch.strategies.DDPStrategy(start_method="spawn"),
        "processes that are spawned fail to pickle the trainer",
    ),
    "_forward_cache": (VALUE, "the last step's value can't be kept"),
    "_forked_name": (
        result._ResultCollection,
        "the names of metrics by step and epoch are unknown",
    ),
    "_data_parallel_size": (ModelParallelStrategy(), "processes of FSDP2 train on the same data"),
    "_mode": (LOADERS, "loaders that Lightning can't train on are not refused"),
    "_device": (WeightAveraging(), "an average stays where the module was made"),
    "_update_count": (MeanMetric(), "torchmetrics warns of a metric without updates"),
    "_computed": (MeanMetric(), "torchmetrics returns a value of before the restore"),
}


# And of other libraries, each in one file, where the public way that is missing stands.
OF_OTHERS = {
    "exact/memory.py": {"_version"},  # PyTorch: whether a tensor was written to
    "run/command.py": {"_get_root"},  # OmegaConf
    "sweep/search.py": {"_trial_id"},  # Optuna
}
DOCUMENTED = {"_fields", "_exit"}  # of os
READERS = ("getattr", "setattr", "hasattr", "delattr", "attrgetter")
IS_PRIVATE = re.compile("_[a-zA-Z](?:\\w*[a-zA-Z0-9])?")


def private_names(tree):
    """Private names that a file takes from objects and modules, by attributes, imports, keywords and texts."""
    for node in ast.walk(tree):
        texts = []
        if isinstance(node, ast.Attribute):
            texts = [node.attr]
        elif isinstance(node, ast.ImportFrom):
            texts = [*node.module.split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.keyword):
            texts = [node.arg]
        elif isinstance(node, ast.Subscript):
            texts = [getattr(node.slice, "value", None)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(READERS):
            texts = [getattr(argument, "value", None) for argument in node.args]
        yield from (text for text in texts if isinstance(text, str) and IS_PRIVATE.fullmatch(text))


def own_names(tree):
    """Names that a file defines: functions, classes, variables, arguments, and attributes of its objects."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("self._"):
            yield from [node.attr] if isinstance(node.ctx, ast.Store) else []


def of_bases(name):
    """Private names that the classes of a module share with classes of others that they derive from."""
    for made in vars(importlib.import_module(name)).values():
        if not inspect.isclass(made) or made.__module__ != name:
            continue
        used = {*re.findall(r"(?:self\.|def )(_[a-z]\w*)", inspect.getsource(made))}
        for base in made.__mro__[1:]:
            if base.__module__.split(".")[0] not in ("leyden", "builtins", "typing"):
                with contextlib.suppress(TypeError, OSError):  # it has no source
                    yield from used & {
                        *re.findall(r"(?:self\.|def )(_[a-z]\w*)", inspect.getsource(base))
                    }


@pytest.mark.parametrize("name", NAMES)
def test_lightning_has_a_private_name(name):
    where, loss = NAMES[name]
    assert hasattr(where, name), f"this Lightning has no {name}: {loss}"


def test_all_private_names_of_others_are_known_and_stand_in_one_file_for_a_library():
    trees = {path: ast.parse(path.read_text()) for path in MODULES}
    own = {name for tree in trees.values() for name in own_names(tree)}
    known = {"exact/lightning.py": {*NAMES}, **OF_OTHERS}
    found = {}
    for path, tree in trees.items():
        place = path.relative_to(LIBRARY).as_posix()
        names = {*private_names(tree)} - DOCUMENTED
        if path.name != "lightning.py":
            names -= own
        if path.name != "__main__.py":
            names |= {*of_bases(name_of(path))}
        if names:
            found[place] = names
    assert found == known
    assert sum(map(len, found.values())) <= 20


class LogsAMetric(L.LightningModule):
    """Logs a number and a metric object, and looks at what Lightning keeps of them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.mean = MeanMetric()

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).mean()
        self.mean(loss)
        self.log("mean", self.mean, on_step=False, on_epoch=True)
        self.log("loss", loss, on_epoch=True)
        return loss

    def on_train_batch_end(self, *args):
        self.logged = logged_state(self.trainer)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")  # of a scheduler, workers and devices of this machine
def test_what_is_logged_in_an_epoch_is_kept_of_metric_objects_the_names(tmp_path):
    module = LogsAMetric()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        max_steps=2,
        accelerator="cpu",
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        **quiet,
    )
    trainer.fit(module, DataLoader(torch.ones(4, 2), batch_size=2))
    assert module.logged["metrics"] == ["mean"]
    (value,) = module.logged["values"].values()
    assert (value["options"]["name"], value["metric"]["num_updates"]) == ("loss", 2)
