"""A network with bugs, and a data set that tells how often it was read."""

from pathlib import Path

import torch


class Buggy(torch.nn.Module):
    def __init__(self, *, input_shape, num_classes, hidden):
        super().__init__()
        self.layer = {1: torch.nn.Linear(784, num_classes)}[
            hidden
        ]  # the bug where `hidden` is another number

    def forward(self, images_NCHW):
        return self.layer(images_NCHW.flatten(0 if self.training else 1))  # the bug


class Counted(torch.utils.data.Dataset):
    def __init__(self, *, root, train, download, log):
        with Path(log).open("a") as file:
            file.write(f"train={train}\n")
        self.data = torch.zeros(40, 28, 28, dtype=torch.uint8)
        self.targets = torch.arange(40) % 10
        self.classes = [*map(str, range(10))]
