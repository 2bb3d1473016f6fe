"""A LightningModule that logs under any names, and small data of its own."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.strangers.plain import Plain, rows


def samples(num, seed):
    return TensorDataset(*rows(num, seed))


class Data(L.LightningDataModule):
    """Ten batches of training, two of validation, per loader, and two of a test."""

    def __init__(self, num_val_loaders: int = 1):
        super().__init__()
        self.num_val_loaders = num_val_loaders

    def train_dataloader(self):
        return DataLoader(samples(40, 0), 4, shuffle=True)

    def val_dataloader(self):
        loaders = [DataLoader(samples(8, 1 + n), 4) for n in range(self.num_val_loaders)]
        return loaders if len(loaders) > 1 else loaders[0]

    def test_dataloader(self):
        return DataLoader(samples(8, 9), 4)


class Named(Plain):
    """The loss of each stage has the name that is given, an empty one is not logged."""

    def __init__(self, train: str = "train_loss", val: str = "val_loss", test: str = "test_loss", lr: float = 0.01):
        super().__init__()
        self.train_name, self.val_name, self.test_name, self.lr = train, val, test, lr
        self.net = nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        if self.train_name:
            self.log(self.train_name, loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        if self.val_name:
            self.log(self.val_name, self.loss(batch))

    def test_step(self, batch, batch_idx):
        if self.test_name:
            self.log(self.test_name, self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class EachSecond(Named):
    """It logs `val_loss` in each second validation, beginning with the first."""

    num_validations = 0

    def on_validation_start(self):
        self.num_validations += 1

    def validation_step(self, batch, batch_idx):
        if self.num_validations % 2:
            self.log("val_loss", self.loss(batch))
