"""First batches of the evaluation splits, to check that another process or start reads the same data."""

import contextlib
from collections.abc import Iterator
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from leyden.data.contract import divides_batches, has_split, num_samples
from leyden.data.random_state import seeded
from leyden.data.resumable import batch_checksum, flatten_loaders

# Per loader, a checksum of its first batch, and its number of samples; None where unknown.
FirstBatches = list[list[int | None]]


def first_batches(data: L.LightningDataModule, split: str, seed: int) -> FirstBatches:
    """Read the first batch of each loader of a split, from random states that the seed determines.

    Data modules with `check_world_size` are skipped, since their splits follow from their arguments.
    """
    if divides_batches(data):
        return []
    with seeded(seed, f"first batch of {split}"):
        if not has_split(data, split):
            return []
        return [_first(loader) for loader in flatten_loaders(getattr(data, f"{split}_dataloader")())]


def differs(data: L.LightningDataModule, split: str, seed: int, before: Any) -> bool:
    """Return whether a split has other first batches than before.

    Loaders that yield another first batch at each reading are not compared.
    """
    if not before or (now := first_batches(data, split, seed)) == before:
        return False
    again = first_batches(data, split, seed)
    fixed = [a if a == b else None for a, b in zip(now, again, strict=False)]
    return len(now) != len(before) or any(each not in (None, a) for each, a in zip(fixed, before, strict=True))


def _first(loader: Any) -> list[int | None]:
    checksum = None
    if not isinstance(loader, Iterator):  # its first batch would be lost
        with _without_persistent_workers(loader):
            checksum = batch_checksum(next(iter(loader), None))
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
