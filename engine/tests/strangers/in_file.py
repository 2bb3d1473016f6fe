"""A file that draws when it is imported, imports functions of `random` by their names."""

from random import shuffle, uniform

import numpy as np
import torch

from tests.strangers.plain import BATCH, Plain

SHIFT = float(torch.rand(1))
RNG = np.random.default_rng()


class FileDraws(Plain):
    def train_loss(self, batch, batch_idx):
        return self.loss((batch[0] + SHIFT, batch[1])) * (1 + float(RNG.uniform()))


class FromRandom(Plain):
    def train_loss(self, batch, batch_idx):
        order = [*range(BATCH)]
        shuffle(order)
        return self.loss(batch) * uniform(0.9, 1.1) * order[0]
