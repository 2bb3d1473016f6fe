"""Encoding of values as tensors and plain values for checkpoints; decoding runs no code from the checkpoint."""

import collections
import random
import sys
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

MAX_ITEMS = 200_000  # in a container
MAX_BYTES = 2**28  # in a tensor or an array
MAX_DEPTH = 20
KIND = "<kind>"  # key that marks an encoded object; a user's dictionary with this key is refused

PLAIN = (type(None), bool, int, float, complex, str, bytes)
BIT_GENERATORS = (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
# Packages whose objects can't be restored from their attributes alone.
OPAQUE_PACKAGES = {
    "torch",
    "lightning",
    "pytorch_lightning",
    "numpy",
    "omegaconf",
    "hydra",
    *sys.stdlib_module_names,
}
# Objects that belong to the trainer, or whose parts are examined separately.
SEPARATE = (L.Trainer, L.Callback, L.pytorch.loggers.Logger, L.pytorch.strategies.Strategy, DataLoader)


class NotEncodableError(ValueError):
    """Error for a value that can't be encoded for a checkpoint."""


def has_state_dict(value: Any) -> bool:
    """Return whether an object saves its own state, like an optimizer.

    False for modules, data modules and callbacks, which may hold more than their `state_dict`; they are examined
    instead.
    """
    return not isinstance(value, nn.Module | L.LightningDataModule | L.Callback) and all(
        callable(getattr(value, name, None)) for name in ("state_dict", "load_state_dict")
    )


def attribute_names(value: Any) -> list[str]:
    """Return the names of an object's own attributes, including those in `__slots__`."""
    slots = (getattr(kind, "__slots__", ()) for kind in type(value).__mro__)
    named = [name for each in slots for name in ([each] if isinstance(each, str) else each)]
    return [*getattr(value, "__dict__", {}), *(n for n in named if n not in ("__dict__", "__weakref__"))]


def encode(value: Any, depth: int = 0) -> Any:
    """Return a value encoded for a checkpoint; tensors are not copied.

    Raises:
        NotEncodableError: The value contains something other than plain values, tensors, arrays, random generators
            and Python's containers of these, or is too large.
    """
    if depth > MAX_DEPTH:
        raise NotEncodableError("it holds itself, or is too deep")
    if isinstance(value, PLAIN) and type(value) in PLAIN:
        return value
    if isinstance(value, Tensor):
        if value.nbytes > MAX_BYTES or value.device.type == "meta" or value.is_sparse:
            raise NotEncodableError("too large, or no values")
        return {KIND: "tensor", "values": value.detach().cpu(), "device": value.device.type}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.hasobject is False:
        if value.nbytes > MAX_BYTES or value.dtype.names:
            raise NotEncodableError("too large, or of records")
        raw = torch.from_numpy(np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8).copy())
        is_scalar = isinstance(value, np.generic)
        return {
            KIND: "array",
            "bytes": raw,
            "dtype": value.dtype.str,
            "shape": list(value.shape),
            "scalar": is_scalar,
        }
    if isinstance(value, GENERATORS):
        kind = type(value).__name__
        return {KIND: "generator", "class": kind, "state": _generator_state(value)}
    if has_state_dict(value):
        return {KIND: "state_dict", "state": encode(value.state_dict(), depth + 1)}
    if isinstance(value, dict | list | tuple | set | frozenset | collections.deque):
        return _encode_container(value, depth)
    return _encode_object(value, depth)


def _encode_container(value: Any, depth: int) -> Any:
    if len(value) > MAX_ITEMS:
        raise NotEncodableError("too many items")
    if isinstance(value, dict):
        if KIND in value or not all(_is_key(key) for key in value):
            raise NotEncodableError("its keys are no plain values")
        items: Any = {key: encode(each, depth + 1) for key, each in value.items()}
        return items if type(value) is dict else {KIND: "dict", "class": _class_name(type(value)), "items": items}
    items = [encode(each, depth + 1) for each in value]
    if type(value) is list:
        return items
    made = {KIND: type(value).__name__, "items": items}
    if isinstance(value, collections.deque):
        return {**made, KIND: "deque", "maxlen": value.maxlen}
    if type(value) in (tuple, set, frozenset):
        return made
    return {**made, KIND: "named" if hasattr(value, "_fields") else "other", "class": _class_name(type(value))}


def _is_key(key: Any) -> bool:
    return type(key) in PLAIN or (type(key) is tuple and all(map(_is_key, key)))


def _encode_object(value: Any, depth: int) -> Any:
    kind = type(value)
    is_own = kind.__module__.partition(".")[0] not in {*OPAQUE_PACKAGES, "leyden"} and not isinstance(
        value, (*SEPARATE, nn.Module)
    )
    if not (is_own and _has_default_new(kind) and attribute_names(value)):
        raise NotEncodableError(f"a {kind.__name__}")
    there = {name: getattr(value, name) for name in attribute_names(value) if hasattr(value, name)}
    return {
        KIND: "object",
        "class": _class_name(kind),
        "attributes": {name: encode(each, depth + 1) for name, each in there.items()},
    }


def decode(kept: Any, here: Any = None, *, in_place: bool = False) -> Any:
    """Return the decoded value; with `in_place`, update the existing object `here` if it is mutable."""
    if not isinstance(kept, dict) or KIND not in kept:
        if isinstance(kept, list):
            items: Any = [decode(each) for each in kept]
        elif isinstance(kept, dict):
            items = {key: decode(each) for key, each in kept.items()}
        else:
            return kept
        return _refill(here, items) if in_place and isinstance(here, type(items)) else items
    kind = kept[KIND]
    if kind == "generator":
        return _restore_generator(here if isinstance(here, GENERATORS) else _new_generator(kept), kept["state"])
    if kind == "state_dict":
        if not has_state_dict(here):
            raise TypeError("there is nothing with a load_state_dict in its place")
        here.load_state_dict(decode(kept["state"]))
        return here
    if kind == "tensor":
        values = kept["values"].clone()
        if in_place and isinstance(here, Tensor) and here.shape == values.shape and here.dtype == values.dtype:
            here.detach().copy_(values)
            return here
        return values.to(here.device if isinstance(here, Tensor) else kept["device"])
    if kind == "array":
        array = np.frombuffer(kept["bytes"].numpy().tobytes(), kept["dtype"]).reshape(kept["shape"]).copy()
        if in_place and isinstance(here, np.ndarray) and here.shape == array.shape and here.dtype == array.dtype:
            here[...] = array
            return here
        return array[()] if kept["scalar"] else array
    if kind == "object":
        made = _imported_class(kept["class"])
        new = here if in_place and type(here) is made else object.__new__(made)
        for name, each in kept["attributes"].items():
            object.__setattr__(new, name, decode(each))
        return new
    return _decode_container(kept, here, in_place=in_place)


def _decode_container(kept: dict[str, Any], here: Any, *, in_place: bool) -> Any:
    kind = kept[KIND]
    if kind == "dict":
        pairs = {key: decode(each) for key, each in kept["items"].items()}
        known: list[Any] = [collections.OrderedDict, collections.Counter]
        for each in known:
            if kept["class"] == _class_name(each) and not in_place:
                return each(pairs)
        return _refill(_same_class(here, kept), pairs)
    items = [decode(each) for each in kept["items"]]
    if kind == "deque":
        if in_place and isinstance(here, collections.deque):
            return _refill(here, items)
        return collections.deque(items, kept["maxlen"])
    if kind == "set" and in_place and isinstance(here, set):
        return _refill(here, items)
    if kind == "named":
        made = _imported_class(kept["class"])
        if not (issubclass(made, tuple) and len(getattr(made, "_fields", ())) == len(items)):
            raise TypeError(f"{kept['class']} is no named tuple of {len(items)}")
        return tuple.__new__(made, items)
    if kind == "other":
        return _refill(_same_class(here, kept), items)
    return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](items)


def _refill(here: Any, items: Any) -> Any:
    here.clear()
    (here.update if isinstance(here, dict | set) else here.extend)(items)
    return here


def _same_class(here: Any, kept: dict[str, Any]) -> Any:
    if _class_name(type(here)) != kept["class"]:
        raise TypeError(f"it was a {kept['class']}, here it is a {type(here).__name__}")
    return here


def _has_default_new(kind: Any) -> bool:
    """Return whether instances of a class can be created without running its own `__new__`."""
    return kind.__new__ is object.__new__


def _class_name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _imported_class(name: str) -> type:
    """Return a class that this process has already imported, without importing anything or running its code."""
    module, _, path = name.partition(":")
    found: Any = sys.modules[module]
    for part in path.split("."):
        found = vars(found)[part]
    if not isinstance(found, type) or not (_has_default_new(found) or issubclass(found, tuple)):
        raise TypeError(f"{name} is no plain class")
    return found


def _generator_state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return encode(generator.getstate())
    if isinstance(generator, np.random.Generator):
        return encode(generator.bit_generator.state)
    return encode(generator.get_state(legacy=False))


def _new_generator(kept: dict[str, Any]) -> Any:
    if kept["class"] == "Generator" and isinstance(kept["state"], dict):
        return np.random.Generator(
            {each.__name__: each for each in BIT_GENERATORS}[kept["state"]["bit_generator"]]()
        )
    return {"Generator": torch.Generator, "Random": random.Random, "RandomState": np.random.RandomState}[
        kept["class"]
    ]()


def _restore_generator(here: Any, state: Any) -> Any:
    if isinstance(here, torch.Generator):
        here.set_state(state)
    elif isinstance(here, random.Random):
        here.setstate(decode(state))
    elif isinstance(here, np.random.Generator):
        here.bit_generator.state = decode(state)
    else:
        here.set_state(decode(state))
    return here
