"""Changes of a module besides its gradients, where several virtual ranks take turns.

Attributes that change are found where they change first: in the first calls of each hook they are
looked at before and after. From then on, each virtual rank has its own. Weights and buffers belong
to all: each virtual rank begins a call from the same ones, and those of rank zero are kept, as DDP
does it with buffers.
"""

import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn

from leyden.exact import ExactError
from leyden.exact.loaders import gather_from_processes, has_processes
from leyden.exact.memory import (
    MAX_WHOLE,
    NOTHING,
    Memory,
    StatePath,
    path_name,
    version_of,
)

if TYPE_CHECKING:
    from lightning import LightningModule

MAX_BUFFER = 2**20  # bytes; a larger one must change in the first call of a hook
NOT_COPIED = object()  # in place of a value that can't be copied
Values = dict[StatePath, tuple[Any, str]]  # values with their digests


def is_looked_at(hook: str, number: int) -> bool:
    """Return whether attributes are looked at in a call of a hook.

    They are in each one, or in the first, the second, the fourth, …, of a hook of batches.
    """
    is_of_batch = hook.endswith("step") or "batch" in hook or "grad" in hook or "backward" in hook
    return not is_of_batch or number & (number - 1) == 0


class Attributes:
    """The attributes of a module by which virtual ranks differ.

    Args:
        module: The module.
        ranks: The virtual ranks of this process.
        known: As in `Memory`.
    """

    def __init__(
        self, module: "LightningModule", ranks: range, known: Callable[[], Iterable[Any]]
    ) -> None:
        self._module = module
        self._memory = Memory({"module": module}, known)
        self._values: dict[int, dict[StatePath, Any]] = {rank: {} for rank in ranks}
        self._paths: set[StatePath] = set()
        self._calls = Counter[str]()
        self._hook = ""
        self._before: Values = {}
        self._copied: dict[int, dict[int, Any]] = {}  # so that what is one object stays one
        self._glanced: dict[Any, Any] = {}
        self._is_looking = False

    def begin(self, hook: str) -> None:
        """Begin a call of a hook."""
        self._hook = hook
        self._calls[hook] += 1
        self._is_looking = is_looked_at(hook, self._calls[hook])
        if self._is_looking:
            self._look(self._memory.now())
        else:
            self._glanced = self._memory.glance()

    def _look(self, now: Values) -> None:
        memo: dict[int, Any] = {}
        self._copied = {rank: {} for rank in self._values}
        self._before = {}
        for path, (value, digest) in now.items():
            if path not in self._paths:
                self._before[path] = _copied(value, memo), digest

    def end(self) -> list[str]:
        """End a call; return the names of attributes that have changed, but were not looked at."""
        if self._is_looking:
            self._is_looking = False
            return []
        now = self._memory.glance()
        late: list[str] = []
        for place in {**now, **self._glanced}:
            owner, name = place
            path = (*owner, ("attribute", name))
            if path not in self._paths and now.get(place) != self._glanced.get(place):
                late.append(path_name(path))
        if late:
            self._calls[self._hook] = 0  # the next call is looked at
        return late

    def keep(self, rank: int) -> None:
        """Keep the attributes of a virtual rank, whose turn ends."""
        if self._is_looking:
            now = self._memory.now()
            for path in {**now, **self._before}:
                _, before = self._before.get(path, (NOTHING, ""))
                _, here = now.get(path, (NOTHING, ""))
                if path not in self._paths and before != here:
                    self._split(path)
        mine = self._values[rank]
        for path in self._paths:
            mine[path] = self._memory.get(path)

    def split(self, paths: Collection[StatePath]) -> None:
        """Give each virtual rank a copy of what stands at some paths."""
        self._look(self._memory.now())
        for path in paths:
            if path not in self._paths:
                self._split(path)

    def _split(self, path: StatePath) -> None:
        """Give each virtual rank a copy of what stood at a path.

        Raises:
            ExactError: It can't be copied.
        """
        self._paths.add(path)
        value, _ = self._before.get(path, (NOTHING, ""))
        for rank, values in self._values.items():
            values[path] = _copied(value, self._copied[rank])
        if any(values[path] is NOT_COPIED for values in self._values.values()):
            raise ExactError(
                f"{path_name(path)} changes in {self._hook}, and can't be held for each virtual "
                "rank: it is too large, or refuses to be copied; hold it outside of the module"
            )

    def load(self, rank: int) -> None:
        """Let the attributes of a virtual rank stand, whose turn begins."""
        for path, value in self._values[rank].items():
            self._memory.put(path, value)


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """Return a copy of a value; `NOT_COPIED` if it is too large, or refuses."""
    if value is NOTHING or value is NOT_COPIED:
        return value
    if getattr(value, "nbytes", 0) > MAX_WHOLE:
        return NOT_COPIED
    if isinstance(value, Tensor) and not value.is_leaf:
        return value.detach().clone()
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # other people's objects may raise anything
        return NOT_COPIED


@dataclass
class _Place:
    """A tensor that stands as an attribute of its owner: of a module, or a weight's gradient."""

    owner: Any
    name: str
    tensor: Tensor
    is_small: bool  # a buffer, of which no hook is asked whether it changes it

    def __post_init__(self) -> None:
        self.version = version_of(self.tensor)

    def has_changed(self) -> bool:
        """Return whether it may have been written to; PyTorch counts no version of statistics."""
        here = getattr(self.owner, self.name)
        return here is not self.tensor or self.is_small or version_of(here) != self.version

    def settle(self) -> bool:
        """Let the same tensor stand again, with what the code has put there.

        Returns:
            Whether it can.
        """
        here = getattr(self.owner, self.name)
        if here is not self.tensor:
            is_like = isinstance(here, Tensor) and not isinstance(self.tensor, nn.Parameter)
            is_like = is_like and (here.shape, here.dtype) == (self.tensor.shape, self.tensor.dtype)
            if not is_like:
                return False
            _fill(self.tensor, here)
            setattr(self.owner, self.name, self.tensor)
        self.version = version_of(self.tensor)
        return True


class Common:
    """Tensors that belong to all virtual ranks, in a call of a hook.

    Args:
        module: The module.
        ranks: The virtual ranks of this process.
    """

    def __init__(self, module: nn.Module, ranks: range) -> None:
        self._module = module
        self._ranks = ranks
        self._changing: dict[str, set[str]] = {}  # by hook, the names of those that it changes
        self._hook = ""
        self._places: dict[str, _Place] = {}
        self._names: list[str] = []  # of those that the call may change
        self._before: dict[str, Tensor] = {}
        self._of_ranks: dict[int, dict[str, Tensor]] = {}
        self._is_active = False  # in a call

    def begin(self, hook: str) -> None:
        """Begin a call of a hook."""
        self._hook = hook
        self._is_active = True
        self._places = self._all_places("grad" in hook or "backward" in hook or "optimizer" in hook)
        self._names = [*self._places]
        if hook in self._changing:
            changing = self._changing[hook]
            self._names = [
                name for name, each in self._places.items() if each.is_small or name in changing
            ]
        self._before = {}
        if len(self._ranks) > 1:
            self._before = {name: _clone(self._places[name].tensor) for name in self._names}
        self._of_ranks = {}

    def _all_places(self, with_gradients: bool) -> dict[str, _Place]:
        found: dict[str, _Place] = {}
        seen: set[int] = set()
        for path, owner in self._module.named_modules():
            for is_buffer, named in (
                (False, owner.named_parameters(recurse=False)),
                (True, owner.named_buffers(recurse=False)),
            ):
                for name, each in named:
                    if id(each) in seen:
                        continue
                    seen.add(id(each))
                    is_small = is_buffer and each.nbytes <= MAX_BUFFER
                    where = f"{path}.{name}" if path else name
                    found[where] = _Place(owner, name, each, is_small)
                    if with_gradients and each.grad is not None:
                        found[f"{where}.grad"] = _Place(each, "grad", each.grad, False)
        return found

    def keep(self, rank: int) -> None:
        """Keep what a virtual rank has changed, whose turn ends, and undo it.

        Raises:
            ExactError: It changes something for the first time, which can't be undone.
        """
        if not self._is_active:
            return
        mine = self._of_ranks.setdefault(rank, {})
        changed = [name for name, each in self._places.items() if each.has_changed()]
        for name in changed:
            if not self._places[name].settle():
                raise ExactError(
                    f"{self._hook} puts another tensor in the place of module.{name}: change it in "
                    "place, or by one of the same shape and type"
                )
            if name not in self._names:
                raise ExactError(
                    f"{self._hook} changes module.{name} in some of its calls, and not in the "
                    "first: virtual ranks can't begin from the same one"
                )
            mine[name] = self._places[name].tensor
        for name, before in self._before.items():
            if name in mine:
                mine[name] = _clone(mine[name])
                _fill(self._places[name].tensor, before)

    def load(self, rank: int) -> None:
        """Let what a virtual rank has changed stand again, whose turn goes on."""
        if self._is_active and self._before:
            for name, value in self._of_ranks.get(rank, {}).items():
                _fill(self._places[name].tensor, value)

    def end(self) -> None:
        """End a call: what the virtual rank zero has changed stands in all processes."""
        self.load(self._ranks[0])
        self._is_active = False
        if self._hook not in self._changing:
            changed: set[str] = set()
            for each in self._of_ranks.values():
                changed |= {*each}
            every = gather_from_processes(changed)
            self._changing[self._hook] = changed.union(*every)
            self._names = [name for name in self._names if name in self._changing[self._hook]]
        if self._names and has_processes():
            broadcast([self._places[name].tensor for name in self._names])


def _clone(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _fill(tensor: Tensor, value: Tensor) -> None:
    """Give a tensor other values; its version, by which autograd finds changes, stays the same."""
    tensor.data.copy_(value)


def broadcast(tensors: list[Tensor]) -> None:
    """Give all processes the tensors of the first one, those of a type at once."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for each in tensors:
        by_type.setdefault(each.dtype, []).append(each)
    for some in by_type.values():
        flat = torch.cat([each.detach().reshape(-1) for each in some])
        distributed.broadcast(flat, 0)
        parts = torch.split(flat, [each.numel() for each in some])
        for each, part in zip(some, parts, strict=True):
            _fill(each, part.view_as(each))
