"""Number of samples and epochs that a run was trained on, over all starts, and the batch whose loss is not finite."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence

from leyden.exact.digest import attribute_names

MAX_LOSSES = 1000  # that are kept before they are looked at


class SamplesSeen(L.Callback):
    """Counts the samples of each training batch, over all processes, and the completed epochs.

    An epoch is complete after its last batch, as limited by `trainer.limit_train_batches` and `overfit_batches`. An
    epoch that `max_steps`, `max_time` or a callback ends earlier is not counted.
    """

    state_key = "SamplesSeen"  # fixed key in the checkpoint, independent of the class name

    def __init__(self) -> None:
        self.num_epochs = 0
        self._num_before = 0  # samples in earlier starts, over all processes
        self._num_here = 0  # samples in this start and process
        self._is_known = True  # False once the size of a batch is unknown
        self._has_state = False
        self._losses: list[tuple[int, int, torch.Tensor]] = []  # of batches, with their epoch and index
        self._bad_batch: tuple[int, int] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Store the trainer, for the reduction over processes."""
        self._trainer: L.Trainer = trainer

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Mark the samples as unknown, if the checkpoint is from a version without this counter."""
        self._is_known = self._is_known and (trainer.ckpt_path is None or self._has_state)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor) -> None:
        """Remember the loss, which is on its device; to look at each would wait for it."""
        self._losses.append((trainer.current_epoch, trainer.fit_loop.batch_idx, loss.detach()))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch, before a checkpoint of this step."""
        num = batch_size(batch, trainer.train_dataloader)
        self._num_here += num or 0
        self._is_known = self._is_known and num is not None
        if num == 0 and self._losses:  # the mean of a process's empty part is NaN
            self._losses.pop()
        if len(self._losses) >= MAX_LOSSES:
            self.bad_batch()

    def bad_batch(self) -> tuple[int, int] | None:
        """Return epoch and index of this start's first batch whose loss was not finite; None if there was none."""
        losses, self._losses = self._losses, []
        if losses and not self._bad_batch:
            finite = torch.stack([loss.isfinite().all() for *_, loss in losses]).tolist()
            bad = (each[:2] for each, is_finite in zip(losses, finite, strict=True) if not is_finite)
            self._bad_batch = next(bad, None)
        return self._bad_batch

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count an epoch, if it is complete."""
        self.num_epochs += trainer.is_last_batch

    @property
    def num_samples(self) -> int | None:
        """Number of samples over all starts and processes, or None if unknown; a collective call."""
        here = torch.tensor(self._num_here, device=self._trainer.strategy.root_device)
        known = torch.tensor(int(self._is_known), device=here.device)
        total, num_known = (int(self._trainer.strategy.reduce(each, reduce_op="sum")) for each in (here, known))
        return self._num_before + total if num_known == self._trainer.world_size else None

    def state_dict(self) -> dict[str, Any]:
        """Return the counts over all processes."""
        return {"num_samples": self.num_samples, "num_epochs": self.num_epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts."""
        self._has_state = True
        self._num_before, self.num_epochs = int(state_dict["num_samples"] or 0), int(state_dict["num_epochs"])
        self._is_known = state_dict["num_samples"] is not None


def batch_size(batch: Any, loaders: Any = None) -> int | None:
    """Return the number of samples in a batch of any structure; None if unknown.

    Lightning's `extract_batch_size` fails on objects, and uses the first size if parts differ in size.

    Args:
        batch: Batch of one loader, or of several loaders in their structure.
        loaders: Return value of `train_dataloader`; the samples of several loaders are added.

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
    if not pairs:  # one loader, or several whose batches a hook of the module has merged
        try:
            sizes = _sizes(batch, is_part=False) or set()
        except Exception:  # a user's class may raise anything, and counting never ends a run
            return None
        return next(iter(sizes)) if len(sizes) == 1 else None
    # An exhausted loader yields None while a longer one continues.
    found = [batch_size(part, loader) for part, loader in pairs if part is not None]
    return None if None in found else sum(num for num in found if num is not None)


def _sizes(batch: Any, *, is_part: bool = True) -> set[int] | None:
    """Return the possible numbers of samples; an empty set if the parts disagree, None if no part has a size."""
    if isinstance(batch, PackedSequence):
        return {int(batch.batch_sizes[0])}
    if isinstance(batch, torch.Tensor | np.ndarray):
        return {int(batch.shape[0])} if batch.ndim else None
    if batch is None or isinstance(batch, str | bytes | int | float):
        return None
    for name in ("num_graphs", "batch_size"):
        try:
            size = getattr(batch, name, None)
        except Exception:  # a property of a user class may raise anything
            continue
        if isinstance(size, torch.Size) and size:  # TensorDict's batch size
            size = size[0]
        if type(size) is int:
            return {size}
    if isinstance(batch, Mapping):
        return _common_sizes(batch.values())
    if dataclasses.is_dataclass(batch):
        return _common_sizes(getattr(batch, name, None) for name in attribute_names(batch))
    if not isinstance(batch, list | tuple) or not batch:
        return None
    inner = _common_sizes(batch)
    # At the top level, a sequence of tensors is inputs and targets; nested, it can be samples of different shapes.
    has_columns = any(isinstance(each, torch.Tensor | np.ndarray | list | tuple) for each in batch)
    return (inner or set()) | {len(batch)} if is_part or not has_columns else inner


def _common_sizes(parts: Iterable[Any]) -> set[int] | None:
    """Return the sizes that all parts with a size have in common."""
    sizes = [found for found in map(_sizes, parts) if found is not None]
    return set.intersection(*sizes) if sizes else None
