"""The LightningModule and its data, for Lightning alone, with `Exact`, and for `leyden train`."""

import lightning as L
import task
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging
from torch.nn.functional import mse_loss
from torch.optim.lr_scheduler import ReduceLROnPlateau


class Module(L.LightningModule):
    """The network with its loss and optimizer."""

    def __init__(self, scenario="shuffle"):
        super().__init__()
        self.scenario = scenario
        self.net = task.make_net(scenario)

    def training_step(self, batch, batch_idx):
        return mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", mse_loss(self.net(batch[0]), batch[1]))

    def on_train_batch_end(self, outputs, batch, batch_idx):
        task.disturb(self.global_step)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        if self.scenario != "plateau":
            return optimizer
        schedule = ReduceLROnPlateau(optimizer, patience=1)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"},
        }


class Data(L.LightningDataModule):
    """Training batches, and those of validation where a scenario has them."""

    def __init__(self, scenario="shuffle"):
        super().__init__()
        self.scenario = scenario

    def train_dataloader(self):
        return task.make_loader(self.scenario)

    def val_dataloader(self):
        return task.make_val_loader(self.scenario) or []


class Marks(Callback):
    """Marks of each batch, for Lightning alone: `Exact` has its own."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        step = trainer.current_epoch * task.NUM_BATCHES + batch_idx + 1
        task.mark(step, module, [*trainer.optimizers, trainer.lr_scheduler_configs], batch)


def options_of(scenario):
    """Return the options of Lightning's Trainer for a scenario."""
    callbacks = []
    if scenario == "early":
        callbacks.append(EarlyStopping("val_loss", patience=2))
    if scenario == "ema":
        callbacks.append(EMAWeightAveraging(decay=0.9))
    return {
        "max_epochs": task.num_epochs(scenario),
        "callbacks": callbacks,
        "accumulate_grad_batches": 2 if scenario == "accumulate" else 1,
        "limit_train_batches": task.NUM_BATCHES if scenario == "stream" else None,
        "devices": 2 if scenario == "ddp" else 1,
        "strategy": "ddp" if scenario == "ddp" else "auto",
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "num_sanity_val_steps": 0,
    }
