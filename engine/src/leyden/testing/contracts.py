"""Tests of what every network, task, dataset and config file of a project must do.

They are parametrized by the files in `conf/`, so that a new file is tested without a new test. A failure says in a few
lines what the file must do. Networks and tasks are tested with made-up data of each kind.
"""

import contextlib
import copy
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
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from leyden import assembly
from leyden.assembly.instantiate import check_keys, target
from leyden.assembly.task import make_optimizer, make_schedule
from leyden.assembly.trainer import callbacks_of
from leyden.config.checks import validate_values
from leyden.config.errors import UserError, as_line
from leyden.config.hydra import initialized
from leyden.config.paths import conf_files
from leyden.data.contract import Facts, sizes_of
from leyden.files.fetch import MissingDatasetError
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
        return f"{case}: {as_line(error)}"
    return "" if loss.isfinite() else f"{case}: the loss is {loss}"


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
        broken(contract, as_line(error))


# Facts of no existing data: every callback finds the facts that it needs.
FACTS = Facts((1, 28, 28), 10, tuple("0123456789"), (0.0,), (1.0,))
ALL_FACTS = replace(FACTS, target_names=("height",), vocabulary=("a", "b"))
MAX_STEPS = 100  # with which a network must fit one batch


def test_a_network_returns_one_output_per_class(model_file: Path) -> None:
    """`forward` returns shape (N, num_classes) for any number of samples and classes."""
    model = model_file.stem
    for case in suited_cases(model):
        if case.task != "classification" or not case.facts.num_classes:
            continue
        shape = case.batch[0].shape[1:]
        for num_samples, num_classes in ((1, 7), (3, 10)):
            with must(f"model={model} must accept {num_samples} samples of shape {tuple(shape)}"):
                network = create(model, classes_case(case.task, tuple(shape), num_classes)).eval()
                outputs = network(torch.zeros(num_samples, *shape))
            if outputs.shape != (num_samples, num_classes):
                broken(
                    f"model={model} must return one output per class",
                    f"{num_samples} samples and {num_classes} classes give shape {tuple(outputs.shape)}",
                )


def test_a_network_has_a_finite_loss_and_a_gradient_for_each_parameter(model_file: Path) -> None:
    """No parameter is unused, and none is cut off from the loss."""
    model, case, module = suited_task(model_file)
    with must(f"model={model} must be differentiable"):
        loss = module.step(case.batch).loss
        loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in module.network.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            broken(f"model={model} must use each parameter", f"forward does not use {name}; remove it")
        if parameter.grad is not None and not parameter.grad.any():
            broken(f"model={model} must be connected", f"the gradient of {name} is zero, so it is never trained")


def test_a_network_fits_one_batch(model_file: Path) -> None:
    """A hundred steps of Adam on one batch reduce the loss."""
    model, case, module = suited_task(model_file)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    first = last = step(module, case.batch, optimizer)
    wanted = (0.4 if case.facts.num_classes and case.task == "classification" else 0.8) * first
    for _ in range(MAX_STEPS):
        if (last := step(module, case.batch, optimizer)) < wanted:
            return
    broken(
        f"model={model} must fit {NUM_SAMPLES} samples in {MAX_STEPS} steps of Adam",
        f"the loss fell from {first:.3g} to {last:.3g} only; is all of it connected?",
    )


def test_a_networks_state_dict_is_complete(model_file: Path) -> None:
    """A network with the weights of another one computes the same."""
    model, case, module = suited_task(model_file)
    other = create(model, case, seed=1)
    step(module, case.batch, torch.optim.SGD(module.parameters(), lr=0.001))
    file = io.BytesIO()
    torch.save(module.network.state_dict(), file)
    file.seek(0)
    with must(f"model={model} must load its own state dict with weights_only=True"):
        other.network.load_state_dict(torch.load(file, weights_only=True))
    expected, found = (each.eval().step(case.batch).predictions for each in (module, other))
    if not torch.equal(torch.as_tensor(expected), torch.as_tensor(found)):
        broken(
            f"model={model} must keep its state in parameters and buffers",
            "with the same state dict it computes something else; use register_buffer",
        )


def test_a_network_can_be_exported(model_file: Path) -> None:
    """`torch.export` traces it for any number of samples."""
    model, case, module = suited_task(model_file)
    network, inputs = module.network.eval(), case.batch[0]
    shapes = ({0: torch.export.Dim("N")},)
    with must(f"model={model} must be exportable for any number of samples (leyden export)"):
        program = torch.export.export(network, (inputs[:2],), dynamic_shapes=shapes, strict=False)
        torch.testing.assert_close(program.module()(inputs), network(inputs))


def test_a_task_trains_a_network(task_file: Path) -> None:
    """There is a network with which the task has a finite loss and gradients."""
    task = task_file.stem
    if not is_task(task):
        pytest.skip(f"task={task} is another LightningModule, which has no common interface")
    reasons = []
    for name, _ in sorted(conf_files("model/*.yaml")):
        for case in cases_of(task):
            if not (reason := reason_against(name.stem, case)):
                return
            reasons.append(f"model={name.stem}, {reason}")
    broken(f"task={task} must train a network of conf/model/ on some kind of data", *dict.fromkeys(reasons))


def test_data_are_as_their_facts_say(data_file: Path) -> None:
    """The first batch of each split has the shape, the type and the targets that the facts promise."""
    name = data_file.stem
    cfg = compose(f"data={name}")
    if missing := OmegaConf.missing_keys(cfg.data):
        pytest.skip(f"{min(missing)}=... must be given")
    if "download" in cfg.data:
        cfg.data.download = False
    if "num_workers" in cfg.data:
        cfg.data.num_workers = 0
    try:
        data = assembly.datamodule(cfg)
        data.setup("test")
    except UserError as error:
        if isinstance(error.__cause__, MissingDatasetError):
            pytest.skip(f"data={name} is not in {cfg.data.get('root')}")
        broken(f"data={name} must be readable", str(error))
    if not isinstance(facts := getattr(data, "facts", None), Facts):
        pytest.skip(f"data={name} is another LightningDataModule, which has no facts")
    if Facts.from_state(yaml.safe_load(yaml.safe_dump(facts.to_state()))) != facts:
        broken(f"data={name} must have facts of plain values", str(facts))
    for split in sizes_of(data):
        loader: Any = getattr(data, f"{split}_dataloader")()
        inputs, targets = next(iter(loader))
        if tuple(inputs.shape[1:]) != tuple(facts.input_shape or ()):
            broken(
                f"data={name} must give inputs of the shape in its facts, {facts.input_shape}",
                f"a batch of {split} has shape {tuple(inputs.shape)}",
            )
        if facts.num_classes is not None and not 0 <= targets.min() <= targets.max() < facts.num_classes:
            broken(
                f"data={name} must have targets from 0 to {facts.num_classes - 1}",
                f"those of {split} are from {targets.min()} to {targets.max()}",
            )


def test_a_config_file_composes_and_passes_the_checks(choice_file: Path) -> None:
    """With the file as a choice, the configuration resolves and has valid values."""
    with must(f"conf/{choice_file} must compose: {override(choice_file)}"):
        cfg = compose(override(choice_file))
        for key in OmegaConf.missing_keys(cfg):  # the user must give it
            OmegaConf.update(cfg, key, "given")
        validate_values(cfg)
        OmegaConf.to_container(cfg, resolve=True)


def test_a_config_file_creates_what_it_names(part_file: Path) -> None:
    """Each class that the file names accepts its arguments."""
    assembly.silence_lightning()
    with must(f"conf/{part_file} must create what it names: {override(part_file)}"):
        _create_parts(part_file)


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
    for name, node in cfg.logger.items():  # not created: one needs a login, another one creates a database
        check_keys(node, f"logger.{name}")
