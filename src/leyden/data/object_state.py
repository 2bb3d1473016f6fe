"""State that no `state_dict` holds: attributes of somebody's objects that change while a run trains.

A LightningModule with a replay buffer, a sampler with a NumPy generator, a callback that counts: PyTorch and Lightning save
none of these. What has changed since the start is found by comparison, and kept where it is made of plain values.
"""

import argparse
import collections
import contextlib
import copy
import dataclasses
import enum
import functools
import hashlib
import io
import itertools
import pickle
import sys
import sysconfig
import types
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sized
from pathlib import PurePath
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import data as torch_data

from leyden.data.encoding import (
    CLOSED,
    ELSEWHERE,
    GENERATORS,
    KIND,
    MAX_ITEMS,
    PLAIN,
    UnkeepableError,
    decode,
    encode,
    has_state_dict,
    names_of,
)
from leyden.data.files import digest_of_content

MAX_COMPARED = 10_000  # items of a container: of a larger one a part is compared
MAX_OPEN = 1000  # objects in a container that is looked into
MAX_PICKLED = 2**26  # bytes

# Attributes that PyTorch and Lightning keep for themselves; `training` is the one that a run changes.
OF_MODULES = {*vars(nn.Module())} - {"training"}
OF_LIGHTNING = {*vars(L.LightningModule()), *vars(L.LightningDataModule())} - {*OF_MODULES, "training", "_hparams"}
CONSTANTS = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    enum.Enum,
    PurePath,
    torch.dtype,
    torch.device,
    np.dtype,
)
# Objects of these are looked into, though their package is not somebody's own.
OPEN = (nn.Module, torch_data.Dataset, torch_data.Sampler, types.SimpleNamespace, argparse.Namespace)

INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})

Path = tuple[tuple[str, Any], ...]  # of ("attribute", name) and ("item", key)


@dataclasses.dataclass(frozen=True)
class _Mark:
    """A value as it was at the start, to be compared; what is compared by place is held, so that no other takes it."""

    value: Any
    digest: Hashable


@dataclasses.dataclass(frozen=True)
class _Unseen:
    """Of a value of which nothing more is seen."""

    place: int
    length: int


@dataclasses.dataclass(frozen=True)
class _Pickled:
    """Of a value that is not made of plain ones, as it would be pickled."""

    digest: str


@dataclasses.dataclass(frozen=True)
class _Closure:
    """The variables that a function has from where it was made."""

    function: types.FunctionType

    @property
    def values(self) -> list[Any]:
        """Those that are plain values, or containers."""
        kinds = (*PLAIN, *GENERATORS, Iterator, list, dict, set, collections.deque)
        cells = [cell.cell_contents for cell in self.function.__closure__ or ()]
        return [each for each in cells if isinstance(each, kinds)]


class ObjectState:
    """Attributes of objects, as they are now: from here on what changes can be kept.

    Args:
        roots: The objects by name; they are looked into, and so is what they hold.
        known: Objects whose state is kept elsewhere, as parameters and metrics; they are left out.
    """

    def __init__(self, roots: Mapping[str, Any], known: Callable[[], list[Any]] = list) -> None:
        self.roots, self.known = roots, known
        self._owners: dict[Path, Any] = {}  # what was looked into at the start, and all else that it held
        self._held: dict[Path, list[Any]] = {}
        self._marks: dict[Path, _Mark] = {}
        self._kept: set[Path] = set()  # restored, or kept once
        for path, value in self._leaves(is_start=True):
            self._marks[path] = _Mark(value, _digest(value))

    def changes(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Return what has changed, of tensors and plain values, and the names of what can't be kept."""
        kept: list[dict[str, Any]] = []
        lost, numbers = [], dict[int, int]()
        for path, value in self._leaves():
            try:
                if self._has_changed(path, value, self._marks.get(path)):
                    self._add(kept, path, value, numbers)
                    self._kept.add(path)
            except UnkeepableError:
                lost.append(name_of(path))
        return kept, lost

    def values(self) -> list[dict[str, Any]]:
        """Return all that can be kept, as it is now, in copies."""
        kept: list[dict[str, Any]] = []
        numbers = dict[int, int]()
        for path, value in self._leaves():
            with contextlib.suppress(UnkeepableError):
                self._add(kept, path, value, numbers)
        return copy.deepcopy(kept)

    def has(self, path: Path) -> bool:
        """Whether there is an object that a path leads to a part of."""
        return path[:-1] in self._owners

    def remove(self, paths: Iterable[Path]) -> None:
        """Take attributes away."""
        for path in paths:
            if self.has(path) and path[-1][0] == "attribute":
                with contextlib.suppress(AttributeError):
                    delattr(self._owners[path[:-1]], path[-1][1])

    def _add(self, kept: list[dict[str, Any]], path: Path, value: Any, numbers: dict[int, int]) -> None:
        mark = self._marks.get(path)
        is_same = mark is not None and mark.value is value
        entry = {"path": [list(step) for step in path], "in_place": is_same and not isinstance(value, PLAIN)}
        if id(value) in numbers:
            entry["same_as"] = numbers[id(value)]
        else:
            entry["value"] = encode(value)
            if not isinstance(value, PLAIN):
                numbers[id(value)] = len(kept)
        kept.append(entry)

    def restore(self, kept: list[dict[str, Any]]) -> None:
        """Set what `changes` returned.

        Raises:
            ValueError: These objects have no such attributes.
        """
        made: list[Any] = []
        for entry in kept:
            path = path_of(entry)
            try:
                if str(path[-1][1]).startswith("__"):
                    raise AttributeError("it is Python's")
                owner = self._owners[path[:-1]]  # a path leads to these alone, whoever has written it
                if isinstance(owner, type | types.ModuleType) and path not in self._marks:
                    raise AttributeError("it was no value")
                here = _get(owner, path[-1], None)
                value = made[entry["same_as"]] if "same_as" in entry else None
                if value is None:
                    value = decode(entry["value"], here, in_place=entry["in_place"])
                made.append(value)
                if value is not here:
                    _set(owner, path[-1], value)
            except (AttributeError, LookupError, TypeError) as error:
                raise ValueError(f"{name_of(path)} can't be restored ({type(error).__name__}: {error})") from error
            self._kept.add(path)

    def differing(self, before: "ObjectState") -> list[str]:
        """Return the names of plain values, tensors and generators that were others in an earlier state of the same objects."""
        pairs = ((path, mark.digest, before._marks.get(path, mark).digest) for path, mark in self._marks.items())
        unseen = (_Pickled, _Unseen)  # scratch memory, for one
        unset = _digest(None)  # it is worked out at the first use
        return [
            name_of(path) for path, now, then in pairs if then not in (now, unset) and not isinstance(now, unseen)
        ]

    def _has_changed(self, path: Path, value: Any, mark: _Mark | None) -> bool:
        if isinstance(value, Iterator) and not isinstance(value, io.IOBase):
            raise UnkeepableError("nobody sees how far an iterator is")
        if mark and isinstance(mark.digest, _Unseen) and type(value).__module__.partition(".")[0] not in CLOSED:
            raise UnkeepableError("nobody sees what it holds")
        if isinstance(value, _Closure) and any(isinstance(each, Iterator) for each in value.values):
            raise UnkeepableError("nobody sees how far an iterator is")
        if (
            mark is None
            and path[:-1] in self._owners
            and isinstance(self._owners[path[:-1]], type | types.ModuleType)
        ):
            raise UnkeepableError("it was no value at the start, and is not set anew in a class or a module")
        if isinstance(value, GENERATORS):  # it may have been seeded by the time of day
            return True
        return mark is None or path in self._kept or mark.digest != _digest(value)

    def _leaves(self, *, is_start: bool = False) -> Iterator[tuple[Path, Any]]:
        """Attributes that hold values, by path, of the roots and of all objects that they hold; each object once."""
        known = self.known()  # held as long as their places count
        seen = {id(each) for each in known}
        found: list[tuple[Path, Any]] = [((), self.roots)]

        def look_into(path: Path, owner: Any) -> None:
            seen.add(id(owner))  # where two hold it, the first one that is found
            found.append((path, owner))

        while found:
            path, owner = found.pop(0)
            if is_start:
                self._owners[path], self._held[path] = owner, _objects(owner)
            shared = [*_namespaces(owner)]
            for step, value in _parts(owner):
                there = (*path, step)
                if id(value) in seen and not isinstance(value, PLAIN):
                    continue
                if isinstance(value, types.FunctionType):
                    shared += _namespaces(value)
                    if value.__closure__:
                        yield there, _Closure(value)
                elif (isinstance(value, L.Callback | type | types.ModuleType) and not path) or (
                    (_is_open(value) or _holds(value, seen)) and (is_start or self._is_as_it_was(there, value))
                ):
                    look_into(there, value)
                elif not isinstance(value, (*CONSTANTS, *ELSEWHERE)) and not callable(value):
                    yield there, value
            for name, each in shared:
                if id(each) not in seen:
                    look_into((("item", name),), each)

    def _is_as_it_was(self, path: Path, value: Any) -> bool:
        """Whether an object is of the class that was there at the start; a container must hold the same objects."""
        if path not in self._owners or type(self._owners[path]) is not type(value):
            return False
        then, now = self._held[path], _objects(value)
        return len(then) == len(now) and all(a is b for a, b in zip(then, now, strict=True))


def _objects(owner: Any) -> list[Any]:
    """Return what a container holds that is looked into; of another object nothing, whose attributes may be others."""
    if not isinstance(owner, list | tuple | dict):
        return []
    return [each for each in (owner.values() if isinstance(owner, dict) else owner) if _is_apart(each)]


def _is_open(value: Any) -> bool:
    """Whether an object, or a container of objects, is looked into; else it is a value."""
    if isinstance(value, list | tuple | dict) and 0 < len(value) <= MAX_ITEMS:
        if isinstance(value, dict) and not all(isinstance(key, str | int) for key in value):
            return False
        return len(value) <= MAX_OPEN and any(map(_is_apart, value.values() if isinstance(value, dict) else value))
    if isinstance(value, types.MethodType | functools.partial):
        return True
    if isinstance(value, (*PLAIN, *CONSTANTS, *ELSEWHERE, *GENERATORS, Tensor, np.ndarray, Iterator)):
        return False
    if isinstance(value, OPEN):
        return True
    if has_state_dict(value):
        return False
    package = type(value).__module__.partition(".")[0]
    return package not in CLOSED and bool(names_of(value)) and not isinstance(value, tuple | list | dict | set)


def _holds(value: Any, known: set[int]) -> bool:
    """Whether a container holds objects that are kept elsewhere, as an LSTM lists its weights: it is not made anew with copies."""
    if not isinstance(value, list | tuple | dict) or len(value) > MAX_OPEN:
        return False
    parts = value.values() if isinstance(value, dict) else value
    return any(id(part) in known for part in parts if not isinstance(part, PLAIN))


def _is_apart(value: Any) -> bool:
    """Whether a part of a container is looked at by itself, as its state can be restored in its place alone."""
    return _is_open(value) or isinstance(value, (types.FunctionType, *GENERATORS)) or has_state_dict(value)


def _namespaces(owner: Any) -> Iterator[tuple[str, Any]]:
    """Return what an object or a function shares with others: its classes, and the modules that these are defined in.

    Those of installed packages are left out.
    """
    kinds = [owner] if isinstance(owner, types.FunctionType) else type(owner).__mro__
    for kind in kinds:
        module = sys.modules.get(kind.__module__)
        if _is_own(kind.__module__, module):
            if kind is not owner:
                yield f"{kind.__module__}.{kind.__qualname__}", kind
            yield kind.__module__, module


def _is_own(name: str, module: Any) -> bool:
    """Whether a module is neither the engine's nor of an installed package."""
    file: str | None = getattr(module, "__file__", None)
    return file is not None and not file.startswith(INSTALLED) and name.partition(".")[0] != "leyden"


def shared_state(packages: Collection[str]) -> ObjectState:
    """See what packages of somebody's share among all objects: the variables of their modules and classes, as far as they are imported."""
    roots: dict[str, Any] = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in packages and _is_own(name, module):
            kinds = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == name]
            roots |= {name: module, **{f"{name}.{kind.__qualname__}": kind for kind in kinds}}
    return ObjectState(roots)


def _parts(owner: Any) -> Iterator[tuple[tuple[str, Any], Any]]:
    if isinstance(owner, dict):
        yield from ((("item", key), value) for key, value in list(owner.items()) if isinstance(key, str | int))
    elif isinstance(owner, list | tuple):
        yield from ((("item", number), value) for number, value in enumerate(list(owner)))
    elif isinstance(owner, type | types.ModuleType):
        of_class = (property, classmethod, staticmethod, types.MemberDescriptorType, types.GetSetDescriptorType)
        for name, value in list(vars(owner).items()):
            if not name.startswith("__") and not isinstance(value, (*of_class, types.FunctionType)):
                yield ("attribute", name), value
    elif isinstance(owner, types.MethodType):
        yield ("attribute", "__self__"), owner.__self__
    elif isinstance(owner, functools.partial):
        yield from ((("attribute", name), getattr(owner, name)) for name in ("func", "args", "keywords"))
    else:
        left_out = OF_MODULES if isinstance(owner, nn.Module) else set()
        if isinstance(owner, L.LightningModule | L.LightningDataModule):
            left_out = left_out | OF_LIGHTNING
        for name in names_of(owner):
            if name not in left_out and hasattr(owner, name):
                yield ("attribute", name), getattr(owner, name)
        if isinstance(owner, nn.Module):
            for group in ("_parameters", "_buffers", "_modules"):
                yield from ((("attribute", name), value) for name, value in getattr(owner, group).items())


def _get(owner: Any, step: tuple[str, Any], *default: Any) -> Any:
    kind, key = step
    if kind == "attribute":
        return getattr(owner, key, *default)
    try:
        return owner[key]
    except (LookupError, TypeError):
        if default:
            return default[0]
        raise


def _set(owner: Any, step: tuple[str, Any], value: Any) -> None:
    kind, key = step
    if kind == "item":
        owner[key] = value
    elif isinstance(here := getattr(owner, key, None), nn.Parameter) and isinstance(value, Tensor):
        here.data.copy_(value)
    elif dataclasses.is_dataclass(owner) or not hasattr(owner, "__dict__"):
        object.__setattr__(owner, key, value)  # it may be frozen
    else:
        setattr(owner, key, value)


def path_of(entry: dict[str, Any]) -> Path:
    """Return the path of what `ObjectState.changes` has kept."""
    return tuple((str(kind), key) for kind, key in entry["path"])


def entry_name(entry: dict[str, Any]) -> str:
    """Return the name of what `ObjectState.changes` has kept."""
    return name_of(path_of(entry))


def selected(kept: list[dict[str, Any]], wanted: Callable[[Path], bool]) -> list[dict[str, Any]]:
    """Return a part of what `ObjectState.changes` has kept; what was the same as something else is the same as that, or has its value."""
    found: list[dict[str, Any]] = []
    numbers = dict[int, int]()
    for n, entry in enumerate(kept):
        if not wanted(path_of(entry)):
            continue
        first = entry.get("same_as", n)
        part = {"path": entry["path"], "in_place": entry["in_place"]}
        found.append(part | ({"same_as": numbers[first]} if first in numbers else {"value": kept[first]["value"]}))
        numbers.setdefault(first, len(found) - 1)
    return found


def digests(kept: list[dict[str, Any]]) -> dict[Path, str]:
    """Return a digest of each value that `ObjectState.values` has given; where a tensor lies doesn't count."""
    found = {}
    for entry in kept:
        value = kept[entry["same_as"]]["value"] if "same_as" in entry else entry["value"]
        is_tensor = isinstance(value, dict) and value.get(KIND) == "tensor"
        found[path_of(entry)] = digest_of_content(value["values"] if is_tensor else value)
    return found


def is_generator(entry: dict[str, Any]) -> bool:
    """Return whether what was kept is the state of a random generator."""
    value = entry.get("value")
    return isinstance(value, dict) and value.get(KIND) == "generator"


def name_of(path: Path) -> str:
    """Return a path as a reader writes it, as `module.buffer`, `train.sampler.rng`."""
    text = "".join(
        f".{key}" if kind == "attribute" or n == 0 else f"[{key!r}]" for n, (kind, key) in enumerate(path)
    )
    return text.removeprefix(".")


def _digest(value: Any) -> Hashable:
    """Return what changes when a value does; of a tensor its place and PyTorch's count of changes."""
    if isinstance(value, Tensor):
        where = value.data_ptr() if value.device.type != "meta" else 0
        return where, value._version, tuple(value.shape), str(value.dtype)
    if isinstance(value, _Closure):
        return tuple(map(_digest, value.values))
    if isinstance(value, Iterator):
        return repr(value) if isinstance(value, itertools.count) else _Unseen(id(value), 0)
    try:
        return digest_of_content(encode(_sample(value)))
    except UnkeepableError:
        pass
    sha = _Hash()
    try:  # its buffers are not copied
        pickle.Pickler(sha, 5, buffer_callback=lambda buffer: None).dump(value)
    except Exception:  # it comes from somebody's code, and can be anything
        if not sha.is_full:
            return _Unseen(id(value), len(value) if isinstance(value, Sized) else 0)
    return _Pickled(sha.digest.hexdigest())


class _Hash:
    """A file of which only a hash is kept, of the first bytes of what is large."""

    def __init__(self) -> None:
        self.digest, self.size, self.is_full = hashlib.sha256(), 0, False

    def write(self, content: bytes) -> None:
        self.digest.update(content)
        self.size += len(content)
        self.is_full = self.size > MAX_PICKLED
        if self.is_full:
            raise OverflowError


def _sample(value: Any) -> Any:
    """Return a part of what is large, evenly spread: a change of one item of many thousands is not seen."""
    if isinstance(value, np.ndarray) and value.nbytes > MAX_COMPARED * 100:
        return value.reshape(-1)[:: value.size // MAX_COMPARED]
    if isinstance(value, list | tuple | set | frozenset | collections.deque) and len(value) > MAX_COMPARED:
        return [len(value), *list(value)[:: len(value) // 1000]]
    if isinstance(value, dict) and len(value) > MAX_COMPARED:
        return [len(value), *list(value.items())[:: len(value) // 1000]]
    return value
