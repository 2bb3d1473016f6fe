"""Made-up data of each kind, for the contracts of networks and tasks: a new file in conf/ needs no new test."""

import functools
from typing import NamedTuple

import pytest
import torch

from leyden import assembly
from leyden.config.errors import UserError
from leyden.config.paths import CONF
from leyden.data.facts import Facts
from tests.composed import compose

NUM = 10  # samples of a batch
TASKS = sorted(path.stem for path in (CONF / "task").glob("*.yaml") if path.stem != "own")


class Case(NamedTuple):
    """A task on data: facts, and a batch as their loader would give it."""

    task: str
    facts: Facts
    batch: tuple[torch.Tensor, torch.Tensor]

    @property
    def shape(self):
        return self.facts.input_shape

    def __repr__(self):
        return f"{self.task} on samples of {self.shape}"


def random(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def classes(task, shape, num_classes=10):
    channels = shape[0]
    names = tuple(f"class {k}" for k in range(num_classes))
    facts = Facts(shape, num_classes, names, (0.0,) * channels, (1.0,) * channels)
    return Case(task, facts, (random(NUM, *shape), torch.arange(NUM) % num_classes))


def values(task, shape):
    inputs = random(NUM, *shape)
    facts = Facts(shape, target_names=("height", "width"))
    return Case(task, facts, (inputs, torch.stack([inputs.flatten(1).mean(1), inputs.flatten(1)[:, 0]], dim=1)))


def plain_images(task, shape):
    brightness_N = torch.linspace(0, 1, NUM)
    facts = Facts(shape, 10, tuple("0123456789"), (0.0,) * shape[0], (1.0,) * shape[0])
    return Case(task, facts, (brightness_N[:, None, None, None].expand(NUM, *shape).clone(), torch.arange(NUM)))


def texts(task):
    tokens = torch.arange(NUM * 8).reshape(NUM, 8) % 5
    return Case(task, Facts((8,), vocabulary=tuple("abcde")), (tokens, (tokens + 1) % 5))


SHAPES = ((1, 28, 28), (3, 32, 32), (4,))


def cases(task):
    """All data on which a task could be learned; that it can't is found by trying."""
    images = [shape for shape in SHAPES if len(shape) == 3]
    yield from (classes(task, shape) for shape in SHAPES)
    yield from (values(task, shape) for shape in SHAPES)
    yield from (plain_images(task, shape) for shape in images)
    yield texts(task)


def config(model, task, *overrides):
    return compose(f"model={model}", f"task={task}", *overrides)


def make(model, case, *, seed=0, overrides=()):
    """The task with the network, for data of a kind."""
    torch.manual_seed(seed)
    return assembly.task_module(config(model, case.task, *overrides), case.facts)


def why_not(model, case):
    """What is wrong with a network for a task on data of a kind; empty for nothing."""
    try:
        module = make(model, case)
        loss = module.step(case.batch).loss
    except (UserError, ValueError, RuntimeError, IndexError, TypeError) as error:
        return f"{case}: {error}"
    return "" if loss.isfinite() else f"{case}: the loss is {loss}"


@functools.cache
def suited(model):
    """The cases that a network is for, at least one: the first task that takes it, on all the data that it takes."""
    reasons = []
    for task in sorted(TASKS, key=lambda name: name != "classification"):
        found = []
        for case in cases(task):
            if why := why_not(model, case):
                reasons.append(why)
            else:
                found.append(case)
        if found:
            return found
    pytest.fail("no task takes it:\n" + "\n".join(reasons))
