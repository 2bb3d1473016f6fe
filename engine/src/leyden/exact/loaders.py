"""PyTorch `DataLoader`s that resume within an epoch, bit for bit."""

import contextlib
import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import distributed
from torch.utils.data import (
    DataLoader,
)

from leyden.exact import lightning
from leyden.exact.memory import Memory, saved_elsewhere
from leyden.exact.random_state import random_states, restore_random_states
from leyden.exact.report import say

# Attributes of a `DataLoader` that may hold state.
PARTS = ("dataset", "sampler", "batch_sampler", "collate_fn", "generator")


class _IndexRecorder:
    """Sampler that records a checksum of each batch's indices."""

    def __init__(self, sampler: Any) -> None:
        self.sampler, self.checksums = sampler, list[int]()

    def __iter__(self) -> Iterator[Any]:
        self.checksums.clear()
        for indices in self.sampler:
            self.checksums.append(zlib.crc32(repr(indices).encode()))
            yield indices

    def __len__(self) -> int:
        return len(self.sampler)


class Resumable:
    """Mixin for a `DataLoader`; its state is the position, and the random states from the beginning of the epoch.

    To resume, the epoch is replayed from these states, and the batches already trained on are skipped. So the order
    and all random numbers drawn by workers are the same, at the cost of reading those batches again. Attributes of
    the dataset, the sampler and `collate_fn` that change during an epoch, such as their own random generators, are
    restored at the beginning of the epoch, too. The replay checks that the skipped batches have the same indices as
    those trained on. They have others if a sampler draws each of them when it is asked, by global random states: in a
    replay the network draws nothing between two batches.
    """

    _kind: type  # the loader's original class
    _owned: Callable[[], dict[str, Memory]]  # returns the memory of dataset, sampler etc., by attribute name
    _is_prefetched: Callable[[], bool]  # returns whether Lightning requests a batch before it needs it
    _resume_state: dict[str, Any] | None = None  # state from which the next iteration resumes
    _epoch_states: dict[str, Any] | None = None  # random states at the beginning of this iteration
    _prefetch_states: dict[str, Any] | None = None  # random states before a batch that Lightning prefetches
    _position = 0  # batches yielded
    _indices: _IndexRecorder | None = None  # of the samples in each batch
    after_replay: Callable[[bool], None] | None = (
        None  # called after the replay, with whether the indices are the same
    )
    not_restored: tuple[str, ...] = ()  # names of what could not be restored, each with a reason
    lost: tuple[str, ...] = ()  # names of what could not be saved by the last `changes`, each with a reason

    def __iter__(self) -> Iterator[Any]:
        # A generator, so this runs at the first batch, when Lightning has set epoch and state.
        resume_state, self._resume_state = self._resume_state, None
        current_states = random_states()
        if resume_state and resume_state["random"]:
            restore_random_states(resume_state["random"])
            self.restore_memory(resume_state["random"]["memory"])
        memory = self.changes()
        self._epoch_states = {**random_states(), "memory": memory}
        batches = iter(self._kind.__iter__(self))  # type: ignore[attr-defined]
        self._position = 0
        prefetch_states = None
        if resume_state and resume_state["random"]:
            for _ in range(resume_state["position"]):
                next(batches, None)
            self._position, prefetch_states = resume_state["position"], resume_state["ahead"]
            restore_random_states(prefetch_states or current_states)
            if not prefetch_states:  # restore the objects as saved, with changes made between the batches
                self.restore_memory(resume_state["memory"])
            if self.after_replay:
                self.after_replay(self._order_checksum(self._position) == resume_state["order"])
        while True:
            self._prefetch_states = prefetch_states or (random_states() if self._is_prefetched() else None)
            batch = next(batches, self)
            if prefetch_states:
                restore_random_states(current_states)
                prefetch_states = None
            if batch is self:  # the iterator is exhausted
                self._prefetch_states = None
                return
            self._position += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return, per process, the number of batches used in this epoch, their checksum, and the random states."""
        if self._resume_state:
            return {"processes": gather_from_processes(self._resume_state)}
        own_state = {
            "position": self.position,
            "order": self._order_checksum(self.position),
            "random": self._epoch_states,
            "memory": self.changes(),
            "ahead": self._prefetch_states,
            "num_workers": self.num_workers,  # type: ignore[attr-defined]
        }
        return {"processes": gather_from_processes(own_state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume the next iteration after the batches that were already used."""
        self._resume_state = of_this_process(state)

    def restore_memory(self, kept: dict[str, Any]) -> None:
        """Restore attributes of dataset, sampler and `collate_fn`."""
        for name, each in self._owned().items():
            if name in kept:
                self.not_restored += tuple(f"data.{lost}" for lost in each.restore(kept[name]))

    def look(self) -> list[str]:
        """Look at dataset, sampler and `collate_fn` before the first epoch.

        Returns:
            The names of what can't be looked at, each with a reason.
        """
        return [f"data.{name} ({why})" for each in self._owned().values() for name, why in each.unseen.items()]

    @property
    def _index_sampler(self) -> Any:
        """Sampler of each batch's indices, wrapped to record checksums; PyTorch has no public name for it."""
        sampler = self._kind._index_sampler.__get__(self)  # type: ignore[attr-defined]
        if self._indices is None or self._indices.sampler is not sampler:
            self._indices = _IndexRecorder(sampler)
        return self._indices

    def _order_checksum(self, position: int) -> int:
        """Return a checksum of the samples' indices up to a position."""
        return zlib.crc32(repr(self._indices.checksums[:position] if self._indices is not None else None).encode())

    @property
    def position(self) -> int:
        """Number of batches trained on in this epoch, including those before a resume."""
        return (
            self._resume_state["position"]
            if self._resume_state
            else self._position - (self._prefetch_states is not None)
        )

    def changes(self) -> dict[str, Any]:
        """Return what has changed of the dataset, sampler and `collate_fn`, and set `lost`."""
        found = {name: each.changes() for name, each in self._owned().items()}
        self.lost = tuple(name for _, names in found.values() for name in names)
        return {name: kept for name, (kept, _) in found.items()}


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


class LazyStart:
    """Mixin for a custom loader that delays its random draws until the first batch is requested.

    As a check, Lightning creates an additional iterator at each start. Its draws would change the numbers of a
    resumed run.
    """

    _kind: type  # the loader's original class

    def __iter__(self) -> Iterator[Any]:
        yield from self._kind.__iter__(self)  # type: ignore[attr-defined]


def make_resumable(data: L.LightningDataModule) -> None:
    """Make the training loaders of a data module resumable, if they are `DataLoader`s without a `state_dict`.

    Loaders of training and validation start new worker processes in each epoch.

    With other loaders without a `state_dict`, a run can resume only from the end of an epoch.
    """
    make = data.train_dataloader
    warned: list[bool] = []
    # By object id, as of the start of training. A memory holds its object, so that the id stays valid.
    memories: dict[int, Memory] = {}

    def modules() -> list[Any]:
        trainer: Any = getattr(data, "trainer", None)
        return [*trainer.lightning_module.modules()] if trainer else []

    def memory_of(name: str, part: Any, others: tuple[Any, ...]) -> Memory:
        def known() -> list[Any]:
            saved = saved_elsewhere(data.trainer, trained[0]) if (trained := modules()) else []  # type: ignore[arg-type]
            return [*others, data, *saved, *trained]

        if id(part) not in memories:
            memories[id(part)] = Memory({name: part}, known)
            memories[id(part)].keep_shared(modules())
        return memories[id(part)]

    def owned(loader: Any) -> dict[str, Memory]:
        found, others = {}, list[Any]()
        for name in PARTS:
            part = getattr(loader, name, None)
            if part is not None and not any(part is other for other in others):
                found[name] = memory_of(name, part, tuple(others))
                others.append(part)
        return found

    def is_prefetched(loader: Any) -> bool:
        return lightning.prefetches(getattr(data, "trainer", None))

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
            if not hasattr(loader, "state_dict"):
                mixin = Resumable if isinstance(loader, DataLoader) else LazyStart
                _mix_in(mixin, loader, _owned=owned, _is_prefetched=is_prefetched)
        return loaders

    data.train_dataloader = train_dataloader  # type: ignore[method-assign]
    if is_overridden("val_dataloader", data, L.LightningDataModule):
        data.val_dataloader = functools.partial(without_persistent_workers, data.val_dataloader)  # type: ignore[method-assign]


def _mix_in(mixin: type, loader: Any, **members: Any) -> None:
    """Add a mixin's methods to an instance through a subclass of its class, so that `isinstance` still holds."""
    kind = type(loader)
    names = [name for name in vars(mixin) if name == "__iter__" or not name.startswith("__")]
    members = {name: vars(mixin)[name] for name in names} | members
    with contextlib.suppress(TypeError):  # a built-in iterable, which draws no random numbers
        # Python allows this assignment only to a class with the same single base.
        loader.__class__ = type(kind.__name__, (kind,), {**members, "_kind": kind})


def flatten_loaders(loaders: Any) -> list[Any]:
    """Return a flat list of the loaders that a dataloader hook returned: one, or a nested collection."""
    if isinstance(loaders, CombinedLoader):
        return list(loaders.flattened)
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        return [loader for part in loaders for loader in flatten_loaders(part)]
    return [loaders]
