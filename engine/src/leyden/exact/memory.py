"""Objects' own attributes, which no `state_dict` has: compared, kept and restored.

Only the objects that it is given are looked at, and what they own: their submodules, nested
datasets and samplers, objects of the user's own classes, and those with a `state_dict`. What
belongs to a class, a file, a closure or an installed package is not; `stop.py` announces what comes
of it. What may keep a run from exactness is one line (`Reporter`), or an error where the user has
asked for it.
"""

import argparse
import contextlib
import enum
import functools
import io
import os
import random
import sys
import sysconfig
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import PurePath
from pickle import Pickler, UnpicklingError
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from leyden.exact import ExactError
from leyden.exact.digest import (
    MAX_DIGEST_DEPTH,
    PLAIN_KINDS,
    attribute_names,
    digest,
    is_labelled,
    strided,
)
from leyden.exact.files import check_bounds
from leyden.exact.processes import RANKS

MAX_WHOLE = 2**24  # bytes; of a larger tensor or array, a part is compared
MAX_STATE_BYTES = 2**28  # of a tensor or an array that a checkpoint holds
MAX_STATE_ITEMS = 200_000  # of a container that a checkpoint holds
MAX_TRAVERSED = 1000  # items; the objects in a larger container are not looked at
MAX_REASON = 100  # characters
MAX_NAMES = 8  # in a message
# What a message says of attributes.
NOT_SEEN = "can't be looked at"
NOT_KEPT = "change and can't be kept in a checkpoint"
NOT_RESTORED = "can't be restored from the checkpoint"

# Classes of Lightning's packages are known by their names: none is imported for it.
LIGHTNING = ("lightning", "lightning_fabric", "pytorch_lightning")
HAVE_OWN_ENTRY = {
    "Callback",
    "Logger",
    "Strategy",
    "Trainer",
}  # in a checkpoint, or are the trainer's
HAVE_HOOKS = {"Callback", "LightningDataModule"}  # of which `state_dict` is one
INSTALLED = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
OWNERS = (
    nn.Module,
    Dataset,
    Sampler,
    types.SimpleNamespace,
    argparse.Namespace,
)
REFILLED = (dict, list, set, deque)
CONTAINERS = (*REFILLED, tuple, frozenset)
BUILT_IN = (
    *CONTAINERS,
    OrderedDict,
    Counter,
    defaultdict,
    torch.Size,
)
GENERATORS = (
    torch.Generator,
    np.random.Generator,
    np.random.RandomState,
    random.Random,
)
VALUES = (
    *PLAIN_KINDS,
    *GENERATORS,
    enum.Enum,
    Tensor,
    np.ndarray,
    np.generic,
)
FACTORIES = (int, float, list, dict, set, bool, str)  # of a `defaultdict`
NOTHING = object()  # in place of an attribute that is missing
Step = tuple[str, Any]  # ("attribute", name) or ("item", key)
StatePath = tuple[Step, ...]
Kept = dict[StatePath, tuple[str, Any]]  # how each value is restored, and the value
Mode = Literal["report", "require", "off"]


def check_exact(mode: str) -> None:
    """Check a mode.

    Raises:
        ValueError: It is none.
    """
    if mode not in ("report", "require", "off"):
        raise ValueError(f"exact={mode}: must be report, require or off")


class NotKeptError(ValueError):
    """A value that a checkpoint can't hold, with the reason."""


class Memory:
    """The attributes of objects at the start; later changes are found, kept and restored.

    Args:
        roots: The objects by name.
        known: Returns objects whose state is saved elsewhere, such as parameters and metrics; they
            are skipped.
    """

    def __init__(self, roots: Mapping[str, Any], known: Callable[[], Iterable[Any]] = list) -> None:
        self.roots = roots
        self._known = known
        # Names with reasons, by what is wrong: not looked at, not kept, or not restored.
        self.problems = defaultdict[str, list[str]](list)
        self._owners: dict[StatePath, Any] = {}
        self._restored: set[StatePath] = set()  # kept once, so kept from then on
        # The values themselves are kept, too, so that no address is used again.
        self._start: dict[StatePath, tuple[Any, str]] = {}
        for path, value in self._leaves():
            self._start[path] = (value, _digest(value))

    @property
    def digests(self) -> dict[StatePath, str]:
        """The digest of each value at the start."""
        return {path: each for path, (_, each) in self._start.items()}

    def now(self) -> dict[StatePath, tuple[Any, str]]:
        """Return the values that stand there now, with their digests."""
        return {path: (value, _digest(value)) for path, value in self._leaves()}

    def glance(self) -> dict[tuple[StatePath, str], Any]:
        """Return what quickly tells most values from others, by owner and name."""
        found: dict[tuple[StatePath, str], Any] = {}
        for path, owner in self._owners.items():
            kind: Any = type(owner)
            left_out = _left_out(kind)
            for name, value in [*getattr(owner, "__dict__", {}).items()]:
                if name not in left_out:
                    found[path, name] = _glance(value)
        return found

    def changed(self) -> dict[tuple[int, Step], tuple[Any, str] | None]:
        """Return what stood at the start where something else stands now; None for nothing.

        The keys are ids of objects with names of their attributes, which tell them from any path.
        """
        found: dict[tuple[int, Step], tuple[Any, str] | None] = {}
        for path, value in self._leaves():
            before = self._start.get(path)
            if before is None or before[1] != _digest(value):
                found[self._place(path)] = before
        return found

    def count_from(self, earlier: Mapping[tuple[int, Step], tuple[Any, str] | None]) -> None:
        """Let attributes count from what `changed` of another memory has returned."""
        every = {path: self._place(path) for path in [*self._start, *self._owners] if path[1:]}
        for path, place in every.items():
            if place not in earlier:
                continue
            self._start.pop(path, None)
            self._owners.pop(path, None)
            before = earlier[place]
            if before is not None:
                self._start[path] = before

    def _place(self, path: StatePath) -> tuple[int, Step]:
        """Return the id of an attribute's owner, and its name."""
        *of_owner, step = path
        return id(self._owners[tuple(of_owner)]), step

    def get(self, path: StatePath) -> Any:
        """Return what stands at a path; `NOTHING` without anything."""
        *of_owner, step = path
        return dict(_parts(self._owners[tuple(of_owner)])).get(step, NOTHING)

    def put(self, path: StatePath, value: Any) -> None:
        """Let a value stand at a path, or `NOTHING`."""
        *of_owner, step = path
        owner = self._owners[tuple(of_owner)]
        if value is not NOTHING:
            _set(owner, step, value)
        elif step[0] == "attribute":
            delattr(owner, step[1])
        else:
            del owner[step[1]]

    def changes(self) -> Tensor:
        """Return what has changed, as a tensor of bytes."""
        return self._keep(self._has_changed)

    def values(self, paths: Collection[StatePath]) -> Tensor:
        """Return the values at some paths that a checkpoint can hold, as a tensor of bytes."""
        return self._keep(lambda path, value: path in paths, what="")

    def _keep(self, is_wanted: Callable[[StatePath, Any], bool], what: str = NOT_KEPT) -> Tensor:
        kept: Kept = {}
        for path, value in self._leaves():
            try:
                if is_wanted(path, value):
                    kept[path] = self._kept(path, value)
            except Exception as error:  # other people's objects may raise anything
                self._note(what, path, error)
        self._restored |= {*kept}
        try:
            return freeze_content(kept)
        except Exception as error:  # as of a dictionary that a thread changes
            self._note(what, (), error)
            return freeze_content({})

    def _note(self, what: str, path: StatePath, error: Exception) -> None:
        """Note a problem with an attribute, or with all; without a name for it, ignore it."""
        if what:
            name = path_name(path) or ", ".join(self.roots)
            self.problems[what].append(f"{name} ({reason(error)})")

    def _has_changed(self, path: StatePath, value: Any) -> bool:
        # A generator may have been made from the clock; an iterator's position is unknown.
        if issubclass(type(value), (*GENERATORS, Iterator)):
            return True
        if path in self._restored or path not in self._start:
            return True
        _, before = self._start[path]
        return before != _digest(value)

    def _kept(self, path: StatePath, value: Any) -> tuple[str, Any]:
        """Return how a value is restored, and the value as the checkpoint holds it."""
        kind = type(value)
        before, _ = self._start.get(path, (NOTHING, ""))
        is_same = before is value
        needs_class = issubclass(kind, (*GENERATORS, enum.Enum)) or is_labelled(kind)
        if _is_owner(value) or (needs_class and type(before) is not kind):
            raise NotKeptError(f"a {kind.__name__} that was first made in training")
        if issubclass(kind, GENERATORS):
            return "generator", _generator_state(value)
        how = "in place" if is_same else "value"
        if has_state_dict(kind):
            how = "state_dict"
            value = value.state_dict()
        elif issubclass(kind, enum.Enum):
            how = "member"
            value = value.value
        elif is_labelled(kind):
            data = Tensor.as_subclass(value, Tensor)
            value = (how, data, dict(vars(value)))
            how = "labelled"
        elif is_same and issubclass(kind, REFILLED) and _is_refillable(kind):
            plain = dict if issubclass(kind, dict) else list
            value = plain(value)
        _check_kept(value)
        return how, value

    def restore(
        self,
        kept: Tensor,
        *,
        only_own: bool = False,
        with_generators: bool = True,
    ) -> None:
        """Restore what `changes` or `values` returned, where these objects have such attributes.

        Nothing is made but plain values: attributes of objects that stand here are set.

        Args:
            kept: The values.
            only_own: True to leave out attributes of objects that are not these, and what is a
                weight here.
            with_generators: False to leave random generators as they are.
        """
        try:
            content = thaw(kept)
        except Exception as error:
            self._note(NOT_RESTORED, (), error)
            content = {}
        # By the id of a value in the checkpoint: two attributes may share it.
        used: dict[int, Any] = {}
        for path, (how, value) in content.items():
            if how == "generator" and not with_generators:
                continue
            *of_owner, step = path
            place = tuple(of_owner)
            if only_own and place not in self._owners:
                continue
            key = id(value)
            try:
                owner = self._owners[place]
                here = dict(_parts(owner)).get(step, NOTHING)
                if only_own and isinstance(here, nn.Parameter):  # of a pruned layer: a weight
                    continue
                if key not in used:
                    used[key] = _restored(how, value, here)
                if used[key] is not here:
                    _set(owner, step, used[key])
                self._restored.add(path)
            except Exception as error:
                self._note(NOT_RESTORED, path, error)

    def _leaves(self) -> Iterator[tuple[StatePath, Any]]:
        """Yield the path and the value of each attribute; each owner once."""
        try:
            seen = {id(each) for each in self._known()}
        except Exception as error:
            self._note(NOT_SEEN, (), error)
            return
        queue = deque[tuple[StatePath, Any]]()
        for name, root in self.roots.items():
            step = ("attribute", name)
            queue.append(((step,), root))
            seen.add(id(root))
        is_start = not self._start
        while queue:
            path, owner = queue.popleft()
            if is_start:
                self._owners[path] = owner
            elif type(self._owners.get(path)) is not type(owner):
                # Its attributes fit no object that stands there when a run resumes.
                yield path, owner
                continue
            parts = []
            try:
                for step, value in _parts(owner):
                    is_owner = _is_owner(value)
                    is_value = _is_value(value, seen)
                    parts.append((step, value, is_owner, is_value))
            except Exception as error:  # of a class that raises when it is looked at
                self._note(NOT_SEEN, path, error)
                continue
            for step, value, is_owner, is_value in parts:
                if _is_known(value, seen):
                    continue
                place = (*path, step)
                if is_owner:
                    seen.add(id(value))
                    queue.append((place, value))
                elif is_value:
                    yield place, value


def _is_owner(value: Any, depth: int = 0) -> bool:
    """Return whether the attributes or items of an object are looked at one by one.

    Its class is asked, and never the object: a proxy answers for another one, or raises.
    """
    kind = type(value)
    if issubclass(kind, list | tuple | dict):
        if len(value) > MAX_TRAVERSED or depth >= MAX_DIGEST_DEPTH:
            return False
        items = _items(value)
        return any(_is_owner(each, depth + 1) or _is_separate(each) for each in items)
    if issubclass(kind, (*VALUES, *CONTAINERS, type)) or _has_own_entry(kind):
        return False
    if issubclass(kind, OWNERS):
        return True
    if has_state_dict(kind) or issubclass(kind, Iterator):
        return False
    return is_own_class(kind)


def _items(container: Any) -> list[Any]:
    if issubclass(type(container), dict):
        return list(container.values())
    return list(container)


def _is_separate(value: Any) -> bool:
    """Return whether an item of a container can only be restored in its place."""
    kind = type(value)
    return issubclass(kind, GENERATORS) or has_state_dict(kind)


def _is_value(value: Any, known: set[int]) -> bool:
    """Return whether a value may hold state.

    A container of objects that are saved elsewhere is not built from copies.
    """
    kind = type(value)
    if issubclass(kind, CONTAINERS):  # as an LSTM's list of its weights
        if len(value) > MAX_TRAVERSED:
            return True
        return not any(_is_known(each, known) for each in _items(value))
    if _has_own_entry(kind):
        return False
    if issubclass(kind, Iterator) and not issubclass(kind, io.IOBase):
        return True
    return issubclass(kind, VALUES) or has_state_dict(kind)


def _is_known(value: Any, known: set[int]) -> bool:
    """Return whether an object is one of these; plain values may share an address."""
    return id(value) in known and type(value) not in PLAIN_KINDS


@functools.cache
def lightning_bases(kind: type) -> dict[str, type]:
    """Return the classes of Lightning that a class derives from, or is, by name."""
    found: dict[str, type] = {}
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] in LIGHTNING:
            found.setdefault(base.__name__, base)
    return found


def _has_own_entry(kind: Any) -> bool:
    return issubclass(kind, DataLoader) or not HAVE_OWN_ENTRY.isdisjoint(lightning_bases(kind))


def is_own_class(kind: type) -> bool:
    """Return whether a class is of the user's project: of no installed package, nor of Leyden."""
    module = sys.modules.get(kind.__module__)
    file: str | None = getattr(module, "__file__", None)
    if kind.__module__ == "__main__":
        return True
    if file is None:
        return module is not None and hasattr(module, "__builtins__")  # as of a notebook
    package = kind.__module__.partition(".")[0]
    if package == "leyden" or file.startswith(INSTALLED):
        return False
    folders = PurePath(file).parts
    return "site-packages" not in folders and "dist-packages" not in folders


def has_state_dict(kind: Any) -> bool:
    """Return whether objects of a class save their own state, like an optimizer.

    Of modules, attributes are looked at.
    """
    if issubclass(kind, nn.Module | type) or not HAVE_HOOKS.isdisjoint(lightning_bases(kind)):
        return False
    save = getattr(kind, "state_dict", None)
    load = getattr(kind, "load_state_dict", None)
    return callable(save) and callable(load)


@functools.cache
def _left_out(kind: type) -> frozenset[str]:
    """Return the attributes of PyTorch and Lightning, except `training`, which a run can change."""
    found = set[str]()
    if issubclass(kind, nn.Module):
        found.update(vars(nn.Module()))
    for name, base in lightning_bases(kind).items():
        if name in ("LightningModule", "LightningDataModule"):
            found.update(vars(base()))
    return frozenset(found - {"training"})


def _parts(owner: Any) -> Iterator[tuple[Step, Any]]:
    """Yield the attributes or items of an owner."""
    kind: Any = type(owner)
    if issubclass(kind, dict):
        for key, value in [*owner.items()]:
            if type(key) in (*PLAIN_KINDS, tuple):
                yield ("item", key), value
        return
    if issubclass(kind, list | tuple):
        for number, value in enumerate([*owner]):
            yield ("item", number), value
        return
    left_out = _left_out(kind)
    for name in attribute_names(owner):
        if name in left_out:
            continue
        with contextlib.suppress(AttributeError):  # an empty slot
            yield ("attribute", name), object.__getattribute__(owner, name)
    if issubclass(kind, nn.Module):
        # As PyTorch defines them, whatever a class of another has in their place.
        members = [
            *nn.Module.named_parameters(owner, recurse=False, remove_duplicate=False),
            *nn.Module.named_buffers(owner, recurse=False, remove_duplicate=False),
            *nn.Module.named_children(owner),
        ]
        for name, member in members:
            yield ("attribute", name), member


def _set(owner: Any, step: Step, value: Any) -> None:
    kind, key = step
    if kind == "item":
        owner[key] = value
    elif issubclass(type(owner), nn.Module):
        setattr(owner, key, value)
    else:
        # The class may be frozen, or have a `__setattr__` of its own.
        object.__setattr__(owner, key, value)


def _restored(how: str, value: Any, here: Any) -> Any:
    """Return what an attribute gets: the object that stands there, if it can be set in place."""
    if how == "generator":
        _set_generator_state(here, value)
        return here
    if how == "state_dict":
        here.load_state_dict(value)
        return here
    if how == "member":
        return type(here)(value)
    if how == "labelled":
        how_data, data, attributes = value
        plain = Tensor.as_subclass(here, Tensor)
        restored = _restored(how_data, data, plain)
        made = here
        if restored is not plain:
            made = Tensor.as_subclass(restored, type(here))
        vars(made).update(attributes)
        return made
    if how == "in place" and _fill(here, value):
        return here
    if isinstance(value, Tensor) and isinstance(here, Tensor):
        return value.to(here.device)
    return value


def _fill(here: Any, value: Any) -> bool:
    """Give an object the content of a value in place, and return whether it could be done."""
    if isinstance(here, REFILLED) and isinstance(value, REFILLED):
        here.clear()
        if isinstance(here, dict | set):
            here.update(value)
        else:
            here.extend(value)
        return True
    arrays = Tensor | np.ndarray
    if not (isinstance(here, arrays) and isinstance(value, arrays)):
        return False
    is_dense = getattr(here, "layout", torch.strided) == torch.strided
    if not is_dense or here.shape != value.shape or here.dtype != value.dtype:
        return False  # as of a sparse one, which can't be written to
    with torch.no_grad():
        here[...] = value  # type: ignore[assignment]
    return True


def _is_refillable(kind: Any) -> bool:
    """Return whether a container may be emptied and filled again; a cache on a disk may not."""
    is_of_hyperparameters = lightning_bases(kind).get("AttributeDict") is kind
    return kind is defaultdict or is_of_hyperparameters or is_own_class(kind)


def _generator_state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.get_state()


def _set_generator_state(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)


def _digest(value: Any) -> str:
    """Return a digest that changes with the value; with the object, if it can't be looked into."""
    kind = type(value)
    try:
        if issubclass(kind, Iterator):
            return ""  # its position is unknown
        content = value
        if has_state_dict(kind):
            content = value.state_dict()
        found = digest(content, MAX_WHOLE, _of_object)
        if isinstance(value, Tensor) and not value.is_inference():
            found = f"{version_of(value)}{found}"
        return found
    except Exception:  # user code may raise anything
        return str(id(value))


def _glance(value: Any) -> Any:
    """Return what stands for an object, or a container's items, or a version of a tensor."""
    kind = type(value)
    if issubclass(kind, Tensor) and not value.is_inference():
        return id(value), version_of(value)
    if issubclass(kind, CONTAINERS) and len(value) <= MAX_TRAVERSED:
        return id(value), *map(id, _items(value))
    if issubclass(kind, CONTAINERS):
        return id(value), len(value)
    return id(value)


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor was written to; PyTorch has no public name for it."""
    return tensor._version


def _of_object(value: Any) -> str:
    """Return what stands for an object that can't be looked into."""
    kind = type(value)
    state = ""
    if issubclass(kind, GENERATORS):
        state = digest(_generator_state(value), None)
    return f"{kind} {id(value)} {state}"


def _array(raw: Tensor, kind: str, shape: tuple[int, ...] | None, order: Any) -> Any:
    """Return a NumPy array of bytes, or a number.

    NumPy's own way trusts a file with addresses of objects.

    Raises:
        ValueError: It would hold objects.
    """
    dtype = np.dtype(kind)
    if dtype.hasobject:
        raise ValueError("an array of objects")
    if raw.is_meta:  # only checked whether it can be read
        raw = torch.zeros_like(raw, device="cpu")
    content = raw.cpu().numpy().tobytes()
    made = np.frombuffer(content, dtype)
    if shape is None:
        return made[0]
    return made.reshape(shape, order=order).copy(order=order)


# What a checkpoint may name besides what torch's reader takes anyway.
PLAIN_NAMES: list[Any] = [
    _array,
    frozenset,
    deque,
    defaultdict,
    *FACTORIES,
]


def _is_array(value: Any) -> bool:
    """Return whether a value is a NumPy array or number, of neither objects nor fields."""
    kind = type(value)
    if kind not in (np.ndarray, np.memmap) and not issubclass(kind, np.generic):
        return False
    return value.dtype.names is None and not value.dtype.hasobject


class _ArrayPickler(Pickler):
    """Pickles NumPy's arrays as bytes."""

    def reducer_override(self, value: Any) -> Any:
        if not _is_array(value):
            return NotImplemented
        order: Literal["C", "F"] = "C"
        if value.flags.f_contiguous and not value.flags.c_contiguous:
            order = "F"
        content = np.frombuffer(value.tobytes(order), np.uint8)
        raw = torch.from_numpy(content.copy())
        shape = value.shape
        if issubclass(type(value), np.generic):
            shape = None
        return _array, (raw, value.dtype.str, shape, order)


class _Pickler(_ArrayPickler):
    """Pickles containers as torch's reader takes them, and of a tensor its own values alone."""

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind is deque:
            return kind, ([*value], value.maxlen)
        if kind is defaultdict:
            return kind, (value.default_factory, dict(value))
        if kind in (Tensor, nn.Parameter):
            return value.detach().clone().__reduce_ex__(2)
        return super().reducer_override(value)


def _check_kept(value: Any, depth: int = 0) -> None:
    """Check that a checkpoint can hold a value.

    Raises:
        NotKeptError: It can't.
    """
    kind = type(value)
    if depth > MAX_DIGEST_DEPTH:
        raise NotKeptError("it contains itself, or is nested too deeply")
    if issubclass(kind, Iterator):
        raise NotKeptError("the position of an iterator is unknown")
    if kind in PLAIN_KINDS:
        return
    if kind in (Tensor, nn.Parameter) or _is_array(value):
        parts = [value]
        if isinstance(value, Tensor):
            parts = strided(value)
        num_bytes = sum(each.nbytes for each in parts)
        if num_bytes > MAX_STATE_BYTES or getattr(value, "is_meta", False):
            raise NotKeptError("too large, or without values")
        return
    factory = getattr(value, "default_factory", None)
    if kind not in BUILT_IN or factory not in (None, *FACTORIES):
        raise NotKeptError(f"a {kind.__name__}")
    if len(value) > MAX_STATE_ITEMS:
        raise NotKeptError("too many items")
    items = value.items() if isinstance(value, dict) else value
    for each in [*items]:
        _check_kept(each, depth + 1)


def read_plain(file: Any, map_location: Any) -> Any:
    """Read tensors and plain values by torch's own reader, which executes nothing else.

    Args:
        file: A path or a file.
        map_location: Device of the tensors.

    Raises:
        pickle.UnpicklingError: It holds something else.
    """
    with torch.serialization.safe_globals(PLAIN_NAMES):
        return torch.load(file, map_location=map_location, weights_only=True)


def check_names(file: BinaryIO) -> None:
    """Check that a file names only what `read_plain` takes; much faster than to read it.

    Raises:
        pickle.UnpicklingError: It names something else.
    """
    with torch.serialization.safe_globals(PLAIN_NAMES):
        names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    if names:
        raise UnpicklingError(", ".join(names))


def write_plain(content: Any, file: Any, pickler: type[Pickler] = _ArrayPickler) -> None:
    """Write tensors, arrays and plain values, so that `read_plain` takes them."""
    module = types.SimpleNamespace(__name__="pickle", Pickler=pickler)
    torch.save(content, file, pickle_module=module)


def freeze_content(content: Kept) -> Tensor:
    """Return values as a tensor of bytes, see `thaw`."""
    buffer = io.BytesIO()
    write_plain(content, buffer, _Pickler)
    written = bytearray(buffer.getvalue())
    return torch.frombuffer(written, dtype=torch.uint8)


def thaw(kept: Tensor) -> Kept:
    """Return the values in a tensor of bytes by their paths, each with how it is restored."""
    where = None
    if not torch.cuda.is_available():
        where = "cpu"
    buffer = io.BytesIO(kept.numpy().tobytes())
    check_bounds(buffer)
    found: Kept = read_plain(buffer, where)
    return found


def path_name(path: StatePath) -> str:
    """Return a path in dotted notation, such as `module.buffer` or `data.sampler.rngs[0]`."""
    name = ""
    for kind, key in path:
        if kind == "attribute":
            name += f".{key}"
        else:
            name += f"[{key!r}]"
    return name.removeprefix(".")


def reason(error: Exception) -> str:
    """Return an error as a short reason: its class, and its first line."""
    kind = type(error).__name__
    line = str(error).partition("\n")[0]
    words = " ".join(line.split())
    text = words.encode("ascii", "backslashreplace").decode()
    if isinstance(error, NotKeptError):
        return text
    if not text:
        return kind
    return f"{kind}: {text[:MAX_REASON]}"


def weights_and_metrics(module: nn.Module) -> list[Any]:
    """Return the weights, buffers and metrics of a module."""
    found: list[Any] = list(module.parameters())
    found += module.state_dict(keep_vars=True).values()
    for _, metric in metrics_of(module):
        found += metric.modules()
    return found


def metrics_of(module: nn.Module) -> list[tuple[str, Any]]:
    """Return the torchmetrics metrics of a module, with their names."""
    kind = getattr(sys.modules.get("torchmetrics"), "Metric", ())
    return [(name, metric) for name, metric in module.named_modules() if isinstance(metric, kind)]


def is_rank_zero() -> bool:
    """Return whether this is the process of rank zero, as far as is known."""
    of_lightning = sys.modules.get("lightning_utilities.core.rank_zero")
    rank = getattr(getattr(of_lightning, "rank_zero_only", None), "rank", None)
    if rank is None and torch.distributed.is_initialized():
        rank = torch.distributed.get_rank()
    if rank is None:
        rank = next((os.environ[name] for name in RANKS if name in os.environ), 0)
    return int(rank) == 0


def say(text: str) -> None:
    """Print a line to stderr, in the process of rank zero.

    Characters that a terminal obeys are escaped.
    """
    if not is_rank_zero():
        return
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    print(f"leyden: {line}", file=sys.stderr)


class Reporter:
    """Announces once per name what may keep a resumed run from the same bits.

    Args:
        mode: `report` prints a line, `require` raises an error, `off` does nothing.
    """

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self._names: set[str] = set()

    def announce(self, text: str) -> None:
        """Announce a text.

        Raises:
            ExactError: With `require`.
        """
        if self.mode == "require":
            raise ExactError(f"exact=require: {text}")
        if self.mode == "report":
            say(f"exact resume is not guaranteed: {text}")

    def name(self, names: list[str], what: str) -> None:
        """Announce what is wrong with these names, with reasons in parentheses; each name once."""
        new: list[str] = []
        for name in names:
            plain = name.partition(" (")[0]
            if plain not in self._names:
                self._names.add(plain)
                new.append(name)
        if not new:
            return
        text = ", ".join(new[:MAX_NAMES])
        if len(new) > MAX_NAMES:
            text += f" and {len(new) - MAX_NAMES} more"
        if len(new) == 1:
            what = what.replace("change ", "changes ")
        self.announce(f"{text} {what}")
