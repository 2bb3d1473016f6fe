"""Evaluation of a checkpoint by a new module, at the end of a run as by `leyden evaluate`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden

from leyden.assembly.build import Build, datamodule
from leyden.assembly.lengths import UNKNOWN_LENGTH, length_of
from leyden.assembly.start_from import read_checkpoint
from leyden.base.metric_names import STAGES
from leyden.data.contract import ModuleData, first_batches, has_split
from leyden.exact.loaders import flatten_loaders
from leyden.exact.random_state import seeded
from leyden.pictures import OnEvaluation
from leyden.run.process import is_main_process
from leyden.run.result import Result
from leyden.training.weights import fitting, load_weights, module_at


def measure(
    trainer: L.Trainer,
    module: L.LightningModule,
    data: L.LightningDataModule,
    path: Path,
    split: str,
    seed: int,
) -> dict[str, float]:
    """Return the metrics of a checkpoint on a split other than `train`.

    Args:
        trainer: Lightning's trainer.
        module: A module that `module_at` has made for this checkpoint.
        data: The data.
        path: Path of the checkpoint.
        split: Name of the split.
        seed: Seed of the run, so that each evaluation draws the same random numbers.

    Raises:
        UserError: The checkpoint does not fit the module.
    """
    trainer.evaluated_stage = split  # type: ignore[attr-defined]  # which `evaluated_stage` reads
    evaluate = trainer.validate if split == "val" else trainer.test
    given: dict[str, Any] = {"datamodule": data}
    if split not in ("val", "test"):
        given = {"dataloaders": getattr(data, f"{split}_dataloader")()}
    _load_in_setup(trainer, module, path)
    with seeded(seed, "test"):
        by_loader = evaluate(module, **given, verbose=False)
    metrics: dict[str, float] = {}
    for measured in by_loader:
        metrics.update(measured)
    return metrics


def _load_in_setup(trainer: L.Trainer, module: L.LightningModule, path: Path) -> None:
    """Make a trainer load a checkpoint's weights after the module's `setup`, as by `ckpt_path`.

    With `ckpt_path`, it would also take its callbacks back to the checkpoint.
    """
    content = read_checkpoint(path)
    strategy = trainer.strategy
    original = strategy.setup

    def setup(trainer: L.Trainer) -> None:
        del strategy.setup
        if strategy.restore_checkpoint_after_setup:
            original(trainer)
        trainer.precision_plugin.convert_module(module)  # which would round weights of 64 bits
        with fitting(path):
            load_weights(module, content)
        if not strategy.restore_checkpoint_after_setup:
            original(trainer)

    strategy.setup = setup  # type: ignore[method-assign]


def evaluate_best(build: Build, path: Path, result: Result, split: str) -> Result:
    """Return a run's result with the metrics of its best checkpoint on a split.

    On the validation split, which has its metrics already, pictures are drawn.

    Args:
        build: The parts of the run, which has been trained.
        path: Path of the checkpoint.
        result: The result so far.
        split: Name of the split.

    Raises:
        UserError: The checkpoint does not fit a new module.
    """
    trainer = build.trainer.trainer
    module, _ = module_at(build.cfg, path, with_weights=False)
    data = build.data
    if isinstance(data, ModuleData):  # whose loaders are those of a module
        data = datamodule(build.cfg, module=module)
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    kept = [each for each in callbacks if _takes_part(each, split)]
    trainer.callbacks = kept  # type: ignore[attr-defined]
    try:
        measured = measure(trainer, module, data, path, split, build.cfg.seed)
    finally:
        trainer.callbacks = callbacks  # type: ignore[attr-defined]
    if split == "val" or (split == "test" and partial_test_message(trainer)):
        return result
    result = result.with_stage(split, measured)
    if split == "test":
        result = replace(result, test_batches=first_batches(data, "test"))
    return result


TEST_HOOKS = [name for name in dir(L.Callback) if name.startswith("on_test_")]


def _takes_part(callback: L.Callback, split: str) -> bool:
    """Return whether a callback takes part in an evaluation at the end of a run.

    The others have been set up for the trained module, as one that prunes its layers.
    """
    if split == "val":  # whose pictures are drawn; no other callback sees a validation twice
        return isinstance(callback, OnEvaluation)
    return any(is_overridden(name, callback, L.Callback) for name in TEST_HOOKS)


def evaluated_splits(build: Build, *, test: bool) -> list[str]:
    """Return the splits on which a run's best checkpoint is evaluated, `val` for pictures."""
    draws = draws_outputs(build.trainer.callbacks, build.module)
    wanted = {"train": False, "val": draws and not test, "test": test}
    splits = []
    for stage in STAGES:
        if wanted.get(stage, True) and has_split(build.data, stage):
            splits.append(stage)
    further = [stage for stage in splits if stage not in wanted]
    if further and not is_overridden("test_step", build.module):
        splits = [stage for stage in splits if stage in wanted]
        if is_main_process():
            print(f"no evaluation on {', '.join(further)}: the task has no test_step")
    return splits


def draws_outputs(callbacks: Sequence[L.Callback], module: L.LightningModule) -> bool:
    """Return whether a callback draws pictures of a module's outputs in an evaluation."""
    return any(isinstance(each, OnEvaluation) and each.draws(module) for each in callbacks)


def partial_test_message(trainer: L.Trainer) -> str:
    """Return a message if the trainer tested on a part of the test set only.

    Empty if it used every batch.
    """
    loaders = flatten_loaders(trainer.test_dataloaders)
    num = sum(trainer.num_test_batches)
    of = sum(map(length_of, loaders))
    fast: bool | int = trainer.fast_dev_run  # type: ignore[attr-defined]
    if fast:
        key = f"fast_dev_run={fast}"
    elif num < of:  # no loader gives more than it has
        key = f"limit_test_batches={trainer.limit_test_batches}"
    else:
        return ""
    whole = f" of {of}" if of < UNKNOWN_LENGTH else ""
    return (
        f"trainer.{key}: {num:.0f}{whole} test batches are not a test evaluation, and are not "
        "recorded as one"
    )
