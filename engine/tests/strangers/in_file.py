"""A file that draws when it is imported, and imports functions of `random` by their names."""

from random import shuffle, uniform

import numpy as np
import torch

from tests.strangers.plain import BATCH, Plain

SHIFT = float(torch.rand(1))
RNG = np.random.default_rng()


class InFile(Plain):
    def train_loss(self, batch, batch_idx):
        if self.way == "drawn":
            return self.loss((batch[0] + SHIFT, batch[1])) * (1 + float(RNG.uniform()))
        order = [*range(BATCH)]
        shuffle(order)
        return self.loss(batch) * uniform(0.9, 1.1) * order[0]
