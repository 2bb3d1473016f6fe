"""Digests of values by their content: of weights, batches, and what else a run has in memory."""

import enum
import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MAX_DIGEST_DEPTH = 20  # levels of nesting
MAX_ITEMS = 10_000  # of a larger container, evenly spaced items count
PLAIN_KINDS = (type(None), bool, int, float, complex, str, bytes)


def digest_of_content(content: Any) -> str:
    """Return the SHA-256 of nested containers of tensors and plain values.

    Types and shapes count, too.

    Example:
        >>> digest_of_content({"a": torch.zeros(2)}) == digest_of_content({"a": -torch.zeros(2)})
        False
    """
    return digest(content, None)


OfObject = Callable[[Any], Any]


def digest(content: Any, max_bytes: int | None, of_object: OfObject | None = None) -> str:
    """Return a hash of content.

    Args:
        content: Tensors, arrays, plain values, and containers of these.
        max_bytes: Bytes of a tensor or an array up to which all of them count; of a larger one, a
            part counts that is evenly spaced. None for all bytes, and all items.
        of_object: Returns the content of any other object; by default its class counts, and its
            `state_dict()`, its content as an array, or its attributes.

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
        if isinstance(slots, str):
            slots = [slots]
        for name in slots:
            if name not in ("__dict__", "__weakref__"):
                named.append(name)
    try:  # without `__getattr__`, by which a proxy answers for another object
        own = object.__getattribute__(value, "__dict__")
    except Exception:  # there is none, or a property of user code raises
        own = {}
    return [*own, *named]


def is_labelled(kind: type) -> bool:
    """Return whether a class only adds attributes to a tensor's data; some wrap other tensors."""
    if kind in (Tensor, nn.Parameter) or not issubclass(kind, Tensor):
        return False
    dispatch = getattr(kind, "__torch_dispatch__", None)
    return dispatch is Tensor.__torch_dispatch__


class _Digest:
    """A hash to which content is added, see `digest`."""

    def __init__(self, max_bytes: int | None, of_object: OfObject) -> None:
        self.sha: Any = hashlib.sha256()
        self.max_bytes = max_bytes
        self.of_object = of_object

    def add(self, content: Any, depth: int = 0) -> None:
        """Add content, at a depth of nesting."""
        kind = type(content)
        if depth > MAX_DIGEST_DEPTH:  # it may hold itself
            return
        inner = depth + 1
        if issubclass(kind, Tensor):
            if is_labelled(kind):
                self.add(content.__dict__, inner)
            parts = strided(content.detach())
            for part in parts:
                self._add_tensor(part)
        elif issubclass(kind, np.ndarray | np.generic):
            self._add_array(content, depth)
        elif issubclass(kind, dict):
            self._add_text(f"dict{len(content)}")
            pairs = self._some(content.items(), len(content))
            for key, value in pairs:
                self.add(key, inner)
                self.add(value, inner)
        elif issubclass(kind, set | frozenset):
            # Their order follows from hashes, which differ between processes.
            texts = sorted(map(repr, content))
            self.add(texts, inner)
        elif issubclass(kind, list | tuple | deque):
            self._add_text(f"list{len(content)}")
            items = self._some(content, len(content))
            for each in items:
                self.add(each, inner)
        elif kind in PLAIN_KINDS or issubclass(kind, enum.Enum):
            self._add_text(f"{kind.__name__} {content!r} ")
        else:
            other = self.of_object(content)
            self.add(other, inner)

    def _add_text(self, text: str) -> None:
        self.sha.update(text.encode())

    def _add_tensor(self, value: Tensor) -> None:
        self._add_text(f"{value.dtype}{tuple(value.shape)}")
        if value.is_meta:
            return
        part = self._sampled(value)
        plain = part.resolve_conj().resolve_neg()
        whole = plain.cpu().contiguous().reshape(-1)
        content = whole.view(torch.uint8)
        self._add_bytes(content.numpy())

    def _add_array(self, value: Any, depth: int) -> None:
        if type(value) not in (np.ndarray, np.memmap):  # as a masked array's mask
            attributes = getattr(value, "__dict__", None)
            self.add(attributes, depth + 1)
        self._add_text(f"{value.dtype}{value.shape}")
        if value.dtype.hasobject:
            self.add(value.tolist(), depth + 1)
        else:
            part = self._sampled(np.asarray(value))
            self._add_bytes(part)

    def _add_bytes(self, value: Any) -> None:
        whole = np.ascontiguousarray(value).reshape(-1)
        if whole.itemsize:
            self.sha.update(whole.view(np.uint8))

    def _sampled(self, value: Any) -> Any:
        """Return a tensor or an array, or an evenly spaced view of a larger one."""
        limit = self.max_bytes
        if limit is None or value.nbytes <= limit:
            return value
        step = -(-value.nbytes // limit)
        for dim, length in enumerate(value.shape):
            along = min(step, length)
            index = [slice(None)] * dim
            index.append(slice(None, None, along))
            value = value[tuple(index)]
            step = -(-step // along)
        size = value.itemsize
        if value.nbytes <= limit + size:
            return value
        count = limit // size
        return value.reshape(-1)[:count]

    def _some(self, items: Iterable[Any], count: int) -> Iterable[Any]:
        """Return items; evenly spaced ones if only a part of large content counts."""
        step = 1
        if self.max_bytes is not None:
            step += count // MAX_ITEMS
        if isinstance(items, list | tuple):
            return items[::step]
        return itertools.islice(items, None, None, step)


def _content_of(value: Any) -> Any:
    """Return what stands for an object of any other class."""
    kind = type(value)
    name = kind.__qualname__
    if isinstance(value, type):
        return name, value.__qualname__
    if callable(getattr(kind, "state_dict", None)):
        return name, value.state_dict()
    if hasattr(kind, "__array__"):  # of JAX, or a picture
        return name, np.asarray(value)
    attributes: dict[str, Any] = {}
    for each in attribute_names(value):
        if hasattr(value, each):
            attributes[each] = getattr(value, each)
    return name, attributes


def strided(value: Tensor) -> list[Tensor]:
    """Return the strided tensors that a tensor consists of: a sparse or nested one has several."""
    if hasattr(value, "to_local"):  # a DTensor: this process's part
        return strided(value.to_local())
    if value.is_nested:
        return [*value.unbind()]
    if value.layout == torch.strided:
        return [value]
    sparse: Tensor = value.to_sparse_coo().coalesce()  # type: ignore[no-untyped-call]
    return [sparse.indices(), sparse.values()]


def is_finite_module(module: nn.Module) -> bool:
    """Return whether all weights are finite; of sharded ones, this process's part."""
    for weights in module.parameters():
        for part in strided(weights.detach()):
            if not part.isfinite().all():
                return False
    return True
