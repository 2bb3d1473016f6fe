"""Checkpoints: how files are written and read, and when the last one is written.

A checkpoint is written to a temporary file, so that a crash or a full disk leaves the previous one. It is renamed
only after all metrics up to its step are logged, since a resumed run does not log these again. Reading a checkpoint
executes no code from it.
"""

import contextlib
import io
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from leyden.exact import ExactError
from leyden.exact.digest import strided
from leyden.exact.files import check_bounds, make_folder, opened, replacing
from leyden.exact.loaders import flatten_loaders
from leyden.exact.memory import Reporter, read_plain, say, write_plain

# Checkpoint keys of `save_hyperparameters`. They are left out, since their values can have any type and are in the
# configuration.
HYPERPARAMETERS: tuple[str, ...] = ("hyper_parameters", "hparams_name", "hparams_type")
HYPERPARAMETERS += tuple(f"datamodule_{key}" for key in HYPERPARAMETERS)


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, and reads only tensors and plain values.

    Hyperparameters saved by a module are left out.

    Args:
        reporter: Announces a checkpoint that can't be written; None to raise the error.
    """

    def __init__(self, reporter: Reporter | None = None) -> None:
        self._reporter = reporter
        self._can_be_read = False  # verified with the first checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write to a temporary file beside `path`, then rename it, so that a failure leaves the older checkpoint.

        Raises:
            ExactError: The checkpoint contains a value that could not be read again.
        """
        path = Path(path)
        try:
            make_folder(path.parent)
            with replacing(path) as file:
                self._write({key: each for key, each in checkpoint.items() if key not in HYPERPARAMETERS}, file)
        except (OSError, ExactError) as error:
            self.refuse(error)

    def refuse(self, error: Exception) -> None:
        """Raise or announce an error by which a checkpoint can't be written."""
        if self._reporter is None:
            raise error
        if isinstance(error, OSError):
            say(f"the checkpoint could not be written: {error}")
        else:
            self._reporter.name([f"checkpoints ({error})"], "can't be written")

    def _write(self, content: dict[str, Any], file: BinaryIO) -> None:
        """Write content, and read the first file again, but for the values of its tensors."""
        try:
            write_plain(content, file)
            if not self._can_be_read:
                file.seek(0)
                read_plain(file, "meta")
                file.seek(0, io.SEEK_END)
                self._can_be_read = True
        except Exception as error:
            # That of a full disk, which torch's writer hides behind another one.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            check_readable(content)
            raise

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint, always with `weights_only`.

        Raises:
            ValueError: The file contains objects other than tensors and plain values (none of their code was
                executed), more values than any checkpoint, or is not a run's checkpoint.
        """
        try:
            with opened(path) as file:
                check_bounds(file)
                checkpoint: dict[str, Any] = read_plain(file, map_location)
        except pickle.UnpicklingError as error:
            raise ValueError(f"{path} is refused: it holds more than tensors and plain values") from error
        except RuntimeError as error:  # of PyTorch's reader of archives
            raise ValueError(f"{path}: can't be read ({str(error).partition(chr(10))[0]})") from error
        except ValueError as error:  # of `check_bounds`
            raise ValueError(f"{path}: {error}") from error
        if not isinstance(checkpoint, dict) or not {"state_dict", "global_step", "callbacks"} <= set(checkpoint):
            raise ValueError(f"{path}: not the checkpoint of a run")
        return checkpoint


def _check_hooks(trainer: L.Trainer) -> None:
    """Check what the hooks of module and data add to a checkpoint, before anything is trained.

    A hook may need attributes that are set only during training. So its errors are ignored here; writing the first checkpoint
    raises them. A resumed run omits this check: hooks may draw random numbers or change attributes, and would do so
    once more than in an uninterrupted run.

    Raises:
        ExactError: A hook adds a value that can't be read again.
    """
    module, data = trainer.lightning_module, getattr(trainer, "datamodule", None)
    for made in (module, data):
        content = {"state_dict": module.state_dict(), "epoch": 0, "global_step": 0}
        before = {*content, *HYPERPARAMETERS}
        with contextlib.suppress(Exception):
            if made is not None:
                made.on_save_checkpoint(content)
        check_readable({key: value for key, value in content.items() if key not in before})


def check_readable(content: Any) -> None:
    """Check that what a checkpoint would hold can be read again.

    Raises:
        ExactError: Names the first value that can't.
    """
    if culprit := find_unreadable(content):
        raise ExactError(
            f"the checkpoint could not be read again: {culprit[0]} is a {culprit[1]}; on_save_checkpoint and state_dict of a "
            "module or callback may save only tensors, arrays and plain values; override on_save_checkpoint in a subclass to "
            "leave it out"
        )


def find_unreadable(content: Any, place: tuple[Any, ...] = ()) -> tuple[str, str] | None:
    """Return key and type of the first value that a checkpoint can't hold; None if it can hold all of them.

    Args:
        content: Content of a checkpoint.
        place: The keys that lead to it.
    """
    if isinstance(content, dict):
        children = [*content.items()]
    else:
        children = [*enumerate(content)] if type(content) in (list, tuple) else []
    for key, value in children:
        try:
            buffer = io.BytesIO()
            write_plain(value, buffer)
            buffer.seek(0)
            read_plain(buffer, "meta")
        except Exception:  # user classes may raise anything
            kind = type(value)
            here = ".".join(map(str, (*place, key))), f"{kind.__module__}.{kind.__qualname__}"
            return find_unreadable(value, (*place, key)) or here
    return None


LAST, PREPARED = "last.ckpt", ".prepared"  # the latter is the suffix of a checkpoint that is not committed yet


class LastCheckpoint(Checkpoint):
    """Writes `checkpoints/last.ckpt` at the end of each epoch, after validation, and every `every_n_steps`.

    Lightning passes a step's metrics to the loggers after all hooks of that step, and a run that resumes logs only the
    steps after its checkpoint. So a checkpoint is only prepared in these hooks, beside its path, and committed, that is
    renamed, in the next hook, when the metrics of all steps up to it have been written.

    Args:
        every_n_steps: Optimizer steps between writes of `last.ckpt` within an epoch; None for none.
        directory: Folder of `checkpoints`; None for the trainer's `default_root_dir`.

    """

    state_key = "LastCheckpoint"  # fixed key in the checkpoint, independent of the class name

    def __init__(self, every_n_steps: int | None, directory: Path | None = None) -> None:
        if every_n_steps is not None and (type(every_n_steps) is not int or every_n_steps < 1):
            raise ValueError(f"every_n_steps={every_n_steps}: must be a positive whole number or null")
        self.every_n_steps, self.directory = every_n_steps, directory
        self.files = SafeCheckpointIO()
        self._is_refused = False
        self.is_over = False  # whether the run was stopped, for example by early stopping
        self._step = 0
        self._kept: str | None = None  # name of the copy to keep of what is prepared; None if nothing is
        # Whether a run can resume within an epoch; otherwise `last.ckpt` is from the end of an epoch.
        self.within_epochs, self._is_said = True, False

    def state_dict(self) -> dict[str, Any]:
        """Return whether training has been stopped."""
        return {"is_over": self.is_over}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self.is_over = bool(state_dict["is_over"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check hooks at the first start; end training again if it was stopped, for example by early stopping."""
        if trainer.ckpt_path is None:
            try:
                _check_hooks(trainer)
            except ExactError as error:
                self.files.refuse(error)
        self.within_epochs = all(hasattr(each, "state_dict") for each in flatten_loaders(trainer.train_dataloader))
        self._step = trainer.global_step
        trainer.should_stop = trainer.should_stop or self.is_over

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Delete what a killed start has prepared."""
        self._drop(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Write `last.ckpt`, if it is due; at the end of an epoch it is written after validation instead."""
        step = trainer.global_step
        # The steps differ only right after an optimizer step, when no gradients are accumulated.
        if (
            self.every_n_steps
            and step // self.every_n_steps != self._step // self.every_n_steps  # a batch can take several steps
            and not trainer.is_last_batch
        ):
            self.save_last(trainer, kept=f"step_{step}")
        self._step = step

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write `last.ckpt`."""
        self.is_over = trainer.should_stop
        self.save(trainer, f"epoch_{trainer.current_epoch + 1}")

    def save_last(self, trainer: L.Trainer, kept: str = "") -> None:
        """Prepare `last.ckpt` within an epoch, right after an optimizer step.

        Args:
            trainer: Lightning's trainer.
            kept: Name of a permanent copy, without suffix; empty for no copy.
        """
        if self.within_epochs:
            self.save(trainer, kept)
        elif not self._is_said:
            self._is_said = True
            say("these data can't resume within an epoch: the run will resume from the end of the previous epoch")

    def save(self, trainer: L.Trainer, kept: str) -> None:
        """Prepare `last.ckpt` beside its path; `kept` is as for `save_last`."""
        parts = (part for each in trainer.lightning_module.parameters() for part in strided(each.detach()))
        is_finite = all(part.isfinite().all() for part in parts)  # of this process's part of a sharded weight
        if not trainer.strategy.reduce_boolean_decision(is_finite):
            self.refuse(f"weights are not finite at step {trainer.global_step}")
            return
        others, trainer.strategy.checkpoint_io = trainer.strategy.checkpoint_io, self.files
        try:
            trainer.save_checkpoint(self.path(trainer, LAST + PREPARED))
        finally:
            trainer.strategy.checkpoint_io = others
        self._kept = kept

    def commit(self, trainer: L.Trainer, *args: Any) -> None:
        """Rename a prepared checkpoint to its path, in the first hook after the loggers have received the metrics."""
        if self._kept is None:
            return
        for logger in trainer.loggers:
            logger.save()
        if trainer.is_global_zero:
            path = self.path(trainer, LAST)
            with contextlib.suppress(FileNotFoundError):  # it could not be written, which was reported
                self.rename(path.with_name(LAST + PREPARED), path, self._kept)
        trainer.strategy.barrier()
        self._kept = None

    def refuse(self, why: str) -> None:
        """Report that no checkpoint is written, so that the previous one is kept; a subclass may end the run."""
        if not self._is_refused:
            self._is_refused = True
            say(f"{why}: the last checkpoint with finite weights is kept")

    def rename(self, prepared: Path, path: Path, kept: str) -> None:
        """Rename a prepared checkpoint; a subclass may keep copies."""
        prepared.replace(path)

    on_train_batch_start: Any = commit
    on_train_epoch_start: Any = commit
    on_train_end: Any = commit

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Discard a prepared checkpoint, since its metrics were not written."""
        self._drop(trainer)

    def _drop(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero:
            self.path(trainer, LAST + PREPARED).unlink(missing_ok=True)

    def path(self, trainer: L.Trainer, name: str) -> Path:
        """Return the path of a checkpoint."""
        return (self.directory or Path(trainer.default_root_dir)) / "checkpoints" / name
