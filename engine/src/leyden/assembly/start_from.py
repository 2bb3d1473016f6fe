"""The starting point of a run: nothing, its checkpoint, or another run's state or weights."""

import contextlib
import copy
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn.parameter import is_lazy

from leyden.assembly.instantiate import user_errors
from leyden.assembly.optimizers import match_names
from leyden.assembly.trainer import RunTrainer, num_logged, num_processes_at
from leyden.base.errors import UserError, as_line, is_mistake
from leyden.base.terminal import relative_path, some_of, warn
from leyden.callbacks.checkpoint import RunCheckpoint
from leyden.callbacks.hyperparameters import Hyperparameters, loss_buffers
from leyden.config.checks import objective_of
from leyden.config.values import ABSENT, differing, flatten
from leyden.data.contract import Facts, facts_of
from leyden.exact import ExactError
from leyden.exact.checkpoint import SafeCheckpointIO
from leyden.exact.files import (
    check_bounds,
    damage,
    make_folder,
    opened,
    read_bounded,
    replacing,
    take_format,
)
from leyden.exact.memory import read_plain
from leyden.exact.processes import is_communication_error
from leyden.run.curves import read_points, write_points
from leyden.run.directory import Run, changed_names, trained_on
from leyden.run.files import (
    MAX_TABLE_BYTES,
    read_fingerprints,
    sha256_of,
    write_fingerprints,
    write_whole,
)
from leyden.run.fork import parse_parent
from leyden.run.identity import identity_values
from leyden.run.keys import Role, has
from leyden.run.process import is_main_process
from leyden.tasks import Task

# What a run's checkpoint has at its root, with the types; and the callbacks whose states it has.
CONTENT = {
    "state_dict": dict,
    "global_step": int,
    "loops": dict,
    "optimizer_states": list,
    "callbacks": dict,
}
STATES = {"RankState", Hyperparameters.state_key, RunCheckpoint.state_key}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a run's checkpoint, with the facts of its data as `Facts`.

    Raises:
        UserError: The file is not the checkpoint of a run.
    """
    try:
        content = SafeCheckpointIO().load_checkpoint(path)
    # a stranger's file may be wrong in any way; the message of one that is refused names it
    except Exception as error:
        line = as_line(error)
        raise UserError(line if str(path) in line else f"{path}: {line}") from error
    with user_errors(f"{path}: not the checkpoint of a run"):
        wrong = {name for name, kind in CONTENT.items() if not isinstance(content.get(name), kind)}
        if missing := wrong or STATES - {*content["callbacks"]}:
            raise ValueError(f"it has no valid {min(missing)}")
        # What is needed before Lightning restores its loops.
        num_logged(content)
        num_processes_at(content)
        content["facts"] = Facts.from_state(content["facts"])
    return content


@contextlib.contextmanager
def reporting_restore_errors(trainer: RunTrainer, path: Path | None) -> Iterator[None]:
    """Context that reports errors before the first batch of a resumed run, as `Resumed.load` does.

    Lightning restores its loops and callbacks when it loads the checkpoint. Leyden's callbacks
    restore a part in their start hooks.

    Raises:
        UserError: The checkpoint can't be resumed from, or not exactly.
    """
    try:
        yield
    except ExactError as error:
        raise UserError(str(error)) from error
    except Exception as error:
        is_known = is_mistake(error) or is_communication_error(
            error, trainer.position.num_processes
        )
        if path and not trainer.position.has_trained and not is_known:
            raise UserError(f"{path}: does not fit this run ({as_line(error)})") from error
        raise


class StartingPoint:
    """The starting point of a run; this one is nothing: a new run.

    Attributes:
        content: Content of the checkpoint that training resumes from; None without one.
        step: Number of optimizer steps in this checkpoint.
        num_processes: Number of processes that trained it.
        recorded: The parent, as recorded in a start; None without one.
    """

    content: dict[str, Any] | None = None
    step = 0
    num_processes = 1
    recorded: dict[str, Any] | None = None

    def check_data(self, digests: Mapping[str, str]) -> None:
        """Check the data, by what identifies them, before anything of the run directory changes."""

    def check_processes(self, num: int) -> None:
        """Check the number of processes that train together."""

    def load(self, module: L.LightningModule, data: L.LightningDataModule) -> None:
        """Load what a module takes before training, and check the rest.

        The run directory does not change.
        """

    def begin(self, run: Run) -> Path | None:
        """Prepare a run directory in the main process.

        Return the checkpoint to resume from, None without one.
        """
        return None

    def in_words(self) -> str:
        """Return which weights a module has been given, in words; empty for none of another run."""
        return ""


class Resumed(StartingPoint):
    """The checkpoint that a run resumes from.

    Args:
        run: The run whose checkpoint it is.
        path: Path of the checkpoint.
        content: Its content.
    """

    def __init__(self, run: Run, path: Path, content: dict[str, Any]) -> None:
        self.run = run
        self.path = path
        self.content = content
        self.step: int = content["global_step"]
        self.num_processes = num_processes_at(content)

    def check_data(self, digests: Mapping[str, str]) -> None:
        """Check that the data are those that the run was trained on.

        Raises:
            UserError: They differ.
        """
        if names := changed_names(trained_on(self.run), digests):
            raise UserError(
                f"{self.run.directory}: the data differ from those that it was trained on: "
                f"{', '.join(names)}; restore those data to resume it, or choose another run_dir"
            )

    def check_processes(self, num: int) -> None:
        """Check that the run has as many processes as before.

        Raises:
            UserError: Their number has changed.
        """
        if self.num_processes != num:
            raise UserError(
                f"{self.run.directory} was trained by {self.num_processes} processes, this run "
                f"would have {num}, and their number can't change; set trainer.devices and "
                "trainer.num_nodes to match, or choose another run_dir"
            )

    def load(self, module: L.LightningModule, data: L.LightningDataModule) -> None:
        """Check that the run can resume here, but for the weights, which Lightning checks.

        Its content is released.

        Raises:
            UserError: The checkpoint is damaged, of other data, or its optimizer has other
                parameters.
        """
        assert self.content is not None
        content, self.content = self.content, None  # which frees its memory
        with user_errors(str(self.path)):
            if content["facts"] != facts_of(data):
                raise ValueError("the data set is not the one that this run was trained on")
            # Of another module, they are known once Lightning has configured them.
            if not isinstance(module, Task):
                return
            configured = module.configure_optimizers()
            optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
            # Optimizer states are stored by parameter number; in another order, other parameters
            # would get them.
            (state,) = content["optimizer_states"]
            groups = state["param_groups"]
            own_groups = optimizer.state_dict()["param_groups"]
            stored = [group.get("param_names") for group in groups]
            own = [group.get("param_names") for group in own_groups]
            if stored != own:
                raise ValueError("the optimizer's groups have different parameters")

    def begin(self, run: Run) -> Path:
        """Return the checkpoint to resume from."""
        return self.path


def once(read: dict[str, Any] | None, key: str, make: Callable[[], Any]) -> Any:
    """Return what `make` makes, or what earlier checks have read by this key.

    None: read it anew.
    """
    if read is None:
        return make()
    if key not in read:
        read[key] = make()
    return read[key]


def starting_point(cfg: DictConfig, run: Run, read: dict[str, Any] | None = None) -> StartingPoint:
    """Return where a run starts from.

    Args:
        cfg: The run's configuration.
        run: Its directory.
        read: What earlier checks have read, to which this call adds a fork's checkpoint.

    Raises:
        UserError: A checkpoint can't be read, or the settings don't allow to start from it.
    """
    is_fast = cfg.trainer.get("fast_dev_run")
    own = run.newest_checkpoint()
    if own is None and run.result and run.result.is_complete and is_main_process():
        warn(
            f"{run.directory}: has finished, but no checkpoint is left to resume from, so it is "
            "trained anew"
        )
    if cfg.fork and not _has_begun(run, own):
        if is_fast:
            raise UserError(
                "fork: trainer.fast_dev_run never starts from a checkpoint; remove one of the two"
            )
        return read_fork(cfg, read)
    if own and not is_fast:
        return Resumed(run, own, read_checkpoint(own))
    return read_parent(cfg) or StartingPoint()


class InitFrom(StartingPoint):
    """The weights of another run's checkpoint, for `init_from`.

    Args:
        path: Path of the checkpoint.
        sha256: SHA-256 of the file.
        weights: State dict of the module trained in that run.
        exclude: Patterns of names that the run does not take.
    """

    def __init__(
        self, path: Path, sha256: str, weights: dict[str, Any], exclude: Sequence[str] = ()
    ) -> None:
        self.path, self.weights, self.exclude = path, weights, list(exclude)
        self.recorded = {"checkpoint": str(path), "sha256": sha256}

    def load(self, module: L.LightningModule, data: L.LightningDataModule) -> None:
        """Load the weights into a module, and release them; excluded ones stay as initialised.

        Raises:
            UserError: They don't fit.
        """
        weights = self.fitting(module)
        with user_errors(f"init_from: {self.path}"):
            module.load_state_dict(weights, strict=False)
        self.weights = {}

    def in_words(self) -> str:
        """Return the checkpoint, and the patterns of weights that were not taken from it."""
        without = f", without {some_of(self.exclude)}" if self.exclude else ""
        return f"weights: {relative_path(self.path)}{without}"

    def fitting(self, module: L.LightningModule) -> dict[str, Any]:
        """Return the weights that a module takes, without the excluded ones.

        Buffers of the module's `loss`, such as class weights, are settings of the run and are never
        taken.

        Raises:
            UserError: A pattern matches nothing; or a weight is missing in one of the two modules,
                or has another shape.
        """
        own, settings = module.state_dict(), loss_buffers(module)
        names = [name for name in {**self.weights, **own} if name not in settings]
        with user_errors("init_exclude"):
            excluded = {*match_names(names, self.exclude), *settings}
        there = {name: each for name, each in self.weights.items() if name not in excluded}
        here = {name: each for name, each in own.items() if name not in excluded}
        wrong = _misfits(there, here)
        if wrong:
            raise UserError(
                f"init_from: {self.path}: {some_of(wrong)}; init_exclude=[PATTERN,...] excludes "
                "weights"
            )
        return there


def read_parent(cfg: DictConfig) -> InitFrom | None:
    """Return the weights that `init_from` names; None for a run without.

    Raises:
        UserError: The parent can't be read.
    """
    if cfg.init_from is None:
        return None
    with user_errors("init_exclude"):
        exclude = list(cfg.init_exclude)
    parent, name = parse_parent(cfg.init_from, "best")
    path = parent.directory / "checkpoints" / f"{name}.ckpt"
    if problem := damage(path):
        raise UserError(f"init_from: {path}: {problem}; must be a run directory, or null")
    with contextlib.suppress(UserError):  # its weights are used without its record, too
        if is_main_process() and (other := parent.other_checkpoint(name)):
            warn(f"init_from: {other}; its weights are used")
    with (
        user_errors(f"init_from: {path}"),
        opened(path) as file,
    ):  # opened once, as it may be replaced meanwhile
        sha256 = sha256_of(file)
        check_bounds(file)
        try:
            content = read_plain(file, "cpu")
        except pickle.UnpicklingError as error:
            raise ValueError("is refused: it holds more than tensors and plain values") from error
        if isinstance(content, dict):
            take_format("checkpoint", content)
        weights = content.get("state_dict") if isinstance(content, dict) else None
        if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
            raise ValueError("not the checkpoint of a run: it has no weights")
        return InitFrom(path, sha256, weights, exclude)


class Fork(Resumed):
    """The state of another run that a fork starts from.

    Args:
        parent: The other run.
        path: Path of its checkpoint.

    Raises:
        UserError: The checkpoint can't be read.
    """

    def __init__(self, parent: Run, path: Path) -> None:
        with opened(path) as file:
            self.sha256 = sha256_of(file)
        content = read_checkpoint(path)
        super().__init__(parent, path, content)
        with user_errors(f"fork: {path}: not the checkpoint of a run"):
            loops = content["loops"]["fit_loop"]
            self.is_within_epoch = not loops["epoch_loop.batch_progress"]["is_last_batch"]
            self.num_epochs = int(loops["epoch_progress"]["current"]["processed"])
            self.selection = content["callbacks"][RunCheckpoint.state_key]
            self.is_over = bool(self.selection["is_over"])
            # Bytes of the parent's curves at this step.
            self.logged = content.get("logged", {}).get("MetricsCSV")
        self.recorded = {"checkpoint": str(path), "sha256": self.sha256, "step": self.step}

    def check_changes(self, cfg: DictConfig) -> None:
        """Check that each setting that differs from the parent's takes effect in the fork.

        Raises:
            UserError: A changed setting would have no effect, or is not allowed to change.
        """
        config: Any = OmegaConf.to_container(cfg, resolve=True)
        old, new = (identity_values(dict(flatten(each))) for each in (self.run.config, config))
        # A key that one of them lacks counts as null: its class may have got it since.
        nothing = {repr(None), repr(ABSENT)}
        for key, (a, b) in differing(old, new).items():
            if key == "fork" or {repr(a), repr(b)} == nothing:
                continue
            is_known_callback = key.startswith("callbacks.") and key in old
            if has(key, Role.PARENT) or is_known_callback:
                raise UserError(
                    f"fork: {self.path}: {key}: {a} there, {b} here: a fork keeps its parent's "
                    "splits and the state of its parts; init_from loads only the weights"
                )
            if self.is_within_epoch and has(key, Role.EPOCH):
                raise UserError(
                    f"fork: {self.path}: {key} can't be changed within an epoch; fork from the end "
                    "of an epoch"
                )
        self.has_ended = self.is_over or self.num_epochs >= cfg.trainer.max_epochs
        # By another objective, another epoch may have been the best, whose checkpoint was not kept.
        objective = objective_of(self.run.config["objective"])
        self.has_best = bool(self.selection["best"]) and objective == objective_of(cfg.objective)

    def _best_checkpoint(self) -> Path | None:
        """Return the checkpoint of the best epoch up to this state; None if it was not kept."""
        if not self.has_best:
            return None
        best_at = self.selection["best_at"]
        for name in ("best", f"epoch_{best_at[0]}"):
            other = self.path.with_name(f"{name}.ckpt")
            if damage(other) or self.run.other_checkpoint(name):
                continue
            if read_checkpoint(other)["callbacks"][RunCheckpoint.state_key]["best_at"] == best_at:
                return other
        warn(
            f"fork: {self.path.parent}: the best epoch until then is not kept; the best epoch from "
            "here on is used instead"
        )
        return None

    def check_data(self, digests: Mapping[str, str]) -> None:
        """Warn if the data or the code differ from the parent's."""
        names = changed_names(trained_on(self.run), digests)
        if names and is_main_process():
            warn(f"fork: the data differ from those of {self.run.directory}: {', '.join(names)}")
        self.run.warn_of_changed_code("the fork is trained with the code as it is now")

    def load(self, module: L.LightningModule, data: L.LightningDataModule) -> None:
        """Check that shapes and facts are the parent's, and the rest as a resumed run does.

        Raises:
            UserError: A shape or a fact differs, or the parent has ended.
        """
        assert self.content is not None
        module.configure_model()  # may create the network; Lightning's second call changes nothing
        why = ""
        wrong = _misfits(self.content["state_dict"], module.state_dict())
        if wrong:
            why = f"{some_of(wrong)}; a fork must keep the network of its parent"
        elif self.content["facts"] != facts_of(data):
            why = "the data set is not the one that it was trained on"
        elif self.has_ended:
            why = (
                f"has ended after {self.num_epochs} epochs; set a larger trainer.max_epochs, or "
                "fork from an earlier checkpoint"
            )
        if why:
            raise UserError(f"fork: {self.path}: {why}")
        super().load(module, data)

    def begin(self, run: Run) -> Path:
        """Fill a run directory as if its run had been interrupted at this step.

        Curves and fingerprints up to the step are copied from the parent. `last.ckpt` is written
        last: if it is missing, the next start does all of this again.

        Raises:
            UserError: The parent's checkpoint has changed since it was read.
        """
        folder = run.directory / "checkpoints"
        if not is_main_process():
            return folder / "last.ckpt"
        source = self.run.directory / "metrics.csv"
        curves = run.directory / "metrics.csv"
        if self.logged is not None and source.exists():
            write_whole(curves, read_bounded(source, MAX_TABLE_BYTES)[: self.logged])
        else:
            write_points(curves, [point for point in read_points(source) if point[0] < self.step])
        known = read_fingerprints(self.run.directory)
        until = {step: each for step, each in known.items() if step <= self.step}
        write_fingerprints(run.directory, until)
        make_folder(folder)
        best = self._best_checkpoint()
        if best:
            _copy(best, folder / "best.ckpt")
        _copy(self.path, folder / "last.ckpt", self.sha256)
        return folder / "last.ckpt"


def _copy(source: Path, target: Path, sha256: str = "") -> None:
    with opened(source) as original, replacing(target) as file:
        if sha256 and sha256_of(original) != sha256:
            raise UserError(
                f"fork: {source}: has changed since it was read; run the same command again"
            )
        original.seek(0)
        shutil.copyfileobj(original, file)


def _has_begun(run: Run, newest: Path | None) -> bool:
    """Return whether a fork has its parent's state, and resumes from its own checkpoint."""
    if newest is None:
        return False
    parents = [start.get("parent") or {} for start in run.starts]
    begun = [parent["step"] for parent in parents if "step" in parent]
    return bool(begun and read_checkpoint(newest)["global_step"] >= begun[0])


def read_fork(cfg: DictConfig, read: dict[str, Any] | None) -> Fork:
    """Return the state that a new fork starts from.

    Raises:
        UserError: It can't be read, or a changed setting would have no effect.
    """
    parent, name = parse_parent(cfg.fork, trust=cfg.trust)
    parent.check_owner()
    path = parent.checkpoint(name)
    fork: Fork = copy.copy(once(read, f"fork {path}", lambda: Fork(parent, path)))
    fork.check_changes(cfg)
    return fork


def _misfits(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return in words which weights only one of two state dicts has, or in another shape.

    A lazy layer's weights get their shape by the first batch, or from the checkpoint.
    """
    lazy = {name for name, each in here.items() if is_lazy(each)}
    shapes_there = {name: _shape(each) for name, each in there.items() if name not in lazy}
    shapes_here = {name: _shape(each) for name, each in here.items() if name not in lazy}
    found = differing(shapes_there, shapes_here)
    return [f"{name} is {a} there and {b} here" for name, (a, b) in found.items()]


def _shape(each: Any) -> str:
    """Return the shape of a weight as text; the type of what is no tensor or has no shape yet."""
    is_known = isinstance(each, Tensor) and not is_lazy(each)
    return str(tuple(each.shape)) if is_known else f"a {type(each).__name__}"
