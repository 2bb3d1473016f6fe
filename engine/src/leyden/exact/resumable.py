"""PyTorch `DataLoader`s that resume within an epoch, bit for bit."""

import contextlib
import copy
import functools
import itertools
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, distributed
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from leyden.config.terminal import warn
from leyden.exact.encoding import attribute_names
from leyden.exact.object_state import (
    PARTS,
    ObjectState,
    digest_for_others,
    entry_name,
    is_generator,
    is_pandas,
    path_of,
    saved_elsewhere,
)
from leyden.exact.random_state import changed_states, random_states, restore_random_states
from leyden.run.process import is_main_process

# Samplers that draw the whole order at the beginning of an epoch.
DRAWN_AT_START = (
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    DistributedSampler,
)
MAX_DRAWS = 2000  # batches per epoch whose random states are kept, of some kilobytes each
MAX_DEPTH = 20  # levels of nesting within a batch, which are examined


class _IndexRecorder:
    """Sampler that records a checksum of each batch's indices.

    If the wrapped sampler draws a batch's indices only when they are requested, the recorder also keeps the random
    states before each draw: in a replay nothing is trained, so the network draws nothing between two batches.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler, self.checksums = sampler, list[int]()
        self.draws: dict[int, dict[str, Any]] = {}  # random states before a batch, by its number
        self.replayed: dict[int, dict[str, Any]] = {}  # the same, of the epoch that is replayed next
        inner = sampler.sampler if type(sampler) is BatchSampler else sampler
        self._draws_at_start = type(inner) in DRAWN_AT_START

    def __iter__(self) -> Iterator[Any]:
        self.checksums.clear()
        self.draws, draws, self.replayed = {}, self.replayed, {}
        batches = iter(self.sampler)
        for number in itertools.count():
            if number in draws:
                restore_random_states({**random_states(), **draws[number]})
            is_recorded = number > 0 and not self._draws_at_start and len(self.draws) < MAX_DRAWS
            before = random_states() if is_recorded else {}
            indices = next(batches, self)
            if indices is self:
                return
            if is_recorded and (changed := changed_states(before, random_states())):
                self.draws[number] = changed
            self.checksums.append(zlib.crc32(repr(indices).encode()))
            yield indices

    def __len__(self) -> int:
        return len(self.sampler)


class Resumable:
    """Mixin for a `DataLoader`; its state is the position, and the random states from the beginning of the epoch.

    To resume, the epoch is replayed from these states, and the batches already trained on are skipped. So the order
    and all random numbers drawn by workers are the same, at the cost of reading those batches again. Attributes of
    the dataset, the sampler and `collate_fn` that change during an epoch, such as their own random generators, are
    reset to the beginning of the epoch, too. The replay checks that the skipped batches have the same indices as those trained
    on, and that the first batch has the same content. The content of later batches is not checked, since a dataset
    may draw from a generator that the network has used in between.

    A loader may hold the module in training, for example through a bound method. The module's weights, buffers and
    metrics are never reset, so the replayed batches may differ. For an `IterableDataset`, the content of all these
    batches is checked; for other datasets, only their indices are checked.
    """

    _kind: type  # the loader's original class
    _owned: Callable[[], dict[str, ObjectState]]  # returns the state of dataset, sampler etc., by attribute name
    _resume_state: dict[str, Any] | None = None  # state from which the next iteration resumes
    _epoch_states: dict[str, Any] | None = None  # random states at the beginning of this iteration
    _prefetch_states: dict[str, Any] | None = None  # random states before a batch that Lightning prefetches
    _position = 0  # batches yielded
    _module: Callable[[], Any]  # returns the module in training, or None
    _checksums: tuple[
        int, ...
    ] = ()  # of the epoch's first batch; of all batches of an `IterableDataset` that holds the module
    _indices: _IndexRecorder | None = None  # of the samples in each batch
    after_replay: Callable[[bool], None] | None = None  # called with `is_same` after the replay
    is_same: bool | None = None  # whether the replayed batches are the same; None before the replay
    is_same_order = True  # whether the replayed batches have the same indices
    not_restored: tuple[str, ...] = ()  # names of what could not be restored, each with a reason

    def __iter__(self) -> Iterator[Any]:
        # A generator, so this runs at the first batch, when Lightning has set epoch and state.
        resume_state, self._resume_state = self._resume_state, None
        current_states = random_states()
        owned = self._owned()
        if resume_state and resume_state["random"]:
            restore_random_states(resume_state["random"])
            self._restore(owned, resume_state["random"]["objects"])
        # A copy, since the values may change in place during the epoch.
        objects = {name: copy.deepcopy(each.changes()[0]) for name, each in owned.items()}
        self._epoch_states = {**random_states(), "objects": objects}
        self._index_sampler.replayed = resume_state["draws"] if resume_state else {}
        batches = iter(self._kind.__iter__(self))  # type: ignore[attr-defined]
        self._position, self._checksums = 0, ()
        is_streamed = self.is_from_module and isinstance(self.dataset, IterableDataset)  # type: ignore[attr-defined]
        prefetch_states = None
        if resume_state and resume_state["random"]:
            for _ in range(resume_state["position"]):
                batch = next(batches, None)
                if is_streamed or not self._checksums:
                    self._checksums += (batch_checksum(batch),)
            self._position, prefetch_states = resume_state["position"], resume_state["ahead"]
            restore_random_states(prefetch_states or current_states)
            if not prefetch_states:  # restore the objects as saved, with changes made between the batches
                self._restore(owned, resume_state["objects"])
            is_same_content = [*self._checksums[: self._position]] == resume_state["content"]
            is_unchecked = self.is_from_module and not is_streamed
            self.is_same_order = self._order_checksum(self._position) == resume_state["order"]
            self.is_same = self.is_same_order and (is_same_content or is_unchecked)
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
            if is_streamed or not self._checksums:
                self._checksums += (batch_checksum(batch),)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return, per process, the number of batches used in this epoch, their checksums, and the random states."""
        if self._resume_state:
            return {"processes": gather_from_processes(self._resume_state)}
        objects, lost = self._changes()
        own_state = {
            "position": self.position,
            "content": [*self._checksums[: self.position]],
            "draws": self._indices.draws if self._indices is not None else {},
            "lost": lost,
            "order": self._order_checksum(self.position),
            "random": self._epoch_states,
            "objects": objects,
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
            False if the first batch of the completed epoch, read again, differs. It is not read again by a loader that
            holds the module in training, or whose objects can't be reset to the epoch's beginning.
        """
        own_state, current_states, owned = _of_this_process(state), random_states(), self._owned()
        is_same = True
        if own_state["random"]:
            is_whole = _restore_beginning(owned, own_state["random"])
            for sampler in (self.sampler, self.batch_sampler, getattr(self.batch_sampler, "sampler", None)):  # type: ignore[attr-defined]
                if callable(set_epoch := getattr(sampler, "set_epoch", None)):
                    set_epoch(epoch)
            if is_whole and not self.is_from_module:
                first = batch_checksum(next(iter(self._kind.__iter__(self)), None))  # type: ignore[attr-defined]
                is_same = [first] == own_state["content"][:1]
            restore_random_states(current_states)
        self._restore(owned, own_state["objects"])
        return is_same

    def _restore(self, owned: dict[str, ObjectState], kept: dict[str, list[dict[str, Any]]]) -> None:
        for name, each in owned.items():
            self.not_restored += tuple(f"data.{lost}" for lost in each.restore(kept.get(name, [])))

    def take_snapshot(self) -> list[str]:
        """Take the state from which changes are detected, unless the first epoch has begun.

        Returns:
            The names of what can't be looked at, each with a reason.
        """
        return [f"data.{name}" for each in self._owned().values() for name in each.unseen]

    @property
    def is_from_module(self) -> bool:
        """True if the loader holds the module in training, or a part of it, such as by a bound method."""
        return _holds(self._owned(), self._module())

    @property
    def _index_sampler(self) -> Any:
        """Sampler of each batch's indices, wrapped to record checksums; PyTorch has no public name for it."""
        sampler = self._kind._index_sampler.__get__(self)  # type: ignore[attr-defined]
        if self._indices is None or self._indices.sampler is not sampler:
            self._indices = _IndexRecorder(sampler)
        return self._indices

    def _order_checksum(self, position: int) -> int:
        """Return a checksum of the samples' indices up to a position, as far as a replay can draw them again."""
        if self._is_cut:
            position = min(position, MAX_DRAWS)
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
    def lost_in(state: dict[str, Any]) -> list[str]:
        """Return the names of what could not be saved in a state of this loader."""
        lost: list[str] = _of_this_process(state)["lost"]
        return lost

    @staticmethod
    def workers_in(state: dict[str, Any]) -> int:
        """Return the number of worker processes stored in a state of this loader."""
        num_workers: int = _of_this_process(state)["num_workers"]
        return num_workers

    def lost(self) -> list[str]:
        """Return the names of changing attributes of the dataset, sampler and `collate_fn` that can't be saved."""
        return self._changes()[1]

    def _changes(self) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
        """Return what has changed of the dataset, sampler and `collate_fn`, and the names of what can't be saved."""
        objects, names = {}, []
        for name, each in self._owned().items():
            objects[name], lost = each.changes()
            # A prefetched batch is read again after a resume, and would repeat its changes.
            if self._prefetch_states is not None:
                lost += [entry_name(entry) for entry in objects[name] if not is_generator(entry)]
            names += lost
        if self._is_cut:
            names.append(f"the order after {MAX_DRAWS} batches drawn one by one")
        return objects, names

    @property
    def _is_cut(self) -> bool:
        """True if random states were not kept for all batches that a replay would draw again."""
        return self._indices is not None and len(self._indices.draws) >= MAX_DRAWS


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


def batch_checksum(batch: Any, depth: int = 0) -> int:
    """Return a checksum of a batch, over evenly spaced values; of its class alone if its values can't be read."""
    try:
        return _checksum(batch, depth)
    except Exception:  # as of a nested tensor, or of a user's class
        return zlib.crc32(type(batch).__name__.encode())


def _checksum(batch: Any, depth: int) -> int:
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
    if isinstance(batch, np.ndarray):
        values = batch.reshape(-1)[:: max(1, batch.size // 64)]
        if not batch.dtype.hasobject:
            return zlib.crc32(values.tobytes())
        batch = values.tolist()
    if depth > MAX_DEPTH:  # a batch may hold itself
        return 0
    if isinstance(batch, dict):
        batch = list(batch.values())
    if isinstance(batch, list | tuple):
        return zlib.crc32(repr([batch_checksum(part, depth + 1) for part in batch]).encode())
    if isinstance(batch, str | bytes | int | float):
        return zlib.crc32(repr(batch).encode())
    names = attribute_names(batch)
    if is_pandas(batch) or not names:
        return zlib.crc32(digest_for_others(batch).encode())
    return batch_checksum([getattr(batch, name, None) for name in names], depth + 1)


def _is_sized(loader: Any) -> bool:
    """Return whether a loader has a length; if not, Lightning prefetches one batch."""
    try:
        len(loader)
    except TypeError:
        return False
    return True


class LazyStart:
    """Mixin for a custom loader that delays its random draws until the first batch is requested.

    As a check, Lightning creates an additional iterator at each start. Its draws would change the numbers of a
    resumed run.
    The saved state of an epoch is the state at its beginning, and a checksum of its first batch.
    """

    _kind: type  # the loader's original class
    _owned: Callable[[], dict[str, ObjectState]]  # returns the state of the loader's attributes
    _module: Callable[[], Any]  # returns the module in training, or None
    _epoch: dict[str, Any]  # state of the last epoch, in the class, so that it is no attribute of the loader

    def __iter__(self) -> Iterator[Any]:
        objects = {name: copy.deepcopy(each.changes()[0]) for name, each in self._owned().items()}
        self._epoch.update(random={**random_states(), "objects": objects}, first=None)
        for number, batch in enumerate(self._kind.__iter__(self)):  # type: ignore[attr-defined]
            if number == 0:
                self._epoch["first"] = batch_checksum(batch)
            yield batch

    def take_snapshot(self) -> list[str]:
        """Take the state from which changes are detected, unless the first epoch has begun.

        Returns:
            The names of what can't be looked at, each with a reason.
        """
        return [f"data.{name}" for each in self._owned().values() for name in each.unseen]

    def epoch_state(self) -> dict[str, Any]:
        """Return the state of the last epoch, and the names of changing attributes that can't be saved."""
        lost = [path for each in self._owned().values() for path in each.changes()[1]]
        return {**self._epoch, "lost": lost}

    def has_same_epoch(self, state: dict[str, Any]) -> bool:
        """Return whether the first batch of an epoch, read again, is the same; True if it can't be read again."""
        owned = self._owned()
        if not state.get("random") or state["lost"] or _holds(owned, self._module()):
            return True
        current_states = random_states()
        is_same = True
        if _restore_beginning(owned, state["random"]):
            is_same = batch_checksum(next(iter(self._kind.__iter__(self)), None)) == state["first"]  # type: ignore[attr-defined]
        restore_random_states(current_states)
        return is_same


def _restore_beginning(owned: dict[str, ObjectState], states: dict[str, Any]) -> bool:
    """Restore the states of an epoch's beginning.

    Returns:
        False if a value that has changed since can't be restored: Lightning has already read a batch.
    """
    restore_random_states(states)
    is_whole = True
    for name, each in owned.items():
        kept = states["objects"].get(name, [])
        is_whole = each.reset({path_of(entry) for entry in kept}) and is_whole
        is_whole = not each.restore(kept) and is_whole
    return is_whole


def _holds(owned: dict[str, ObjectState], module: Any) -> bool:
    """Return whether a loader holds a module or a part of it."""
    parts = [] if module is None else [*module.modules()]
    return any(each.holds(parts) for each in owned.values())


def make_resumable(data: L.LightningDataModule) -> None:
    """Make the training loaders of a data module resumable, if they are `DataLoader`s without a `state_dict`.

    Loaders of training and validation start new worker processes in each epoch.

    With other loaders without a `state_dict`, a run can resume only from the end of an epoch.
    """
    make = data.train_dataloader
    warned: list[bool] = []
    # By object id, as of the start of training. An ObjectState holds its object, so that the id stays valid.
    states: dict[int, ObjectState] = {}

    def module() -> L.LightningModule | None:
        return data.trainer.lightning_module if getattr(data, "trainer", None) else None  # type: ignore[union-attr]

    def state_of(name: str, part: Any, others: tuple[Any, ...]) -> ObjectState:
        if id(part) not in states:

            def known() -> list[Any]:
                trained = module()
                return [*others, *(saved_elsewhere(trained.trainer, trained) if trained else [])]

            states[id(part)] = ObjectState({name: part}, known)
        return states[id(part)]

    def owned(loader: Any) -> dict[str, ObjectState]:
        if not isinstance(loader, DataLoader):
            return {"loader": state_of("loader", loader, ())}
        parts = {name: getattr(loader, name, None) for name in PARTS}
        found, others = {}, list[Any]()
        for name, part in parts.items():
            if part is not None and not any(part is other for other in others):
                found[name] = state_of(name, part, tuple(others))
                others.append(part)
        return found

    def without_persistent_workers(make: Callable[[], Any]) -> Any:
        """Return the loaders of a hook; persistent workers keep states across epochs that no checkpoint can save."""
        loaders = make()
        for loader in flatten_loaders(loaders):
            if isinstance(loader, DataLoader) and loader.persistent_workers:
                vars(loader)["persistent_workers"] = False  # PyTorch's setter refuses it
                if not warned and is_main_process():
                    warned.append(True)
                    warn(
                        "persistent_workers: is ignored: each epoch has new workers, so that the run can resume bit for bit"
                    )
        return loaders

    def train_dataloader() -> Any:
        loaders = without_persistent_workers(make)
        for loader in flatten_loaders(loaders):
            if not hasattr(loader, "state_dict"):
                mixin = Resumable if isinstance(loader, DataLoader) else LazyStart
                _mix_in(mixin, loader, _owned=owned, _module=staticmethod(module), _epoch={})
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
