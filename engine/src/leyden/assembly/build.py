"""The parts of a run, built in one order: data, trainer, module; and checks before training."""

import inspect
import multiprocessing
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig, OmegaConf

from leyden.assembly.instantiate import check_lightning_kind, instantiate, target, user_errors
from leyden.assembly.lengths import num_batches, validates_at_epoch_end
from leyden.assembly.start_from import StartingPoint, once, starting_point
from leyden.assembly.task import new_module, taken_arguments, task
from leyden.assembly.trainer import RunTrainer, check_loggers, check_strategy, run_trainer
from leyden.base.errors import UserError
from leyden.base.terminal import one_line, warn
from leyden.callbacks.checkpoint import NO_VALIDATION
from leyden.config.checks import ACCELERATORS, objective_of, require_choice
from leyden.data.contract import (
    Facts,
    ModuleData,
    digests_of,
    divides_batches,
    facts_of,
    first_batches,
    has_split,
    sizes_of,
)
from leyden.data.splits import SplitDataModule
from leyden.exact.checkpoint import find_unreadable
from leyden.exact.hooks import make_resumable, seed_stages
from leyden.exact.lightning import num_ranks
from leyden.exact.random_state import seed_everything, seeded, undisturbed
from leyden.exact.stages import FollowsValidation
from leyden.queue import RequeueSignal
from leyden.run import lock
from leyden.run.directory import Run
from leyden.run.identity import key_of
from leyden.run.process import is_main_process
from leyden.tasks import Task


def datamodule(
    cfg: DictConfig, *, module: L.LightningModule | None = None
) -> L.LightningDataModule:
    """Return the data of a run, downloaded and set up for training.

    Args:
        cfg: The configuration.
        module: The module to train or evaluate, if it exists already; `data=module` uses its
            loaders.

    Raises:
        UserError: The data are not available, or `cfg.data` makes no LightningDataModule.
    """
    _fork_workers()
    with seeded(cfg.seed, "__init__"):
        data: L.LightningDataModule = instantiate(cfg.data, "data")
    check_lightning_kind(data, L.LightningDataModule, "data")
    set_batch_size(cfg, data)
    if isinstance(data, ModuleData) and module is None:
        attached: Any = new_module(cfg, Facts())
    else:
        attached = (module, None)
    with user_errors("data"):
        if isinstance(data, ModuleData):
            data.attach(*attached)
        seed_stages(data, cfg.seed)
        if is_overridden("prepare_data", data, L.LightningDataModule):
            # The lock makes the processes of a run call it one after another.
            # On Windows, each user has a temporary folder of their own.
            user = os.getuid() if hasattr(os, "getuid") else ""
            with lock.hold(Path(tempfile.gettempdir()) / f"leyden-{user}" / "prepare-data"):
                data.prepare_data()
        data.setup("fit")
        # Checkpoints hold the facts, from which evaluation builds the network.
        facts = facts_of(data)
        unreadable = find_unreadable({**facts.to_state(), **facts.extra})
        if unreadable:
            key, kind = unreadable
            raise UserError(
                f"data.facts: {key.removeprefix('extra.')} is a {kind}; facts must be tensors, "
                "arrays and plain values, which a checkpoint can hold"
            )
        if not divides_batches(data):
            make_resumable(data, cfg.seed)
    return data


def set_batch_size(cfg: DictConfig, data: L.LightningDataModule) -> None:
    """Give data the batch size of training for evaluation, too, if the task says `same_batch_size`.

    A line says so, also of data that have no such sizes.
    """
    if cfg.get("task") is None:  # the fork server of a sweep reads data alone
        return
    kind = target(cfg.task, "task")
    if not getattr(kind, "same_batch_size", False):
        return
    text = "must evaluate on batches of the size of training; the data choose their own"
    if isinstance(data, SplitDataModule):
        size, before = data.batch_size, data.eval_batch_size
        if before == size:
            return
        text = f"evaluates on batches of {size}, as in training, not of {before}"
        data.eval_batch_size = size
    if is_main_process():
        warn(f"data: {kind.__name__} {text} (same_batch_size)")


def _fork_workers() -> None:
    """Make DataLoader workers start by `fork`, the default on Linux before Python 3.14.

    The new default, `forkserver`, starts workers from a server process. If this process is killed,
    the workers stay alive: they only check that their parent, the server, is alive, and the server
    waits for them.
    """
    method = multiprocessing.get_start_method(allow_none=True)
    if sys.platform == "linux" and sys.version_info >= (3, 14) and method in (None, "forkserver"):
        multiprocessing.set_start_method("fork", force=True)


def check_world_size(data: L.LightningDataModule, world_size: int) -> None:
    """Check that each process gets a part of every training batch.

    Raises:
        UserError: A process would get an empty part.
    """
    if divides_batches(data):
        with user_errors("data"):
            data.check_world_size(world_size)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Build:
    """The parts of a run.

    Args:
        cfg: The configuration.
        data: The data, set up for training.
        digests: What identifies the data, see `digests_of`; empty in a dry build.
        trainer: The trainer, with its callbacks and loggers.
        module: The module to train.
    """

    cfg: DictConfig
    data: L.LightningDataModule
    digests: dict[str, str]
    trainer: RunTrainer
    module: L.LightningModule

    def check(self, *, test: bool) -> bool:
        """Check for settings with which the run would train and then end without a result.

        Args:
            test: True if the run is to evaluate on the test set at its end.

        Returns:
            Whether it will.

        Raises:
            UserError: Names the key.
        """
        test = test and self._can_be_tested()
        self._check_limits(test)
        checkpoint = self.trainer.checkpoint
        if checkpoint.every_n_steps and not checkpoint.within_epochs:
            raise UserError(
                f"callbacks.checkpoint.every_n_steps={checkpoint.every_n_steps}: must be null, "
                "since a run can't resume within an epoch of these data: their loader has no "
                "state_dict and is not a DataLoader"
            )
        if self.cfg.trainer.get("strategy") == "fsdp2":
            self._check_sharding()
        # Names that another LightningModule logs are unknown before it does.
        if isinstance(self.module, Task):
            self._check_monitors(self.module)
        return test

    def _check_limits(self, test: bool) -> None:
        trainer, data = self.trainer.trainer, self.data
        batches = num_batches(trainer, data)
        if batches < 1:
            raise UserError(
                f"trainer.limit_train_batches={trainer.limit_train_batches}: leaves no training "
                "batch"
            )
        if test:
            with user_errors("data"):
                data.setup("test")  # which must exist; nothing is evaluated
            check_world_size(data, num_ranks(trainer))
        validates = has_split(data, "val")
        limits = {"val": trainer.limit_val_batches, "test": trainer.limit_test_batches}
        for split, is_used in (("val", validates), ("test", test)):
            if is_used and limits[split] == 0:
                raise UserError(f"trainer.limit_{split}_batches=0: leaves no batch to evaluate on")
        validates &= is_overridden("validation_step", self.module)
        self.trainer.checkpoint.validates = validates and validates_at_epoch_end(trainer, batches)

    def _check_sharding(self) -> None:
        name = type(self.module).__name__
        lacking = ""
        if not is_overridden("configure_model", self.module):
            lacking = f"{name} has no configure_model, in which it shards its layers"
        elif not self.module.automatic_optimization:
            lacking = f"{name} steps its optimizers by hand"
        elif any(isinstance(each, WeightAveraging) for each in self.trainer.callbacks):
            lacking = "an average of weights needs them whole"
        if lacking:
            raise UserError(
                f"trainer.strategy=fsdp2: {lacking}; ddp keeps a whole copy per process"
            )

    def _check_monitors(self, module: Task) -> None:
        logged = module.names_in("val")
        aim = objective_of(self.cfg.objective)
        if aim and aim.metric in logged and not self.trainer.checkpoint.validates:
            raise UserError(f"objective.metric={aim.metric}: {NO_VALIDATION}")
        known = sorted(module.logged_on(sizes_of(self.data)))
        for callback in self.trainer.callbacks:
            if isinstance(callback, FollowsValidation):
                with user_errors("callbacks"):
                    callback.check_logged(logged)
            if isinstance(callback, EarlyStopping) and callback.monitor not in known:
                raise UserError(
                    f"callbacks: EarlyStopping has monitor={callback.monitor}; must be one of "
                    f"{', '.join(known)}"
                )

    def _can_be_tested(self) -> bool:
        """Return whether the run can be evaluated on the test set; a line says why not.

        Raises:
            UserError: It can't, and `test=true` asks for it.
        """
        lacking = ""
        if not has_split(self.data, "test"):
            lacking = "the data have no test_dataloader"
        elif not is_overridden("test_step", self.module):
            lacking = "the task has no test_step"
        if lacking and self.cfg.test != "auto":
            raise UserError(f"test={str(self.cfg.test).lower()}: {lacking}")
        if lacking and is_main_process():
            print(f"no evaluation on the test set: {lacking}")
        return not lacking


def build(
    cfg: DictConfig,
    run: Run,
    beginning: StartingPoint,
    *,
    requeue_signal: RequeueSignal,
    pictures: bool,
    read: dict[str, Any] | None = None,
    num_processes: int | None = None,
) -> Build:
    """Build the parts of a run that will train.

    Args:
        cfg: The configuration.
        run: The run directory, which callbacks and loggers write to.
        beginning: Where the run starts from.
        requeue_signal: Receiver of the scheduler's signal.
        pictures: True if callbacks draw at the end of the run.
        read: What earlier checks have read, to which this call adds; None to read anew.
        num_processes: Number of processes that the run will have; None for that of the trainer.

    Raises:
        UserError: A part is wrong, or the run was trained on other data.
    """
    check_strategy(cfg)
    seed_everything(cfg.seed, "data")
    data = datamodule(cfg) if read is None else _read_once(cfg, read)
    with user_errors("data"):
        digests = digests_of(data)
        if cfg.exact != "off":
            digests |= first_batches(data, "val")
    beginning.check_data(digests)  # first, since loggers delete points
    # Before the task, whose schedule needs the number of steps.
    trainer = run_trainer(
        cfg,
        run.directory,
        data,
        beginning.content,
        requeue_signal=requeue_signal,
        pictures=pictures,
    )
    num_processes = num_processes or num_ranks(trainer.trainer)
    check_world_size(data, num_processes)
    beginning.check_processes(num_processes)
    # Seed again, since the callbacks may have drawn random numbers. An evaluation also seeds at
    # this point, but creates no callbacks.
    seed_everything(cfg.seed, "task")
    return Build(cfg, data, digests, trainer, task(cfg, data, trainer.trainer))


def dry_build(
    cfg: DictConfig,
    read: dict[str, Any] | None = None,
    *,
    overrides: Sequence[str] = (),
    test: bool = False,
) -> None:
    """Check a configuration by building its run, untrained, on the CPU in a temporary folder.

    This machine, such as a cluster's login node, may lack the accelerator and the devices of the
    run.

    Args:
        cfg: The configuration.
        read: Data sets and a fork's checkpoint of earlier checks, to which this call adds; None
            without any.
        overrides: The user's overrides, or those that a sweep tries.
        test: True if the run evaluates on the test set.

    Raises:
        UserError: Names the part and the mistake.
    """
    require_choice(cfg, "trainer.accelerator", *ACCELERATORS)
    check_strategy(cfg)
    check_overrides(cfg, overrides)
    check_loggers(cfg)
    on_cpu = cfg.copy()
    on_cpu.trainer.update({"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"})
    if "virtual_ranks" in on_cpu.trainer:
        on_cpu.trainer.virtual_ranks = None
    on_cpu.logger = {}  # one may write elsewhere, as to a server
    with undisturbed(), tempfile.TemporaryDirectory() as folder:
        beginning = starting_point(cfg, Run(cfg.run_dir, trust=cfg.trust), read)
        num_processes = beginning.num_processes
        if cfg.trainer.get("strategy") == "elastic":
            num_processes = cfg.trainer.virtual_ranks
        elif isinstance(cfg.trainer.devices, int):  # the run resolves "auto"
            num_processes = cfg.trainer.devices * cfg.trainer.num_nodes
        parts = build(
            on_cpu,
            Run(folder),
            beginning,
            requeue_signal=RequeueSignal(0),
            pictures=True,
            read=read,
            num_processes=num_processes,
        )
        replace(parts, cfg=cfg).check(test=test)
        beginning.load(parts.module, parts.data)


def check_overrides(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Check that the task takes the network and the optimizer that overrides choose or set.

    `overrides` are those of the user or of a sweep only, since `conf/train.yaml` and recipes always
    choose both.

    Raises:
        UserError: An override would have no effect.
    """
    kind = target(cfg.task, "task")
    if inspect.isclass(kind) and not issubclass(kind, L.LightningModule):
        return  # reported when the task is created
    taken = taken_arguments(cfg, Facts())
    for part, argument in (("optimizer", "optimizer"), ("model", "network")):
        if argument in taken:
            continue
        for override in overrides:
            if re.split("[./@]", key_of(override))[0] == part:
                raise UserError(
                    f"{one_line(override)}: has no effect, as {kind.__name__} takes no {argument}; "
                    "set its own arguments by task.ARG=VALUE"
                )


def _read_once(cfg: DictConfig, read: dict[str, Any]) -> L.LightningDataModule:
    """Return a configuration's data, read once for all with the same settings of data and task."""
    kind = target(cfg.data, "data")
    if inspect.isclass(kind) and issubclass(kind, ModuleData):  # its loaders are of one module
        return datamodule(cfg)
    settings = OmegaConf.to_container(cfg.data, resolve=True)
    key = repr((settings, cfg.seed, cfg.task.get("_target_")))
    data: L.LightningDataModule = once(read, key, lambda: datamodule(cfg))
    return data
