"""What a configuration describes is made once."""

from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from leyden import assembly
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
        self.num_classes, self.parts = num_classes, parts


class Shown(DisplayCallback):
    def __init__(self, *, class_names, parts=None):
        self.class_names, self.parts = class_names, parts


def node(kind):
    return {"_target_": f"{__name__}.{kind}", "parts": [{"_target_": f"{__name__}.Counted"}]}


@pytest.fixture(autouse=True)
def _nothing_is_made_yet():
    made.clear()


def test_a_node_within_a_task_is_made_once():
    cfg = compose()
    cfg.task = node("Own")
    module = assembly.task_module(cfg, FACTS)
    assert module.parts == made
    assert len(made) == 1
    assert module.num_classes == 10


@pytest.mark.parametrize(("names", "num"), [(FACTS.class_names, 1), (None, 0)])
def test_a_node_within_a_callback_is_made_once_and_of_one_for_other_data_never(names, num):
    cfg = compose("callbacks=bare")
    cfg.callbacks = {"checkpoint": cfg.callbacks.checkpoint, "shown": node("Shown")}
    facts = Facts((1, 28, 28), 10, names, None, None)
    callbacks, _ = callbacks_of(cfg, facts)
    assert len(made) == num
    assert [callback.class_names for callback in callbacks if isinstance(callback, Shown)] == num * [names]


# Modules of others, whose constructors use the names of what the program gives for settings of their own.


class Named(L.LightningModule):
    def __init__(self, optimizer: str = "adam", num_classes=3, scheduler=None, **kwargs):
        super().__init__()
        self.given = {"optimizer": optimizer, "num_classes": num_classes, "scheduler": scheduler}
        self.others = kwargs


class Above(Named):
    def __init__(self, hidden=4, **kwargs):
        super().__init__(**kwargs)


class Typed(L.LightningModule):
    def __init__(self, optimizer, num_classes):
        super().__init__()
        self.given = {"optimizer": optimizer, "num_classes": num_classes}


class Required(Typed):
    def __init__(self, hidden=4, **kwargs: Any):
        super().__init__(**kwargs)


def of_function(optimizer="adam"):
    return Named(optimizer)


def module_of(kind, *overrides, **given):
    cfg = compose(*overrides)
    cfg.task = {"_target_": f"{__name__}.{kind}", **given}
    return assembly.task_module(cfg, FACTS, optimizer=SGD, scheduler=len)


SGD = object()


@pytest.mark.parametrize("kind", ["Named", "Above", "of_function"])
def test_an_argument_with_a_default_of_its_own_is_not_replaced(kind):
    module = module_of(kind)
    assert {**module.given, "scheduler": None} == {"optimizer": "adam", "num_classes": 3, "scheduler": None}
    assert module.given["scheduler"] is (None if kind == "of_function" else len)
    assert module.others == {}


@pytest.mark.parametrize("kind", ["Typed", "Required"])
def test_an_argument_without_a_default_is_given_by_the_program_unless_it_is_configured(kind):
    assert module_of(kind).given == {"optimizer": SGD, "num_classes": 10}
    assert module_of(kind, optimizer="Adam", num_classes=4).given == {"optimizer": "Adam", "num_classes": 4}


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
