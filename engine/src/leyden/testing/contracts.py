"""Tests of what every network, task, dataset and config file of a project must do.

They are parametrized by the files in `conf/`, so that a new file is tested without a new test. Networks and tasks are
tested with made-up data of each kind.
"""

import functools
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import hydra
import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from leyden import assembly
from leyden.assembly.instantiate import check_keys, target
from leyden.assembly.task import check_step, make_optimizer, make_schedule
from leyden.assembly.trainer import callbacks_of
from leyden.config.checks import validate_values
from leyden.config.errors import UserError, as_line
from leyden.config.hydra import initialized, without_hydra
from leyden.config.paths import conf, conf_files
from leyden.data.contract import Facts, has_split, sizes_of
from leyden.files import MissingDatasetError
from leyden.tasks import Task
from leyden.testing import NO_CLASS

NUM_SAMPLES = 10  # in a batch
KINDS = ("classes", "values", "reconstruction", "text")  # of tasks that the data made here are for
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
    return without_hydra(_composed(command, overrides))


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
    return (
        f"{'' if group in _composed('train', ()).hydra.runtime.choices else '+'}{group}={file.stem}"
    )


def task_names() -> list[str]:
    """Return the names of all tasks but `own`, classification first: the project's and the library's."""
    names = {path.stem for _, path in conf_files("task/*.yaml")} - {"own"}
    return sorted(names, key=lambda name: (name != "classification", name))


def cases_of(task: str) -> Iterator[Case]:
    """Yield data of each kind on which a task could train a network: classes, numbers, and tokens with the next ones."""
    generator = torch.Generator().manual_seed(0)
    for shape in SHAPES:
        inputs, names = torch.rand(NUM_SAMPLES, *shape, generator=generator), tuple("abcdefg")
        classes = Facts(shape, len(names), names, (0.0,) * shape[0], (1.0,) * shape[0])
        yield Case(task, classes, (inputs, torch.arange(NUM_SAMPLES) % len(names)))
        numbers = torch.stack([inputs.flatten(1).mean(1), inputs.flatten(1)[:, 0]], dim=1)
        yield Case(task, Facts(shape, target_names=("height", "width")), (inputs, numbers))
    tokens = torch.arange(NUM_SAMPLES * 8).reshape(NUM_SAMPLES, 8) % 5
    yield Case(task, Facts((8,), vocabulary=tuple("abcde")), (tokens, (tokens + 1) % 5))


def create(model: str, case: Case, *overrides: str, seed: int = 0) -> Task:
    """Return the task of a case with a network.

    Args:
        model: Name of the network's config file.
        case: The task and its data.
        overrides: Further overrides of the configuration.
        seed: Seed of the initial weights.
    """
    torch.manual_seed(seed)
    module = assembly.task_module(
        compose(f"model={model}", f"task={case.task}", *overrides), case.facts
    )
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
    own = {path.stem for _, path in conf_files("task/*.yaml") if path.is_relative_to(conf())}
    if not all(map(is_task, own)):
        pytest.skip(
            f"model={model} may be for a task of the project's, on data that are not made here"
        )
    lines = "\n  ".join(dict.fromkeys(reasons))
    pytest.fail(
        f"model={model} trains in none of the tasks {', '.join(task_names())}\n  {lines}",
        pytrace=False,
    )


def suited_task(model_file: Path) -> tuple[str, Case, Task]:
    """Return a network's name, the first case that it is for, and the case's task with the network."""
    model = model_file.stem
    case = suited_cases(model)[0]
    return model, case, create(model, case)


def is_task(name: str) -> bool:
    """Return whether a task is a `leyden.tasks.Task` of one of `KINDS`, and not, say, of boxes."""
    kind = target(compose(f"task={name}").task, "task")
    return isinstance(kind, type) and issubclass(kind, Task) and kind.kind in KINDS


def reason_against(model: str, case: Case) -> str:
    """Return why a network does not train on a case; empty if it does."""
    try:
        check_step(module := create(model, case), case.facts)
        loss = module.step(case.batch).loss
    except Exception as error:  # a researcher's network raises anything
        return f"{case}: {as_line(error)}"
    return "" if loss.isfinite() else f"{case}: the loss is {loss}"


# Facts of no existing data: every callback finds the facts that it needs.
FACTS = Facts((1, 28, 28), 10, tuple("0123456789"), (0.0,), (1.0,))
ALL_FACTS = replace(FACTS, target_names=("height",), vocabulary=("a", "b"))
PARTS = ("model", "task", "optimizer", "scheduler", "trainer", "callbacks", "logger")
MAX_STEPS = 100  # with which a network must fit one batch


def test_a_network_has_a_finite_loss_and_a_gradient_for_each_parameter(model_file: Path) -> None:
    """No parameter is unused, and none is cut off from the loss."""
    _, case, module = suited_task(model_file)
    loss = module.step(case.batch).loss
    loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in module.network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"forward does not use {name}; remove it"
            assert parameter.grad.any(), f"the gradient of {name} is zero, so it is never trained"


def test_a_network_fits_one_batch(model_file: Path) -> None:
    """A hundred steps of Adam on one batch reduce the loss."""
    _, case, module = suited_task(model_file)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    first = last = step(module, case.batch, optimizer)
    wanted = (0.4 if case.facts.num_classes and case.task == "classification" else 0.8) * first
    for _ in range(MAX_STEPS):
        if (last := step(module, case.batch, optimizer)) < wanted:
            return
    pytest.fail(
        f"the loss fell from {first:.3g} to {last:.3g} only; is all of the network connected?",
        pytrace=False,
    )


def test_a_networks_state_dict_is_complete(model_file: Path) -> None:
    """A network with the weights of another one computes the same."""
    model, case, module = suited_task(model_file)
    other = create(model, case, seed=1)
    step(module, case.batch, torch.optim.SGD(module.parameters(), lr=0.001))
    file = io.BytesIO()
    torch.save(module.network.state_dict(), file)
    file.seek(0)
    other.network.load_state_dict(torch.load(file, weights_only=True))
    expected, found = (
        torch.as_tensor(each.eval().step(case.batch).predictions) for each in (module, other)
    )
    assert torch.equal(expected, found), (
        "it has state that is no parameter or buffer; use register_buffer"
    )


def test_a_network_can_be_exported(model_file: Path) -> None:
    """`torch.export` traces it for any number of samples, as `leyden export` does."""
    _, case, module = suited_task(model_file)
    network, inputs = module.network.eval(), case.batch[0]
    shapes = ({0: torch.export.Dim("N")},)
    program = torch.export.export(network, (inputs[:2],), dynamic_shapes=shapes, strict=False)
    torch.testing.assert_close(program.module()(inputs), network(inputs))


def test_a_task_trains_a_network(task_file: Path) -> None:
    """With one of the networks of `conf/model/`, on some kind of data, it has a finite loss and gradients."""
    task = task_file.stem
    if not is_task(task):
        pytest.skip(f"task={task} is of another kind, on data that are not made here")
    tried = (
        (name.stem, case)
        for name, _ in sorted(conf_files("model/*.yaml"))
        for case in cases_of(task)
    )
    reasons = []
    for model, case in tried:
        if not (reason := reason_against(model, case)):
            return
        reasons.append(f"model={model}, {reason}")
    pytest.fail(
        "\n  ".join([f"task={task} trains no network", *dict.fromkeys(reasons)]), pytrace=False
    )


def test_data_are_as_their_facts_say(data_file: Path) -> None:
    """The first batch of each split has the shape, the type and the targets that the facts promise."""
    name = data_file.stem
    cfg = compose(f"data={name}")
    if missing := OmegaConf.missing_keys(cfg.data):
        pytest.skip(f"{min(missing)}=... must be given")
    cfg.data.update(
        {key: value for key, value in (("download", False), ("num_workers", 0)) if key in cfg.data}
    )
    try:
        data = assembly.datamodule(cfg)
        if has_split(data, "test"):
            data.setup("test")
    except UserError as error:
        if isinstance(error.__cause__, MissingDatasetError):
            pytest.skip(f"data={name} is not in {cfg.data.get('root')}")
        raise
    if not isinstance(facts := getattr(data, "facts", None), Facts):
        pytest.skip(f"data={name} is another LightningDataModule, which has no facts")
    assert Facts.from_state(yaml.safe_load(yaml.safe_dump(facts.to_state()))) == facts, (
        "they must be plain values"
    )
    for split in sizes_of(data) if facts.input_shape else ():
        loader: Any = getattr(data, f"{split}_dataloader")()
        inputs, targets = next(iter(loader))
        assert tuple(inputs.shape[1:]) == facts.input_shape, (
            f"batches of {split} have another shape"
        )
        if facts.num_classes is not None:
            assert 0 <= targets.min() <= targets.max() < facts.num_classes, (
                f"{split} has other classes"
            )


def test_a_config_file_composes_and_creates_what_it_names(choice_file: Path) -> None:
    """With the file as a choice, the configuration has valid values, and each class in it accepts its arguments."""
    cfg = compose(override(choice_file))
    for key in OmegaConf.missing_keys(cfg):  # the user must give it
        OmegaConf.update(cfg, key, "given")
    validate_values(cfg)
    OmegaConf.to_container(cfg, resolve=True)
    if choice_file.parts[0] in PARTS and choice_file.stem not in NO_CLASS:
        assembly.silence_lightning()
        _create_parts(choice_file)


def _create_parts(file: Path) -> None:
    cfg, facts = compose(override(file)), FACTS
    if file.parts[0] == "model":
        case = suited_cases(file.stem)[0]
        facts, cfg.task = case.facts, compose(f"task={case.task}").task
    assembly.task_module(cfg, facts)
    optimizer = make_optimizer(cfg.optimizer)(assembly.network(cfg, facts).named_parameters())
    if cfg.scheduler:
        schedule = make_schedule(cfg.scheduler, 10, optimizer)
        optimizer.step()
        step: Any = schedule.step
        step(*[0.0] * isinstance(schedule, ReduceLROnPlateau))  # the metric
    callbacks, _ = callbacks_of(cfg, ALL_FACTS)
    cfg.trainer.accelerator = "cpu"
    assembly.plain_trainer(cfg, callbacks, logger=False)
    for (
        name,
        node,
    ) in cfg.logger.items():  # not created: one needs a login, another one creates a database
        check_keys(node, f"logger.{name}")
