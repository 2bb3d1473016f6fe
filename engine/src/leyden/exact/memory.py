"""Objects' own attributes, which no `state_dict` has: compared, kept and restored.

Only the objects that it is given are looked at, and what they own: their submodules, nested datasets and samplers, objects
of the user's own classes, and those with a `state_dict`. What belongs to a class, a file, a closure or an installed package
is not; `stop.py` announces what comes of it. What may keep a run from exactness is one line (`Reporter`), or an error where
the user has asked for it.
"""

import argparse
import collections
import contextlib
import enum
import io
import random
import sys
import sysconfig
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import PurePath
from pickle import Pickler, UnpicklingError
from typing import Any, BinaryIO, Literal

import lightning as L
import numpy as np
import torch
from lightning.fabric.utilities.data import AttributeDict
from lightning.pytorch.callbacks import SpikeDetection
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torchmetrics import Metric

from leyden.exact import ExactError
from leyden.exact.digest import PLAIN, attribute_names, digest, is_labelled, strided
from leyden.exact.files import check_bounds

MAX_WHOLE = 2**24  # bytes; of a larger tensor or array, a part is compared
MAX_BYTES = 2**28  # of a tensor or an array that a checkpoint holds
MAX_ITEMS = 200_000  # of a container that a checkpoint holds
MAX_TRAVERSED = 1000  # items; the objects in a larger container are not looked at
MAX_DEPTH = 20
MAX_REASON = 100  # characters
MAX_NAMES = 8  # in a message
# What a message says of attributes.
NOT_SEEN, NOT_KEPT = "can't be looked at", "change and can't be kept in a checkpoint"
NOT_RESTORED = "can't be restored from the checkpoint"

# Attributes of PyTorch and Lightning, except `training` and `_hparams`, which a run can change.
OF_MODULES = {*vars(nn.Module())} - {"training"}
OF_LIGHTNING = {*vars(L.LightningModule()), *vars(L.LightningDataModule())} - {
    "training",
    "_hparams",
}
INSTALLED = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
OWNERS = (nn.Module, Dataset, Sampler, types.SimpleNamespace, argparse.Namespace)
# Objects that are the trainer's, or have their own entry.
SEPARATE = (
    L.Trainer,
    L.Callback,
    L.pytorch.loggers.Logger,
    L.pytorch.strategies.Strategy,
    DataLoader,
)
REFILLED = (dict, list, set, collections.deque)
CONTAINERS = (*REFILLED, tuple, frozenset)
BUILT_IN = (
    *CONTAINERS,
    collections.OrderedDict,
    collections.Counter,
    collections.defaultdict,
    torch.Size,
)
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
VALUES = (*PLAIN, enum.Enum, Tensor, np.ndarray, np.generic, *GENERATORS)
FACTORIES = (int, float, list, dict, set, bool, str)  # of a `defaultdict`
NOTHING = object()  # in place of an attribute that is missing
Path = tuple[tuple[str, Any], ...]  # steps ("attribute", name) or ("item", key)
Mode = Literal["report", "require", "off"]


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
        # Names with reasons, by what is wrong: not looked at, not kept, or not restored.
        self.problems: collections.defaultdict[str, list[str]] = collections.defaultdict(list)
        self._owners: dict[Path, Any] = {}
        self._restored: set[Path] = set()  # kept once, so kept from then on
        # The values themselves are kept, too, so that no address is used again.
        self._start: dict[Path, tuple[Any, str]] = {}
        for path, value in self._leaves():
            self._start[path] = (value, _digest(value))

    @property
    def digests(self) -> dict[Path, str]:
        """The digest of each value at the start."""
        return {path: each for path, (_, each) in self._start.items()}

    def changes(self) -> Tensor:
        """Return what has changed, as a tensor of bytes."""
        return self._keep(self._has_changed)

    def values(self, paths: Collection[Path]) -> Tensor:
        """Return the values at some paths that a checkpoint can hold, as a tensor of bytes."""
        return self._keep(lambda path, value: path in paths, what="")

    def _keep(self, is_wanted: Callable[[Path, Any], bool], what: str = NOT_KEPT) -> Tensor:
        kept: dict[Path, tuple[str, Any]] = {}
        for path, value in self._leaves():
            try:
                if is_wanted(path, value):
                    kept[path] = self._kept(path, value)
            except Exception as error:  # other people's objects may raise anything
                self._note(what, path, error)
        self._restored |= {*kept}
        try:
            return freeze(kept)
        except Exception as error:  # as of a dictionary that a thread changes
            self._note(what, (), error)
            return freeze({})

    def _note(self, what: str, path: Path, error: Exception) -> None:
        """Note a problem with an attribute, or with all of them; without a name for it, ignore it."""
        if what:
            self.problems[what].append(
                f"{path_name(path) or ', '.join(self.roots)} ({reason(error)})"
            )

    def _has_changed(self, path: Path, value: Any) -> bool:
        if issubclass(
            type(value), (*GENERATORS, Iterator)
        ):  # one from the clock, one of an unknown position
            return True
        return (
            path in self._restored
            or path not in self._start
            or self._start[path][1] != _digest(value)
        )

    def _kept(self, path: Path, value: Any) -> tuple[str, Any]:
        """Return how a value is restored, and the value as the checkpoint holds it."""
        kind = type(value)
        before = self._start[path][0] if path in self._start else None
        is_same = path in self._start and before is value
        needs_class = issubclass(kind, (*GENERATORS, enum.Enum)) or is_labelled(kind)
        if _is_owner(value) or (needs_class and type(before) is not kind):
            raise NotKeptError(f"a {kind.__name__} that was first made in training")
        if issubclass(kind, GENERATORS):
            return "generator", _generator_state(value)
        how = "in place" if is_same else "value"
        if has_state_dict(kind):
            how, value = "state_dict", value.state_dict()
        elif issubclass(kind, enum.Enum):
            how, value = "member", value.value
        elif is_labelled(kind):
            how, value = "labelled", (how, Tensor.as_subclass(value, Tensor), dict(vars(value)))
        elif is_same and issubclass(kind, REFILLED) and _is_refillable(kind):
            value = dict(value) if issubclass(kind, dict) else [*value]
        _check_kept(value)
        return how, value

    def restore(
        self,
        kept: Tensor,
        *,
        only_own: bool = False,
        with_generators: bool = True,
    ) -> None:
        """Restore what `changes` or `values` returned, as far as these objects have such attributes.

        Nothing is made but plain values: attributes of objects that stand here are set.

        Args:
            kept: The values.
            only_own: True to leave out attributes of objects that are not these, and what is a weight here.
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
            if only_own and path[:-1] not in self._owners:
                continue
            try:
                owner = self._owners[path[:-1]]
                here = dict(_parts(owner)).get(path[-1], NOTHING)
                if only_own and isinstance(here, nn.Parameter):  # of a pruned layer: a weight
                    continue
                if id(value) not in used:
                    used[id(value)] = _restored(how, value, here)
                if used[id(value)] is not here:
                    _set(owner, path[-1], used[id(value)])
                self._restored.add(path)
            except Exception as error:
                self._note(NOT_RESTORED, path, error)

    def _leaves(self) -> Iterator[tuple[Path, Any]]:
        """Yield the path and the value of each attribute; each owner once."""
        try:
            seen = {id(each) for each in self._known()}
        except Exception as error:
            self._note(NOT_SEEN, (), error)
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
            elif type(self._owners.get(path)) is not type(owner):
                yield (
                    path,
                    owner,
                )  # whose attributes fit no object that stands there when a run resumes
                continue
            try:
                parts = [
                    (step, value, _is_owner(value), _is_value(value, seen))
                    for step, value in _parts(owner)
                ]
            except Exception as error:  # of a class that raises when it is looked at
                self._note(NOT_SEEN, path, error)
                continue
            for step, value, is_owner, is_value in parts:
                if id(value) in seen and type(value) not in PLAIN:
                    continue
                if is_owner:
                    seen.add(id(value))
                    queue.append(((*path, step), value))
                elif is_value:
                    yield (*path, step), value


def _is_owner(value: Any, depth: int = 0) -> bool:
    """Return whether the attributes or items of an object are looked at one by one.

    Its class is asked, and never the object: a proxy answers for another one, or raises.
    """
    kind = type(value)
    if issubclass(kind, list | tuple | dict):
        is_small = len(value) <= MAX_TRAVERSED and depth < MAX_DEPTH
        return is_small and any(
            _is_owner(each, depth + 1) or _is_separate(each) for each in _items(value)
        )
    if issubclass(kind, (*VALUES, *CONTAINERS, *SEPARATE, type)):
        return False
    return issubclass(kind, OWNERS) or not (
        has_state_dict(kind) or not is_own(kind) or issubclass(kind, Iterator)
    )


def _items(container: Any) -> list[Any]:
    return [*container.values()] if issubclass(type(container), dict) else [*container]


def _is_separate(value: Any) -> bool:
    """Return whether an item of a container can only be restored in its place."""
    return issubclass(type(value), GENERATORS) or has_state_dict(type(value))


def _is_value(value: Any, known: set[int]) -> bool:
    """Return whether a value may hold state; a container of objects that are saved elsewhere is not built from copies."""
    kind = type(value)
    if issubclass(kind, CONTAINERS):  # as an LSTM's list of its weights
        few = _items(value) if len(value) <= MAX_TRAVERSED else []
        return not any(id(each) in known and type(each) not in PLAIN for each in few)
    is_iterator = issubclass(kind, Iterator) and not issubclass(kind, io.IOBase)
    return not issubclass(kind, SEPARATE) and (
        is_iterator or issubclass(kind, VALUES) or has_state_dict(kind)
    )


def is_own(kind: type) -> bool:
    """Return whether a class is of the user's project, and neither of an installed package nor of this library."""
    module = sys.modules.get(kind.__module__)
    file: str | None = getattr(module, "__file__", None)
    if kind.__module__ == "__main__" or (
        module and file is None and hasattr(module, "__builtins__")
    ):
        return True  # also of a notebook
    if module is None or file is None or kind.__module__.partition(".")[0] == "leyden":
        return False
    return not file.startswith(INSTALLED) and {"site-packages", "dist-packages"}.isdisjoint(
        PurePath(file).parts
    )


def has_state_dict(kind: type) -> bool:
    """Return whether objects of a class save their own state, like an optimizer; of modules, attributes are looked at."""
    return not issubclass(kind, nn.Module | L.LightningDataModule | L.Callback | type) and all(
        callable(getattr(kind, name, None)) for name in ("state_dict", "load_state_dict")
    )


def _parts(owner: Any) -> Iterator[tuple[tuple[str, Any], Any]]:
    """Yield the attributes or items of an owner."""
    kind = type(owner)
    if issubclass(kind, dict):
        yield from (
            (("item", key), value)
            for key, value in [*owner.items()]
            if type(key) in (*PLAIN, tuple)
        )
        return
    if issubclass(kind, list | tuple):
        yield from ((("item", number), value) for number, value in enumerate([*owner]))
        return
    left_out = OF_MODULES if issubclass(kind, nn.Module) else set()
    if issubclass(kind, L.LightningModule | L.LightningDataModule):
        left_out = left_out | OF_LIGHTNING
    for name in attribute_names(owner):
        with contextlib.suppress(AttributeError):  # an empty slot
            if name not in left_out:
                yield ("attribute", name), object.__getattribute__(owner, name)
    if issubclass(kind, nn.Module):
        for group in (owner._parameters, owner._buffers, owner._modules):
            yield from ((("attribute", name), value) for name, value in group.items())


def _set(owner: Any, step: tuple[str, Any], value: Any) -> None:
    kind, key = step
    if kind == "item":
        owner[key] = value
    elif issubclass(type(owner), nn.Module):
        setattr(owner, key, value)
    else:
        object.__setattr__(
            owner, key, value
        )  # the class may be frozen, or have a `__setattr__` of its own


def _restored(how: str, value: Any, here: Any) -> Any:
    """Return the value that an attribute gets: the object that stands there, if it can be set in place."""
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
        made = here if restored is plain else Tensor.as_subclass(restored, type(here))
        vars(made).update(attributes)
        return made
    if how == "in place" and isinstance(here, REFILLED) and isinstance(value, REFILLED):
        here.clear()
        (here.update if isinstance(here, dict | set) else here.extend)(value)
        return here
    if isinstance(value, Tensor | np.ndarray) and isinstance(here, Tensor | np.ndarray):
        is_dense = (
            getattr(here, "layout", torch.strided) == torch.strided
        )  # a sparse one can't be written to
        if (
            how == "in place"
            and is_dense
            and here.shape == value.shape
            and here.dtype == value.dtype
        ):
            with torch.no_grad():
                here[...] = value  # type: ignore[assignment]
            return here
        return (
            value.to(here.device)
            if isinstance(value, Tensor) and isinstance(here, Tensor)
            else value
        )
    return value


def _is_refillable(kind: type) -> bool:
    """Return whether a container of a class of its own may be emptied and filled again; a cache on a disk may not."""
    return kind in (collections.defaultdict, AttributeDict) or is_own(kind)


def _generator_state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _set_generator_state(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)


def _digest(value: Any) -> str:
    """Return a digest that changes with the value; of an object that can't be looked into, with the object."""
    try:
        if issubclass(type(value), Iterator):
            return ""  # its position is unknown
        content = value.state_dict() if has_state_dict(type(value)) else value
        written = (
            f"{value._version}" if isinstance(value, Tensor) and not value.is_inference() else ""
        )
        return written + digest(content, MAX_WHOLE, _of_object)
    except Exception:  # user code may raise anything
        return str(id(value))


def _of_object(value: Any) -> str:
    """Return what stands for an object that can't be looked into."""
    state = digest(_generator_state(value), None) if issubclass(type(value), GENERATORS) else ""
    return f"{type(value)} {id(value)} {state}"


def _array(raw: Tensor, kind: str, shape: tuple[int, ...] | None, order: Any) -> Any:
    """Return a NumPy array of bytes, or a number; NumPy's own way trusts a file with addresses of objects.

    Raises:
        ValueError: It would hold objects.
    """
    dtype = np.dtype(kind)
    if dtype.hasobject:
        raise ValueError("an array of objects")
    raw = (
        torch.zeros_like(raw, device="cpu") if raw.is_meta else raw.cpu()
    )  # only checked whether it can be read
    made = np.frombuffer(raw.numpy().tobytes(), dtype)
    return made[0] if shape is None else made.reshape(shape, order=order).copy(order=order)


# What a checkpoint may name besides what torch's reader takes anyway.
PLAIN_NAMES: list[Any] = [_array, frozenset, collections.deque, collections.defaultdict, *FACTORIES]


def _is_array(value: Any) -> bool:
    """Return whether a value is a NumPy array or number, of neither objects nor fields."""
    is_numpy = type(value) in (np.ndarray, np.memmap) or issubclass(type(value), np.generic)
    return is_numpy and not value.dtype.hasobject and value.dtype.names is None


class _ArrayPickler(Pickler):
    """Pickles NumPy's arrays as bytes."""

    def reducer_override(self, value: Any) -> Any:
        if not _is_array(value):
            return NotImplemented
        order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        raw = torch.from_numpy(np.frombuffer(value.tobytes(order), np.uint8).copy())
        return _array, (
            raw,
            value.dtype.str,
            None if issubclass(type(value), np.generic) else value.shape,
            order,
        )


class _Pickler(_ArrayPickler):
    """Pickles containers as what torch's reader takes, too, and of a tensor no more than its own values."""

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind is collections.deque:
            return kind, ([*value], value.maxlen)
        if kind is collections.defaultdict:
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
    if depth > MAX_DEPTH:
        raise NotKeptError("it contains itself, or is nested too deeply")
    if issubclass(kind, Iterator):
        raise NotKeptError("the position of an iterator is unknown")
    if kind in BUILT_IN and getattr(value, "default_factory", None) in (None, *FACTORIES):
        if len(value) > MAX_ITEMS:
            raise NotKeptError("too many items")
        items = value.items() if isinstance(value, dict) else value
        for each in [*items]:
            _check_kept(each, depth + 1)
    elif kind in (Tensor, nn.Parameter) or _is_array(value):
        parts = strided(value) if isinstance(value, Tensor) else [value]
        if sum(each.nbytes for each in parts) > MAX_BYTES or getattr(value, "is_meta", False):
            raise NotKeptError("too large, or without values")
    elif kind not in PLAIN:
        raise NotKeptError(f"a {kind.__name__}")


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
        if names := torch.serialization.get_unsafe_globals_in_checkpoint(file):
            raise UnpicklingError(", ".join(names))


def write_plain(content: Any, file: Any, pickler: type[Pickler] = _ArrayPickler) -> None:
    """Write tensors, arrays and plain values, so that `read_plain` takes them."""
    torch.save(
        content, file, pickle_module=types.SimpleNamespace(__name__="pickle", Pickler=pickler)
    )


def freeze(content: dict[Path, tuple[str, Any]]) -> Tensor:
    """Return values as a tensor of bytes, see `thaw`."""
    buffer = io.BytesIO()
    write_plain(content, buffer, _Pickler)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def thaw(kept: Tensor) -> dict[Path, tuple[str, Any]]:
    """Return the values in a tensor of bytes by their paths, each with how it is restored."""
    where = None if torch.cuda.is_available() else "cpu"
    buffer = io.BytesIO(kept.numpy().tobytes())
    check_bounds(buffer)
    found: dict[Path, tuple[str, Any]] = read_plain(buffer, where)
    return found


def path_name(path: Path) -> str:
    """Return a path in dotted notation, such as `module.buffer` or `data.sampler.rngs[0]`."""
    return "".join(
        f".{key}" if kind == "attribute" else f"[{key!r}]" for kind, key in path
    ).removeprefix(".")


def reason(error: Exception) -> str:
    """Return an error as a short reason: its class, and its first line."""
    text = (
        " ".join(str(error).partition("\n")[0].split()).encode("ascii", "backslashreplace").decode()
    )
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


def foreign_callbacks(trainer: L.Trainer) -> dict[str, L.Callback]:
    """Return the callbacks whose state nobody else saves, with their names: neither Lightning's nor of this library.

    The state of Lightning's `SpikeDetection` lacks its running mean.
    """
    return {
        f"callbacks[{number}]": each
        for number, each in enumerate(trainer.callbacks)  # type: ignore[attr-defined]
        if isinstance(each, SpikeDetection)
        or type(each).__module__.partition(".")[0] not in ("leyden", "lightning")
    }


def metrics_of(module: L.LightningModule) -> list[tuple[str, Metric]]:
    """Return the torchmetrics metrics of a module, with their names."""
    return [(name, metric) for name, metric in module.named_modules() if isinstance(metric, Metric)]


def is_rank_zero() -> bool:
    """Return whether this is the process of rank zero, as far as Lightning knows."""
    return getattr(rank_zero_only, "rank", 0) == 0


def say(text: str) -> None:
    """Print a line to stderr, in the process of rank zero; characters that a terminal obeys are escaped."""
    if is_rank_zero():
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
        new = [name for name in dict.fromkeys(names) if name.partition(" (")[0] not in self._names]
        self._names |= {name.partition(" (")[0] for name in new}
        if new:
            more = f" and {len(new) - MAX_NAMES} more" if len(new) > MAX_NAMES else ""
            one = what.replace("change ", "changes ") if len(new) == 1 else what
            self.announce(f"{', '.join(new[:MAX_NAMES])}{more} {one}")
