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
from types import SimpleNamespace
from typing import Any, NamedTuple

import lightning as L
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    Sampler,
    Subset,
)

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
# The value of the work that was made last: the object that has it in an attribute, its kind, and when it changes.
HELD = SimpleNamespace(by=None, kind=None, time="")


def hold(it, kind, time):
    """Let an object have the value; return it."""
    HELD.by = it
    HELD.kind = KINDS[kind]
    HELD.time = time
    for name in ("held", "also"):
        vars(it).pop(name, None)
    if time != "first":
        it.held = HELD.kind.make()
    if time == "alias":
        it.also = it.held
    return it


def change():
    by = HELD.by
    kind = HELD.kind
    if HELD.time == "first":
        by.held = kind.changed(kind.make())
    elif HELD.time == "alias":
        kind.changed(by.also)
    else:
        by.held = kind.changed(copy.deepcopy(by.held) if HELD.time == "replaced" else by.held)


def use():
    if HELD.time in EACH_STEP:
        change()
    return (content(HELD.by.held) * 0.618034) % 1 if hasattr(HELD.by, "held") else 0.0


class Box:
    """An object of the user's own."""

    def __init__(self, box=None):
        self.box = box


class Keeping(Box):
    def state_dict(self):
        return {"held": self.held}

    def load_state_dict(self, state):
        self.held = state["held"]


class Layer(nn.Module):
    """The value may be a buffer that no checkpoint of PyTorch's has."""

    def __init__(self, is_buffer=False):
        super().__init__()
        if is_buffer:
            self.register_buffer("held", None, persistent=False)

    def forward(self, inputs):
        return inputs * (1 + use()) if self.training else inputs


class Callback(L.Callback):
    def __init__(self, row: str):
        holder, *value = row.split("-")
        if holder == "callback":
            hold(self, *value)
        else:
            self.box = hold(Box(), *value)


class Samples(Rows):
    def __init__(self, *transforms):
        super().__init__()
        self.transforms = [*transforms]

    def __getitem__(self, index):
        inputs, target = super().__getitem__(index)
        return inputs * (1 + use()), target


class Stream(IterableDataset):
    def __iter__(self):
        if HELD.time not in EACH_STEP:
            change()
        for inputs, target in Rows():
            yield inputs * (1 + use()), target


class Order(Sampler):
    """Of samples, or of batches of a size."""

    def __init__(self, size=0):
        self.size = size

    def __len__(self):
        return NUM // (self.size or 1)

    def __iter__(self):
        if HELD.time == "epoch":
            change()
        for n in range(len(self)):
            first = int(use() * 1000) + n * (self.size or 7)
            yield (
                [each % NUM for each in range(first, first + self.size)]
                if self.size
                else first % NUM
            )


class Collating:
    def __call__(self, samples):
        inputs, targets = stacked(samples)
        return inputs * (1 + use()), targets


class Holder(NamedTuple):
    about: str  # as the page calls it
    of: Callable[[], Any] = Box  # makes what has the value in an attribute
    box: Callable[[Any], Any] | None = None  # returns what an attribute of the module is, with that
    loader: Callable[[Any], dict[str, Any]] | None = (
        None  # returns options of the loader, with that
    )
    times: tuple[str, ...] = (*TIMES,)  # when it can change there
    kinds: tuple[str, ...] = (*KINDS,)  # those that can lie there
    is_looked_at: bool = True  # whether it is kept there, or seen only by what it does


def shuffled(**options):
    return {"shuffle": True, **options}


def batched(sampler):
    return {"batch_sampler": sampler, "batch_size": 1}


ITERATED = (
    "stream",
    "sampler",
    "batch_sampler",
    "inner_sampler",
)  # what begins anew in each epoch by itself
OF_ITERATED = ("step", "replaced", "epoch", "alias")
OF_BUFFERS = {"times": ("step", "replaced", "epoch", "once"), "kinds": ("tensor", "by_data")}
OF_KEEPING = {"times": ("step", "epoch", "validation", "once")}
# Of what is not looked at, the kind of value does not matter.
UNSEEN = {"kinds": ("int", "list", "tensor", "numpy_rng"), "is_looked_at": False}
HOLDERS = {
    "module": Holder("the module"),
    "layer": Holder("a layer", Layer),
    "buffer": Holder(
        "a buffer with `persistent=False`", lambda: Layer(is_buffer=True), **OF_BUFFERS
    ),
    "object": Holder("an object of the module", box=lambda it: it),
    "in_object": Holder("an object of such an object", box=Box),
    "in_list": Holder("an object in a list", box=lambda it: [it]),
    "in_tuple": Holder("an object in a tuple", box=lambda it: (it, 1)),
    "in_dict": Holder("an object in a dictionary", box=lambda it: {"a": {"b": it}}),
    "state_dict": Holder("an object with a `state_dict`", Keeping, lambda it: it, **OF_KEEPING),
    "data_module": Holder("the data module"),
    "in_data_module": Holder("an object of the data module"),
    "callback": Holder("a callback"),
    "in_callback": Holder("an object of a callback"),
    "dataset": Holder("the data set", Samples, loader=lambda it: shuffled(dataset=it)),
    "subset": Holder(
        "a data set in a `Subset`",
        Samples,
        None,
        lambda it: shuffled(dataset=Subset(it, range(NUM))),
    ),
    "concatenated": Holder(
        "a data set in a `ConcatDataset`",
        Samples,
        None,
        lambda it: shuffled(dataset=ConcatDataset([it])),
    ),
    "transform": Holder(
        "a transform of the data set", Box, None, lambda it: shuffled(dataset=Samples(it))
    ),
    "stream": Holder("an `IterableDataset`", Stream, None, lambda it: {"dataset": it}, OF_ITERATED),
    "sampler": Holder("a sampler", Order, None, lambda it: {"sampler": it}, OF_ITERATED),
    "batch_sampler": Holder("a batch sampler", lambda: Order(BATCH), None, batched, OF_ITERATED),
    "inner_sampler": Holder(
        "a sampler in a batch sampler",
        Order,
        None,
        lambda it: batched(BatchSampler(it, BATCH, False)),
        OF_ITERATED,
    ),
    "collate": Holder("a `collate_fn`", Collating, loader=lambda it: shuffled(collate_fn=it)),
    "class": Holder("a variable of a class", **UNSEEN),
    "file": Holder("a variable of a file", **UNSEEN),
    "closure": Holder("a closure", box=lambda it: lambda: it, **UNSEEN),
    "partial": Holder(
        "an argument of a `functools.partial`", box=lambda it: functools.partial(vars, it), **UNSEEN
    ),
    "installed": Holder(
        "an object of an installed package", box=stranger_package.Scheduler, **UNSEEN
    ),
    "trainer": Holder("an attribute of the trainer", **UNSEEN),
    "optimizer": Holder("an attribute of an optimizer", **UNSEEN),
}


class Data(PlainData):
    def __init__(self, row: str):
        super().__init__()
        self.holder, *self.value = row.split("-")
        if self.holder == "data_module":
            hold(self, *self.value)
        if self.holder == "in_data_module":
            self.box = hold(Box(), *self.value)

    def train_dataloader(self):
        there = HOLDERS[self.holder]
        if not there.loader:
            return super().train_dataloader()
        return DataLoader(
            **{
                "dataset": Rows(),
                "batch_size": BATCH,
                **there.loader(hold(there.of(), *self.value)),
            }
        )


class Module(Plain):
    def __init__(self, row: str):
        super().__init__()
        self.holder, *self.value = row.split("-")
        there = HOLDERS[self.holder]
        if self.holder == "module":
            hold(self, *self.value)
        elif self.holder in ("layer", "buffer"):
            self.net.insert(2, hold(there.of(), *self.value))
        elif there.box:
            self.box = there.box(hold(there.of(), *self.value))
        elif self.holder == "class":
            type(self).box = hold(Box(), *self.value)
        elif self.holder == "file":
            globals()["BOX"] = hold(Box(), *self.value)

    def on_train_start(self):
        if self.holder in ("trainer", "optimizer"):
            there = self.trainer if self.holder == "trainer" else self.trainer.optimizers[0]
            there.box = hold(Box(), *self.value)

    def on_train_epoch_start(self):
        if HELD.time == "epoch" and self.holder not in ITERATED:
            change()

    def on_validation_end(self):
        if HELD.time == "validation" and not self.trainer.sanity_checking:
            change()

    def train_loss(self, batch, batch_idx):
        if self.global_step == LATE and HELD.time in ("once", "first"):
            change()
        is_used = HOLDERS[self.holder].loader or self.holder in ("layer", "buffer")
        return self.loss(batch) * (1.0 if is_used else 1 + use())


def is_possible(holder, kind, time):
    there = HOLDERS[holder]
    what = KINDS[kind]
    if time not in there.times or kind not in there.kinds:
        return False
    if kind in ("none", "bool") and time == "step":  # a lost one is the same again at once
        return False
    if kind == "subclass" and time in ("first", "replaced"):  # no checkpoint makes one
        return False
    if what.outcome != KEPT and (time not in ("step", "epoch", "first") or holder == "state_dict"):
        return False
    return what.is_mutable or time not in ("replaced", "alias")


def outcome(holder, kind, time):
    if not HOLDERS[holder].is_looked_at:
        return SEEN
    if (holder == "state_dict" or time == "first") and kind in (*GENERATORS, "enum"):
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
        return (
            sum(counts[pair] for pair in combinations(row, 2)),
            counts[kind],
            counts[holder],
            counts[time],
        )

    for several, num in ((kept, 60), (unkept, 11), (unseen, 14)):
        if several is unseen:
            counts.clear()
        for _ in range(num):
            rows.append(min(several, key=commonness))
            counts.update([*rows[-1], *combinations(rows[-1], 2)])
    return rows
