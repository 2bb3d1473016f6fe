"""PyTorch `DataLoader`s that resume within an epoch, bit for bit."""

import contextlib
import copy
import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, distributed
from torch.utils.data import DataLoader

from leyden.config.terminal import warn
from leyden.data.object_state import ObjectState, entry_name, is_generator
from leyden.data.random_state import random_states, restore_random_states
from leyden.run.process import is_main_process

# Attributes of a loader that may hold state.
PARTS = ("dataset", "sampler", "batch_sampler", "collate_fn", "generator")


class _ChecksumSampler:
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
    and all random numbers drawn by workers are the same, at the cost of reading those batches again. Changing
    attributes of the dataset, the sampler and `collate_fn`, such as their own random generators, are reset to the
    beginning of the epoch, too. The replay checks that the skipped batches have the same indices as those trained
    on, and that the first batch has the same content. The content of later batches is not checked, since a dataset
    may draw from a generator that the network has used in between.
    """

    _kind: type  # the loader's original class
    _owned: Callable[[], dict[str, ObjectState]]  # returns the state of dataset, sampler etc., by attribute name
    _resume_state: dict[str, Any] | None = None  # state from which the next iteration resumes
    _epoch_states: dict[str, Any] | None = None  # random states at the beginning of this iteration
    _prefetch_states: dict[str, Any] | None = None  # before the last batch, if Lightning prefetches it
    _position = 0  # batches yielded
    _first_checksum: int | None = None  # checksum of the epoch's first batch
    _indices: _ChecksumSampler | None = None  # of the samples in each batch; None for an iterable dataset
    after_replay: Callable[[bool], None] | None = None  # called with `is_same` after the replay
    is_same: bool | None = None  # whether the replayed batches are the same; None before the replay

    def __iter__(self) -> Iterator[Any]:
        # A generator, so this runs at the first batch, when Lightning has set epoch and state.
        resume_state, self._resume_state = self._resume_state, None
        current_states = random_states()
        owned = self._owned()
        if resume_state and resume_state["random"]:
            restore_random_states(resume_state["random"])
            for name, each in owned.items():
                each.restore(resume_state["random"]["objects"].get(name, []))
        # A copy, since the values may change in place during the epoch.
        objects = {name: copy.deepcopy(each.changes()[0]) for name, each in owned.items()}
        self._epoch_states = {**random_states(), "objects": objects}
        batches = iter(self._kind.__iter__(self))  # type: ignore[attr-defined]
        self._position, self._first_checksum = 0, None
        prefetch_states = None
        if resume_state and resume_state["random"]:
            for _ in range(resume_state["position"]):
                batch = next(batches, None)
                self._first_checksum = (
                    batch_checksum(batch) if self._first_checksum is None else self._first_checksum
                )
            self._position, prefetch_states = resume_state["position"], resume_state["ahead"]
            restore_random_states(prefetch_states or current_states)
            if not prefetch_states:  # changes made by others since, and numbers drawn between the batches
                for name, each in owned.items():
                    each.restore(resume_state["objects"].get(name, []))
            self.is_same = (self._first_checksum, self._order_checksum(resume_state["position"])) == (
                resume_state["first"],
                resume_state["order"],
            )
            if self.after_replay:
                self.after_replay(self.is_same)
        while True:
            self._prefetch_states = prefetch_states or (None if _is_sized(self) else random_states())
            batch = next(batches, self)
            if prefetch_states:
                restore_random_states(current_states)
                prefetch_states = None
            if batch is self:  # the iterator is exhausted
                self._prefetch_states = None
                return
            self._position += 1
            if self._position == 1:
                self._first_checksum = batch_checksum(batch)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return, per process, the number of batches used in this epoch, their checksums, and the random states."""
        own_state = self._resume_state or {
            "position": self.position,
            "first": self._first_checksum,
            "order": self._order_checksum(self.position),
            "random": self._epoch_states,
            "objects": {name: each.changes()[0] for name, each in self._owned().items()},
            "ahead": self._prefetch_states,
            "num_workers": self.num_workers,  # type: ignore[attr-defined]
        }
        return {"processes": gather_from_processes(own_state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume the next iteration after the batches that were already used."""
        self._resume_state = _of_this_process(state)

    def restore_owned(self, state: dict[str, Any], epoch: int) -> bool:
        """Restore dataset, sampler and `collate_fn` after a complete epoch, for the next one.

        Returns:
            Whether the first batch of the completed epoch, read again, is the same.
        """
        own_state, current_states, owned = _of_this_process(state), random_states(), self._owned()
        is_same = True
        if own_state["random"]:
            restore_random_states(own_state["random"])
            for name, each in owned.items():
                each.restore(own_state["random"]["objects"].get(name, []))
            for sampler in (self.sampler, self.batch_sampler, getattr(self.batch_sampler, "sampler", None)):  # type: ignore[attr-defined]
                if callable(set_epoch := getattr(sampler, "set_epoch", None)):
                    set_epoch(epoch)
            is_same = batch_checksum(next(iter(self._kind.__iter__(self)), None)) == own_state["first"]  # type: ignore[attr-defined]
            restore_random_states(current_states)
        for name, each in owned.items():
            each.restore(own_state["objects"].get(name, []))
        return is_same

    @property
    def _index_sampler(self) -> Any:
        """Sampler of each batch's indices, wrapped to record checksums; PyTorch has no public name for it."""
        sampler = self._kind._index_sampler.__get__(self)  # type: ignore[attr-defined]
        if self._indices is None or self._indices.sampler is not sampler:
            self._indices = _ChecksumSampler(sampler)
        return self._indices

    def _order_checksum(self, position: int) -> int:
        """Return a checksum of all samples' indices up to a position."""
        return zlib.crc32(repr(self._indices.checksums[:position] if self._indices is not None else None).encode())

    @property
    def position(self) -> int:
        """Number of batches trained on in this epoch, including those before a resume."""
        return (
            self._resume_state["position"]
            if self._resume_state
            else self._position - (self._prefetch_states is not None)
        )

    @staticmethod
    def position_in(state: dict[str, Any]) -> int:
        """Return the position stored in a state of this loader."""
        position: int = _of_this_process(state)["position"]
        return position

    @staticmethod
    def workers_in(state: dict[str, Any]) -> int | None:
        """The number of worker processes in a state of this loader; None where an older version wrote it."""
        num_workers: int | None = _of_this_process(state).get("num_workers")
        return num_workers

    def lost(self) -> list[str]:
        """Return the names of changing attributes of the dataset, sampler and `collate_fn` that can't be saved."""
        found = []
        for name, each in self._owned().items():
            kept, lost = each.changes()
            # A prefetched batch is read again after a resume, and would repeat its changes.
            if self._prefetch_states is not None:
                lost += [entry_name(entry) for entry in kept if not is_generator(entry)]
            found += [f"{name}.{path}" for path in lost]
        return found


def gather_from_processes(own_state: Any) -> list[Any]:
    """Return the values of all processes, by rank; all processes must call this."""
    if not distributed.is_initialized():
        return [own_state]
    every: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(every, own_state)
    return every


def _of_this_process(state: dict[str, Any]) -> dict[str, Any]:
    own_state: dict[str, Any] = state["processes"][distributed.get_rank() if distributed.is_initialized() else 0]
    return own_state


def batch_checksum(batch: Any) -> int:
    """Return a checksum of a batch, over evenly spaced values."""
    if isinstance(batch, Tensor):
        sample_values = (
            batch.detach()[:: max(1, len(batch) - 1)]
            if batch.dim() and not batch.is_contiguous()
            else batch.detach()
        )
        if sample_values.device.type != "cpu" or sample_values.is_sparse or sample_values.is_quantized:
            return zlib.crc32(str(batch.shape).encode())  # reading the values would wait for the GPU
        flat = sample_values.reshape(-1)
        return zlib.crc32(flat[:: max(1, len(flat) // 64)].contiguous().view(torch.uint8).numpy().tobytes())
    if isinstance(batch, dict):
        batch = list(batch.values())
    if isinstance(batch, list | tuple):
        return zlib.crc32(repr([batch_checksum(part) for part in batch]).encode())
    if hasattr(batch, "__dict__"):
        return batch_checksum(vars(batch))
    return zlib.crc32(repr(batch).encode()) if isinstance(batch, str | bytes | int | float) else 0


def _is_sized(loader: Any) -> bool:
    """Return whether a loader has a length; if not, Lightning prefetches one batch."""
    try:
        len(loader)
    except TypeError:
        return False
    return True


class LazyStart:
    """Mixin for a custom loader: random numbers are drawn only when the first batch is requested.

    Lightning creates an additional iterator at each start as a check, so a resumed run would draw other numbers.
    """

    _kind: type  # the loader's original class

    def __iter__(self) -> Iterator[Any]:
        yield from self._kind.__iter__(self)  # type: ignore[attr-defined]


def make_resumable(data: L.LightningDataModule) -> None:
    """Make the training loaders of a data module resumable, if they are `DataLoader`s without a `state_dict`.

    With other loaders without a `state_dict`, a run can resume from the end of an epoch.
    """
    make = data.train_dataloader
    warned: list[bool] = []
    # By object id, as of the first loader's start. An ObjectState holds its object, so that the id stays valid.
    states: dict[int, ObjectState] = {}

    def owned(loader: Any) -> dict[str, ObjectState]:
        parts = {name: getattr(loader, name, None) for name in PARTS}
        found, others = {}, list[Any]()
        for name, part in parts.items():
            if part is not None and not any(part is other for other in others):
                if id(part) not in states:
                    states[id(part)] = ObjectState({name: part}, functools.partial(list, tuple(others)))
                found[name] = states[id(part)]
                others.append(part)
        return found

    def train_dataloader() -> Any:
        loaders = make()
        for loader in flatten_loaders(loaders):
            if not hasattr(loader, "state_dict"):
                _mix_in(Resumable if isinstance(loader, DataLoader) else LazyStart, loader, _owned=owned)
            if isinstance(loader, DataLoader) and loader.persistent_workers:
                # Persistent workers keep random states across epochs, which no checkpoint can save.
                vars(loader)["persistent_workers"] = False  # PyTorch's setter refuses it
                if not warned and is_main_process():
                    warned.append(True)
                    warn("persistent_workers: each epoch has new ones, so that the run can resume bit for bit")
        return loaders

    data.train_dataloader = train_dataloader  # type: ignore[method-assign]


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
