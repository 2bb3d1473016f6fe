"""Checkpoints: when they are written, which is the best, and how files are written and read.

A crash, a full disk or a stranger's file does no harm: files are prepared beside their places, which they take when
their points are written, and nothing in them is executed when they are read.
"""

import copy
import io
import math
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import CheckpointIO

from leyden.callbacks.logged_metrics import stages_of
from leyden.config.errors import UserError
from leyden.config.terminal import warn
from leyden.run.files import damage, replacing
from leyden.run.lock import check_held

# What Lightning adds of `save_hyperparameters`: arguments of any kind, as networks, which the configuration has already.
HYPERPARAMETERS = tuple(
    key
    for made in (L.LightningModule, L.LightningDataModule)
    for key in (
        made.CHECKPOINT_HYPER_PARAMS_KEY,
        made.CHECKPOINT_HYPER_PARAMS_NAME,
        made.CHECKPOINT_HYPER_PARAMS_TYPE,
    )
)
ARRAYS = "numpy_arrays"  # key of the places of tensors that were arrays


class SafeCheckpointIO(CheckpointIO):
    """Writes a checkpoint whole or not at all, and reads tensors and plain values only.

    Hyperparameters that a module has saved are left out. Arrays of NumPy are kept as tensors, and are arrays again when they are
    read; its scalars are kept as Python's numbers.
    """

    def __init__(self) -> None:
        self._can_be_read = False  # known by the first checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write to a temporary file beside `path`, then rename: whatever happens, the older one survives.

        Raises:
            UserError: The checkpoint holds what could not be read again.
        """
        path = Path(path)
        path.parent.mkdir(exist_ok=True)  # a run directory that was deleted is not made anew
        places: list[list[Any]] = []
        kept = {key: value for key, value in checkpoint.items() if key not in HYPERPARAMETERS}
        kept = _with_tensors(kept, [], places)
        if places:
            kept = {**kept, ARRAYS: places}
        try:
            buffer = _written(kept)
            if not self._can_be_read:
                _read(buffer)
                self._can_be_read = True
        except Exception as error:
            if (culprit := _culprit(kept, ())) is None:
                raise
            key, kind = culprit
            raise UserError(
                f"the checkpoint could not be read again: {key} is a {kind}; what on_save_checkpoint or state_dict of a module "
                "or callback keeps must be tensors, arrays and plain values"
            ) from error
        with replacing(path) as file:
            file.write(buffer.getbuffer())

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint; as weights only, whatever is asked for.

        Raises:
            ValueError: It holds more than tensors and plain values, nothing of which was executed; or it is
                no checkpoint of a run.
        """
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(f"{path} is refused: it holds more than tensors and plain values") from error
        if not isinstance(checkpoint, dict) or not {"state_dict", "global_step", "callbacks"} <= set(checkpoint):
            raise ValueError(f"{path}: not the checkpoint of a run")
        try:
            return _with_arrays(checkpoint, checkpoint.pop(ARRAYS, []))  # type: ignore[no-any-return]
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not the checkpoint of a run: {ARRAYS} names none") from error

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)


def load_weights(module: L.LightningModule, content: dict[str, Any]) -> None:
    """Give a module the weights of a checkpoint, and what it keeps there itself, as Lightning does.

    Raises:
        ValueError: It has no place for some: PyTorch says nothing where a part is None, and may be made later.
    """
    module.configure_model()
    module.on_load_checkpoint(content)
    if lacking := sorted({*content["state_dict"]} - {*module.state_dict()}):
        raise ValueError(f"there is no {lacking[0]}; make all parts in the constructor or in configure_model")
    module.load_state_dict(content["state_dict"])


def _written(content: Any) -> io.BytesIO:
    buffer = io.BytesIO()  # torch's own writer would hide the error of a full disk behind another one
    torch.save(content, buffer)
    return buffer


def _read(buffer: io.BytesIO) -> None:
    buffer.seek(0)
    torch.load(buffer, map_location="meta", weights_only=True)  # all but the numbers


def _children(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, dict):
        yield from node.items()
    elif type(node) in (list, tuple):
        yield from enumerate(node)


def _with_tensors(node: Any, place: list[Any], places: list[list[Any]]) -> Any:
    """Return a node with tensors for the arrays below it, whose places are added to `places`; it is left as it is."""
    if type(node) is np.ndarray and node.dtype.kind in "biufc":
        places.append(place)
        return torch.from_numpy(node.astype(node.dtype.newbyteorder("="), order="C"))
    if isinstance(node, np.generic):
        return node.item()
    changed = {}
    for key, value in _children(node):
        if (new := _with_tensors(value, [*place, key], places)) is not value:
            changed[key] = new
    return _replaced(node, changed) if changed else node


def _with_arrays(node: Any, places: Sequence[Sequence[Any]]) -> Any:
    """Return a node with arrays again for the tensors at these places."""
    if not places:
        return node
    if any(not place for place in places):
        return node.numpy(force=True)
    below: dict[Any, list[Sequence[Any]]] = {}
    for first, *rest in places:
        below.setdefault(first, []).append(rest)
    return _replaced(node, {key: _with_arrays(node[key], inner) for key, inner in below.items()})


def _replaced(node: Any, changed: dict[Any, Any]) -> Any:
    """Return a copy of a dictionary, list or tuple with some of its values replaced."""
    new = list(node) if isinstance(node, tuple) else copy.copy(node)
    for key, value in changed.items():
        new[key] = value
    return tuple(new) if isinstance(node, tuple) else new


def _culprit(node: Any, place: tuple[Any, ...]) -> tuple[str, str] | None:
    """Return the key and the type of the first value that can't be written and read; None where each can."""
    for key, value in _children(node):
        try:
            _read(_written(value))
        except Exception:  # whatever its class raises
            kind = type(value)
            here = ".".join(map(str, (*place, key))), f"{kind.__module__}.{kind.__qualname__}"
            return _culprit(value, (*place, key)) or here
    return None


PREPARED = ".prepared"  # behind the name of a checkpoint that has not taken it yet


class CheckpointFiles:
    """`checkpoints/last.ckpt` and `checkpoints/best.ckpt` of a run, each there whole or as it was before.

    A run that goes on from a checkpoint logs what comes after it. So a checkpoint takes its place only when the points of
    all steps before it are written.

    Args:
        state_key: Under which a checkpoint keeps the metrics of the best epoch.
        max_kept_bytes: How much those may take that stay under names of their own; 0: none stays.
    """

    def __init__(self, state_key: str, max_kept_bytes: int) -> None:
        self.state_key, self.max_kept_bytes = state_key, max_kept_bytes
        self._prepared: dict[str, str] = {}  # with the name under which it stays
        self._is_full = False

    def prepare(self, trainer: L.Trainer, name: str, kept: str = "") -> None:
        """Write a checkpoint beside its place; `kept` is the name under which it may stay when another one takes its place."""
        trainer.save_checkpoint(self._path(trainer, name + PREPARED))
        self._prepared[name] = kept

    def commit(self, trainer: L.Trainer) -> None:
        """Let what is prepared take its place."""
        if not self._prepared:
            return
        for logger in trainer.loggers:
            logger.save()
        if trainer.is_global_zero:
            for name in sorted(self._prepared):  # the best one first: the last one tells which it is
                path = self._path(trainer, name)
                prepared = path.with_name(name + PREPARED)
                if self.max_kept_bytes and (kept := self._prepared[name]):
                    self._keep(prepared, path.with_name(f"{kept}.ckpt"))
                prepared.replace(path)
        trainer.strategy.barrier()
        self._prepared = {}

    def _keep(self, path: Path, kept: Path) -> None:
        """Give a file one name more; on a disk that knows no such thing, a copy."""
        kept.unlink(missing_ok=True)  # of a run that has come here before
        try:
            kept.hardlink_to(path)
        except OSError:
            with replacing(kept) as file, path.open("rb") as source:
                shutil.copyfileobj(source, file)
        every = sorted(
            (each for kind in ("epoch", "step") for each in kept.parent.glob(f"{kind}_*.ckpt")),
            key=lambda each: each.stat().st_mtime_ns,
        )
        while len(every) > 1 and sum(each.stat().st_size for each in every) > self.max_kept_bytes:
            if not self._is_full:
                self._is_full = True
                warn(
                    f"{kept.parent}: callbacks.checkpoint.max_kept_gib is reached: the oldest checkpoints make room"
                )
            every.pop(0).unlink()

    def drop(self, trainer: L.Trainer) -> None:
        """Delete what is prepared, and has not taken its place."""
        if trainer.is_global_zero:
            for name in ("best.ckpt", "last.ckpt"):
                self._path(trainer, name + PREPARED).unlink(missing_ok=True)

    def read_best(self, trainer: L.Trainer, otherwise: str) -> dict[str, float] | None:
        """The metrics that `best.ckpt` has of itself; None if it is lost, and a line says what happens then."""
        path, best = self._path(trainer, "best.ckpt"), None
        try:
            if problem := damage(path):
                raise ValueError(problem)
            best = dict(SafeCheckpointIO().load_checkpoint(path)["callbacks"][self.state_key]["best"])
        except Exception as error:  # whatever there is in its place
            if trainer.is_global_zero:
                warn(f"{path} is lost ({' '.join(str(error).split())}): {otherwise}")
        trainer.strategy.barrier()  # all processes have seen the same
        return best

    def take_last_as_best(self, trainer: L.Trainer, metrics: Mapping[str, float]) -> None:
        """Write the last checkpoint as the best one, with these metrics."""
        if trainer.is_global_zero:
            files = SafeCheckpointIO()
            content = files.load_checkpoint(self._path(trainer, "last.ckpt"))
            content["callbacks"][self.state_key]["best"] = dict(metrics)
            files.save_checkpoint(content, self._path(trainer, "best.ckpt"))
        trainer.strategy.barrier()

    @staticmethod
    def _path(trainer: L.Trainer, name: str) -> Path:
        directory = Path(trainer.default_root_dir)
        check_held(directory)
        return directory / "checkpoints" / name


# What a refused objective is told, before training or when its stage is known.
NO_VALIDATION = (
    "the run validates at the end of no epoch, where the best one is chosen; mind trainer.max_steps, "
    "check_val_every_n_epoch and val_check_interval, or choose objective=null"
)


class RunCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt` and `checkpoints/best.ckpt` in the run directory.

    The last one is written at the end of each epoch, after validation, and each `every_n_steps`; the best one
    at the end of an epoch with the best objective so far, or of every epoch where there is no objective.

    Lightning passes the values of a step on to the loggers after all hooks of that step. So a checkpoint is only
    prepared there (`CheckpointFiles`), and takes its name in the next hook of all.

    With `keep="every"`, what was `last.ckpt` stays under a name of its own: `epoch_3.ckpt`, or `step_900.ckpt` within an epoch.

    Args:
        metric: Name of the objective, the first one of a list counts; None for none.
        mode: `min` or `max`, or the list of those.
        every_n_steps: Optimizer steps from one `last.ckpt` to the next within an epoch; None for none.
        keep: `every`, or None.
        max_kept_gib: How much the kept ones may take, in GiB; the oldest make room.

    Raises:
        FloatingPointError: Weights are no longer finite numbers; the last good checkpoint stays.
    """

    state_key = "RunCheckpoint"  # in the checkpoint, whatever the class is called

    def __init__(
        self,
        *,
        metric: Any,
        mode: Any,
        every_n_steps: int | None,
        keep: Literal["every"] | None,
        max_kept_gib: float,
    ) -> None:
        if every_n_steps is not None and (type(every_n_steps) is not int or every_n_steps < 1):
            raise ValueError(f"every_n_steps={every_n_steps}: must be a positive whole number or null")
        if keep not in (None, "every"):
            raise ValueError(f"keep={keep}: must be every, or null")
        if type(max_kept_gib) not in (int, float) or not 0 < max_kept_gib < math.inf:
            raise ValueError(f"max_kept_gib={max_kept_gib}: must be a positive number")
        every = metric if isinstance(metric, list) else [metric]
        # By an epoch that is the best; all epochs have their number of parameters in common.
        self.needed = [
            name for name in every if name is not None and (name != "num_parameters" or name == every[0])
        ]
        if isinstance(metric, list):
            metric, mode = metric[0], mode[0]
        if metric is not None and mode not in ("min", "max"):
            raise ValueError(f"mode={mode}: must be min or max; it follows from objective.mode")
        self.metric: str | None = metric
        self.mode = mode
        self.every_n_steps = every_n_steps
        self._is_better: Callable[[float, float], bool] = float.__lt__ if mode == "min" else float.__gt__
        self.best: dict[str, float] = {}  # all metrics of the best epoch
        self.last: dict[str, float] = {}  # those of the last one
        self.is_over = False  # something has stopped the run, as early stopping does
        self.within_epochs = True  # whether a run can go on from there; else `last.ckpt` is that of the last epoch
        self.validates = True  # whether any epoch ends with a validation
        self._stage = ""  # that has logged the objective in the best epoch
        self._step = 0
        self._was_best = False
        self._files = CheckpointFiles(self.state_key, round(max_kept_gib * 2**30) if keep else 0)

    def state_dict(self) -> dict[str, Any]:
        """The metrics of the best epoch so far, and of the last one; and whether that is the last one of all."""
        return {"best": self.best, "last": self.last, "is_over": self.is_over, "stage": self._stage}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them over."""
        self.best = state_dict["best"]
        self.last = state_dict["last"]
        self.is_over = state_dict["is_over"]
        self._stage = state_dict["stage"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End at once what was stopped before; go on counting steps."""
        self._step = trainer.global_step
        trainer.should_stop = trainer.should_stop or self.is_over

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Believe what the best checkpoint says of itself; forget a best epoch of which the weights are lost."""
        self._files.drop(trainer)
        self._was_best = bool(self.best)
        if self._was_best:
            self.best = self._files.read_best(trainer, "the best epoch from here on takes its place") or {}

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Write `last.ckpt` if it is time; at the end of an epoch that follows validation."""
        step = trainer.global_step
        # A step can take several batches; right after it no gradients are under way.
        if (
            self.every_n_steps
            and step // self.every_n_steps != self._step // self.every_n_steps  # a batch can take several steps
            and not trainer.is_last_batch
        ):
            self.save_last(trainer, kept=f"step_{step}")
        self._step = step

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save as best, if it is the best epoch, then as last."""
        metrics = stages_of(trainer).end_epoch(trainer)
        for name in self.needed:
            if name not in metrics:
                self._check_missing(trainer, name)
        # The value of a last step is no metric of an epoch that has a mean of it.
        steps = {f"{name}_step" for name in metrics}
        self.last = {name: value for name, value in metrics.items() if name not in steps}
        self.is_over = trainer.should_stop
        stage = stages_of(trainer).names.get(self.metric or "", "")
        if self._is_best(metrics, stage):
            self.best, self._stage = self.last, stage
            self._save(trainer, "best.ckpt")
        self._save(trainer, "last.ckpt", f"epoch_{trainer.current_epoch + 1}")

    def save_last(self, trainer: L.Trainer, kept: str = "") -> None:
        """Prepare `last.ckpt` within an epoch, right after an optimizer step; `kept` names what may stay of it."""
        if self.within_epochs:
            self._save(trainer, "last.ckpt", kept)
        elif trainer.is_global_zero:
            warn(
                "these data can't be gone on with within an epoch: the run will go on from the end of the last one"
            )

    def commit(self, trainer: L.Trainer, *args: Any) -> None:
        """Let what is prepared take its name; in the first hook after the loggers have got its points."""
        self._files.commit(trainer)

    on_train_batch_start: Any = commit
    on_train_epoch_start: Any = commit
    on_train_end: Any = commit

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the last weights as best, where those are lost and no epoch has followed: the run must have an end."""
        lost = self._was_best or self.best
        if lost and self._files.read_best(trainer, "the last weights take their place") is None:
            self.best = self.last if self.metric in (None, *self.last) else {}
            self._files.take_last_as_best(trainer, self.best)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Drop what is prepared: its points are not written."""
        self._files.drop(trainer)

    def _is_best(self, metrics: dict[str, float], stage: str) -> bool:
        if self.metric is None:
            return True
        if not {*self.needed} <= {*metrics}:  # an epoch without validation
            return False
        best = self.best.get(self.metric, math.nan)
        if math.isnan(best) or self._stage not in ("", stage):  # older checkpoints don't have the stage
            return True  # or the best so far was of training, before validation has logged the same name
        return self._is_better(metrics[self.metric], best)

    def _check_missing(self, trainer: L.Trainer, name: str) -> None:
        """Make sure that an objective which this epoch has no value of can come in a later one.

        Raises:
            UserError: It can't.
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

    def why_none_is_best(self, trainer: L.Trainer) -> str:
        """Return why a run has ended without a best epoch."""
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
