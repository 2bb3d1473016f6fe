"""What is wrong with a configuration, found before it trains."""

import contextlib
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig

from leyden.assembly.data import check_world_size, datamodule, resumes_within_epoch
from leyden.assembly.instantiate import check_extra, check_keys, instantiate, switched_on, user_errors
from leyden.assembly.schedule import limited, max_batches, num_batches, validates
from leyden.assembly.start_from import check_fork, check_parent
from leyden.assembly.task import task
from leyden.assembly.trainer import callbacks_of, check_strategy, plain_trainer
from leyden.callbacks.checkpoint import NO_VALIDATION, RunCheckpoint
from leyden.callbacks.logged_metrics import FollowsValidation
from leyden.config.checks import require_choice
from leyden.config.errors import UserError
from leyden.config.objective import objectives
from leyden.config.schema import ACCELERATORS
from leyden.data.contract import ModuleData, divides_batches, facts_of, has_split, sizes_of
from leyden.run.process import is_main_process
from leyden.tasks.task import Task


def dry_build(cfg: DictConfig, facts: dict[str, Any], *, test: bool = False) -> None:
    """Find what is wrong with a configuration, short of training; `facts` keeps what was read for the next call.

    Args:
        cfg: The configuration.
        facts: What was read for another one; what is read now is added.
        test: Whether the run is to evaluate on the test set.

    Raises:
        UserError: Names the part and the mistake.
    """
    require_choice(cfg, "trainer.accelerator", *ACCELERATORS)
    check_strategy(cfg)
    data = _data(cfg, facts)
    # The machine that checks need not be the one that trains: on a CPU, as one process.
    alone = cfg.copy()
    alone.trainer.update({"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"})
    callbacks, checkpoint = callbacks_of(cfg, facts_of(data))
    made = plain_trainer(alone, callbacks=callbacks, logger=False, default_root_dir=str(cfg.outputs))
    devices = cfg.trainer.devices if isinstance(cfg.trainer.devices, int) else 1  # else known in the run
    check_world_size(data, devices * cfg.trainer.num_nodes)
    module = _task(cfg, data, made)
    check_run(cfg, module, data, made, checkpoint, test=evaluates(cfg, module, data, test=test))
    check_parent(cfg, module, facts)
    check_fork(cfg, module, data, facts)
    for name, node in switched_on(cfg.logger):
        check_extra(node, f"logger.{name}")
        check_keys(node, f"logger.{name}")


def evaluates(cfg: DictConfig, module: L.LightningModule, data: L.LightningDataModule, *, test: bool) -> bool:
    """Whether a run that is to evaluate on the test set can: if not, and `test=true` does not ask for it, a line says so.

    Raises:
        UserError: It is asked for.
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


def _task(cfg: DictConfig, data: L.LightningDataModule, trainer: L.Trainer) -> L.LightningModule:
    """The task, without memory or random numbers; on the CPU where its code asks for values, which are not known so.

    Raises:
        UserError: A part is wrong; or an error of somebody's code, as in training.
    """
    if not isinstance(data, ModuleData):  # which has made it
        with contextlib.suppress(Exception), torch.device("meta"):
            return task(cfg, data, trainer)
    return task(cfg, data, trainer)  # a mistake is found again, by the error that training would show


def _data(cfg: DictConfig, facts: dict[str, Any]) -> L.LightningDataModule:
    """The data, read once for all batch sizes and seeds: they change none that is checked."""
    here = instantiate(cfg.data, "data")
    if isinstance(here, ModuleData):  # of a module of its own
        return datamodule(cfg)
    same: tuple[str, ...] = ("batch_size", "eval_batch_size", "augment") if divides_batches(here) else ()
    if same and cfg.fork is None:  # the facts of a fork must be those of its parent, to the last number
        same += ("seed", "split_seed", "fold")
    key = str({name: value for name, value in cfg.data.items() if name not in same})
    if key not in facts:
        facts[key] = datamodule(cfg)
    data: L.LightningDataModule = facts[key]
    if divides_batches(data):
        data.batch_size, data.eval_batch_size = here.batch_size, here.eval_batch_size  # type: ignore[attr-defined]
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
    """Find what would end a run without a result, after it has trained; `test`: whether it evaluates in the end.

    Raises:
        UserError: Names the key.
    """
    batches, limit = num_batches(trainer, data), trainer.limit_val_batches
    if batches < 1:
        raise UserError(f"trainer.limit_train_batches={trainer.limit_train_batches}: leaves no batch of training")
    if has_split(data, "val") and (whole := max_batches(data.val_dataloader())) and limited(whole, limit) < 1:
        raise UserError(f"trainer.limit_val_batches={limit}: leaves none of {whole:.0f} batches of validation")
    if test:
        with user_errors("data"):
            data.setup("test")  # it is there, and is counted; nothing is evaluated on it
    limit = trainer.limit_test_batches
    if test and isinstance(limit, float) and limited(whole := max_batches(data.test_dataloader()), limit) < 1:
        raise UserError(f"trainer.limit_test_batches={limit}: leaves none of {whole:.0f} batches of the test set")
    aim = next(iter(objectives(cfg.objective)), None)
    checkpoint.validates = (
        has_split(data, "val") and is_overridden("validation_step", module) and validates(trainer, batches)
    )
    if aim and isinstance(module, Task) and aim.metric in module.names_in("val") and not checkpoint.validates:
        raise UserError(f"objective.metric={aim.metric}: {NO_VALIDATION}")
    if (checkpoint.metric, checkpoint.mode) != ((aim.metric, aim.mode) if aim else (None, None)):
        raise UserError(
            f"callbacks.checkpoint.metric={checkpoint.metric}, mode={checkpoint.mode}: must be those of the objective; "
            "set that"
        )
    if checkpoint.every_n_steps and not resumes_within_epoch(data):
        raise UserError(
            f"callbacks.checkpoint.every_n_steps={checkpoint.every_n_steps}: a run can't go on within an epoch of these data, "
            "whose loader has no state_dict and is no DataLoader; leave it null"
        )
    if not isinstance(module, Task):
        return  # what it logs is known when it does
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
