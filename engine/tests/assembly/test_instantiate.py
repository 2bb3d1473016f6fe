import sys
from typing import Any

import lightning as L
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from leyden import assembly
from leyden.assembly.instantiate import import_targets
from leyden.assembly.task import check_step
from leyden.assembly.trainer import callbacks_of
from leyden.callbacks.display import DisplayCallback
from leyden.data.contract import Facts
from leyden.tasks import Classification
from leyden.testing.contracts import FACTS, compose

made = []


class Counted:
    def __init__(self):
        made.append(self)


class Own(L.LightningModule):
    def __init__(self, *, num_classes, parts):
        super().__init__()
        self.num_classes = num_classes
        self.parts = parts


class Shown(DisplayCallback):
    def __init__(self, *, class_names, parts=None):
        self.class_names = class_names
        self.parts = parts


def node(kind):
    return {"_target_": f"{__name__}.{kind}", "parts": [{"_target_": f"{__name__}.Counted"}]}


def test_a_node_within_a_task_or_a_callback_is_made_once_and_of_one_for_other_data_never():
    made.clear()
    cfg = compose("callbacks=bare")
    cfg.task = node("Own")
    cfg.callbacks = {"checkpoint": cfg.callbacks.checkpoint, "shown": node("Shown")}
    module = assembly.task_module(cfg, FACTS)
    assert len(made) == 1
    assert module.parts == made
    assert module.num_classes == 10
    for names, num in ((FACTS.class_names, 1), (None, 0)):
        made.clear()
        callbacks, _ = callbacks_of(cfg, Facts((1, 28, 28), 10, names, None, None))
        assert len(made) == num
        assert [
            callback.class_names for callback in callbacks if isinstance(callback, Shown)
        ] == num * [names]


# Modules of others, whose constructors use the names of what the program gives for settings of their own.


class Named(L.LightningModule):
    def __init__(self, optimizer: str = "adam", num_classes=3, scheduler=None, **others):
        super().__init__()
        self.given = {
            "optimizer": optimizer,
            "num_classes": num_classes,
            "scheduler": scheduler,
            **others,
        }


class Above(Named):
    def __init__(self, hidden=4, **kwargs):
        super().__init__(**kwargs)


class Typed(Named):
    def __init__(self, optimizer, num_classes):
        super().__init__(optimizer, num_classes)


class Required(Typed):
    def __init__(self, hidden=4, **kwargs: Any):
        super().__init__(**kwargs)


def of_function(optimizer="adam"):
    return Named(optimizer)


SGD = object()
OWN = {"optimizer": "adam", "num_classes": 3}
OURS = {"optimizer": SGD, "num_classes": 10}
GIVEN = [("Named", {}, OWN, len), ("Above", {}, OWN, len), ("of_function", {}, OWN, None)]
GIVEN += [("Typed", {}, OURS, None), ("Typed", OWN, OWN, None)]
GIVEN += [("Required", {}, OURS, None), ("Required", OWN, OWN, None)]


@pytest.mark.parametrize(("kind", "configured", "given", "scheduler"), GIVEN)
def test_the_program_gives_what_has_no_default_and_is_not_configured(
    kind, configured, given, scheduler
):
    cfg = compose()
    cfg.task = {"_target_": f"{__name__}.{kind}", **configured}
    module = assembly.task_module(cfg, FACTS, optimizer=SGD, scheduler=len)
    assert module.given == {**given, "scheduler": scheduler}


def test_it_is_tried_as_it_is_not_compiled_for_two_samples():
    """A compiler takes half a minute for a batch of another size than that of training."""
    shapes = []

    def backend(graph, inputs):
        shapes.append(inputs)
        return graph.forward

    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    module = Classification(network=torch.compile(network, backend=backend))
    check_step(module, Facts(input_shape=(1, 2, 2), num_classes=3))
    assert not shapes
    module.step((torch.zeros(5, 1, 2, 2), torch.zeros(5, dtype=torch.int64)))
    assert shapes


class Drawing(L.LightningDataModule):
    """Draws its split when it is set up."""

    def setup(self, stage):
        self.order = torch.randperm(100).tolist()

    def train_dataloader(self):
        return [(torch.zeros(2, 3), torch.zeros(2))]


def test_what_data_draw_follows_from_the_seed_alone():
    cfg = compose("seed=5")
    cfg.data = {"_target_": f"{__name__}.Drawing"}
    first = assembly.datamodule(cfg).order
    torch.rand(1)
    assert assembly.datamodule(cfg).order == first
    cfg.seed = 6
    assert assembly.datamodule(cfg).order != first


def test_a_file_that_draws_when_it_is_imported_draws_by_the_seed(tmp_path, monkeypatch):
    text = "import torch\n\nNUMBER = torch.rand(1).item()\n\n\nclass Own:\n    pass\n"
    (tmp_path / "draws_at_import.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    cfg = OmegaConf.create({"seed": 5, "model": {"_target_": "draws_at_import.Own"}})
    numbers = []
    for _ in range(2):
        import_targets(cfg)
        numbers.append(sys.modules.pop("draws_at_import").NUMBER)
    assert numbers[0] == numbers[1]
