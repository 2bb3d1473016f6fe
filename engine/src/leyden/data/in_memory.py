"""In-memory datasets: download, split, normalisation and batching.

Shapes: N samples, C channels, H rows and W columns of an image.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from leyden.data.facts import Facts
from leyden.data.splits import SplitDataModule, SplitLoader, check_instantiated
from leyden.data.tensors import Tensors, read_tensors, to_device
from leyden.data.transforms import Normalize

Scale = Literal["none", "unit", "standardize"]
CHUNK = 4096  # samples that are counted at a time


class BatchLoader(SplitLoader):
    """Iterator over batches of in-memory samples; each batch is one indexing operation on the tensors' device.

    Args:
        inputs: Samples, shape (M, ...), of any type that `transform` accepts.
        targets: One per sample, shape (M, ...).
        transform: Applied to the inputs of each batch.
        indices: Indices of the N samples to use, shape (N,), on the samples' device; None for all.
        batch_size: Samples of a batch, over all processes.
        options: `seed`, `rank` and `world_size`, as in `SplitLoader`.

    Example:
        >>> loader = BatchLoader(torch.arange(5), torch.arange(5), batch_size=2, transform=lambda x: x / 10)
        >>> [labels.tolist() for images, labels in loader]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        transform: Callable[[Tensor], Tensor],
        batch_size: int,
        indices: Tensor | None = None,
        **options: Any,
    ) -> None:
        indices = torch.arange(len(targets), device=targets.device) if indices is None else indices
        super().__init__(indices, batch_size=batch_size, **options)
        self.inputs, self.targets, self.transform = inputs, targets, transform

    def read(self, shares: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the samples of each share."""
        for index in shares:
            # index_select copies whole samples, which is faster than indexing.
            yield self.transform(self.inputs.index_select(0, index)), self.targets.index_select(0, index)


class InMemoryDataModule(SplitDataModule):
    """Dataset held in memory as tensors, on the accelerator if there is one.

    The validation split is cut from the training set and depends on `split_seed` alone. The test set is not read
    until `setup("test")`.

    Args:
        dataset: Creates a dataset when called with `root`, `train` and `download`. Any dataset that `to_tensors`
            accepts, such as one of torchvision's: images with classes, numbers with numeric targets, or tokens.
        root: Folder of the downloads.
        download: Whether to download missing files.
        normalize: `unit`: pixels / 255; `standardize`: mean 0 and standard deviation 1 over the training split, per
            image channel or table column; `none`: unchanged, for data that are not pixels.
        kwargs: Arguments of `SplitDataModule`; `augment` gets a batch's raw samples.

    Raises:
        ValueError: An argument is out of its range.
    """

    SCALES = get_args(Scale)

    def __init__(
        self, *, dataset: Callable[..., Any], root: str, download: bool, normalize: Scale, **kwargs: Any
    ) -> None:
        super().__init__(normalize=normalize, **kwargs)
        check_dataset(dataset)
        self.dataset, self.root, self.download = dataset, root, download
        self.held: dict[bool, Tensors] = {}  # training set: True, test set: False

    def read_split(self, *, train: bool) -> Facts | None:
        """Download and read the training set, or the test set."""
        self.held[train] = held = read_tensors(self.dataset, self.root, train=train, download=self.download)
        if not train:
            self.indices["test"] = torch.arange(len(held.inputs))
            return None
        self.cut(len(held.inputs), held.overlap)
        scale = self._new_normalize(held.inputs)
        return Facts(
            input_shape=tuple(held.inputs.shape[1:]),
            num_classes=None if held.class_names is None else len(held.class_names),
            class_names=held.class_names,
            mean=scale.mean,
            std=scale.std,
            scale=scale.scale,
            target_names=held.target_names,
            vocabulary=held.vocabulary,
            extra=held.extra,
        )

    @property
    def digests(self) -> Mapping[str, str]:
        """SHA-256 that identifies the training set, by file or tensor name."""
        self.setup("fit")
        return self.held[True].digests

    def inputs(self, split: str, indices: Any) -> Tensor:
        """Return samples of a split as stored in the dataset, shape (N, ...), on the CPU."""
        return self.held[split != "test"].inputs[self.indices[split][indices]].cpu()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return the batch unchanged if it is on the device already, as with the loaders of this class.

        This check is faster than Lightning's transfer.
        """
        return (
            batch if batch[1].device == device else super().transfer_batch_to_device(batch, device, dataloader_idx)
        )

    def _new_normalize(self, inputs: Tensor) -> Normalize:
        is_pixels = inputs.dtype == torch.uint8
        if self.normalize == ("none" if is_pixels else "unit"):
            kind = "uint8 pixels; must be unit" if is_pixels else "not pixels; must be none"
            raise ValueError(f"normalize={self.normalize}: the samples are {kind} or standardize")
        if self.normalize == "standardize" and inputs.dtype != torch.int64:
            indices = self.indices["train"]
            if is_pixels:
                return Normalize.standardize_pixels(inputs[part] for part in torch.split(indices, CHUNK))
            return Normalize.standardize(inputs[indices])
        num_channels = inputs.shape[1] if is_pixels else 1
        return Normalize((0.0,) * num_channels, (1.0,) * num_channels, 255.0 if is_pixels else 1.0)

    def loader(
        self, split: str, augment: Callable[[Tensor], Tensor] | None, device: torch.device, **options: Any
    ) -> BatchLoader:
        """Return the batches of a split; its samples are moved to the device."""
        held = self.held[split != "test"]
        held = self.held[split != "test"] = replace(
            held, inputs=to_device(held.inputs, device), targets=to_device(held.targets, device)
        )
        normalize = self.facts.normalize.on(device)
        transform = (lambda inputs: normalize(augment(inputs))) if augment else normalize
        indices = self.indices[split].to(device)
        return BatchLoader(held.inputs, held.targets, transform=transform, indices=indices, **options)


def check_dataset(dataset: Callable[..., Any]) -> None:
    """Check that a dataset can be created with `root`, `train` and `download`.

    Raises:
        ValueError: The value is not callable, or an argument is missing.
    """
    check_instantiated("dataset", dataset)
    try:
        inspect.signature(dataset).bind(root="", train=True, download=False)
    except TypeError as error:
        raise ValueError(f"dataset: {error}; must take root, train and download") from error
