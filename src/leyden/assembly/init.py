"""The weights that a run starts from, where they are those of another run: its parent."""

import pickle
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig

from leyden.assembly.instantiate import user_errors
from leyden.callbacks.hyperparameters import chosen_buffers
from leyden.config.mistakes import UserError
from leyden.run.contents import RunContents
from leyden.run.files import damage, digest
from leyden.tasks.patterns import listed, matching


@dataclass(frozen=True)
class Parent:
    """A checkpoint of another run, of which the weights alone are read.

    Args:
        path: Of the file.
        sha256: Of its bytes.
        weights: By name, as the `state_dict()` of what was trained there.
    """

    path: Path
    sha256: str
    weights: dict[str, Any]

    def fitting(self, module: L.LightningModule, skip: Sequence[str]) -> dict[str, Any]:
        """The weights that a module takes over: all that are there and here, less those that are skipped.

        Buffers of its `loss`, as class weights, are none of them: they are choices of the run.

        Args:
            module: On any device, the one without memory, too.
            skip: Patterns of names.

        Raises:
            UserError: A pattern matches nothing, or nothing is left; or a weight is in one of the two only, or has
                another shape.
        """
        own = module.state_dict()
        chosen = chosen_buffers(module)
        names = [name for name in {**self.weights, **own} if name not in chosen]
        with user_errors("init_skip"):
            skipped = {*matching(names, list(skip))}
        shapes = {name: (_shape(self.weights, name), _shape(own, name)) for name in names if name not in skipped}
        wrong = {name: f"{name} is {a} there and {b} here" for name, (a, b) in shapes.items() if a != b}
        layers = dict.fromkeys(map(_layer, wrong))
        if all(_layer(name) in layers for name in shapes):
            why = listed([*wrong.values()]) or f"{_typed(skip)} leaves out all of it"
            raise UserError(f"init_from: {self.path}: nothing there is to start from: {why}")
        if wrong:
            instead = shlex.quote(_typed([*skip, *layers]))
            raise UserError(f"init_from: {self.path}: {listed([*wrong.values()])}; {instead} leaves that out")
        return {name: self.weights[name] for name in shapes}


def inherit(cfg: DictConfig, module: L.LightningModule) -> dict[str, str] | None:
    """Give what a run trains the weights of its parent; those that are skipped stay as they were initialised.

    Returns:
        What `provenance.json` tells of the parent; None for a run without one.

    Raises:
        UserError: The parent can't be read, or does not fit.
    """
    parent = read_parent(cfg)
    if parent is None:
        return None
    weights = parent.fitting(module, cfg.init_skip)
    with user_errors(f"init_from: {parent.path}"):
        module.load_state_dict(weights, strict=False)
    return {"checkpoint": str(parent.path), "sha256": parent.sha256}


def check_parent(cfg: DictConfig, module: L.LightningModule, known: dict[str, Any]) -> None:
    """Make sure that a run can start from its parent, unless it has checkpoints of its own, from which it would go on.

    Args:
        cfg: Of the run.
        module: What it trains.
        known: Parents that were read before, by `init_from`; this one is added.

    Raises:
        UserError: It can't.
    """
    run = RunContents(cfg.run_dir)
    if (
        cfg.fork
        or any((run.directory / "checkpoints").glob("*.ckpt"))
        or (run.result and run.result.has_ended_well)
    ):
        return
    if parent := known.get(cfg.init_from) or read_parent(cfg):
        known[cfg.init_from] = parent
        parent.fitting(module, cfg.init_skip)


def read_parent(cfg: DictConfig) -> Parent | None:
    """The parent of a run; None for a run without one.

    Raises:
        UserError: It can't be read; or weights are to be skipped where there are none.
    """
    if cfg.init_from is None:
        if cfg.init_skip:
            raise UserError(f"init_skip={cfg.init_skip}: skips weights of a run that init_from=DIR must name")
        return None
    directory, _, name = cfg.init_from.rpartition("@")
    if name not in ("best", "last"):
        directory, name = cfg.init_from, "best"
    path = Path(directory) / "checkpoints" / f"{name}.ckpt"
    with user_errors(f"init_from: {path}"):
        if not Path(directory).is_dir():
            raise UserError(f"init_from={directory}: no such folder; must be a run directory, or null")
        if problem := damage(path):
            there = ", ".join(sorted(other.stem for other in path.parent.glob("*.ckpt"))) or "none"
            raise UserError(f"init_from: {path}: {problem} (checkpoints there: {there}; DIR@last is the last one)")
        return _read(path)


def _read(path: Path) -> Parent:
    with path.open("rb") as file:  # once: another file can take its name meanwhile
        sha256 = digest(file)
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


def _typed(skip: Sequence[str]) -> str:
    return f"init_skip=[{','.join(skip)}]"


def _layer(name: str) -> str:
    """The pattern of all that the layer of a weight has: `network.head.*`."""
    layer, dot, _ = name.rpartition(".")
    return f"{layer}.*" if dot else name
