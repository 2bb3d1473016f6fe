"""The state that a fork starts from: a checkpoint of its parent, which becomes its own."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig
from torch import Tensor

from leyden.assembly.changes import check_changes
from leyden.assembly.resume import kept_facts, num_epochs, read_checkpoint
from leyden.callbacks.checkpoint import RunCheckpoint
from leyden.config.mistakes import UserError
from leyden.config.objective import objectives
from leyden.config.terminal import warn
from leyden.data.contract import facts_of
from leyden.run.contents import RunContents
from leyden.run.directory import Run
from leyden.run.files import damage, digest, replacing
from leyden.run.fingerprints import read_fingerprints, write_fingerprints
from leyden.run.fork import point
from leyden.run.points import rows, write_rows


@dataclass(frozen=True)
class Fork:
    """A state of another run.

    Args:
        parent: That run.
        path: Of the checkpoint.
        content: Of that.
        sha256: Of its bytes.
        best: The checkpoint of the best epoch until then; None where it is not kept.
    """

    parent: RunContents
    path: Path
    content: dict[str, Any]
    sha256: str
    best: Path | None

    @property
    def step(self) -> int:
        """The optimizer step after which it parts from its parent."""
        return int(self.content["global_step"])

    @property
    def origin(self) -> dict[str, Any]:
        """What `provenance.json` tells of it."""
        return {"checkpoint": str(self.path), "sha256": self.sha256, "step": self.step}

    def check(self, module: L.LightningModule, data: L.LightningDataModule) -> None:
        """Make sure that network and data are those of the parent.

        Raises:
            UserError: They are not.
        """
        there = _shapes(self.content["state_dict"])
        here = _shapes(module.state_dict())
        if apart := [name for name in {**there, **here} if there.get(name) != here.get(name)]:
            name = apart[0]
            raise UserError(
                f"fork: {self.path}: {name} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} here; a fork "
                "has the network of its parent"
            )
        if kept_facts(self.content, self.path) != facts_of(data):
            raise UserError(f"fork: {self.path}: the data set is not the one that it was trained on")

    def begin(self, run: Run) -> None:
        """Make the directory that of a run which was interrupted at this step.

        Curves and fingerprints until then are those of the parent. The last checkpoint comes last: without it all is done anew.

        Raises:
            UserError: The checkpoint of the parent has changed meanwhile.
        """
        curves = "metrics.csv"
        points = [row for row in rows(self.parent.directory / curves) if int(row[0]) < self.step]
        write_rows(run.directory / curves, points)
        known = read_fingerprints(self.parent.directory)
        write_fingerprints(run.directory, {step: each for step, each in known.items() if step <= self.step})
        folder = run.directory / "checkpoints"
        folder.mkdir(exist_ok=True)
        for source, name in ((self.best, "best"), (self.path, "last")):
            if source:
                with replacing(folder / f"{name}.ckpt") as file, source.open("rb") as there:
                    if source == self.path and digest(there) != self.sha256:
                        raise UserError(
                            f"fork: {source}: has changed since it was read; the same command tries again"
                        )
                    there.seek(0)
                    shutil.copyfileobj(there, file)


def read_fork(cfg: DictConfig, run: Run) -> Fork | None:
    """The state that a run is to start from; None for one that is no fork, or has begun.

    Raises:
        UserError: The state can't be read, or this run can't go on from it.
    """
    if cfg.fork is None:
        return None
    begun = [start["parent"]["step"] for start in run.starts if "step" in (start.get("parent") or {})]
    newest = run.newest_checkpoint()
    if newest and begun and read_checkpoint(newest)["global_step"] >= begun[0]:
        return None
    if cfg.trainer.get("fast_dev_run"):
        raise UserError("fork: trainer.fast_dev_run goes on from nothing; take one of the two away")
    parent, name = point(cfg.fork)
    path = _find(parent, name)
    with path.open("rb") as file:
        sha256 = digest(file)
    content = read_checkpoint(path)
    check_changes(cfg, parent, path, content)
    # By another objective another epoch may have been the best one, which is not kept.
    same = objectives(parent.config["objective"]) == objectives(cfg.objective)
    return Fork(parent, path, content, sha256, _best(path, content) if same else None)


def check_fork(
    cfg: DictConfig, module: L.LightningModule, data: L.LightningDataModule, known: dict[str, Any]
) -> None:
    """Make sure that a run can start from the state that it is to start from.

    Args:
        cfg: Of the run.
        module: What it trains, on any device, the one without memory, too.
        data: On what.
        known: States that were read before, by `fork`; this one is added.

    Raises:
        UserError: It can't.
    """
    run = Run(cfg.run_dir)
    if cfg.fork is None or (run.result and run.result.has_ended_well):
        return
    key = f"fork={cfg.fork}"
    if fork := known.get(key):
        check_changes(cfg, fork.parent, fork.path, fork.content)
    elif (fork := read_fork(cfg, run)) is None:
        return
    known[key] = fork
    fork.check(module, data)


def _find(parent: RunContents, name: str) -> Path:
    """The checkpoint of a name; that of an epoch can be the best or the last one, too.

    Raises:
        UserError: It is not there, or damaged.
    """
    folder = parent.directory / "checkpoints"
    path = folder / f"{name}.ckpt"
    if parent.config and not path.exists() and name.startswith("epoch_"):
        for other in (folder / "last.ckpt", folder / "best.ckpt"):
            if not damage(other) and num_epochs(read_checkpoint(other)) == int(name.partition("_")[2]):
                return other
    if problem := damage(path):
        there = ", ".join(sorted(other.stem for other in folder.glob("*.ckpt"))) or "none"
        raise UserError(
            f"fork: {path}: {problem} (checkpoints there: {there}; callbacks.checkpoint.keep=every keeps one per epoch)"
        )
    return path


def _best(path: Path, content: dict[str, Any]) -> Path | None:
    """The checkpoint of the best epoch until that of `path`, by the metrics that both have of it."""
    best = content["callbacks"][RunCheckpoint.state_key]["best"]
    if not best:
        return None
    for other in [path, *sorted({*path.parent.glob("*.ckpt")} - {path})]:  # `best.ckpt` is the first of the others
        if damage(other) or num_epochs(there := read_checkpoint(other)) is None:
            continue
        state = there["callbacks"].get(RunCheckpoint.state_key, {})
        if repr(state.get("best")) == repr(best) == repr(state.get("last")):  # texts: a metric can be no number
            return other
    warn(f"fork: {path.parent}: the best epoch until then is not kept; the best one from there on takes its place")
    return None


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    """The shape of each weight; a module's extra state has none."""
    return {name: tuple(each.shape) if isinstance(each, Tensor) else () for name, each in state.items()}
