"""What each process has of its own, in the checkpoint, so that a resumed run is the run that was never stopped."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch
from torchmetrics import Metric

from leyden.callbacks import logged
from leyden.data.facts import Facts
from leyden.data.resumable import random_states, restore_random_states


class RunState(L.Callback):
    """Keeps the facts of the data; and of each process its random states of Python, NumPy and PyTorch, and its means.

    Means over an epoch that is interrupted are those of `self.log(on_epoch=True)`, which Lightning forgets, and the states of
    all metrics of torchmetrics in the module.

    The network is made from the same numbers in all processes. From there on each one draws others, by its rank and
    the seed: its own dropout, its own augmentation. The first one goes on as if it were alone.

    A run that has another seed than the one that its checkpoint is of, which a fork alone can have, keeps its own random states.

    Args:
        facts: Of the data.
        seed: Of the run.
    """

    state_key = "RankState"  # in the checkpoint, whatever the class is called

    def __init__(self, facts: Facts, seed: int) -> None:
        self.facts, self.seed = facts, seed
        self._logged: logged.Logged | None = None  # in the epoch that the checkpoint is of

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remember the trainer, which knows the processes, and the module, which has the metrics; part the streams."""
        self._trainer: L.Trainer = trainer
        self._module = pl_module
        if stage == "fit" and trainer.global_rank > 0:
            seeds = np.random.SeedSequence([torch.initial_seed(), trainer.global_rank]).generate_state(3).tolist()
            random.seed(seeds[0])
            np.random.seed(seeds[1])
            torch.manual_seed(seeds[2])

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the facts: with them the network can be built where the data are not."""
        checkpoint["facts"] = self.facts.to_state()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give Lightning back what it had logged; it has just emptied that."""
        if self._logged:
            self._logged.restore()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget it: an epoch that is gone on with does not start, so this is a new one."""
        if self._logged:
            self._logged.forget()
            self._logged = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """There are others from here on."""
        self._logged = None

    def state_dict(self) -> dict[str, Any]:
        """A list with one state per process, of tensors and plain values."""
        mine = {
            **random_states(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
            "metrics": {name: logged.metric_state(metric) for name, metric in _metrics(self._module)},
            "logged": logged.state(self._trainer),
        }
        every: list[Any] = [mine]
        if self._trainer.world_size > 1:
            every = [None] * self._trainer.world_size
            torch.distributed.all_gather_object(every, mine)
        return {"processes": every, "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back the state of this process."""
        every = state_dict["processes"]
        mine = every[min(self._trainer.global_rank, len(every) - 1)]
        if state_dict.get("seed", self.seed) == self.seed:  # older checkpoints don't have it
            restore_random_states(mine)
            if mine["cuda"] is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state(mine["cuda"])
            if mine.get("mps") is not None and torch.backends.mps.is_available():  # older checkpoints don't have it
                torch.mps.set_rng_state(mine["mps"])
        states = mine["metrics"] if "metrics" in mine else _of_older(mine["sums"])
        for name, metric in _metrics(self._module):
            if name in states:
                logged.restore_metric(metric, states[name])
        if "logged" in mine:  # older checkpoints don't have it
            self._logged = logged.Logged(self._trainer, self._module, mine["logged"])


def _metrics(module: L.LightningModule) -> list[tuple[str, Metric]]:
    return [(name, metric) for name, metric in module.named_modules() if isinstance(metric, Metric)]


def _of_older(sums: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
    """The states of the means of a classification, from a checkpoint that has them as sums."""
    names = {"loss_sum": "loss_sum", "num_correct": "acc_sum", "num_samples": "num_samples"}
    means = [{names[name]: value for name, value in each.items()} for each in sums]
    return {
        name: {"states": state, "num_updates": 1}
        for name, state in zip(("train_means", "logged_means"), means, strict=True)
    }
