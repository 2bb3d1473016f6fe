"""What a configuration describes is made once."""

import lightning as L
import pytest

from leyden import assembly
from leyden.assembly.trainer import callbacks_of
from leyden.callbacks.display import DisplayCallback
from leyden.data.facts import Facts
from tests.conf.test_conf import FACTS, compose

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
