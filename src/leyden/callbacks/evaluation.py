"""What a trained network says of a split, for pictures of it."""

from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leyden.callbacks.sparse import Sparse

NAMES = {"val": "validation split", "test": "test set"}


@dataclass
class Evaluation:
    """A split, in the order of the data set, and the probabilities that the network gives to its classes."""

    split: str
    labels_N: NDArray[np.int64]
    probabilities_NK: NDArray[np.float32]
    class_names: tuple[str, ...]

    @property
    def title(self) -> str:
        """What it is about, and how often the network is right."""
        accuracy = (self.probabilities_NK.argmax(axis=1) == self.labels_N).mean()
        return f"{NAMES[self.split]}, {len(self.labels_N):,} images, accuracy {accuracy:.4f}"


class OnEvaluation(Sparse):
    """Base of callbacks that draw from the evaluation of the best weights at the end of a run.

    That is the one of the test set, if the run evaluates on it, else of the validation split: no callback looks at
    the test set by itself. Validation within training is left alone. A subclass has `draw`.
    """

    def __init__(self) -> None:
        self._logits_NK: list[Tensor] = []
        self._labels_N: list[Tensor] = []

    def draw(self, trainer: L.Trainer, evaluation: Evaluation) -> None:
        """Draw, in the first process."""
        raise NotImplementedError

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Keep a batch of the validation at the end of the run."""
        if trainer.state.fn == "validate":
            self.on_test_batch_end(trainer, pl_module, *args)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch: what the classifier's step returned, and the classes."""
        self._logits_NK.append(outputs)
        self._labels_N.append(batch[1])

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw, if it was the validation at the end of the run."""
        if trainer.state.fn == "validate":
            self._end(trainer, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw."""
        self._end(trainer, "test")

    def _end(self, trainer: L.Trainer, split: str) -> None:
        logits_NK, labels_N = (gather(batches, trainer.world_size) for batches in (self._logits_NK, self._labels_N))
        self._logits_NK, self._labels_N = [], []
        if trainer.is_global_zero:
            facts = trainer.datamodule.facts  # type: ignore[attr-defined]
            probabilities_NK = logits_NK.float().softmax(dim=1).numpy()
            self.draw(trainer, Evaluation(split, labels_N.numpy(), probabilities_NK, facts.class_names))


def gather(batches: list[Tensor], world_size: int) -> Tensor:
    """The batches of all processes as one tensor, in the order of the data set.

    Each process has every `world_size`-th sample of each batch.
    """
    mine = [batch.cpu() for batch in batches]
    if world_size == 1:
        return torch.cat(mine)
    every: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(every, mine)
    return interleave(every)


def interleave(batches: list[list[Tensor]]) -> Tensor:
    """Tensors by process and batch, put together so that the processes take turns within each batch."""
    merged = []
    for parts in zip(*batches, strict=True):
        whole = parts[0].new_empty(sum(map(len, parts)), *parts[0].shape[1:])
        for rank, part in enumerate(parts):
            whole[rank :: len(parts)] = part
        merged.append(whole)
    return torch.cat(merged)
