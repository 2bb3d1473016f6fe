"""The work that the matrix is generated from: a value of some kind, that lies somewhere, and changes at some time.

A holder says where the value lies, and whether a checkpoint is asked to look there. What trains reads the value, so that
a lost one changes bits: the module scales its loss by it, data scale their samples, samplers choose by it.
"""

import copy
import functools
import importlib
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from typing import Any, NamedTuple

import lightning as L
from torch import nn
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, IterableDataset, Sampler, Subset

from tests.strangers.kinds import GENERATORS, KEPT, KINDS, NAMED, SEEN, content
from tests.strangers.plain import BATCH, NUM, Plain, PlainData, Rows, stacked

# The step in which a value changes once, or is first set: after the first epoch, before the last checkpoint.
LATE = 9

TIMES = {
    "step": "in each step",
    "replaced": "replaced in each step",
    "epoch": "when an epoch starts",
    "validation": "after each validation",
    "once": "once, late",
    "first": "first set in training",
    "alias": "in each step, by another name of it",
}
EACH_STEP = ("step", "replaced", "alias")

stranger_package = importlib.import_module("tests.strangers.site-packages.stranger_package")

# What holds the value of the work that was made last, for who changes it from elsewhere.
WHERE: dict[str, Any] = {}


class Held:
    """It has the value in an attribute."""

    def hold(self, kind, time):
        self.what, self.when = kind, time
        for name in ("held", "also"):
            if name in vars(self):
                delattr(self, name)
        if time != "first":
            self.held = KINDS[kind].make()
        if time == "alias":
            self.also = self.held
        WHERE["it"] = self
        return self

    def change(self):
        kind = KINDS[self.what]
        if self.when == "first":
            self.held = kind.changed(kind.make())
        elif self.when == "alias":
            kind.changed(self.also)
        else:
            self.held = kind.changed(copy.deepcopy(self.held) if self.when == "replaced" else self.held)

    def use(self):
        if self.when in EACH_STEP:
            self.change()
        return (content(self.held) * 0.618034) % 1 if hasattr(self, "held") else 0.0


class Box(Held):
    """An object of the user's own."""


class Keeping(Box):
    def state_dict(self):
        return {"held": self.held}

    def load_state_dict(self, state):
        self.held = state["held"]


class Inner:
    def __init__(self, box):
        self.box = box


class Layer(Held, nn.Module):
    def forward(self, inputs):
        return inputs * (1 + self.use()) if self.training else inputs


class Buffered(Layer):
    """A layer whose value is a buffer that no checkpoint of PyTorch's has."""

    def hold(self, kind, time):
        self.what, self.when = kind, time
        self.register_buffer("held", KINDS[kind].make(), persistent=False)
        WHERE["it"] = self
        return self


class Callback(Held, L.Callback):
    def __init__(self, kind: str, time: str, is_inner: bool = False):
        if is_inner:
            self.box = Box().hold(kind, time)
        else:
            self.hold(kind, time)


# Data


class Samples(Held, Rows):
    def __getitem__(self, index):
        inputs, target = super().__getitem__(index)
        return inputs * (1 + self.use()), target


class Transformed(Rows):
    def __init__(self, box):
        super().__init__()
        self.transforms = [box]

    def __getitem__(self, index):
        inputs, target = super().__getitem__(index)
        return inputs * (1 + self.transforms[0].use()), target


class Stream(Held, IterableDataset):
    def __iter__(self):
        if self.when not in EACH_STEP:
            self.change()
        for inputs, target in Rows():
            yield inputs * (1 + self.use()), target


class Order(Held, Sampler):
    def __len__(self):
        return NUM

    def __iter__(self):
        if self.when == "epoch":
            self.change()
        for n in range(len(self)):
            yield self.chosen(n)

    def chosen(self, n):
        return (int(self.use() * 1000) + 7 * n) % NUM


class Batches(Order, BatchSampler):
    def __init__(self):
        pass

    def __len__(self):
        return NUM // BATCH

    def chosen(self, n):
        first = int(self.use() * 1000) + n * BATCH
        return [each % NUM for each in range(first, first + BATCH)]


class Collating(Held):
    def __call__(self, samples):
        inputs, targets = stacked(samples)
        return inputs * (1 + self.use()), targets


def on_rows(dataset):
    return DataLoader(dataset, BATCH, shuffle=True)


DATA: dict[str, Callable[[str, str], DataLoader]] = {
    "dataset": lambda *it: on_rows(Samples().hold(*it)),
    "subset": lambda *it: on_rows(Subset(Samples().hold(*it), range(NUM))),
    "concatenated": lambda *it: on_rows(ConcatDataset([Samples().hold(*it)])),
    "transform": lambda *it: on_rows(Transformed(Box().hold(*it))),
    "stream": lambda *it: DataLoader(Stream().hold(*it), BATCH),
    "sampler": lambda *it: DataLoader(Rows(), BATCH, sampler=Order().hold(*it)),
    "batch_sampler": lambda *it: DataLoader(Rows(), batch_sampler=Batches().hold(*it)),
    "inner_sampler": lambda *it: DataLoader(Rows(), batch_sampler=BatchSampler(Order().hold(*it), BATCH, False)),
    "collate": lambda *it: DataLoader(Rows(), BATCH, shuffle=True, collate_fn=Collating().hold(*it)),
}


class Data(Held, PlainData):
    def __init__(self, holder: str, kind: str, time: str):
        super().__init__()
        self.value, self.make = (kind, time), DATA.get(holder)
        if holder == "data_module":
            self.hold(kind, time)
        if holder == "in_data_module":
            self.box = Box().hold(kind, time)

    def train_dataloader(self):
        return self.make(*self.value) if self.make else super().train_dataloader()


ITERATED = ("stream", "sampler", "batch_sampler", "inner_sampler")  # what begins anew in each epoch by itself


# Modules


# What an attribute of the module is, that has the value.
MODULES: dict[str, Callable[[Held], Any]] = {
    "object": lambda box: box,
    "in_object": Inner,
    "in_list": lambda box: [box],
    "in_tuple": lambda box: (box, 1),
    "in_dict": lambda box: {"a": {"b": box}},
    # Not looked at
    "closure": lambda box: lambda: box.use(),
    "partial": lambda box: functools.partial(Held.use, box),
    "installed": stranger_package.Scheduler,
}


class Module(Held, Plain):
    def __init__(self, holder: str, kind: str, time: str):
        super().__init__()
        self.holder, self.value = holder, (kind, time)
        if holder == "module":
            self.hold(kind, time)
        elif holder in ("layer", "buffer"):
            self.net.insert(2, {"layer": Layer, "buffer": Buffered}[holder]().hold(kind, time))
        elif holder == "state_dict":
            self.box = Keeping().hold(kind, time)
        elif holder in MODULES:
            self.box = MODULES[holder](Box().hold(kind, time))
        elif holder == "class":
            type(self).box = Box().hold(kind, time)
        elif holder == "file":
            globals()["BOX"] = Box().hold(kind, time)

    def on_train_start(self):
        if self.holder in ("trainer", "optimizer"):
            there = self.trainer if self.holder == "trainer" else self.trainer.optimizers[0]
            there.box = Box().hold(*self.value)

    def on_train_epoch_start(self):
        if WHERE["it"].when == "epoch" and self.holder not in ITERATED:
            WHERE["it"].change()

    def on_validation_end(self):
        if WHERE["it"].when == "validation" and not self.trainer.sanity_checking:
            WHERE["it"].change()

    def training_step(self, batch, batch_idx):
        if self.global_step == LATE and WHERE["it"].when in ("once", "first"):
            WHERE["it"].change()
        factor = 1.0 if self.holder in (*DATA, "layer", "buffer") else 1 + WHERE["it"].use()
        loss = self.loss(batch) * factor
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=BATCH)
        return loss


class Holder(NamedTuple):
    about: str  # as the page calls it
    is_looked_at: bool = True  # whether it is kept there, or seen only by what it does
    times: tuple[str, ...] = (*TIMES,)  # when it can change there
    kinds: tuple[str, ...] = ()  # those that can lie there; empty for all


OF_ITERATED, OF_BUFFERS = ("step", "replaced", "epoch", "alias"), ("step", "replaced", "epoch", "once")
HOLDERS = {
    "module": Holder("the module"),
    "layer": Holder("a layer"),
    "buffer": Holder("a buffer with `persistent=False`", times=OF_BUFFERS, kinds=("tensor", "by_data")),
    "object": Holder("an object of the module"),
    "in_object": Holder("an object of such an object"),
    "in_list": Holder("an object in a list"),
    "in_tuple": Holder("an object in a tuple"),
    "in_dict": Holder("an object in a dictionary"),
    "state_dict": Holder("an object with a `state_dict`", True, ("step", "epoch", "validation", "once")),
    "data_module": Holder("the data module"),
    "in_data_module": Holder("an object of the data module"),
    "callback": Holder("a callback"),
    "in_callback": Holder("an object of a callback"),
    "dataset": Holder("the data set"),
    "subset": Holder("a data set in a `Subset`"),
    "concatenated": Holder("a data set in a `ConcatDataset`"),
    "transform": Holder("a transform of the data set"),
    "stream": Holder("an `IterableDataset`", True, OF_ITERATED),
    "sampler": Holder("a sampler", True, OF_ITERATED),
    "batch_sampler": Holder("a batch sampler", True, OF_ITERATED),
    "inner_sampler": Holder("a sampler in a batch sampler", True, OF_ITERATED),
    "collate": Holder("a `collate_fn`"),
    "class": Holder("a variable of a class", False),
    "file": Holder("a variable of a file", False),
    "closure": Holder("a closure", False),
    "partial": Holder("an argument of a `functools.partial`", False),
    "installed": Holder("an object of an installed package", False),
    "trainer": Holder("an attribute of the trainer", False),
    "optimizer": Holder("an attribute of an optimizer", False),
}
# Of what is not looked at, the kind of value does not matter.
ANY_KIND = ("int", "list", "tensor", "numpy_rng")


def is_possible(holder, kind, time):
    there, what = HOLDERS[holder], KINDS[kind]
    if time not in there.times or (there.kinds and kind not in there.kinds):
        return False
    if not there.is_looked_at and kind not in ANY_KIND:
        return False
    if kind in ("none", "bool") and time == "step":  # a lost one is the same again at once
        return False
    if what.outcome != KEPT and (time not in ("step", "epoch", "first") or holder == "state_dict"):
        return False
    if kind == "subclass" and time in ("first", "replaced"):  # no checkpoint makes one
        return False
    return what.is_mutable or time not in ("replaced", "alias")


def outcome(holder, kind, time):
    if not HOLDERS[holder].is_looked_at:
        return SEEN
    is_made = holder == "state_dict" or time == "first"
    if is_made and kind in (*GENERATORS, "enum"):
        return NAMED  # no checkpoint makes one
    return KINDS[kind].outcome


@functools.cache
def drawn():
    """Return the rows: each kind, holder and time with several others, the rarest first, the same ones each time."""
    possible = [(h, k, t) for k in KINDS for h in HOLDERS for t in TIMES if is_possible(h, k, t)]
    kept = [row for row in possible if outcome(*row) == KEPT]
    unkept = [row for row in possible if row not in kept and HOLDERS[row[0]].is_looked_at]
    unseen = [row for row in possible if not HOLDERS[row[0]].is_looked_at]
    rows: list[tuple[str, str, str]] = []
    counts: Counter[Any] = Counter()

    def commonness(row):
        holder, kind, time = row
        return sum(counts[pair] for pair in combinations(row, 2)), counts[kind], counts[holder], counts[time]

    for several, num in ((kept, 60), (unkept, 11), (unseen, 14)):
        if several is unseen:
            counts.clear()
        for _ in range(num):
            rows.append(min(several, key=commonness))
            counts.update([*rows[-1], *combinations(rows[-1], 2)])
    return rows
