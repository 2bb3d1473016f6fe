"""Batches of a data set in memory; samples divided among splits and processes; checks of constructors' arguments."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


class Order:
    """Order of the samples in an epoch: a permutation that follows from seed and epoch alone.

    Lightning finds it as the loader's `sampler` and calls `set_epoch` before each epoch, also after a resume.

    Args:
        num_samples: Length of the permutation.
        seed: Its seed; None keeps the samples in order.
    """

    def __init__(self, num_samples: int, seed: int | None) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (from 0) of the next permutation."""
        self.epoch = epoch

    def permutation(self) -> Tensor | None:
        """Indices, shape (num_samples,), int64, on the CPU; None for the samples as they lie."""
        if self.seed is None:
            return None
        # A pair (seed, epoch) gives one stream of its own: seeds of neighbouring runs share no epoch's order.
        entropy = torch.Generator().manual_seed(self.seed)
        offset = int(torch.randint(2**62, (1,), generator=entropy))
        return torch.randperm(self.num_samples, generator=torch.Generator().manual_seed(offset + self.epoch))


class BatchLoader:
    """Iterates over samples in memory; a batch is one indexing operation, on the tensors' device.

    The last batch may be smaller, no sample is dropped. With several processes each takes every
    `world_size`-th sample of each batch, so that the order of training does not depend on their number. Where
    that leaves the last batch uneven, its samples weigh a little differently, as means of means do; a process
    can get an empty last batch. `state_dict` holds the position, so that a run resumes within an epoch.

    Args:
        inputs: Samples, shape (M, ...), any type that `transform` takes.
        targets: One per sample, shape (M, ...).
        indices: Of the N samples that it iterates over, shape (N,), on the device of the samples; None: all.
        batch_size: Samples of a batch, over all processes.
        transform: Applied to the samples of a batch.
        seed: Seed of the order; None keeps the samples in order.
        rank: This process, from 0.
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
        if seed is not None:  # Lightning calls its `set_epoch`, and looks for the other where there is one
            self.sampler, self.batch_sampler = self.order, None
        self.rank, self.world_size = rank, world_size
        self._position = 0  # batches given in this epoch
        self._start = 0  # where the next iteration starts

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A generator: all of this waits for the first batch, when Lightning has set epoch and position.
        order = self.order.permutation()
        indices = self.indices if order is None else self.indices[order.to(self.indices.device)]
        start, self._start = self._start, 0
        for batch in range(start, len(self)):
            self._position = batch + 1
            begin, end = batch * self.batch_size, min((batch + 1) * self.batch_size, len(indices))
            index = indices[begin + self.rank : end : self.world_size]
            # Copies whole samples, as indexing does not.
            yield self.transform(self.inputs.index_select(0, index)), self.targets.index_select(0, index)

    def state_dict(self) -> dict[str, int]:
        """Number of batches given in this epoch."""
        return {"position": self._start or self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration start behind the batches that were given."""
        self._start = state["position"]


def split(
    num_samples: int,
    *,
    val_size: int,
    seed: int,
    num_folds: int | None = None,
    fold: int = 0,
    overlap: int | None = None,
) -> dict[str, Tensor]:
    """Indices of each split, shape (N,), which depend on the arguments alone; no `val` of size 0.

    Args:
        num_samples: Of both splits together.
        val_size: Samples of the validation split.
        seed: Of the permutation that the validation split is cut from.
        num_folds: Number of parts of which one is the validation split, instead of `val_size`; None: not.
        fold: Which one of them, from 0.
        overlap: Where neighbours are alike, as windows of one text: the validation split is cut from the samples as they
            lie, the last ones, and so many on each side of it that share something with it are left out. None: a sample
            has nothing to do with its neighbours.

    Raises:
        ValueError: Nothing would be left to train on, or there is no such fold.

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
    """Make sure that each of `world_size` processes gets a part of every training batch.

    Raises:
        ValueError: One would get nothing of the last batch.
    """
    smallest = min(num_samples % batch_size or batch_size, num_samples)
    if smallest < world_size:
        raise ValueError(
            f"batch_size={batch_size}: {num_samples} training samples leave a batch of {smallest}, too few "
            f"for {world_size} processes; choose another batch_size or val_size"
        )


def check_integers(**named: tuple[Any, int]) -> None:
    """Make sure that values are whole numbers, each with the least that it may be.

    Raises:
        ValueError: One is none.
    """
    for name, (value, least) in named.items():
        if type(value) is not int or value < least:
            raise ValueError(f"{name}={value}: must be a whole number, {least} or larger")


def check_instantiated(name: str, made: Any) -> None:
    """Make sure that a node of the configuration was made.

    Raises:
        ValueError: It is still text.
    """
    if not callable(made):
        raise ValueError(f"{name}={made}: must be made by a _target_; a choice is taken by data/{name}=NAME")


def check_dataset(dataset: Callable[..., Any]) -> None:
    """Make sure that a data set can be made with `root`, `train` and `download`.

    Raises:
        ValueError: It is nothing that makes one, or lacks another argument.
    """
    check_instantiated("dataset", dataset)
    try:
        inspect.signature(dataset).bind(root="", train=True, download=False)
    except TypeError as error:
        raise ValueError(f"dataset: {error}; must take root, train and download") from error
