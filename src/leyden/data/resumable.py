"""PyTorch's `DataLoader`s, made so that a run can go on within an epoch, bit for bit."""

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

PARTS = ("dataset", "sampler", "batch_sampler", "collate_fn", "generator")  # of a loader


class _Recorded:
    """A sampler that remembers a checksum of what it has yielded, for each batch."""

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
    """Added to a `DataLoader`: its state is the position, and the random states with which the epoch began.

    An epoch is resumed by beginning it anew from these and leaving out the batches that were trained on: so the order and all
    that workers draw at random are what they were, at the price of reading those batches again. What changes on its data set,
    sampler and `collate_fn`, as random generators of their own, begins as it did, too. It is checked that these batches are of the
    samples that were trained on, and that the first one is what it was; in later ones a data set may draw after the network has.
    """

    _kind: type  # of the loader
    _owned: Callable[[], dict[str, ObjectState]]  # returns what belongs to it, by the name of its part
    _start: dict[str, Any] | None = None  # the state that the next iteration starts from
    _begun: dict[str, Any] | None = None  # the random states with which this one did
    _ahead: dict[str, Any] | None = None  # those before the last batch, where Lightning takes it a step too early
    _position = 0  # batches given
    _first: int | None = None  # the signature of the first one in the epoch
    _indices: _Recorded | None = None  # of the samples of each batch; None where a data set has no indices
    after_replay: Callable[[bool], None] | None = None  # is called with whether these batches are the same
    is_same: bool | None = None  # whether they were; None before that is known

    def __iter__(self) -> Iterator[Any]:
        # A generator: all of this waits for the first batch, when Lightning has set epoch and state.
        start, self._start = self._start, None
        here = random_states()
        owned = self._owned()
        if start and start["random"]:
            restore_random_states(start["random"])
            for name, each in owned.items():
                each.restore(start["random"]["objects"].get(name, []))
        # What it holds may change in place in the epoch.
        objects = {name: copy.deepcopy(each.changes()[0]) for name, each in owned.items()}
        self._begun = {**random_states(), "objects": objects}
        batches = iter(self._kind.__iter__(self))  # type: ignore[attr-defined]
        self._position, self._first = 0, None
        ahead = None
        if start and start["random"]:
            for _ in range(start["position"]):
                batch = next(batches, None)
                self._first = batch_checksum(batch) if self._first is None else self._first
            self._position, ahead = start["position"], start["ahead"]
            restore_random_states(ahead or here)
            if not ahead:  # what others have changed since; and what was drawn between the batches
                for name, each in owned.items():
                    each.restore(start["objects"].get(name, []))
            self.is_same = (self._first, self._order(start["position"])) == (start["first"], start["order"])
            if self.after_replay:
                self.after_replay(self.is_same)
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
            if self._position == 1:
                self._first = batch_checksum(batch)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return, of each process, the number of batches used in this epoch, what identifies them, and the random states."""
        mine = self._start or {
            "position": self.position,
            "first": self._first,
            "order": self._order(self.position),
            "random": self._begun,
            "objects": {name: each.changes()[0] for name, each in self._owned().items()},
            "ahead": self._ahead,
            "num_workers": self.num_workers,  # type: ignore[attr-defined]
        }
        return {"processes": of_all_processes(mine)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration start behind the batches that were given."""
        self._start = _of_this_process(state)

    def restore_owned(self, state: dict[str, Any], epoch: int) -> bool:
        """Take back what had changed on data set, sampler and `collate_fn`, after an epoch, for the next one.

        Returns:
            Whether the first batch of that epoch is what it was, read again.
        """
        mine, here, owned = _of_this_process(state), random_states(), self._owned()
        is_same = True
        if mine["random"]:
            restore_random_states(mine["random"])
            for name, each in owned.items():
                each.restore(mine["random"]["objects"].get(name, []))
            for sampler in (self.sampler, self.batch_sampler, getattr(self.batch_sampler, "sampler", None)):  # type: ignore[attr-defined]
                if callable(set_epoch := getattr(sampler, "set_epoch", None)):
                    set_epoch(epoch)
            is_same = batch_checksum(next(iter(self._kind.__iter__(self)), None)) == mine["first"]  # type: ignore[attr-defined]
            restore_random_states(here)
        for name, each in owned.items():
            each.restore(mine["objects"].get(name, []))
        return is_same

    @property
    def _index_sampler(self) -> Any:
        """PyTorch's, which yields the indices of each batch, and has no public name; they are recorded."""
        sampler = self._kind._index_sampler.__get__(self)  # type: ignore[attr-defined]
        if self._indices is None or self._indices.sampler is not sampler:
            self._indices = _Recorded(sampler)
        return self._indices

    def _order(self, position: int) -> int:
        """A checksum of the indices of all samples up to a position."""
        return zlib.crc32(repr(self._indices.checksums[:position] if self._indices is not None else None).encode())

    @property
    def position(self) -> int:
        """Number of batches that were trained on in this epoch, those before the next iteration included."""
        return self._start["position"] if self._start else self._position - (self._ahead is not None)

    @staticmethod
    def position_in(state: dict[str, Any]) -> int:
        """The same in a state of this loader."""
        position: int = _of_this_process(state)["position"]
        return position

    @staticmethod
    def workers_in(state: dict[str, Any]) -> int | None:
        """The number of worker processes in a state of this loader; None where an older version wrote it."""
        num_workers: int | None = _of_this_process(state).get("num_workers")
        return num_workers

    def lost(self) -> list[str]:
        """Return the names of what changes on data set, sampler and `collate_fn`, and can't be kept."""
        found = []
        for name, each in self._owned().items():
            kept, lost = each.changes()
            if self._ahead is not None:  # of a batch that is not used yet: what it has changed would change again
                lost += [entry_name(entry) for entry in kept if not is_generator(entry)]
            found += [f"{name}.{path}" for path in lost]
        return found


def of_all_processes(mine: Any) -> list[Any]:
    """Return what each process gives, by its rank; all of them must ask."""
    if not distributed.is_initialized():
        return [mine]
    every: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(every, mine)
    return every


def _of_this_process(state: dict[str, Any]) -> dict[str, Any]:
    mine: dict[str, Any] = state["processes"][distributed.get_rank() if distributed.is_initialized() else 0]
    return mine


def batch_checksum(batch: Any) -> int:
    """Return a number that tells a batch from another one: a checksum of some of its values, spread evenly."""
    if isinstance(batch, Tensor):
        some = (
            batch.detach()[:: max(1, len(batch) - 1)]
            if batch.dim() and not batch.is_contiguous()
            else batch.detach()
        )
        if some.device.type != "cpu" or some.is_sparse or some.is_quantized:
            return zlib.crc32(str(batch.shape).encode())  # looking at it would wait for the GPU
        flat = some.reshape(-1)
        return zlib.crc32(flat[:: max(1, len(flat) // 64)].contiguous().view(torch.uint8).numpy().tobytes())
    if isinstance(batch, dict):
        batch = list(batch.values())
    if isinstance(batch, list | tuple):
        return zlib.crc32(repr([batch_checksum(part) for part in batch]).encode())
    if hasattr(batch, "__dict__"):
        return batch_checksum(vars(batch))
    return zlib.crc32(repr(batch).encode()) if isinstance(batch, str | bytes | int | float) else 0


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
    """Let the loaders that a data module returns for training be resumable, those that are `DataLoader`s without a state.

    With another one that has no state, a run can resume from the end of an epoch.
    """
    make = data.train_dataloader
    told: list[bool] = []
    states: dict[int, ObjectState] = {}  # of an object, which it holds, as it was when the first loader began

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
        for loader in flattened(loaders):
            if not hasattr(loader, "state_dict"):
                _add(Resumable if isinstance(loader, DataLoader) else Late, loader, _owned=owned)
            if isinstance(loader, DataLoader) and loader.persistent_workers:
                # What workers draw would go on from epoch to epoch, in processes that no checkpoint reaches.
                vars(loader)["persistent_workers"] = False  # PyTorch lets nobody set it
                if not told and is_main_process():
                    told.append(True)
                    warn("persistent_workers: each epoch has new ones, so that the run can resume bit for bit")
        return loaders

    data.train_dataloader = train_dataloader  # type: ignore[method-assign]


def _add(mixin: type, loader: Any, **members: Any) -> None:
    """Let an object be of its own class with these methods, so that it is still what it was, to Lightning and its owner."""
    kind = type(loader)
    names = [name for name in vars(mixin) if name == "__iter__" or not name.startswith("__")]
    members = {name: vars(mixin)[name] for name in names} | members
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
