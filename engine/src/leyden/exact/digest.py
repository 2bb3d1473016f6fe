"""Digests of values by their content: of weights, of batches, and of whatever else a run has in memory."""

import collections
import enum
import hashlib
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_DEPTH = 20  # levels of nesting
MAX_ITEMS = 10_000  # of a larger container, evenly spaced items count
PLAIN = (type(None), bool, int, float, complex, str, bytes)


def digest_of_content(content: Any) -> str:
    """Return the SHA-256 of nested containers of tensors and plain values, including types and shapes.

    Example:
        >>> digest_of_content({"a": torch.zeros(2)}) == digest_of_content({"a": -torch.zeros(2)})
        False
    """
    return digest(content, None)


def digest(content: Any, max_bytes: int | None, of_object: Callable[[Any], str] | None = None) -> str:
    """Return a hash of content.

    Args:
        content: Tensors, arrays, plain values, and containers of these.
        max_bytes: Bytes of a tensor or an array up to which all of them count; of a larger one, a part counts that is
            evenly spaced. None for all bytes, and all items.
        of_object: Returns a text for any other object; by default its class counts, and its `state_dict()`, its content as
            an array, or its attributes.

    Raises:
        Exception: The values of an object can't be read.
    """
    sha = hashlib.sha256()
    _update(sha, content, max_bytes, of_object, 0)
    return sha.hexdigest()


def attribute_names(value: Any) -> list[str]:
    """Return the names of an object's own attributes, including those in `__slots__`."""
    slots = (getattr(kind, "__slots__", ()) for kind in type(value).__mro__)
    named = [name for each in slots for name in ([each] if isinstance(each, str) else each)]
    try:  # without `__getattr__`, by which a proxy answers for another object
        own = object.__getattribute__(value, "__dict__")
    except Exception:  # there is none, or a property of user code raises
        own = {}
    return [*own, *(n for n in named if n not in ("__dict__", "__weakref__"))]


def _update(
    sha: Any, content: Any, max_bytes: int | None, of_object: Callable[[Any], str] | None, depth: int
) -> None:
    kind = type(content)
    if depth > MAX_DEPTH:  # it may hold itself
        return
    if issubclass(kind, np.ndarray) and kind not in (np.ndarray, np.memmap):  # as a masked array's mask
        _update(sha, vars(content), max_bytes, of_object, depth + 1)
    if issubclass(kind, Tensor):
        for part in strided(content.detach()):
            sha.update(f"{part.dtype}{tuple(part.shape)}".encode())
            if part.device.type != "meta":
                whole = _sampled(part, max_bytes).resolve_conj().resolve_neg().cpu().contiguous()
                _update_by_bytes(sha, whole.reshape(-1).view(torch.uint8).numpy())
    elif issubclass(kind, np.ndarray | np.generic):
        sha.update(f"{content.dtype}{content.shape}".encode())
        if content.dtype.hasobject:
            _update(sha, content.tolist(), max_bytes, of_object, depth + 1)
        else:
            _update_by_bytes(sha, _sampled(np.asarray(content), max_bytes))
    elif issubclass(kind, dict):
        sha.update(f"dict{len(content)}".encode())
        for pair in _some(content.items(), len(content), max_bytes):
            for each in pair:
                _update(sha, each, max_bytes, of_object, depth + 1)
    elif issubclass(kind, set | frozenset):  # their order follows from hashes, which differ between processes
        _update(sha, sorted(map(repr, content)), max_bytes, of_object, depth + 1)
    elif issubclass(kind, list | tuple | collections.deque):
        sha.update(f"list{len(content)}".encode())
        for each in _some(content, len(content), max_bytes):
            _update(sha, each, max_bytes, of_object, depth + 1)
    elif kind in PLAIN or issubclass(kind, enum.Enum):
        sha.update(f"{kind.__name__} {content!r} ".encode())
    elif of_object:
        sha.update(of_object(content).encode())
    else:
        sha.update(f"{kind.__qualname__} {content.__qualname__ if isinstance(content, type) else ''}".encode())
        if not isinstance(content, type):
            _update(sha, _content_of(content), max_bytes, of_object, depth + 1)


def _content_of(value: Any) -> Any:
    kind = type(value)
    if callable(getattr(kind, "state_dict", None)):
        return value.state_dict()
    if hasattr(kind, "__array__"):  # of JAX, or a picture
        return np.asarray(value)
    return {name: getattr(value, name) for name in attribute_names(value) if hasattr(value, name)}


def strided(value: Tensor) -> list[Tensor]:
    """Return the strided tensors that a tensor consists of: a sparse or nested one has several."""
    if hasattr(value, "to_local"):  # a DTensor: this process's part
        return strided(value.to_local())
    if value.is_nested:
        return [*value.unbind()]
    if value.is_quantized:
        return [value.int_repr()]
    if value.layout == torch.sparse_coo:
        return [value._indices(), value._values()]  # `indices` refuses one that is not coalesced
    if value.layout == torch.strided:
        return [value]
    by_row = value.layout in (torch.sparse_csr, torch.sparse_bsr)
    indices = [value.crow_indices(), value.col_indices()] if by_row else [value.ccol_indices(), value.row_indices()]
    return [*indices, value.values()]


def _sampled(value: Any, max_bytes: int | None) -> Any:
    """Return a tensor or an array, or an evenly spaced view of a larger one."""
    if max_bytes is None or value.nbytes <= max_bytes:
        return value
    step, size = -(-value.nbytes // max_bytes), value.itemsize
    for dim, length in enumerate(value.shape):
        along = min(step, length)
        value, step = value[(slice(None),) * dim + (slice(None, None, along),)], -(-step // along)
    return value if value.nbytes <= max_bytes + size else value.reshape(-1)[: max_bytes // size]


def _some(items: Iterable[Any], count: int, max_bytes: int | None) -> Iterable[Any]:
    """Return items; evenly spaced ones if only a part of large content counts."""
    step = 1 if max_bytes is None else 1 + count // MAX_ITEMS
    return items[::step] if isinstance(items, list | tuple) else itertools.islice(items, None, None, step)


def _update_by_bytes(sha: Any, value: Any) -> None:
    whole = np.ascontiguousarray(value).reshape(-1)
    sha.update(whole.view(np.uint8) if whole.itemsize else b"")
