"""Data and modules of strangers, for what the trainer and its callbacks do with them."""

import dataclasses
from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader

from leyden.tasks.task import Outcome, Task


class Graph:
    """Nodes of several graphs, as a graph library joins them; its size stands in an attribute alone."""

    def __init__(self, nodes: list[Tensor]):
        self.x, self.num_graphs = torch.cat(nodes), len(nodes)
        self.index = torch.repeat_interleave(torch.arange(len(nodes)), torch.tensor([len(each) for each in nodes]))

    def to(self, device, **_):
        self.x, self.index = self.x.to(device), self.index.to(device)
        return self


class Opaque:
    """A batch that shows nothing of its size."""

    def __init__(self, rows: list[Tensor]):
        self.rows = rows

    @property
    def num_graphs(self):
        raise ValueError("can't infer the number of graphs")


@dataclasses.dataclass
class Fields:
    """A batch with names for its parts."""

    inputs: Tensor
    names: list[str]


COLLATES = {
    "dict": lambda rows: {"inputs": torch.stack(rows), "names": ["a"] * len(rows), "scale": 2.0},
    "dataclass": lambda rows: Fields(torch.stack(rows), ["a"] * len(rows)),
    "list of dicts": lambda rows: [{"image": row, "boxes": torch.zeros(n, 4)} for n, row in enumerate(rows)],
    "tuple of lists": lambda rows: (list(rows), [{"boxes": torch.zeros(n, 4)} for n, _ in enumerate(rows)]),
    "graph": lambda rows: Graph([row.reshape(3, 1)[: 1 + n % 3] for n, row in enumerate(rows)]),
    "opaque": Opaque,
}


def inputs_of(batch) -> Tensor:
    """A number per sample, shape (N, 1), whatever the batch is."""
    match batch:
        case dict():
            return batch["inputs"].mean(1, keepdim=True)
        case Fields():
            return batch.inputs.mean(1, keepdim=True)
        case Graph():
            return torch.zeros(batch.num_graphs, 1).index_add(0, batch.index, batch.x)
        case Opaque():
            return torch.stack(batch.rows).mean(1, keepdim=True)
        case [dict(), *_]:
            return torch.stack([each["image"] for each in batch]).mean(1, keepdim=True)
        case _:
            return torch.stack(batch[0]).mean(1, keepdim=True)


def rows(num: int, seed: int = 0) -> Tensor:
    """Rows of three numbers."""
    return torch.rand(num, 3, generator=torch.Generator().manual_seed(seed))


class Collated(L.LightningDataModule):
    """Batches of a form of their own: 50 samples, the last batch of 10."""

    def __init__(self, form: str, batch_size: int = 20):
        super().__init__()
        self.collate, self.batch_size = COLLATES[form], batch_size

    def loader(self, num: int, shuffle: bool = False):
        return DataLoader(list(rows(num)), self.batch_size, shuffle=shuffle, collate_fn=self.collate)

    def train_dataloader(self):
        return self.loader(50, shuffle=True)

    def val_dataloader(self):
        return self.loader(30)

    def test_dataloader(self):
        return self.loader(30)


class AnyBatch(L.LightningModule):
    """It draws lots from the mean of a sample."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def loss(self, batch):
        inputs = inputs_of(batch)
        return (self.layer(inputs) - torch.rand_like(inputs)).square().mean()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train/loss", loss, batch_size=1)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch), batch_size=1)

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.loss(batch), batch_size=1)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


class AnyBatchTask(Task):
    """The same as a task of the engine."""

    def __init__(self):
        super().__init__(network=nn.Linear(1, 1), optimizer=lambda named: torch.optim.Adam([p for _, p in named]))

    def step(self, batch):
        inputs = inputs_of(batch)
        outputs = self.network(inputs)
        return Outcome(F.mse_loss(outputs, inputs), outputs, inputs)


class Pictured(AnyBatch):
    """Pictures to all loggers, as in Lightning's GAN example; and to the first one."""

    def on_validation_epoch_end(self):
        for logger in self.loggers:
            logger.experiment.add_image("all", torch.zeros(3, 4, 4), self.current_epoch)
        self.logger.experiment.add_image("first", torch.zeros(3, 4, 4), self.current_epoch)


class Sometimes(AnyBatch):
    """A layer of it gets no gradient in every other step; it draws its lots with dropout."""

    def __init__(self):
        super().__init__()
        self.other = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        inputs = F.dropout(inputs_of(batch), 0.2)
        outputs = self.layer(inputs) + (self.other(inputs) if batch_idx % 2 else 0)
        loss = (outputs - torch.rand_like(inputs)).square().mean()
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=len(inputs))
        return loss


class ByHand(AnyBatch):
    """Three optimizers, stepped by hand in turns of unlike length, and a schedule that follows a metric."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.layers = nn.ModuleList(nn.Linear(1, 1) for _ in range(3))

    def training_step(self, batch, batch_idx):
        inputs = F.dropout(inputs_of(batch), 0.2)
        optimizers = self.optimizers()
        for n, (optimizer, layer) in enumerate(zip(optimizers, self.layers, strict=True)):
            loss = (layer(inputs) - torch.rand_like(inputs)).square().mean()
            self.manual_backward(loss / (n + 1))
            if (batch_idx + 1) % (n + 1) == 0 or self.trainer.is_last_batch:
                optimizer.step()
                optimizer.zero_grad()
            self.log(f"train/loss_{n}", loss, on_epoch=True, batch_size=len(inputs))

    def on_train_epoch_end(self):
        self.lr_schedulers().step(self.trainer.callback_metrics["val/loss"])

    def configure_optimizers(self):
        made = [torch.optim.Adam(layer.parameters(), lr=0.1 / (n + 1)) for n, layer in enumerate(self.layers)]
        return made, [torch.optim.lr_scheduler.ReduceLROnPlateau(made[1], patience=0, threshold=10.0)]


class Plateau(Sometimes):
    """A schedule that follows a metric, which Lightning steps."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val/loss"}}


class Several(AnyBatch):
    """It takes what several loaders give at once, and validates on two of them."""

    def training_step(self, batch, batch_idx):
        parts = batch.values() if "inputs" not in batch else [batch]
        inputs = torch.cat([inputs_of(part) for part in parts if part is not None])
        loss = (self.layer(F.dropout(inputs, 0.2)) - torch.rand_like(inputs)).square().mean()
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=len(inputs))
        return loss

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val/loss", self.loss(batch), batch_size=len(inputs_of(batch)))

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("test/loss", inputs_of(batch).mean(), batch_size=len(inputs_of(batch)))


class Listed(Several):
    """It is tested on what several loaders give at once."""

    def test_step(self, batch, batch_idx):
        inputs = torch.cat([inputs_of(part) for part in batch if part is not None])
        self.log("test/loss", inputs.mean(), batch_size=len(inputs))


class Combined(Collated):
    """Two training loaders of unlike length, combined in a mode; two of validation and of the test set."""

    def __init__(self, mode: str):
        super().__init__("dict", 5)
        self.mode = mode

    def train_dataloader(self):
        loaders = {"a": self.loader(50, shuffle=True), "b": self.loader(33, shuffle=True)}
        return loaders if self.mode == "none" else CombinedLoader(loaders, self.mode)

    def val_dataloader(self):
        return [self.loader(30), self.loader(12)]

    def test_dataloader(self):
        return [self.loader(30), self.loader(12)]


class Gallery(CSVLogger):
    """A logger that takes images, as Lightning's WandbLogger does."""

    def __init__(self, save_dir):
        super().__init__(save_dir, name="gallery", version="")

    def log_image(self, key, images, step=None):
        for image in images:
            assert image.dtype == "uint8"
            assert image.shape[2] == 3
            with (Path(self.save_dir) / "images.txt").open("a") as file:
                file.write(f"{key} {step}\n")


class Forked(DDPStrategy):
    """One that starts each process as a command; its name says something else."""


def sharded():
    """A strategy that a function makes."""
    return FSDPStrategy()
