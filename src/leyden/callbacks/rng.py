"""The random states in the checkpoint, so that a resumed run draws what the run would have drawn."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch


class RNGState(L.Callback):
    """Keeps the states of Python's, NumPy's and PyTorch's generators (CPU and CUDA), of each process."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remember the trainer, which knows the processes."""
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        """A list with the states of each process, as tensors and plain values."""
        _, keys, *rest = np.random.get_state()
        mine = {
            "python": random.getstate(),
            "numpy": [np.asarray(keys).tolist(), *rest],
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        }
        every: list[Any] = [mine]
        if self._trainer.world_size > 1:
            every = [None] * self._trainer.world_size
            torch.distributed.all_gather_object(every, mine)
        return {"processes": every}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the generators of this process."""
        every = state_dict["processes"]
        mine = every[min(self._trainer.global_rank, len(every) - 1)]
        version, internal, gauss = mine["python"]
        random.setstate((version, tuple(internal), gauss))
        keys, *rest = mine["numpy"]
        np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), *rest))
        torch.set_rng_state(mine["torch"])
        if mine["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(mine["cuda"])
