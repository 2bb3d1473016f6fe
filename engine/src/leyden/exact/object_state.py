"""State that no `state_dict` holds: attributes of user objects that change during training.

Examples are a LightningModule's replay buffer, a sampler's NumPy generator and a callback's counter, which PyTorch
and Lightning don't save. Changes since the start of training are found by comparison, and saved if they consist of
plain values.
"""

import argparse
import collections
import contextlib
import copy
import ctypes
import dataclasses
import enum
import functools
import hashlib
import inspect
import io
import itertools
import pickle
import queue
import random
import sys
import types
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sized
from pathlib import PurePath
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import data as torch_data
from torchmetrics import Metric

from leyden.config.terminal import one_line
from leyden.exact.encoding import (
    ANYTHING,
    GENERATORS,
    KIND,
    MAX_ITEMS,
    OPAQUE_PACKAGES,
    PLAIN,
    SEPARATE,
    NotEncodableError,
    attribute_names,
    decode,
    digest_of_content,
    encode,
    has_state_dict,
    is_own,
    is_own_module,
)

# Attributes of a `DataLoader` that may hold state.
PARTS = ("dataset", "sampler", "batch_sampler", "collate_fn", "generator")

MAX_COMPARED = 10_000  # items; of a larger container, only a part is compared
MAX_TRAVERSED = 1000  # objects; a larger container is not traversed
MAX_PICKLED = 2**26  # bytes
MAX_REASON = 100  # characters of a message
MAX_WHOLE = 2**18  # bytes; of a larger tensor, only a part is compared, beside PyTorch's version counter

# Internal attributes of PyTorch and Lightning, except `training`, which a run can change.
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
C_DATA: tuple[Any, ...] = (ctypes.Array, ctypes.Structure, ctypes.c_int.__base__)
METHODS = (types.MethodType, types.BuiltinMethodType)
# Objects of the whole process, which no checkpoint changes. The states of generators, as behind
# `from random import shuffle`, are those of `random_states`.
OF_PROCESS = (
    getattr(random.shuffle, "__self__", None),
    torch.default_generator,
    *(getattr(sys, name) for name in ("argv", "meta_path", "modules", "path", "path_hooks", "path_importer_cache")),
)
# Classes of installed packages whose instances are traversed, as those of user packages are.
TRAVERSED = (nn.Module, torch_data.Dataset, torch_data.Sampler, types.SimpleNamespace, argparse.Namespace)


Path = tuple[tuple[str, Any], ...]  # steps ("attribute", name) or ("item", key)


@dataclasses.dataclass(frozen=True)
class _Snapshot:
    """A value at the start, and its digest; the reference keeps the value's memory address from being reused."""

    value: Any
    digest: Hashable


@dataclasses.dataclass(frozen=True)
class _Opaque:
    """Digest of a value that can't be inspected: its identity and length."""

    place: int
    length: int


@dataclasses.dataclass(frozen=True)
class _Pickled:
    """Digest of a value that is not made of plain values: the hash of its pickle."""

    digest: str


@dataclasses.dataclass(frozen=True)
class Closure:
    """Captured variables of a function."""

    function: types.FunctionType

    @property
    def values(self) -> list[Any]:
        """Captured variables that are plain values, generators, iterators or containers."""
        kinds = (*PLAIN, *GENERATORS, Iterator, list, dict, set, collections.deque)
        cells = [cell.cell_contents for cell in self.function.__closure__ or ()]
        return [each for each in cells if isinstance(each, kinds)]


class _Missing:
    """Placeholder for a value that could not be restored."""


class ObjectState:
    """Snapshot of objects' attributes, from which later changes are detected, saved and restored.

    Args:
        roots: The objects by name; traversed together with all objects that they hold.
        known: Returns objects whose state is saved elsewhere, such as parameters and metrics; they are skipped.
    """

    def __init__(self, roots: Mapping[str, Any], known: Callable[[], list[Any]] = list) -> None:
        self.roots, self.known = roots, known
        self._owners: dict[Path, Any] = {}  # objects traversed at the start
        self._items_at_start: dict[Path, list[Any]] = {}  # the objects that each container held
        self._snapshots: dict[Path, _Snapshot] = {}
        self._kept: set[Path] = set()  # restored or saved at least once
        self._unseen: dict[Path, str] = {}  # what can't be looked at, and why
        for path, value in self._leaves(is_start=True):
            self._snapshots[path] = _Snapshot(value, _digest(value))

    @property
    def unseen(self) -> list[str]:
        """Names of what can't be looked at, each with a reason."""
        return [f"{path_name(path)} ({why})" for path, why in self._unseen.items()]

    def changes(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Return the changes as tensors and plain values, and the names of what can't be saved, each with a reason.

        Other people's objects may raise anything when they are looked at; that is a reason, and no error.
        """
        kept: list[dict[str, Any]] = []
        lost, entry_by_id = [], dict[int, int]()
        for path, value in self._leaves():
            try:
                if self._has_changed(path, value, self._snapshots.get(path)):
                    self._add(kept, path, value, entry_by_id)
                    self._kept.add(path)
            except Exception as error:
                lost.append(f"{path_name(path)} ({reason(error)})")
        return kept, lost

    def values(self) -> list[dict[str, Any]]:
        """Return copies of all current values that can be saved, in the form of `changes`."""
        kept: list[dict[str, Any]] = []
        entry_by_id = dict[int, int]()
        for path, value in self._leaves():
            with contextlib.suppress(Exception):
                self._add(kept, path, value, entry_by_id)
        return copy.deepcopy(kept)

    def has(self, path: Path) -> bool:
        """Return whether the object that holds a path's last attribute or item was traversed at the start."""
        return path[:-1] in self._owners

    def holds(self, objects: Iterable[Any]) -> bool:
        """Return whether one of these objects was traversed at the start."""
        found = {id(owner) for owner in self._owners.values()}
        return any(id(each) in found for each in objects)

    def remove(self, paths: Iterable[Path]) -> None:
        """Delete attributes."""
        for path in paths:
            if self.has(path) and path[-1][0] == "attribute":
                with contextlib.suppress(Exception):
                    delattr(self._owners[path[:-1]], path[-1][1])

    def _add(self, kept: list[dict[str, Any]], path: Path, value: Any, entry_by_id: dict[int, int]) -> None:
        snapshot = self._snapshots.get(path)
        is_same = snapshot is not None and snapshot.value is value
        entry = {"path": [list(step) for step in path], "in_place": is_same and not isinstance(value, PLAIN)}
        if id(value) in entry_by_id:
            entry["same_as"] = entry_by_id[id(value)]
        else:
            entry["value"] = encode(value, snapshot.value if snapshot else None)
            if not isinstance(value, PLAIN):
                entry_by_id[id(value)] = len(kept)
        kept.append(entry)

    def restore(self, kept: list[dict[str, Any]]) -> list[str]:
        """Restore changes returned by `changes`, as far as these objects have such attributes.

        Returns:
            The names of what could not be restored, each with a reason.
        """
        made: list[Any] = []
        lost: list[str] = []
        known = self._known()  # skipped below; older checkpoints contain their state here, too
        ids = {id(each) for each in [*(known or ()), *OF_PROCESS] if type(each) not in PLAIN}
        for entry in kept:
            path = path_of(entry)
            value = _Missing
            try:
                owner = self._settable(path)
                here = _get(owner, path[-1])
                if id(here) in ids:
                    value = here
                    continue
                if "value" in entry:
                    value = decode(entry["value"], here, in_place=entry["in_place"])
                elif (value := made[entry["same_as"]]) is _Missing:
                    raise LookupError("it is shared with a value that can't be restored")
                if value is not here:
                    _set(owner, path[-1], value)
                self._kept.add(path)
            except Exception as error:
                lost.append(f"{path_name(path)} ({reason(error)})")
            finally:
                made.append(value)
        return lost

    def _settable(self, path: Path) -> Any:
        """Return the owner of a path's last attribute or item, if a checkpoint, maybe a stranger's, may set it.

        Only owners seen at the start count: a path reaches no others.

        Raises:
            AttributeError, LookupError: It may not.
        """
        owner, (kind, name) = self._owners[path[:-1]], path[-1]
        if path in self._snapshots:
            return owner
        if isinstance(owner, type | types.ModuleType):
            raise AttributeError("it was not a value")
        of_class = inspect.getattr_static(type(owner), str(name), None)
        is_slot = isinstance(of_class, types.MemberDescriptorType)
        is_taken = callable(of_class) or (hasattr(type(of_class), "__set__") and not is_slot)
        if kind == "attribute" and (is_taken or str(name).startswith("__") or name in _left_out(owner)):
            raise AttributeError("its class has something else of this name")
        return owner

    def reset(self, apart: Collection[Path]) -> bool:
        """Set plain values back to those of the start.

        Args:
            apart: Paths that are left as they are.

        Returns:
            False if a value that can't be set back has changed, too.
        """
        is_whole = True
        for path, value in list(self._leaves()):
            snapshot = self._snapshots.get(path)
            if path in apart or isinstance(value, GENERATORS) or (snapshot and snapshot.digest == _digest(value)):
                continue
            try:
                if not (snapshot and isinstance(snapshot.value, PLAIN)):
                    raise TypeError("it is no plain value")
                _set(self._owners[path[:-1]], path[-1], snapshot.value)
            except Exception:  # as of a read-only attribute
                is_whole = False
        return is_whole

    def differing(self, before: "ObjectState") -> list[str]:
        """Return the names of plain values, tensors and generators that differ from an earlier snapshot."""
        pairs = (
            (path, snapshot.digest, before._snapshots.get(path, snapshot).digest)
            for path, snapshot in self._snapshots.items()
        )
        opaque = (_Pickled, _Opaque)  # ignored, such as scratch memory
        unset = _digest(None)  # ignored, as it is computed at its first use
        return [
            path_name(path)
            for path, current, earlier in pairs
            if earlier not in (current, unset) and not isinstance(current, opaque)
        ]

    def changed_since(self, before: "ObjectState") -> set[Path]:
        """Return the paths of values that an earlier snapshot lacks, or of which it had another one."""
        earlier = {path: snapshot.digest for path, snapshot in before._snapshots.items()}
        return {path for path, each in self._snapshots.items() if earlier.get(path) != each.digest}

    def _has_changed(self, path: Path, value: Any, snapshot: _Snapshot | None) -> bool:
        if isinstance(value, Iterator) and not isinstance(value, io.IOBase):
            raise NotEncodableError("the position of an iterator is unknown")
        if _is_opaque_queue(value):
            raise NotEncodableError("the content of a queue is unknown")
        if (
            snapshot
            and isinstance(snapshot.digest, _Opaque)
            and (type(value).__module__.partition(".")[0] not in OPAQUE_PACKAGES or isinstance(value, Tensor))
        ):
            raise NotEncodableError("its content can't be inspected")
        if isinstance(value, Closure) and any(isinstance(each, Iterator) for each in value.values):
            raise NotEncodableError("the position of an iterator is unknown")
        if (
            snapshot is None
            and path[:-1] in self._owners
            and isinstance(self._owners[path[:-1]], type | types.ModuleType)
        ):
            raise NotEncodableError("it was not a value at the start, and can't be restored in a class or a module")
        if isinstance(value, GENERATORS):  # it may have been seeded from the clock
            return True
        return snapshot is None or path in self._kept or snapshot.digest != _digest(value)

    def _leaves(self, *, is_start: bool = False) -> Iterator[tuple[Path, Any]]:
        """Yield each attribute that holds a value, with its path.

        Covers the roots and all objects reachable from them, each object once.
        """
        if (known := self._known()) is None:
            return
        seen = {id(each) for each in [*known, *OF_PROCESS]}
        queue: list[tuple[Path, Any]] = [((), self.roots)]

        def enqueue(path: Path, owner: Any) -> None:
            seen.add(id(owner))  # an object held by two owners belongs to the first one found
            queue.append((path, owner))

        while queue:
            path, owner = queue.pop(0)
            parts, shared = self._parts_of(path, owner, is_start=is_start)
            for step, value in parts:
                value_path = (*path, step)
                if id(value) in seen and type(value) not in PLAIN:
                    continue
                if type(value) is types.FunctionType:
                    shared += _namespaces(value, is_root=not path)
                    if value.__closure__:
                        yield value_path, Closure(value)
                    continue
                try:
                    is_owner = self._is_owner(value_path, value, seen, is_start=is_start)
                    is_value = is_owner or _is_value(value)
                except Exception as error:  # a proxy may raise its own error, whatever it is asked for
                    self._unseen[value_path] = reason(error)
                    continue
                if is_owner:
                    enqueue(value_path, value)
                elif is_value:
                    yield value_path, value
            for name, each in shared:
                if id(each) not in seen:
                    enqueue((("item", name),), each)

    def _known(self) -> list[Any] | None:
        """Return the objects whose state is saved elsewhere; referenced by the caller, so that their ids stay valid."""
        try:
            return self.known()
        except Exception as error:
            self._unseen |= {(("item", name),): reason(error) for name in self.roots}
            return None

    def _parts_of(self, path: Path, owner: Any, *, is_start: bool) -> tuple[list[Any], list[tuple[str, Any]]]:
        """Return the attributes or items of an object, and what it shares with others."""
        try:
            parts, shared = [*_parts(owner)], [*_namespaces(owner, is_root=len(path) == 1)]
        except Exception as error:
            self._unseen[path] = reason(error)
            return [], []
        if is_start:
            self._owners[path], self._items_at_start[path] = owner, _separate_items(owner)
        return parts, shared

    def _is_owner(self, path: Path, value: Any, known: set[int], *, is_start: bool) -> bool:
        """Return whether a value is an object whose attributes or items are values of their own."""
        if len(path) == 1 and isinstance(value, L.Callback | type | types.ModuleType):
            return True
        is_traversed = _is_traversed(value) or _holds_known(value, known) or self._is_of_partial(path, value)
        return is_traversed and (is_start or self._is_same_object(path, value))

    def _is_of_partial(self, path: Path, value: Any) -> bool:
        """Return whether a value is the arguments of a partial, whose items alone can be restored."""
        is_argument = path[-1] in (("attribute", "args"), ("attribute", "keywords"))
        return is_argument and isinstance(self._owners.get(path[:-1]), functools.partial) and len(value) > 0

    def _is_same_object(self, path: Path, value: Any) -> bool:
        """Return whether an object has the class of the start; a container must also hold the same objects."""
        if path not in self._owners or type(self._owners[path]) is not type(value):
            return False
        before_items, current_items = self._items_at_start[path], _separate_items(value)
        return len(before_items) == len(current_items) and all(
            a is b for a, b in zip(before_items, current_items, strict=True)
        )


def _is_value(value: Any) -> bool:
    return not isinstance(value, (*CONSTANTS, *SEPARATE)) and not callable(value)


def _separate_items(owner: Any) -> list[Any]:
    """Return a container's items that are traversed or restored separately; an empty list for other objects."""
    if not isinstance(owner, list | tuple | dict):
        return []
    return [each for each in (owner.values() if isinstance(owner, dict) else owner) if _is_separate(each)]


def _is_traversed(value: Any) -> bool:
    """Return whether an object, or a container of objects, is traversed; otherwise it is a value."""
    if isinstance(value, list | tuple | dict) and 0 < len(value) <= MAX_ITEMS:
        if isinstance(value, dict) and not all(isinstance(key, str | int) for key in value):
            return False
        return len(value) <= MAX_TRAVERSED and any(
            map(_is_separate, value.values() if isinstance(value, dict) else value)
        )
    if isinstance(value, types.BuiltinMethodType):  # as `random.Random(0).random`; most are functions of a module
        return isinstance(value.__self__, GENERATORS)
    if isinstance(value, types.MethodType | functools.partial | torch_data.DataLoader):
        return True
    if isinstance(value, (*PLAIN, *CONSTANTS, *SEPARATE, *GENERATORS, Tensor, np.ndarray, Iterator)):
        return False
    if isinstance(value, TRAVERSED):
        return True
    if is_pandas(value):  # it caches what it computes in attributes
        return False
    if has_state_dict(value):
        return False
    package = type(value).__module__.partition(".")[0]
    return (
        package not in OPAQUE_PACKAGES
        and bool(attribute_names(value))
        and not isinstance(value, tuple | list | dict | set)
    )


def _holds_known(value: Any, known: set[int]) -> bool:
    """Return whether a container holds objects saved elsewhere, as an LSTM's list of its weights does.

    Such a container is not rebuilt from copies.
    """
    if not isinstance(value, list | tuple | dict) or len(value) > MAX_TRAVERSED:
        return False
    parts = value.values() if isinstance(value, dict) else value
    return any(id(part) in known for part in parts if not isinstance(part, PLAIN))


def _is_separate(value: Any) -> bool:
    """Return whether a container's item is handled separately, since its state can be restored only in place."""
    try:
        return _is_traversed(value) or isinstance(value, (types.FunctionType, *GENERATORS)) or has_state_dict(value)
    except Exception:  # a proxy may raise its own error, whatever it is asked for
        return False


def _namespaces(owner: Any, *, is_root: bool) -> Iterator[tuple[str, Any]]:
    """Yield what an object or function shares with others: its classes, and the modules that define them.

    Those of installed packages are skipped, unless they define a root.
    """
    kinds = [owner] if isinstance(owner, types.FunctionType) else type(owner).__mro__
    for kind in kinds:
        module = sys.modules.get(kind.__module__)
        is_foreign = is_root and kind.__module__.partition(".")[0] not in {
            *OPAQUE_PACKAGES,
            "torchmetrics",
            "leyden",
        }
        if module and (is_foreign or is_own_module(kind.__module__, module)):
            if kind is not owner:
                yield f"{kind.__module__}.{kind.__qualname__}", kind
            yield kind.__module__, module


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
    elif isinstance(owner, METHODS):
        if isinstance(owner.__self__, (*TRAVERSED, *GENERATORS)) or is_own(type(owner.__self__)):
            yield ("attribute", "__self__"), owner.__self__
    elif isinstance(owner, torch_data.DataLoader):
        yield from (
            (("attribute", name), part) for name in PARTS if (part := getattr(owner, name, None)) is not None
        )
    elif isinstance(owner, functools.partial):
        yield from ((("attribute", name), getattr(owner, name)) for name in ("func", "args", "keywords"))
    else:
        left_out = _left_out(owner)
        for name in attribute_names(owner):
            if name not in left_out and hasattr(owner, name):
                yield ("attribute", name), getattr(owner, name)
        if isinstance(owner, nn.Module):
            for group in ("_parameters", "_buffers", "_modules"):
                yield from ((("attribute", name), value) for name, value in getattr(owner, group).items())


def _left_out(owner: Any) -> set[str]:
    """Return the names of attributes that are PyTorch's and Lightning's own."""
    left_out = OF_MODULES if isinstance(owner, nn.Module) else set()
    return left_out | OF_LIGHTNING if isinstance(owner, L.LightningModule | L.LightningDataModule) else left_out


def _get(owner: Any, step: tuple[str, Any]) -> Any:
    """Return the value at a step from an owner, None if there is none; a `__getattr__` of its class is not asked."""
    kind, key = step
    if kind == "item":
        return owner[key] if not isinstance(owner, dict) or key in owner else None
    if isinstance(owner, (type, types.ModuleType, functools.partial, torch_data.DataLoader, *METHODS)):
        return getattr(owner, key, None)
    of_module = (owner._parameters, owner._buffers, owner._modules) if isinstance(owner, nn.Module) else ()
    found = next((group for group in of_module if key in group), None)
    return found[key] if found is not None else getattr(owner, key) if key in attribute_names(owner) else None


def _set(owner: Any, step: tuple[str, Any], value: Any) -> None:
    kind, key = step
    if kind == "item":
        owner[key] = value
    elif isinstance(here := _get(owner, step), nn.Parameter) and isinstance(value, Tensor):
        here.data.copy_(value)
    elif isinstance(owner, nn.Module | type | types.ModuleType):
        setattr(owner, key, value)
    else:
        object.__setattr__(owner, key, value)  # the class may be frozen, or have a `__setattr__` of its own


def path_of(entry: dict[str, Any]) -> Path:
    """Return the path of an entry of `ObjectState.changes`."""
    return tuple((str(kind), key) for kind, key in entry["path"])


def entry_name(entry: dict[str, Any]) -> str:
    """Return the name of an entry of `ObjectState.changes`."""
    return path_name(path_of(entry))


def selected(kept: list[dict[str, Any]], wanted: Callable[[Path], bool]) -> list[dict[str, Any]]:
    """Return the entries of `ObjectState.changes` with wanted paths.

    An entry whose value is shared with an omitted entry gets a copy of the value.
    """
    found: list[dict[str, Any]] = []
    entry_by_id = dict[int, int]()
    for n, entry in enumerate(kept):
        if not wanted(path_of(entry)):
            continue
        first = entry.get("same_as", n)
        part = {"path": entry["path"], "in_place": entry["in_place"]}
        found.append(
            part | ({"same_as": entry_by_id[first]} if first in entry_by_id else {"value": kept[first]["value"]})
        )
        entry_by_id.setdefault(first, len(found) - 1)
    return found


def digests(kept: list[dict[str, Any]]) -> dict[Path, str]:
    """Return a digest of each value of `ObjectState.values`; a tensor's device is ignored."""
    found = {}
    for entry in kept:
        value = kept[entry["same_as"]]["value"] if "same_as" in entry else entry["value"]
        is_tensor = isinstance(value, dict) and value.get(KIND) == "tensor"
        try:
            found[path_of(entry)] = digest_of_content(value["values"] if is_tensor else value)
        except Exception:  # of a tensor whose bytes can't be read; equal to no other digest
            found[path_of(entry)] = str(id(value))
    return found


def is_generator(entry: dict[str, Any]) -> bool:
    """Return whether an entry is the state of a random generator."""
    value = entry.get("value")
    return isinstance(value, dict) and value.get(KIND) == "generator"


def path_name(path: Path) -> str:
    """Return a path in dotted notation, such as `module.buffer` or `train.sampler.rng`."""
    text = "".join(
        f".{key}" if kind == "attribute" or n == 0 else f"[{key!r}]" for n, (kind, key) in enumerate(path)
    )
    return text.removeprefix(".")


def reason(error: Exception) -> str:
    """Return an error as a short reason: its class, and its first line."""
    text = one_line(str(error).partition("\n")[0])
    if isinstance(error, NotEncodableError):
        return text
    return f"{type(error).__name__}: {text[:MAX_REASON]}" if text else type(error).__name__


def _digest(value: Any) -> Hashable:
    """Return a digest that changes with the value."""
    try:
        if isinstance(value, Tensor):
            return tuple(map(_tensor_digest, _strided(value)))
        if isinstance(value, queue.Queue):
            return _digest([*value.queue])
        if isinstance(value, Closure):
            return tuple(map(_digest, value.values))
        if isinstance(value, Iterator):
            return repr(value) if isinstance(value, itertools.count) else _Opaque(id(value), 0)
        if is_pandas(value) and (digest := _pandas_digest(value)):
            return digest
        with contextlib.suppress(NotEncodableError):
            return digest_of_content(encode(_subsample(value), ANYTHING))
        return _pickled_digest(value)
    except Exception:  # user code may raise anything
        return _Opaque(id(value), 0)


def _pickled_digest(value: Any) -> Hashable:
    sha = _HashWriter()
    try:
        pickle.Pickler(sha, 5, buffer_callback=sha.write_buffer).dump(value)
    except Exception:
        memory = value.get_obj() if hasattr(value, "get_obj") else value  # as of `multiprocessing.Value`
        if isinstance(memory, C_DATA):
            sha.digest.update(memory)
        elif not sha.is_full:
            return _Opaque(id(value), len(value) if isinstance(value, Sized) else 0)
    return _Pickled(sha.digest.hexdigest())


def _strided(value: Tensor) -> list[Tensor]:
    """Return the strided tensors that a tensor consists of: a sparse or nested one has several."""
    if value.is_nested:
        return [*value.unbind()]
    if value.layout == torch.sparse_coo:
        return [value._indices(), value._values()]
    if value.layout == torch.strided:
        return [value]
    by_row = value.layout in (torch.sparse_csr, torch.sparse_bsr)
    indices = [value.crow_indices(), value.col_indices()] if by_row else [value.ccol_indices(), value.row_indices()]
    return [*indices, value.values()]


def _tensor_digest(value: Tensor) -> Hashable:
    """Return address and version of a tensor, and a hash of its bytes, since `.data` is written without a new version."""
    version = 0 if value.is_inference() else value._version
    digest = tuple(value.shape), str(value.dtype), value.device.type, version
    if value.device.type == "meta":
        return digest
    part = value.detach()
    for dim in range(part.dim()):  # a view, since a large tensor may be stored as a single number
        if (excess := part.numel() * part.element_size() // MAX_WHOLE) > 1:
            part = part[(slice(None),) * dim + (slice(None, None, min(excess, part.shape[dim])),)]
    return *digest, value.data_ptr(), digest_of_content(part.resolve_conj().resolve_neg())


def digest_for_others(value: Any) -> str:
    """Return a digest of a value that other processes can compare; its class name if its content can't be inspected."""
    digest = _digest(value)
    return type(value).__name__ if isinstance(digest, _Opaque) else repr(digest)


def _is_opaque_queue(value: Any) -> bool:
    """Return whether a value is a queue whose content can't be seen, as one that processes share."""
    is_package = type(value).__module__.startswith(("multiprocessing.", "torch.multiprocessing.", "_queue"))
    return is_package and hasattr(value, "put")


def is_pandas(value: Any) -> bool:
    """Return whether a value is a frame, a series or an index of pandas, which may not be installed."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame | pandas.Series | pandas.Index)


def _pandas_digest(value: Any) -> str | None:
    """Return a digest of the values and names of a frame, a series or an index; None if pandas can't hash them.

    A hash of the pickle would change with values that pandas caches.
    """
    step = max(1, len(value) // MAX_COMPARED)
    pandas = sys.modules["pandas"]
    part = value[::step] if isinstance(value, pandas.Index) else value.iloc[::step]
    try:
        hashed = pandas.util.hash_pandas_object(part).to_numpy().tobytes()
    except Exception:  # an item or an extension array may have no hash
        return None
    columns = (
        [(str(name), str(kind)) for name, kind in value.dtypes.items()] if value.ndim == 2 else str(value.dtype)
    )
    return hashlib.sha256(hashed + repr((value.shape, columns)).encode()).hexdigest()


class _HashWriter:
    """File-like object that keeps only a hash; it stops after the first `MAX_PICKLED` bytes."""

    def __init__(self) -> None:
        self.digest, self.size, self.is_full = hashlib.sha256(), 0, False

    def write(self, content: Any) -> None:
        self.digest.update(content[: MAX_PICKLED + 1])
        self.size += len(content)
        self.is_full = self.size > MAX_PICKLED
        if self.is_full:
            raise OverflowError

    def write_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Hash a buffer without a copy; return True for one that has to be copied."""
        try:
            content = buffer.raw()
        except BufferError:
            return True
        self.write(content)
        return False


def _subsample(value: Any) -> Any:
    """Return an evenly spaced part of a large value.

    A change of a single item among many thousands may therefore go unnoticed.
    """
    if isinstance(value, np.ndarray) and value.nbytes > MAX_COMPARED * 100:
        return value.reshape(-1)[:: value.size // MAX_COMPARED]
    if isinstance(value, list | tuple | set | frozenset | collections.deque) and len(value) > MAX_COMPARED:
        return [len(value), *list(value)[:: len(value) // 1000]]
    if isinstance(value, dict) and len(value) > MAX_COMPARED:
        return [len(value), *list(value.items())[:: len(value) // 1000]]
    return value


def saved_elsewhere(trainer: L.Trainer, module: L.LightningModule) -> list[Any]:
    """Return the trainer, and the weights, buffers, metrics, optimizers and schedules of the module in training."""
    optimizers = [*trainer.optimizers, *(each.scheduler for each in trainer.lr_scheduler_configs)]
    return [trainer, *weights_and_metrics(module), *optimizers]


def weights_and_metrics(module: L.LightningModule) -> list[Any]:
    """Return the weights, buffers and metrics of a module."""
    metrics = [part for _, metric in metrics_of(module) for part in metric.modules()]
    return [*module.parameters(), *module.state_dict(keep_vars=True).values(), *metrics]


def metrics_of(module: L.LightningModule) -> list[tuple[str, Metric]]:
    """Return the torchmetrics metrics of a module, with their names."""
    return [(name, metric) for name, metric in module.named_modules() if isinstance(metric, Metric)]
