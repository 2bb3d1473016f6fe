"""Splits: their samples, order and batches, and the base of the data modules with them."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from leyden.base.errors import UserError
from leyden.base.terminal import some_of
from leyden.data.contract import Facts
from leyden.data.transforms import Transform, check_integers


class Order:
    """Order of the samples in an epoch: a permutation determined by seed and epoch alone.

    Lightning finds it as the loader's `sampler` and calls `set_epoch` before each epoch, also after
    a resume.

    Args:
        num_samples: Length of the permutation.
        seed: Seed of the permutation; None keeps the samples in order.
    """

    def __init__(self, num_samples: int, seed: int | None) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch (from 0) of the next permutation."""
        self.epoch = epoch

    def permutation(self, epoch: int) -> Tensor:
        """Return the indices of an epoch, shape (num_samples,), int64, on the CPU."""
        if self.seed is None:
            return torch.arange(self.num_samples)
        # Each pair (seed, epoch) has its own stream, so runs with neighbouring seeds share no
        # epoch's order.
        generator = torch.Generator().manual_seed(self.seed)
        offset = int(torch.randint(2**62, (1,), generator=generator))
        generator.manual_seed(offset + epoch)
        return torch.randperm(self.num_samples, generator=generator)


class SplitLoader:
    """Base of loaders: order, size and position of a split's batches; a subclass defines `read`.

    The last batch may be smaller; no sample is dropped. Each of several processes takes every
    `world_size`-th sample of each batch, so the order of training does not depend on the number of
    processes. If the last batch does not divide evenly, its samples have slightly different weights
    (a mean of means), and a process can get an empty last batch. `state_dict` holds the position,
    so that a run can resume within an epoch.

    Args:
        indices: Indices of the N samples to use, shape (N,).
        batch_size: Samples of a batch, over all processes.
        seed: Seed of the order; None keeps the samples in order.
        rank: Rank of this process, from 0.
        world_size: Number of processes.
    """

    def __init__(
        self,
        indices: Tensor,
        *,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.indices = indices
        self.batch_size = batch_size
        self.order = Order(len(indices), seed)
        if seed is not None:
            # Lightning calls `sampler.set_epoch`, and then expects `batch_sampler`, too.
            self.sampler = self.order
            self.batch_sampler = None
        self.rank = rank
        self.world_size = world_size
        self.num_shares = 1  # of each batch that are yielded one after another
        self._position = 0  # batches yielded in this epoch
        self._start = 0  # position at which the next iteration starts

    def for_ranks(self, ranks: range, total: int) -> "SplitLoader":
        """Yield the shares of each of these virtual ranks of a batch, of `total`; return itself."""
        self.rank = ranks[0]
        self.num_shares = len(ranks)
        self.world_size = total
        return self

    def read(self, shares: Iterator[Tensor]) -> Iterator[tuple[Any, Any]]:
        """Yield a batch for each share: the indices of this process's samples of the batch."""
        raise NotImplementedError

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def samples_of(self, epoch: int, batch: int) -> list[int]:
        """Return the indices of a batch's samples, of all processes, in their data set."""
        begin = batch * self.batch_size
        chosen = self._ordered(epoch)[begin : begin + self.batch_size]
        found: list[int] = chosen.tolist()
        return found

    def _ordered(self, epoch: int) -> Tensor:
        """Return the indices in the order of an epoch."""
        permutation = self.order.permutation(epoch)
        return self.indices[permutation.to(self.indices.device)]

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        # A generator, so this runs at the first batch, when Lightning has set epoch and position.
        indices = self._ordered(self.order.epoch)
        start = self._start
        self._start = 0
        shares = self._shares(indices, start)
        for number, batch in enumerate(self.read(shares)):
            self._position = start + number // self.num_shares + 1
            yield batch

    def _shares(self, indices: Tensor, start: int) -> Iterator[Tensor]:
        size = self.batch_size
        for begin in range(start * size, len(indices), size):
            for rank in range(self.rank, self.rank + self.num_shares):
                yield indices[begin + rank : begin + size : self.world_size]

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches yielded in this epoch, and of samples per epoch."""
        position = self._start or self._position
        return {"position": position, "num_samples": len(self.indices)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next iteration after the batches that were already yielded.

        Raises:
            UserError: The number of samples has changed.
        """
        if state["num_samples"] != len(self.indices):
            raise UserError(
                f"data: there were {state['num_samples']} training samples, now there are "
                f"{len(self.indices)}; "
                "an interrupted run resumes only with the samples that it began with"
            )
        self._start = state["position"]


def is_of_training(split: str) -> bool:
    """Return whether a split is cut from the training set, as all are but the test set."""
    return split != "test"


def split(
    num_samples: int,
    *,
    val_size: int,
    seed: int,
    num_folds: int | None = None,
    fold: int = 0,
    overlap: int | None = None,
    groups: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the indices of each split, shape (N,); no `val` if it is empty.

    Args:
        num_samples: Number of samples in both splits together.
        val_size: Samples of the validation split.
        seed: Seed of the permutation from which the validation split is cut.
        num_folds: Number of cross-validation folds, used instead of `val_size`; None for no folds.
        fold: Index of the validation fold, from 0.
        overlap: Number of neighbours on each side that share data with a sample, as overlapping
            windows of a text do. The validation split is then contiguous (the last samples, if
            there are no folds), and its neighbours within `overlap` are left out of both splits.
            None: samples are independent, and are shuffled.
        groups: Number of each sample's group, shape (N,), which is in one split as a whole; None:
            no groups.

    Raises:
        ValueError: No training sample would be left, or there is no such fold.

    Example:
        >>> split(6, val_size=0, seed=0, num_folds=3, fold=1, overlap=0)
        {'val': tensor([2, 3]), 'train': tensor([0, 1, 4, 5])}
    """
    num_units = num_samples
    if groups is not None:
        num_units = int(groups.max()) + 1
    if num_folds is not None and not (2 <= num_folds <= num_units and 0 <= fold < num_folds):
        raise ValueError(
            f"num_folds={num_folds}, fold={fold}: must be 2 to {num_units} folds, and one from 0 "
            "to num_folds - 1"
        )
    if num_folds is None and val_size >= num_samples:
        raise ValueError(
            f"val_size={val_size}: must be smaller than the training set of {num_samples} samples"
        )
    if num_folds is None and not val_size:
        return {"train": torch.arange(num_samples)}
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(num_units, generator=generator)
    if groups is not None:
        return _split_groups(groups, order, val_size=val_size, num_folds=num_folds, fold=fold)
    begin, end = 0, val_size
    if overlap is not None:
        order = torch.arange(num_samples)
        begin, end = num_samples - val_size, num_samples
    if num_folds is not None:
        begin = num_samples * fold // num_folds
        end = num_samples * (fold + 1) // num_folds
    gap = overlap or 0
    before = order[: max(0, begin - gap)]
    after = order[end + gap :]
    train = torch.cat([before, after])
    if not len(train):
        given = f"val_size={val_size}" if num_folds is None else f"num_folds={num_folds}"
        raise ValueError(
            f"{given}: leaves nothing to train on, of {num_samples} samples that overlap"
        )
    return {"val": order[begin:end], "train": train}


def group_numbers(groups: Any, num_samples: int) -> Tensor:
    """Return the number of each sample's group, shape (N,), int64, by the groups' names.

    Raises:
        ValueError: There is not one name per sample.
    """
    names_N = np.asarray(groups)
    if names_N.shape != (num_samples,):
        raise ValueError(
            f"groups have shape {names_N.shape}; must be one per sample, ({num_samples},)"
        )
    _, numbers_N = np.unique(names_N, return_inverse=True)
    return torch.from_numpy(numbers_N.astype(np.int64))


def check_groups_apart(what: str, in_training: Iterable[Any], here: Iterable[Any]) -> None:
    """Check that no group is also one of the training set.

    Raises:
        ValueError: One is; begins with `what`.
    """
    both = {*in_training} & {*here}
    if both:
        names = some_of(sorted(map(str, both)))
        raise ValueError(f"{what}: has groups of the training set: {names}")


def first_groups(groups_N: Tensor, order: Tensor, num_samples: int) -> Tensor:
    """Return which samples are of the first groups that have `num_samples`, shape (N,), bool."""
    sizes_G = groups_N.bincount()
    num_before_G = sizes_G[order].cumsum(0)
    num_groups = int((num_before_G < num_samples).sum()) + 1
    return torch.isin(groups_N, order[:num_groups])


def _split_groups(
    groups_N: Tensor,
    order: Tensor,
    *,
    val_size: int,
    num_folds: int | None,
    fold: int,
) -> dict[str, Tensor]:
    """Return the indices of each split, of whole groups.

    Each fold has about as many samples: the largest group that is left joins the smallest fold.
    """
    if num_folds is None:
        is_val_N = first_groups(groups_N, order, val_size)
    else:
        sizes_G = groups_N.bincount()
        by_size = sizes_G[order].argsort(descending=True, stable=True)
        fold_sizes = [0] * num_folds
        fold_of_G = torch.zeros(len(order), dtype=torch.int64)
        for group in order[by_size].tolist():
            smallest = fold_sizes.index(min(fold_sizes))
            fold_of_G[group] = smallest
            fold_sizes[smallest] += int(sizes_G[group])
        is_val_N = fold_of_G[groups_N] == fold
    if is_val_N.all():
        raise ValueError(
            f"val_size={val_size}: leaves nothing to train on, of {len(order)} whole groups"
        )
    val, train = is_val_N, ~is_val_N
    return {"val": val.nonzero()[:, 0], "train": train.nonzero()[:, 0]}


def count_classes(targets: Any, indices: Tensor, num_classes: int | None) -> tuple[int, ...] | None:
    """Return the number of samples of each class among these indices.

    None if targets are not classes.

    Args:
        targets: Class of each sample, as numbers; or anything else.
        indices: Indices of the samples to count.
        num_classes: Number of classes; None if there are none.
    """
    with contextlib.suppress(TypeError, ValueError, RuntimeError, IndexError):
        classes_N = torch.as_tensor(targets)[indices]
        counts_K = torch.bincount(classes_N, minlength=num_classes or 0)
        if len(counts_K) == num_classes:
            return tuple(counts_K.tolist())
    return None


class SplitDataModule(L.LightningDataModule):
    """Base of data modules whose splits and batches depend on their arguments alone.

    A subclass defines `read_split` and `loader`.

    Args:
        batch_size: Samples of a training batch, over all processes.
        eval_batch_size: Samples of a validation or test batch, over all processes; affects only
            speed and memory.
        val_size: Number of training samples held out for validation; 0 or None: none. Ignored with
            `num_folds`.
        normalize: How inputs are normalised, one of `SCALES`.
        augment: Random transform of training inputs, shape (N, ...); None for no augmentation.
        seed: Seed of each epoch's order.
        num_folds: Number of cross-validation folds, one of which is the validation split; None for
            no folds.
        fold: Index of the validation fold, from 0.
        split_seed: Seed of the validation split; None: `seed`.

    Raises:
        ValueError: An argument is out of its range.
    """

    SCALES: tuple[str, ...] = ("unit", "standardize")

    def __init__(
        self,
        *,
        batch_size: int,
        eval_batch_size: int,
        val_size: int | None,
        normalize: str,
        augment: Transform | None,
        seed: int,
        num_folds: int | None = None,
        fold: int = 0,
        split_seed: int | None = None,
    ) -> None:
        super().__init__()
        val_size = 0 if val_size is None else val_size
        split_seed = seed if split_seed is None else split_seed
        check_integers(batch_size=(batch_size, 1), eval_batch_size=(eval_batch_size, 1))
        check_integers(val_size=(val_size, 0), fold=(fold, 0))
        check_integers(seed=(seed, 0), split_seed=(split_seed, 0))
        if num_folds is not None:
            check_integers(num_folds=(num_folds, 2))
            if fold >= num_folds:  # known before the data are read
                raise ValueError(
                    f"fold={fold}: must be one from 0 to {num_folds - 1}, as num_folds={num_folds}"
                )
        elif fold:
            raise ValueError(f"fold={fold}: is one of several folds, so num_folds must be set")
        if augment is not None and not callable(augment):
            raise ValueError(
                f"augment={augment}: must be an object with a _target_; select a choice by "
                "data/augment=NAME"
            )
        if normalize not in self.SCALES:
            raise ValueError(f"normalize={normalize}: must be one of {', '.join(self.SCALES)}")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.normalize = normalize
        self.augment = augment
        self.seed = seed
        self.num_folds = num_folds
        self.fold = fold
        self.split_seed = split_seed
        # Of each split's samples, within its dataset.
        self.indices: dict[str, Tensor] = {}
        self.how_split = ""  # in words, if `val` is cut from the training set
        self._facts: Facts | None = None

    def read_split(self, *, train: bool) -> Facts | None:
        """Read the training set, fill `indices`, and return the facts; or read the test set.

        Raises:
            OSError, ValueError: The data are missing, or invalid.
        """
        raise NotImplementedError

    def loader(
        self,
        split: str,
        augment: Transform | None,
        device: torch.device,
        **options: Any,
    ) -> SplitLoader:
        """Return the batches of a split, on a device.

        Args:
            split: Name of the split.
            augment: Random transform of inputs; None for no augmentation.
            device: Device of the batches.
            options: `batch_size`, `seed`, `rank` and `world_size`, as in `SplitLoader`.
        """
        raise NotImplementedError

    @property
    def facts(self) -> Facts:
        """Facts about the data; reads the training set if necessary."""
        self.setup("fit")
        assert self._facts is not None
        return self._facts

    def setup(self, stage: str) -> None:
        """Read the training set, or the test set if the stage is `test`, unless it is read."""
        if stage == "test" and "test" not in self.indices:
            self.read_split(train=False)
        if stage != "test" and self._facts is None:
            self._facts = self.read_split(train=True)

    def cut(
        self,
        num_samples: int,
        overlap: int | None = None,
        groups: Any = None,
    ) -> None:
        """Cut the training set into `train` and `val`, as in `split`; groups may be names."""
        parts = split(
            num_samples,
            val_size=self.val_size,
            seed=self.split_seed,
            num_folds=self.num_folds,
            fold=self.fold,
            overlap=overlap,
            groups=None if groups is None else group_numbers(groups, num_samples),
        )
        self.indices["train"] = parts.pop("train")
        self.indices |= parts
        if "val" not in self.indices:
            return
        if groups is not None:
            self.how_split = "by group"
        elif overlap is not None:
            self.how_split = "in order"
        else:
            self.how_split = "random"

    def with_targets(self, facts: Facts, targets: Any) -> Facts:
        """Return facts with the number of training samples of each class, by all targets."""
        counts = count_classes(targets, self.indices["train"], facts.num_classes)
        return replace(facts, class_counts=counts)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of samples per split, for the splits read so far."""
        return {name: len(indices) for name, indices in self.indices.items()}

    def check_world_size(self, world_size: int) -> None:
        """Check that each of `world_size` processes gets a part of every training batch.

        Raises:
            ValueError: A process would get no sample of the last batch.
        """
        num_samples = self.sizes["train"]
        smallest = min(num_samples % self.batch_size or self.batch_size, num_samples)
        if smallest < world_size:
            raise ValueError(
                f"batch_size={self.batch_size}: {num_samples} training samples leave a batch of "
                f"{smallest}, too few "
                f"for {world_size} processes; choose another batch_size or val_size"
            )

    def train_dataloader(self) -> SplitLoader:
        """Return training batches, reshuffled each epoch unless overfitting."""
        seed: int | None = self.seed
        trainer: Any = self.trainer
        if trainer is not None and trainer.overfit_batches > 0:
            seed = None
        return self._loader("train", self.batch_size, seed, self.augment)

    def val_dataloader(self) -> SplitLoader | list[SplitLoader]:
        """Return batches of the validation split; an empty list if there is none."""
        if "val" not in self.indices:
            return []
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> SplitLoader:
        """Return batches of the test set."""
        return self._loader("test", self.eval_batch_size)

    def _loader(
        self,
        split: str,
        batch_size: int,
        seed: int | None = None,
        augment: Transform | None = None,
    ) -> SplitLoader:
        options: dict[str, Any] = {"batch_size": batch_size, "seed": seed}
        device = torch.device("cpu")
        if self.trainer:
            options["rank"] = self.trainer.global_rank
            options["world_size"] = self.trainer.world_size
            device = self.trainer.strategy.root_device
        return self.loader(split, augment, device, **options)
