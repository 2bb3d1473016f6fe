"""What strangers bring to the trainer and its loggers; each class says what."""

from pathlib import Path

import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from torch import nn, optim

from leyden.tasks.task import Outcome, Task
from tests.strangers.plain import BATCH
from tests.strangers.stand_ins import GAN, OfSeveral, inputs_and_targets


class OfForm(Task):
    """A task of the engine on batches of any form."""

    def __init__(self):
        super().__init__(network=nn.Linear(4, 1), optimizer=lambda named: optim.Adam([p for _, p in named]))

    def step(self, batch):
        inputs, targets = inputs_and_targets(batch)
        outputs = self.network(inputs).squeeze(1)
        return Outcome(F.mse_loss(outputs, targets), outputs, targets)


class Pictured(GAN):
    """Pictures to the first logger, too."""

    def on_validation_epoch_end(self):
        super().on_validation_epoch_end()
        self.logger.experiment.add_image("first", self.validation_z.reshape(1, 4, 6), self.current_epoch)


class TestedAtOnce(OfSeveral):
    """It is tested on what several loaders give at once."""

    __test__ = False  # it is no test

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.train_loss(dict(enumerate(batch)), batch_idx), batch_size=BATCH)


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
