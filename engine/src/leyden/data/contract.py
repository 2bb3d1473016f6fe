"""Facts about data, and what is asked of data modules.

Any `LightningDataModule` with a `train_dataloader` can be trained on. Other members enable more:

- a `SPLIT_dataloader` for any other of `STAGES`: an objective on the validation split; an
  evaluation at the end;
- `facts`: arguments of networks, tasks and callbacks; loading a trained run without its data;
- `sizes`: the number of samples in splits whose loaders don't report it;
- `inputs(split, indices)`: samples as stored, on the CPU, for pictures and export;
- `check_world_size(n)`: the loaders divide batches among processes themselves; otherwise
  Lightning's sampler does;
- `digests`: a string per file or tensor that identifies it; a run refuses to resume on changed
  data;
- loaders with `state_dict` and `load_state_dict` of their position: resume within an epoch;
  PyTorch's `DataLoader` gets a `state_dict` from the library.

Splits are called as their stages; the test set is read only on `setup("test")`.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from numbers import Number
from typing import Any

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import BatchSampler, DistributedSampler, IterableDataset

from leyden.base.metric_names import STAGES
from leyden.data.transforms import Normalize
from leyden.exact.digest import digest
from leyden.exact.hooks import has_hook
from leyden.exact.loaders import flatten_loaders
from leyden.exact.random_state import seeded
from leyden.run.record import FIRST_BATCH

Names = tuple[str, ...]
TARGET_KINDS = ("classes", "values", "text")  # values are numbers


@dataclass(frozen=True)
class Facts:
    """Facts read from the data, not from the configuration.

    The network is built from them. None means unknown.

    Args:
        input_shape: Shape of one sample: (C, H, W) of an image, (C,) of a table row, (T,) of a
            text.
        num_classes: Number of classes.
        class_names: One name per class.
        mean: Mean per channel, as in `Normalize`.
        std: Standard deviation per channel, as in `Normalize`.
        scale: Scale, as in `Normalize`; None: 255 (pixels) if there is a mean, else 1.
        target_names: One name per number to predict.
        vocabulary: Text of each token.
        class_counts: Samples of each class in the training split; data of equal facts may differ in
            them.
        extra: Custom facts, plain values by name.
    """

    input_shape: tuple[int, ...] | None = None
    num_classes: int | None = None
    class_names: Names | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    target_names: Names | None = None
    vocabulary: Names | None = None
    class_counts: tuple[int, ...] | None = field(default=None, compare=False)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that facts are numbers or names, and that custom ones have names of their own.

        Raises:
            ValueError: Names the fact.
        """
        for name, value in vars(self).items():
            if value is None or name == "extra":
                continue
            parts = value
            if not isinstance(value, tuple | list):
                parts = (value,)
            are_names = name in ("class_names", "target_names", "vocabulary")
            for part in parts:
                is_name = are_names and isinstance(part, str)
                if not is_name and not isinstance(part, Number):
                    words = "numbers"
                    if are_names:
                        words = "names"
                    raise ValueError(f"facts.{name}: must be {words} or None")
        num = len(self.class_names or ())
        if num and self.num_classes not in (None, num):
            raise ValueError(f"facts.class_names: has {num} names of {self.num_classes} classes")
        for name in {*self.extra} & {*self._named}:
            raise ValueError(f"facts.{name}: is Leyden's own name; give your fact another one")

    @property
    def num_outputs(self) -> int | None:
        """Number of network outputs per sample (of a text: per token)."""
        names = self.target_names or self.vocabulary or ()
        return self.num_classes or len(names) or None

    @property
    def kind(self) -> str:
        """Kind of the targets, one of `TARGET_KINDS`; empty if unknown."""
        if self.num_classes is not None:
            return "classes"
        if self.target_names:
            return "values"
        if self.vocabulary:
            return "text"
        return ""

    @property
    def by_name(self) -> dict[str, Any]:
        """Known facts by the constructors' argument names, without those of the normalisation."""
        found = dict(self.extra)
        for name, value in self._named.items():
            if value is not None:
                found[name] = value
        return found

    @property
    def missing(self) -> set[str]:
        """Names of the facts that these data do not have."""
        return {name for name, value in self._named.items() if value is None}

    @property
    def _named(self) -> dict[str, Any]:
        named: dict[str, Any] = dict(vars(self))
        for name in ("mean", "std", "scale", "extra"):  # a network may have settings of these names
            del named[name]
        named["num_outputs"] = self.num_outputs
        named["vocab_size"] = None if self.vocabulary is None else len(self.vocabulary)
        return named

    def to_state(self) -> dict[str, Any]:
        """Return the facts as plain values, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Facts":
        """Return facts from a checkpoint, as written by `to_state`."""
        values = dict(state)
        for name, value in state.items():
            if isinstance(value, list):
                values[name] = tuple(value)
        return cls(**values)

    @property
    def normalize(self) -> Normalize:
        """Transform from stored samples to network inputs."""
        mean = self.mean or (0.0,)
        std = self.std or (1.0,)
        scale = 255.0
        if self.mean is None:
            scale = 1.0
        return Normalize(mean, std, self.scale or scale)


def own_loaders(module: L.LightningModule) -> list[str]:
    """Return the names of the dataloader hooks that a module has of its own."""
    names = [f"{stage}_dataloader" for stage in STAGES]
    return [name for name in names if has_hook(name, module, L.LightningModule)]


class ModuleData(L.LightningDataModule):
    """Data module for a LightningModule with its own dataloaders.

    The program passes the module to `attach`.

    The module's `prepare_data`, and its `setup` for each stage, run once, before its dataloaders
    are requested.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attached: tuple[L.LightningModule, Any]  # set by `attach`

    def attach(self, module: L.LightningModule, scheduler: Any) -> None:
        """Use the dataloaders of a module.

        Args:
            module: The module to train.
            scheduler: Creates its learning-rate schedule; stored in `attached`.

        Raises:
            ValueError: The module has no `train_dataloader`.
        """
        own = own_loaders(module)
        if "train_dataloader" not in own:
            raise ValueError(
                f"{type(module).__name__} has no train_dataloader; choose data other than "
                "data=module"
            )
        self.attached = module, scheduler
        for name in own:
            setattr(self, name, getattr(module, name))
        # Lightning calls these hooks on the data module and on the module.
        for name in ("prepare_data", "setup"):
            if is_overridden(name, module):
                once = _once(getattr(module, name))
                setattr(self, name, once)
                setattr(module, name, once)


def _once(hook: Callable[..., None]) -> Callable[..., None]:
    """Wrap a hook so that it runs once per stage, whether this is a text or Lightning's enum."""
    called: set[str | None] = set()

    def once(stage: str | None = None) -> None:
        if stage in called:
            return
        called.add(stage)
        if stage is None:
            hook()
        else:
            hook(stage)

    return once


def facts_of(data: L.LightningDataModule) -> Facts:
    """Return the facts of any data module, whose `facts` may be a dictionary, or missing.

    Raises:
        ValueError: `facts` has another type, or a fact has a reserved name.
    """
    found = getattr(data, "facts", None) or Facts()
    if isinstance(found, Mapping):
        known = {*vars(Facts())} - {"extra"}
        extra = {name: value for name, value in found.items() if name not in known}
        named = {name: value for name, value in found.items() if name in known}
        return Facts.from_state({**named, "extra": extra})
    if not isinstance(found, Facts):
        raise ValueError(
            f"facts are {type(found).__name__}; must be Facts, or a dictionary of plain values"
        )
    return found


def digests_of(data: L.LightningDataModule) -> dict[str, str]:
    """Return digests that identify the training data, by file or tensor; empty if unknown."""
    found = getattr(data, "digests", None)
    if not isinstance(found, Mapping):
        return {}
    are_texts = all(isinstance(text, str) for text in (*found, *found.values()))
    if are_texts:
        return dict(found)
    return {}


def sizes_of(
    data: L.LightningDataModule, train: Any = None, val: Any = None
) -> dict[str, int | None]:
    """Return the number of samples of each split except the test set; None where it is unknown.

    Args:
        data: The data module.
        train: Its training dataloaders, if they exist already; otherwise they are requested.
        val: Its validation dataloaders, if they exist already; otherwise they are requested.
    """
    found = getattr(data, "sizes", None)
    if isinstance(found, Mapping):
        return dict(found)
    if train is None:
        train = data.train_dataloader()
    sizes = {"train": num_samples(train)}
    if has_split(data, "val"):
        if val is None:
            val = data.val_dataloader()
        sizes["val"] = num_samples(val)
    return sizes


def divides_batches(data: L.LightningDataModule | type) -> bool:
    """Return whether the loaders divide batches among processes themselves.

    Otherwise Lightning's sampler does.
    """
    return hasattr(data, "check_world_size")


def has_split(data: L.LightningDataModule, split: str) -> bool:
    """Return whether a data module has a dataloader for this split."""
    name = f"{split}_dataloader"
    if not has_hook(name, data, L.LightningDataModule):
        return False
    if split == "test":
        return True
    return bool(flatten_loaders(getattr(data, name)()))


def _num_drawn(loader: Any) -> int:
    """Return the number of samples that an epoch of a loader draws, over all processes.

    Raises:
        TypeError: The number is unknown, as for a custom batch sampler.
    """
    batches = getattr(loader, "batch_sampler", None)
    holder = loader
    if isinstance(batches, BatchSampler):
        holder = batches
    elif batches is not None:
        raise TypeError("a batch sampler of one's own")
    drawn = getattr(holder, "sampler", None)
    is_divided = isinstance(drawn, DistributedSampler)
    if drawn is None or is_divided or isinstance(loader.dataset, IterableDataset):
        drawn = loader.dataset
    return len(drawn)


def num_samples(loaders: Any) -> int | None:
    """Return the number of samples per epoch of some loaders together.

    None if one of them does not report it.
    """
    try:
        return sum(map(_num_drawn, flatten_loaders(loaders)))
    except (AttributeError, TypeError, NotImplementedError):
        return None


MAX_COMPARED_BYTES = 2**16  # of a tensor in a batch, which are compared


def first_batches(data: L.LightningDataModule, split: str) -> dict[str, str]:
    """Return a digest of the first batch and the number of samples of each loader of a split.

    They show another process or start whether its split is the same. Data with `check_world_size`
    are skipped, since their splits follow from their arguments, and so is a loader whose first
    batch differs from one reading to the next.
    """
    is_own = is_overridden(f"{split}_dataloader", data, L.LightningDataModule)
    if divides_batches(data) or not is_own:
        return {}
    # A user's class may raise anything; if the loaders fail, so will the validation.
    with contextlib.suppress(Exception):
        once = _read_first_batches(data, split)
        again = _read_first_batches(data, split)
        return {name: each for name, each in once.items() if again.get(name) == each}
    return {}


def _read_first_batches(data: L.LightningDataModule, split: str) -> dict[str, str]:
    found = {}
    with seeded(0, f"{FIRST_BATCH}{split}"):
        loaders = flatten_loaders(getattr(data, f"{split}_dataloader")())
        for n, loader in enumerate(loaders):
            batch = None
            if not isinstance(loader, Iterator):  # whose first batch would be lost
                batch = next(iter(loader), None)
            pair = (batch, num_samples([loader]))
            found[f"{FIRST_BATCH}{split}{n or ''}"] = digest(pair, MAX_COMPARED_BYTES)[:16]
    return found
