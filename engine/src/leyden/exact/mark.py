"""Marks of training steps: hashes that `leyden resumetest` compares, from any training loop."""

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

MARKS = "LEYDEN_MARKS"  # environment variable: the file to which marks are appended
KILL_AT = "LEYDEN_MARKS_KILL_AT"  # environment variable: the step at whose mark the process group kills itself
PARTS = ("batch", "weights", "optimizer")
_CHUNK = 64 * 2**20  # bytes of a tensor that are copied at once, where a copy is needed
_warned: set[str] = set()


def mark(step: object, model: object = None, optimizer: object = None, batch: object = None) -> None:
    """Append a line with hashes of a training step to the file that `LEYDEN_MARKS` names; without it, do nothing.

    Call it once per step, after the optimizer's, in any loop of any framework; of several processes, in each.
    Tensors, arrays, numbers and texts are hashed by their content, in any nesting of containers and data classes; an
    object of another class by its `state_dict()`, else, within these, by the name of its class. An error never ends the
    training: it is one line on stderr.

    Example:
        >>> from leyden.exact import mark
        >>> mark(step=1, model={"weight": [0.5]}, batch=[1, 2])  # the variable is not set

    Args:
        step: A number or text that no other step of the training has.
        model: A module, or a mapping of tensors.
        optimizer: What has a `state_dict()`, or several such objects: optimizers, schedules, scalers.
        batch: The step's batch.
    """
    if not (path := os.environ.get(MARKS)):
        return
    try:
        name = str(step.item() if hasattr(step, "item") else step)
        hashes = {part: _hash(part, value) for part, value in zip(PARTS, (batch, model, optimizer), strict=True)}
        with Path(path).open("ab", buffering=0) as file:  # a line is written at once: processes share the file
            file.write(json.dumps({"rank": _rank(), "step": name, **hashes}).encode() + b"\n")
        if os.environ.get(KILL_AT) == name:
            os.killpg(0, signal.SIGKILL)
    except Exception as error:
        _warn("this step is not marked", error)


def _warn(what: str, error: Exception) -> None:
    """Print a line to stderr, once per process."""
    if what not in _warned:
        _warned.add(what)
        with contextlib.suppress(Exception):  # stderr may be closed
            text = f"leyden: {what} ({type(error).__name__}: {error})"
            print(" ".join(text.split()), file=sys.stderr, flush=True)


def _rank() -> str:
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed and distributed.is_available() and distributed.is_initialized():
        return str(distributed.get_rank())
    return os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0"


def _hash(part: str, value: object) -> str | None:
    """Return the hash of a part; None if it is not given, or can't be hashed."""
    try:
        if value is not None and (digest := _digest(value)) == _digest(type(value)):
            raise TypeError(f"{type(value).__qualname__} has no state_dict")
        return None if value is None else digest.hex()
    except Exception as error:
        _warn(f"{part}: can't be hashed, and is not compared", error)
        return None


def _digest(value: Any) -> bytes:
    hashed = hashlib.blake2b(digest_size=16)
    for part in _content(value):
        hashed.update(part)
    return hashed.digest()


def _content(value: Any) -> Iterator[Any]:
    """Yield bytes that are equal for equal values, in each process."""
    torch = sys.modules.get("torch")  # where nothing has imported it, there is no tensor
    if torch and isinstance(value, torch.Tensor):
        yield from _content_of_tensor(torch, value)
    elif isinstance(value, np.ndarray | np.generic) or hasattr(type(value), "__array__"):
        array = np.atleast_1d(value)
        yield f"{array.dtype.str} {np.shape(value)}".encode()
        if array.dtype.hasobject or array.dtype.names:  # pointers, and gaps between fields, are arbitrary
            yield _digest(array.tolist())
        else:
            yield from (rows.tobytes() for rows in _chunks(array))
    elif isinstance(value, bool | int | float | complex | str | bytes | None):
        yield f"{type(value).__name__} {value!r}".encode()
    elif isinstance(value, Mapping):  # in any order: a loaded state may have another one
        yield from sorted(_digest(key) + _digest(each) for key, each in value.items())
    elif isinstance(value, list | tuple | deque):
        yield from map(_digest, value)
    elif isinstance(value, set | frozenset):
        yield from sorted(map(_digest, value))
    elif not isinstance(value, type) and callable(getattr(value, "state_dict", None)):
        yield _digest(value.state_dict())
    elif not isinstance(value, type) and dataclasses.is_dataclass(value):
        yield _digest([getattr(value, field.name, None) for field in dataclasses.fields(value)])
    else:
        yield (value if isinstance(value, type) else type(value)).__qualname__.encode()


def _content_of_tensor(torch: Any, tensor: Any) -> Iterator[Any]:
    if torch.nn.parameter.is_lazy(tensor):
        return
    tensor = tensor.detach()
    if tensor.is_nested:
        yield from map(_digest, tensor.unbind())
        return
    yield f"{tensor.dtype} {[*tensor.shape]}".encode()
    if hasattr(tensor, "to_local"):  # a DTensor: this process's part
        yield _digest(tensor.to_local())
    elif tensor.layout != torch.strided:
        tensor = tensor.to_sparse_coo().coalesce()
        yield from map(_digest, (tensor.indices(), tensor.values()))
    elif not tensor.is_meta:
        for rows in _chunks(torch.atleast_1d(tensor)):
            rows = rows.cpu().resolve_conj().resolve_neg().contiguous()
            yield rows.flatten().view(torch.uint8).numpy()


def _chunks(array: Any) -> Iterator[Any]:
    """Yield rows that are some 64 MiB together."""
    step = max(1, len(array) * _CHUNK // max(1, array.nbytes))
    yield from (array[first : first + step] for first in range(0, len(array), step))
