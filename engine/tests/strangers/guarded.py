"""What others write that raises when it is looked at, kept or restored."""

import random
import threading

import lightning as L
import torchmetrics

from tests.strangers.plain import Plain, PlainData, Rows


class Lazy:
    """A package that is not installed, as MONAI's lazy imports: it raises its own error, whatever it is asked for."""

    def __getattr__(self, name):
        raise ImportError("install it")


class Lazier:
    """One whose stand-in has not even a class."""

    def __getattribute__(self, name):
        raise ImportError("install it")


class Keeper:
    """An object whose `load_state_dict` raises."""

    num = 0

    def state_dict(self):
        return {"num": self.num}

    def load_state_dict(self, state):
        raise RuntimeError("of another version")


class RaisingMetric(torchmetrics.MeanMetric):
    @property
    def metric_state(self):
        raise RuntimeError("not synced")


class Raises(Plain):
    """A number that is kept, beside all kinds of objects that raise."""

    def __init__(self):
        super().__init__()
        self.factor, self.keeper, self.mean = 1.0, Keeper(), RaisingMetric()
        self.missing, self.missings = Lazy(), {"package": Lazier()}
        self.system, self.cache = random.SystemRandom(), {}

    def train_loss(self, batch, batch_idx):
        self.factor += 0.1
        self.keeper.num += 1
        self.cache["last", batch_idx] = threading.Lock()  # as gpytorch's caches, of what can't be pickled
        return self.loss(batch) * self.factor


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
