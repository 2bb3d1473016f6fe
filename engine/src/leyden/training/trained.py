"""A trained run: its network, its data, and its evaluation."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig, OmegaConf

from leyden.assembly.data import check_world_size, datamodule
from leyden.assembly.instantiate import import_targets, instantiate, switched_on
from leyden.assembly.schedule import partial_test_message
from leyden.assembly.start_from import kept_facts, read_checkpoint
from leyden.assembly.task import task_module
from leyden.assembly.trainer import callbacks_of, plain_trainer, silence_lightning
from leyden.callbacks.checkpoint import load_weights
from leyden.callbacks.display import DisplayCallback
from leyden.config.errors import UserError, log_and_continue
from leyden.config.schema import ACCELERATORS
from leyden.config.terminal import warn
from leyden.data.contract import digests_of, facts_of
from leyden.data.facts import Facts
from leyden.exact.first_batches import divides_batches, first_batches_differ, has_split
from leyden.exact.logged_metrics import Stages
from leyden.exact.random_state import seeded, seeded_as_run, undisturbed
from leyden.exact.run_state import first_batches_in, restore_module
from leyden.loggers.tensorboard import TensorBoard
from leyden.pictures.base import OnEvaluation
from leyden.report.ranking import merge_rows, read_sweep_settings
from leyden.report.records import read_records
from leyden.report.statistics import mean_text
from leyden.run.directory import Run, changed_names, trained_on
from leyden.run.evaluations import check_test_evaluations, record_test_evaluation
from leyden.run.record import RECORD
from leyden.tasks.task import Task

# Settings of the trainer that evaluation takes from a run: plain values that change a metric.
TRAINER_KEYS = ("precision", "limit_test_batches", "deterministic")


def evaluation_config(run: Run) -> DictConfig:
    """Return the part of a run's configuration that evaluation needs.

    That is `name`, `seed`, `model`, `data` without augmentation, `task`, and some keys of `trainer`. The files that
    define its classes are imported, with the random numbers that they draw in the run.

    Raises:
        UserError: The run is not the user's own, or a part is missing.
    """
    run.check_owner()
    config = run.config
    for key in ("model", "data", "task", "trainer"):
        if not isinstance(config.get(key), dict):
            raise UserError(f"{run.directory}/{RECORD}: {key} is missing")
    if type(seed := config.get("seed")) is not int or seed < 0:
        raise UserError(f"{run.directory}/{RECORD}: seed={seed}: must be a whole number, 0 or larger")
    parts = {key: config[key] for key in ("model", "task")}
    parts["data"] = {key: None if key == "augment" else value for key, value in config["data"].items()}
    parts["trainer"] = {key: config["trainer"][key] for key in TRAINER_KEYS if config["trainer"].get(key)}
    cfg = OmegaConf.create({"name": config.get("name"), "seed": seed, **parts})
    import_targets(cfg)
    return cfg


def trained_module(run: Run, checkpoint: Path, content: dict[str, Any]) -> tuple[L.LightningModule, Facts]:
    """Return the trained module of a run and the facts of its data; the data set itself is not needed.

    The module is on the CPU, in evaluation mode.

    Args:
        run: The run.
        checkpoint: One of its checkpoints, for messages.
        content: Content of this checkpoint.

    Raises:
        UserError: The configuration or the checkpoint is refused, or they don't fit each other.
    """
    cfg = evaluation_config(run)
    run.warn_of_changed_code("its weights are used with the code as it is now")
    facts = kept_facts(content, checkpoint)
    # As in training, since no checkpoint has random numbers that a constructor keeps in an attribute.
    with seeded_as_run(cfg.seed, "task"):
        module = task_module(cfg, facts)
        try:
            load_weights(module, content)
            restore_module(module, content)
        except Exception as error:  # a checkpoint may come from a stranger, and be wrong in any way
            why = " ".join(str(error).split())
            raise UserError(f"{checkpoint}: does not fit the network ({type(error).__name__}: {why})") from error
    return module.eval(), facts


def trained_task(run: Run, checkpoint: Path, *kinds: str, accelerator: str | None = "cpu") -> tuple[Task, Facts]:
    """Return the trained task of a run, on an accelerator, and the facts of its data.

    Args:
        run: The run.
        checkpoint: One of its checkpoints.
        kinds: The allowed values of `Task.kind`; without any, all are allowed.
        accelerator: The accelerator to move the module to; None for the run's.

    Raises:
        UserError: The configuration or the checkpoint is refused, the run's module is not a `Task` of these kinds,
            or this machine lacks the accelerator.
    """
    device = evaluation_trainer(run, accelerator).strategy.root_device
    module, facts = trained_module(run, checkpoint, read_checkpoint(checkpoint))
    return check_kind(run, module.to(device), *kinds), facts


def check_kind(run: Run, module: L.LightningModule, *kinds: str) -> Task:
    """Return a run's module, checked to be a `Task` of one of these kinds, or of any kind if none is given.

    Raises:
        UserError: The module is not such a task.
    """
    if not isinstance(module, Task) or (kinds and module.kind not in kinds):
        what = f"a task of the kind {' or '.join(kinds)}" if kinds else "a Task of leyden.tasks"
        raise UserError(f"{run.directory}: has trained {type(module).__name__}; this command needs {what}")
    return module


def image_reader(run: Run) -> Callable[[Path], torch.Tensor] | None:
    """Return the `read_image` of a run's data, so that prediction reads image files as training did.

    It returns pixels, shape (C, H, W), uint8. None if the data don't read image files.
    """
    data = instantiate(evaluation_config(run).data, "data")
    dataset = getattr(data, "dataset", data)
    return getattr(getattr(dataset, "func", dataset), "read_image", None)


def trained_data(
    run: Run, facts: Facts, root: str | None, world_size: int, module: L.LightningModule
) -> L.LightningDataModule:
    """Return the data that a run was trained on; with `data=module`, those of the module.

    They are read from `root`, or from the folder used in training. A warning names files that have changed.

    Raises:
        UserError: The data are not available, or their facts differ from `facts`.
    """
    cfg = evaluation_config(run)
    if root and "root" in cfg.data:
        cfg.data.root = root
    try:
        data = datamodule(cfg, module=module)
        check_world_size(data, world_size)
    except UserError as error:
        raise UserError(f"{error}; data_root=FOLDER sets the folder of the dataset") from error
    if facts_of(data) != facts:
        raise UserError(f"{cfg.data.get('root')}: not the dataset that {run.directory} was trained on")
    with log_and_continue("comparing the data"):
        if names := changed_names(trained_on(run), digests_of(data)):
            warn(f"{run.directory}: the data differ from those that it was trained on: {', '.join(names)}")
    return data


def check_accelerator(run: Run, requested: str | None) -> str:
    """Return the accelerator to compute on: `requested`, or the run's, or `auto` if this machine lacks that.

    Raises:
        UserError: This machine lacks the accelerator `requested`.
    """
    recorded = (run.config.get("trainer") or {}).get("accelerator")
    chosen = requested or (recorded if recorded in ACCELERATORS else "auto")
    if chosen not in ACCELERATORS:
        raise UserError(f"accelerator={requested}: must be one of {', '.join(ACCELERATORS)}")
    try:
        L.Trainer(
            accelerator=chosen, devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
    except Exception as error:  # Lightning and drivers raise errors of any class
        why = f"this machine has none that PyTorch can use ({' '.join(str(error).split())})"
        if requested:
            raise UserError(f"accelerator={requested}: {why}; choose auto or cpu") from error
        warn(f"{run.directory} was trained with trainer.accelerator={chosen}: {why}; auto is used instead")
        return "auto"
    return chosen


def evaluation_trainer(run: Run, accelerator: str | None) -> L.Trainer:
    """Return a trainer that evaluates a run on one device, without loggers and callbacks.

    Raises:
        UserError: The run's configuration is refused, or this machine lacks the accelerator.
    """
    silence_lightning()
    accelerator = check_accelerator(run, accelerator)
    options: Any = OmegaConf.to_container(evaluation_config(run).trainer)
    cfg = OmegaConf.create(
        {"trainer": {"_target_": "lightning.pytorch.Trainer", **options, "accelerator": accelerator}}
    )
    return plain_trainer(cfg, callbacks=[], logger=False, enable_checkpointing=False, devices=1)


def evaluate(
    run: Run, checkpoint: Path, *, outputs: str, data_root: str | None, accelerator: str | None
) -> tuple[dict[str, float], int | str]:
    """Evaluate a checkpoint on the test set, and record the evaluation.

    An evaluation is not recorded if the run's `limit_test_batches` restricts it to a part of the test set.

    Args:
        run: The run.
        checkpoint: One of its checkpoints.
        outputs: Folder with the list of test evaluations.
        data_root: Folder of the data set; None for the folder used in training.
        accelerator: Lightning's name of an accelerator; None for the run's.

    Returns:
        The metrics, and the number of the experiment's test evaluations, or a message why this one was not
        recorded.

    Raises:
        UserError: The configuration or the checkpoint is refused, or the data are not available.
    """
    metrics, message = _measure(run, checkpoint, outputs=outputs, data_root=data_root, accelerator=accelerator)
    return metrics, message or record_test_evaluation(outputs, run, checkpoint.stem, metrics)


def evaluate_row(
    directory: Path,
    number: int,
    checkpoint: str,
    *,
    failed: str,
    outputs: str,
    data_root: str | None,
    accelerator: str | None,
    trust: bool = False,
) -> tuple[str, Run, dict[str, str], int | str]:
    """Evaluate all runs of a sweep's setting on the test set, and record this as one test evaluation.

    Args:
        directory: The sweep's folder.
        number: Number of the setting's row in the table of `leyden summarize`, from 1 on.
        checkpoint: Name of the checkpoint, as `best`.
        failed: As in `leyden summarize`, which orders the rows by it.
        outputs: Folder with the list of test evaluations.
        data_root: Folder of the data set; None for the folder used in training.
        accelerator: Lightning's name of an accelerator; None for the run's.
        trust: Whether the user trusts what the runs' records name, whoever wrote them.

    Returns:
        The setting in words, its first run, and for each metric its mean with the 95 % interval; and the number of
        the experiment's test evaluations, or a message why this one was not recorded.

    Raises:
        UserError: There is no such row, it has no finished run, or one of its runs can't be evaluated.
    """
    _, averaged = read_sweep_settings(directory)
    records = read_records(directory)
    rows = merge_rows(records, averaged, failed)
    if not 1 <= number <= len(rows):
        raise UserError(f"row={number}: {directory} has rows 1 to {len(rows)}")
    if not (runs := [record.run for record in rows[number - 1].distinct(averaged)]):
        raise UserError(f"row={number}: none of its runs has finished")
    for run in runs:
        run.trust = trust
    measured = [
        _measure(run, run.checkpoint(checkpoint), outputs=outputs, data_root=data_root, accelerator=accelerator)
        for run in runs
    ]
    columns = {name: [metrics[name] for metrics, _ in measured if name in metrics] for name in measured[0][0]}
    setting = " ".join(f"{key}={value}" for key, value in rows[number - 1].choices.items())
    num_all = rows[number - 1].num_all(averaged)
    where = f"{directory} row {number}{f' ({setting})' if setting else ''}, {len(runs)} of {num_all} runs"
    overlap = rows[number - 1].group(averaged).overlap
    shown = {name: mean_text(values, overlap) for name, values in columns.items()}
    if message := measured[0][1]:
        return where, runs[0], shown, message
    means = {name: statistics.fmean(values) for name, values in columns.items()}
    return where, runs[0], shown, record_test_evaluation(outputs, runs[0], checkpoint, means, where=where)


def _measure(
    run: Run, checkpoint: Path, *, outputs: str, data_root: str | None, accelerator: str | None
) -> tuple[dict[str, float], str]:
    """Return a checkpoint's test metrics, and a message if they are those of a part of the test set."""
    trainer = evaluation_trainer(run, accelerator)
    content = read_checkpoint(checkpoint)
    module, facts = trained_module(run, checkpoint, content)
    val = first_batches_in(content)
    del content  # frees its memory
    if not is_overridden("test_step", module):
        raise UserError(f"{run.directory}: {type(module).__name__} has no test_step")
    data = trained_data(run, facts, data_root, trainer.world_size, module)
    if not has_split(data, "test"):
        raise UserError(f"{run.directory}: {type(data).__name__} has no test_dataloader")
    check_test_evaluations(outputs)
    with seeded(evaluation_config(run).seed, "test"):  # the same random numbers as in the run's own evaluation
        measured = trainer.test(module, datamodule=data, verbose=False)
    _check_splits(run, val, data)
    metrics = {name: value for each in measured for name, value in each.items()}  # one dictionary per loader
    return metrics, partial_test_message(trainer)


def _check_splits(run: Run, val: Any, data: L.LightningDataModule) -> None:
    """Check that a run's data have the same splits as in training, by comparing the first batches.

    Args:
        run: The run.
        val: First batches of the validation split in training; None if they are unknown.
        data: The data of the evaluation.

    Raises:
        UserError: A split differs, so that the test set may contain samples that were trained on.
    """
    if divides_batches(data):
        return
    seed = evaluation_config(run).seed
    before = {"validation split": ("val", val)}
    before |= {"test set": ("test", run.result.test_split if run.result else [])}
    for name, (split, batches) in before.items():
        if first_batches_differ(data, split, seed, batches):
            raise UserError(
                f"{run.directory}: the {name} differs from that in training, and may contain training samples: its data "
                "draw from the system's entropy, or have changed"
            )


@undisturbed()
def draw_late_pictures(cfg: DictConfig) -> None:
    """Draw the pictures that a run's callbacks draw at the end of the run, after it has ended.

    They are drawn from the curves, and from an evaluation of the best weights on the validation split.

    Args:
        cfg: The configuration of the run, with its `run_dir`.

    Raises:
        UserError: The data or the checkpoints can't be read.
    """
    silence_lightning()
    run = Run(cfg.run_dir)
    path = run.checkpoint("best")
    last = read_checkpoint(run.newest_checkpoint() or path)
    module, facts = trained_module(run, path, read_checkpoint(path))
    data = trained_data(run, facts, None, 1, module)
    drawing: list[L.Callback] = [
        each for each in callbacks_of(cfg, facts)[0] if isinstance(each, DisplayCallback) and each.at_end
    ]
    loggers: list[Logger] = []
    if any("tensorboard" in str(node._target_) for _, node in switched_on(cfg.logger)):
        loggers.append(TensorBoard(save_dir=cfg.run_dir, purge_step=last["global_step"] + 1))  # nothing is dropped
    stages = Stages()
    stages.load_state_dict(last["callbacks"][Stages.state_key])
    cfg.trainer.update({"devices": 1, "num_nodes": 1, "strategy": "auto"})  # the run may have had several processes
    trainer = plain_trainer(cfg, callbacks=[stages, *drawing], logger=loggers, default_root_dir=cfg.run_dir)
    trainer.fit_loop.load_state_dict(last["loops"]["fit_loop"])  # pictures are logged at the run's last step
    for callback in drawing:
        callback.on_fit_end(trainer, module)
    if has_split(data, "val") and any(isinstance(callback, OnEvaluation) for callback in drawing):
        trainer.validate(module, datamodule=data, verbose=False)
