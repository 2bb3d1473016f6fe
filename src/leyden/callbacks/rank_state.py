"""What each process has of its own, in the checkpoint, so that a resumed run is the run that was never stopped."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch

from leyden.callbacks.sparse import Sparse


class RankState(Sparse):
    """Keeps each process's random states of Python, NumPy and PyTorch, and the running sums of the classifier."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remember the trainer, which knows the processes, and the module, which has the sums."""
        self._trainer: L.Trainer = trainer
        self._module: Any = pl_module

    def state_dict(self) -> dict[str, Any]:
        """A list with a state a process, of tensors and plain values."""
        _, keys, *rest = np.random.get_state()
        mine = {
            "python": random.getstate(),
            "numpy": [np.asarray(keys).tolist(), *rest],
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "sums": self._module.running_sums(),
        }
        every: list[Any] = [mine]
        if self._trainer.world_size > 1:
            every = [None] * self._trainer.world_size
            torch.distributed.all_gather_object(every, mine)
        return {"processes": every}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back the state of this process."""
        every = state_dict["processes"]
        mine = every[min(self._trainer.global_rank, len(every) - 1)]
        random.setstate(mine["python"])
        keys, *rest = mine["numpy"]
        np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), *rest))
        torch.set_rng_state(mine["torch"])
        if mine["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(mine["cuda"])
        self._module.load_running_sums(mine["sums"])
