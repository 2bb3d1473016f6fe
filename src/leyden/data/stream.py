"""Batches of a data set that lies on the disk."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from leyden.config.mistakes import UserError
from leyden.data.loader import Order
from leyden.data.samples import Samples
from leyden.data.transfer import send
from leyden.data.workers import Failure, Workers


class StreamLoader:
    """Iterates over the samples of a data set, which worker processes read and change ahead of time.

    Order and samples follow from seed, epoch and index alone: the number of workers changes no bit. It counts, ends and
    divides its batches as `BatchLoader` does. The workers start with the first batch, and stay until `close`.

    Args:
        samples: Makes the batches.
        indices_N: The samples of the split, shape (N,), int64, on the CPU.
        batch_size: Samples of a batch, over all processes.
        num_workers: Processes that read; 0: this one does.
        shuffle: Whether each epoch has an order of its own; else the samples stay in order, and are those of epoch 0.
        transform: Makes new inputs of those of a batch, on `device`; None: they stay as they are.
        device: Where the batches are needed.
        rank: This process, from 0.
        world_size: Number of processes.

    Example:
        >>> samples = Samples([(torch.tensor(n), n % 2) for n in range(5)], 0, None)
        >>> loader = StreamLoader(samples, torch.arange(5), batch_size=2, num_workers=0, shuffle=False)
        >>> [inputs_N.tolist() for inputs_N, targets_N in loader]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        samples: Samples,
        indices_N: Tensor,
        *,
        batch_size: int,
        num_workers: int,
        shuffle: bool,
        transform: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.samples, self.indices_N = samples, indices_N
        self.batch_size, self.num_workers = batch_size, num_workers
        self.transform, self.device = transform, torch.device(device)
        self.order = Order(len(indices_N), samples.seed if shuffle else None)
        if shuffle:  # Lightning calls its `set_epoch`, and looks for the other where there is one
            self.sampler, self.batch_sampler = self.order, None
        self.rank, self.world_size = rank, world_size
        self._workers: Workers | None = None
        self._position = 0  # batches given in this epoch
        self._start = 0  # where the next iteration starts

    def __len__(self) -> int:
        return -(-len(self.indices_N) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A generator: all of this waits for the first batch, when Lightning has set epoch and position.
        start, self._start = self._start, 0
        for position, batch in enumerate(self._batches(self._tasks(start)), start + 1):
            self._position = position
            if isinstance(batch, Failure):
                self.samples(batch.task)  # fails here as it did there, with a traceback of its own
                raise RuntimeError(f"a worker process fails where this one does not:\n{batch.text}")
            inputs, targets = (send(part, self.device) for part in batch)
            # Copies: the workers take their memory back.
            yield self.transform(inputs) if self.transform else inputs.clone(), targets.clone()

    def close(self) -> None:
        """End the workers; a later iteration starts others."""
        if self._workers:
            self._workers.close()

    def state_dict(self) -> dict[str, int]:
        """Number of batches given in this epoch, and of samples in it."""
        return {"position": self._start or self._position, "num_samples": len(self.indices_N)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration start behind the batches that were given.

        Raises:
            UserError: There are other samples than there were.
        """
        if state["num_samples"] != len(self.indices_N):
            raise UserError(
                f"data: there were {state['num_samples']} training samples, now there are {len(self.indices_N)}; "
                "a run that was interrupted goes on with those that it began with"
            )
        self._start = state["position"]

    def _tasks(self, start: int) -> Iterator[tuple[int, list[int]]]:
        """Epoch and indices of each batch, for the share of this process."""
        order = self.order.permutation()
        indices_N = self.indices_N if order is None else self.indices_N[order]
        for batch in range(start, len(self)):
            begin, end = batch * self.batch_size, min((batch + 1) * self.batch_size, len(indices_N))
            yield self.order.epoch, indices_N[begin + self.rank : end : self.world_size].tolist()

    def _batches(self, tasks: Iterator[tuple[int, list[int]]]) -> Iterator[Any]:
        if not self.num_workers:
            return map(self.samples, tasks)
        if self._workers is None or not self._workers.is_open:
            self._workers = Workers(self.samples, min(self.num_workers, len(self)))
        return self._workers.map(tasks)
