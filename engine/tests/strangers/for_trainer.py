"""What strangers bring to the trainer and its loggers; each class says what."""

import torch.nn.functional as F
from lightning.pytorch.strategies import DDPStrategy
from torch import nn, optim

from leyden.tasks.task import Outcome, Task
from tests.strangers.plain import BATCH
from tests.strangers.stand_ins import OfSeveral, inputs_and_targets


class OfForm(Task):
    """A task of the engine on batches of any form."""

    def __init__(self):
        super().__init__(network=nn.Linear(4, 1), optimizer=lambda named: optim.Adam([p for _, p in named]))

    def step(self, batch):
        inputs, targets = inputs_and_targets(batch)
        outputs = self.network(inputs).squeeze(1)
        return Outcome(F.mse_loss(outputs, targets), outputs, targets)


class TestedAtOnce(OfSeveral):
    """It is tested on what several loaders give at once."""

    __test__ = False  # it is no test

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.train_loss(dict(enumerate(batch)), batch_idx), batch_size=BATCH)


class Forked(DDPStrategy):
    """One that starts each process as a command; its name says something else."""
