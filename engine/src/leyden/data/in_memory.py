"""In-memory datasets: download, split, normalisation and batching.

Shapes: N samples, C channels, H rows and W columns of an image.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

import lightning as L
import torch
from torch import Tensor

from leyden.data.facts import Facts
from leyden.data.loaders import (
    BatchLoader,
    check_dataset,
    check_instantiated,
    check_integers,
    check_world_size,
    split,
)
from leyden.data.tensors import Tensors, read_tensors, to_device
from leyden.data.transforms import Normalize

Scale = Literal["none", "unit", "standardize"]


class InMemoryDataModule(L.LightningDataModule):
    """Dataset held in memory as tensors, on the accelerator if there is one.

    The validation split is cut from the training set and depends on `split_seed` alone. The test set is not read
    until `setup("test")`.

    Args:
        dataset: Creates a dataset when called with `root`, `train` and `download`. Any dataset that `to_tensors`
            accepts, such as one of torchvision's: images with classes, numbers with numeric targets, or tokens.
        root: Folder of the downloads.
        download: Whether to download missing files.
        batch_size: Samples of a training batch, over all processes.
        eval_batch_size: Samples of a validation or test batch, over all processes; affects only speed and memory.
        val_size: Number of training samples held out for validation; 0 for none. Ignored with `num_folds`.
        normalize: `unit`: pixels / 255; `standardize`: mean 0 and standard deviation 1 over the training split, per
            image channel or table column; `none`: unchanged, for data that are not pixels.
        augment: Random transform of a training batch's raw samples; None for no augmentation.
        seed: Seed of each epoch's order.
        num_folds: Number of cross-validation folds, one of which is the validation split; None for no folds.
        fold: Index of the validation fold, from 0.
        split_seed: Seed of the validation split; None: `seed`.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        *,
        dataset: Callable[..., Any],
        root: str,
        download: bool,
        batch_size: int,
        eval_batch_size: int,
        val_size: int,
        normalize: Scale,
        augment: Callable[[Tensor], Tensor] | None,
        seed: int,
        num_folds: int | None = None,
        fold: int = 0,
        split_seed: int | None = None,
    ) -> None:
        super().__init__()
        check_integers(batch_size=(batch_size, 1), eval_batch_size=(eval_batch_size, 1), val_size=(val_size, 0))
        check_integers(seed=(seed, 0), fold=(fold, 0), num_folds=(2 if num_folds is None else num_folds, 2))
        check_integers(split_seed=(0 if split_seed is None else split_seed, 0))
        check_dataset(dataset)
        if augment is not None:
            check_instantiated("augment", augment)
        if normalize not in get_args(Scale):
            raise ValueError(f"normalize={normalize}: must be one of {', '.join(get_args(Scale))}")
        self.dataset, self.root, self.download, self.seed = dataset, root, download, seed
        self.batch_size, self.eval_batch_size, self.val_size = batch_size, eval_batch_size, val_size
        self.normalize, self.augment = normalize, augment
        self.num_folds, self.fold = num_folds, fold
        self.split_seed = seed if split_seed is None else split_seed
        self.held: dict[bool, Tensors] = {}  # training set: True, test set: False
        self.indices: dict[str, Tensor] = {}  # of each split's samples, within the training or the test set
        self._facts: Facts | None = None

    @property
    def facts(self) -> Facts:
        """Facts about the data; reads the training set if necessary."""
        self.setup("fit")
        assert self._facts is not None
        return self._facts

    def setup(self, stage: str) -> None:
        """Download and read the training set, or the test set if the stage is `test`."""
        is_train = stage != "test"
        if is_train in self.held:
            return
        held = read_tensors(self.dataset, self.root, train=is_train, download=self.download)
        if not is_train:
            self.held[False], self.indices["test"] = held, torch.arange(len(held.inputs))
            return
        cuts = {"val_size": self.val_size, "num_folds": self.num_folds, "fold": self.fold, "overlap": held.overlap}
        self.indices.update(split(len(held.inputs), seed=self.split_seed, **cuts))  # type: ignore[arg-type]
        scale = self._new_normalize(held.inputs)
        self._facts = Facts(
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
        self.held[True] = held

    @property
    def digests(self) -> Mapping[str, str]:
        """SHA-256 that identifies the training set, by file or tensor name."""
        self.setup("fit")
        return self.held[True].digests

    @property
    def sizes(self) -> dict[str, int]:
        """Number of samples per split, for the splits read so far."""
        return {name: len(indices) for name, indices in self.indices.items()}

    def inputs(self, split: str, indices: Any) -> Tensor:
        """Return samples of a split as stored in the dataset, shape (N, ...), on the CPU."""
        return self.held[split != "test"].inputs[self.indices[split][indices]].cpu()

    def check_world_size(self, world_size: int) -> None:
        """Check that each of `world_size` processes gets a part of every training batch."""
        check_world_size(self.sizes["train"], self.batch_size, world_size)

    def train_dataloader(self) -> BatchLoader:
        """Return training batches, reshuffled each epoch unless overfitting."""
        overfits = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return self._loader("train", self.batch_size, seed=None if overfits else self.seed, augment=self.augment)

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """Return batches of the validation split; an empty list if there is none."""
        return self._loader("val", self.eval_batch_size) if "val" in self.indices else []

    def test_dataloader(self) -> BatchLoader:
        """Return batches of the test set."""
        return self._loader("test", self.eval_batch_size)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return the batch unchanged if it is on the device already, as with the loaders of this class.

        This check is faster than Lightning's transfer.
        """
        return (
            batch if batch[1].device == device else super().transfer_batch_to_device(batch, device, dataloader_idx)
        )

    def _new_normalize(self, inputs: Tensor) -> Normalize:
        is_pixels = inputs.dtype == torch.uint8
        if (self.normalize == "unit" and not is_pixels) or (self.normalize == "none" and is_pixels):
            kind = (
                "uint8 pixels; must be unit or standardize"
                if is_pixels
                else "not pixels; must be none or standardize"
            )
            raise ValueError(f"normalize={self.normalize}: the samples are {kind}")
        if self.normalize == "standardize" and inputs.dtype != torch.int64:
            return Normalize.standardize(inputs, self.indices["train"])
        num_channels = inputs.shape[1] if is_pixels else 1
        return Normalize((0.0,) * num_channels, (1.0,) * num_channels, 255.0 if is_pixels else 1.0)

    def _loader(
        self,
        split: str,
        batch_size: int,
        seed: int | None = None,
        augment: Callable[[Tensor], Tensor] | None = None,
    ) -> BatchLoader:
        held, indices, rank, world_size = self.held[split != "test"], self.indices[split], 0, 1
        if self.trainer:
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            device = self.trainer.strategy.root_device
            held = self.held[split != "test"] = replace(
                held, inputs=to_device(held.inputs, device), targets=to_device(held.targets, device)
            )
        normalize = self.facts.normalize.on(held.inputs.device)
        return BatchLoader(
            held.inputs,
            held.targets,
            indices=indices.to(held.inputs.device),
            batch_size=batch_size,
            transform=(lambda inputs: normalize(augment(inputs))) if augment else normalize,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
