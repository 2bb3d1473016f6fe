"""The same work as most templates do it: a transform a sample, a DataLoader, torchmetrics and a log each step."""

import json
import logging
import tempfile
import time
import warnings

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, random_split
from torchmetrics.classification import MulticlassAccuracy
from torchvision import datasets, transforms

from leyden.base.paths import root

warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Module(L.LightningModule):
    """The usual one."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10)
        )
        self.train_acc, self.val_acc = (MulticlassAccuracy(10, average="micro") for _ in range(2))

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        """Loss and accuracy of a batch."""
        images, labels = batch
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels)
        self.train_acc(logits, labels)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor]) -> None:
        """The same for validation."""
        images, labels = batch
        logits = self.network(images)
        self.val_acc(logits, labels)
        self.log("val/loss", F.cross_entropy(logits, labels))
        self.log("val/acc", self.val_acc, on_step=False, on_epoch=True, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """PyTorch's RMSprop."""
        return torch.optim.RMSprop(self.parameters(), lr=1e-3, alpha=0.9, eps=1e-7)


L.seed_everything(0, verbose=False)
data = datasets.MNIST(str(root() / "data"), transform=transforms.ToTensor())
train, val = random_split(data, [55_000, 5_000])
with tempfile.TemporaryDirectory() as folder:
    trainer = L.Trainer(
        max_epochs=5,
        logger=TensorBoardLogger(folder),
        callbacks=[ModelCheckpoint(folder, monitor="val/acc", mode="max")],
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    module = Module()
    start, cpu = time.perf_counter(), time.process_time()
    trainer.fit(module, DataLoader(train, 128, shuffle=True), DataLoader(val, 1000))
    fit_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
print(
    json.dumps(
        {"fit_s": fit_s, "cpu_s": cpu_s, "val_acc": trainer.callback_metrics["val/acc"].item()}
    )
)
