"""Checkpoints: when they are written, which one is the best, and how files are written and read.

A checkpoint is written to a temporary file, so that a crash or a full disk leaves the previous one. It is renamed
only after all metrics up to its step are logged, since a resumed run does not log these again. Reading a checkpoint
executes no code from it.
"""

import contextlib
import copy
import io
import math
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import CheckpointIO

from leyden.config.errors import UserError
from leyden.config.terminal import warn
from leyden.exact.lightning import logged_steps
from leyden.exact.stages import stages_of
from leyden.run.files import damage, replacing
from leyden.run.lock import check_held

# Checkpoint keys of `save_hyperparameters`. They are left out, since their values can have any type and are in the
# configuration.
HYPERPARAMETERS = tuple(
    key
    for made in (L.LightningModule, L.LightningDataModule)
    for key in (
        made.CHECKPOINT_HYPER_PARAMS_KEY,
        made.CHECKPOINT_HYPER_PARAMS_NAME,
        made.CHECKPOINT_HYPER_PARAMS_TYPE,
    )
)
ARRAYS = "numpy_arrays"  # checkpoint key of the paths to tensors that were NumPy arrays


class SafeCheckpointIO(CheckpointIO):
    """Writes checkpoints atomically, and reads only tensors and plain values.

    Hyperparameters saved by a module are left out. NumPy arrays are stored as tensors, and restored as arrays;
    NumPy scalars are stored as Python numbers.
    """

    def __init__(self) -> None:
        self._can_be_read = False  # verified with the first checkpoint
        self._folders: set[Path] = set()  # to which checkpoints were written

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write to a temporary file beside `path`, then rename it, so that a failure leaves the older checkpoint.

        Raises:
            UserError: The checkpoint contains a value that could not be read again.
        """
        path = Path(path)
        path.parent.mkdir(exist_ok=True)  # no `parents`: a deleted run directory is not recreated
        places: list[list[Any]] = []
        kept = {key: value for key, value in checkpoint.items() if key not in HYPERPARAMETERS}
        kept = _arrays_to_tensors(kept, [], places)
        if places:
            kept = {**kept, ARRAYS: places}
        try:
            buffer = _serialize(kept)
            if not self._can_be_read:
                _check_readable(buffer)
                self._can_be_read = True
        except Exception as error:
            if (culprit := _find_unreadable(kept, ())) is None:
                raise
            raise _unreadable_error(*culprit) from error
        with replacing(path) as file:
            file.write(buffer.getbuffer())
        self._folders.add(path.parent.resolve())

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint, always with `weights_only`.

        Raises:
            ValueError: The file contains objects other than tensors and plain values (none of their code was
                executed), or is not a run's checkpoint.
        """
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(f"{path} is refused: it holds more than tensors and plain values") from error
        if not isinstance(checkpoint, dict) or not {"state_dict", "global_step", "callbacks"} <= set(checkpoint):
            raise ValueError(f"{path}: not the checkpoint of a run")
        try:
            return _tensors_to_arrays(checkpoint, checkpoint.pop(ARRAYS, []))  # type: ignore[no-any-return]
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not the checkpoint of a run: {ARRAYS} is invalid") from error

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint in a folder to which this process has written one; any other file stays, with a line.

        A callback such as Lightning's `ModelCheckpoint` has the path from a checkpoint, which is not trusted.
        """
        path = Path(path)
        if path.parent.resolve() in self._folders:
            path.unlink(missing_ok=True)
        else:
            warn(f"{path}: is not deleted, since this run has written no checkpoint to that folder")


def find_unreadable(content: Any) -> tuple[str, str] | None:
    """Return key and type of the first value that a checkpoint can't hold; None if it can hold all of them."""
    return _find_unreadable(_arrays_to_tensors(content, [], []), ())


def _unreadable_error(key: str, kind: str) -> UserError:
    return UserError(
        f"the checkpoint could not be read again: {key} is a {kind}; on_save_checkpoint and state_dict of a module "
        "or callback may save only tensors, arrays and plain values; override on_save_checkpoint in a subclass to leave it out"
    )


def _check_hooks(trainer: L.Trainer) -> None:
    """Check what the hooks of module and data add to a checkpoint, before anything is trained.

    A hook may need attributes that are set only during training. So its errors are ignored here; writing the first checkpoint
    raises them. A resumed run omits this check: hooks may draw random numbers or change attributes, and would do so
    once more than in an uninterrupted run.

    Raises:
        UserError: A hook adds a value that can't be read again.
    """
    module, data = trainer.lightning_module, getattr(trainer, "datamodule", None)
    for made in (module, data):
        content = {"state_dict": module.state_dict(), "epoch": 0, "global_step": 0}
        before = {*content}
        with contextlib.suppress(Exception):
            if made is not None:
                made.on_save_checkpoint(content)
        added = {key: value for key, value in content.items() if key not in {*before, *HYPERPARAMETERS}}
        if culprit := find_unreadable(added):
            raise _unreadable_error(*culprit)


def load_weights(module: L.LightningModule, content: dict[str, Any], *, strict: bool = True) -> None:
    """Load a checkpoint's weights into a module and call its `on_load_checkpoint`, as Lightning does.

    Args:
        module: The module.
        content: Content of the checkpoint.
        strict: False if the module may have weights that the checkpoint lacks.

    Raises:
        ValueError: The module lacks some of the weights. PyTorch itself does not report weights of a submodule that
            is None.
    """
    module.configure_model()
    module.on_load_checkpoint(content)
    if lacking := sorted({*content["state_dict"]} - {*module.state_dict()}):
        raise ValueError(f"there is no {lacking[0]}; create all modules in the constructor or in configure_model")
    module.load_state_dict(content["state_dict"], strict=strict)


def _serialize(content: Any) -> io.BytesIO:
    buffer = io.BytesIO()  # torch's own writer would hide a full disk behind another error
    torch.save(content, buffer)
    return buffer


def _check_readable(buffer: io.BytesIO) -> None:
    buffer.seek(0)
    torch.load(buffer, map_location="meta", weights_only=True)  # reads everything except the tensors' values


def _as_metrics(values: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in values.items()}


class Moment(NamedTuple):
    """When a checkpoint's metrics were measured.

    Args:
        epoch: Number of the epoch, counted from 1.
        step: Step at which the epoch's metrics were logged.
    """

    epoch: int
    step: int


def _as_moment(state: Mapping[str, Any]) -> Moment | None:
    """Return when the best epoch was; None in checkpoints of earlier versions, which did not record it."""
    at = state.get("best_at")
    return None if at is None else Moment(*map(int, at))


def _children(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, dict):
        yield from node.items()
    elif type(node) in (list, tuple):
        yield from enumerate(node)


def _arrays_to_tensors(node: Any, place: list[Any], places: list[list[Any]]) -> Any:
    """Return a copy with tensors in place of arrays, and append their keys to `places`; `node` is unchanged."""
    if type(node) is np.ndarray and node.dtype.kind in "biufc":
        places.append(place)
        return torch.from_numpy(node.astype(node.dtype.newbyteorder("="), order="C"))
    if isinstance(node, np.generic):
        return node.item()
    changed = {}
    for key, value in _children(node):
        if (new := _arrays_to_tensors(value, [*place, key], places)) is not value:
            changed[key] = new
    return _copy_with(node, changed) if changed else node


def _tensors_to_arrays(node: Any, places: Sequence[Sequence[Any]]) -> Any:
    """Return a copy with arrays in place of the tensors at these places."""
    if not places:
        return node
    if any(not place for place in places):
        return node.numpy(force=True)
    below: dict[Any, list[Sequence[Any]]] = {}
    for first, *rest in places:
        below.setdefault(first, []).append(rest)
    return _copy_with(node, {key: _tensors_to_arrays(node[key], inner) for key, inner in below.items()})


def _copy_with(node: Any, changed: dict[Any, Any]) -> Any:
    """Return a copy of a dictionary, list or tuple with some of its values replaced."""
    new = list(node) if isinstance(node, tuple) else copy.copy(node)
    for key, value in changed.items():
        new[key] = value
    return tuple(new) if isinstance(node, tuple) else new


def _find_unreadable(node: Any, place: tuple[Any, ...]) -> tuple[str, str] | None:
    """Return key and type of the first value that can't be written and read again; None if there is none."""
    for key, value in _children(node):
        try:
            _check_readable(_serialize(value))
        except Exception:  # user classes may raise anything
            kind = type(value)
            here = ".".join(map(str, (*place, key))), f"{kind.__module__}.{kind.__qualname__}"
            return _find_unreadable(value, (*place, key)) or here
    return None


PREPARED = ".prepared"  # suffix of a checkpoint that is not committed yet


class CheckpointFiles:
    """Files `checkpoints/last.ckpt` and `checkpoints/best.ckpt` of a run, each replaced atomically.

    A run that resumes from a checkpoint logs only the steps after it. So a checkpoint is committed only when the
    metrics of all steps up to it have been written.

    Args:
        state_key: Key of the state that contains the metrics of the best epoch.
        max_kept_bytes: Maximum total size of kept copies, such as `epoch_3.ckpt`; 0 for no copies.
    """

    def __init__(self, state_key: str, max_kept_bytes: int) -> None:
        self.state_key, self.max_kept_bytes = state_key, max_kept_bytes
        self._prepared: dict[str, str] = {}  # name of the copy to keep, by file name
        self._is_full = False

    def prepare(self, trainer: L.Trainer, name: str, kept: str = "") -> None:
        """Write a checkpoint beside its path.

        Args:
            trainer: Lightning's trainer.
            name: `last.ckpt` or `best.ckpt`.
            kept: Name of a permanent copy, without suffix; empty for no copy.
        """
        trainer.save_checkpoint(self._path(trainer, name + PREPARED))
        self._prepared[name] = kept

    def commit(self, trainer: L.Trainer) -> None:
        """Rename the prepared checkpoints to their paths."""
        if not self._prepared:
            return
        for logger in trainer.loggers:
            logger.save()
        if trainer.is_global_zero:
            for name in sorted(self._prepared):  # best.ckpt first, since last.ckpt records which one is the best
                path = self._path(trainer, name)
                prepared = path.with_name(name + PREPARED)
                if self.max_kept_bytes and (kept := self._prepared[name]):
                    self._keep_copy(prepared, path.with_name(f"{kept}.ckpt"))
                prepared.replace(path)
        trainer.strategy.barrier()
        self._prepared = {}

    def _keep_copy(self, path: Path, kept: Path) -> None:
        """Hard-link a file, or copy it if the file system has no hard links.

        Deletes the oldest kept files beyond the size limit.
        """
        kept.unlink(missing_ok=True)  # exists if an earlier start was interrupted after this training step
        try:
            kept.hardlink_to(path)
        except OSError:
            with replacing(kept) as file, path.open("rb") as source:
                shutil.copyfileobj(source, file)
        kept_files = sorted(
            (each for kind in ("epoch", "step") for each in kept.parent.glob(f"{kind}_*.ckpt")),
            key=lambda each: each.stat().st_mtime_ns,
        )
        while len(kept_files) > 1 and sum(each.stat().st_size for each in kept_files) > self.max_kept_bytes:
            if not self._is_full:
                self._is_full = True
                warn(
                    f"{kept.parent}: callbacks.checkpoint.max_kept_gib is reached: the oldest checkpoints are deleted"
                )
            kept_files.pop(0).unlink()

    def drop(self, trainer: L.Trainer) -> None:
        """Delete checkpoints that are prepared but not committed."""
        if trainer.is_global_zero:
            for name in ("best.ckpt", "last.ckpt"):
                self._path(trainer, name + PREPARED).unlink(missing_ok=True)

    def read_best(self, trainer: L.Trainer, otherwise: str) -> tuple[dict[str, float], Moment | None] | None:
        """Return the metrics recorded in `best.ckpt`, and when they were measured; None if it can't be read.

        A warning then reports the error and the consequence, `otherwise`.
        """
        path, best = self._path(trainer, "best.ckpt"), None
        try:
            if problem := damage(path):
                raise ValueError(problem)
            state = SafeCheckpointIO().load_checkpoint(path)["callbacks"][self.state_key]
            best = _as_metrics(state["best"]), _as_moment(state)
        except Exception as error:  # a damaged file may raise anything
            if trainer.is_global_zero:
                warn(f"{path} is lost ({' '.join(str(error).split())}): {otherwise}")
        trainer.strategy.barrier()  # so that all processes have read the same file
        return best

    def take_last_as_best(self, trainer: L.Trainer, metrics: Mapping[str, float]) -> None:
        """Write the last checkpoint as the best one, with these metrics."""
        if trainer.is_global_zero:
            files = SafeCheckpointIO()
            content = files.load_checkpoint(self._path(trainer, "last.ckpt"))
            content["callbacks"][self.state_key].update(best=dict(metrics), best_at=None)
            files.save_checkpoint(content, self._path(trainer, "best.ckpt"))
        trainer.strategy.barrier()

    @staticmethod
    def _path(trainer: L.Trainer, name: str) -> Path:
        directory = Path(trainer.default_root_dir)
        check_held(directory)
        return directory / "checkpoints" / name


# End of the error messages about an objective that is never validated.
NO_VALIDATION = (
    "no epoch of this run ends with a validation, which selects the best one; check trainer.max_steps, "
    "check_val_every_n_epoch and val_check_interval, or set objective=null"
)


class RunCheckpoint(Checkpoint):
    """Writes `checkpoints/last.ckpt` and `checkpoints/best.ckpt` in the run directory.

    `last.ckpt` is written at the end of each epoch, after validation, and every `every_n_steps`; `best.ckpt` at the
    end of an epoch with the best objective so far, or of every epoch if there is no objective.

    Lightning passes a step's metrics to the loggers after all hooks of that step. So a checkpoint is only prepared
    in these hooks (`CheckpointFiles`), and committed in the next hook.

    With `keep_all`, each `last.ckpt` is also kept as `epoch_3.ckpt`, or `step_900.ckpt` within an epoch.

    Args:
        metric: Name of the objective, or a list, whose first entry selects the best epoch; None for no objective.
        mode: `min` or `max`, or a list of these.
        every_n_steps: Optimizer steps between writes of `last.ckpt` within an epoch; None for none.
        keep_all: True to keep all checkpoints.
        max_kept_gib: Maximum total size of the kept checkpoints, in GiB; the oldest are deleted.

    Raises:
        FloatingPointError: Weights are not finite; the previous checkpoint is kept.
    """

    state_key = "RunCheckpoint"  # fixed key in the checkpoint, independent of the class name

    def __init__(
        self,
        *,
        metric: Any,
        mode: Any,
        every_n_steps: int | None,
        keep_all: bool,
        max_kept_gib: float,
    ) -> None:
        if every_n_steps is not None and (type(every_n_steps) is not int or every_n_steps < 1):
            raise ValueError(f"every_n_steps={every_n_steps}: must be a positive whole number or null")
        if type(keep_all) is not bool:
            raise ValueError(f"keep_all={keep_all}: must be true or false")
        if type(max_kept_gib) not in (int, float) or not 0 < max_kept_gib < math.inf:
            raise ValueError(f"max_kept_gib={max_kept_gib}: must be a positive number")
        objectives = metric if isinstance(metric, list) else [metric]
        # Metrics that the best epoch must have. `num_parameters` as a second objective is computed after training.
        self.needed = [
            name for name in objectives if name is not None and (name != "num_parameters" or name == objectives[0])
        ]
        if isinstance(metric, list):
            metric, mode = metric[0], mode[0]
        if metric is not None and mode not in ("min", "max"):
            raise ValueError(f"mode={mode}: must be min or max; it follows from objective.mode")
        self.metric: str | None = metric
        self.mode = mode
        self.every_n_steps = every_n_steps
        self._is_better: Callable[[float, float], bool] = float.__lt__ if mode == "min" else float.__gt__
        self.best: dict[str, float] = {}  # metrics of the best epoch
        self.best_at: Moment | None = None  # None: unknown
        self.last: dict[str, float] = {}  # metrics of the last epoch
        self.is_over = False  # whether the run was stopped, for example by early stopping
        # Whether a run can resume within an epoch; otherwise `last.ckpt` is from the end of an epoch.
        self.within_epochs = True
        self.validates = True  # whether any epoch ends with a validation run
        self._stage = ""  # stage that logged the objective in the best epoch
        self._step = 0
        self._was_best = False
        self._files = CheckpointFiles(self.state_key, round(max_kept_gib * 2**30) if keep_all else 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the metrics of the best and of the last epoch, and whether training has been stopped."""
        at = None if self.best_at is None else list(self.best_at)
        return {"best": self.best, "best_at": at, "last": self.last, "is_over": self.is_over, "stage": self._stage}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state, but for `best_at`, which `on_fit_start` reads from `best.ckpt`."""
        self.best, self.last = _as_metrics(state_dict["best"]), _as_metrics(state_dict["last"])
        self.is_over = bool(state_dict["is_over"])
        self._stage = str(state_dict["stage"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check hooks at the first start; end training again if it was stopped, for example by early stopping."""
        if trainer.ckpt_path is None:
            _check_hooks(trainer)
        self._step = trainer.global_step
        trainer.should_stop = trainer.should_stop or self.is_over

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace the resumed checkpoint's best metrics by those in `best.ckpt`; drop them if this file is lost."""
        self._files.drop(trainer)
        self._was_best = bool(self.best)
        if self._was_best:
            found = self._files.read_best(trainer, "the best epoch from here on is used instead")
            self.best, self.best_at = found or ({}, None)

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
        """Write `best.ckpt`, if this epoch is the best, then `last.ckpt`."""
        metrics = stages_of(trainer).end_epoch(trainer)
        for name in self.needed:
            if name not in metrics:
                self._check_missing(trainer, name)
        # Exclude the last step's value of a metric that also has a mean over the epoch.
        steps = {f"{name}_step" for name in metrics}
        self.last = {name: value for name, value in metrics.items() if name not in steps}
        self.is_over = trainer.should_stop
        stage = stages_of(trainer).names.get(self.metric or "", "")
        if self._is_best(metrics, stage):
            self.best, self._stage = self.last, stage
            self.best_at = Moment(trainer.current_epoch + 1, logged_steps(trainer) - 1)
            self._save(trainer, "best.ckpt")
        self._save(trainer, "last.ckpt", f"epoch_{trainer.current_epoch + 1}")

    def save_last(self, trainer: L.Trainer, kept: str = "") -> None:
        """Prepare `last.ckpt` within an epoch, right after an optimizer step.

        Args:
            trainer: Lightning's trainer.
            kept: Name of a permanent copy, without suffix; empty for no copy.
        """
        if self.within_epochs:
            self._save(trainer, "last.ckpt", kept)
        elif trainer.is_global_zero:
            warn("these data can't resume within an epoch: the run will resume from the end of the previous epoch")

    def commit(self, trainer: L.Trainer, *args: Any) -> None:
        """Commit the prepared checkpoints, in the first hook after the loggers have received the step's metrics."""
        self._files.commit(trainer)

    on_train_batch_start: Any = commit
    on_train_epoch_start: Any = commit
    on_train_end: Any = commit

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Use the last weights as the best ones if `best.ckpt` is lost and no later epoch has replaced it."""
        lost = self._was_best or self.best
        if lost and self._files.read_best(trainer, "the last weights are used instead") is None:
            self.best, self.best_at = (self.last if self.metric in (None, *self.last) else {}), None
            self._files.take_last_as_best(trainer, self.best)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Discard prepared checkpoints, since their metrics were not written."""
        self._files.drop(trainer)

    def _is_best(self, metrics: dict[str, float], stage: str) -> bool:
        if self.metric is None:
            return True
        if not {*self.needed} <= {*metrics}:  # no validation in this epoch
            return False
        best = self.best.get(self.metric, math.nan)
        # A best value from another stage, such as training, is not comparable.
        if math.isnan(best) or self._stage != stage:
            return True
        return self._is_better(metrics[self.metric], best)

    def _check_missing(self, trainer: L.Trainer, name: str) -> None:
        """Check that an objective that is missing in this epoch can still be logged in a later one.

        Raises:
            UserError: No later epoch can log it.
        """
        stages = stages_of(trainer)
        stage, logs = stages.names.get(name), ", ".join(sorted(stages.names)) or "nothing"
        if stage is None and stages.has_validated:
            raise UserError(f"objective.metric={name}: is not logged; the run logs {logs}")
        if stage is None and not self.validates:
            epoch = trainer.current_epoch + 1
            raise UserError(f"objective.metric={name}: was not logged in epoch {epoch}, and {NO_VALIDATION}")
        if stage == "val" and not self.validates:
            raise UserError(f"objective.metric={name}: is logged in validation, and {NO_VALIDATION}")

    def no_best_reason(self, trainer: L.Trainer) -> str:
        """Return the reason why a run has ended without a best epoch."""
        stages = stages_of(trainer)
        name = next((name for name in self.needed if name not in stages.names), self.needed[0])
        if stages.names.get(name) == "val":
            return f"objective.metric={name}: the run has ended before an epoch ended with a validation"
        before = "" if stages.has_validated or not self.validates else " before its first validation"
        return f"objective.metric={name}: was not logged when the run ended{before}"

    def _save(self, trainer: L.Trainer, name: str, kept: str = "") -> None:
        if not all(parameter.isfinite().all() for parameter in trainer.lightning_module.parameters()):
            raise FloatingPointError(
                f"weights are not finite at step {trainer.global_step}; try a smaller optimizer.lr"
            )
        self._files.prepare(trainer, name, kept)
