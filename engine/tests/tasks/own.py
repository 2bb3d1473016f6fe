"""LightningModules as somebody writes them who knows nothing of this project."""

import math

import lightning as L
import torch
import torch.nn.functional as F
import torchmetrics
from torch import nn

from leyden.tasks import Outcome, Task

OF_EPOCH = {"on_step": False, "on_epoch": True}


class Plain(L.LightningModule):
    def __init__(self, width: int = 8, dropout: float = 0.2):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(784, width),
            nn.Dropout(dropout),
            nn.Linear(width, 10),
        )
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(num_classes=10)
        self.val_accuracy = torchmetrics.classification.MulticlassAccuracy(num_classes=10)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        logits = self.layers(images)
        loss = F.cross_entropy(logits, labels)
        self.log("train/loss", loss, **OF_EPOCH)
        self.log("train/both", loss, on_step=True, on_epoch=True)
        for name in ("sum", "max", "min"):
            self.log(f"train/{name}", loss, reduce_fx=name, **OF_EPOCH)
        self.log("train/builtin", loss, reduce_fx=max, **OF_EPOCH)
        if batch_idx == 0:
            self.log("train/first", loss, **OF_EPOCH)
        self.accuracy(logits, labels)
        self.log("train/acc", self.accuracy, **OF_EPOCH)
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        logits = self.layers(images)
        self.val_accuracy(logits, labels)
        self.log("val/acc", self.val_accuracy)
        self.log("val/loss", F.cross_entropy(logits, labels))

    def test_step(self, batch, batch_idx):
        images, labels = batch
        classes = self.layers(images).argmax(dim=1)
        is_right = classes == labels
        self.log("test/acc", is_right.float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)]


class AnyData(L.LightningModule):
    """It draws lots from the sum of a sample, whatever the sample is."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        inputs, _ = batch
        inputs_N1 = inputs.float().flatten(1).mean(dim=1, keepdim=True) / 255
        errors_N1 = self.layer(inputs_N1) - torch.rand_like(inputs_N1)
        return errors_N1.square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.training_step(batch, batch_idx))

    def test_step(self, batch, batch_idx):
        self.log("test/size", float(len(batch[0])), reduce_fx="sum")

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


class Pairs(Task):
    """Its loss is that of guessing a sample's partner in its batch."""

    same_batch_size = True

    def step(self, batch):
        images, _ = batch
        return Outcome(0 * self(images).sum() + math.log(len(images)), None, images)


class Weighted(nn.Module):
    """A loss with a buffer that is a choice: a weight per class."""

    def __init__(self, weights: list[float]):
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights))

    def forward(self, logits, labels):
        return F.cross_entropy(logits, labels, self.weights)
