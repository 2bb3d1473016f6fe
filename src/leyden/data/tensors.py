"""A data set as tensors of samples and targets; where jobs follow each other, they are read once for all."""

import functools
import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

from leyden.data.fetch import expected_checksums, load
from leyden.data.files import digest_of_tensor
from leyden.data.random_state import random_states

WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Tensors:
    """Samples and targets.

    Args:
        inputs: Pixels, shape (N, C, H, W), uint8; numbers, shape (N, ...), float32; or tokens, shape (N, T), int64.
        targets: Classes, shape (N,), int64; numbers, shape (N,) or (N, T), float32; or tokens, shape (N, T), int64.
        class_names: One per class, where the targets are classes.
        target_names: One per number, where the targets are numbers.
        vocabulary: What each token stands for.
        overlap: Where neighbours are alike, as windows of one text: how many on each side share something with a sample;
            None: they have nothing to do with each other.
        further: Further facts, plain values by name.
        digests: What identifies the data, a SHA-256 by the name of a file or tensor.
    """

    inputs: Tensor
    targets: Tensor
    class_names: tuple[str, ...] | None
    target_names: tuple[str, ...] | None
    vocabulary: tuple[str, ...] | None
    overlap: int | None
    further: Mapping[str, Any]
    digests: Mapping[str, str] = field(default_factory=dict)


def to_tensors(source: Any) -> Tensors:
    """The tensors of a data set.

    Args:
        source: Has `data` and `targets`. Pixels are uint8, shape (N, H, W) or (N, H, W, C); with `classes`, their names, the
            targets are whole numbers; with `vocabulary`, a text per token, both are tokens; else both are real numbers, and
            `target_names` may name them. `overlap` and `facts`, where it has them, are as below.

    Raises:
        ValueError: It holds something else, which names the data set.
    """
    name = f"dataset={type(source).__name__}"
    for attribute in ("data", "targets"):
        if not hasattr(source, attribute):
            raise ValueError(f"{name}: has no {attribute}; must have data and targets")
    data, targets = torch.as_tensor(source.data), torch.as_tensor(source.targets)
    if isinstance(source, torchvision.datasets.QMNIST):
        targets = targets[:, 0]  # the class; the other columns tell where an image comes from
    names = {key: _names(source, key) for key in ("classes", "target_names", "vocabulary")}
    if not len(data) or targets.shape[:1] != data.shape[:1]:
        raise ValueError(f"{name}: data are {_what(data)}, targets {_what(targets)}; must be one target per sample")
    try:
        return Tensors(
            _inputs(data, names["vocabulary"]),
            _targets(targets, names["classes"], names["vocabulary"]),
            names["classes"],
            _target_names(targets, names["target_names"]) if names["classes"] is None else None,
            names["vocabulary"],
            getattr(source, "overlap", None),
            dict(getattr(source, "facts", {})),
        )
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _names(source: Any, attribute: str) -> tuple[str, ...] | None:
    found = getattr(source, attribute, None)
    return None if found is None else tuple(map(str, found))


def _target_names(targets: Tensor, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """One per number that is to be predicted; None for tokens."""
    if targets.dtype not in REAL:
        return None
    num = 1 if targets.ndim == 1 else targets.shape[1]
    if names is not None and len(names) != num:
        raise ValueError(f"target_names are {len(names)}; must be {num}, one per number")
    return names or (("target",) if num == 1 else tuple(f"target_{n}" for n in range(num)))


def _inputs(data: Tensor, vocabulary: tuple[str, ...] | None) -> Tensor:
    if vocabulary is not None:
        return _tokens("data", data, len(vocabulary))
    if data.dtype in REAL and data.ndim > 1:
        return _finite("data", data)
    if data.dtype != torch.uint8 or data.ndim not in (3, 4):
        raise ValueError(
            f"data are {_what(data)}; must be pixels, uint8, shape (N, H, W) or (N, H, W, C), real numbers of shape "
            "(N, ...), or tokens, with a vocabulary"
        )
    images_NCHW = data[:, None] if data.ndim == 3 else data.permute(0, 3, 1, 2)
    return images_NCHW.contiguous()


def _targets(targets: Tensor, classes: tuple[str, ...] | None, vocabulary: tuple[str, ...] | None) -> Tensor:
    if vocabulary is not None and classes is None:
        return _tokens("targets", targets, len(vocabulary))
    if classes is None:
        if targets.dtype in REAL and targets.ndim in (1, 2):
            return _finite("targets", targets)
        raise ValueError(
            f"targets are {_what(targets)}; must be real numbers, shape (N,) or (N, T), or classes, with their names "
            "as `classes`"
        )
    if targets.dtype not in WHOLE:
        raise ValueError(f"targets are {_what(targets)}; must be whole numbers, the class of each sample")
    if targets.ndim != 1:
        raise ValueError(f"targets are {_what(targets)}; must be a class for each of {len(targets)} samples")
    if targets.min() < 0 or targets.max() >= len(classes):
        wrong = targets.min() if targets.min() < 0 else targets.max()
        raise ValueError(f"a target is {wrong}; must be from 0 to {len(classes) - 1}, a number per class")
    return targets.long()


def _finite(what: str, values: Tensor) -> Tensor:
    if not values.isfinite().all():
        raise ValueError(f"{what} are not all finite numbers")
    return values.float()


def _tokens(what: str, values: Tensor, num: int) -> Tensor:
    if values.dtype not in WHOLE or values.ndim != 2:
        raise ValueError(f"{what} are {_what(values)}; must be tokens, whole numbers of shape (N, T)")
    if values.min() < 0 or values.max() >= num:
        raise ValueError(f"{what} hold a token that is none of {num}, those of the vocabulary")
    return values.long()


def _what(values: Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')}, shape {tuple(values.shape)}"


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device, with its strides: windows of a text that overlap stay views of one text there."""
    overlaps = values.untyped_storage().nbytes() < values.numel() * values.element_size()
    if values.device == device or not overlaps:
        return values.to(device)
    whole = torch.empty(0, dtype=values.dtype, device=values.device).set_(values.untyped_storage())
    return whole.to(device).as_strided(values.shape, values.stride(), values.storage_offset())


# With the number of changes that were made to the tensors by then.
_kept: dict[Hashable, tuple[Tensors, int]] | None = None


def keep_tensors() -> None:
    """From now on keep what was read last, for this process and for those that are copies of it."""
    global _kept
    _kept = _kept or {}


def read_tensors(dataset: Callable[..., Any], root: str | Path, *, train: bool, download: bool) -> Tensors:
    """The training or the test set, as `load` and `tensors` give it; what a job has changed in place is read anew.

    Raises:
        OSError, ValueError: As those do.
    """
    same = _same(dataset, root)
    if _kept is not None and same is not None and (same, train) in _kept:
        there, changes = _kept[same, train]
        if changes == _changes(there):
            return there
    before = _random()
    source = load(dataset, root, train=train, download=download)
    found = to_tensors(source)
    if train:  # what `load` has just checked, or a data set has read, is not hashed again
        digests = (
            getattr(source, "digests", None)
            or expected_checksums(dataset, root)
            or _hashed(type(source).__name__, found)
        )
        found = replace(found, digests=digests)
    # What is drawn at random depends on the seed of the job.
    if _kept is not None and same is not None and before == _random():
        for key in [key for key in _kept if key[0] != same]:  # type: ignore[index]
            del _kept[key]  # there is room for one data set
        _kept[same, train] = found, _changes(found)
    return found


def _hashed(name: str, found: Tensors) -> dict[str, str]:
    return {f"{name}.data": digest_of_tensor(found.inputs), f"{name}.targets": digest_of_tensor(found.targets)}


def _changes(held: Tensors) -> int:
    return (
        held.inputs._version + held.targets._version
    )  # that of their views, too; PyTorch has no other name for it


def _same(dataset: Callable[..., Any], root: str | Path) -> Hashable | None:
    """What two calls have in common that read the same; None where that can't be known, as of arguments that are objects."""
    if isinstance(dataset, type):
        return dataset, str(root)
    if not isinstance(dataset, functools.partial):
        return None
    try:
        return dataset.func, json.dumps([dataset.args, dataset.keywords, str(root)], sort_keys=True)
    except (TypeError, ValueError):
        return None


def _random() -> dict[str, Any]:
    """The states of random numbers, as what can be compared."""
    return {name: state.tolist() if isinstance(state, Tensor) else state for name, state in random_states().items()}
