"""Datasets streamed from disk: seeded samples, batching, facts, and a data module for any PyTorch dataset.

A sample's random numbers are determined by seed, epoch and index alone. Shapes: N samples, C channels, H rows and W
columns of an image.
"""

import atexit
import contextlib
import inspect
import random
import signal
import sys
import threading
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from leyden.config.errors import UserError
from leyden.config.terminal import warn
from leyden.data.facts import Facts
from leyden.data.loaders import Order, check_instantiated, check_integers, check_world_size, split
from leyden.data.transforms import Normalize, send
from leyden.run.process import die_with_parent, is_main_process


@dataclass(frozen=True)
class SeededSamples:
    """Callable that makes batches of a dataset's samples, with random numbers seeded per sample.

    Args:
        dataset: Returns an (input, target) pair per index: tensors, arrays or numbers.
        seed: Seed of a sample's randomness, drawn from `random`, `torch` or NumPy's global generator.
        augment: Random transform of inputs, shape (1, ...); None for no augmentation.

    Example:
        >>> class Dice:
        ...     def __getitem__(self, index):
        ...         return torch.tensor([index, random.randint(1, 6)]), 0
        >>> inputs_NI, targets_N = SeededSamples(Dice(), 0, None)((2, [0, 1, 2]))
        >>> torch.equal(inputs_NI[1:], SeededSamples(Dice(), 0, None)((2, [1, 2]))[0])
        True
    """

    dataset: Dataset[Any]
    seed: int
    augment: Callable[[Tensor], Tensor] | None

    def __call__(self, task: tuple[int, Sequence[int]]) -> tuple[Any, Any]:
        """Return inputs, shape (N, ...), and targets, shape (N, ...), for a task (epoch, indices); N can be 0.

        Raises:
            UserError: A sample is not an (input, target) pair, or samples differ in shape.
        """
        epoch, indices = task
        with same_random_state():
            samples = [self._read_sample(epoch, index) for index in indices or [0]]
        inputs, targets = zip(*samples, strict=True)
        shapes = {tuple(each.shape) for each in inputs}
        if len(shapes) > 1:
            one, other, *_ = sorted(shapes)
            raise UserError(
                f"data: inputs have shapes {one} and {other}; all must have the same: let the dataset resize or crop them"
            )
        inputs_N, targets_N = default_collate(list(inputs)), default_collate(list(targets))
        return inputs_N[: len(indices)], targets_N[: len(indices)]

    def _read_sample(self, epoch: int, index: int) -> tuple[Any, Any]:
        # Python hashes a string seed with SHA-512, so similar seeds give independent streams.
        random.seed(f"{self.seed} {epoch} {index}")
        torch.default_generator.manual_seed(random.getrandbits(63))
        np.random.seed(random.getrandbits(32))
        sample = self.dataset[index]
        if not (isinstance(sample, tuple | list) and len(sample) == 2 and hasattr(sample[0], "shape")):
            found = (
                ", ".join(type(part).__name__ for part in sample) if isinstance(sample, tuple | list) else sample
            )
            raise UserError(
                f"data: {type(self.dataset).__name__}[{index}] is ({found}); must be a pair, input and target, the "
                "input a tensor; torchvision.transforms.v2.PILToTensor converts an image to one"
            )
        inputs, target = sample
        if self.augment:
            inputs = self.augment(torch.as_tensor(inputs)[None])[0]
        return inputs, target


@contextlib.contextmanager
def same_random_state() -> Iterator[None]:
    """Context that restores the random states of Python, NumPy and PyTorch (CPU) at its end."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def all_samples(split: str, dataset: Any) -> tuple[Dataset[Any], Tensor]:
    """Return a dataset, and the indices of all its samples, shape (N,).

    Raises:
        ValueError: The dataset is not map-style, has no length, or is empty.
    """
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise ValueError(f"{split}={dataset}: must be a dataset that has a length and returns a sample per index")
    if not len(dataset):
        raise ValueError(f"{split}={type(dataset).__name__}: has no samples")
    return dataset, torch.arange(len(dataset))


class _Batches(Dataset[Any]):
    """Batches by task, for PyTorch's `DataLoader`; in place of a worker's error its traceback, as text.

    Args:
        samples: Makes the batches.
    """

    def __init__(self, samples: SeededSamples) -> None:
        self.samples = samples

    def __getitem__(self, task: tuple[int, list[int]]) -> Any:
        if get_worker_info() is None:
            return self.samples(task)
        try:
            return self.samples(task)
        except Exception:  # user code may raise anything; the training process repeats it, with its own traceback
            return traceback.format_exc()


# A terminal or cluster sends these to all processes. Workers ignore them: the training process must save first.
IGNORED_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


def _start_worker(_: int) -> None:
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()


@contextlib.contextmanager
def _same_sigchld() -> Iterator[None]:
    """Context that keeps the handler of SIGCHLD; PyTorch's raises wherever this process is, such as in a checkpoint."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def _close(loader: "weakref.ref[StreamLoader]") -> None:
    if here := loader():
        here.close()


class StreamLoader:
    """Iterator over a dataset's batches, which the workers of PyTorch's `DataLoader` read ahead of time.

    Order and samples are determined by seed, epoch and index alone, so the number of workers changes no bit.
    Batches are counted, truncated and divided among processes as in `BatchLoader`. The workers start with the first
    batch and run until `close`.

    Args:
        samples: Makes the batches.
        indices_N: Indices of the split's samples, shape (N,), int64, on the CPU.
        batch_size: Samples of a batch, over all processes.
        num_workers: Number of worker processes; 0: this process reads.
        shuffle: Whether to reshuffle each epoch; otherwise the samples stay in order, with the random numbers of
            epoch 0.
        transform: Applied to a batch's inputs, on `device`; None for no transform.
        device: Device of the batches.
        rank: Rank of this process, from 0.
        world_size: Number of processes.

    Example:
        >>> samples = SeededSamples([(torch.tensor(n), n % 2) for n in range(5)], 0, None)
        >>> loader = StreamLoader(samples, torch.arange(5), batch_size=2, num_workers=0, shuffle=False)
        >>> [inputs_N.tolist() for inputs_N, targets_N in loader]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        samples: SeededSamples,
        indices_N: Tensor,
        *,
        batch_size: int,
        num_workers: int,
        shuffle: bool,
        transform: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.samples, self.indices_N = samples, indices_N
        self.batch_size, self.num_workers = batch_size, num_workers
        self.transform, self.device = transform, torch.device(device)
        self.order = Order(len(indices_N), samples.seed if shuffle else None)
        if shuffle:  # Lightning calls `sampler.set_epoch`, and then expects `batch_sampler`, too
            self.sampler, self.batch_sampler = self.order, None
        self.rank, self.world_size = rank, world_size
        # Epoch and indices of each batch of the iteration under way.
        self._tasks: list[tuple[int, list[int]]] = []
        self._loader: DataLoader[Any] | None = None
        self._batches: Iterator[Any] | None = None
        self._position = 0  # batches yielded in this epoch
        self._start = 0  # position at which the next iteration starts

    def __len__(self) -> int:
        return -(-len(self.indices_N) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A generator, so this runs at the first batch, when Lightning has set epoch and position.
        start, self._start = self._start, 0
        self._begin(start)
        for position, task in enumerate(list(self._tasks), start + 1):
            batch, death = self._read()
            if death:
                self.close()
                raise UserError(
                    f"data.num_workers={self.num_workers}: a worker process has died, perhaps out of memory"
                )
            if isinstance(batch, str):
                self.samples(task)
                raise RuntimeError(f"a worker process fails where this one does not:\n{batch}")
            self._position = position
            inputs, targets = (send(part, self.device) for part in batch)
            yield self.transform(inputs) if self.transform else inputs, targets

    def close(self) -> None:
        """Stop the workers; a later iteration starts new ones."""
        self._loader = self._batches = None  # PyTorch stops them when it deletes the iterator

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches yielded in this epoch, and the number of samples per epoch."""
        return {"position": self._start or self._position, "num_samples": len(self.indices_N)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next iteration after the batches that were already yielded.

        Raises:
            UserError: The number of samples has changed.
        """
        if state["num_samples"] != len(self.indices_N):
            raise UserError(
                f"data: there were {state['num_samples']} training samples, now there are {len(self.indices_N)}; "
                "an interrupted run resumes only with the samples that it began with"
            )
        self._start = state["position"]

    def _begin(self, start: int) -> None:
        """Start reading the batches from a position on."""
        order = self.order.permutation()
        indices_N = self.indices_N if order is None else self.indices_N[order]
        begins = (batch * self.batch_size for batch in range(start, len(self)))
        self._tasks[:] = [
            (self.order.epoch, indices_N[begin + self.rank : begin + self.batch_size : self.world_size].tolist())
            for begin in begins
        ]
        with warnings.catch_warnings(), _same_sigchld():
            # Of more workers than cores; and Python 3.12's of locks held by other threads, of which a worker needs none.
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
        context = "fork" if sys.platform == "linux" else "spawn"
        return DataLoader(
            _Batches(self.samples),
            sampler=self._tasks,
            batch_size=None,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            multiprocessing_context=context if num_workers else None,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # otherwise it would draw from the network's
        )

    def _read(self) -> tuple[Any, bool]:
        """Return the next batch, and whether a worker has died; no error keeps the workers alive by its traceback."""
        assert self._batches is not None
        try:
            return next(self._batches), False
        except RuntimeError:
            if not self.num_workers:  # the data set's own error
                raise
            return None, True


def find_facts(dataset: Dataset[Any], *, first: StreamLoader, every: StreamLoader, normalize: str) -> Facts:
    """Return the facts of a dataset: input shape, and `classes`, `target_names` or `vocabulary`, if defined.

    Inputs that are uint8 of shape (C, H, W) are pixels; other inputs get no mean and standard deviation.

    Args:
        dataset: Dataset of the training split.
        first: Yields one of its samples.
        every: Yields all of its samples; read only for `standardize`.
        normalize: `unit` or `standardize`.

    Raises:
        ValueError: `standardize` is set, and the inputs are not pixels.
    """
    with contextlib.closing(first):
        inputs, target = next(iter(first))
    has_pixels = inputs.dtype == torch.uint8 and inputs.ndim == 4
    if normalize == "standardize" and not has_pixels:
        raise ValueError(f"normalize=standardize: is for pixels, uint8; the data set gives {inputs.dtype}")
    scale = Normalize((0.0,) * inputs.shape[1], (1.0,) * inputs.shape[1]) if has_pixels else None
    if normalize == "standardize":
        if is_main_process():
            warn(f"data.normalize=standardize: all {len(every.indices_N):,} training images are read once for this")
        with contextlib.closing(every):
            scale = standardize(inputs_NCHW for inputs_NCHW, _ in every)
    classes = getattr(dataset, "classes", None)
    vocabulary = getattr(dataset, "vocabulary", None)
    is_number = classes is None and isinstance(target, Tensor) and target.is_floating_point() and target.ndim <= 2
    names = getattr(dataset, "target_names", None)
    if is_number and names is None:
        num = 1 if target.ndim == 1 else target.shape[1]
        names = ["target"] if num == 1 else [f"target_{n}" for n in range(num)]
    found: dict[str, Any] = {
        "target_names": tuple(names) if is_number and names else None,
        "vocabulary": None if vocabulary is None else tuple(map(str, vocabulary)),
        "input_shape": tuple(inputs.shape[1:]),
        "num_classes": None if classes is None else len(classes),
        "class_names": None if classes is None else tuple(map(str, classes)),
        "mean": scale and scale.mean,
        "std": scale and scale.std,
        "scale": 255.0 if has_pixels else 1.0,
    }
    return Facts(**found)


def standardize(batches: Iterable[Tensor]) -> Normalize:
    """Return the normalisation of pixels, (N, C, H, W) uint8, to mean 0 and standard deviation 1 per channel."""
    count_CV = None  # counts of each of the 256 values, by channel
    for pixels_NCHW in batches:
        each = [torch.bincount(channel.flatten(), minlength=256) for channel in pixels_NCHW.transpose(0, 1)]
        count_CV = torch.stack(each) + (0 if count_CV is None else count_CV)
    assert count_CV is not None
    part_CV = count_CV / count_CV.sum(dim=1, keepdim=True, dtype=torch.float64)
    values_V = torch.arange(256, dtype=torch.float64) / 255
    mean_C = part_CV @ values_V
    std_C = (part_CV * (values_V - mean_C[:, None]).square()).sum(dim=1).sqrt()
    return Normalize(tuple(mean_C.tolist()), tuple(std or 1.0 for std in std_C.tolist()))


class StreamedDataModule(L.LightningDataModule):
    """Base of data modules whose samples are read on demand by worker processes.

    A subclass defines `open`. Inputs that are uint8 of shape (C, H, W) are pixels, and are normalised on the
    training device; other inputs are unchanged. Only the order and the classes of the samples are kept in memory.

    Args:
        batch_size: Samples of a training batch, over all processes.
        eval_batch_size: Samples of a validation or test batch, over all processes; affects only speed and memory.
        val_size: Number of training samples held out for validation, if there is no separate validation set; None:
            0.
        num_workers: Worker processes for each split and training process; 0: the training process reads. Affects
            only speed and memory.
        normalize: `unit`: pixels / 255; `standardize`: mean 0 and standard deviation 1 over the training split,
            which is read once to compute them.
        augment: Random transform of a training sample's input, shape (1, ...); None for no augmentation.
        seed: Seed of each epoch's order, and of each sample's random numbers.
        num_folds: Number of cross-validation folds, one of which is the validation split; None for no folds.
        fold: Index of the validation fold, from 0.
        split_seed: Seed of the validation split; None: `seed`.

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
        check_integers(batch_size=(batch_size, 1), eval_batch_size=(eval_batch_size, 1), val_size=(val_size, 0))
        check_integers(num_workers=(num_workers, 0), seed=(seed, 0), split_seed=(split_seed, 0))
        check_integers(fold=(fold, 0), num_folds=(2 if num_folds is None else num_folds, 2))
        if augment is not None:
            check_instantiated("augment", augment)
        if normalize not in ("unit", "standardize"):
            raise ValueError(f"normalize={normalize}: must be one of unit, standardize")
        self.batch_size, self.eval_batch_size, self.val_size = batch_size, eval_batch_size, val_size
        self.num_workers, self.normalize, self.augment = num_workers, normalize, augment
        self.seed, self.split_seed = seed, split_seed
        self.folds: dict[str, Any] = {"num_folds": num_folds, "fold": fold}
        self.splits: dict[str, tuple[Dataset[Any], Tensor]] = {}  # dataset, and indices of the split's samples
        self._facts: Facts | None = None
        self._loaders: weakref.WeakSet[StreamLoader] = weakref.WeakSet()

    def open(self, split: str) -> Dataset[Any] | None:
        """Return the dataset of a split, with an (input, target) pair per index.

        None for `val` means that there is no separate validation set.

        Raises:
            OSError: The dataset does not exist.
            ValueError: The dataset is invalid.
        """
        raise NotImplementedError

    @property
    def facts(self) -> Facts:
        """Shape, classes and normalisation; reads the training set if necessary."""
        self.setup("fit")
        assert self._facts is not None
        return self._facts

    def setup(self, stage: str) -> None:
        """Open the training and validation sets, or the test set if the stage is `test`."""
        if stage == "test":
            if "test" not in self.splits:
                self.splits["test"] = all_samples("test", self.open("test"))
            return
        if self._facts is not None:
            return
        dataset, all_N = all_samples("train", self.open("train"))
        own = self.open("val")
        if own is not None and (self.val_size or self.folds["num_folds"]):
            given = f"val_size={self.val_size}" if self.val_size else f"num_folds={self.folds['num_folds']}"
            raise ValueError(f"{given}: the data have a validation split already, and can't have another")
        parts = split(len(all_N), val_size=self.val_size, seed=self.split_seed, **self.folds)
        self.splits |= {name: (dataset, indices_N) for name, indices_N in parts.items()}
        if own is not None:
            self.splits["val"] = all_samples("val", own)
        self._facts = find_facts(
            dataset,
            first=self._loader("train", 1),
            every=self._loader("train", self.eval_batch_size),
            normalize=self.normalize,
        )

    @property
    def sizes(self) -> dict[str, int]:
        """Number of samples per split, for the splits opened so far."""
        return {name: len(indices_N) for name, (_, indices_N) in self.splits.items()}

    def inputs(self, split: str, indices: Any) -> Tensor:
        """Return samples of a split as stored in the dataset, shape (N, ...), on the CPU."""
        dataset, indices_N = self.splits[split]
        inputs, _ = SeededSamples(dataset, self.seed, None)((0, indices_N[indices].tolist()))
        return torch.as_tensor(inputs)

    def check_world_size(self, world_size: int) -> None:
        """Check that each of `world_size` processes gets a part of every training batch."""
        check_world_size(self.sizes["train"], self.batch_size, world_size)

    def train_dataloader(self) -> StreamLoader:
        """Return training batches, reshuffled each epoch unless overfitting."""
        overfits = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return self._loader("train", self.batch_size, self._transform, shuffle=not overfits, augment=self.augment)

    def val_dataloader(self) -> StreamLoader | list[StreamLoader]:
        """Return batches of the validation split; an empty list if there is none."""
        return self._loader("val", self.eval_batch_size, self._transform) if "val" in self.splits else []

    def test_dataloader(self) -> StreamLoader:
        """Return batches of the test set."""
        return self._loader("test", self.eval_batch_size, self._transform)

    def teardown(self, stage: str) -> None:
        """Stop the workers."""
        for loader in list(self._loaders):
            loader.close()

    def on_exception(self, exception: BaseException) -> None:
        """Stop the workers after an exception, too."""
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
            SeededSamples(dataset, self.seed, augment),
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


class DatasetDataModule(StreamedDataModule):
    """Data module for any map-style `torch.utils.data.Dataset` that returns an (input, target) pair per index.

    Class names are taken from the dataset's attribute `classes`, if it has one. Random numbers drawn from `random`,
    `torch` or NumPy's global generator are determined by seed, epoch and index.

    Args:
        train: Training set, or a callable that creates it; it is called with `root` if it has such a parameter.
        val: Validation set, or a callable that creates it; None: `val_size` samples of `train`.
        test: Test set, or a callable that creates it when the test set is requested; None: there is no test set.
        root: Folder of the datasets, for callables with such a parameter.
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
        >>> data = DatasetDataModule(train=Parity(), val=None, test=None, root="data", batch_size=2, val_size=2,
        ...                          eval_batch_size=2, num_workers=0, normalize="unit", augment=None, seed=0)
        >>> data.facts.input_shape, data.sizes
        ((1, 1, 1), {'val': 2, 'train': 4})
    """

    def __init__(
        self,
        *,
        train: Any,
        val: Any,
        test: Any,
        root: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sources, self.root = {"train": train, "val": val, "test": test}, root
        for name, source in self.sources.items():
            if source is None and name != "train":
                continue
            if callable(source):
                made, keywords = getattr(source, "func", source), getattr(source, "keywords", {})
                try:
                    inspect.signature(made).bind(**keywords, **self._root_argument(source))
                except TypeError as error:
                    raise ValueError(f"{name}: {error}") from error
            elif isinstance(source, str) or not hasattr(source, "__getitem__"):
                raise ValueError(f"{name}={source}: must be an object with a _target_ and _partial_: true")

    @property
    def read_image(self) -> Callable[..., Tensor] | None:
        """Function `read_image(path)` of the dataset, or None if it has none."""
        train = self.sources["train"]
        return getattr(getattr(train, "func", train), "read_image", None)

    def open(self, split: str) -> Dataset[Any] | None:
        """Return the dataset of a split; create it if it is given as a callable."""
        source: Any = self.sources[split]
        if source is None and split == "test":
            raise ValueError("test=null: there is no test set; test=false trains without one")
        made: Dataset[Any] | None = source(**self._root_argument(source)) if callable(source) else source
        return made

    def _root_argument(self, source: Any) -> dict[str, str]:
        """Return `root` as a keyword argument for creating a dataset, if the callable has this parameter unset."""
        asks = "root" in inspect.signature(getattr(source, "func", source)).parameters
        return {"root": self.root} if asks and "root" not in getattr(source, "keywords", {}) else {}
