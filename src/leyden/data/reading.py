"""The tensors of a data set; where jobs follow each other, they are read once for all of them."""

import functools
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from leyden.data.fetch import load
from leyden.data.tensors import Tensors, tensors

_kept: dict[Hashable, Tensors] | None = None


def keep() -> None:
    """From now on keep what was read last, for this process and for those that are copies of it."""
    global _kept
    _kept = _kept or {}


def read(dataset: Callable[..., Any], root: str | Path, *, train: bool, download: bool) -> Tensors:
    """The training or the test set, as `load` and `tensors` give it; nobody may change what is in them.

    Raises:
        OSError, ValueError: As those do.
    """
    same = _same(dataset, root)
    if _kept is None or same is None:
        return tensors(load(dataset, root, train=train, download=download))
    if (same, train) not in _kept:
        for key in [key for key in _kept if key[0] != same]:  # type: ignore[index]
            del _kept[key]  # there is room for one data set
        _kept[same, train] = tensors(load(dataset, root, train=train, download=download))
    return _kept[same, train]


def _same(dataset: Callable[..., Any], root: str | Path) -> Hashable | None:
    """What two calls have in common that read the same; None where that can't be known."""
    if isinstance(dataset, functools.partial):
        return dataset.func, repr((dataset.args, sorted(dataset.keywords.items()), str(root)))
    return (dataset, str(root)) if isinstance(dataset, type) else None
