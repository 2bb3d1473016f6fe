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
    "numba",
    "llvmlite",
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
    try:  # without `__getattr__`, by which a proxy answers for another object
        own = object.__getattribute__(value, "__dict__")
    except Exception:  # there is none, or a property of user code raises
        own = {}
    return [*own, *(n for n in named if n not in ("__dict__", "__weakref__"))]


def encode(value: Any, depth: int = 0) -> Any:
    """Return a value encoded for a checkpoint; tensors are not copied.

    Raises:
        NotEncodableError: The value contains something other than plain values, tensors, arrays, random generators
            and Python's containers of these, or is too large.
    """
    if depth > MAX_DEPTH:
        raise NotEncodableError("it contains itself, or is nested too deeply")
    if isinstance(value, PLAIN) and type(value) in PLAIN:
        return value
    if isinstance(value, Tensor):
        if value.nbytes > MAX_BYTES or value.device.type == "meta" or value.is_sparse:
            raise NotEncodableError("too large, or without values")
        return {KIND: "tensor", "values": value.detach().cpu(), "device": value.device.type}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.hasobject is False:
        if value.nbytes > MAX_BYTES or value.dtype.names:
            raise NotEncodableError("too large, or a structured array")
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
            raise NotEncodableError("its keys are not plain values")
        items: Any = {key: encode(each, depth + 1) for key, each in value.items()}
        return items if type(value) is dict else {KIND: "dict", "class": _class_name(type(value)), "items": items}
    # Sets are ordered by hashes, which differ between processes for texts.
    parts = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
    items = [encode(each, depth + 1) for each in parts]
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


def decode(encoded: Any, existing: Any = None, *, in_place: bool = False) -> Any:
    """Return the decoded value; with `in_place`, update `existing` if it is mutable."""
    if not isinstance(encoded, dict) or KIND not in encoded:
        if isinstance(encoded, list):
            items: Any = [decode(each) for each in encoded]
        elif isinstance(encoded, dict):
            items = {key: decode(each) for key, each in encoded.items()}
        else:
            return encoded
        return _refill(existing, items) if in_place and isinstance(existing, type(items)) else items
    kind = encoded[KIND]
    if kind == "generator":
        return _restore_generator(
            existing if isinstance(existing, GENERATORS) else _new_generator(encoded), encoded["state"]
        )
    if kind == "state_dict":
        if not has_state_dict(existing):
            raise TypeError("the object in its place has no load_state_dict")
        existing.load_state_dict(decode(encoded["state"]))
        return existing
    if kind == "tensor":
        values = encoded["values"].clone()
        if (
            in_place
            and isinstance(existing, Tensor)
            and existing.shape == values.shape
            and existing.dtype == values.dtype
        ):
            existing.detach().copy_(values)
            return existing
        return values.to(existing.device if isinstance(existing, Tensor) else encoded["device"])
    if kind == "array":
        array = np.frombuffer(encoded["bytes"].numpy().tobytes(), encoded["dtype"]).reshape(encoded["shape"]).copy()
        if (
            in_place
            and isinstance(existing, np.ndarray)
            and existing.shape == array.shape
            and existing.dtype == array.dtype
        ):
            existing[...] = array
            return existing
        return array[()] if encoded["scalar"] else array
    if kind == "object":
        made = _imported_class(encoded["class"])
        new = existing if in_place and type(existing) is made else object.__new__(made)
        for name, each in encoded["attributes"].items():
            object.__setattr__(new, name, decode(each))
        return new
    return _decode_container(encoded, existing, in_place=in_place)


def _decode_container(encoded: dict[str, Any], existing: Any, *, in_place: bool) -> Any:
    kind = encoded[KIND]
    if kind == "dict":
        pairs = {key: decode(each) for key, each in encoded["items"].items()}
        known: list[Any] = [collections.OrderedDict, collections.Counter]
        for each in known:
            if encoded["class"] == _class_name(each) and not in_place:
                return each(pairs)
        return _refill(_same_class(existing, encoded), pairs)
    items = [decode(each) for each in encoded["items"]]
    if kind == "deque":
        if in_place and isinstance(existing, collections.deque):
            return _refill(existing, items)
        return collections.deque(items, encoded["maxlen"])
    if kind == "set" and in_place and isinstance(existing, set):
        return _refill(existing, items)
    if kind == "named":
        made = _imported_class(encoded["class"])
        if not (issubclass(made, tuple) and len(getattr(made, "_fields", ())) == len(items)):
            raise TypeError(f"{encoded['class']} is not a named tuple of length {len(items)}")
        return tuple.__new__(made, items)
    if kind == "other":
        return _refill(_same_class(existing, encoded), items)
    return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](items)


def _refill(existing: Any, items: Any) -> Any:
    existing.clear()
    (existing.update if isinstance(existing, dict | set) else existing.extend)(items)
    return existing


def _same_class(existing: Any, encoded: dict[str, Any]) -> Any:
    if _class_name(type(existing)) != encoded["class"]:
        raise TypeError(f"it was a {encoded['class']}, here it is a {type(existing).__name__}")
    return existing


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
        raise TypeError(f"{name} is not a plain class")
    return found


def _generator_state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return encode(generator.getstate())
    if isinstance(generator, np.random.Generator):
        return encode(generator.bit_generator.state)
    return encode(generator.get_state(legacy=False))


def _new_generator(encoded: dict[str, Any]) -> Any:
    if encoded["class"] == "Generator" and isinstance(encoded["state"], dict):
        return np.random.Generator(
            {each.__name__: each for each in BIT_GENERATORS}[encoded["state"]["bit_generator"]]()
        )
    return {"Generator": torch.Generator, "Random": random.Random, "RandomState": np.random.RandomState}[
        encoded["class"]
    ]()


def _restore_generator(existing: Any, state: Any) -> Any:
    if isinstance(existing, torch.Generator):
        existing.set_state(state)
    elif isinstance(existing, random.Random):
        existing.setstate(decode(state))
    elif isinstance(existing, np.random.Generator):
        existing.bit_generator.state = decode(state)
    else:
        existing.set_state(decode(state))
    return existing
