"""A file that draws when it is imported, and keeps a generator without a seed."""

import numpy as np
import torch
import torch.nn.functional as F

from tests.strangers.modules import Plain

SHIFT = float(torch.rand(1))
RNG = np.random.default_rng()


class FileDraws(Plain):
    """A module with a number and a generator of its file."""

    def loss(self, batch):
        inputs, targets = batch
        return F.mse_loss(self(inputs + SHIFT), targets)

    def training_step(self, batch, batch_idx):
        return self.loss(batch) + 0.01 * float(RNG.normal()) * self.net[0].weight.sum()
