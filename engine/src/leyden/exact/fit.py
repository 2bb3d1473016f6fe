"""Training that resumes to the same bits: callbacks around a trainer's, and a call for `fit`."""

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden

from leyden.exact import ExactError, lightning
from leyden.exact.checkpoint import LAST, LastCheckpoint, SafeCheckpointIO
from leyden.exact.files import damage, make_folder
from leyden.exact.loaders import make_resumable
from leyden.exact.memory import PLAIN_NAMES, Mode, is_rank_zero, say
from leyden.exact.processes import REFUSED, TOLD_S, LostError, Peers, only_training
from leyden.exact.random_state import seed_everything, seed_stages
from leyden.exact.sharding import FSDP2
from leyden.exact.stages import Stages
from leyden.exact.state import RunState, prepare_to_load
from leyden.exact.stop import Steps, Stop, leave_process


class Exact(L.Callback):
    """Makes a training resume to the same bits, for any LightningModule.

    In the folder it writes `checkpoints/last.ckpt`, at the end of each epoch and every
    `every_n_steps`, and when SIGTERM, SIGUSR1 or Ctrl-C ends the process. The trainer's other
    callbacks, loggers and checkpoints stay as they are.

    Create it before the module, since it seeds all random numbers.

    Args:
        directory: Folder of the run.
        seed: Seed of all random numbers.
        every_n_steps: Optimizer steps between checkpoints within an epoch; None for none.
        exact: What to do if something can't be kept, or a resumed step parts from that of the
            stopped run: `report` it in a line, `require` (an error), or `off`.

    The page on exact training has an example.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        seed: int = 0,
        every_n_steps: int | None = None,
        exact: Mode = "report",
    ) -> None:
        if type(seed) is not int or not 0 <= seed < 2**32:
            raise ValueError(f"seed={seed}: must be a whole number from 0 to {2**32 - 1}")
        if exact not in ("report", "require", "off"):
            raise ValueError(f"exact={exact}: must be report, require or off")
        self.directory = Path(directory).absolute()
        self.seed = seed
        self.every_n_steps = every_n_steps
        self.exact = exact
        LastCheckpoint(every_n_steps)  # checks its argument
        self._is_fitting = False
        seed_everything(seed, "module")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report a training that was started by `trainer.fit`."""
        if not self._is_fitting:
            say(
                "this run can't resume: call exact.fit(trainer, module, data) in place of "
                "trainer.fit(module, data)"
            )

    def fit(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        data: Any = None,
        val_dataloaders: Any = None,
    ) -> None:
        """Train, or resume where the last start stopped.

        Args:
            trainer: The trainer, with this callback.
            module: The module.
            data: A data module, training loaders, or None if the module has loaders of its own.
            val_dataloaders: Loaders of validation, beside training loaders.

        Raises:
            ExactError: The run can't resume to the same bits, and must not otherwise.
        """
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if self not in callbacks:
            raise ValueError("the trainer needs this callback: L.Trainer(callbacks=[exact])")
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy | FSDP2):
            name = type(trainer.strategy).__name__
            raise ExactError(
                f"{name} may shard weights: only one device, DDP or leyden's FSDP2 can be resumed"
            )
        for each in callbacks:
            refusal = refuse_search(each)
            if refusal:
                raise ExactError(refusal)
        self._is_fitting = True
        try:
            if trainer.fast_dev_run:  # type: ignore[attr-defined]
                say("fast_dev_run: nothing is kept")
                trainer.fit(module, data, val_dataloaders)
            else:
                _make_folders(self.directory)
                with contextlib.ExitStack() as held:
                    if is_rank_zero():
                        held.enter_context(only_training(self.directory, say))
                    self._fit(trainer, module, _as_data_module(module, data, val_dataloaders))
        except LostError as error:
            say(f"{error}; the same command resumes")
            leave_process(error.code, error)
        except ExactError as error:
            if trainer.world_size == 1:
                raise
            _end_all(error)
        finally:
            self._is_fitting = False
            trainer.callbacks = callbacks  # type: ignore[attr-defined]

    def _fit(
        self, trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule
    ) -> None:
        checkpoint = LastCheckpoint(self.every_n_steps, self.directory)
        parts = Parts(self.seed, checkpoint, self.directory, None, self.exact)
        checkpoint.files = SafeCheckpointIO(parts.state.reporter)
        last = _last_of(self.directory)
        data.trainer = trainer
        seed_stages(data, self.seed)
        make_resumable(data, self.seed)
        callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
        callbacks = [*parts.around(callbacks), checkpoint]
        trainer.callbacks = callbacks  # type: ignore[attr-defined]
        self._has_trained = False
        resumes = last is not None
        with torch.serialization.safe_globals(PLAIN_NAMES):
            parts.fit(trainer, module, data, last)
        if resumes and not self._has_trained:
            for each in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(each, WeightAveraging):
                    each.on_train_end(trainer, module)  # the average takes the place of the weights
            say(
                "this training had ended before: the module has its last weights, but not what "
                "training changed besides"
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note that there is something left to train."""
        self._has_trained = True


def _end_all(error: ExactError) -> NoReturn:
    """End one of several processes, all of which have found the same, as a rule.

    Then it is one line of rank zero.
    Rank zero, or its launcher, ends the others while they wait.
    """
    if is_rank_zero():
        say(str(error))
    else:
        time.sleep(TOLD_S)
        print(f"leyden: {error}", file=sys.stderr)
    leave_process(REFUSED, error)


def _make_folders(directory: Path) -> None:
    """Make the folder of a training, and that of its checkpoints.

    Raises:
        ExactError: One can't be made, or is a link, through which nothing is written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        make_folder(directory / "checkpoints")
    except OSError as error:
        raise ExactError(f"{error.filename}: {error.strerror}") from error


def _last_of(directory: Path) -> Path | None:
    """Return the checkpoint to resume from; None without one.

    Raises:
        ExactError: The checkpoint is damaged.
    """
    last = directory / "checkpoints" / LAST
    if not os.path.lexists(last):
        return None
    problem = damage(last)
    if problem:
        raise ExactError(
            f"{last}: {problem}; nothing was changed: put an intact copy in its place, or delete "
            "it to train anew"
        )
    return last


def refuse_search(callback: L.Callback) -> str:
    """Return why a callback can't be used that searches in each start; nothing of any other.

    What is searched is a learning rate or a batch size.
    """
    if not isinstance(callback, LearningRateFinder | BatchSizeFinder):
        return ""
    return (
        f"{type(callback).__name__} trains and goes back before the run begins, by a checkpoint "
        "of its own; find the value once, by lightning.pytorch.tuner.Tuner, and set it"
    )


class Parts:
    """The callbacks of an exact run, for a trainer.

    Args:
        seed: Seed of the run.
        checkpoint: Saves `last.ckpt`.
        directory: Folder of the run.
        requeue: See `Stop`.
        exact: See `Exact`.
        is_fork: See `RunState`.
        leave: Ends the process, see `Stop`.
    """

    def __init__(
        self,
        seed: int,
        checkpoint: LastCheckpoint,
        directory: Path,
        requeue: Any,
        exact: Mode,
        *,
        is_fork: bool = False,
        leave: Any = leave_process,
    ) -> None:
        self.checkpoint = checkpoint
        self.stages = Stages()
        self.state = RunState(seed, exact, is_fork=is_fork)
        self.steps = Steps(directory, self.state.reporter)
        self.stop = Stop(checkpoint, self.steps, requeue, leave)
        self.peers = Peers(say)
        self.before = [self.stages, self.steps]  # others read from the first one
        self.after = [self.state, self.stop]

    def around(self, callbacks: Sequence[L.Callback]) -> list[L.Callback]:
        """Return these callbacks around others."""
        return [*self.before, *callbacks, *self.after]

    def fit(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        data: L.LightningDataModule,
        checkpoint: Path | None,
    ) -> None:
        """Train, from a checkpoint if there is one.

        Raises:
            LostError: Another process has died.
        """
        self.state.made = self.state.digests(module)
        if checkpoint:
            prepare_to_load(trainer, module)
        saves = self.checkpoint.after_batch, self.checkpoint.after_epoch
        with (
            self.stop.interruptible(trainer),
            self.peers.watched(trainer),
            lightning.after_each(trainer, *saves),
        ):
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)


def _as_data_module(module: L.LightningModule, data: Any, val: Any) -> L.LightningDataModule:
    """Return a data module of what `trainer.fit` takes."""
    if isinstance(data, L.LightningDataModule):
        return data
    made: Any = L.LightningDataModule()  # Lightning asks an object for its hooks, not its class
    made.train_dataloader = module.train_dataloader if data is None else lambda: data
    if val is not None:
        made.val_dataloader = lambda: val
    elif is_overridden("val_dataloader", module):
        made.val_dataloader = module.val_dataloader
    return made  # type: ignore[no-any-return]
