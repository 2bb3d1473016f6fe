"""A small regression and its data, from which strangers' work is made."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

NUM, BATCH = 40, 5  # 8 batches an epoch


def own(module, data="plain.PlainData", *more):
    """Overrides by which a module and data of these tests are trained; without data, those of the module."""
    of_data = ("data=own", f"data._target_=tests.strangers.{data}") if data else ("data=module",)
    return ("task=own", f"task._target_=tests.strangers.{module}", *of_data, *more)


def rows(num=NUM, seed=0):
    """Rows of four numbers, and their sum with some noise."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(num, 4, generator=generator)
    return inputs, inputs.sum(dim=1) + 0.1 * torch.randn(num, generator=generator)


class Rows(TensorDataset):
    def __init__(self, num=NUM, seed=0):
        super().__init__(*rows(num, seed))


def stacked(samples):
    return tuple(torch.stack(part) for part in zip(*samples, strict=True))


class PlainData(L.LightningDataModule):
    """Loaders of PyTorch, each made in one of several ways by a subclass."""

    kind: type = Rows

    def __init__(self, way: str = ""):
        super().__init__()
        self.way = way

    def setup(self, stage):
        self.data = self.kind()
        self.val = self.kind(10, 1)
        self.test = Rows(10, 2)

    def make_loader(self, samples, **options):
        return DataLoader(samples, BATCH, **options)

    def train_dataloader(self):
        return self.make_loader(self.data, shuffle=True)

    def val_dataloader(self):
        return self.make_loader(self.val)

    def test_dataloader(self):
        return self.make_loader(self.test)


def network(num_inputs=4):
    return nn.Sequential(nn.Linear(num_inputs, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))


class Plain(L.LightningModule):
    """A small regression, which logs its loss in each step. A subclass does it in several ways."""

    def __init__(self, way: str = ""):
        super().__init__()
        self.net = network()
        self.way = way

    def forward(self, inputs):
        return self.net(inputs).squeeze(1)

    def loss(self, batch):
        inputs, targets = batch
        return F.mse_loss(self(inputs), targets)

    def train_loss(self, batch, batch_idx):
        return self.loss(batch)

    def training_step(self, batch, batch_idx):
        if (loss := self.train_loss(batch, batch_idx)) is not None:
            self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=BATCH)
        return loss

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val/loss", self.loss(batch), batch_size=BATCH)

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("test/loss", self.loss(batch), batch_size=BATCH)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)
