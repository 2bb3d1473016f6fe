"""Going on from a checkpoint."""

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.trainer.connectors import checkpoint_connector

from leyden.assembly.instantiate import user_errors
from leyden.assembly.run_trainer import RunTrainer
from leyden.callbacks.checkpoint_io import SafeCheckpointIO
from leyden.callbacks.hyperparameters import Hyperparameters, chosen_buffers
from leyden.config.mistakes import UserError
from leyden.data.contract import facts_of
from leyden.data.facts import Facts
from leyden.tasks.task import Task

# What each checkpoint of a run has.
CHECKPOINT = {"state_dict": dict, "global_step": int, "callbacks": dict, "loops": dict, "optimizer_states": list}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a run's checkpoint.

    Raises:
        UserError: It is none.
    """
    with user_errors(str(path)):
        content = SafeCheckpointIO().load_checkpoint(path)
        for key, kind in CHECKPOINT.items():
            if not isinstance(content.get(key), kind):
                raise ValueError(f"not the checkpoint of a run: it has no {key}")
        state = content["callbacks"].get("RankState")
        if not isinstance(state, dict) or not isinstance(state.get("processes"), list):
            raise ValueError("not the checkpoint of a run: it has no random states")
        if Hyperparameters.state_key not in content["callbacks"] or "seed" not in state:
            raise ValueError("not the checkpoint of a run: it does not say what its optimizer was set to")
    return content


def check_fits(content: dict[str, Any], path: Path, module: L.LightningModule, data: L.LightningDataModule) -> None:
    """Make sure that a run can go on from a checkpoint, before anything of what there is changes.

    Raises:
        UserError: It is that of another run, or damaged.
    """
    try:
        chosen = chosen_buffers(module)
        module.load_state_dict(content["state_dict"])
        module.load_state_dict(chosen, strict=False)  # a fork can have others
        if isinstance(module, Task):  # of another LightningModule Lightning alone knows when it can be asked
            _check_optimizer(module, content)
        if kept_facts(content, path) != facts_of(data):
            raise ValueError("the data set is not the one that this run was trained on")
    except Exception as error:  # it comes from anywhere, and can be wrong in any way
        raise _unfit(path, error) from error


def _check_optimizer(module: Task, content: dict[str, Any]) -> None:
    configured = module.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    (state,) = content["optimizer_states"]
    both = state["param_groups"], optimizer.state_dict()["param_groups"]
    # What an optimizer has gathered is kept by number: another order would give it to other parameters.
    names_there, names_here = ([each.get("param_names") for each in groups] for groups in both)
    if names_there != names_here:
        raise ValueError("the optimizer's groups have other parameters")
    for there, here in zip(*both, strict=True):
        for key, value in here.items():
            number = (int, float) if type(value) in (int, float) else type(value)
            if not isinstance(there.get(key, value), number):
                raise TypeError(f"the optimizer's {key} is {there[key]!r}")
    optimizer.load_state_dict(state)


def kept_facts(content: dict[str, Any], path: Path) -> Facts:
    """The facts of the data that a run was trained on.

    Raises:
        UserError: There are none.
    """
    try:
        return Facts.from_state(content["facts"])
    except Exception as error:  # it comes from anywhere, and can be wrong in any way
        raise UserError(f"{path}: has no facts of the data ({type(error).__name__})") from error


def num_epochs(content: dict[str, Any]) -> int | None:
    """The epochs that had ended; None within one."""
    loops = content["loops"]["fit_loop"]
    ended = loops["epoch_loop.batch_progress"]["is_last_batch"]
    return int(loops["epoch_progress"]["current"]["processed"]) if ended else None


@contextlib.contextmanager
def restoring(trainer: RunTrainer, path: Path | None) -> Iterator[None]:
    """What `check_fits` could not see, Lightning stumbles over while it restores loops and callbacks: it is told alike.

    Raises:
        UserError: The checkpoint can't be gone on from.
    """
    try:
        yield
    except Exception as error:
        frames = (frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__))
        if path and not trainer.position.has_trained and checkpoint_connector.__file__ in frames:
            raise _unfit(path, error) from error
        raise


def _unfit(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: does not fit this run ({type(error).__name__}: {' '.join(str(error).split())})")
