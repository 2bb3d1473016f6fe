"""Batches of a data set that lies in memory."""

from collections.abc import Callable, Iterator

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
