"""Data that stream from the disk: split, changed, in batches. Shape: N samples."""

import weakref
from collections.abc import Callable
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import Dataset

from leyden.data.arguments import check_made, check_whole
from leyden.data.facts import Facts
from leyden.data.find_facts import find_facts
from leyden.data.normalize import Normalize
from leyden.data.samples import Samples, whole
from leyden.data.splits import check_world_size, split
from leyden.data.stream import StreamLoader


class StreamedDataModule(L.LightningDataModule):
    """Base of data modules whose samples are read when they are needed, by worker processes.

    A subclass has `open`. Inputs that are uint8 of shape (C, H, W) are pixels, and are normalised where training runs; others
    stay as they are. Only order and classes of the samples are kept in memory.

    Args:
        batch_size: Samples of a training batch, over all processes.
        eval_batch_size: The same for validation and test; it changes speed and memory only.
        val_size: Number of training samples set apart for validation, where there are none of its own; None is 0.
        num_workers: Processes that read, per process that trains, for each split; 0: the one that trains reads. It changes
            speed and memory only.
        normalize: `unit`, pixels / 255, or `standardize`, to mean 0 and deviation 1 over the training split, read once for it.
        augment: Changes the inputs of a training sample, shape (1, ...), at random; None: not.
        seed: Of the order in each epoch, and of what is random about each sample.
        num_folds: Number of parts that the training samples are cut into, of which one is the validation split; None: none.
        fold: Which one, from 0.
        split_seed: Of the validation split; None: `seed`.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        eval_batch_size: int,
        val_size: int | None,
        num_workers: int,
        normalize: Literal["unit", "standardize"],
        augment: Callable[[Tensor], Tensor] | None,
        seed: int,
        num_folds: int | None = None,
        fold: int = 0,
        split_seed: int | None = None,
    ) -> None:
        super().__init__()
        val_size, split_seed = 0 if val_size is None else val_size, seed if split_seed is None else split_seed
        check_whole(batch_size=(batch_size, 1), eval_batch_size=(eval_batch_size, 1), val_size=(val_size, 0))
        check_whole(num_workers=(num_workers, 0), seed=(seed, 0), split_seed=(split_seed, 0))
        check_whole(fold=(fold, 0), num_folds=(2 if num_folds is None else num_folds, 2))
        if augment is not None:
            check_made("augment", augment)
        if normalize not in ("unit", "standardize"):
            raise ValueError(f"normalize={normalize}: must be one of unit, standardize")
        self.batch_size, self.eval_batch_size, self.val_size = batch_size, eval_batch_size, val_size
        self.num_workers, self.normalize, self.augment = num_workers, normalize, augment
        self.seed, self.split_seed = seed, split_seed
        self.folds: dict[str, Any] = {"num_folds": num_folds, "fold": fold}
        self.splits: dict[str, tuple[Dataset[Any], Tensor]] = {}  # the data set, and the indices of its samples
        self._facts: Facts | None = None
        self._loaders: weakref.WeakSet[StreamLoader] = weakref.WeakSet()

    def open(self, split: str) -> Dataset[Any] | None:
        """The data set of a split, which gives a pair per index, input and target; None for no validation of its own.

        Raises:
            OSError: It is not there.
            ValueError: It is none of this kind.
        """
        raise NotImplementedError

    @property
    def facts(self) -> Facts:
        """Shape, classes and normalisation; reads the training set if that was not done before."""
        self.setup("fit")
        assert self._facts is not None
        return self._facts

    def setup(self, stage: str) -> None:
        """Open the data sets of training and validation, or for the stage `test` that of the test."""
        if stage == "test":
            if "test" not in self.splits:
                self.splits["test"] = whole("test", self.open("test"))
            return
        if self._facts is not None:
            return
        dataset, all_N = whole("train", self.open("train"))
        own = self.open("val")
        if own is not None and (self.val_size or self.folds["num_folds"]):
            given = f"val_size={self.val_size}" if self.val_size else f"num_folds={self.folds['num_folds']}"
            raise ValueError(f"{given}: there is a validation split already, so there can be no other")
        parts = split(len(all_N), val_size=self.val_size, seed=self.split_seed, **self.folds)
        self.splits |= {name: (dataset, indices_N) for name, indices_N in parts.items()}
        if own is not None:
            self.splits["val"] = whole("val", own)
        self._facts = find_facts(
            dataset,
            first=self._loader("train", 1),
            every=self._loader("train", self.eval_batch_size),
            normalize=self.normalize,
        )

    @property
    def sizes(self) -> dict[str, int]:
        """Number of samples of each split that was opened."""
        return {name: len(indices_N) for name, (_, indices_N) in self.splits.items()}

    def inputs(self, split: str, indices: Any) -> Tensor:
        """Samples of a split as the data set gives them, shape (N, ...), on the CPU."""
        dataset, indices_N = self.splits[split]
        inputs, _ = Samples(dataset, self.seed, None)((0, indices_N[indices].tolist()))
        return torch.as_tensor(inputs)

    def check_world_size(self, world_size: int) -> None:
        """Make sure that each of `world_size` processes gets a part of every training batch."""
        check_world_size(self.sizes["train"], self.batch_size, world_size)

    def train_dataloader(self) -> StreamLoader:
        """Batches of the training split, in an order of its own each epoch; of an overfit the same in each."""
        overfits = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return self._loader("train", self.batch_size, self._transform, shuffle=not overfits, augment=self.augment)

    def val_dataloader(self) -> StreamLoader | list[StreamLoader]:
        """Batches of the validation split; an empty list if there is none."""
        return self._loader("val", self.eval_batch_size, self._transform) if "val" in self.splits else []

    def test_dataloader(self) -> StreamLoader:
        """Batches of the test set."""
        return self._loader("test", self.eval_batch_size, self._transform)

    def teardown(self, stage: str) -> None:
        """End the workers."""
        for loader in list(self._loaders):
            loader.close()

    def on_exception(self, exception: BaseException) -> None:
        """End them then, too."""
        self.teardown("")

    @property
    def _transform(self) -> Normalize | None:
        return None if self.facts.mean is None else self.facts.normalize

    def _loader(
        self,
        split: str,
        batch_size: int,
        transform: Normalize | None = None,
        *,
        shuffle: bool = False,
        augment: Callable[[Tensor], Tensor] | None = None,
    ) -> StreamLoader:
        rank, world_size, device = 0, 1, torch.device("cpu")
        if self.trainer:
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            device = self.trainer.strategy.root_device
        dataset, indices_N = self.splits[split]
        loader = StreamLoader(
            Samples(dataset, self.seed, augment),
            indices_N,
            batch_size=batch_size,
            num_workers=self.num_workers,
            shuffle=shuffle,
            transform=transform and transform.on(device),
            device=device,
            rank=rank,
            world_size=world_size,
        )
        self._loaders.add(loader)
        return loader
