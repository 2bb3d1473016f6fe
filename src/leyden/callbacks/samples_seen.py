"""Samples and epochs that a run was trained on, over all starts."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence


class SamplesSeen(L.Callback):
    """Counts the samples of each training batch, over all processes, and the epochs that were completed.

    An epoch is completed by its last batch, the last of those that `trainer.limit_train_batches` and `overfit_batches` leave.
    One that `max_steps`, `max_time` or a callback has ended before is not.
    """

    state_key = "SamplesSeen"  # in the checkpoint, whatever the class is called

    def __init__(self) -> None:
        self.num_epochs = 0
        self._before = 0  # samples of earlier starts, over all processes
        self._here = 0  # samples of this start and process
        self._is_known = True  # not so where a batch does not show its size
        self._has_state = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Keep the trainer, which adds the counts of the processes."""
        self._trainer: L.Trainer = trainer

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give up on samples, where the checkpoint is of an engine that did not count them."""
        self._is_known = self._is_known and (trainer.ckpt_path is None or self._has_state)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch; before a checkpoint of this step."""
        num = batch_size(batch, trainer.train_dataloader)
        self._here += num or 0
        self._is_known = self._is_known and num is not None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count an epoch, if no batch of it is left."""
        self.num_epochs += trainer.is_last_batch

    @property
    def num_samples(self) -> int | None:
        """Samples over all starts and processes, all of which must ask; None where that is not known."""
        here = torch.tensor(self._here, device=self._trainer.strategy.root_device)
        known = torch.tensor(int(self._is_known), device=here.device)
        total, num_known = (int(self._trainer.strategy.reduce(each, reduce_op="sum")) for each in (here, known))
        return self._before + total if num_known == self._trainer.world_size else None

    def state_dict(self) -> dict[str, Any]:
        """The counts of all processes."""
        return {"num_samples": self.num_samples, "num_epochs": self.num_epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume counting from there."""
        self._has_state = True
        self._before, self.num_epochs = state_dict["num_samples"] or 0, state_dict["num_epochs"]
        self._is_known = state_dict["num_samples"] is not None


def batch_size(batch: Any, loaders: Any = None) -> int | None:
    """Return the samples in a batch, whatever it is made of; None where it does not show them.

    Lightning's `extract_batch_size` fails on objects, and takes the first size where parts have several.

    Args:
        batch: Of one loader, or of several, in their structure.
        loaders: What `train_dataloader` returned; the samples of several loaders are added.

    Example:
        >>> batch_size([torch.zeros(4, 3), torch.zeros(4)]), batch_size([{"boxes": torch.zeros(n, 4)} for n in (7, 5)])
        (4, 2)
        >>> batch_size({"nodes": torch.zeros(7, 3), "edges": torch.zeros(2, 9)})
    """
    pairs: list[tuple[Any, Any]] = []
    if isinstance(loaders, Mapping) and isinstance(batch, Mapping) and loaders.keys() == batch.keys():
        pairs = [(batch[name], loader) for name, loader in loaders.items()]
    if isinstance(loaders, list | tuple) and isinstance(batch, list | tuple) and len(loaders) == len(batch):
        pairs = list(zip(batch, loaders, strict=True))
    if not pairs:  # one loader; or several whose batches a hook of the module has made one
        sizes = _sizes(batch, is_part=False) or set()
        return next(iter(sizes)) if len(sizes) == 1 else None
    # One that has ended, where a longer one goes on, gives None.
    found = [batch_size(part, loader) for part, loader in pairs if part is not None]
    return None if None in found else sum(num for num in found if num is not None)


def _sizes(batch: Any, *, is_part: bool = True) -> set[int] | None:
    """Return the numbers of samples that something can stand for, none if its parts disagree; None if it has no part that shows one."""
    if isinstance(batch, PackedSequence):
        return {int(batch.batch_sizes[0])}
    if isinstance(batch, torch.Tensor | np.ndarray):
        return {int(batch.shape[0])} if batch.ndim else None
    if batch is None or isinstance(batch, str | bytes | int | float):
        return None
    for name in ("num_graphs", "batch_size"):
        try:
            size = getattr(batch, name, None)
        except Exception:  # a property of somebody else's, which can fail in any way
            continue
        if isinstance(size, torch.Size) and size:  # of a TensorDict
            size = size[0]
        if type(size) is int:
            return {size}
    if isinstance(batch, Mapping):
        return _common(batch.values())
    if dataclasses.is_dataclass(batch):
        return _common(vars(batch).values())
    if not isinstance(batch, list | tuple) or not batch:
        return None
    inner = _common(batch)
    # Tensors side by side are inputs and targets; in a part of a batch they can be samples of different shapes.
    has_columns = any(isinstance(each, torch.Tensor | np.ndarray | list | tuple) for each in batch)
    return (inner or set()) | {len(batch)} if is_part or not has_columns else inner


def _common(parts: Iterable[Any]) -> set[int] | None:
    """Return the sizes that all parts can have which show any."""
    sizes = [found for found in map(_sizes, parts) if found is not None]
    return set.intersection(*sizes) if sizes else None
