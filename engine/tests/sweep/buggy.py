"""A network with a bug that shows in training alone."""

from pathlib import Path

import torch


class Buggy(torch.nn.Module):
    def __init__(self, *, input_shape, num_classes, hidden):
        super().__init__()
        self.layer = torch.nn.Linear(784, num_classes)

    def forward(self, images_NCHW):
        return self.layer(images_NCHW.flatten(0 if self.training else 1))  # the bug


class NotMade(torch.nn.Module):
    """One that can't be made."""

    def __init__(self, *, hidden: int) -> None:
        raise KeyError(hidden)  # the bug


class Seeded(torch.nn.Module):
    """One that can't train with the seed that stands in a file, while there is one."""

    def __init__(self, *, input_shape, num_classes, bad):
        super().__init__()
        self.bad = Path(bad)
        self.layer = torch.nn.Linear(784, num_classes)

    def forward(self, images_NCHW):
        if self.training and self.bad.exists() and torch.initial_seed() == int(self.bad.read_text()):
            raise KeyError("this seed")
        return self.layer(images_NCHW.flatten(1))
