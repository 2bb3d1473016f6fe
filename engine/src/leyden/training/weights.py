"""A new module with the weights of a checkpoint."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig

from leyden.assembly.start_from import read_checkpoint
from leyden.assembly.task import task_module
from leyden.base.errors import UserError
from leyden.data.contract import (
    Facts,
)
from leyden.exact.random_state import seeded_as_run
from leyden.exact.sharding import load_whole
from leyden.exact.state import restore_module


def module_at(
    cfg: DictConfig, path: Path, *, with_weights: bool = True
) -> tuple[L.LightningModule, Facts]:
    """Return a new module at a run's checkpoint, and the facts of its data, which are not read.

    Args:
        cfg: The run's configuration, or the part of it that makes the module.
        path: Path of the checkpoint.
        with_weights: False to restore attributes alone, of a module whose `setup` may make layers.

    Raises:
        UserError: The checkpoint can't be read, or does not fit the module.
    """
    content = read_checkpoint(path)
    facts: Facts = content["facts"]
    # As in training, since no checkpoint has random numbers that a constructor keeps in an
    # attribute.
    with seeded_as_run(cfg.seed, "task"):
        module = task_module(cfg, facts)
        with fitting(path):
            module.configure_model()
            if with_weights:
                load_weights(module, content)
            restore_module(module, content)
    return module, facts


def load_weights(module: L.LightningModule, content: dict[str, Any]) -> None:
    """Load a checkpoint's weights into a module, after its `on_load_checkpoint`.

    Raises:
        ValueError: The module lacks some of the weights. PyTorch itself does not report weights of
            a submodule that is None.
    """
    module.on_load_checkpoint(content)
    lacking = {*content["state_dict"]} - {*module.state_dict()}
    if lacking:
        raise ValueError(
            f"there is no {min(lacking)}; "
            "create all modules in the constructor or in configure_model"
        )
    load_whole(module, content["state_dict"])


@contextlib.contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Context that reports any error as a checkpoint that does not fit.

    One may come from a stranger.

    Raises:
        UserError: The checkpoint does not fit.
    """
    try:
        yield
    except Exception as error:
        why = " ".join(str(error).split())
        raise UserError(
            f"{path}: does not fit the network ({type(error).__name__}: {why})"
        ) from error
