"""The data of a run: the data module, and a copy of shared data on a node's own disk."""

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig

from leyden.assembly.instantiate import check_lightning_kind, instantiate, user_errors
from leyden.assembly.task import new_module
from leyden.config.errors import UserError
from leyden.data.contract import ModuleData, divides_batches, facts_of
from leyden.data.facts import Facts
from leyden.exact.checkpoint import find_unreadable
from leyden.exact.loaders import make_resumable
from leyden.exact.random_state import seed_stages, seeded
from leyden.run import lock
from leyden.run.files import files_below, read_json, sha256_of, write_whole


def datamodule(
    cfg: DictConfig, *, prepare: bool = True, module: L.LightningModule | None = None
) -> L.LightningDataModule:
    """Return the data of a run, downloaded and set up for training.

    Args:
        cfg: The configuration.
        prepare: True to call `prepare_data`, which may write to the data folder.
        module: The module to train or evaluate, if it exists already; `data=module` uses its loaders.

    Raises:
        UserError: The data are not available, or `cfg.data` makes no LightningDataModule.
    """
    _fork_workers()
    with seeded(cfg.seed, "__init__"):
        data: L.LightningDataModule = instantiate(cfg.data, "data")
    check_lightning_kind(data, L.LightningDataModule, "data")
    module_and_schedule = (
        (module, None) if module else new_module(cfg, Facts()) if isinstance(data, ModuleData) else None
    )
    with user_errors("data"):
        if isinstance(data, ModuleData) and module_and_schedule:
            data.attach(*module_and_schedule)
        seed_stages(data, cfg.seed)
        if prepare and is_overridden("prepare_data", data, L.LightningDataModule):
            # The lock makes the processes of a run call it one after another.
            # On Windows, each user has a temporary folder of their own.
            user = os.getuid() if hasattr(os, "getuid") else ""
            with lock.hold(Path(tempfile.gettempdir()) / f"leyden-{user}" / "prepare-data"):
                data.prepare_data()
        data.setup("fit")
        _check_facts(facts_of(data))
        if not divides_batches(data):
            make_resumable(data)
    return data


def _check_facts(facts: Facts) -> None:
    """Check that checkpoints can hold the facts, from which evaluation builds the network.

    Raises:
        UserError: A fact is an object.
    """
    if culprit := find_unreadable({**facts.to_state(), **facts.extra}):
        key, kind = culprit
        raise UserError(
            f"data.facts: {key.removeprefix('extra.')} is a {kind}; facts must be tensors, arrays and plain values, which "
            "a checkpoint can hold"
        )


def _fork_workers() -> None:
    """Make DataLoader workers start by `fork`, the default on Linux before Python 3.14.

    The new default, `forkserver`, starts workers from a server process. If this process is killed, the workers stay
    alive: they only check that their parent, the server, is alive, and the server waits for them.
    """
    method = multiprocessing.get_start_method(allow_none=True)
    if sys.platform == "linux" and sys.version_info >= (3, 14) and method in (None, "forkserver"):
        multiprocessing.set_start_method("fork", force=True)


def check_world_size(data: L.LightningDataModule, world_size: int) -> None:
    """Check that each process gets a part of every training batch.

    Raises:
        UserError: A process would get an empty part.
    """
    if divides_batches(data):
        with user_errors("data"):
            data.check_world_size(world_size)  # type: ignore[attr-defined]


def stage(source: Path, scratch: str) -> Path:
    """Copy a folder to a node's disk, and return the copy; one that is there is used again if its source is unchanged.

    Args:
        source: The folder; links in it are copied as the files and folders that they lead to.
        scratch: Folder on the node's disk; environment variables in it, such as `$TMPDIR`, are the node's.

    Raises:
        UserError: A variable is not set, the folder can't be copied, or the copy has other bytes.
    """
    expanded = os.path.expandvars(scratch)
    if "$" in expanded:
        raise UserError(f"cluster.stage={scratch}: a variable in it is not set on this node")
    name = f"{source.name}-{hashlib.sha256(str(source).encode()).hexdigest()[:8]}"
    copy = Path(expanded) / f"leyden-{os.getuid()}" / name
    marker = copy.with_name(f"{name}.json")
    try:
        with lock.hold(copy.with_name(f"{name}.lock")):
            files = _sizes_and_times(source)
            if read_json(marker, None) != files:
                marker.unlink(missing_ok=True)
                shutil.rmtree(copy, ignore_errors=True)
                for path in files:
                    _copy_verified(source / path, copy / path)
                write_whole(marker, json.dumps(files))
    except OSError as error:
        why = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        raise UserError(f"cluster.stage={scratch}: {source} can't be copied there ({why})") from error
    return copy


def _sizes_and_times(folder: Path) -> dict[str, list[int]]:
    """Return the files below a folder: their size in bytes, and when they changed, in nanoseconds."""
    found = {}
    for path in files_below(folder):
        status = path.stat()
        found[str(path.relative_to(folder))] = [status.st_size, status.st_mtime_ns]
    return found


def _copy_verified(source: Path, target: Path) -> None:
    """Copy a file, and compare the hashes of both.

    Raises:
        OSError: A file can't be read or written.
        UserError: They differ.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    with source.open("rb") as there, target.open("rb") as here:
        if sha256_of(there) != sha256_of(here):
            raise UserError(f"cluster.stage: {target} has other bytes than {source}")
