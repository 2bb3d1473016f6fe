"""Tests of what every network, task, dataset and config file of a project must do.

They are parametrized by the files in `conf/`, so that a new file is tested without a new test.
Networks and tasks are tested with made-up data of each kind.
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

from leyden import assembly
from leyden.assembly.instantiate import check_keys, target
from leyden.assembly.optimizers import ScheduleFactory, make_optimizer
from leyden.assembly.task import check_step
from leyden.assembly.trainer import callbacks_of
from leyden.base.errors import UserError, as_line
from leyden.base.paths import conf, conf_files
from leyden.config.checks import PARTS, validate_values
from leyden.config.hydra import initialized, without_hydra
from leyden.data.contract import TARGET_KINDS, Facts, has_split, sizes_of
from leyden.data.transforms import Normalize
from leyden.files import MissingDatasetError
from leyden.tasks import Task
from leyden.testing import NO_CLASS

NUM_SAMPLES = 10  # in a batch
KINDS = (*TARGET_KINDS, "reconstruction")  # of tasks that the data made here are for
SHAPES = ((1, 28, 28), (3, 32, 32), (4,))


Batch = tuple[Tensor, Tensor]


class Case(NamedTuple):
    """A task on made-up data.

    Args:
        task: Name of the task's config file.
        facts: Facts of the data.
        batch: Inputs and targets, as a data loader would return them.
    """

    task: str
    facts: Facts
    batch: Batch

    def __repr__(self) -> str:
        return f"{self.task} on samples of shape {self.facts.input_shape}"


def compose(*overrides: str) -> DictConfig:
    """Return the configuration of a training run with these overrides."""
    return without_hydra(_composed(*overrides))


@functools.cache
def _composed(*overrides: str) -> DictConfig:
    with initialized():
        return hydra.compose("train", overrides=[*overrides], return_hydra_config=True)


def override(file: Path) -> str:
    """Return the override that chooses a config file, with a plus if its group has no default.

    Args:
        file: Path relative to `conf/`.
    """
    group = file.parent.as_posix()
    cfg = _composed()
    has_default = group in cfg.hydra.runtime.choices
    if has_default:
        return f"{group}={file.stem}"
    return f"+{group}={file.stem}"


def task_names() -> list[str]:
    """Return the names of all tasks but `own`, classification first."""
    names = {path.stem for _, path in conf_files("task/*.yaml")}
    return ["classification", *sorted(names - {"classification", "own"})]


def cases_of(task: str) -> Iterator[Case]:
    """Yield data of each kind for a task: classes, numbers, tokens and the next ones."""
    generator = torch.Generator().manual_seed(0)
    names = tuple("abcdefg")
    for shape in SHAPES:
        inputs = torch.rand(NUM_SAMPLES, *shape, generator=generator)
        scale = Normalize.unit(shape[0])
        facts = Facts(shape, len(names), names, scale.mean, scale.std)
        labels = torch.arange(NUM_SAMPLES) % len(names)
        yield Case(task, facts, (inputs, labels))
        facts = Facts(shape, target_names=("height", "width"))
        yield Case(task, facts, (inputs, inputs.flatten(1)[:, :2]))
    facts = Facts((8,), vocabulary=tuple("abcde"))
    tokens = torch.arange(NUM_SAMPLES * 8).reshape(NUM_SAMPLES, 8) % 5
    yield Case(task, facts, (tokens, (tokens + 1) % 5))


def create(model: str, case: Case, *overrides: str, seed: int = 0) -> Task:
    """Return the task of a case with a network.

    Args:
        model: Name of the network's config file.
        case: The task and its data.
        overrides: Further overrides of the configuration.
        seed: Seed of the initial weights.
    """
    torch.manual_seed(seed)
    cfg = compose(f"model={model}", f"task={case.task}", *overrides)
    return cast(Task, assembly.task_module(cfg, case.facts))


def step(module: Task, batch: Batch, optimizer: torch.optim.Optimizer) -> Tensor:
    """Train for one step and return the loss before it."""
    loss = module.step(batch).loss
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


@functools.cache
def suited_cases(model: str) -> list[Case]:
    """Return the cases that a network is for: all data of the first task that accepts it.

    The test fails if there is none.
    """
    reasons: list[str] = []
    for task in filter(is_task, task_names()):
        against = [(case, reason_against(model, case)) for case in cases_of(task)]
        accepted = [case for case, reason in against if not reason]
        if accepted:
            return accepted
        reasons += [reason for _, reason in against]
    for _, path in conf_files("task/*.yaml"):
        if path.is_relative_to(conf()) and not is_task(path.stem):
            pytest.skip(f"model={model} may be for task={path.stem}, on other data than these")
    tasks = ", ".join(task_names())
    lines = "\n  ".join(dict.fromkeys(reasons))
    pytest.fail(f"model={model} trains in none of the tasks {tasks}\n  {lines}", pytrace=False)


def suited_task(model_file: Path) -> tuple[str, Case, Task]:
    """Return a network's name, its first case, and the case's task with the network."""
    model = model_file.stem
    case = suited_cases(model)[0]
    return model, case, create(model, case)


def is_task(name: str) -> bool:
    """Return whether a task is a `leyden.tasks.Task` of one of `KINDS`, and not, say, of boxes."""
    cfg = compose(f"task={name}")
    kind = target(cfg.task, "task")
    if not isinstance(kind, type) or not issubclass(kind, Task):
        return False
    return kind.kind in KINDS


def reason_against(model: str, case: Case) -> str:
    """Return why a network does not train on a case; empty if it does."""
    try:
        module = create(model, case)
        check_step(module, case.facts)
        loss = module.step(case.batch).loss
    except Exception as error:  # a researcher's network raises anything
        return f"{case}: {as_line(error)}"
    if loss.isfinite():
        return ""
    return f"{case}: the loss is {loss}"


# Facts of no existing data: every callback finds the facts that it needs.
FACTS = Facts(
    input_shape=(1, 28, 28),
    num_classes=10,
    class_names=tuple("0123456789"),
    mean=(0.0,),
    std=(1.0,),
)
ALL_FACTS = replace(FACTS, target_names=("height",), vocabulary=("a", "b"))
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
    wanted = (0.4 if module.kind == "classes" else 0.8) * first
    for _ in range(MAX_STEPS):
        last = step(module, case.batch, optimizer)
        if last < wanted:
            return
    pytest.fail(
        f"the loss fell from {first:.3g} to {last:.3g} only; is all of the network connected?",
        pytrace=False,
    )


def test_a_networks_state_dict_is_complete(model_file: Path) -> None:
    """A network with the weights of another one computes the same."""
    model, case, module = suited_task(model_file)
    other = create(model, case, seed=1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.001)
    step(module, case.batch, optimizer)
    file = io.BytesIO()
    torch.save(module.network.state_dict(), file)
    file.seek(0)
    weights = torch.load(file, weights_only=True)
    other.network.load_state_dict(weights)
    module.eval()
    other.eval()
    expected = module.step(case.batch).predictions
    found = other.step(case.batch).predictions
    assert torch.equal(expected, found), (
        "it has state that is no parameter or buffer; use register_buffer"
    )


def test_a_network_can_be_exported(model_file: Path) -> None:
    """`torch.export` traces it for any number of samples, as `leyden export` does."""
    _, case, module = suited_task(model_file)
    network = module.network.eval()
    inputs, _ = case.batch
    shape = {0: torch.export.Dim("N")}
    two = (inputs[:2],)
    program = torch.export.export(network, two, dynamic_shapes=(shape,), strict=False)
    found = program.module()(inputs)
    torch.testing.assert_close(found, network(inputs))


def test_a_task_trains_a_network(task_file: Path) -> None:
    """With a network of `conf/model/`, on some kind of data, it has a finite loss."""
    task = task_file.stem
    if not is_task(task):
        pytest.skip(f"task={task} is of another kind, on data that are not made here")
    lines = [f"task={task} trains no network"]
    for file, _ in sorted(conf_files("model/*.yaml")):
        for case in cases_of(task):
            reason = reason_against(file.stem, case)
            if not reason:
                return
            lines.append(f"model={file.stem}, {reason}")
    reasons = "\n  ".join(dict.fromkeys(lines))
    pytest.fail(reasons, pytrace=False)


def test_data_are_as_their_facts_say(data_file: Path) -> None:
    """The first batch of each split has the shape and the targets that the facts promise."""
    name = data_file.stem
    cfg = compose(f"data={name}")
    missing = OmegaConf.missing_keys(cfg.data)
    if missing:
        pytest.skip(f"{min(missing)}=... must be given")
    if "download" in cfg.data:
        cfg.data.download = False
    if "num_workers" in cfg.data:
        cfg.data.num_workers = 0
    try:
        data = assembly.datamodule(cfg)
        if has_split(data, "test"):
            data.setup("test")
    except UserError as error:
        if isinstance(error.__cause__, MissingDatasetError):
            pytest.skip(f"data={name} is not in {cfg.data.get('root')}")
        raise
    facts = getattr(data, "facts", None)
    if not isinstance(facts, Facts):
        pytest.skip(f"data={name} is another LightningDataModule, which has no facts")
    state = yaml.safe_load(yaml.safe_dump(facts.to_state()))
    assert Facts.from_state(state) == facts, "they must be plain values"
    if facts.input_shape is None:
        return
    for split in sizes_of(data):
        loader: Any = getattr(data, f"{split}_dataloader")()
        inputs, targets = next(iter(loader))
        shape = tuple(inputs.shape[1:])
        assert shape == facts.input_shape, f"batches of {split} have another shape"
        if facts.num_classes is not None:
            are_known = 0 <= targets.min() <= targets.max() < facts.num_classes
            assert are_known, f"{split} has other classes"


def test_a_config_file_composes_and_creates_what_it_names(choice_file: Path) -> None:
    """With the file chosen, values are valid, and each class accepts its arguments."""
    cfg = compose(override(choice_file))
    for key in OmegaConf.missing_keys(cfg):  # the user must give it
        OmegaConf.update(cfg, key, "given")
    validate_values(cfg)
    OmegaConf.to_container(cfg, resolve=True)
    is_built = choice_file.parts[0] in PARTS - {"data", "cluster"}
    if is_built and choice_file.stem not in NO_CLASS:
        assembly.silence_lightning()
        _create_parts(choice_file)


def _create_parts(file: Path) -> None:
    cfg = compose(override(file))
    facts = FACTS
    if file.parts[0] == "model":
        case = suited_cases(file.stem)[0]
        facts = case.facts
        cfg.task = compose(f"task={case.task}").task
    module = assembly.task_module(cfg, facts)
    build = make_optimizer(cfg.optimizer)
    optimizer = build(module.named_parameters())
    if cfg.scheduler:
        schedule = ScheduleFactory(cfg.scheduler)
        schedule.num_steps = 10
        schedule.check(optimizer)
    callbacks, _ = callbacks_of(cfg, ALL_FACTS)
    cfg.trainer.accelerator = "cpu"
    assembly.plain_trainer(cfg, callbacks, logger=False)
    # Not created: one needs a login, another one creates a database.
    for name, node in cfg.logger.items():
        check_keys(node, f"logger.{name}")
