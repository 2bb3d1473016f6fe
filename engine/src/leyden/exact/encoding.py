"""Encoding of values as tensors and plain values for checkpoints; decoding runs no code from the checkpoint."""

import collections
import hashlib
import random
import sys
import sysconfig
import types
from pathlib import PurePath
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.utilities.data import AttributeDict
from torch import Tensor, nn
from torch.utils.data import DataLoader

MAX_ITEMS = 200_000  # in a container
MAX_BYTES = 2**28  # in a tensor or an array
MAX_DEPTH = 20
KIND = "<kind>"  # key that marks an encoded object; a user's dictionary with this key is refused

PLAIN = (type(None), bool, int, float, complex, str, bytes)
BIT_GENERATORS = (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
# Dictionaries of libraries, of which a checkpoint may make the first two; the last one is that of hyperparameters.
DICTIONARIES = (collections.OrderedDict, collections.Counter, collections.defaultdict, AttributeDict)
INSTALL_DIRECTORIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
# Packages whose objects have state besides their attributes.
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


# In place of a value at the start: everything that can be seen is encoded, for a digest alone.
ANYTHING = object()
SEQUENCES: dict[str, Any] = {"tuple": tuple, "Size": torch.Size, "set": set, "frozenset": frozenset}


class NotEncodableError(ValueError):
    """Error for a value that can't be encoded for a checkpoint."""


def has_state_dict(value: Any) -> bool:
    """Return whether an object saves its own state, like an optimizer.

    False for modules, data modules and callbacks, which may hold more than their `state_dict`; they are examined
    instead. The class is asked, since a proxy may answer for another object, or raise.
    """
    return not isinstance(value, nn.Module | L.LightningDataModule | L.Callback) and all(
        callable(getattr(type(value), name, None)) for name in ("state_dict", "load_state_dict")
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


def is_own(kind: type) -> bool:
    """Return whether a class is defined in the project, and neither in the library nor in an installed package."""
    module = sys.modules.get(kind.__module__)
    return module is not None and is_own_module(kind.__module__, module)


def is_own_module(name: str, module: Any) -> bool:
    """Return whether a module is neither the library's nor of an installed package."""
    file: str | None = getattr(module, "__file__", None)
    is_installed = file is None or file.startswith(INSTALL_DIRECTORIES)
    is_installed = is_installed or not {"site-packages", "dist-packages"}.isdisjoint(PurePath(str(file)).parts)
    return not is_installed and name.partition(".")[0] != "leyden"


def encode(value: Any, here: Any = None, depth: int = 0) -> Any:
    """Return a value encoded for a checkpoint; tensors are not copied.

    Args:
        value: The value.
        here: Value that stands in its place when a run starts. Where it has the same class, what no checkpoint may
            make can be restored into it. `ANYTHING` if the result is not for a checkpoint.
        depth: Number of containers around the value.

    Raises:
        NotEncodableError: The value contains something other than plain values, tensors, arrays, random generators
            and Python's containers of these, or is too large.
    """
    if depth > MAX_DEPTH:
        raise NotEncodableError("it contains itself, or is nested too deeply")
    kind, is_same_kind = type(value), here is ANYTHING or type(value) is type(here)
    within = ANYTHING if here is ANYTHING else None
    if kind in PLAIN:
        return value
    if isinstance(value, Tensor):
        return _encode_tensor(value)
    if kind in (np.ndarray, np.memmap) or isinstance(value, np.generic):
        return _encode_array(value)
    if kind in GENERATORS or (isinstance(value, GENERATORS) and is_same_kind):
        return {KIND: "generator", "class": kind.__name__, "state": _generator_state(value)}
    if isinstance(value, dict | list | tuple | set | frozenset | collections.deque):
        return _encode_container(value, here, depth)
    if is_same_kind and has_state_dict(value):
        return {KIND: "state_dict", "state": encode(value.state_dict(), within, depth + 1)}
    raise NotEncodableError(f"{kind.__name__} object")


def _encode_tensor(value: Tensor) -> Any:
    if type(value) not in (Tensor, nn.Parameter):
        raise NotEncodableError(f"{type(value).__name__} object")
    if value.layout != torch.strided or value.is_nested:
        raise NotEncodableError("a sparse or nested tensor")
    if value.nbytes > MAX_BYTES or value.device.type == "meta":
        raise NotEncodableError("too large, or without values")
    values = value.detach().cpu().resolve_conj().resolve_neg()
    return {
        KIND: "tensor",
        "values": values.clone() if values.is_inference() else values,
        "device": value.device.type,
    }


def _encode_array(value: Any) -> Any:
    if value.dtype.hasobject or value.dtype.names or value.nbytes > MAX_BYTES:
        raise NotEncodableError("too large, or an array of objects or records")
    raw = torch.from_numpy(np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8).copy())
    return {
        KIND: "array",
        "bytes": raw,
        "dtype": value.dtype.str,
        "shape": list(value.shape),
        "scalar": isinstance(value, np.generic),
    }


def _encode_container(value: Any, here: Any, depth: int) -> Any:
    kind, is_same_kind = type(value), here is ANYTHING or type(value) is type(here)
    within = ANYTHING if here is ANYTHING else None
    if len(value) > MAX_ITEMS:
        raise NotEncodableError("too many items")
    if isinstance(value, dict):
        if KIND in value or not all(_is_key(key) for key in value):
            raise NotEncodableError("its keys are not plain values")
        if not (kind in (dict, *DICTIONARIES[:2]) or (is_same_kind and _is_refillable(kind))):
            raise NotEncodableError(f"{kind.__name__} object")
        items: Any = {key: encode(each, within, depth + 1) for key, each in value.items()}
        return items if kind is dict else {KIND: "dict", "class": _class_name(kind), "items": items}
    # Sets are ordered by hashes, which differ between processes for texts.
    parts = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
    items = [encode(each, within, depth + 1) for each in parts]
    if kind is list:
        return items
    if kind is collections.deque:
        return {KIND: "deque", "items": items, "maxlen": value.maxlen}
    if kind in SEQUENCES.values():
        return {KIND: kind.__name__, "items": items}
    if _is_named_tuple(kind) and not getattr(value, "__dict__", None):
        return {KIND: "named", "items": items, "class": _class_name(kind)}
    if is_same_kind and _is_refillable(kind):
        return {KIND: "other", "items": items, "class": _class_name(kind)}
    raise NotEncodableError(f"{kind.__name__} object")


def _is_key(key: Any) -> bool:
    return type(key) in PLAIN or (type(key) is tuple and all(map(_is_key, key)))


def _is_refillable(kind: type) -> bool:
    """Return whether an existing container of a class may be emptied and filled again."""
    return kind in DICTIONARIES or (is_own(kind) and issubclass(kind, dict | list | set | collections.deque))


def _is_named_tuple(kind: Any) -> bool:
    """Return whether a class is a named tuple of the project, of which no code runs when one is made or deleted."""
    return issubclass(kind, tuple) and hasattr(kind, "_fields") and is_own(kind) and not hasattr(kind, "__del__")


def decode(encoded: Any, existing: Any = None, *, in_place: bool = False) -> Any:
    """Return the decoded value; with `in_place`, update `existing` if it is mutable."""
    if not isinstance(encoded, dict) or KIND not in encoded:
        if isinstance(encoded, list):
            items: Any = [decode(each) for each in encoded]
        elif isinstance(encoded, dict):
            items = {key: decode(each) for key, each in encoded.items()}
        else:
            return encoded
        return _refill(existing, items) if in_place and type(existing) is type(items) else items
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
        if in_place and isinstance(existing, Tensor) and _is_writable(existing, values):
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
    if kind not in (*SEQUENCES, "dict", "deque", "named", "other"):
        raise TypeError(f"a checkpoint may not hold an {kind}")
    return _decode_container(encoded, existing, in_place=in_place)


def _is_writable(existing: Tensor, values: Tensor) -> bool:
    is_dense = existing.layout == torch.strided and not existing.is_nested and 0 not in existing.stride()
    is_alike = is_dense and existing.shape == values.shape and existing.dtype == values.dtype
    return is_alike and not existing.is_inference()


def _decode_container(encoded: dict[str, Any], existing: Any, *, in_place: bool) -> Any:
    kind = encoded[KIND]
    if kind == "dict":
        pairs = {key: decode(each) for key, each in encoded["items"].items()}
        for each in DICTIONARIES[:2]:
            if encoded["class"] == _class_name(each) and not in_place:
                return each(pairs)
        return _refill(_same_class(existing, encoded), pairs)
    items = [decode(each) for each in encoded["items"]]
    if kind == "deque":
        if in_place and type(existing) is collections.deque:
            return _refill(existing, items)
        return collections.deque(items, encoded["maxlen"])
    if kind == "set" and in_place and type(existing) is set:
        return _refill(existing, items)
    if kind == "named":
        made = _own_named_tuple(encoded["class"])
        if len(made._fields) != len(items):
            raise TypeError(f"{encoded['class']} is not a named tuple of length {len(items)}")
        return tuple.__new__(made, items)
    if kind == "other":
        return _refill(_same_class(existing, encoded), items)
    return SEQUENCES[kind](items)


def _refill(existing: Any, items: Any) -> Any:
    existing.clear()
    (existing.update if isinstance(existing, dict | set) else existing.extend)(items)
    return existing


def _same_class(existing: Any, encoded: dict[str, Any]) -> Any:
    kind = type(existing)
    if _class_name(kind) != encoded["class"] or not _is_refillable(kind):
        raise TypeError(f"it was a {encoded['class']}, here it is a {kind.__name__}")
    return existing


def _class_name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _own_named_tuple(name: str) -> Any:
    """Return a named tuple that a module of the project defines and has imported; runs no code of it."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = vars(found).get(part) if isinstance(found, type | types.ModuleType) else None
    if not (isinstance(found, type) and _class_name(found) == name and _is_named_tuple(found)):
        raise TypeError(f"{name} is not a named tuple of this project")
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


def digest_of_content(content: Any) -> str:
    """Return the SHA-256 of nested dictionaries and lists of tensors and plain values, including types and shapes.

    Example:
        >>> digest_of_content({"a": torch.zeros(2)}) == digest_of_content({"a": -torch.zeros(2)})
        False
    """
    sha = hashlib.sha256()
    _update_hash(sha, content)
    return sha.hexdigest()


def _update_hash(sha: Any, content: Any) -> None:
    if isinstance(content, Tensor):
        whole = content.detach().cpu().contiguous()
        sha.update(f"{whole.dtype}{tuple(whole.shape)}".encode())
        sha.update(whole.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(content, dict):
        sha.update(f"dict{len(content)}".encode())
        for key, value in content.items():
            _update_hash(sha, key)
            _update_hash(sha, value)
    elif isinstance(content, list | tuple):
        sha.update(f"list{len(content)}".encode())
        for value in content:
            _update_hash(sha, value)
    else:
        sha.update(f"{type(content).__name__} {content!r} ".encode())
