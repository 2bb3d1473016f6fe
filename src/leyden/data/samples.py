"""Samples of a data set, whose random numbers follow from seed, epoch and index alone."""

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from leyden.config.mistakes import UserError


@dataclass(frozen=True)
class Samples:
    """Makes batches of a data set.

    Args:
        dataset: Gives a pair per index, input and target: tensors, arrays or numbers.
        seed: Of what is random about a sample, by `random`, `torch` and NumPy's global generator.
        augment: Changes inputs at random, shape (1, ...); None: not.

    Example:
        >>> class Dice:
        ...     def __getitem__(self, index):
        ...         return torch.tensor([index, random.randint(1, 6)]), 0
        >>> inputs_NI, targets_N = Samples(Dice(), 0, None)((2, [0, 1, 2]))
        >>> torch.equal(inputs_NI[1:], Samples(Dice(), 0, None)((2, [1, 2]))[0])
        True
    """

    dataset: Dataset[Any]
    seed: int
    augment: Callable[[Tensor], Tensor] | None

    def __call__(self, task: tuple[int, Sequence[int]]) -> tuple[Any, Any]:
        """Inputs, shape (N, ...), and targets, shape (N, ...), of an epoch's samples; of none of them, with N = 0.

        Raises:
            UserError: The samples are no pairs of that kind, or differ in their shapes.
        """
        epoch, indices = task
        with same_random_state():
            samples = [self._sample(epoch, index) for index in indices or [0]]
        inputs, targets = zip(*samples, strict=True)
        shapes = {tuple(each.shape) for each in inputs}
        if len(shapes) > 1:
            one, other, *_ = sorted(shapes)
            raise UserError(
                f"data: inputs have shapes {one} and {other}; all must have the same: let the data set resize or cut them"
            )
        inputs_N, targets_N = default_collate(list(inputs)), default_collate(list(targets))
        return inputs_N[: len(indices)], targets_N[: len(indices)]

    def _sample(self, epoch: int, index: int) -> tuple[Any, Any]:
        random.seed(f"{self.seed} {epoch} {index}")  # a text is mixed well
        torch.default_generator.manual_seed(random.getrandbits(63))
        np.random.seed(random.getrandbits(32))
        sample = self.dataset[index]
        if not (isinstance(sample, tuple | list) and len(sample) == 2 and hasattr(sample[0], "shape")):
            found = (
                ", ".join(type(part).__name__ for part in sample) if isinstance(sample, tuple | list) else sample
            )
            raise UserError(
                f"data: {type(self.dataset).__name__}[{index}] is ({found}); must be a pair, input and target, the "
                "input a tensor; torchvision.transforms.v2.PILToTensor makes one of an image"
            )
        inputs, target = sample
        if self.augment:
            inputs = self.augment(torch.as_tensor(inputs)[None])[0]
        return inputs, target


@contextlib.contextmanager
def same_random_state() -> Iterator[None]:
    """Put the random states of Python, NumPy and PyTorch (on the CPU) back in the end."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def whole(split: str, dataset: Any) -> tuple[Dataset[Any], Tensor]:
    """A data set, and the indices of all its samples, shape (N,).

    Raises:
        ValueError: It is none, or holds none.
    """
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise ValueError(f"{split}={dataset}: must be a data set with a length, which gives a sample per index")
    if not len(dataset):
        raise ValueError(f"{split}={type(dataset).__name__}: holds no sample")
    return dataset, torch.arange(len(dataset))
