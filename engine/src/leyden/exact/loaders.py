"""PyTorch `DataLoader`s that resume within an epoch, bit for bit."""

import contextlib
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, distributed
from torch.utils.data import DataLoader

from leyden.exact import lightning
from leyden.exact.memory import Memory, saved_elsewhere, say
from leyden.exact.random_state import random_states, restore_random_states

# Attributes of a `DataLoader` that may hold state.
PARTS = ("dataset", "sampler", "batch_sampler", "collate_fn", "generator")


class Resumable:
    """Mixin for a `DataLoader`; its state is the position, and the random states from the beginning of the epoch.

    To resume, the epoch is replayed from these states, and the batches already trained on are skipped. So the order
    and all random numbers drawn by workers are the same, at the cost of reading those batches again. Attributes of
    the dataset, the sampler and `collate_fn` that change during an epoch, such as their own random generators, are
    restored at the beginning of the epoch, too.
    """

    _kind: type  # the loader's original class
    _of_data: L.LightningDataModule  # whose loader it is
    # Of dataset, sampler etc. by their ids, as of the start of training. A memory holds its object, so that the id stays valid.
    _known_memories: dict[int, Memory]
    _resume_state: dict[str, Any] | None = None  # state from which the next iteration resumes
    _epoch_states: dict[str, Any] | None = None  # random states at the beginning of this iteration
    _prefetch_states: dict[str, Any] | None = None  # random states before a batch that Lightning prefetches
    _position = 0  # batches yielded
    replaying: Any = contextlib.nullcontext  # function that returns the context of a replay

    def __iter__(self) -> Iterator[Any]:
        # A generator, so this runs at the first batch, when Lightning has set epoch and state.
        resume_state, self._resume_state = self._resume_state, None
        current_states, ahead, self._position = random_states(), None, 0
        is_replay = resume_state is not None and resume_state["random"] is not None
        with self.replaying() if is_replay else contextlib.nullcontext():
            if resume_state and is_replay:
                restore_random_states(resume_state["random"])
                self.restore_memory(resume_state["random"]["memory"])
            self._epoch_states = {**random_states(), "memory": self.changes()}
            batches = iter(self._kind.__iter__(self))  # type: ignore[attr-defined]
            if resume_state and is_replay:
                for _ in range(resume_state["position"]):
                    next(batches, None)
                self._position, ahead = resume_state["position"], resume_state["ahead"]
                restore_random_states(ahead or current_states)
                if not ahead:  # restore the objects as saved, with changes made between the batches
                    self.restore_memory(resume_state["memory"])
        while True:
            is_prefetched = lightning.prefetches(getattr(self._of_data, "trainer", None))
            self._prefetch_states = ahead or (random_states() if is_prefetched else None)
            batch = next(batches, self)
            if ahead:
                restore_random_states(current_states)
                ahead = None
            if batch is self:  # the iterator is exhausted
                self._prefetch_states = None
                return
            self._position += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return, per process, the number of batches used in this epoch, and the random states."""
        own_state = self._resume_state or {
            "position": self.position,
            "random": self._epoch_states,
            "memory": self.changes(),
            "ahead": self._prefetch_states,
        }
        return {"processes": gather_from_processes(own_state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume the next iteration after the batches that were already used."""
        self._resume_state = of_this_process(state)

    @property
    def position(self) -> int:
        """Number of batches trained on in this epoch, including those before a resume."""
        if self._resume_state:
            return int(self._resume_state["position"])
        return self._position - (self._prefetch_states is not None)

    def memories(self) -> dict[str, Memory]:
        """Return the memories of dataset, sampler etc. by attribute name; the first call is before the first epoch."""
        parts = {name: part for name in PARTS if (part := getattr(self, name, None)) is not None}

        def saved(own: Any) -> list[Any]:
            trainer: Any = getattr(self._of_data, "trainer", None)
            module = trainer.lightning_module if trainer else None
            trained = [*saved_elsewhere(trainer, module), *module.modules()] if module else []
            others = (each for name, each in parts.items() if each is not own and name != "generator")
            return [self._of_data, *trained, *others]

        for name, part in parts.items():
            if id(part) not in self._known_memories:
                owner = types.SimpleNamespace(**{name: part})
                self._known_memories[id(part)] = Memory({"data": owner}, functools.partial(saved, part))
        return {name: self._known_memories[id(part)] for name, part in parts.items()}

    def changes(self) -> dict[str, Tensor]:
        """Return what has changed of dataset, sampler and `collate_fn`."""
        return {name: each.changes() for name, each in self.memories().items()}

    def restore_memory(self, kept: dict[str, Tensor]) -> None:
        """Restore attributes of dataset, sampler and `collate_fn`."""
        for name, each in self.memories().items():
            if name in kept:
                each.restore(kept[name])


def gather_from_processes(own_state: Any) -> list[Any]:
    """Return the values of all processes, by rank; all processes must call this."""
    if not distributed.is_initialized():
        return [own_state]
    every: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(every, own_state)
    return every


def of_this_process(state: dict[str, Any]) -> dict[str, Any]:
    """Return this process's part of a loader's state."""
    own_state: dict[str, Any] = state["processes"][distributed.get_rank() if distributed.is_initialized() else 0]
    return own_state


def make_resumable(data: L.LightningDataModule) -> None:
    """Make the training loaders of a data module resumable, if they are `DataLoader`s without a `state_dict`.

    Loaders of training and validation start new worker processes in each epoch.

    With other loaders without a `state_dict`, a run can resume only from the end of an epoch.
    """
    make = data.train_dataloader
    warned: list[bool] = []
    memories: dict[int, Memory] = {}

    def without_persistent_workers(make: Callable[[], Any]) -> Any:
        """Return the loaders of a hook; persistent workers keep states across epochs that no checkpoint can save."""
        loaders = make()
        for loader in flatten_loaders(loaders):
            if isinstance(loader, DataLoader) and loader.persistent_workers:
                vars(loader)["persistent_workers"] = False  # PyTorch's setter refuses it
                if not warned:
                    warned.append(True)
                    say(
                        "persistent_workers: is ignored: each epoch has new workers, so that the run can resume bit for bit"
                    )
        return loaders

    def train_dataloader() -> Any:
        loaders = without_persistent_workers(make)
        for loader in flatten_loaders(loaders):
            if isinstance(loader, DataLoader) and not hasattr(loader, "state_dict"):
                # A subclass of its class, so that `isinstance` still holds; Python allows that with the same single base.
                kind, of_mixin = type(loader), vars(Resumable)
                members = {name: of_mixin[name] for name in of_mixin if name == "__iter__" or name[:2] != "__"}
                own = {"_kind": kind, "_of_data": data, "_known_memories": memories}
                loader.__class__ = type(kind.__name__, (kind,), members | own)
        return loaders

    data.train_dataloader = train_dataloader  # type: ignore[method-assign]
    if is_overridden("val_dataloader", data, L.LightningDataModule):
        data.val_dataloader = functools.partial(without_persistent_workers, data.val_dataloader)  # type: ignore[method-assign]


def flatten_loaders(loaders: Any) -> list[Any]:
    """Return a flat list of the loaders that a dataloader hook returned: one, or a nested collection."""
    if isinstance(loaders, CombinedLoader):  # to make one warns, with PyTorch 2.13
        return list(loaders.flattened)
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        return [loader for part in loaders for loader in flatten_loaders(part)]
    return [loaders]
