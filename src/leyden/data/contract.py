"""The least that the library asks of data, and what data gain by offering more; a module's own loaders as data."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any, Protocol, runtime_checkable

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from leyden.data.facts import Facts
from leyden.data.files import digest_of
from leyden.data.resumable import flattened

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def own_loaders(module: L.LightningModule) -> list[str]:
    """Return the hooks for loaders that a module defines."""
    return [name for name in LOADERS if is_overridden(name, module)]


class ModuleData(L.LightningDataModule):
    """The data of a LightningModule that has loaders of its own: the program gives the module to `take`.

    The module's `prepare_data`, and its `setup` for each stage, are called once, before its loaders are asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made: tuple[L.LightningModule, Any]  # since `take`

    def take(self, module: L.LightningModule, scheduler: Any) -> None:
        """Have the loaders of a module.

        Args:
            module: What is trained.
            scheduler: What makes its schedule, for who trains it.

        Raises:
            ValueError: It has none for training.
        """
        own = own_loaders(module)
        if "train_dataloader" not in own:
            raise ValueError(
                f"{type(module).__name__} has no train_dataloader of its own; choose other data than data=module"
            )
        self.made = module, scheduler
        for name in own:
            setattr(self, name, getattr(module, name))
        # Lightning calls these of the data module and of the module.
        for name in ("prepare_data", "setup"):
            if is_overridden(name, module):
                once = _once(getattr(module, name))
                setattr(self, name, once)
                setattr(module, name, once)


def _once(hook: Callable[..., None]) -> Callable[..., None]:
    """A hook that is called once for each stage."""
    called: set[str | None] = set()

    def once(stage: str | None = None) -> None:
        if stage not in called:
            called.add(stage)
            hook(*([] if stage is None else [stage]))

    return once


MAX_DIGESTS = 20


@runtime_checkable
class Loader(Protocol):
    """Batches of a split, and a position among them, so that a run can go on within an epoch."""

    def __len__(self) -> int:
        """Number of batches."""

    def __iter__(self) -> Iterator[Any]:
        """The batches from the position on."""

    def state_dict(self) -> dict[str, Any]:
        """The position, as plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration start at a position."""


@runtime_checkable
class DataModule(Protocol):
    """A `LightningDataModule` of which the engine makes all that it can.

    Any `LightningDataModule` with a `train_dataloader` will do. What it gains by more:

    - `val_dataloader`, `test_dataloader`: an objective on the validation split; an evaluation in the end;
    - `facts`: networks, tasks and callbacks that ask for them; loading a trained run where the data are not;
    - `sizes`: the number of samples of splits whose loaders don't tell;
    - `inputs`: pictures of samples, and export;
    - `check_world_size`: its loaders divide batches among processes themselves; else Lightning's sampler does;
    - `digests`: a text per file or tensor that identifies it, as its SHA-256: a run on changed data is not resumed;
    - loaders with `state_dict`: a run goes on within an epoch; PyTorch's `DataLoader` is given one.

    Splits are called `train`, `val` and `test`; the test set is read only when `setup("test")` asks for it.
    """

    batch_size: int  # samples of a training batch, over all processes
    eval_batch_size: int

    @property
    def facts(self) -> Facts:
        """What the data say; reads the training set if that was not done before."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Number of samples of each split that was read."""

    def inputs(self, split: str, indices: Any) -> Tensor:
        """Samples of a split as they lie in the data set, shape (N, ...), before normalisation; on the CPU."""

    def check_world_size(self, world_size: int) -> None:
        """Make sure that each of `world_size` processes gets a part of every training batch.

        Raises:
            ValueError: One would get nothing.
        """

    def setup(self, stage: str) -> None:
        """Read the training set, or for the stage `test` the test set."""

    def train_dataloader(self) -> Loader:
        """Batches of the training split."""

    def val_dataloader(self) -> Loader | list[Loader]:
        """Batches of the validation split; an empty list if there is none."""

    def test_dataloader(self) -> Loader:
        """Batches of the test set."""


def facts_of(data: L.LightningDataModule) -> Facts:
    """The facts of any data module: its `facts`, which may be a dictionary; without them none.

    Raises:
        ValueError: They are something else, or one has a name that is taken.
    """
    found = getattr(data, "facts", None)
    if found is None:
        return Facts()
    if isinstance(found, Facts):
        found.check_names()
        return found
    if not isinstance(found, Mapping):
        raise ValueError(f"facts are {type(found).__name__}; must be Facts, or a dictionary of plain values")
    known = {field.name for field in fields(Facts)} - {"further"}
    further = {name: value for name, value in found.items() if name not in known}
    state = Facts(**{name: value for name, value in found.items() if name in known}, further=further).to_state()
    return Facts.from_state(state)  # as a checkpoint will have them


def digests_of(data: L.LightningDataModule) -> dict[str, str]:
    """Return what identifies the data that a run trains on, by the name of a file or tensor; nothing where that is not known.

    Of more than `MAX_DIGESTS` one for all is made.
    """
    found = getattr(data, "digests", None)
    if not isinstance(found, Mapping) or not all(isinstance(text, str) for pair in found.items() for text in pair):
        return {}
    if len(found) > MAX_DIGESTS:
        return {f"all {len(found)} files": digest_of(json.dumps(dict(found), sort_keys=True).encode())}
    return dict(found)


def sizes_of(data: L.LightningDataModule, train: Any = None, val: Any = None) -> dict[str, int | None]:
    """Number of samples of each split but the test set that a data module has; None where that is not known.

    Args:
        data: The data module.
        train: Its loaders of training, if they are made already; else it is asked for them.
        val: The same of validation.
    """
    if isinstance(found := getattr(data, "sizes", None), Mapping):
        return dict(found)
    sizes = {"train": num_samples(data.train_dataloader() if train is None else train)}
    if has_split(data, "val"):
        sizes["val"] = num_samples(data.val_dataloader() if val is None else val)
    return sizes


def divides_batches(data: L.LightningDataModule | type) -> bool:
    """Whether the loaders of a data module, or of those of a class, divide their batches among processes themselves; else Lightning's sampler does."""
    return hasattr(data, "check_world_size")


def has_split(data: L.LightningDataModule, split: str) -> bool:
    """Whether a data module has a loader of this split."""
    if not is_overridden(f"{split}_dataloader", data, L.LightningDataModule):
        return False
    return split != "val" or bool(flattened(data.val_dataloader()))


def num_samples(loaders: Any) -> int | None:
    """Samples of all of some loaders; None where one does not tell."""
    try:
        return sum(len(loader.dataset) for loader in flattened(loaders))
    except (AttributeError, TypeError, NotImplementedError):
        return None
