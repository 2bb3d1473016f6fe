"""The data of a run."""

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

import lightning as L
from filelock import FileLock
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig

from leyden.assembly.instantiate import check_lightning_kind, instantiate, user_errors
from leyden.assembly.task import new_module
from leyden.data.contract import ModuleData, divides_batches, facts_of
from leyden.data.facts import Facts
from leyden.data.random_state import seed_stages, seeded
from leyden.data.resumable import flatten_loaders, make_resumable


def datamodule(
    cfg: DictConfig, *, prepare: bool = True, module: L.LightningModule | None = None
) -> L.LightningDataModule:
    """The data of a run, fetched and read as far as training needs it.

    Args:
        cfg: The configuration.
        prepare: Whether to call `prepare_data`, which can write to the folder of the data.
        module: What is trained or evaluated, if it is made already: with `data=module` its own loaders are the data.

    Raises:
        UserError: They can't be had, or `cfg.data` makes something else.
    """
    _fork_workers()
    with seeded(cfg.seed, "__init__"):
        data: L.LightningDataModule = instantiate(cfg.data, "data")
    check_lightning_kind(data, L.LightningDataModule, "data")
    made = (module, None) if module else new_module(cfg, Facts()) if isinstance(data, ModuleData) else None
    with user_errors("data"):
        if isinstance(data, ModuleData) and made:
            data.attach(*made)
        seed_stages(data, cfg.seed)
        if prepare and is_overridden("prepare_data", data, L.LightningDataModule):
            # The processes of a run call it in turn.
            user = os.getuid() if hasattr(os, "getuid") else ""  # on Windows each has a folder of their own
            with FileLock(Path(tempfile.gettempdir()) / f"leyden-prepare-data-{user}.lock"):
                data.prepare_data()
        data.setup("fit")
        facts_of(data)
        if not divides_batches(data):
            make_resumable(data)
    return data


def _fork_workers() -> None:
    """Let a DataLoader copy this process for its workers, as by default on Linux before Python 3.14.

    By the new default another process copies itself for them, and when this one is killed, neither that one nor they notice: PyTorch's workers ask
    whether the process that has made them is alive, and that one waits for them.
    """
    method = multiprocessing.get_start_method(allow_none=True)
    if sys.platform == "linux" and sys.version_info >= (3, 14) and method in (None, "forkserver"):
        multiprocessing.set_start_method("fork", force=True)


def check_world_size(data: L.LightningDataModule, world_size: int) -> None:
    """Make sure that each process gets a part of every training batch.

    Raises:
        UserError: One would get nothing.
    """
    if divides_batches(data):
        with user_errors("data"):
            data.check_world_size(world_size)  # type: ignore[attr-defined]


def resumes_within_epoch(data: L.LightningDataModule) -> bool:
    """Whether a run on these data can go on within an epoch: all loaders of training have a state."""
    return all(hasattr(loader, "state_dict") for loader in flatten_loaders(data.train_dataloader()))
