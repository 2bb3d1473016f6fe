"""A file that imports functions of `random` by their names."""

from random import shuffle, uniform

from tests.strangers.data import BATCH
from tests.strangers.modules import Plain


class FromRandom(Plain):
    """Its steps draw by the functions."""

    def training_step(self, batch, batch_idx):
        order = [*range(BATCH)]
        shuffle(order)
        return self.loss(batch) * uniform(0.9, 1.1) * order[0]
