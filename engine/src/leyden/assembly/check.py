"""Checks of a configuration and of a run's parts, made before training."""

import contextlib
import inspect
import re
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig

from leyden.assembly.data import attach_trainer, check_world_size, datamodule, resumes_within_epoch
from leyden.assembly.instantiate import check_extra, check_keys, instantiate, switched_on, target, user_errors
from leyden.assembly.schedule import apply_limit, max_batches, num_batches, validates_at_epoch_end
from leyden.assembly.start_from import check_fork, check_parent
from leyden.assembly.task import taken_arguments, task
from leyden.assembly.trainer import callbacks_of, check_strategy, plain_trainer
from leyden.callbacks.checkpoint import NO_VALIDATION, RunCheckpoint
from leyden.config.checks import require_choice
from leyden.config.errors import UserError
from leyden.config.objective import objectives
from leyden.config.schema import ACCELERATORS
from leyden.config.terminal import one_line
from leyden.data.contract import ModuleData, facts_of, sizes_of
from leyden.data.facts import Facts
from leyden.exact.first_batches import divides_batches, has_split
from leyden.exact.logged_metrics import FollowsValidation
from leyden.run.fork import key_of
from leyden.run.process import is_main_process
from leyden.tasks.task import Task


def dry_build(cfg: DictConfig, facts: dict[str, Any], *, overrides: Sequence[str] = (), test: bool = False) -> None:
    """Check a configuration by building all parts of its run, without training.

    Args:
        cfg: The configuration.
        facts: A cache of data sets and parents for checks of several configurations; this call adds to it.
        overrides: The user's overrides, or those that a sweep tries.
        test: True if the run evaluates on the test set.

    Raises:
        UserError: Names the part and the mistake.
    """
    require_choice(cfg, "trainer.accelerator", *ACCELERATORS)
    check_strategy(cfg)
    check_overrides(cfg, overrides)
    data = _cached_data(cfg, facts)
    # This machine may lack the accelerator or the devices that the run will train on: check on a CPU, in one
    # process.
    on_cpu = cfg.copy()
    on_cpu.trainer.update({"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"})
    callbacks, checkpoint = callbacks_of(cfg, facts_of(data))
    trainer = plain_trainer(on_cpu, callbacks=callbacks, logger=False, default_root_dir=str(cfg.outputs))
    attach_trainer(data, trainer)
    devices = cfg.trainer.devices if isinstance(cfg.trainer.devices, int) else 1  # the run resolves "auto"
    check_world_size(data, devices * cfg.trainer.num_nodes)
    module = _build_task(cfg, data, trainer)
    check_run(cfg, module, data, trainer, checkpoint, test=evaluates_test_set(cfg, module, data, test=test))
    check_parent(cfg, module, facts)
    check_fork(cfg, module, data, facts)
    for name, node in switched_on(cfg.logger):
        check_extra(node, f"logger.{name}")
        check_keys(node, f"logger.{name}")


def check_overrides(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Check that the task takes the network and the optimizer that overrides choose or set.

    `overrides` are those of the user or of a sweep only, since `conf/train.yaml` and recipes always choose both.

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
                    f"{one_line(override)}: has no effect, as {kind.__name__} takes no {argument}; set its own arguments by "
                    "task.ARG=VALUE"
                )


def evaluates_test_set(
    cfg: DictConfig, module: L.LightningModule, data: L.LightningDataModule, *, test: bool
) -> bool:
    """Return whether a run can evaluate on the test set, if `test` asks for it.

    With `test=auto`, a line is printed if the test set or the task's `test_step` is missing.

    Raises:
        UserError: The run can't be evaluated, and `test=true` asks for it.
    """
    if not test:
        return False
    lacking = "" if has_split(data, "test") else "the data have no test_dataloader"
    lacking = lacking or ("" if is_overridden("test_step", module) else "the task has no test_step")
    if lacking and cfg.test != "auto":
        raise UserError(f"test={str(cfg.test).lower()}: {lacking}")
    if lacking and is_main_process():
        print(f"no evaluation on the test set: {lacking}")
    return not lacking


def _build_task(cfg: DictConfig, data: L.LightningDataModule, trainer: L.Trainer) -> L.LightningModule:
    """Build the task on PyTorch's meta device, which takes no memory and draws no random numbers.

    A task whose code needs values of tensors, which the meta device does not have, is built on the CPU.

    Raises:
        UserError: A part is wrong. Errors in the user's code are raised as in training.
    """
    if not isinstance(data, ModuleData):  # ModuleData has built its task already
        with contextlib.suppress(Exception), torch.device("meta"):
            return task(cfg, data, trainer)
    return task(cfg, data, trainer)  # raises the error that training would raise


def _cached_data(cfg: DictConfig, facts: dict[str, Any]) -> L.LightningDataModule:
    """Return the data, read once for configurations that differ only in batch sizes and seeds."""
    new = instantiate(cfg.data, "data")
    if isinstance(new, ModuleData):  # depends on the module, so it can't be shared
        return datamodule(cfg)
    ignored: tuple[str, ...] = ("batch_size", "eval_batch_size", "augment") if divides_batches(new) else ()
    if ignored and cfg.fork is None:  # a fork's facts must equal its parent's exactly
        ignored += ("seed", "split_seed", "fold")
    key = str({name: value for name, value in cfg.data.items() if name not in ignored})
    if key not in facts:
        facts[key] = datamodule(cfg)
    data: L.LightningDataModule = facts[key]
    if divides_batches(data):
        data.batch_size, data.eval_batch_size = new.batch_size, new.eval_batch_size  # type: ignore[attr-defined]
    return data


def check_run(
    cfg: DictConfig,
    module: L.LightningModule,
    data: L.LightningDataModule,
    trainer: L.Trainer,
    checkpoint: RunCheckpoint,
    *,
    test: bool,
) -> None:
    """Check for settings with which a run would train and then end without a result.

    `test` is True if the run evaluates on the test set at its end.

    Raises:
        UserError: Names the key.
    """
    batches, limit = num_batches(trainer, data), trainer.limit_val_batches
    if batches < 1:
        raise UserError(f"trainer.limit_train_batches={trainer.limit_train_batches}: leaves no training batch")
    if has_split(data, "val") and (whole := max_batches(data.val_dataloader())) and apply_limit(whole, limit) < 1:
        raise UserError(f"trainer.limit_val_batches={limit}: leaves none of the {whole:.0f} validation batches")
    if test:
        with user_errors("data"):
            data.setup("test")  # checks that the test set exists and counts it; nothing is evaluated
    limit = trainer.limit_test_batches
    if test and isinstance(limit, float) and apply_limit(whole := max_batches(data.test_dataloader()), limit) < 1:
        raise UserError(f"trainer.limit_test_batches={limit}: leaves none of the {whole:.0f} test batches")
    aim = next(iter(objectives(cfg.objective)), None)
    checkpoint.validates = (
        has_split(data, "val")
        and is_overridden("validation_step", module)
        and validates_at_epoch_end(trainer, batches)
    )
    if aim and isinstance(module, Task) and aim.metric in module.names_in("val") and not checkpoint.validates:
        raise UserError(f"objective.metric={aim.metric}: {NO_VALIDATION}")
    if (checkpoint.metric, checkpoint.mode) != ((aim.metric, aim.mode) if aim else (None, None)):
        raise UserError(
            f"callbacks.checkpoint.metric={checkpoint.metric}, mode={checkpoint.mode}: must be those of the objective; "
            "set objective.metric and objective.mode instead"
        )
    if checkpoint.every_n_steps and not resumes_within_epoch(data):
        raise UserError(
            f"callbacks.checkpoint.every_n_steps={checkpoint.every_n_steps}: must be null, since a run can't resume within "
            "an epoch of these data: their loader has no state_dict and is not a DataLoader"
        )
    if not isinstance(module, Task):
        return  # the names that another LightningModule logs are unknown before it logs them
    known = module.logged_on(sizes_of(data))
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, FollowsValidation):
            with user_errors("callbacks"):
                callback.check_logged(module.names_in("val"))
        monitor = getattr(callback, "monitor", None)
        if isinstance(callback, EarlyStopping) and monitor not in known:
            raise UserError(
                f"callbacks: EarlyStopping has monitor={monitor}; must be one of {', '.join(sorted(known))}"
            )
