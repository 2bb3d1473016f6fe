"""Objects' own attributes, which no `state_dict` has: compared, kept and restored.

Only the objects that it is given are looked at, and what they own: their submodules, nested datasets and samplers, objects
of the user's own classes, and those with a `state_dict`. What belongs to a class, a file, a closure or an installed package
is not; `stop.py` announces what comes of it.
"""

import argparse
import collections
import contextlib
import enum
import inspect
import io
import random
import sys
import sysconfig
import types
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import PurePath
from pickle import Pickler
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.utilities.data import AttributeDict
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torchmetrics import Metric

from leyden.exact.digest import PLAIN, attribute_names, digest, strided

MAX_WHOLE = 2**24  # bytes; of a larger tensor or array, a part is compared
MAX_BYTES = 2**28  # of a value that a checkpoint holds
MAX_ITEMS = 200_000  # of a container that a checkpoint holds
MAX_SHARED = 10_000  # of a container that is kept without a change
MAX_TRAVERSED = 1000  # items; the objects in a larger container are not looked at
MAX_DEPTH = 20
MAX_REASON = 100  # characters

# Attributes of PyTorch and Lightning, except `training` and `_hparams`, which a run can change.
OF_MODULES = {*vars(nn.Module())} - {"training"}
OF_LIGHTNING = {*vars(L.LightningModule()), *vars(L.LightningDataModule())} - {"training", "_hparams"}
INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
OWNERS = (nn.Module, Dataset, Sampler, types.SimpleNamespace, argparse.Namespace)
# Objects that are the trainer's, or have their own entry.
SEPARATE = (L.Trainer, L.Callback, L.pytorch.loggers.Logger, L.pytorch.strategies.Strategy, DataLoader)
CONTAINERS = (dict, list, tuple, set, frozenset, collections.deque)
SHARED = (dict, list, set, collections.deque)
BUILT_IN = (*CONTAINERS, collections.OrderedDict, collections.Counter, collections.defaultdict, torch.Size)
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
BIT_GENERATORS = (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)

FACTORIES = (None, int, float, list, dict, set, bool, str)  # of a `defaultdict`
Path = tuple[tuple[str, Any], ...]  # steps ("attribute", name) or ("item", key)


class NotKeptError(ValueError):
    """A value that a checkpoint can't hold, with the reason."""


class Memory:
    """The attributes of objects at the start, from which later changes are found, kept and restored.

    Args:
        roots: The objects by name.
        known: Returns objects whose state is saved elsewhere, such as parameters and metrics; they are skipped.
    """

    def __init__(self, roots: Mapping[str, Any], known: Callable[[], Iterable[Any]] = list) -> None:
        self.roots, self._known = roots, known
        self.unseen: dict[str, str] = {}  # names of what can't be looked at, and why
        self._owners: dict[Path, Any] = {}
        self._restored: set[Path] = set()  # kept once, so kept from then on
        # The values themselves are kept, too, so that no address is used again.
        self._start: dict[Path, tuple[Any, str]] = {}
        for path, value in self._leaves():
            self._start[path] = (value, _digest(value))

    def keep_shared(self, others: Iterable[Any]) -> None:
        """Keep small containers that other objects have as attributes, too, even while nothing in them changes.

        Those objects' memory restores them to another moment than this one's, such as a replay buffer that a module fills
        and a dataset draws from.
        """
        shared = {id(value) for each in others for value in vars(each).values() if type(value) in SHARED}
        for path, (value, _) in self._start.items():
            if id(value) in shared and len(value) <= MAX_SHARED:
                with contextlib.suppress(Exception):  # it can't be kept, which is announced if it changes
                    _check_kept(value)
                    self._restored.add(path)

    @property
    def digests(self) -> dict[Path, str]:
        """The digest of each value at the start."""
        return {path: each for path, (_, each) in self._start.items()}

    def changes(self) -> tuple[Tensor, list[str]]:
        """Return what has changed, as a tensor of bytes, and names of what a checkpoint can't hold, each with a reason."""
        return self._keep(self._has_changed)

    def values(self, paths: Collection[Path] | None = None) -> Tensor:
        """Return all values that a checkpoint can hold, or those at some paths, as a tensor of bytes."""
        return self._keep(lambda path, value: paths is None or path in paths)[0]

    def _keep(self, is_wanted: Callable[[Path, Any], bool]) -> tuple[Tensor, list[str]]:
        kept: dict[Path, tuple[str, Any]] = {}
        lost = []
        for path, value in self._leaves():
            try:
                if is_wanted(path, value):
                    kept[path] = self._kept(path, value)
                    self._restored.add(path)
            except Exception as error:  # other people's objects may raise anything
                lost.append(f"{path_name(path)} ({reason(error)})")
        try:
            return _freeze(kept), lost
        except Exception:  # of one value, which is found and left out
            for path, each in [*kept.items()]:
                try:
                    _freeze({path: each})
                except Exception as error:
                    lost.append(f"{path_name(path)} ({reason(error)})")
                    del kept[path]
            return _freeze(kept), lost

    def _has_changed(self, path: Path, value: Any) -> bool:
        if _is_generator(value) or isinstance(value, Iterator):  # one from the clock, one of an unknown position
            return True
        if path in self._restored or path not in self._start:
            return True
        return self._start[path][1] != _digest(value)

    def _kept(self, path: Path, value: Any) -> tuple[str, Any]:
        """Return how a value is restored, and the value as the checkpoint holds it."""
        if path[:-1] not in self._owners:
            raise NotKeptError("its owner was first made in training")
        if path in self._owners and _is_owner(value):
            raise NotKeptError(f"a {type(value).__name__} that was first made in training")
        if _is_generator(value):
            if type(value) not in GENERATORS and path not in self._start:
                raise NotKeptError("a generator of a class of its own, first made in training")
            return "generator", _generator_state(value)
        if has_state_dict(value):
            state = value.state_dict()
            _check_kept(state)
            return "state_dict", state
        is_same = path in self._start and self._start[path][0] is value
        kind = type(value)
        is_made = kind in BUILT_IN and getattr(value, "default_factory", None) in FACTORIES
        if isinstance(value, CONTAINERS) and not (is_made or _is_named(kind)):
            if not is_same or not _is_refillable(kind):
                raise NotKeptError(f"a {kind.__name__}")
            value = dict(value) if isinstance(value, dict) else list(value)
            _check_kept(value)
            return "items", value
        _check_kept(value)
        return "in place" if is_same else "value", value

    def restore(
        self, kept: Tensor, is_wanted: Callable[[Path], bool] = lambda path: True, *, with_generators: bool = True
    ) -> list[str]:
        """Restore what `changes` or `values` returned, as far as these objects have such attributes.

        Nothing is made but plain values: attributes of objects that stand here are set.

        Returns:
            The names of what could not be restored, each with a reason.
        """
        try:
            content: dict[Path, tuple[str, Any]] = _thaw(kept)
            known = {id(each) for each in self._known()}
        except Exception as error:
            return [f"{', '.join(self.roots)} ({reason(error)})"]
        used: dict[int, Any] = {}  # by the id of a value in the checkpoint: two attributes may share it
        lost = []
        for path, (how, value) in content.items():
            if not is_wanted(path) or (how == "generator" and not with_generators):
                continue
            try:
                owner = self._settable(path)
                here = _get(owner, path[-1])
                if type(here) not in PLAIN and (id(here) in known or _holds(here, known)):
                    continue
                if id(value) not in used:
                    used[id(value)] = _restored(how, value, here)
                if used[id(value)] is not here:
                    _set(owner, path[-1], used[id(value)])
                self._restored.add(path)
            except Exception as error:
                lost.append(f"{path_name(path)} ({reason(error)})")
        return lost

    def has(self, path: Path) -> bool:
        """Return whether the object that holds a path's last attribute or item is one of these."""
        return path[:-1] in self._owners

    def changed_since(self, before: "Memory") -> set[Path]:
        """Return the paths of values that an earlier memory lacks, or had otherwise."""
        return {path for path, each in self.digests.items() if before.digests.get(path) != each}

    def remove_new(self, before: "Memory", kept: Tensor, stay: Collection[Path]) -> None:
        """Remove attributes that came after a checkpoint: an earlier memory and the checkpoint lack them.

        What no checkpoint could hold stays.
        """
        old = {*before.digests, *_thaw(kept), *stay}
        for path, (value, _) in self._start.items():
            if path in old or not before.has(path) or path[-1][0] != "attribute":
                continue
            with contextlib.suppress(NotKeptError, AttributeError):
                self._kept(path, value)
                delattr(self._owners[path[:-1]], path[-1][1])

    def _settable(self, path: Path) -> Any:
        """Return the owner of a path's last attribute or item, if a checkpoint, maybe a stranger's, may set it.

        Raises:
            AttributeError, LookupError: It may not.
        """
        owner, (kind, name) = self._owners[path[:-1]], path[-1]
        if path in self._start:
            return owner
        of_class = inspect.getattr_static(type(owner), str(name), None)
        is_slot = isinstance(of_class, types.MemberDescriptorType)
        is_taken = callable(of_class) or (hasattr(type(of_class), "__set__") and not is_slot)
        if kind == "attribute" and (is_taken or str(name).startswith("__") or name in _left_out(owner)):
            raise AttributeError("its class has something else of this name")
        return owner

    def _leaves(self) -> Iterator[tuple[Path, Any]]:
        """Yield the path and the value of each attribute; each owner once."""
        try:
            seen = {id(each) for each in self._known()}
        except Exception as error:
            self.unseen[", ".join(self.roots)] = reason(error)
            return
        queue: collections.deque[tuple[Path, Any]] = collections.deque()
        for name, root in self.roots.items():
            queue.append(((("attribute", name),), root))
            seen.add(id(root))
        is_start = not self._start
        while queue:
            path, owner = queue.popleft()
            if is_start:
                self._owners[path] = owner
            elif type(self._owners.get(path, owner)) is not type(owner):
                yield path, owner  # whose attributes fit no object that stands there when a run resumes
                continue
            for step, value in self._parts(path, owner):
                if id(value) in seen and type(value) not in PLAIN:
                    continue
                try:
                    is_owner = _is_owner(value)
                    is_value = not is_owner and _is_value(value, seen)
                except Exception as error:  # as of a dictionary that a thread changes
                    self.unseen[path_name((*path, step))] = reason(error)
                    continue
                if is_owner:
                    seen.add(id(value))
                    queue.append(((*path, step), value))
                elif is_value:
                    yield (*path, step), value

    def _parts(self, path: Path, owner: Any) -> list[tuple[tuple[str, Any], Any]]:
        """Return the attributes or items of an owner; none, if it raises when it is looked at."""
        try:
            return [*_parts(owner)]
        except Exception as error:
            self.unseen[path_name(path)] = reason(error)
            return []


def _is_owner(value: Any, depth: int = 0) -> bool:
    """Return whether the attributes or items of an object are looked at one by one.

    Its class is asked, and never the object: a proxy answers for another one, or raises.
    """
    kind = type(value)
    if issubclass(kind, list | tuple | dict):
        parts = value.values() if issubclass(kind, dict) else value
        is_small = len(value) <= MAX_TRAVERSED and depth < MAX_DEPTH
        return is_small and any(_is_owner(each, depth + 1) or _is_separate(each) for each in parts)
    if issubclass(
        kind, (*PLAIN, type, enum.Enum, Tensor, np.ndarray, np.generic, *CONTAINERS, *GENERATORS, *SEPARATE)
    ):
        return False
    if issubclass(kind, OWNERS):
        return True
    return not _has_state_dict(kind) and is_own(kind) and not issubclass(kind, Iterator)


def _is_separate(value: Any) -> bool:
    """Return whether an item of a container can only be restored in its place."""
    return _is_generator(value) or _has_state_dict(type(value))


def _is_value(value: Any, known: set[int]) -> bool:
    """Return whether a value may hold state; a container of objects that are saved elsewhere is not built from copies."""
    kind = type(value)
    if issubclass(kind, CONTAINERS):
        return not _holds(value, known)
    if issubclass(kind, SEPARATE):
        return False
    is_iterator = issubclass(kind, Iterator) and not issubclass(kind, io.IOBase)
    plain = (*PLAIN, enum.Enum, Tensor, np.ndarray, np.generic, *GENERATORS)
    return is_iterator or issubclass(kind, plain) or _has_state_dict(kind)


def _holds(value: Any, known: set[int]) -> bool:
    """Return whether a container holds objects that are saved elsewhere, as an LSTM's list of its weights does."""
    kind = type(value)
    if not issubclass(kind, CONTAINERS) or len(value) > MAX_TRAVERSED:
        return False
    parts = value.values() if issubclass(kind, dict) else value
    return any(id(each) in known and type(each) not in PLAIN for each in parts)


def is_own(kind: type) -> bool:
    """Return whether a class is of the user's project, and neither of an installed package nor of this library."""
    module = sys.modules.get(kind.__module__)
    file: str | None = getattr(module, "__file__", None)
    if kind.__module__ == "__main__" or (module and file is None and hasattr(module, "__builtins__")):
        return True  # also of a notebook
    if module is None or file is None or kind.__module__.partition(".")[0] == "leyden":
        return False
    return not file.startswith(INSTALLED) and {"site-packages", "dist-packages"}.isdisjoint(PurePath(file).parts)


def has_state_dict(value: Any) -> bool:
    """Return whether an object saves its own state, like an optimizer, and is no module, whose attributes are looked at."""
    return _has_state_dict(type(value))


def _has_state_dict(kind: type) -> bool:
    return not issubclass(kind, nn.Module | L.LightningDataModule | L.Callback | type) and all(
        callable(getattr(kind, name, None)) for name in ("state_dict", "load_state_dict")
    )


def _is_generator(value: Any) -> bool:
    return issubclass(type(value), GENERATORS)


def _parts(owner: Any) -> Iterator[tuple[tuple[str, Any], Any]]:
    """Yield the attributes or items of an owner."""
    kind = type(owner)
    if issubclass(kind, dict):
        yield from ((("item", key), value) for key, value in [*owner.items()] if type(key) in (*PLAIN, tuple))
    elif issubclass(kind, list | tuple):
        yield from ((("item", number), value) for number, value in enumerate([*owner]))
    else:
        left_out = _left_out(owner)
        for name in attribute_names(owner):
            with contextlib.suppress(AttributeError):  # an empty slot
                if name not in left_out:
                    yield ("attribute", name), object.__getattribute__(owner, name)
        if issubclass(kind, nn.Module):
            for group in (owner._parameters, owner._buffers, owner._modules):
                yield from ((("attribute", name), value) for name, value in group.items())


def _left_out(owner: Any) -> set[str]:
    """Return the names of attributes that are PyTorch's and Lightning's own."""
    left_out = OF_MODULES if issubclass(type(owner), nn.Module) else set()
    return (
        left_out | OF_LIGHTNING if issubclass(type(owner), L.LightningModule | L.LightningDataModule) else left_out
    )


def _get(owner: Any, step: tuple[str, Any]) -> Any:
    """Return the value at a step from an owner; None if there is none."""
    kind, key = step
    if kind == "item":
        return owner[key] if not issubclass(type(owner), dict) or key in owner else None
    of_module = (owner._parameters, owner._buffers, owner._modules) if issubclass(type(owner), nn.Module) else ()
    found = next((group for group in of_module if key in group), None)
    if found is not None:
        return found[key]
    return object.__getattribute__(owner, key) if key in attribute_names(owner) else None


def _set(owner: Any, step: tuple[str, Any], value: Any) -> None:
    kind, key = step
    if kind == "item":
        owner[key] = value
    elif issubclass(type(owner), nn.Module):
        setattr(owner, key, value)
    else:
        object.__setattr__(owner, key, value)  # the class may be frozen, or have a `__setattr__` of its own


def _restored(how: str, value: Any, here: Any) -> Any:
    """Return the value that an attribute gets: the object that stands there, if it can be set in place."""
    if how == "generator":
        return _restore_generator(here, *value)
    if how == "state_dict":
        if not has_state_dict(here):
            raise TypeError("no object with load_state_dict stands in its place")
        here.load_state_dict(value)
        return here
    of_kind = dict if isinstance(value, dict) else (list, set, collections.deque)
    if how == "items" and not (isinstance(here, of_kind) and _is_refillable(type(here))):
        raise TypeError(f"a {type(here).__name__} stands in its place")
    if how == "items" or (how == "in place" and type(here) is type(value) and hasattr(here, "clear")):
        here.clear()
        (here.update if isinstance(here, dict | set) else here.extend)(value)
        return here
    if isinstance(value, Tensor) and isinstance(here, Tensor):
        is_dense = not (here.is_sparse or here.is_nested or here.is_quantized) and here.layout == torch.strided
        is_alike = is_dense and here.shape == value.shape and here.dtype == value.dtype and 0 not in here.stride()
        if how == "in place" and is_alike and value.layout == torch.strided and not here.is_inference():
            here.detach().copy_(value)
            return here
        return value.to(here.device)
    is_array = isinstance(value, np.ndarray) and isinstance(here, np.ndarray) and here.flags.writeable
    if how == "in place" and is_array and here.shape == value.shape and here.dtype == value.dtype:
        here[...] = value
        return here
    return value


def _is_refillable(kind: type) -> bool:
    """Return whether a container of a class of its own may be emptied and filled again; a cache on a disk may not."""
    return hasattr(kind, "clear") and (kind in (collections.defaultdict, AttributeDict) or is_own(kind))


def _generator_state(generator: Any) -> tuple[str, Any]:
    if isinstance(generator, torch.Generator):
        return "torch.Generator", generator.get_state()
    if isinstance(generator, random.Random):
        return "Random", generator.getstate()
    if isinstance(generator, np.random.Generator):
        return type(generator.bit_generator).__name__, generator.bit_generator.state
    return "RandomState", generator.get_state(legacy=False)


def _restore_generator(here: Any, kind: str, state: Any) -> Any:
    if not _is_generator(here):  # first made in training
        made: dict[str, Callable[[], Any]] = {"torch.Generator": torch.Generator, "Random": random.Random}
        made |= {each.__name__: lambda each=each: np.random.Generator(each()) for each in BIT_GENERATORS}  # type: ignore[misc]
        here = (made | {"RandomState": np.random.RandomState})[kind]()
    if isinstance(here, torch.Generator):
        here.set_state(state)
    elif isinstance(here, random.Random):
        here.setstate(state)
    elif isinstance(here, np.random.Generator):
        here.bit_generator.state = state
    else:
        here.set_state(state)
    return here


def _digest(value: Any) -> str:
    """Return a digest that changes with the value; of an object that can't be looked into, with the object."""
    try:
        if has_state_dict(value):
            value = value.state_dict()
        if isinstance(value, Iterator):
            return ""  # its position is unknown
        written = f"{value._version}" if isinstance(value, Tensor) and not value.is_inference() else ""
        return written + digest(value, MAX_WHOLE, _of_object)
    except Exception:  # user code may raise anything
        return str(id(value))


def _of_object(value: Any) -> str:
    """Return what stands for an object that can't be looked into."""
    state = digest(_generator_state(value), None) if _is_generator(value) else ""
    return f"{type(value)} {id(value)} {state}"


def _check_kept(value: Any, depth: int = 0) -> None:
    """Check that a checkpoint can hold a value.

    Raises:
        NotKeptError: It can't.
    """
    kind = type(value)
    if depth > MAX_DEPTH:
        raise NotKeptError("it contains itself, or is nested too deeply")
    if issubclass(kind, Iterator):
        raise NotKeptError("the position of an iterator is unknown")
    if kind in (Tensor, nn.Parameter, np.ndarray) or issubclass(kind, np.generic):
        is_tensor = isinstance(value, Tensor)
        parts = strided(value) if is_tensor else [value]
        if sum(each.nbytes for each in parts) > MAX_BYTES or (is_tensor and value.is_meta):
            raise NotKeptError("too large, or without values")
        if issubclass(kind, np.ndarray) and value.dtype.hasobject:
            _check_kept(value.tolist(), depth + 1)
    elif kind in BUILT_IN or (_is_named(kind) and issubclass(kind, tuple)):
        if len(value) > MAX_ITEMS:
            raise NotKeptError("too many items")
        if kind is collections.defaultdict and value.default_factory not in FACTORIES:
            raise NotKeptError("a defaultdict with a function of its own")
        for each in [*value.items()] if isinstance(value, dict) else value:
            _check_kept(each, depth + 1)
    elif kind not in PLAIN and not _is_named(kind):
        raise NotKeptError(f"a {kind.__name__}")


def _is_named(kind: Any) -> bool:
    """Return whether a class is an enumeration, or a named tuple of the user's project; no code of it runs when it ends."""
    if issubclass(kind, enum.Enum):
        return True
    return issubclass(kind, tuple) and hasattr(kind, "_fields") and is_own(kind) and not hasattr(kind, "__del__")


def _array(raw: Tensor, kind: Any, shape: tuple[int, ...], order: Any) -> Any:
    """Return a NumPy array of bytes; NumPy's own way trusts a file with addresses of objects.

    Raises:
        ValueError: It would hold objects.
    """
    dtype = np.dtype(kind)
    if dtype.hasobject:
        raise ValueError("an array of objects")
    raw = torch.zeros_like(raw, device="cpu") if raw.is_meta else raw.cpu()  # only checked whether it can be read
    return np.frombuffer(raw.numpy().tobytes(), dtype).reshape(shape, order=order).copy(order=order)


def _objects(items: list[Any], shape: tuple[int, ...]) -> Any:
    """Return a NumPy array of objects."""
    made = np.empty(len(items), object)
    for n, each in enumerate(items):
        made[n] = each
    return made.reshape(shape)


def _scalar(raw: Tensor, kind: Any) -> Any:
    """Return a NumPy scalar."""
    return _array(raw, kind, (), "C")[()]


# What a checkpoint may name besides what torch's reader takes anyway.
PLAIN_NAMES: list[Any] = [
    _array,
    _objects,
    _scalar,
    collections.deque,
    collections.defaultdict,
    collections.Counter,
]
PLAIN_NAMES += [frozenset, *FACTORIES[1:]]


class _ArrayPickler(Pickler):
    """Pickles NumPy's arrays as bytes."""

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind not in (np.ndarray, np.memmap) and not issubclass(kind, np.generic):
            return NotImplemented
        if value.dtype.hasobject:
            return _objects, ([*np.asarray(value, object).reshape(-1)], value.shape)
        order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        raw = torch.from_numpy(np.frombuffer(value.tobytes(order), np.uint8).copy())
        name = value.dtype.descr if value.dtype.names else value.dtype.str
        return (_array, (raw, name, value.shape, order)) if issubclass(kind, np.ndarray) else (_scalar, (raw, name))


class _Pickler(_ArrayPickler):
    """Pickles containers as what torch's reader takes, too, and of a tensor no more than its own values."""

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind is collections.deque:
            return collections.deque, ([*value], value.maxlen)
        if kind is collections.defaultdict:
            return collections.defaultdict, (value.default_factory, dict(value))
        if kind is collections.Counter:
            return collections.Counter, (dict(value),)
        if kind in (Tensor, nn.Parameter):
            part = value.detach()
            is_view = (
                part.layout == torch.strided
                and not part.is_nested
                and part.untyped_storage().nbytes() > part.nbytes
            )
            if is_view or part.is_inference() or part.is_conj() or part.is_neg():
                part = part.resolve_conj().resolve_neg().clone()
            return part.__reduce_ex__(2)
        return super().reducer_override(value)


def _named(name: str) -> Any:
    """Return a class of the user's project that a kept value may name.

    Raises:
        ValueError: A checkpoint may not hold it.
    """
    words = name.split(".")
    for n in range(len(words) - 1, 0, -1):
        if (found := sys.modules.get(".".join(words[:n]))) is not None:
            for word in words[n:]:
                found = vars(found).get(word) if isinstance(found, type | types.ModuleType) else None
            if isinstance(found, type) and name == f"{found.__module__}.{found.__qualname__}" and _is_named(found):
                return found
    raise ValueError(f"a checkpoint may not hold a {name}")


def read_plain(file: Any, map_location: Any, named: Iterable[Any] = ()) -> Any:
    """Read tensors and plain values by torch's own reader, which executes nothing else.

    Args:
        file: A path or a file.
        map_location: Device of the tensors.
        named: Classes, with their names, that it may hold as well.

    Raises:
        pickle.UnpicklingError: It holds something else.
    """
    with torch.serialization.safe_globals([*PLAIN_NAMES, *named]):
        return torch.load(file, map_location=map_location, weights_only=True)


def write_plain(content: Any, file: Any, pickler: type[Pickler] = _ArrayPickler) -> None:
    """Write tensors, arrays and plain values, so that `read_plain` takes them."""
    torch.save(content, file, pickle_module=types.SimpleNamespace(__name__="pickle", Pickler=pickler))


def _freeze(content: Any) -> Tensor:
    buffer = io.BytesIO()
    write_plain(content, buffer, _Pickler)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _thaw(kept: Tensor) -> Any:
    """Read what `_freeze` returned, by torch's own reader.

    Raises:
        ValueError: It names something else than plain values; nothing of it was executed.
    """
    content = io.BytesIO(kept.numpy().tobytes())
    with zipfile.ZipFile(content) as archive:  # torch does not compress
        if sum(each.file_size for each in archive.infolist()) > kept.nbytes:
            raise ValueError("it claims to hold more bytes than it has")
    content.seek(0)
    with torch.serialization.safe_globals(PLAIN_NAMES):
        names = torch.serialization.get_unsafe_globals_in_checkpoint(content)
    content.seek(0)
    where = None if torch.cuda.is_available() else "cpu"
    found = read_plain(content, where, [(_named(name), name) for name in names])
    pairs = [(*path, ("", "")) for path in found]
    if not all(len(step) == 2 for path in pairs for step in path) or not all(
        len(each) == 2 for each in found.values()
    ):
        raise ValueError("it has another layout")
    return found


def path_name(path: Path) -> str:
    """Return a path in dotted notation, such as `module.buffer` or `data.sampler.rngs[0]`."""
    return "".join(f".{key}" if kind == "attribute" else f"[{key!r}]" for kind, key in path).removeprefix(".")


def reason(error: Exception) -> str:
    """Return an error as a short reason: its class, and its first line."""
    text = " ".join(str(error).partition("\n")[0].split()).encode("ascii", "backslashreplace").decode()
    if isinstance(error, NotKeptError):
        return text
    return f"{type(error).__name__}: {text[:MAX_REASON]}" if text else type(error).__name__


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
