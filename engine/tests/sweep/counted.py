"""A data set that tells how often it was read."""

from pathlib import Path

import torch
from torch.utils.data import Dataset


class Counted(Dataset):
    def __init__(self, *, root, train, download, log):
        with Path(log).open("a") as file:
            file.write(f"train={train}\n")
        self.data = torch.zeros(40, 28, 28, dtype=torch.uint8)
        self.targets = torch.arange(40) % 10
        self.classes = [*map(str, range(10))]
