"""Pictures of a run that has ended without them."""

import contextlib
from pathlib import Path

import lightning as L
from omegaconf import DictConfig

from leyden import build
from leyden.callbacks.checkpoint_io import SafeCheckpointIO
from leyden.callbacks.showing import Showing
from leyden.data.contract import has_split
from leyden.run.directory import Run


def draw(cfg: DictConfig) -> None:
    """Draw what the callbacks of a run draw at its end, from its curves, and from the validation split by its best weights.

    Args:
        cfg: The configuration of the run, whose directory it names.

    Raises:
        UserError: The data or the checkpoints can't be had.
    """
    build.quiet()
    run = Run(Path(cfg.run_dir))
    L.seed_everything(cfg.seed, verbose=False)
    best = SafeCheckpointIO().load_checkpoint(run.checkpoint("best"))
    last = build.read_checkpoint(run.newest_checkpoint() or run.checkpoint("last"))
    data = build.datamodule(cfg)
    # Nothing that was logged is dropped.
    trainer = build.run_trainer(cfg, run, data, {**last, "global_step": last["global_step"] + 1}, lambda: "")
    module = build.task(cfg, data, trainer.trainer)
    trainer.trainer.fit_loop.load_state_dict(last["loops"]["fit_loop"])  # pictures have the last step
    with contextlib.ExitStack() as at_the_end:
        for logger in trainer.trainer.loggers:
            if hasattr(logger, "close"):
                at_the_end.callback(logger.close)
        for callback in trainer.callbacks:
            if isinstance(callback, Showing) and callback.at_end:
                callback.on_fit_end(trainer.trainer, module)
        if has_split(data, "val") and trainer.shows_evaluation(module):
            trainer.evaluate(module, data, best["state_dict"], test=False)
