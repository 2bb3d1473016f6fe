"""A trained run, put to use: its network, its data, and a trainer that evaluates it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import OmegaConf

from leyden.assembly.data import check_world_size, datamodule
from leyden.assembly.instantiate import instantiate
from leyden.assembly.schedule import partial_test_message
from leyden.assembly.start_from import kept_facts, read_checkpoint
from leyden.assembly.task import task_module
from leyden.assembly.trainer import plain_trainer, silence_lightning
from leyden.assembly.trust import trusted_config
from leyden.callbacks.checkpoint import load_weights
from leyden.callbacks.run_state import restore_module
from leyden.config.errors import UserError
from leyden.config.paths import ROOT
from leyden.config.schema import ACCELERATORS
from leyden.config.terminal import warn
from leyden.data.contract import facts_of, has_split
from leyden.data.facts import Facts
from leyden.data.random_state import seeded
from leyden.run.directory import Run
from leyden.run.evaluations import check_test_evaluations, record_test_evaluation
from leyden.tasks.task import Task


def trained_module(run: Run, checkpoint: Path) -> tuple[L.LightningModule, Facts]:
    """What a run has learned, in evaluation mode, on the CPU; and the facts of its data, which need not be there.

    Raises:
        UserError: The configuration or the checkpoint is refused, or they don't fit each other.
    """
    cfg = trusted_config(run)
    content = read_checkpoint(checkpoint)
    facts = kept_facts(content, checkpoint)
    L.seed_everything(
        cfg.seed, verbose=False
    )  # what a constructor draws and keeps in an attribute is in no checkpoint
    module = task_module(cfg, facts)
    try:
        load_weights(module, content)
        restore_module(module, content)
    except Exception as error:  # it comes from anywhere, and can be wrong in any way
        why = " ".join(str(error).split())
        raise UserError(f"{checkpoint}: does not fit the network ({type(error).__name__}: {why})") from error
    return module.eval(), facts


def trained_task(run: Run, checkpoint: Path, *kinds: str, accelerator: str | None = "cpu") -> tuple[Task, Facts]:
    """The same, of a run that has learned a task of one of these kinds; without them, any `Task`.

    Args:
        run: The run.
        checkpoint: One of its checkpoints.
        kinds: As `Task.kind` has them.
        accelerator: To whose device the module is moved; None: the run's.

    Raises:
        UserError: As above; or the run has learned something else, or there is no such accelerator.
    """
    device = evaluation_trainer(run, accelerator).strategy.root_device
    module, facts = trained_module(run, checkpoint)
    return check_kind(run, module.to(device), *kinds), facts


def check_kind(run: Run, module: L.LightningModule, *kinds: str) -> Task:
    """What a run has learned, which must be a task of one of these kinds; without them, any `Task`.

    Raises:
        UserError: It is not.
    """
    if not isinstance(module, Task) or (kinds and module.kind not in kinds):
        what = f"a task of the kind {' or '.join(kinds)}" if kinds else "a Task of leyden.tasks"
        raise UserError(f"{run.directory}: has learned {type(module).__name__}; this is for {what}")
    return module


def image_reader(run: Run) -> Callable[[Path], torch.Tensor] | None:
    """How the data of a run read a file, where they are files: their `read_image`, so that both see the same.

    It gives pixels, shape (C, H, W), uint8. None: their images are no files.
    """
    data = instantiate(trusted_config(run).data, "data")
    dataset = getattr(data, "dataset", data)
    return getattr(getattr(dataset, "func", dataset), "read_image", None)


def trained_data(
    run: Run, facts: Facts, root: str | None, world_size: int, module: L.LightningModule
) -> L.LightningDataModule:
    """The data set that a run was trained on; with `data=module` that of the module.

    It is read from `root`, if that is given, else from where it lay in training. It is fetched to `root` or to the
    project's own folder only, and prepared (`prepare_data`, which can write) in these only: a run directory of somebody else's decides nothing
    about other places.

    Raises:
        UserError: It can't be had, or is another one than `facts` tell of.
    """
    cfg = trusted_config(run)
    own = str(ROOT / "data")
    there = root or str(cfg.data.get("root") or own)
    given: dict[str, Any] = {"root": there, "download": there == own or root is not None}
    cfg.data.update({key: value for key, value in given.items() if key in cfg.data})
    try:
        data = datamodule(cfg, prepare="root" not in cfg.data or given["download"], module=module)
        check_world_size(data, world_size)
    except UserError as error:
        raise UserError(f"{error}; data_root=FOLDER tells where the data set is, or is to be") from error
    if facts_of(data) != facts:
        raise UserError(f"{there}: not the data set that {run.directory} was trained on")
    return data


def check_accelerator(run: Run, asked: str | None) -> str:
    """Return the accelerator to compute by: the one that is asked for, else the run's; `auto` where this machine lacks that.

    Raises:
        UserError: There is none of the one that is asked for.
    """
    recorded = (run.config.get("trainer") or {}).get("accelerator")
    chosen = asked or (recorded if recorded in ACCELERATORS else "auto")
    if chosen not in ACCELERATORS:
        raise UserError(f"accelerator={asked}: must be one of {', '.join(ACCELERATORS)}")
    try:
        L.Trainer(
            accelerator=chosen, devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
    except Exception as error:  # whatever Lightning or a driver raises
        why = f"this machine has none that PyTorch can use ({' '.join(str(error).split())})"
        if asked:
            raise UserError(f"accelerator={asked}: {why}; choose auto or cpu") from error
        warn(f"{run.directory} was trained with trainer.accelerator={chosen}: {why}; auto takes its place")
        return "auto"
    return chosen


def evaluation_trainer(run: Run, accelerator: str | None) -> L.Trainer:
    """A trainer that evaluates a run on one device, and writes nothing.

    Raises:
        UserError: The run's configuration is refused, or there is no such accelerator.
    """
    silence_lightning()
    accelerator = check_accelerator(run, accelerator)
    options: Any = OmegaConf.to_container(trusted_config(run).trainer)
    cfg = OmegaConf.create(
        {"trainer": {"_target_": "lightning.pytorch.Trainer", **options, "accelerator": accelerator}}
    )
    return plain_trainer(cfg, callbacks=[], logger=False, enable_checkpointing=False, devices=1)


def evaluate(
    run: Run, checkpoint: Path, *, outputs: str, data_root: str | None, accelerator: str | None
) -> tuple[dict[str, float], int | str]:
    """Evaluate a checkpoint on the test set, and record that, unless the run's trainer takes a part of the set alone.

    Args:
        run: The run.
        checkpoint: One of its checkpoints.
        outputs: Folder of the list of test evaluations.
        data_root: Where the data set lies, if not where it was in training.
        accelerator: As Lightning names it; None: the run's.

    Returns:
        The metrics, and the number of the experiment's test evaluations, or why this is none.

    Raises:
        UserError: The configuration or the checkpoint is refused, or the data can't be had.
    """
    trainer = evaluation_trainer(run, accelerator)
    module, facts = trained_module(run, checkpoint)
    if not is_overridden("test_step", module):
        raise UserError(f"{run.directory}: {type(module).__name__} has no test_step")
    data = trained_data(run, facts, data_root, trainer.world_size, module)
    if not has_split(data, "test"):
        raise UserError(f"{run.directory}: {type(data).__name__} has no test_dataloader")
    check_test_evaluations(outputs)
    with seeded(trusted_config(run).seed, "test"):  # as the run's own evaluation
        measured = trainer.test(module, datamodule=data, verbose=False)
    metrics = {name: value for each in measured for name, value in each.items()}  # one per loader
    if part := partial_test_message(trainer):
        return metrics, part
    return metrics, record_test_evaluation(outputs, run, checkpoint.stem, metrics)
