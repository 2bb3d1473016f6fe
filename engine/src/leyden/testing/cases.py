"""Made-up data of each kind, with which networks and tasks are tested."""

import contextlib
import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import hydra
import pytest
import torch
from omegaconf import DictConfig, open_dict
from torch import Tensor

from leyden import assembly
from leyden.assembly.instantiate import target
from leyden.config.errors import UserError, last_frame
from leyden.config.hydra import initialized
from leyden.config.paths import conf_files
from leyden.config.terminal import one_line
from leyden.data.facts import Facts
from leyden.tasks.task import Task

NUM_SAMPLES = 10  # in a batch
SHAPES = ((1, 28, 28), (3, 32, 32), (4,))


class Case(NamedTuple):
    """A task on made-up data.

    Args:
        task: Name of the task's config file.
        facts: Facts of the data.
        batch: Inputs and targets, as a data loader would return them.
    """

    task: str
    facts: Facts
    batch: tuple[Tensor, Tensor]

    def __repr__(self) -> str:
        return f"{self.task} on samples of shape {self.facts.input_shape}"


def compose(*overrides: str, command: str = "train") -> DictConfig:
    """Return the configuration of a command, a training run by default, with these overrides."""
    cfg = copy.deepcopy(_composed(command, overrides))
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


@functools.cache
def _composed(command: str, overrides: tuple[str, ...]) -> DictConfig:
    with initialized():
        return hydra.compose(command, overrides=list(overrides), return_hydra_config=True)


def override(file: Path) -> str:
    """Return the override that chooses a config file, with a plus if its group has no default.

    Args:
        file: Path relative to `conf/`.
    """
    group = file.parent.as_posix()
    return f"{'' if group in _composed('train', ()).hydra.runtime.choices else '+'}{group}={file.stem}"


def task_names() -> list[str]:
    """Return the names of all tasks but `own`, classification first: the project's and the library's."""
    names = {path.stem for _, path in conf_files("task/*.yaml")} - {"own"}
    return sorted(names, key=lambda name: (name != "classification", name))


def classes_case(task: str, shape: tuple[int, ...], num_classes: int = 10, inputs: Tensor | None = None) -> Case:
    """Return inputs, random ones unless they are given, with classes as targets."""
    names = tuple(f"class {number}" for number in range(num_classes))
    facts = Facts(shape, num_classes, names, (0.0,) * shape[0], (1.0,) * shape[0])
    inputs = _random(NUM_SAMPLES, *shape) if inputs is None else inputs
    return Case(task, facts, (inputs, torch.arange(NUM_SAMPLES) % num_classes))


def _values_case(task: str, shape: tuple[int, ...]) -> Case:
    """Return random inputs with two numbers as targets."""
    inputs = _random(NUM_SAMPLES, *shape)
    targets = torch.stack([inputs.flatten(1).mean(1), inputs.flatten(1)[:, 0]], dim=1)
    return Case(task, Facts(shape, target_names=("height", "width")), (inputs, targets))


def _grey_images_case(task: str, shape: tuple[int, ...]) -> Case:
    """Return images of one brightness each, which an autoencoder can learn."""
    brightness_N = torch.linspace(0, 1, NUM_SAMPLES)
    images = brightness_N[:, None, None, None].expand(NUM_SAMPLES, *shape).clone()
    return classes_case(task, shape, inputs=images)


def _text_case(task: str) -> Case:
    """Return tokens with the next tokens as targets."""
    tokens = torch.arange(NUM_SAMPLES * 8).reshape(NUM_SAMPLES, 8) % 5
    return Case(task, Facts((8,), vocabulary=tuple("abcde")), (tokens, (tokens + 1) % 5))


def cases_of(task: str) -> Iterator[Case]:
    """Yield all kinds of data on which a task could train a network."""
    yield from (classes_case(task, shape) for shape in SHAPES)
    yield from (_values_case(task, shape) for shape in SHAPES)
    yield from (_grey_images_case(task, shape) for shape in SHAPES if len(shape) == 3)
    yield _text_case(task)


def _random(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def create(model: str, case: Case, *overrides: str, seed: int = 0) -> Task:
    """Return the task of a case with a network.

    Args:
        model: Name of the network's config file.
        case: The task and its data.
        overrides: Further overrides of the configuration.
        seed: Seed of the initial weights.
    """
    torch.manual_seed(seed)
    module = assembly.task_module(compose(f"model={model}", f"task={case.task}", *overrides), case.facts)
    return cast(Task, module)


def step(module: Task, batch: tuple[Tensor, Tensor], optimizer: torch.optim.Optimizer) -> Tensor:
    """Train for one step and return the loss before it."""
    loss = module.step(batch).loss
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


@functools.cache
def suited_cases(model: str) -> list[Case]:
    """Return the cases that a network is for: the first task that accepts it, on all data that it accepts.

    The test fails if there is none.
    """
    reasons: list[str] = []
    for task in filter(is_task, task_names()):
        tried = [(case, reason_against(model, case)) for case in cases_of(task)]
        if accepted := [case for case, reason in tried if not reason]:
            return accepted
        reasons += [reason for _, reason in tried]
    if all(map(is_task, task_names())):
        broken(f"model={model} trains in none of the tasks {', '.join(task_names())}", *dict.fromkeys(reasons))
    pytest.skip(
        f"model={model} trains in none of Leyden's tasks, and other LightningModules have no common interface"
    )


def suited_task(model_file: Path) -> tuple[str, Case, Task]:
    """Return a network's name, the first case that it is for, and the case's task with the network."""
    model = model_file.stem
    case = suited_cases(model)[0]
    return model, case, create(model, case)


def is_task(name: str) -> bool:
    """Return whether a task is a `leyden.tasks.task.Task`; other LightningModules have no `step`."""
    kind = target(compose(f"task={name}").task, "task")
    return isinstance(kind, type) and issubclass(kind, Task)


def reason_against(model: str, case: Case) -> str:
    """Return why a network does not train on a case; empty if it does."""
    try:
        loss = create(model, case).step(case.batch).loss
    except Exception as error:  # a researcher's network raises anything
        return f"{case}: {describe(error)}"
    return "" if loss.isfinite() else f"{case}: the loss is {loss}"


def describe(error: BaseException) -> str:
    """Return an error in one line, with its place unless it is a message for the user."""
    if isinstance(error, UserError):
        return one_line(error)
    place = last_frame(error)
    return f"{type(error).__name__}: {one_line(error)}" + (f" ({place})" if place else "")


def broken(contract: str, *details: str) -> Any:
    """Fail the test with these lines only, without a traceback."""
    pytest.fail("\n  ".join([contract, *details]), pytrace=False)


@contextlib.contextmanager
def must(contract: str) -> Iterator[None]:
    """Report an error of the code within as a broken contract, in two lines.

    Args:
        contract: Complete sentence that says what the file must do.
    """
    try:
        yield
    except Exception as error:  # a researcher's code raises anything
        broken(contract, describe(error))
