"""PyTorch's `DataLoader`s, made so that a run can go on within an epoch, bit for bit."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import distributed
from torch.utils.data import DataLoader

from leyden.config.terminal import warn
from leyden.run.process import is_main_process


def random_states() -> dict[str, Any]:
    """The states of the random numbers of Python, NumPy and PyTorch (on the CPU), as tensors and plain values."""
    _, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state(),
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Go on from what `random_states` gave."""
    random.setstate(states["python"])
    keys, *rest = states["numpy"]
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])


class Resumable:
    """Added to a `DataLoader`: its state is the position, and the random states with which the epoch began.

    An epoch is gone on with by beginning it anew from these and leaving out the batches that were given: so the order and all
    that workers draw at random are what they were, at the price of reading those batches again. Random numbers that a data set
    draws in the main process, from a generator of its own, are not kept.
    """

    _kind: type  # of the loader
    _start: dict[str, Any] | None = None  # the state that the next iteration starts from
    _begun: dict[str, Any] | None = None  # the random states with which this one did
    _ahead: dict[str, Any] | None = None  # those before the last batch, where Lightning takes it a step too early
    _position = 0  # batches given

    def __iter__(self) -> Iterator[Any]:
        # A generator: all of this waits for the first batch, when Lightning has set epoch and state.
        start, self._start = self._start, None
        here = random_states()
        if start and start["random"]:
            restore_random_states(start["random"])
            for generator, state in zip(_generators(self), start["random"]["own"], strict=True):
                generator.set_state(state)
        self._begun = {**random_states(), "own": [generator.get_state() for generator in _generators(self)]}
        batches = iter(self._kind.__iter__(self))  # type: ignore[attr-defined]
        self._position = 0
        ahead = None
        if start and start["random"]:
            for _ in range(start["position"]):
                next(batches, None)
            self._position, ahead = start["position"], start["ahead"]
            restore_random_states(ahead or here)
        while True:
            self._ahead = ahead or (None if _is_sized(self) else random_states())
            batch = next(batches, self)
            if ahead:
                restore_random_states(here)
                ahead = None
            if batch is self:  # there is none
                self._ahead = None
                return
            self._position += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Of each process: number of batches used in this epoch, and random states."""
        used = self._position - (self._ahead is not None)
        mine = {"position": used, "random": self._begun, "ahead": self._ahead}
        every: list[Any] = [mine]
        if distributed.is_initialized():
            every = [None] * distributed.get_world_size()
            distributed.all_gather_object(every, mine)
        return {"processes": every}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration start behind the batches that were given."""
        self._start = state["processes"][distributed.get_rank() if distributed.is_initialized() else 0]


def _generators(loader: Any) -> list[torch.Generator]:
    """Those of its own that a loader or its samplers draw from."""
    owners = (loader, loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    found = {id(owner): getattr(owner, "generator", None) for owner in owners}
    return [generator for generator in found.values() if isinstance(generator, torch.Generator)]


def _is_sized(loader: Any) -> bool:
    """Whether a loader tells its length; where it does not, Lightning takes a batch a step before it is used."""
    try:
        len(loader)
    except TypeError:
        return False
    return True


class Late:
    """Added to a loader of one's own: nothing is drawn at random before the first batch is asked for.

    Lightning makes an iterator more at each start, to see that it can: a run that goes on would draw other numbers.
    """

    _kind: type  # of the loader

    def __iter__(self) -> Iterator[Any]:
        yield from self._kind.__iter__(self)  # type: ignore[attr-defined]


def make_resumable(data: L.LightningDataModule) -> None:
    """Let the loaders that a data module gives for training be resumable, those that are `DataLoader`s without a state.

    With another one that has no state, a run can go on from the end of an epoch.
    """
    make = data.train_dataloader
    told: list[bool] = []

    def train_dataloader() -> Any:
        loaders = make()
        for loader in flattened(loaders):
            if not hasattr(loader, "state_dict"):
                _add(Resumable if isinstance(loader, DataLoader) else Late, loader)
            if isinstance(loader, DataLoader) and loader.persistent_workers:
                # What workers draw would go on from epoch to epoch, in processes that no checkpoint reaches.
                vars(loader)["persistent_workers"] = False  # PyTorch lets nobody set it
                if not told and is_main_process():
                    told.append(True)
                    warn("persistent_workers: each epoch has new ones, so that the run can go on bit for bit")
        return loaders

    data.train_dataloader = train_dataloader  # type: ignore[method-assign]


def _add(mixin: type, loader: Any) -> None:
    """Let an object be of its own class with these methods, so that it is still what it was, to Lightning and its owner."""
    kind = type(loader)
    names = [name for name in vars(mixin) if name == "__iter__" or not name.startswith("__")]
    members = {name: vars(mixin)[name] for name in names}
    with contextlib.suppress(TypeError):  # one of Python's own, which draws nothing
        # Python lets an object change to a class with the same one base only.
        loader.__class__ = type(kind.__name__, (kind,), {**members, "_kind": kind})


def flattened(loaders: Any) -> list[Any]:
    """The loaders in what a hook for loaders gives: one, or a collection of them."""
    if isinstance(loaders, CombinedLoader):
        return list(loaders.flattened)
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        return [loader for part in loaders for loader in flattened(part)]
    return [loaders]
