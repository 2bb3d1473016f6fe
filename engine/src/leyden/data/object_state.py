"""State that no `state_dict` holds: attributes of user objects that change during training.

Examples are a LightningModule's replay buffer, a sampler's NumPy generator and a callback's counter, which PyTorch
and Lightning don't save. Changes since the start of training are found by comparison, and saved if they consist of
plain values.
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
from torchmetrics import Metric

from leyden.data.encoding import (
    GENERATORS,
    KIND,
    MAX_ITEMS,
    OPAQUE_PACKAGES,
    PLAIN,
    SEPARATE,
    NotEncodableError,
    attribute_names,
    decode,
    encode,
    has_state_dict,
)
from leyden.data.files import digest_of_content

# Attributes of a `DataLoader` that may hold state.
PARTS = ("dataset", "sampler", "batch_sampler", "collate_fn", "generator")

MAX_COMPARED = 10_000  # items; of a larger container, only a part is compared
MAX_TRAVERSED = 1000  # objects; a larger container is not traversed
MAX_PICKLED = 2**26  # bytes

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
# Classes of installed packages whose instances are traversed, as those of user packages are.
TRAVERSED = (nn.Module, torch_data.Dataset, torch_data.Sampler, types.SimpleNamespace, argparse.Namespace)

INSTALL_DIRECTORIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})

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
class _Closure:
    """Captured variables of a function."""

    function: types.FunctionType

    @property
    def values(self) -> list[Any]:
        """Captured variables that are plain values, generators, iterators or containers."""
        kinds = (*PLAIN, *GENERATORS, Iterator, list, dict, set, collections.deque)
        cells = [cell.cell_contents for cell in self.function.__closure__ or ()]
        return [each for each in cells if isinstance(each, kinds)]


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
        for path, value in self._leaves(is_start=True):
            self._snapshots[path] = _Snapshot(value, _digest(value))

    def changes(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Return the changes as tensors and plain values, and the names of changes that can't be saved."""
        kept: list[dict[str, Any]] = []
        lost, entry_by_id = [], dict[int, int]()
        for path, value in self._leaves():
            try:
                if self._has_changed(path, value, self._snapshots.get(path)):
                    self._add(kept, path, value, entry_by_id)
                    self._kept.add(path)
            except NotEncodableError:
                lost.append(path_name(path))
        return kept, lost

    def values(self) -> list[dict[str, Any]]:
        """Return copies of all current values that can be saved, in the form of `changes`."""
        kept: list[dict[str, Any]] = []
        entry_by_id = dict[int, int]()
        for path, value in self._leaves():
            with contextlib.suppress(NotEncodableError):
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
                with contextlib.suppress(AttributeError):
                    delattr(self._owners[path[:-1]], path[-1][1])

    def _add(self, kept: list[dict[str, Any]], path: Path, value: Any, entry_by_id: dict[int, int]) -> None:
        snapshot = self._snapshots.get(path)
        is_same = snapshot is not None and snapshot.value is value
        entry = {"path": [list(step) for step in path], "in_place": is_same and not isinstance(value, PLAIN)}
        if id(value) in entry_by_id:
            entry["same_as"] = entry_by_id[id(value)]
        else:
            entry["value"] = encode(value)
            if not isinstance(value, PLAIN):
                entry_by_id[id(value)] = len(kept)
        kept.append(entry)

    def restore(self, kept: list[dict[str, Any]]) -> None:
        """Restore changes returned by `changes`.

        Raises:
            ValueError: These objects have no such attributes.
        """
        made: list[Any] = []
        known = self.known()  # skipped below; older checkpoints contain their state here, too
        ids = {id(each) for each in known if not isinstance(each, PLAIN)}
        for entry in kept:
            path = path_of(entry)
            try:
                if str(path[-1][1]).startswith("__"):
                    raise AttributeError("it is a special attribute of Python")
                owner = self._owners[
                    path[:-1]
                ]  # only objects seen at the start: a path from an untrusted checkpoint reaches no others
                if isinstance(owner, type | types.ModuleType) and path not in self._snapshots:
                    raise AttributeError("it was not a value")
                here = _get(owner, path[-1], None)
                if id(here) in ids:
                    made.append(here)
                    continue
                value = made[entry["same_as"]] if "same_as" in entry else None
                if value is None:
                    value = decode(entry["value"], here, in_place=entry["in_place"])
                made.append(value)
                if value is not here:
                    _set(owner, path[-1], value)
            except (AttributeError, LookupError, TypeError) as error:
                raise ValueError(
                    f"{path_name(path)} can't be restored ({type(error).__name__}: {error})"
                ) from error
            self._kept.add(path)

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
            if snapshot and isinstance(snapshot.value, PLAIN):
                _set(self._owners[path[:-1]], path[-1], snapshot.value)
            else:
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

    def _has_changed(self, path: Path, value: Any, snapshot: _Snapshot | None) -> bool:
        if isinstance(value, Iterator) and not isinstance(value, io.IOBase):
            raise NotEncodableError("the position of an iterator is unknown")
        if (
            snapshot
            and isinstance(snapshot.digest, _Opaque)
            and type(value).__module__.partition(".")[0] not in OPAQUE_PACKAGES
        ):
            raise NotEncodableError("its content can't be inspected")
        if isinstance(value, _Closure) and any(isinstance(each, Iterator) for each in value.values):
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
        known = self.known()  # referenced, so that the ids below stay valid
        seen = {id(each) for each in known}
        queue: list[tuple[Path, Any]] = [((), self.roots)]

        def enqueue(path: Path, owner: Any) -> None:
            seen.add(id(owner))  # an object held by two owners belongs to the first one found
            queue.append((path, owner))

        while queue:
            path, owner = queue.pop(0)
            if is_start:
                self._owners[path], self._items_at_start[path] = owner, _separate_items(owner)
            shared = [*_namespaces(owner, is_root=len(path) == 1)]
            for step, value in _parts(owner):
                value_path = (*path, step)
                if id(value) in seen and not isinstance(value, PLAIN):
                    continue
                if isinstance(value, types.FunctionType):
                    shared += _namespaces(value, is_root=not path)
                    if value.__closure__:
                        yield value_path, _Closure(value)
                elif (isinstance(value, L.Callback | type | types.ModuleType) and not path) or (
                    (_is_traversed(value) or _holds_known(value, seen))
                    and (is_start or self._is_same_object(value_path, value))
                ):
                    enqueue(value_path, value)
                elif not isinstance(value, (*CONSTANTS, *SEPARATE)) and not callable(value):
                    yield value_path, value
            for name, each in shared:
                if id(each) not in seen:
                    enqueue((("item", name),), each)

    def _is_same_object(self, path: Path, value: Any) -> bool:
        """Return whether an object has the class of the start; a container must also hold the same objects."""
        if path not in self._owners or type(self._owners[path]) is not type(value):
            return False
        before_items, current_items = self._items_at_start[path], _separate_items(value)
        return len(before_items) == len(current_items) and all(
            a is b for a, b in zip(before_items, current_items, strict=True)
        )


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
    return _is_traversed(value) or isinstance(value, (types.FunctionType, *GENERATORS)) or has_state_dict(value)


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
        if module and (is_foreign or _is_own(kind.__module__, module)):
            if kind is not owner:
                yield f"{kind.__module__}.{kind.__qualname__}", kind
            yield kind.__module__, module


def _is_own(name: str, module: Any) -> bool:
    """Return whether a module is neither the library's nor of an installed package."""
    file: str | None = getattr(module, "__file__", None)
    return file is not None and not file.startswith(INSTALL_DIRECTORIES) and name.partition(".")[0] != "leyden"


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
    elif isinstance(owner, torch_data.DataLoader):
        yield from (
            (("attribute", name), part) for name in PARTS if (part := getattr(owner, name, None)) is not None
        )
    elif isinstance(owner, functools.partial):
        yield from ((("attribute", name), getattr(owner, name)) for name in ("func", "args", "keywords"))
    else:
        left_out = OF_MODULES if isinstance(owner, nn.Module) else set()
        if isinstance(owner, L.LightningModule | L.LightningDataModule):
            left_out = left_out | OF_LIGHTNING
        for name in attribute_names(owner):
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
        object.__setattr__(owner, key, value)  # the class may be frozen
    else:
        setattr(owner, key, value)


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
        found[path_of(entry)] = digest_of_content(value["values"] if is_tensor else value)
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


def _digest(value: Any) -> Hashable:
    """Return a digest that changes with the value; for a tensor, its address and PyTorch's version counter."""
    if isinstance(value, Tensor):
        where = value.data_ptr() if value.device.type != "meta" else 0
        return where, value._version, tuple(value.shape), str(value.dtype)
    if isinstance(value, _Closure):
        return tuple(map(_digest, value.values))
    if isinstance(value, Iterator):
        return repr(value) if isinstance(value, itertools.count) else _Opaque(id(value), 0)
    if is_pandas(value) and (digest := _pandas_digest(value)):
        return digest
    try:
        return digest_of_content(encode(_subsample(value)))
    except NotEncodableError:
        pass
    sha = _HashWriter()
    try:  # without copies of buffers
        pickle.Pickler(sha, 5, buffer_callback=lambda buffer: None).dump(value)
    except Exception:  # user code may raise anything
        if not sha.is_full:
            return _Opaque(id(value), len(value) if isinstance(value, Sized) else 0)
    return _Pickled(sha.digest.hexdigest())


def digest_for_others(value: Any) -> str:
    """Return a digest of a value that other processes can compare; its class name if its content can't be inspected."""
    digest = _digest(value)
    return type(value).__name__ if isinstance(digest, _Opaque) else repr(digest)


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

    def write(self, content: bytes) -> None:
        self.digest.update(content)
        self.size += len(content)
        self.is_full = self.size > MAX_PICKLED
        if self.is_full:
            raise OverflowError


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
