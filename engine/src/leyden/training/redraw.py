"""Drawing of a run's final pictures after the run has ended."""

import lightning as L
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from leyden import assembly
from leyden.assembly.instantiate import switched_on
from leyden.assembly.trainer import callbacks_of
from leyden.callbacks.checkpoint import SafeCheckpointIO, load_weights
from leyden.callbacks.display import DisplayCallback
from leyden.data.contract import facts_of
from leyden.exact.first_batches import has_split
from leyden.exact.logged_metrics import Stages
from leyden.exact.random_state import seed_everything, undisturbed
from leyden.exact.run_state import restore_module
from leyden.loggers.tensorboard import TensorBoard
from leyden.pictures.base import OnEvaluation
from leyden.run.directory import Run


@undisturbed()
def draw_late_pictures(cfg: DictConfig) -> None:
    """Draw the pictures that a run's callbacks draw at the end of the run.

    They are drawn from the curves, and from an evaluation of the best weights on the validation split.

    Args:
        cfg: The configuration of the run, with its `run_dir`.

    Raises:
        UserError: The data or the checkpoints can't be read.
    """
    assembly.silence_lightning()
    seed_everything(cfg.seed, "data")
    run = Run(cfg.run_dir)
    best = SafeCheckpointIO().load_checkpoint(run.checkpoint("best"))
    last = assembly.read_checkpoint(run.newest_checkpoint() or run.checkpoint("last"))
    cfg.trainer.update({"devices": 1, "num_nodes": 1, "strategy": "auto"})  # the run may have had several processes
    data = assembly.datamodule(cfg)
    callbacks, _ = callbacks_of(cfg, facts_of(data))
    drawing: list[L.Callback] = [each for each in callbacks if isinstance(each, DisplayCallback) and each.at_end]
    loggers: list[Logger] = []
    if any("tensorboard" in str(node._target_) for _, node in switched_on(cfg.logger)):
        loggers.append(TensorBoard(save_dir=cfg.run_dir, purge_step=last["global_step"] + 1))  # nothing is dropped
    stages = Stages()
    stages.load_state_dict(last["callbacks"][Stages.state_key])
    trainer = assembly.plain_trainer(
        cfg, callbacks=[stages, *drawing], logger=loggers, default_root_dir=cfg.run_dir
    )
    seed_everything(cfg.seed, "task")
    module = assembly.task(cfg, data, trainer)
    load_weights(module, best)
    restore_module(module, best)
    trainer.fit_loop.load_state_dict(last["loops"]["fit_loop"])  # pictures are logged at the run's last step
    for callback in drawing:
        callback.on_fit_end(trainer, module)
    if has_split(data, "val") and any(isinstance(callback, OnEvaluation) for callback in drawing):
        trainer.validate(module, datamodule=data, verbose=False)
