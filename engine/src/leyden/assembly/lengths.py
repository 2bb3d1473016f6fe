"""Numbers of batches and of steps, before a training has begun."""

import math
from typing import Any

import lightning as L
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from leyden.base.errors import UserError
from leyden.data.contract import divides_batches
from leyden.exact.lightning import combining_mode, num_ranks
from leyden.exact.loaders import flatten_loaders


def num_steps(trainer: L.Trainer, data: L.LightningDataModule) -> int:
    """Return the number of optimizer steps of a run, by its epochs and `max_steps`.

    Raises:
        UserError: Neither the data nor `max_steps` determine the number.
    """
    # Not by `trainer.estimated_stepping_batches`: it sets up the loaders, and a resumed run would
    # then not restore their position within an epoch.
    per_epoch = math.ceil(num_batches(trainer, data) / trainer.accumulate_grad_batches)
    steps = per_epoch * (trainer.max_epochs or 1)
    if trainer.max_steps > 0:
        steps = min(steps, trainer.max_steps)
    if steps >= UNKNOWN_LENGTH:
        raise UserError(
            "scheduler: the number of batches of these data is unknown; set trainer.max_steps"
        )
    return steps


UNKNOWN_LENGTH = 2**60  # batches of a loader without a length


def num_batches(trainer: L.Trainer, data: L.LightningDataModule) -> int:
    """Return the number of training batches per epoch and process; `UNKNOWN` if it is unknown.

    Raises:
        UserError: Lightning can't train on loaders that are combined in this mode.
    """
    loaders, limit = data.train_dataloader(), trainer.limit_train_batches
    mode = combining_mode(loaders)
    if mode == "sequential":
        raise UserError(
            "data: train_dataloader combines its loaders by mode=sequential, which Lightning "
            "supports for validation and test only; choose min_size, max_size or max_size_cycle, "
            "or torch.utils.data.ConcatDataset"
        )
    each = flatten_loaders(loaders)
    whole = (min if mode == "min_size" else max)(map(length_of, each), default=0)
    if whole < UNKNOWN_LENGTH and not divides_batches(data) and all(map(_is_divided, each)):
        whole = math.ceil(whole / num_ranks(trainer))
    if isinstance(limit, float):
        return whole if whole == UNKNOWN_LENGTH else int(whole * limit)
    return whole if limit is None else min(whole, limit)


def _is_divided(loader: Any) -> bool:
    """Return whether Lightning gives each process a part of a loader, by a DistributedSampler."""
    if not isinstance(loader, DataLoader):
        return False
    is_stream = isinstance(loader.dataset, IterableDataset)
    return not (is_stream or isinstance(loader.sampler, DistributedSampler))


def length_of(loader: Any) -> int:
    """Return the number of batches of a loader; `UNKNOWN` if it has no length."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return UNKNOWN_LENGTH


def validates_at_epoch_end(trainer: L.Trainer, batches: int) -> bool:
    """Return whether a run validates at the end of an epoch, where the best one is selected.

    `batches` is the number of training batches per epoch.
    """
    interval = getattr(trainer, "val_check_interval", None)  # None if the interval is a time
    if interval is None:
        return False
    num_epochs = trainer.max_epochs or 1
    every = trainer.check_val_every_n_epoch
    if batches >= UNKNOWN_LENGTH:
        return isinstance(interval, float) and (every or 0) <= num_epochs
    after = interval
    if isinstance(interval, float):
        after = max(1, int(batches * interval))
    if trainer.max_steps > 0:
        steps_per_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
        num_epochs = min(num_epochs, trainer.max_steps // steps_per_epoch)
    if every:
        return every <= num_epochs and batches % after == 0
    # Without `every`, batches are counted over the epochs.
    return any(epoch * batches % after == 0 for epoch in range(1, num_epochs + 1))
