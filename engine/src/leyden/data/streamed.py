"""Datasets streamed from disk, and a data module for any PyTorch dataset.

A sample's random numbers are determined by seed, epoch and index alone. Shapes: N samples, C
channels, H rows and W columns of an image.
"""

import atexit
import contextlib
import functools
import inspect
import signal
import sys
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from leyden.base.errors import UserError
from leyden.base.terminal import warn
from leyden.data.contract import Facts
from leyden.data.in_memory import names_of
from leyden.data.splits import SplitDataModule, SplitLoader, check_groups_apart
from leyden.data.transforms import Normalize, Transform, check_integers
from leyden.exact.random_state import seed_by_text, undisturbed
from leyden.run.process import die_with_parent, is_main_process


@dataclass(frozen=True)
class SeededSamples(Dataset[Any]):
    """Batches of a dataset's samples by epoch and indices, with random numbers seeded per sample.

    Args:
        dataset: Returns a sample per index. PyTorch's `default_collate` makes a batch of samples,
            or the dataset's own `collate_fn`.
        seed: Seed of a sample's randomness, drawn from `random`, `torch`, NumPy's global generator,
            or one of NumPy's that is created without a seed.
        augment: Random transform of the inputs of (input, target) pairs, shape (1, ...); None for
            no augmentation.

    Example:
        >>> import random
        >>> class Dice:
        ...     def __getitem__(self, index):
        ...         return torch.tensor([index, random.randint(1, 6)]), 0
        >>> inputs_NI, targets_N = SeededSamples(Dice(), 0, None)[2, [0, 1, 2]]
        >>> torch.equal(inputs_NI[1:], SeededSamples(Dice(), 0, None)[2, [1, 2]][0])
        True
    """

    dataset: Dataset[Any]
    seed: int
    augment: Transform | None

    def __getitem__(self, task: tuple[int, Sequence[int]]) -> Any:
        """Return the batch of a task (epoch, indices).

        Without indices, one of no samples, if it has tensors only.

        In a worker process, return an error's traceback, as text.

        Raises:
            UserError: There are no indices, and a batch is not tensors.
        """
        try:
            return self._batch(*task)
        except Exception:
            # User code may raise anything; the training process repeats it, with its own traceback.
            if get_worker_info() is None:
                raise
            return traceback.format_exc()

    def _batch(self, epoch: int, indices: Sequence[int]) -> Any:
        collate = getattr(self.dataset, "collate_fn", default_collate)
        with undisturbed():
            samples = [self._sample(epoch, index) for index in indices or [0]]
            batch = collate(samples)
        if indices:
            return batch
        if not is_pair(batch):
            raise UserError(
                "data.eval_batch_size: the last batch has fewer samples than there are "
                "processes; choose another one"
            )
        return [part[:0] for part in batch]

    def _sample(self, epoch: int, index: int) -> Any:
        seed_by_text(f"{self.seed} {epoch} {index}")
        sample = self.dataset[index]
        if self.augment is None:
            return sample
        inputs, target = sample
        augmented = self.augment(torch.as_tensor(inputs)[None])
        return augmented[0], target


def is_pair(batch: Any) -> bool:
    """Return whether a batch is a pair of tensors, inputs and targets."""
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        return False
    return all(isinstance(part, Tensor) for part in batch)


def _as_it_is(batch: Any) -> Any:
    """Return a batch unchanged, in place of PyTorch's conversion of each of its parts."""
    return batch


# A terminal or cluster sends these to all processes. Workers ignore them: the training process must
# save first.
IGNORED_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
]


def _start_worker(_: int) -> None:
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()


def _close(loader: "weakref.ref[StreamLoader]") -> None:
    here = loader()
    if here is not None:
        here.close()


class StreamLoader(SplitLoader):
    """Iterator over a dataset's batches, which workers of PyTorch's `DataLoader` read ahead.

    Order and samples are determined by seed, epoch and index alone, so the number of workers
    changes no bit. The workers start with the first batch and run until `close`. Samples that are
    not shuffled have the random numbers of epoch 0.

    Args:
        samples: Makes the batches.
        indices: Indices of the split's samples, shape (N,), int64, on the CPU.
        num_workers: Number of worker processes; 0: this process reads.
        transform: Applied to the inputs of a pair, on `device`; None for no transform.
        device: Device of the batches.
        options: `batch_size`, `seed`, `rank` and `world_size`, as in `SplitLoader`.

    Example:
        >>> samples = SeededSamples([(torch.tensor(n), n % 2) for n in range(5)], 0, None)
        >>> loader = StreamLoader(samples, torch.arange(5), batch_size=2, num_workers=0)
        >>> [inputs_N.tolist() for inputs_N, targets_N in loader]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        samples: SeededSamples,
        indices: Tensor,
        *,
        num_workers: int,
        transform: Transform | None = None,
        device: torch.device | str = "cpu",
        **options: Any,
    ) -> None:
        super().__init__(indices, **options)
        self.samples = samples
        self.num_workers = num_workers
        self.transform = transform
        self.device = torch.device(device)
        # Epoch and indices of each batch of the iteration under way.
        self._tasks: list[tuple[int, list[int]]] = []
        self._loader: DataLoader[Any] | None = None
        self._batches: Any = None

    def read(self, shares: Iterator[Tensor]) -> Iterator[Any]:
        """Yield the samples of each share, on the device."""
        self._tasks[:] = [(self.order.epoch, share.tolist()) for share in shares]
        self._start_reading()
        for task in list(self._tasks):
            batch = next(self._batches)
            if isinstance(batch, str):
                self.samples[task]
                raise RuntimeError(f"a worker process fails where this one does not:\n{batch}")
            batch = move_data_to_device(batch, self.device)
            if self.transform:
                batch = (self.transform(batch[0]), batch[1])
            yield batch

    def close(self) -> None:
        """Stop the workers; a later iteration starts new ones."""
        self._loader = self._batches = None  # PyTorch stops them when it deletes the iterator

    def _start_reading(self) -> None:
        with warnings.catch_warnings():
            # Of more workers than cores; and Python 3.12's of locks held by other threads, of which
            # a worker needs none.
            warnings.simplefilter("ignore")
            is_new = self._loader is None
            self._loader = self._loader or self._new_loader()
            self._batches = iter(self._loader)
        if is_new:  # after PyTorch, whose way of ending them at exit is a signal that they ignore
            atexit.register(_close, weakref.ref(self))

    def _new_loader(self) -> DataLoader[Any]:
        num_workers = min(self.num_workers, len(self))
        # A fork shares this process's memory until either writes to it, and needs no imports.
        # On other systems, fork is unsafe or missing.
        context = "spawn"
        if sys.platform == "linux":
            context = "fork"
        on_cuda = self.device.type == "cuda"
        return DataLoader(
            self.samples,
            sampler=self._tasks,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=on_cuda,  # from other memory, a copy would wait for the device
            multiprocessing_context=context if num_workers else None,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # otherwise it would draw from the network's
        )


class StreamedDataModule(SplitDataModule):
    """Base of data modules whose samples are read on demand by worker processes.

    A subclass defines `open`. Samples that are pairs, whose inputs are uint8 of shape (C, H, W),
    are pixels, and are normalised on the training device; others are unchanged. Only the order and
    the classes of the samples are kept in memory.

    Args:
        num_workers: Worker processes for each split and training process; 0: the training process
            reads. Affects only speed and memory.
        kwargs: Arguments of `SplitDataModule`; `augment` gets one sample, shape (1, ...), `seed`
            determines each sample's random numbers, too, and `normalize` is `unit`: pixels / 255;
            or `standardize`: mean 0 and standard deviation 1 over the training split, which is read
            once to compute them.

    Raises:
        ValueError: An argument is out of its range.
    """

    overlap: int | None = None  # as in `split`

    def __init__(self, *, num_workers: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_integers(num_workers=(num_workers, 0))
        self.num_workers = num_workers
        self.datasets: dict[str, Dataset[Any]] = {}  # by split
        self._loaders: weakref.WeakSet[StreamLoader] = weakref.WeakSet()

    def open(self, split: str) -> Dataset[Any] | None:
        """Return the dataset of a split.

        None for `val` means that there is no separate validation set.

        Raises:
            OSError: The dataset does not exist.
            ValueError: The dataset is invalid.
        """
        raise NotImplementedError

    def read_split(self, *, train: bool) -> Facts | None:
        """Open the training and validation sets and find the facts, or open the test set."""
        if not train:
            self._add("test", self.open("test"))
            return None
        dataset: Any = self.open("train")
        num_samples = self._add("train", dataset)
        own = self.open("val")
        if own is not None and (self.val_size or self.num_folds):
            given = f"val_size={self.val_size}" if self.val_size else f"num_folds={self.num_folds}"
            raise ValueError(
                f"{given}: the data have a validation split already, and can't have another"
            )
        self.cut(num_samples, self.overlap, self.groups_of(dataset))
        for split in self.indices:
            self.datasets.setdefault(split, dataset)
        if own is not None:
            self._add("val", own)
        facts = self._find_facts()
        targets = getattr(dataset, "targets", None)
        if getattr(dataset, "target_transform", None):  # of torchvision, which changes them
            targets = None
        return self.with_targets(facts, targets)

    def _add(self, split: str, dataset: Any) -> int:
        """Add all samples of a dataset as a split; return their number.

        Raises:
            TypeError: The dataset has no length, as an iterable one.
            ValueError: The dataset is empty.
        """
        if not len(dataset):
            raise ValueError(f"{split}={type(dataset).__name__}: has no samples")
        if "train" in self.datasets:
            in_training = self.groups_of(self.datasets["train"]) or ()
            check_groups_apart(split, in_training, self.groups_of(dataset) or ())
        self.datasets[split] = dataset
        self.indices[split] = torch.arange(len(dataset))
        return len(dataset)

    def groups_of(self, dataset: Any) -> Sequence[Any] | None:
        """Return the group of each sample, which no two splits share; None without groups."""
        return None

    def _find_facts(self) -> Facts:
        """Return shape, names and normalisation of the training split.

        `standardize` reads all of it.

        Raises:
            ValueError: `standardize` is set, and the inputs are not pixels.
        """
        dataset: Any = self.datasets["train"]
        batch: Any = None
        cpu = torch.device("cpu")
        read = functools.partial(self.loader, "train", None, cpu, transform=None)
        if not hasattr(dataset, "collate_fn"):
            # A worker reads, since a dataset may open its files at the first sample, which a fork
            # must not share.
            with contextlib.closing(read(batch_size=1)) as first:
                batch = next(iter(first))
        if not is_pair(batch):
            if self.augment is not None or self.normalize != "unit":
                raise ValueError(
                    f"the samples of {type(dataset).__name__} are not pairs of tensors, so it "
                    "must augment and normalize them "
                    "itself; choose data/augment=none and data.normalize=unit"
                )
            # Samples can't be drawn or exported.
            self.inputs = None  # type: ignore[assignment,method-assign]
            return Facts(**names_of(dataset, None))
        inputs, targets = batch
        names = names_of(dataset, targets)
        shape = tuple(inputs.shape[1:])
        if inputs.dtype != torch.uint8 or inputs.ndim != 4:
            if self.normalize == "standardize":
                raise ValueError(
                    "normalize=standardize: is for pixels, uint8; the data set gives "
                    f"{inputs.dtype}"
                )
            return Facts(shape, scale=1.0, **names)
        scale = Normalize.unit(inputs.shape[1])
        if self.normalize == "standardize":
            if is_main_process():
                num_samples = self.sizes["train"]
                warn(
                    f"data.normalize=standardize: all {num_samples:,} training images are read "
                    "once for this"
                )
            with contextlib.closing(read(batch_size=self.eval_batch_size)) as every:
                scale = Normalize.standardize_pixels(inputs_NCHW for inputs_NCHW, _ in every)
        return Facts(shape, mean=scale.mean, std=scale.std, scale=255.0, **names)

    def inputs(self, split: str, indices: Any) -> Tensor:
        """Return samples of a split as stored in the dataset, shape (N, ...), on the CPU."""
        samples = SeededSamples(self.datasets[split], self.seed, None)
        chosen = self.indices[split][indices].tolist()
        inputs: Tensor = samples[0, chosen][0]
        return inputs

    def teardown(self, stage: str) -> None:
        """Stop the workers."""
        for loader in list(self._loaders):
            loader.close()

    def on_exception(self, exception: BaseException) -> None:
        """Stop the workers after an exception, too."""
        self.teardown("")

    def loader(
        self,
        split: str,
        augment: Transform | None,
        device: torch.device,
        **options: Any,
    ) -> StreamLoader:
        """Return the batches of a split, which workers read; with `transform`, by that one."""
        if "transform" not in options and self.facts.mean is not None:
            options["transform"] = self.facts.normalize.on(device)
        samples = SeededSamples(self.datasets[split], self.seed, augment)
        loader = StreamLoader(
            samples,
            self.indices[split],
            num_workers=self.num_workers,
            device=device,
            **options,
        )
        self._loaders.add(loader)
        return loader


class DatasetDataModule(StreamedDataModule):
    """Data module for any map-style `torch.utils.data.Dataset`.

    An (input, target) pair per index is normalised and drawn; any other sample is the dataset's
    own. With a method `collate_fn`, a batch is whatever this makes of samples, such as images of
    different sizes. Class names are taken from the dataset's attribute `classes`, if it has one.
    Random numbers of a sample are determined by seed, epoch and index.

    Args:
        train: Training set, or a callable that creates it; it is called with `root` if it has such
            a parameter.
        val: Validation set, or a callable that creates it; None: `val_size` samples of `train`.
        test: Test set, or a callable that creates it when the test set is requested; None: there is
            no test set.
        root: Folder of the datasets, for callables with such a parameter.
        overlap: Number of neighbours on each side that share something with a sample of `train`, as
            overlapping windows do; the validation split is then its end. None: samples are
            independent.
        groups: Name of the datasets' attribute with the group of each sample, which no two splits
            share; None: no groups.
        kwargs: Arguments of `StreamedDataModule`.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> class Parity(Dataset):
        ...     classes = ["even", "odd"]
        ...     def __len__(self):
        ...         return 6
        ...     def __getitem__(self, index):
        ...         return torch.full((1, 1, 1), index, dtype=torch.uint8), index % 2
        >>> sizes = {"batch_size": 2, "eval_batch_size": 2, "val_size": 2, "num_workers": 0}
        >>> options = {"normalize": "unit", "augment": None, "seed": 0, "root": "data"}
        >>> data = DatasetDataModule(train=Parity(), val=None, test=None, **sizes, **options)
        >>> data.facts.input_shape, data.sizes
        ((1, 1, 1), {'train': 4, 'val': 2})
    """

    def __init__(
        self,
        *,
        train: Any,
        val: Any,
        test: Any,
        root: str,
        overlap: int | None = None,
        groups: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_integers(overlap=(overlap or 0, 0))
        if overlap is not None and groups is not None:
            raise ValueError(
                f"groups={groups}: whole groups are drawn at random; remove overlap, or groups"
            )
        self.overlap = overlap
        self.groups = groups
        self.sources = {"train": train, "val": val, "test": test}
        self.root = root
        if test is None:  # as data without this hook
            self.test_dataloader = None  # type: ignore[assignment]

    @property
    def read_image(self) -> Callable[..., Tensor] | None:
        """Function `read_image(path)` of the dataset, or None if it has none."""
        train = self.sources["train"]
        return getattr(getattr(train, "func", train), "read_image", None)

    def groups_of(self, dataset: Any) -> Sequence[Any] | None:
        """Return the attribute of the dataset that `groups` names.

        Raises:
            ValueError: It has none.
        """
        if self.groups is None:
            return None
        if not hasattr(dataset, self.groups):
            raise ValueError(
                f"groups={self.groups}: {type(dataset).__name__} has no such attribute"
            )
        return list(getattr(dataset, self.groups))

    def open(self, split: str) -> Dataset[Any] | None:
        """Return the dataset of a split; create it if it is given as a callable."""
        source: Any = self.sources[split]
        if not callable(source):
            return source  # type: ignore[no-any-return]
        asked = inspect.signature(getattr(source, "func", source)).parameters
        arguments = {}
        if "root" in asked and "root" not in getattr(source, "keywords", {}):
            arguments["root"] = self.root
        made: Dataset[Any] = source(**arguments)
        return made
