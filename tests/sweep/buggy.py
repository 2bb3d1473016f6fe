"""A network with a bug that shows in training alone."""

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
