"""Batching of in-memory data, splitting into training and validation, and checks of constructor arguments."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


class Order:
    """Order of the samples in an epoch: a permutation determined by seed and epoch alone.

    Lightning finds it as the loader's `sampler` and calls `set_epoch` before each epoch, also after a resume.

    Args:
        num_samples: Length of the permutation.
        seed: Seed of the permutation; None keeps the samples in order.
    """

    def __init__(self, num_samples: int, seed: int | None) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch (from 0) of the next permutation."""
        self.epoch = epoch

    def permutation(self) -> Tensor | None:
        """Return shuffled indices, shape (num_samples,), int64, on the CPU; None if the samples stay in order."""
        if self.seed is None:
            return None
        # Each pair (seed, epoch) has its own stream, so runs with neighbouring seeds share no epoch's order.
        entropy = torch.Generator().manual_seed(self.seed)
        offset = int(torch.randint(2**62, (1,), generator=entropy))
        return torch.randperm(self.num_samples, generator=torch.Generator().manual_seed(offset + self.epoch))


class BatchLoader:
    """Iterator over batches of in-memory samples; each batch is one indexing operation on the tensors' device.

    The last batch may be smaller; no sample is dropped. Each of several processes takes every `world_size`-th
    sample of each batch, so the order of training does not depend on the number of processes. If the last batch
    does not divide evenly, its samples have slightly different weights (a mean of means), and a process can get an
    empty last batch. `state_dict` holds the position, so that a run can resume within an epoch.

    Args:
        inputs: Samples, shape (M, ...), of any type that `transform` accepts.
        targets: One per sample, shape (M, ...).
        indices: Indices of the N samples to use, shape (N,), on the samples' device; None for all.
        batch_size: Samples of a batch, over all processes.
        transform: Applied to the inputs of each batch.
        seed: Seed of the order; None keeps the samples in order.
        rank: Rank of this process, from 0.
        world_size: Number of processes.

    Example:
        >>> loader = BatchLoader(torch.arange(5), torch.arange(5), batch_size=2, transform=lambda x: x / 10)
        >>> [labels.tolist() for images, labels in loader]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        batch_size: int,
        transform: Callable[[Tensor], Tensor],
        indices: Tensor | None = None,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.inputs, self.targets = inputs, targets
        self.indices = torch.arange(len(targets), device=targets.device) if indices is None else indices
        self.batch_size = batch_size
        self.transform = transform
        self.order = Order(len(self.indices), seed)
        if seed is not None:  # Lightning calls `sampler.set_epoch`, and then expects `batch_sampler`, too
            self.sampler, self.batch_sampler = self.order, None
        self.rank, self.world_size = rank, world_size
        self._position = 0  # batches yielded in this epoch
        self._start = 0  # position at which the next iteration starts

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A generator, so this runs at the first batch, when Lightning has set epoch and position.
        order = self.order.permutation()
        indices = self.indices if order is None else self.indices[order.to(self.indices.device)]
        start, self._start = self._start, 0
        for batch in range(start, len(self)):
            self._position = batch + 1
            begin, end = batch * self.batch_size, min((batch + 1) * self.batch_size, len(indices))
            index = indices[begin + self.rank : end : self.world_size]
            # index_select copies whole samples, which is faster than indexing.
            yield self.transform(self.inputs.index_select(0, index)), self.targets.index_select(0, index)

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches yielded in this epoch."""
        return {"position": self._start or self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next iteration after the batches that were already yielded."""
        self._start = state["position"]


# Settings of data modules that `split` depends on. A fork can't change them: samples that its parent was trained on
# would move into the validation split.
SPLIT_KEYS = ("data.val_size", "data.num_folds", "data.fold", "data.split_seed")


def split(
    num_samples: int,
    *,
    val_size: int,
    seed: int,
    num_folds: int | None = None,
    fold: int = 0,
    overlap: int | None = None,
) -> dict[str, Tensor]:
    """Return the indices of each split, shape (N,), determined by the arguments alone; no `val` if it is empty.

    Args:
        num_samples: Number of samples in both splits together.
        val_size: Samples of the validation split.
        seed: Seed of the permutation from which the validation split is cut.
        num_folds: Number of cross-validation folds, used instead of `val_size`; None for no folds.
        fold: Index of the validation fold, from 0.
        overlap: Number of neighbours on each side that share data with a sample, as overlapping windows of a text
            do. The validation split is then contiguous (the last samples, if there are no folds), and its
            neighbours within `overlap` are left out of both splits. None: samples are independent, and are
            shuffled.

    Raises:
        ValueError: No training sample would be left, or there is no such fold.

    Example:
        >>> split(6, val_size=0, seed=0, num_folds=3, fold=1, overlap=0)
        {'val': tensor([2, 3]), 'train': tensor([0, 1, 4, 5])}
    """
    if overlap is None:
        order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed))
    else:
        order = torch.arange(num_samples)
    if num_folds is not None:
        if not 2 <= num_folds <= num_samples or not 0 <= fold < num_folds:
            raise ValueError(
                f"num_folds={num_folds}, fold={fold}: must be 2 to {num_samples} folds, and one from 0 to num_folds - 1"
            )
        begin, end = (num_samples * part // num_folds for part in (fold, fold + 1))
    elif val_size >= num_samples:
        raise ValueError(f"val_size={val_size}: must be smaller than the training set of {num_samples} samples")
    elif not val_size:
        return {"train": torch.arange(num_samples)}
    else:
        begin, end = (0, val_size) if overlap is None else (num_samples - val_size, num_samples)
    before, after = order[: max(0, begin - (overlap or 0))], order[end + (overlap or 0) :]
    if not len(before) + len(after):
        given = f"val_size={val_size}" if num_folds is None else f"num_folds={num_folds}"
        raise ValueError(f"{given}: leaves nothing to train on, of {num_samples} samples that overlap")
    return {"val": order[begin:end], "train": torch.cat([before, after])}


def check_world_size(num_samples: int, batch_size: int, world_size: int) -> None:
    """Check that each of `world_size` processes gets a part of every training batch.

    Raises:
        ValueError: A process would get no sample of the last batch.
    """
    smallest = min(num_samples % batch_size or batch_size, num_samples)
    if smallest < world_size:
        raise ValueError(
            f"batch_size={batch_size}: {num_samples} training samples leave a batch of {smallest}, too few "
            f"for {world_size} processes; choose another batch_size or val_size"
        )


def check_integers(**named: tuple[Any, int]) -> None:
    """Check that each named value is a whole number, and at least its minimum.

    Raises:
        ValueError: A value is no whole number, or too small.
    """
    for name, (value, least) in named.items():
        if type(value) is not int or value < least:
            raise ValueError(f"{name}={value}: must be a whole number, {least} or larger")


def check_instantiated(name: str, made: Any) -> None:
    """Check that a configuration node was instantiated.

    Raises:
        ValueError: The value is not callable, such as a string.
    """
    if not callable(made):
        raise ValueError(f"{name}={made}: must be an object with a _target_; select a choice by data/{name}=NAME")


def check_dataset(dataset: Callable[..., Any]) -> None:
    """Check that a dataset can be created with `root`, `train` and `download`.

    Raises:
        ValueError: The value is not callable, or an argument is missing.
    """
    check_instantiated("dataset", dataset)
    try:
        inspect.signature(dataset).bind(root="", train=True, download=False)
    except TypeError as error:
        raise ValueError(f"dataset: {error}; must take root, train and download") from error
