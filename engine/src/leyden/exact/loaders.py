"""PyTorch `DataLoader`s that resume within an epoch, bit for bit."""

import contextlib
import functools
import types
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor, distributed
from torch.utils.data import DataLoader

from leyden.exact import ExactError
from leyden.exact.digest import digest
from leyden.exact.memory import MAX_WHOLE, Memory, lightning_bases, say
from leyden.exact.random_state import random_states, restore_random_states, seeded, undisturbed

# Attributes of a `DataLoader` that may hold state.
LOADER_PARTS = ("dataset", "sampler", "batch_sampler", "collate_fn", "generator")


class Reader(Protocol):
    """Training that reads loaders, of one adapter."""

    def epoch(self) -> int | None:
        """Return the number of the epoch; None while nothing trains."""

    def num_batches(self) -> int:
        """Return the number of batches that were trained on."""

    def prefetches(self) -> bool:
        """Return whether a training batch is requested before it is needed."""

    def shares(self) -> bool:
        """Return whether several processes, or virtual ranks, each have a part of the data."""

    def saved(self) -> list[Any]:
        """Return objects whose state is saved beside that of the loaders."""


class SameDraws:
    """A sampler that draws the same numbers in all processes, and leaves those drawn elsewhere.

    Whoever gives each process a part of a list, as Lightning does, needs the same list in each.

    Args:
        sampler: A sampler, of samples or of batches.
        seed: The run's seed.
        stage: Name of the loader.
        time: What tells an iteration from others of the same loader.
    """

    def __init__(self, sampler: Any, seed: int, stage: str, time: int) -> None:
        self.sampler = sampler
        self.seed = seed
        self.stage = stage
        self.time = time

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        with seeded(self.seed, self.stage, self.time):
            drawn = iter(self.sampler)
            states = random_states()
        while True:
            with undisturbed():
                restore_random_states(states)
                each = next(drawn, self)
                states = random_states()
            if each is self:
                return
            yield each


class OfProcesses:
    """Mixin for a `DataLoader`; its own sampler draws the same in each of several processes.

    PyTorch's samplers do so anyway.
    """

    _kind: type  # the loader's original class
    _reader: Reader
    _stage: str  # its hook and its number
    _seed: int
    batch_sampler: Any
    sampler: Any

    @property
    def _index_sampler(self) -> Any:
        """The sampler that an iteration takes its indices from.

        PyTorch has no public way to replace it for one iteration.
        """
        sampler = self.batch_sampler
        if sampler is None:
            sampler = self.sampler
        draws = self.draws()
        if draws is None or not self._reader.shares():
            return sampler
        parts = (self.sampler, sampler, getattr(sampler, "sampler", None))
        packages = {type(each).__module__.partition(".")[0] for each in parts}
        if packages <= {"torch", "builtins"}:
            return sampler
        seed, time = draws
        return SameDraws(sampler, seed, self._stage, time)

    def draws(self) -> Sequence[int] | None:
        """Return the seed, and the epoch or another time; None for draws of this process alone."""
        epoch = self._reader.epoch()
        if epoch is None:
            return None
        return self._seed, epoch


def has_processes() -> bool:
    """Return whether several processes train together."""
    return distributed.is_initialized() and distributed.get_world_size() > 1


class Resumable:
    """Mixin for a `DataLoader`; its state is the position, and the epoch's first random states.

    To resume, the epoch is replayed from these states, and the batches already trained on are
    skipped. So the order and all random numbers drawn by workers are the same, at the cost of
    reading those batches again. Attributes of the dataset, the sampler and `collate_fn` that change
    during an epoch, such as their own random generators, are restored at the beginning of the
    epoch, too.
    """

    _kind: type  # the loader's original class
    _reader: Reader
    _seed: int
    # The seed, and the number of batches trained on when this iteration began; None in checkpoints
    # that had none yet.
    _began: list[int] | None = None
    # Of dataset, sampler etc. by their ids, as of the start of training. A memory holds its object,
    # so that the id stays valid.
    _known_memories: dict[int, Memory]
    _resume_state: dict[str, Any] | None = None  # state from which the next iteration resumes
    _epoch_states: dict[str, Any] | None = None  # random states at the beginning of this iteration
    # Random states before a batch that Lightning prefetches.
    _prefetch_states: dict[str, Any] | None = None
    _position = 0  # batches yielded
    replaying: Any = contextlib.nullcontext  # function that returns the context of a replay

    def __iter__(self) -> Iterator[Any]:
        # A generator, so this runs at the first batch, when Lightning has set epoch and state.
        resumed = self._resume_state
        self._resume_state = None
        if resumed and resumed["random"] is None:  # no batch was read before the stop
            resumed = None
        self._position = 0
        current_states = random_states()
        ahead = None
        self._began = None
        if self._reader.epoch() is not None:
            self._began = [self._seed, self._reader.num_batches()]
        replaying = self.replaying if resumed else contextlib.nullcontext
        with replaying():
            if resumed:
                before = resumed["random"]
                restore_random_states(before)
                self.restore_memory(before["memory"])
                self._began = before.get("began")
            states = random_states()
            states["memory"] = self.changes()
            states["began"] = self._began
            self._epoch_states = states
            batches = iter(self._kind.__iter__(self))  # type: ignore[attr-defined]
            if resumed:
                self._position = resumed["position"]
                for _ in range(self._position):
                    next(batches, None)
                ahead = resumed["ahead"]
                restore_random_states(ahead or current_states)
                if not ahead:  # restore the objects as saved, with changes made between the batches
                    self.restore_memory(resumed["memory"])
        while True:
            self._prefetch_states = ahead
            if not ahead and self._reader.prefetches():
                self._prefetch_states = random_states()
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
        return {"processes": gather_from_processes(self.own_state())}

    def own_state(self) -> dict[str, Any]:
        """Return what `state_dict` has of this process."""
        return self._resume_state or {
            "position": self.position,
            "random": self._epoch_states,
            "memory": self.changes(),
            "ahead": self._prefetch_states,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume the next iteration after the batches that were already used."""
        self.resume_from(of_this_process(state))

    def resume_from(self, own_state: dict[str, Any]) -> None:
        """Resume the next iteration from what `own_state` returned."""
        self._resume_state = own_state

    @property
    def position(self) -> int:
        """Number of batches trained on in this epoch, including those before a resume."""
        if self._resume_state:
            return int(self._resume_state["position"])
        return self._position - (self._prefetch_states is not None)

    def draws(self) -> Sequence[int] | None:
        """Return when this iteration began.

        A loader may begin again within an epoch, with another order.
        """
        return self._began

    def memories(self) -> dict[str, Memory]:
        """Return the memories of dataset, sampler etc. by attribute name.

        The first call is before the first epoch.
        """
        parts: dict[str, Any] = {}
        for name in LOADER_PARTS:
            part = getattr(self, name, None)
            if part is not None:
                parts[name] = part
        found: dict[str, Memory] = {}
        for name, part in parts.items():
            key = id(part)
            if key not in self._known_memories:
                owner = types.SimpleNamespace(**{name: part})
                known = functools.partial(self._saved_beside, part, parts)
                self._known_memories[key] = Memory({"data": owner}, known)
            found[name] = self._known_memories[key]
        return found

    def _saved_beside(self, own: Any, parts: dict[str, Any]) -> list[Any]:
        """Return what is saved elsewhere, and not in the memory of one of these parts."""
        found = self._reader.saved()
        for name, part in parts.items():
            if part is not own and name != "generator":
                found.append(part)
        return found

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


def apart_from_first(states: dict[str, Any]) -> dict[str, Any]:
    """Return those states by which this process differs from the one of rank zero, and no others.

    All processes must call this. Of large tensors a part is compared.
    """
    if not has_processes():
        return {}
    digests: dict[str, str] = {}
    for name, each in states.items():
        with contextlib.suppress(Exception):  # of a user's own class
            digests[name] = digest(each, MAX_WHOLE)
    first = gather_from_processes(digests)[0]
    return {name: states[name] for name in digests if digests[name] != first.get(name)}


def check_number(
    before: int, now: int, kind_before: str = "processes", kind_now: str = "processes"
) -> None:
    """Check the number of processes, or of virtual ranks, at a resume.

    Raises:
        ExactError: It has changed, or one is of the former and the other of the latter.
    """
    if (before, kind_before) == (now, kind_now):
        return
    what = "strategy"
    if kind_before == kind_now == "processes":
        what = "devices and num_nodes"
    raise ExactError(
        f"trained by {before} {kind_before}, and this start has {now} {kind_now}: their number "
        f"can't change; set the trainer's {what} to match, or choose another folder"
    )


def of_this_process(state: dict[str, Any]) -> dict[str, Any]:
    """Return this process's part of a loader's state."""
    rank = 0
    if distributed.is_initialized():
        rank = distributed.get_rank()
    own_state: dict[str, Any] = state["processes"][rank]
    return own_state


class Derived:
    """The loaders that were derived for a reader, to draw the same again.

    Args:
        reader: Who reads them.
        seed: The run's seed.
    """

    def __init__(self, reader: Reader, seed: int) -> None:
        self._reader = reader
        self._shared = {"_reader": reader, "_seed": seed, "_known_memories": {}}
        self._warned: list[bool] = []

    def derive(self, loaders: Any, stage: str, *, are_training: bool) -> Any:
        """Derive loaders, of PyTorch's, that have no `state_dict`, and return them all.

        Those of training become resumable. They and those of validation start new worker processes
        in each epoch, and their own samplers draw the same in all processes.
        With other loaders without a `state_dict`, a run can resume only from the end of an epoch.

        Args:
            loaders: A loader, or a nested collection of loaders.
            stage: Name of the hook that has returned them.
            are_training: Whether they are loaders of training.
        """
        for number, loader in enumerate(flatten_loaders(loaders)):
            if not isinstance(loader, DataLoader):
                continue
            _without_persistent_workers(loader, self._warned)
            if hasattr(loader, "_known_memories"):  # it is derived already
                continue
            mixins: list[type] = [OfProcesses]
            if are_training and not hasattr(loader, "state_dict"):
                mixins.append(Resumable)
            if Resumable in mixins or self._reader.shares():
                _derive(loader, mixins, {**self._shared, "_stage": f"{stage} {number}"})
        return loaders


def _derive(loader: Any, mixins: Sequence[type], own: dict[str, Any]) -> None:
    """Make the loader's class a subclass of it, so that `isinstance` holds.

    Python allows that with the same single base.
    """
    kind = type(loader)
    members: dict[str, Any] = {}
    for mixin in mixins:
        for name, member in vars(mixin).items():
            if name == "__iter__" or not name.startswith("__"):
                members[name] = member
    members.update(own, _kind=kind)
    loader.__class__ = type(kind.__name__, (kind,), members)


def _without_persistent_workers(loader: Any, warned: list[bool]) -> None:
    """Start new workers in each epoch; persistent ones keep states that no checkpoint can save."""
    if not loader.persistent_workers:
        return
    vars(loader)["persistent_workers"] = False  # PyTorch's setter refuses it
    if not warned:
        warned.append(True)
        say(
            "persistent_workers: is ignored: each epoch has new workers, so that the run can "
            "resume bit for bit"
        )


def flatten_loaders(loaders: Any) -> list[Any]:
    """Return a flat list of the loaders of a hook, which returned one or a nested collection."""
    kind: Any = type(loaders)
    if "CombinedLoader" in lightning_bases(kind):  # to make one warns, with PyTorch 2.13
        return list(loaders.flattened)
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if not isinstance(loaders, list | tuple):
        return [loaders]
    found: list[Any] = []
    for part in loaders:
        found += flatten_loaders(part)
    return found
