"""Checkpoints: how files are written and read, and when the last one is written.

A checkpoint is written to a temporary file, so that a crash or a full disk leaves the previous one.
Reading a checkpoint executes no code from it.
"""

import contextlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from leyden.exact import ExactError, lightning
from leyden.exact.digest import strided
from leyden.exact.files import (
    FORMATS,
    FormatError,
    check_bounds,
    make_folder,
    opened,
    replacing,
    take_format,
)
from leyden.exact.loaders import flatten_loaders
from leyden.exact.memory import (
    Reporter,
    check_names,
    foreign_callbacks,
    read_plain,
    say,
    write_plain,
)

# Checkpoint keys of `save_hyperparameters`. They are left out, since their values can have any type
# and are in the configuration.
HYPERPARAMETERS: tuple[str, ...] = ("hyper_parameters", "hparams_name", "hparams_type")
HYPERPARAMETERS += tuple(f"datamodule_{key}" for key in HYPERPARAMETERS)

# Without these no run resumes.
NEEDED = ("state_dict", "loops", "optimizer_states", "lr_schedulers")


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, and reads only tensors and plain values.

    Hyperparameters saved by a module are left out.

    Args:
        reporter: Announces what is left out since it can't be read again, or that nothing can be
            written; None to raise.
    """

    def __init__(self, reporter: Reporter | None = None) -> None:
        self._reporter = reporter
        self._left_out: set[tuple[str, ...]] = set()  # keys at the root, or below `callbacks`
        self._is_refused = False
        self._can_be_read = False  # verified with the first checkpoint

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write to a temporary file beside `path`, and rename it: a failure leaves the older one.

        Raises:
            ExactError: The checkpoint contains a value that could not be read again.
        """
        if self._is_refused:
            return
        path = Path(path)
        try:
            make_folder(path.parent)
            with replacing(path) as file:
                self._write(checkpoint, file)
        except (OSError, ExactError) as error:
            if self._reporter is None:
                raise
            if isinstance(error, OSError):
                say(f"the checkpoint could not be written: {error}")
                return
            self._is_refused = True  # each other one would fail, too
            self._reporter.announce(f"this run can't resume: {error}")

    def _write(self, checkpoint: dict[str, Any], file: BinaryIO) -> None:
        """Write a checkpoint without what is left out; read the first file again, but for the values of its tensors."""
        _check_keys(checkpoint)
        content = {key: each for key, each in checkpoint.items() if key not in HYPERPARAMETERS}
        content["callbacks"] = dict(content.get("callbacks", {}))
        for *place, key in self._left_out:
            (content["callbacks"] if place else content).pop(key, None)
        try:
            write_plain({"format": FORMATS["checkpoint"], **content}, file)
            file.seek(0)
            if self._can_be_read:
                check_names(file)
            else:
                read_plain(file, "meta")
            self._can_be_read = True
        except Exception as error:
            # That of a full disk, which torch's writer hides behind another one.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            if not self.leave_out(content):
                raise
            file.seek(0)
            file.truncate()
            self._write(checkpoint, file)

    def leave_out(self, content: dict[str, Any]) -> bool:
        """Leave out of all checkpoints what could not be read again; return whether there is any.

        Raises:
            ExactError: There is, and no run can resume without it, or it can't be announced.
        """
        if self._reporter is None:
            _check_keys(content)
        parts: dict[tuple[str, ...], Any] = {(key,): each for key, each in content.items()}
        states = parts.pop(("callbacks",), {})
        for key, each in states.items():
            parts["callbacks", key] = each
        num = len(self._left_out)
        for place, part in parts.items():
            culprit = find_unreadable({place[-1]: part}, place[:-1])
            if not culprit:
                continue
            name, kind = culprit
            if self._reporter is None or place[0] in NEEDED:
                raise ExactError(
                    f"the checkpoint could not be read again: {name} is a {kind}; "
                    "on_save_checkpoint and state_dict of a module or callback may save only "
                    "tensors, arrays and plain values; override on_save_checkpoint in a subclass "
                    "to leave it out"
                )
            self._left_out.add(place)
            self._reporter.announce(
                f"checkpoints leave out {'.'.join(place)}, as {name} is a {kind}"
            )
        return len(self._left_out) > num

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint, always with `weights_only`.

        Raises:
            ValueError: The file contains objects other than tensors and plain values (none of their
                code was executed), more values than any checkpoint, or is not a run's checkpoint.
        """
        try:
            with opened(path) as file:
                check_bounds(file)
                checkpoint: dict[str, Any] = read_plain(file, map_location)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{path} is refused: it holds more than tensors and plain values"
            ) from error
        except RuntimeError as error:  # of PyTorch's reader of archives
            raise ValueError(
                f"{path}: can't be read ({str(error).partition(chr(10))[0]})"
            ) from error
        except ValueError as error:  # of `check_bounds`
            raise ValueError(f"{path}: {error}") from error
        if not isinstance(checkpoint, dict) or not {
            "state_dict",
            "global_step",
            "callbacks",
        } <= set(checkpoint):
            raise ValueError(f"{path}: not the checkpoint of a run")
        try:
            take_format("checkpoint", checkpoint)
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from error
        return checkpoint


def content_of_hooks(trainer: Trainer) -> dict[str, Any]:
    """Return what the hooks of module, data and callbacks add to a checkpoint, to check it before.

    A hook may need attributes that are set only during training. So its errors are ignored here;
    writing the first checkpoint raises them. A resumed run omits this check: hooks may draw random
    numbers or change attributes, and would do so once more than in an uninterrupted run.
    """
    module = trainer.lightning_module
    callbacks = foreign_callbacks(trainer).values()
    added: dict[str, Any] = {"callbacks": {}}
    given = {"state_dict": module.state_dict(), "epoch": 0, "global_step": 0}
    for each in (module, getattr(trainer, "datamodule", None), *callbacks):
        content = dict(given)
        with contextlib.suppress(Exception):
            if isinstance(each, Callback):
                added["callbacks"][each.state_key] = each.state_dict()
                each.on_save_checkpoint(trainer, module, content)
            elif each is not None:
                each.on_save_checkpoint(content)
        added |= {
            key: value for key, value in content.items() if key not in (*given, *HYPERPARAMETERS)
        }
    return added


def _check_keys(content: Mapping[str, Any]) -> None:
    """Check that nothing else takes the key of a checkpoint's format.

    Raises:
        ExactError: A hook does.
    """
    if "format" in content:
        raise ExactError(
            "on_save_checkpoint saves under the key format, which says the format of the "
            "checkpoint itself; save under another key"
        )


def find_unreadable(content: Any, place: tuple[Any, ...] = ()) -> tuple[str, str] | None:
    """Return key and type of the first value that a checkpoint can't hold; None if there is none.

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


LAST = "last.ckpt"
PREPARED = ".prepared"  # suffix of a checkpoint that is not at its path yet


class LastCheckpoint(Checkpoint):
    """Writes `checkpoints/last.ckpt` at the end of each epoch, and every `every_n_steps`.

    It is written when all that belongs to its step is done: validation, schedules that follow a
    metric, and the metrics, since a run that resumes does none of this again. That is after all
    hooks of a step or an epoch, where Lightning calls nobody: `after_batch` and `after_epoch` are
    called by `lightning.after_each`.

    Args:
        every_n_steps: Optimizer steps between writes of `last.ckpt` within an epoch; None for none.
        directory: Folder of `checkpoints`; None for the trainer's `default_root_dir`.
    """

    state_key = "LastCheckpoint"  # fixed key in the checkpoint, independent of the class name

    def __init__(self, every_n_steps: int | None, directory: Path | None = None) -> None:
        if every_n_steps is not None and (type(every_n_steps) is not int or every_n_steps < 1):
            raise ValueError(
                f"every_n_steps={every_n_steps}: must be a positive whole number or null"
            )
        self.every_n_steps = every_n_steps
        self.directory = directory
        self.files = SafeCheckpointIO()
        self._is_refused = False
        self.is_over = False  # whether the run was stopped, for example by early stopping
        self._step = 0
        # Name of the copy to keep of the checkpoint that is due; None if none is.
        self._due: str | None = None
        # Whether a run can resume within an epoch; otherwise `last.ckpt` is from the end of an
        # epoch.
        self.within_epochs = True
        self._is_said = False

    def state_dict(self) -> dict[str, Any]:
        """Return whether training has been stopped."""
        return {"is_over": self.is_over}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self.is_over = bool(state_dict["is_over"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check hooks at the first start; end training again if it was stopped before its time."""
        if trainer.ckpt_path is None:
            self.files.leave_out(content_of_hooks(trainer))
        self.within_epochs = all(
            hasattr(each, "state_dict") for each in flatten_loaders(trainer.train_dataloader)
        )
        self._step = trainer.global_step
        trainer.should_stop = trainer.should_stop or self.is_over

    def on_fit_start(self, trainer: Trainer, *args: Any) -> None:
        """Delete what a killed start has prepared."""
        if trainer.is_global_zero:
            self.path(trainer, LAST + PREPARED).unlink(missing_ok=True)

    on_exception: Any = on_fit_start

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Save every `every_n_steps`."""
        step = trainer.global_step
        # The steps differ only right after an optimizer step, when no gradients are accumulated.
        if self.every_n_steps and step // self.every_n_steps != self._step // self.every_n_steps:
            self.save_last(kept=f"step_{step}")  # a batch can take several steps
        self._step = step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at the end of an epoch."""
        self._due = f"epoch_{trainer.current_epoch + 1}"

    def save_last(self, kept: str = "") -> None:
        """Let `last.ckpt` be saved after this batch; call it right after an optimizer step.

        Args:
            kept: Name of a permanent copy, without suffix; empty for no copy.
        """
        self._due = self._due or kept

    def after_batch(self, trainer: Trainer) -> None:
        """Save if a checkpoint is due, unless the end of the epoch follows, which saves."""
        if self._due is None or lightning.ends_epoch(trainer):
            return
        if self.within_epochs:
            self._save(trainer, is_within_epoch=True)
        elif not self._is_said:
            self._is_said = True
            say(
                "these data can't resume within an epoch: the run will resume from the end of the "
                "previous epoch"
            )

    def after_epoch(self, trainer: Trainer) -> None:
        """Save."""
        self._save(trainer, is_within_epoch=False)

    def _save(self, trainer: Trainer, *, is_within_epoch: bool) -> None:
        kept = self._due or ""
        self._due = None
        is_finite = True  # this process's part of sharded weights
        for weights in trainer.lightning_module.parameters():
            parts = strided(weights.detach())
            is_finite = is_finite and all(part.isfinite().all() for part in parts)
        if not trainer.strategy.reduce_boolean_decision(is_finite):
            self.refuse(f"weights are not finite at step {trainer.global_step}")
            return
        self.is_over = trainer.should_stop
        for logger in trainer.loggers:
            logger.save()
        path = self.path(trainer, LAST)
        prepared = self.path(trainer, LAST + PREPARED)
        others = trainer.strategy.checkpoint_io
        trainer.strategy.checkpoint_io = self.files
        try:
            with lightning.counted_as_in_hooks(trainer, is_within_epoch=is_within_epoch):
                trainer.save_checkpoint(prepared)
        finally:
            trainer.strategy.checkpoint_io = others
        if trainer.is_global_zero:
            # It may be missing: that it could not be written was reported.
            with contextlib.suppress(FileNotFoundError):
                self.rename(prepared, path, kept)
        trainer.strategy.barrier()

    def refuse(self, why: str) -> None:
        """Report that the previous checkpoint is kept; a subclass may end the run."""
        if not self._is_refused:
            self._is_refused = True
            say(f"{why}: the last checkpoint with finite weights is kept")

    def rename(self, prepared: Path, path: Path, kept: str) -> None:
        """Rename a prepared checkpoint; a subclass may keep copies."""
        prepared.replace(path)

    def path(self, trainer: Trainer, name: str) -> Path:
        """Return the path of a checkpoint."""
        return (self.directory or Path(trainer.default_root_dir)) / "checkpoints" / name
