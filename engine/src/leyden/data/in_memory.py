"""In-memory datasets: tensors of inputs and targets, which the jobs of a sweep share.

Shapes: N samples, C channels, H rows and W columns of an image.
"""

import functools
import json
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leyden.base.terminal import warn
from leyden.data.contract import Facts, Names
from leyden.data.neighbours import likeness
from leyden.data.splits import SplitDataModule, SplitLoader, group_numbers, is_of_training
from leyden.data.transforms import Normalize, Transform
from leyden.exact.digest import digest_of_content
from leyden.exact.random_state import random_states
from leyden.files import load
from leyden.run.process import is_main_process

INTEGER_TYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class Tensors:
    """Inputs and targets of a dataset.

    Args:
        inputs: Pixels, shape (N, C, H, W), uint8; numbers, shape (N, ...), float32; or tokens,
            shape (N, T), int64.
        targets: Classes, shape (N,), int64; numbers, shape (N,) or (N, T), float32; or tokens,
            shape (N, T), int64.
        facts: Shape of a sample, names of classes, target numbers and tokens, and custom facts.
        overlap: Number of neighbours on each side that share data with a sample, as overlapping
            windows of a text do; None: samples are independent.
        digests: SHA-256 that identifies the data, by file or tensor name.
        groups: Number of each sample's group, shape (N,), which is in one split as a whole; None:
            no groups.
        looks: What speaks against a random split, in words; empty if one is meant, None if the
            samples tell.
    """

    inputs: Tensor
    targets: Tensor
    facts: Facts
    overlap: int | None
    digests: Mapping[str, str] = field(default_factory=dict)
    groups: Tensor | None = None
    looks: str | None = None


def to_tensors(source: Any) -> Tensors:
    """Return the tensors of a dataset.

    Args:
        source: Dataset with `data` and `targets`. Pixels are uint8, shape (N, H, W) or (N, H, W,
            C). With `classes` (their names), the targets are integers; with `vocabulary` (one
            string per token), data and targets are tokens; otherwise both are real numbers, and
            `target_names` is optional. `overlap`, `groups` (a name per sample), `looks` and `facts`
            are optional, as in `Tensors`; `random_split` is true where one is meant.

    Raises:
        ValueError: The dataset has another format.
    """
    data = torch.as_tensor(source.data)
    targets = torch.as_tensor(source.targets)
    if not len(data) or targets.shape[:1] != data.shape[:1]:
        raise ValueError(
            f"data are {_describe(data)}, targets {_describe(targets)}; must be one target per "
            "sample"
        )
    facts = Facts(extra=getattr(source, "facts", {}), **names_of(source, targets))
    num_tokens = None
    if facts.vocabulary is not None:
        num_tokens = len(facts.vocabulary)
    if num_tokens is not None or data.dtype != torch.uint8:
        inputs = _checked("data", data, num_tokens, 2)
    elif data.ndim == 3:
        inputs = data[:, None].contiguous()
    elif data.ndim == 4:
        inputs = data.permute(0, 3, 1, 2).contiguous()
    else:
        raise ValueError(
            f"data are {_describe(data)}; pixels must have shape (N, H, W) or (N, H, W, C)"
        )
    if facts.num_classes is None:
        targets = _checked("targets", targets, num_tokens, 2)
    else:
        targets = _checked("targets", targets, facts.num_classes, 1)
    groups = getattr(source, "groups", None)
    if groups is not None:
        groups = group_numbers(groups, len(inputs))
    looks = getattr(source, "looks", None)
    if getattr(source, "random_split", False):
        looks = ""
    facts = replace(facts, input_shape=tuple(inputs.shape[1:]))
    overlap = getattr(source, "overlap", None)
    return Tensors(inputs, targets, facts, overlap, groups=groups, looks=looks)


def _checked(what: str, values: Tensor, num: int | None, ndim: int) -> Tensor:
    """Return finite numbers as float32; or classes or tokens, of which there are `num`, as int64.

    Raises:
        ValueError: The values are something else.
    """
    if num is None:
        if not values.is_floating_point():
            raise ValueError(
                f"{what} are {_describe(values)}; must be real numbers, or have names: `classes` "
                "or a `vocabulary`"
            )
        if not values.isfinite().all():
            raise ValueError(f"{what} are not all finite numbers")
        return values.float()
    if values.dtype not in INTEGER_TYPES or values.ndim != ndim:
        raise ValueError(f"{what} are {_describe(values)}; must be whole numbers, of {ndim} axes")
    least, largest = values.min(), values.max()
    if least < 0 or largest >= num:
        raise ValueError(f"{what} are from {least} to {largest}; must be from 0 to {num - 1}")
    return values.long()


def _describe(values: Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')}, shape {tuple(values.shape)}"


def names_of(source: Any, targets: Any) -> dict[str, Any]:
    """Return the facts that are the names of a dataset's classes, target numbers and tokens.

    Numbers have names in any case.

    Args:
        source: Dataset with the optional attributes `classes`, `target_names` and `vocabulary`.
        targets: Some of its targets; they are numbers if they are real, shape (N,) or (N, T).

    Raises:
        ValueError: The number of target names is not that of the targets.
    """
    found = {"vocabulary": _texts(source, "vocabulary")}
    classes = _texts(source, "classes")
    if classes is not None:
        return {**found, "class_names": classes, "num_classes": len(classes)}
    are_numbers = isinstance(targets, Tensor) and targets.is_floating_point()
    if not are_numbers or targets.ndim not in (1, 2):
        return found
    num = targets[0].numel()
    names = _texts(source, "target_names")
    if not names:
        names = ("target",) if num == 1 else tuple(f"target_{n}" for n in range(num))
    if len(names) != num:
        raise ValueError(f"target_names are {len(names)}; must be {num}, one per number")
    return {**found, "target_names": names}


def _texts(source: Any, attribute: str) -> Names | None:
    names = getattr(source, attribute, None)
    if names is None:
        return None
    return tuple(map(str, names))


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device with the same strides: windows remain views of one tensor."""
    storage = values.untyped_storage()
    num_bytes = values.numel() * values.element_size()
    if values.device == device or storage.nbytes() >= num_bytes:
        return values.to(device)
    whole = torch.empty(0, dtype=values.dtype, device=values.device)
    whole = whole.set_(storage).to(device)
    return whole.as_strided(values.shape, values.stride(), values.storage_offset())


_cache: dict[Hashable, Tensors] | None = None  # by dataset, root and split


def keep_tensors() -> None:
    """Cache the datasets that are read from now on, for this process and its forks."""
    global _cache
    _cache = _cache or {}


def read_tensors(
    dataset: Callable[..., Any],
    root: str | Path,
    *,
    train: bool,
    download: bool,
) -> Tensors:
    """Return the training or the test set as tensors, from the cache if it has them.

    Raises:
        OSError, ValueError: Raised by `load` and `to_tensors`.
    """
    key = _cache_key(dataset, root, train)
    if _cache and key in _cache:
        return _cache[key]
    before = digest_of_content(random_states())
    source = load(dataset, root, train=train, download=download)
    found = to_tensors(source)
    if train:
        found = replace(found, digests=getattr(source, "digests", None) or _digests(source, found))
    # Data that draw random numbers depend on the job's seed, and are not cached.
    if _cache is not None and key and before == digest_of_content(random_states()):
        _cache[key] = found
    return found


def _digests(source: Any, found: Tensors) -> dict[str, str]:
    name = type(source).__name__
    return {
        f"{name}.data": digest_of_content(found.inputs),
        f"{name}.targets": digest_of_content(found.targets),
    }


def _cache_key(dataset: Callable[..., Any], root: str | Path, train: bool) -> Hashable:
    """Return a key that is equal for calls that read the same data.

    None for arguments that are objects.
    """
    # Of a partial one, its function and arguments; Hydra's is of a class of its own.
    is_partial = isinstance(dataset, functools.partial)
    made: Any = dataset if is_partial else functools.partial(dataset)
    arguments = [made.args, made.keywords, str(root), train]
    try:
        return made.func, json.dumps(arguments, sort_keys=True)
    except (TypeError, ValueError):
        return None


CHUNK = 4096  # samples that are counted at a time


class BatchLoader(SplitLoader):
    """Iterator over batches of in-memory samples.

    Each batch is one indexing operation on the tensors' device.

    Args:
        inputs: Samples, shape (M, ...), of any type that `transform` accepts.
        targets: One per sample, shape (M, ...).
        transform: Applied to the inputs of each batch.
        indices: Indices of the N samples to use, shape (N,), on the samples' device.
        options: `batch_size`, `seed`, `rank` and `world_size`, as in `SplitLoader`.

    Example:
        >>> numbers = torch.arange(5)
        >>> tenth = lambda x: x / 10
        >>> loader = BatchLoader(numbers, numbers, numbers, transform=tenth, batch_size=2)
        >>> [labels.tolist() for images, labels in loader]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        indices: Tensor,
        *,
        transform: Transform,
        **options: Any,
    ) -> None:
        super().__init__(indices, **options)
        self.inputs = inputs
        self.targets = targets
        self.transform = transform

    def read(self, shares: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the samples of each share."""
        for index in shares:
            # index_select copies whole samples, which is faster than indexing.
            inputs = self.inputs.index_select(0, index)
            targets = self.targets.index_select(0, index)
            yield self.transform(inputs), targets


class InMemoryDataModule(SplitDataModule):
    """Dataset held in memory as tensors, on the accelerator if there is one.

    The validation split is cut from the training set and depends on `split_seed` alone. The test
    set is not read until `setup("test")`.

    Args:
        dataset: Creates a dataset when called with `root`, `train` and `download`. Any dataset that
            `to_tensors` accepts, such as one of torchvision's: images with classes, numbers with
            numeric targets, or tokens.
        root: Folder of the downloads.
        download: Whether to download missing files.
        kwargs: Arguments of `SplitDataModule`; `augment` gets a batch's raw samples. `normalize` is
            `unit`: pixels / 255; `standardize`: mean 0 and standard deviation 1 over the training
            split, per image channel or table column; or `none`: unchanged, for data that are not
            pixels.

    Raises:
        ValueError: An argument is out of its range.
    """

    SCALES = ("none", "unit", "standardize")

    def __init__(
        self,
        *,
        dataset: Callable[..., Any],
        root: str,
        download: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.root = root
        self.download = download
        self.held: dict[bool, Tensors] = {}  # training set: True, test set: False

    def read_split(self, *, train: bool) -> Facts | None:
        """Download and read the training set, or the test set."""
        held = read_tensors(self.dataset, self.root, train=train, download=self.download)
        self.held[train] = held
        num_samples = len(held.inputs)
        if not train:
            self.indices["test"] = torch.arange(num_samples)
            return None
        self.cut(num_samples, held.overlap, held.groups)
        if self.how_split == "random" and is_main_process():
            self._question_split(held)
        scale = self._new_normalize(held.inputs)
        facts = replace(held.facts, **vars(scale))
        return self.with_targets(facts, held.targets)

    def _question_split(self, held: Tensors) -> None:
        """Warn in a line if a random split seems to part samples that belong together."""
        found = held.looks
        inputs = held.inputs
        if found is None and inputs.ndim == 2 and inputs.is_floating_point():
            found = likeness(inputs)
        if found:
            warn(
                f"data: {found}, and the split is random: split=order or group=COLUMN? "
                "(split=random: it is meant; docs/data.md)"
            )

    @property
    def digests(self) -> Mapping[str, str]:
        """SHA-256 that identifies the training set, by file or tensor name."""
        self.setup("fit")
        return self.held[True].digests

    def inputs(self, split: str, indices: Any) -> Tensor:
        """Return samples of a split as stored in the dataset, shape (N, ...), on the CPU."""
        held = self.held[is_of_training(split)]
        chosen = self.indices[split][indices]
        return held.inputs[chosen].cpu()

    def transfer_batch_to_device(
        self,
        batch: Any,
        device: torch.device,
        dataloader_idx: int,
    ) -> Any:
        """Return a batch unchanged if it is on the device already.

        This check is faster than Lightning's transfer.
        """
        if batch[1].device == device:
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _new_normalize(self, inputs: Tensor) -> Normalize:
        is_pixels = inputs.dtype == torch.uint8
        if self.normalize == ("none" if is_pixels else "unit"):
            kind = "not pixels; must be none"
            if is_pixels:
                kind = "uint8 pixels; must be unit"
            raise ValueError(f"normalize={self.normalize}: the samples are {kind} or standardize")
        if self.normalize == "standardize" and inputs.dtype != torch.int64:
            indices = self.indices["train"]
            if not is_pixels:
                return Normalize.standardize(inputs[indices])
            parts = torch.split(indices, CHUNK)
            return Normalize.standardize_pixels(inputs[part] for part in parts)
        if is_pixels:
            return Normalize.unit(inputs.shape[1])
        return Normalize((0.0,), (1.0,), 1.0)

    def loader(
        self,
        split: str,
        augment: Transform | None,
        device: torch.device,
        **options: Any,
    ) -> BatchLoader:
        """Return the batches of a split; its samples are moved to the device."""
        held = self.held[is_of_training(split)]
        inputs = to_device(held.inputs, device)
        targets = to_device(held.targets, device)
        self.held[is_of_training(split)] = replace(held, inputs=inputs, targets=targets)
        normalize = self.facts.normalize.on(device)
        transform = (lambda inputs: normalize(augment(inputs))) if augment else normalize
        indices = self.indices[split].to(device)
        return BatchLoader(inputs, targets, indices, transform=transform, **options)
