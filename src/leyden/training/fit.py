"""Training and evaluation of what was built."""

from pathlib import Path

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden

from leyden.assembly import RunTrainer, restoring
from leyden.assembly.length import tested_part
from leyden.callbacks.checkpoint_io import SafeCheckpointIO
from leyden.config.mistakes import UserError
from leyden.data.contract import has_split
from leyden.run.directory import Run
from leyden.run.process import num_requeues
from leyden.run.result import Result


def fit(
    module: L.LightningModule,
    data: L.LightningDataModule,
    trainer: RunTrainer,
    run: Run,
    *,
    checkpoint: Path | None,
    test: bool,
) -> Result:
    """Train, then evaluate the best checkpoint: on the test set, or for pictures on the validation split.

    Args:
        module: What is trained.
        data: On what.
        trainer: By what.
        run: Where.
        checkpoint: From where on; None: from the start.
        test: Whether to evaluate on the test set in the end.

    Returns:
        What has come of it, with all metrics.

    Raises:
        UserError: The objective was never logged, or the checkpoint can't be gone on from.
    """
    lightning, kept = trainer.trainer, trainer.checkpoint
    with restoring(trainer, checkpoint), trainer.preemption.interruptible(lightning):
        lightning.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    if kept.needed and not kept.best:
        raise UserError(kept.why_none_is_best(lightning))
    metrics = {**kept.best, "num_parameters": sum(parameter.numel() for parameter in module.parameters())}
    seconds = trainer.timer.time_elapsed()
    num_samples = trainer.seen.num_samples
    result = Result(
        status=trainer.status,
        objectives=(),
        metrics=metrics,
        epochs=trainer.seen.num_epochs,
        optimizer_steps=lightning.global_step,
        seconds=seconds,
        samples_per_second=num_samples / seconds if num_samples is not None and seconds else None,
        checkpoint="checkpoints/best.ckpt",
        requeues=num_requeues(),
        stages=trainer.stages.by_stage(kept.best),
        can_be_tested=has_split(data, "test") and is_overridden("test_step", module),
    )
    if test or (has_split(data, "val") and trainer.shows_evaluation(module)):
        best = SafeCheckpointIO().load_checkpoint(run.checkpoint("best"))  # as `evaluate` reads it
        measured = trainer.evaluate(module, data, best, test=test)
        if test and not tested_part(lightning):
            return result.with_test(measured)
    return result
