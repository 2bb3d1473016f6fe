"""The data set of a run: fetched, split, normalised, in batches."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import lightning as L
import torch
from torch import Tensor

from leyden.data.facts import Facts
from leyden.data.fetch import load
from leyden.data.loader import BatchLoader
from leyden.data.normalize import Normalize


class ImageDataModule(L.LightningDataModule):
    """Images and classes of a torchvision data set, held in memory, on the accelerator where there is one.

    The validation split is cut from the training set by a permutation that depends on the seed alone. The test
    set is read only when it is asked for.

    Args:
        dataset: Makes one of torchvision's data sets with `data`, `targets` and `classes`, when called with
            `root`, `train` and `download`.
        root: Folder of the downloads.
        download: Whether to fetch what is missing.
        batch_size: Samples of a training batch, over all processes.
        eval_batch_size: The same for validation and test; it changes speed and memory only.
        val_size: Number of training images set apart; 0: no validation.
        normalize: `unit`, pixels / 255, or `standardize`, to mean 0 and deviation 1 over the training split.
        augment: Changes the pixels of a training batch, shape (N, C, H, W), uint8, at random; None: not.
        seed: Of the split and of the order in each epoch.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> from leyden.data.mnist import MNIST
        >>> data = ImageDataModule(dataset=MNIST, root="data", download=True, batch_size=128, eval_batch_size=1000,
        ...                        val_size=5000, normalize="unit", augment=None, seed=0)  # doctest: +SKIP
        >>> data.facts.input_shape  # doctest: +SKIP
        (1, 28, 28)
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
        normalize: str,
        augment: Callable[[Tensor], Tensor] | None,
        seed: int,
    ) -> None:
        super().__init__()
        for name, size, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("val_size", val_size, 0),
        ):
            if type(size) is not int or size < least:
                raise ValueError(f"{name}={size}: must be a whole number, {least} or larger")
        if normalize not in ("unit", "standardize"):
            raise ValueError(f"normalize={normalize}: must be one of unit, standardize")
        self.dataset, self.root, self.download, self.seed = dataset, root, download, seed
        self.batch_size, self.eval_batch_size, self.val_size = batch_size, eval_batch_size, val_size
        self.normalize, self.augment = normalize, augment
        self.splits: dict[str, tuple[Tensor, Tensor]] = {}
        self._facts: Facts | None = None

    @property
    def facts(self) -> Facts:
        """Shape, classes and normalisation; reads the training set if that was not done before."""
        self.setup("fit")
        assert self._facts is not None
        return self._facts

    def setup(self, stage: str) -> None:
        """Fetch and read the training set, or for the stage `test` the test set."""
        if stage == "test":
            if "test" not in self.splits:
                images_NCHW, labels_N, _ = self._read(train=False)
                self.splits["test"] = images_NCHW, labels_N
            return
        if self._facts is not None:
            return
        images_NCHW, labels_N, class_names = self._read(train=True)
        if self.val_size >= len(labels_N):
            raise ValueError(
                f"val_size={self.val_size}: must be smaller than the training set of {len(labels_N)} images"
            )
        order = torch.randperm(len(labels_N), generator=torch.Generator().manual_seed(self.seed))
        if self.val_size:
            val, train = order[: self.val_size], order[self.val_size :]
            self.splits["val"] = images_NCHW[val], labels_N[val]
            images_NCHW, labels_N = images_NCHW[train], labels_N[train]
        self.splits["train"] = images_NCHW, labels_N
        channels = images_NCHW.shape[1]
        scale = (
            Normalize.standardize(images_NCHW)
            if self.normalize == "standardize"
            else Normalize((0.0,) * channels, (1.0,) * channels)
        )
        _, *shape = images_NCHW.shape
        self._facts = Facts((shape[0], shape[1], shape[2]), len(class_names), class_names, scale.mean, scale.std)

    def check_world_size(self, world_size: int) -> None:
        """Make sure that each of `world_size` processes gets a part of every training batch.

        Raises:
            ValueError: One would get nothing of the last batch.
        """
        num_samples = len(self.splits["train"][1])
        smallest = min(num_samples % self.batch_size or self.batch_size, num_samples)
        if smallest < world_size:
            raise ValueError(
                f"batch_size={self.batch_size}: {num_samples} training images leave a batch of {smallest}, too few "
                f"for {world_size} processes; choose another batch_size or val_size"
            )

    def train_dataloader(self) -> BatchLoader:
        """Batches of the training split, in an order of its own each epoch."""
        return self._loader("train", self.batch_size, seed=self.seed, augment=self.augment)

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """Batches of the validation split; an empty list if there is none."""
        return self._loader("val", self.eval_batch_size) if "val" in self.splits else []

    def test_dataloader(self) -> BatchLoader:
        """Batches of the test set."""
        return self._loader("test", self.eval_batch_size)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Nothing for a batch that is made where training runs, as the loaders here do: finding that out is quick."""
        return (
            batch if batch[1].device == device else super().transfer_batch_to_device(batch, device, dataloader_idx)
        )

    def state_dict(self) -> dict[str, Any]:
        """The facts as plain values, for the checkpoint."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.facts).items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make sure that the facts are those of the checkpoint.

        Raises:
            ValueError: They are not.
        """
        if state != self.state_dict():
            raise ValueError(f"the data set in {self.root} is not the one that this run was trained on")

    def _read(self, *, train: bool) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        source = load(self.dataset, self.root, train=train, download=self.download)
        pixels, labels_N = torch.as_tensor(source.data), torch.as_tensor(source.targets)
        if labels_N.ndim == 2:  # QMNIST's first column is the class, the others tell where an image comes from
            labels_N = labels_N[:, 0]
        images_NCHW = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
        return images_NCHW.contiguous(), labels_N.long(), tuple(map(str, source.classes))

    def _loader(
        self,
        split: str,
        batch_size: int,
        seed: int | None = None,
        augment: Callable[[Tensor], Tensor] | None = None,
    ) -> BatchLoader:
        rank, world_size = 0, 1
        if self.trainer:
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            device = self.trainer.strategy.root_device
            self.splits[split] = self.splits[split][0].to(device), self.splits[split][1].to(device)
        normalize = self.facts.normalize
        return BatchLoader(
            *self.splits[split],
            batch_size=batch_size,
            transform=(lambda pixels_NCHW: normalize(augment(pixels_NCHW))) if augment else normalize,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
