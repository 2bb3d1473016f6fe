"""LightningModules and data as strangers write them: each class has one trait that the engine must know, or refuse in a line."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from tests.strangers.plain import Plain, rows


def samples(num, seed):
    return TensorDataset(*rows(num, seed))


class Data(L.LightningDataModule):
    """10 batches an epoch; of validation, 2 per loader."""

    def __init__(self, num_val_loaders: int = 1):
        super().__init__()
        self.num_val_loaders = num_val_loaders

    def train_dataloader(self):
        return DataLoader(samples(100, 0), 10, shuffle=True)

    def val_dataloader(self):
        loaders = [DataLoader(samples(20, 1 + 2 * n), 10) for n in range(self.num_val_loaders)]
        return loaders if len(loaders) > 1 else loaders[0]

    def test_dataloader(self):
        return DataLoader(samples(20, 2), 10)


class Broken(Plain):
    """It asks for a value, and has a bug further down."""

    def __init__(self):
        super().__init__()
        torch.ones(1).item()
        self.layer = nn.Linear(4, self.num_targets)


class Scheduled(Plain):
    """It takes a schedule, and has it stepped in one of many ways."""

    def __init__(self, optimizer, scheduler, way: str):
        super().__init__()
        self.optimizer, self.scheduler, self.way = optimizer, scheduler, way
        self.automatic_optimization = way != "by hand"

    def training_step(self, batch, batch_idx):
        rate = self.optimizers().param_groups[0]["lr"]
        self.log("train/rate", rate, on_step=False, on_epoch=True, reduce_fx="min")
        if self.way == "by hand":
            self.optimizers().zero_grad()
            self.manual_backward(self.loss(batch))
            self.optimizers().step()
            self.lr_schedulers().step()
            return None
        return self.loss(batch)

    def configure_optimizers(self):
        optimizer = self.optimizer(self.parameters())
        schedule = self.scheduler(optimizer)
        if self.way == "within":
            warm_up = torch.optim.lr_scheduler.ConstantLR(optimizer, 0.5, 2)
            schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, schedule], [2])
        if self.way == "lost":
            return optimizer
        if self.way in ("list", "by hand"):
            return [optimizer], [schedule]
        more = {"step": {"interval": "step"}, "seldom": {"interval": "step", "frequency": 5}}.get(self.way, {})
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, **more}}


class Following(Plain):
    """Its schedule follows a metric."""

    def __init__(self, optimizer):
        super().__init__()
        self.optimizer = optimizer

    def configure_optimizers(self):
        optimizer = self.optimizer(self.parameters())
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val/loss"}}


class Whole(Plain):
    """It brings its own data, as Lightning's examples of one file do."""

    def __init__(self, num: int = 100, scheduler=None):
        super().__init__()
        self.num, self.scheduler = num, scheduler
        self.drop = nn.Dropout(0.2)
        self.calls = []

    def loss(self, batch):
        return super().loss((self.drop(batch[0]), batch[1]))

    def prepare_data(self):
        self.calls.append("prepare_data")

    def setup(self, stage):
        self.calls.append(stage)
        if stage == "fit":
            generator = torch.Generator().manual_seed(3)
            self.train_set, self.val_set = random_split(samples(self.num, 0), [0.8, 0.2], generator)
        else:
            self.test_set = samples(30, 2)

    def train_dataloader(self):
        return DataLoader(self.train_set, 10, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val_set, 10)

    def test_dataloader(self):
        return DataLoader(self.test_set, 10)

    def on_train_start(self):
        assert self.calls in (["prepare_data", "fit"], ["prepare_data", "fit", "test"])  # each once

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return ([optimizer], [self.scheduler(optimizer)]) if self.scheduler else optimizer


class Untestable(L.LightningDataModule):
    """Data without a test set."""

    num_val_loaders = 1
    train_dataloader, val_dataloader = Data.train_dataloader, Data.val_dataloader


class Validating(Plain):
    """It has a loader for validation alone."""

    def val_dataloader(self):
        return DataLoader(samples(20, 1), 10)


class Peeking(nn.Module):
    """A network that asks for a value on its way."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.layer = nn.Linear(784, num_classes)

    def forward(self, images):
        return self.layer(images.flatten(1) / max(1.0, images.max().item()))


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
