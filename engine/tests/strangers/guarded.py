"""What others write that raises when it is looked at, kept or restored; each class says which."""

import random
import threading

import lightning as L
import torchmetrics

from tests.strangers.plain import Plain, PlainData, Rows
from tests.strangers.stand_ins import Lazy


class Lazier:
    """A package that is not installed, whose stand-in has not even a class."""

    def __getattribute__(self, name):
        raise ImportError("install it")


class Counts(Plain):
    """A number that is kept."""

    def __init__(self):
        super().__init__()
        self.factor = 1.0

    def train_loss(self, batch, batch_idx):
        self.factor += 0.1
        return self.loss(batch) * self.factor


class Raises(Counts):
    """Objects that raise when they are looked at or kept."""

    def __init__(self):
        super().__init__()
        self.missing, self.missings = Lazy(), {"package": Lazier()}
        self.system, self.cache = random.SystemRandom(), {}

    def train_loss(self, batch, batch_idx):
        self.cache["last", batch_idx] = threading.Lock()  # as gpytorch's caches, of what can't be pickled
        return super().train_loss(batch, batch_idx)


class RaisesWhenRestored(Counts):
    """An object whose `load_state_dict` raises."""

    def __init__(self):
        super().__init__()
        self.keeper = Keeper()

    def train_loss(self, batch, batch_idx):
        self.keeper.num += 1
        return super().train_loss(batch, batch_idx)


class Keeper:
    def __init__(self):
        self.num = 0

    def state_dict(self):
        return {"num": self.num}

    def load_state_dict(self, state):
        raise RuntimeError("of another version")


class RaisingMetric(torchmetrics.MeanMetric):
    @property
    def metric_state(self):
        raise RuntimeError("not synced")


class WithRaisingMetric(Plain):
    """A metric whose state can't be read."""

    def __init__(self):
        super().__init__()
        self.mean = RaisingMetric()


class RaisingRows(Rows):
    """A data set with a package that is missing, and a number that is kept."""

    def __init__(self, num=40, seed=0):
        super().__init__(num, seed)
        self.missing, self.num_read = Lazier(), 0

    def __getitem__(self, index):
        self.num_read += 1
        inputs, targets = super().__getitem__(index)
        return inputs * (1 + 0.001 * self.num_read), targets


class WithRaisingRows(PlainData):
    kind = RaisingRows


class RaisingCallback(L.Callback):
    """A callback with a package that is missing."""

    def __init__(self):
        self.missing = Lazier()
