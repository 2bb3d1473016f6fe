"""Digests of values by their content: of weights, of batches, and of whatever else a run has in memory."""

import collections
import enum
import hashlib
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

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


def digest(
    content: Any, max_bytes: int | None, of_object: Callable[[Any], Any] | None = None
) -> str:
    """Return a hash of content.

    Args:
        content: Tensors, arrays, plain values, and containers of these.
        max_bytes: Bytes of a tensor or an array up to which all of them count; of a larger one, a part counts that is
            evenly spaced. None for all bytes, and all items.
        of_object: Returns the content of any other object; by default its class counts, and its `state_dict()`, its content
            as an array, or its attributes.

    Raises:
        Exception: The values of an object can't be read.
    """
    made = _Digest(max_bytes, of_object or _content_of)
    made.add(content)
    return str(made.sha.hexdigest())


def attribute_names(value: Any) -> list[str]:
    """Return the names of an object's own attributes, including those in `__slots__`."""
    named: list[str] = []
    for kind in type(value).__mro__:
        slots = getattr(kind, "__slots__", ())
        named.extend([slots] if isinstance(slots, str) else slots)
    try:  # without `__getattr__`, by which a proxy answers for another object
        own = object.__getattribute__(value, "__dict__")
    except Exception:  # there is none, or a property of user code raises
        own = {}
    others = [name for name in named if name not in ("__dict__", "__weakref__")]
    return [*own, *others]


def is_labelled(kind: type) -> bool:
    """Return whether a class of tensors only adds attributes to a tensor's data; some wrap other tensors."""
    is_plain = kind in (Tensor, nn.Parameter) or not issubclass(kind, Tensor)
    return not is_plain and getattr(kind, "__torch_dispatch__", None) is Tensor.__torch_dispatch__


class _Digest:
    """A hash to which content is added, see `digest`."""

    def __init__(self, max_bytes: int | None, of_object: Callable[[Any], Any]) -> None:
        self.sha: Any = hashlib.sha256()
        self.max_bytes, self.of_object = max_bytes, of_object

    def add(self, content: Any, depth: int = 0) -> None:
        """Add content, at a depth of nesting."""
        kind = type(content)
        if depth > MAX_DEPTH:  # it may hold itself
            return
        if issubclass(kind, Tensor):
            if is_labelled(kind):
                self.add(content.__dict__, depth + 1)
            for part in strided(content.detach()):
                self._add_tensor(part)
        elif issubclass(kind, np.ndarray | np.generic):
            self._add_array(content, depth)
        elif issubclass(kind, dict):
            self.sha.update(f"dict{len(content)}".encode())
            for pair in self._some(content.items(), len(content)):
                for each in pair:
                    self.add(each, depth + 1)
        elif issubclass(
            kind, set | frozenset
        ):  # their order follows from hashes, which differ between processes
            self.add(sorted(map(repr, content)), depth + 1)
        elif issubclass(kind, list | tuple | collections.deque):
            self.sha.update(f"list{len(content)}".encode())
            for each in self._some(content, len(content)):
                self.add(each, depth + 1)
        elif kind in PLAIN or issubclass(kind, enum.Enum):
            self.sha.update(f"{kind.__name__} {content!r} ".encode())
        else:
            self.add(self.of_object(content), depth + 1)

    def _add_tensor(self, value: Tensor) -> None:
        self.sha.update(f"{value.dtype}{tuple(value.shape)}".encode())
        if not value.is_meta:
            whole = self._sampled(value).resolve_conj().resolve_neg().cpu().contiguous()
            self._add_bytes(whole.reshape(-1).view(torch.uint8).numpy())

    def _add_array(self, value: Any, depth: int) -> None:
        if type(value) not in (np.ndarray, np.memmap):  # as a masked array's mask
            self.add(getattr(value, "__dict__", None), depth + 1)
        self.sha.update(f"{value.dtype}{value.shape}".encode())
        if value.dtype.hasobject:
            self.add(value.tolist(), depth + 1)
        else:
            self._add_bytes(self._sampled(np.asarray(value)))

    def _add_bytes(self, value: Any) -> None:
        whole = np.ascontiguousarray(value).reshape(-1)
        self.sha.update(whole.view(np.uint8) if whole.itemsize else b"")

    def _sampled(self, value: Any) -> Any:
        """Return a tensor or an array, or an evenly spaced view of a larger one."""
        if self.max_bytes is None or value.nbytes <= self.max_bytes:
            return value
        step, size = -(-value.nbytes // self.max_bytes), value.itemsize
        for dim, length in enumerate(value.shape):
            along = min(step, length)
            value, step = (
                value[(slice(None),) * dim + (slice(None, None, along),)],
                -(-step // along),
            )
        return (
            value
            if value.nbytes <= self.max_bytes + size
            else value.reshape(-1)[: self.max_bytes // size]
        )

    def _some(self, items: Iterable[Any], count: int) -> Iterable[Any]:
        """Return items; evenly spaced ones if only a part of large content counts."""
        step = 1 if self.max_bytes is None else 1 + count // MAX_ITEMS
        return (
            items[::step]
            if isinstance(items, list | tuple)
            else itertools.islice(items, None, None, step)
        )


def _content_of(value: Any) -> Any:
    """Return what stands for an object of any other class."""
    kind = type(value)
    if isinstance(value, type):
        return kind.__qualname__, value.__qualname__
    if callable(getattr(kind, "state_dict", None)):
        return kind.__qualname__, value.state_dict()
    if hasattr(kind, "__array__"):  # of JAX, or a picture
        return kind.__qualname__, np.asarray(value)
    return kind.__qualname__, {
        name: getattr(value, name) for name in attribute_names(value) if hasattr(value, name)
    }


def strided(value: Tensor) -> list[Tensor]:
    """Return the strided tensors that a tensor consists of: a sparse or nested one has several."""
    if hasattr(value, "to_local"):  # a DTensor: this process's part
        return strided(value.to_local())
    if value.is_nested:
        return [*value.unbind()]
    if value.layout == torch.strided:
        return [value]
    sparse: Any = value.to_sparse_coo()  # type: ignore[no-untyped-call]
    return [sparse._indices(), sparse._values()]  # `indices` refuses one that is not coalesced
