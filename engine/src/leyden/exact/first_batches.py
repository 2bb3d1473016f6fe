"""First batch of each dataloader, read to check that another process or start reads the same data."""

import contextlib
from collections.abc import Iterator
from typing import Any

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset

from leyden.exact.digest import digest
from leyden.exact.loaders import flatten_loaders
from leyden.exact.random_state import seeded


def divides_batches(data: L.LightningDataModule | type) -> bool:
    """Return whether the loaders divide batches among processes themselves; otherwise Lightning's sampler does."""
    return hasattr(data, "check_world_size")


def has_split(data: L.LightningDataModule, split: str) -> bool:
    """Return whether a data module has a dataloader for this split."""
    if not is_overridden(f"{split}_dataloader", data, L.LightningDataModule):
        return False
    return split != "val" or bool(flatten_loaders(data.val_dataloader()))


def _num_drawn(loader: Any) -> int:
    """Return the number of samples that an epoch of a loader draws, over all processes.

    Raises:
        TypeError: The number is unknown, as for a custom batch sampler.
    """
    sampler, batches = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    if isinstance(batches, BatchSampler):
        sampler = batches.sampler
    elif batches is not None:
        raise TypeError("a batch sampler of one's own")
    if isinstance(sampler, DistributedSampler) or isinstance(loader.dataset, IterableDataset) or sampler is None:
        return len(loader.dataset)
    return len(sampler)


def num_samples(loaders: Any) -> int | None:
    """Return the number of samples per epoch of some loaders together; None if one of them does not report it."""
    try:
        return sum(map(_num_drawn, flatten_loaders(loaders)))
    except (AttributeError, TypeError, NotImplementedError):
        return None


MAX_BYTES = 2**16  # of a tensor in a batch, which are compared
# Per loader, a digest of its first batch, and its number of samples; None where unknown.
FirstBatches = list[list[str | int | None]]


def first_batches(data: L.LightningDataModule, split: str, seed: int) -> FirstBatches:
    """Read the first batch of each loader of a split, from random states that the seed determines.

    Data modules with `check_world_size` are skipped, since their splits follow from their arguments.
    """
    if divides_batches(data):
        return []
    with seeded(seed, f"first batch of {split}"):
        if not has_split(data, split):
            return []
        return [_first_batch(loader) for loader in flatten_loaders(getattr(data, f"{split}_dataloader")())]


def first_batches_differ(data: L.LightningDataModule, split: str, seed: int, before: Any) -> bool:
    """Return whether a split has other first batches than before.

    Loaders that yield another first batch at each reading are not compared.
    """
    if not before or (now := first_batches(data, split, seed)) == before:
        return False
    again = first_batches(data, split, seed)
    fixed = [a if a == b else None for a, b in zip(now, again, strict=False)]
    return len(now) != len(before) or any(each not in (None, a) for each, a in zip(fixed, before, strict=True))


def _digest_of_batch(batch: Any) -> str:
    """Return a digest of a batch; of its class alone if its values can't be read."""
    try:
        return digest(batch, MAX_BYTES)[:16]
    except Exception:  # of a user's class
        return type(batch).__name__


def _first_batch(loader: Any) -> list[str | int | None]:
    checksum = None
    if not isinstance(loader, Iterator):  # its first batch would be lost
        with _without_persistent_workers(loader):
            checksum = _digest_of_batch(next(iter(loader), None))
    return [checksum, num_samples([loader])]


@contextlib.contextmanager
def _without_persistent_workers(loader: Any) -> Iterator[None]:
    """Context in which a loader starts separate workers, so that training starts new ones in their first state."""
    is_persistent = isinstance(loader, DataLoader) and loader.persistent_workers
    if is_persistent:
        vars(loader)["persistent_workers"] = False  # PyTorch's setter refuses it
    try:
        yield
    finally:
        if is_persistent:
            vars(loader)["persistent_workers"] = True
