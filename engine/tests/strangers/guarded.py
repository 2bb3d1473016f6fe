"""What others write that raises when it is looked at, kept or restored; each class says which."""

import functools
import queue
import random
import threading

import lightning as L
import numpy as np
import torch
import torchmetrics
from torch.utils.data import DataLoader

from tests.strangers.data import BATCH, Rows
from tests.strangers.data import Plain as PlainData
from tests.strangers.modules import OwnLoaders, Plain


class Lazy:
    """A package that is not installed, as MONAI's lazy imports: it raises its own error, whatever it is asked for."""

    def __getattr__(self, name):
        raise ImportError("install it")

    def __call__(self, *args):
        raise ImportError("install it")


class Lazier:
    """The same, which has not even a class."""

    def __getattribute__(self, name):
        raise ImportError("install it")


class Partial(Plain):
    """A function with arguments that it changes."""

    def __init__(self):
        super().__init__()
        self.call = functools.partial(grown, [1.0], scale=0.1)

    def training_step(self, batch, batch_idx):
        return self.loss(batch) * self.call()


def grown(factors, scale):
    factors[0] += scale
    return factors[0]


class Writes(Plain):
    """A tensor that is written by `.data`, which raises no version."""

    def __init__(self):
        super().__init__()
        self.scale = torch.ones(1)

    def training_step(self, batch, batch_idx):
        self.scale.data += 0.1
        return self.loss(batch) * self.scale.item()


class Records(Plain):
    """A structured array, in place."""

    def __init__(self):
        super().__init__()
        self.records = np.zeros(1, dtype=[("factor", float), ("num", int)])

    def training_step(self, batch, batch_idx):
        self.records["factor"] += 0.1
        return self.loss(batch) * (1 + float(self.records["factor"][0]))


class Queue(Plain):
    """A queue of Python's."""

    def __init__(self):
        super().__init__()
        self.waiting = queue.Queue()
        self.waiting.put(1.0)

    def training_step(self, batch, batch_idx):
        factor = self.waiting.get()
        self.waiting.put(factor + 0.1)
        return self.loss(batch) * factor


class Unusual(Plain):
    """Tensors that are sparse, nested, of inference mode or of stride 0, and do not change."""

    def __init__(self):
        super().__init__()
        graph = torch.eye(4)
        self.graphs = [graph.to_sparse(), graph.to_sparse_csr()]
        self.graph, self.by_row = self.graphs
        self.nested = torch.nested.as_nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
        with torch.inference_mode():
            self.fixed = torch.ones(4)
        self.wide = torch.ones(1).expand(4)

    def training_step(self, batch, batch_idx):
        return self.loss((self.graph @ batch[0].T).T * self.wide * self.fixed.clone(), batch[1])

    def loss(self, inputs, targets=None):
        return super().loss(inputs if targets is None else (inputs, targets))


class R2(Plain):
    """A metric whose state becomes several numbers at its first update."""

    def __init__(self):
        super().__init__()
        self.r2 = torchmetrics.R2Score()

    def training_step(self, batch, batch_idx):
        outputs = self(batch[0]).detach()
        self.r2.update(torch.stack([outputs, -outputs], 1), torch.stack([batch[1], -batch[1]], 1))
        self.log("train/r2", self.r2, on_step=False, on_epoch=True)
        return self.loss(batch)


class FittedAtEnd(Plain):
    """Attributes and a buffer that are set when training ends, as SWAG's; there is no test without them."""

    def __init__(self):
        super().__init__()
        self.fitted, self.factors = False, []

    def on_train_epoch_end(self):
        self.factors.append(1.0)

    def on_train_end(self):
        self.fitted, self.factors = True, [2.0]
        self.register_buffer("mean", torch.ones(1))

    def test_step(self, batch, batch_idx):
        if not self.fitted:
            raise RuntimeError("not fitted yet")
        self.log("test/factor", sum(self.factors) * float(self.mean), batch_size=BATCH)
        super().test_step(batch, batch_idx)


class Persistent(OwnLoaders):
    """Loaders of its own, with workers that stay, as PyTorch Geometric's have; validation draws in them."""

    def val_dataloader(self):
        return DataLoader(Drawing(10, 1), BATCH, num_workers=1, persistent_workers=True)


class Drawing(Rows):
    def __getitem__(self, index):
        inputs, targets = super().__getitem__(index)
        return inputs + torch.rand(4), targets


# What is named in a line, and the run goes on.


class Raises(Plain):
    """Objects that raise when they are looked at or kept, beside a number that is kept."""

    def __init__(self):
        super().__init__()
        self.factor, self.missing, self.missings = 1.0, Lazy(), {"package": Lazier()}
        self.system, self.cache = random.SystemRandom(), {}

    def training_step(self, batch, batch_idx):
        self.factor += 0.1
        self.cache["last", batch_idx] = threading.Lock()  # as gpytorch's caches, of what can't be pickled
        return self.loss(batch) * self.factor


class RaisesWhenRestored(Plain):
    """An object whose `load_state_dict` raises, and a dictionary that is read-only in a run that resumes."""

    def __init__(self):
        super().__init__()
        self.factor, self.keeper = 1.0, Keeper()

    def training_step(self, batch, batch_idx):
        self.factor += 0.1
        self.keeper.num += 1
        return self.loss(batch) * self.factor


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
