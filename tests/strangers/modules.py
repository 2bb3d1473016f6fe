"""LightningModules and data as strangers write them: each class has one trait that the engine must know, or refuse in a line."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def samples(num, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(num, 4, generator=generator)
    return TensorDataset(inputs, inputs.sum(dim=1))


class Data(L.LightningDataModule):
    """Rows of four numbers, and their sum: 10 batches an epoch."""

    def train_dataloader(self):
        return DataLoader(samples(100, 0), 10, shuffle=True)

    def val_dataloader(self):
        return DataLoader(samples(20, 1), 10)

    def test_dataloader(self):
        return DataLoader(samples(20, 2), 10)


class Plain(L.LightningModule):
    """A regression of rows of four numbers, as short as can be."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def loss(self, batch):
        inputs, targets = batch
        return F.mse_loss(self.layer(inputs).squeeze(1), targets)

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch))

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-3)


class Item(Plain):
    """Its constructor asks for a value of a tensor."""

    def __init__(self, num_layers: int = 3):
        super().__init__()
        rates = [rate.item() for rate in torch.linspace(0, 0.1, num_layers)]  # as stochastic depth does
        self.drop = nn.Dropout(rates[-1])


class Broken(Plain):
    """It asks for a value, and has a bug further down."""

    def __init__(self):
        super().__init__()
        torch.ones(1).item()
        self.layer = nn.Linear(4, self.num_targets)


class Peeking(nn.Module):
    """A network that asks for a value on its way."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.layer = nn.Linear(784, num_classes)

    def forward(self, images):
        return self.layer(images.flatten(1) / max(1.0, images.max().item()))
