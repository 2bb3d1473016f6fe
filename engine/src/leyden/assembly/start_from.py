"""Starting a run from a checkpoint: its own (resume), or a parent's weights (`init_from`) or state (`fork`)."""

import contextlib
import itertools
import pickle
import shlex
import shutil
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors import checkpoint_connector
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn.parameter import is_lazy

from leyden.assembly.instantiate import user_errors
from leyden.assembly.run_trainer import RunTrainer, num_logged
from leyden.callbacks.checkpoint import RunCheckpoint, SafeCheckpointIO
from leyden.callbacks.hyperparameters import Hyperparameters, loss_buffers
from leyden.config.errors import UserError
from leyden.config.objective import objectives
from leyden.config.paths import LIBRARY
from leyden.config.terminal import some_of, warn
from leyden.config.values import ABSENT, differing, flatten
from leyden.data.contract import facts_of
from leyden.data.facts import Facts
from leyden.data.splits import SPLIT_KEYS
from leyden.run.directory import Run, RunContents
from leyden.run.files import damage, read_fingerprints, replacing, sha256_of, write_fingerprints
from leyden.run.fork import parse_fork
from leyden.run.identity import identity_values
from leyden.run.result import read_rows, write_rows
from leyden.tasks.parameters import match_names
from leyden.tasks.task import Task

# The required keys of a checkpoint, with their types.
CHECKPOINT_KEYS = {
    "state_dict": dict,
    "global_step": int,
    "callbacks": dict,
    "loops": dict,
    "optimizer_states": list,
}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a run's checkpoint.

    Raises:
        UserError: The file is not the checkpoint of a run.
    """
    with user_errors(str(path)):
        content = SafeCheckpointIO().load_checkpoint(path)
        for key, kind in CHECKPOINT_KEYS.items():
            if not isinstance(content.get(key), kind):
                raise ValueError(f"not the checkpoint of a run: it has no {key}")
        state = content["callbacks"].get("RankState")
        if not isinstance(state, dict) or not isinstance(state.get("processes"), list):
            raise ValueError("not the checkpoint of a run: it has no random states")
        if Hyperparameters.state_key not in content["callbacks"] or "seed" not in state:
            raise ValueError("not the checkpoint of a run: it does not record the settings of its optimizer")
        try:
            num_logged(content)  # loggers need it, before `check_fits` can compare the loops with a trainer's
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("not the checkpoint of a run: its number of steps is unknown") from error
    return content


def check_fits(
    content: dict[str, Any],
    path: Path,
    module: L.LightningModule,
    data: L.LightningDataModule,
    trainer: RunTrainer,
) -> None:
    """Check that a run can resume from a checkpoint, before its directory changes.

    Raises:
        UserError: The checkpoint is damaged, or does not fit the module or the data.
    """
    try:
        buffers = loss_buffers(module)
        module.load_state_dict(content["state_dict"])
        module.load_state_dict(buffers, strict=False)  # settings, which a fork may change
        if isinstance(module, Task):  # for other modules, Lightning restores the optimizers in `fit`
            _check_optimizer(module, content)
        if kept_facts(content, path) != facts_of(data):
            raise ValueError("the data set is not the one that this run was trained on")
        own = {
            "loops": {"fit_loop": trainer.trainer.fit_loop.state_dict()},
            "callbacks": {trainer.timer.state_key: trainer.timer.state_dict()},
        }
        _check_numbers(own, content, "checkpoint")
    except Exception as error:  # a checkpoint may come from a stranger, and be wrong in any way
        raise _misfit_error(path, error) from error


def _check_numbers(own: Any, stored: Any, name: str) -> None:
    """Check that each number in Lightning's own state is one in the checkpoint, too, as far as both have its key.

    Lightning checks nothing when it restores its loops and its timer. A wrong value would fail in training.
    """
    if isinstance(own, dict):
        if not isinstance(stored, dict):
            raise TypeError(f"{name} is {stored!r}")
        for key in own.keys() & stored.keys():  # Lightning adds the keys that its earlier versions lack
            _check_numbers(own[key], stored[key], f"{name}.{key}")
    elif isinstance(own, int | float) and not isinstance(stored, int | float):
        raise TypeError(f"{name} is {stored!r}")


def _check_optimizer(module: Task, content: dict[str, Any]) -> None:
    configured = module.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    (state,) = content["optimizer_states"]
    both = state["param_groups"], optimizer.state_dict()["param_groups"]
    # Optimizer states are stored by parameter number; in another order, other parameters would get them.
    stored_names, own_names = ([each.get("param_names") for each in groups] for groups in both)
    if stored_names != own_names:
        raise ValueError("the optimizer's groups have different parameters")
    for stored, own in zip(*both, strict=True):
        for key, value in own.items():
            allowed = (int, float) if type(value) in (int, float) else type(value)
            if not isinstance(stored.get(key, value), allowed):
                raise TypeError(f"the optimizer's {key} is {stored[key]!r}")
    optimizer.load_state_dict(state)


def kept_facts(content: dict[str, Any], path: Path) -> Facts:
    """Return the facts of the data that a checkpoint's run was trained on.

    Raises:
        UserError: The checkpoint has no valid facts.
    """
    try:
        return Facts.from_state(content["facts"])
    except Exception as error:  # a checkpoint may come from a stranger, and be wrong in any way
        raise UserError(f"{path}: has no facts of the data ({type(error).__name__})") from error


def num_epochs(content: dict[str, Any]) -> int | None:
    """Return the number of epochs that had ended at a checkpoint; None for a checkpoint within an epoch."""
    loops = content["loops"]["fit_loop"]
    ended = loops["epoch_loop.batch_progress"]["is_last_batch"]
    return int(loops["epoch_progress"]["current"]["processed"]) if ended else None


@contextlib.contextmanager
def reporting_restore_errors(trainer: RunTrainer, path: Path | None) -> Iterator[None]:
    """Context that reports an error in restoring loops and callbacks, as `check_fits` does.

    Lightning restores them when it loads the checkpoint. Leyden's callbacks restore a part in their start hooks.

    Raises:
        UserError: The checkpoint can't be resumed from.
    """
    try:
        yield
    except Exception as error:
        has_trained = trainer.position.has_trained
        if path and not has_trained and not isinstance(error, UserError) and _is_restoring(error.__traceback__):
            raise _misfit_error(path, error) from error
        raise


def _is_restoring(trace: TracebackType | None) -> bool:
    """Return whether an error was raised where Lightning restores a checkpoint, or in a start hook of Leyden."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace)]
    hooks = [called for caller, called in itertools.pairwise(files) if caller == call.__file__ != called]
    return checkpoint_connector.__file__ in files or bool(hooks and Path(hooks[-1]).is_relative_to(LIBRARY))


def _misfit_error(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: does not fit this run ({type(error).__name__}: {' '.join(str(error).split())})")


@dataclass(frozen=True)
class Parent:
    """The weights of another run's checkpoint, for `init_from`.

    Args:
        path: Path of the checkpoint.
        sha256: SHA-256 of the file.
        weights: State dict of the module trained in that run.
    """

    path: Path
    sha256: str
    weights: dict[str, Any]

    def fitting(self, module: L.LightningModule, exclude: Sequence[str]) -> dict[str, Any]:
        """Return the weights that a module takes from its parent, without the excluded ones.

        Buffers of the module's `loss`, such as class weights, are settings of the run and are never taken.

        Args:
            module: The module, on any device, including the meta device.
            exclude: Patterns of names to exclude.

        Raises:
            UserError: A pattern matches nothing; all weights are excluded; or a weight is missing in one of the two
                modules, or has another shape.
        """
        own = module.state_dict()
        settings = loss_buffers(module)
        names = [name for name in {**self.weights, **own} if name not in settings]
        with user_errors("init_exclude"):
            excluded = {*match_names(names, list(exclude))}
        shapes = {name: (_shape(self.weights, name), _shape(own, name)) for name in names if name not in excluded}
        wrong = {name: f"{name} is {a} there and {b} here" for name, (a, b) in shapes.items() if a != b}
        layers = dict.fromkeys(map(_layer, wrong))
        if all(_layer(name) in layers for name in shapes):
            why = some_of([*wrong.values()]) or f"{_init_exclude_override(exclude)} excludes all weights"
            raise UserError(f"init_from: {self.path}: has no weights to start from: {why}")
        if wrong:
            override = shlex.quote(_init_exclude_override([*exclude, *layers]))
            raise UserError(f"init_from: {self.path}: {some_of([*wrong.values()])}; {override} excludes these")
        return {name: self.weights[name] for name in shapes}


def load_parent_weights(cfg: DictConfig, module: L.LightningModule) -> dict[str, str] | None:
    """Load the parent's weights into a run's module; excluded weights stay as initialised.

    Returns:
        The parent as recorded in a start; None for a run without parent.

    Raises:
        UserError: The parent can't be read, or its weights don't fit the module.
    """
    parent = read_parent(cfg)
    if parent is None:
        return None
    weights = parent.fitting(module, cfg.init_exclude)
    with user_errors(f"init_from: {parent.path}"):
        module.load_state_dict(weights, strict=False)
    return {"checkpoint": str(parent.path), "sha256": parent.sha256}


def check_parent(cfg: DictConfig, module: L.LightningModule, known: dict[str, Any]) -> None:
    """Check that a run can start from its parent's weights, unless it will resume from checkpoints of its own.

    Args:
        cfg: The run's configuration.
        module: The module that it trains.
        known: A cache of parents, by `init_from`; this call adds to it.

    Raises:
        UserError: The parent can't be read, or its weights don't fit the module.
    """
    run = RunContents(cfg.run_dir)
    if cfg.fork or any((run.directory / "checkpoints").glob("*.ckpt")) or (run.result and run.result.is_complete):
        return
    if parent := known.get(cfg.init_from) or read_parent(cfg):
        known[cfg.init_from] = parent
        parent.fitting(module, cfg.init_exclude)


def read_parent(cfg: DictConfig) -> Parent | None:
    """Return the parent that `init_from` names; None for a run without parent.

    Raises:
        UserError: The parent can't be read, or `init_exclude` is set without `init_from`.
    """
    if cfg.init_from is None:
        if cfg.init_exclude:
            raise UserError(
                f"init_exclude={cfg.init_exclude}: excludes weights of a run, which init_from=DIR must name"
            )
        return None
    directory, _, name = cfg.init_from.rpartition("@")
    if name not in ("best", "last"):
        directory, name = cfg.init_from, "best"
    path = Path(directory) / "checkpoints" / f"{name}.ckpt"
    with user_errors(f"init_from: {path}"):
        if not Path(directory).is_dir():
            raise UserError(f"init_from={directory}: no such folder; must be a run directory, or null")
        if problem := damage(path):
            names = ", ".join(sorted(other.stem for other in path.parent.glob("*.ckpt"))) or "none"
            raise UserError(f"init_from: {path}: {problem} (checkpoints there: {names}; DIR@last is the last one)")
        return _read_parent_file(path)


def _read_parent_file(path: Path) -> Parent:
    with path.open("rb") as file:  # opened once, as the file may be replaced meanwhile
        sha256 = sha256_of(file)
        file.seek(0)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError("is refused: it holds more than tensors and plain values") from error
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise ValueError("not the checkpoint of a run: it has no weights")
    return Parent(path, sha256, weights)


def _shape(weights: Mapping[str, Any], name: str) -> str:
    if name not in weights:
        return "absent"
    weight = weights[name]
    return str(tuple(weight.shape)) if isinstance(weight, torch.Tensor) else f"a {type(weight).__name__}"


def _init_exclude_override(patterns: Sequence[str]) -> str:
    return f"init_exclude=[{','.join(patterns)}]"


def _layer(name: str) -> str:
    """Return a pattern that matches all weights of the same layer, such as `network.head.*`."""
    layer, dot, _ = name.rpartition(".")
    return f"{layer}.*" if dot else name


# Keys of parts whose state comes from the parent's checkpoint; a fork can't change them.
FIXED_KEYS = ("init_from", "init_exclude", "freeze", "optimizer._target_", "callbacks.")
# Keys that determine the batches and optimizer steps of an epoch.
EPOCH_KEYS = ("seed", "data.", "trainer.limit_train_batches", "trainer.accumulate_grad_batches")


def check_changes(cfg: DictConfig, parent: RunContents, path: Path, content: dict[str, Any]) -> None:
    """Check that each setting that differs from the parent's takes effect in the fork.

    Raises:
        UserError: A changed setting would have no effect, or is not allowed to change.
    """
    where = f"fork: {path}"
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    old, new = (identity_values(dict(flatten(each))) for each in (parent.config, config))
    # A key that one of them lacks counts as null: its class may have got it since.
    nothing = {repr(None), repr(ABSENT)}
    changed = {
        key: pair for key, pair in differing(old, new).items() if key != "fork" and {*map(repr, pair)} != nothing
    }
    state = content["callbacks"]
    for key, (a, b) in changed.items():
        is_averaging = "averaging" in f"{key}{b}"
        if key.startswith(FIXED_KEYS) and (key in old or not key.startswith("callbacks.") or is_averaging):
            raise UserError(
                f"{where}: {key}: {a} there, {b} here: its state comes from the parent; init_from loads only the weights"
            )
        if key in SPLIT_KEYS:
            raise UserError(
                f"{where}: {key}: {a} there, {b} here: the fork would be validated on samples that its parent was trained "
                "on; keep the parent's value"
            )
    within = num_epochs(content) is None
    if within and (refused := [key for key in changed if key.startswith(EPOCH_KEYS)]):
        raise UserError(f"{where}: {refused[0]} can't be changed within an epoch; fork from the end of an epoch")
    if state[RunCheckpoint.state_key]["is_over"]:
        raise UserError(f"{where}: that run had ended there; fork from an earlier checkpoint")
    epochs = content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    for key, has, unit in (("max_epochs", epochs, "epochs"), ("max_steps", content["global_step"], "steps")):
        most = cfg.trainer.get(key)
        if most not in (None, -1) and has >= most:
            raise UserError(f"{where}: has {has} {unit}, and trainer.{key}={most} leaves none to train")


@dataclass(frozen=True)
class Fork:
    """The state of another run that a fork starts from.

    Args:
        parent: The other run.
        path: Path of its checkpoint.
        content: Content of the checkpoint.
        sha256: SHA-256 of the file.
        best: The checkpoint of the best epoch up to that state; None if it was not kept.
    """

    parent: RunContents
    path: Path
    content: dict[str, Any]
    sha256: str
    best: Path | None

    @property
    def step(self) -> int:
        """The last optimizer step that the fork shares with its parent."""
        return int(self.content["global_step"])

    @property
    def origin(self) -> dict[str, Any]:
        """The parent, as recorded in a start."""
        return {"checkpoint": str(self.path), "sha256": self.sha256, "step": self.step}

    def check(self, module: L.LightningModule, data: L.LightningDataModule) -> None:
        """Check that the shapes of all weights and the facts of the data equal the parent's.

        Raises:
            UserError: A shape or a fact differs.
        """
        module.configure_model()  # may create the network; Lightning's second call changes nothing
        parent = _shapes(self.content["state_dict"])
        own = _shapes(module.state_dict())
        # The first batch sets the shape of a lazy layer's weights.
        lazy = {name for name, weight in module.state_dict().items() if is_lazy(weight)}
        if different := [
            name for name in {**parent, **own} if parent.get(name) != own.get(name) and name not in lazy
        ]:
            name = different[0]
            raise UserError(
                f"fork: {self.path}: {name} is {parent.get(name, 'absent')} there and {own.get(name, 'absent')} here; a fork "
                "must keep the network of its parent"
            )
        if kept_facts(self.content, self.path) != facts_of(data):
            raise UserError(f"fork: {self.path}: the data set is not the one that it was trained on")

    def begin(self, run: Run) -> None:
        """Fill a run directory as if its run had been interrupted at this step.

        Curves and fingerprints up to the step are copied from the parent. `last.ckpt` is written last: if it is
        missing, the next start does all of this again.

        Raises:
            UserError: The parent's checkpoint has changed since it was read.
        """
        curves = "metrics.csv"
        points = [row for row in read_rows(self.parent.directory / curves) if int(row[0]) < self.step]
        write_rows(run.directory / curves, points)
        known = read_fingerprints(self.parent.directory)
        write_fingerprints(run.directory, {step: each for step, each in known.items() if step <= self.step})
        folder = run.directory / "checkpoints"
        folder.mkdir(exist_ok=True)
        for source, name in ((self.best, "best"), (self.path, "last")):
            if source:
                with replacing(folder / f"{name}.ckpt") as file, source.open("rb") as original:
                    if source == self.path and sha256_of(original) != self.sha256:
                        raise UserError(
                            f"fork: {source}: has changed since it was read; run the same command again"
                        )
                    original.seek(0)
                    shutil.copyfileobj(original, file)


def read_fork(cfg: DictConfig, run: Run) -> Fork | None:
    """Return the state that a fork starts from; None for a run that is no fork, or that resumes.

    Raises:
        UserError: The state can't be read, or the fork's settings don't allow it.
    """
    if cfg.fork is None:
        return None
    begun = [start["parent"]["step"] for start in run.starts if "step" in (start.get("parent") or {})]
    newest = run.newest_checkpoint()
    if newest and begun and read_checkpoint(newest)["global_step"] >= begun[0]:
        return None
    if cfg.trainer.get("fast_dev_run"):
        raise UserError("fork: trainer.fast_dev_run never starts from a checkpoint; remove one of the two")
    parent, name = parse_fork(cfg.fork)
    path = _find_checkpoint(parent, name)
    with path.open("rb") as file:
        sha256 = sha256_of(file)
    content = read_checkpoint(path)
    check_changes(cfg, parent, path, content)
    # With another objective, another epoch may have been the best, whose checkpoint was not kept.
    same = objectives(parent.config["objective"]) == objectives(cfg.objective)
    return Fork(parent, path, content, sha256, _best_checkpoint(path, content) if same else None)


def check_fork(
    cfg: DictConfig, module: L.LightningModule, data: L.LightningDataModule, known: dict[str, Any]
) -> None:
    """Check that a fork can start from its parent's state.

    Args:
        cfg: The fork's configuration.
        module: The module that it trains, on any device, including the meta device.
        data: The data that it trains on.
        known: A cache of states, by `fork`; this call adds to it.

    Raises:
        UserError: The state can't be read, or does not fit.
    """
    run = Run(cfg.run_dir)
    if cfg.fork is None or (run.result and run.result.is_complete):
        return
    key = f"fork={cfg.fork}"
    if fork := known.get(key):
        check_changes(cfg, fork.parent, fork.path, fork.content)
    elif (fork := read_fork(cfg, run)) is None:
        return
    known[key] = fork
    fork.check(module, data)


def _find_checkpoint(parent: RunContents, name: str) -> Path:
    """Return the path of a checkpoint by name; for `epoch_N`, also of a `last.ckpt` or `best.ckpt` of that epoch.

    Raises:
        UserError: The checkpoint is missing or damaged.
    """
    folder = parent.directory / "checkpoints"
    path = folder / f"{name}.ckpt"
    if parent.config and not path.exists() and name.startswith("epoch_"):
        for other in (folder / "last.ckpt", folder / "best.ckpt"):
            if not damage(other) and num_epochs(read_checkpoint(other)) == int(name.partition("_")[2]):
                return other
    if problem := damage(path):
        names = ", ".join(sorted(other.stem for other in folder.glob("*.ckpt"))) or "none"
        raise UserError(
            f"fork: {path}: {problem} (checkpoints there: {names}; callbacks.checkpoint.keep_all=true keeps those of each epoch, and of every_n_steps)"
        )
    return path


def _best_checkpoint(path: Path, content: dict[str, Any]) -> Path | None:
    """Return the checkpoint of the best epoch up to that of `path`, identified by its metrics; None if not kept."""
    best = content["callbacks"][RunCheckpoint.state_key]["best"]
    if not best:
        return None
    for other in [
        path,
        *sorted({*path.parent.glob("*.ckpt")} - {path}),
    ]:  # `best.ckpt` sorts first among the others
        if damage(other) or num_epochs(candidate := read_checkpoint(other)) is None:
            continue
        state = candidate["callbacks"].get(RunCheckpoint.state_key, {})
        if (
            repr(state.get("best")) == repr(best) == repr(state.get("last"))
        ):  # compared as strings, as a metric may be NaN
            return other
    warn(f"fork: {path.parent}: the best epoch until then is not kept; the best epoch from here on is used instead")
    return None


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shape of each weight; () for a module's extra state and for a lazy layer without a shape yet."""
    return {
        name: tuple(each.shape) if isinstance(each, Tensor) and not is_lazy(each) else ()
        for name, each in state.items()
    }
