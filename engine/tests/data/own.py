"""Data modules as somebody writes them who knows nothing of this project."""

import pkgutil
import random

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset


class Noisy(Dataset):
    """Images with noise of their own each time, from all the sources that there are."""

    classes = tuple("0123456789")
    told = {"input_shape": (1, 28, 28), "num_classes": 10}  # noqa: RUF012

    def __init__(self, num: int = 200, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(10, (num,), generator=generator)
        noise = torch.rand(num, 1, 28, 28, generator=generator)
        self.images = self.labels.reshape(-1, 1, 1, 1) / 10 + noise

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        noise = torch.rand(1) + random.random() + np.random.rand()
        image = self.images[index] + 0.1 * noise.float()
        return image, self.labels[index]


class TrainingOnly(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Noisy(), 20, shuffle=True)


class Plain(L.LightningDataModule):
    def __init__(self, batch_size: int = 20, num_workers: int = 0):
        super().__init__()
        self.batch_size = batch_size
        self.num_workers = num_workers

    def setup(self, stage):
        self.train = Noisy(200, seed=0)
        self.val = Noisy(40, seed=1)
        self.test = Noisy(40, seed=2)

    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, shuffle=True, num_workers=self.num_workers)

    def val_dataloader(self):
        return DataLoader(self.val, self.batch_size)

    def test_dataloader(self):
        return DataLoader(self.test, self.batch_size)


class WithFacts(Plain):
    facts = {**Noisy.told, "class_names": Noisy.classes, "num_rooms": 4}  # noqa: RUF012


class WithSizes(WithFacts):
    """One that counts its samples, also those of a split that no loader of Lightning's is for, and of the test set."""

    sizes = {"train": 200, "val": 40, "test": 40, "further": 40}  # noqa: RUF012

    def further_dataloader(self):
        return self.test_dataloader()


class Stream(IterableDataset):
    """Batches of which nobody knows how many there are."""

    def __iter__(self):
        yield from map(Noisy().__getitem__, range(200))


class Streaming(WithFacts):
    def train_dataloader(self):
        return DataLoader(Stream(), self.batch_size)


class Rows(TensorDataset):
    told = {"input_shape": (3,), "target_names": ("sum",)}  # noqa: RUF012

    def __init__(self):
        rows = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
        super().__init__(rows, rows.sum(dim=1))

    def __getitem__(self, index):
        row, target = super().__getitem__(index)
        return row + 0.01 * torch.rand(3), target


class Tokens(TensorDataset):
    vocabulary = ("a", "b", "c")
    told = {"input_shape": (8,), "vocabulary": vocabulary}  # noqa: RUF012

    def __init__(self):
        tokens = torch.randint(3, (200, 9), generator=torch.Generator().manual_seed(0))
        super().__init__(tokens[:, :-1], tokens[:, 1:])


class Given(Plain):
    """Any of these behind loaders of PyTorch, with the facts that it tells."""

    def __init__(self, kind: str):
        super().__init__()
        self.made = pkgutil.resolve_name(kind)()
        self.facts = self.made.told

    def setup(self, stage):
        self.train = self.val = self.test = self.made
