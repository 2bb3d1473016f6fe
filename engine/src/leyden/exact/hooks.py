"""Hooks of Lightning that return data: seeded, and their loaders made resumable."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from leyden.exact import lightning
from leyden.exact.lightning import is_overridden, saved_elsewhere, tree_of
from leyden.exact.loaders import Derived, has_processes
from leyden.exact.random_state import seeded

if TYPE_CHECKING:
    from lightning import LightningDataModule, LightningModule

# End of the names of hooks that return loaders, also of stages that Lightning does not know.
LOADER = "_dataloader"
Hook = Callable[..., Any]


def has_hook(name: str, owner: Any, kind: type) -> bool:
    """Return whether an object has a hook that a class of Lightning's has not, or has empty."""
    if hasattr(kind, name):
        return is_overridden(name, owner)
    return hasattr(owner, name)


def seed_stages(data: "LightningDataModule", seed: int) -> None:
    """Seed each hook of a data module.

    So processes that train, evaluate or resume draw the same numbers.
    A random split in `setup` is therefore equal for all stages: no sample is in the test set of one
    stage and in the training set of another. Loaders that Lightning reloads draw new numbers each
    time. `prepare_data` draws the same numbers for all seeds, since the next run uses its files,
    whatever its seed.
    """
    kind = tree_of(data).LightningDataModule
    for name in dir(data):
        if name not in ("prepare_data", "setup") and not name.endswith(LOADER):
            continue
        if not has_hook(name, data, kind):
            continue
        of_hook = seed
        if name == "prepare_data":
            of_hook = 0
        hook = getattr(data, name)
        setattr(data, name, _seeded_hook(data, name, hook, of_hook))


def _seeded_hook(data: "LightningDataModule", name: str, hook: Hook, seed: int) -> Hook:
    @functools.wraps(hook)  # Lightning inspects the wrapped function to see what is overridden
    def call(*args: Any, **kwargs: Any) -> Any:
        every_n_epochs = 0
        if name.endswith(LOADER):
            every_n_epochs = getattr(data.trainer, "reload_dataloaders_every_n_epochs", 0)
        epoch = 0
        if data.trainer and every_n_epochs:
            current = data.trainer.current_epoch
            epoch = current - current % every_n_epochs
        with seeded(seed, name, epoch):
            return hook(*args, **kwargs)

    return call


class OfData:
    """Lightning's trainer as the reader of a data module's loaders, see `Reader`."""

    def __init__(self, data: "LightningDataModule") -> None:
        self._data = data

    @property
    def _trainer(self) -> Any:
        return getattr(self._data, "trainer", None)

    def epoch(self) -> int | None:
        """Return the trainer's epoch."""
        return self._trainer.current_epoch if self._trainer else None

    def num_batches(self) -> int:
        """Return the number of batches that were trained on."""
        return int(self._trainer.fit_loop.total_batch_idx) + 1

    def prefetches(self) -> bool:
        """Return whether Lightning requests a batch before it needs it."""
        return lightning.prefetches(self._trainer)

    def shares(self) -> bool:
        """Return whether there are several processes or virtual ranks."""
        return has_processes() or lightning.virtual_ranks(self._trainer) is not None

    def saved(self) -> list[Any]:
        """Return the data module, the module, and what these and the trainer save."""
        found: list[Any] = [self._data]
        module = self._trainer.lightning_module if self._trainer else None
        if module:
            found += saved_elsewhere(self._trainer, module)
            found += module.modules()
        return found


def make_resumable(data: "LightningDataModule", seed: int) -> None:
    """Make a data module's loaders of training and validation draw the same, see `Derived`."""
    derived = Derived(OfData(data), seed)

    def made_by(hook: str, make: Callable[[], Any]) -> Any:
        are_training = hook == "train_dataloader"
        return derived.derive(make(), hook, are_training=are_training)

    for hook in ("train_dataloader", "val_dataloader"):
        if is_overridden(hook, data):
            make = getattr(data, hook)
            setattr(data, hook, functools.partial(made_by, hook, make))


def as_data_module(module: "LightningModule", data: Any, val: Any) -> "LightningDataModule":
    """Return a data module of what `trainer.fit` takes."""
    tree = tree_of(module)
    if isinstance(data, tree.LightningDataModule):
        return data  # type: ignore[no-any-return]
    made = tree.LightningDataModule()  # Lightning asks an object for its hooks, not its class
    made.train_dataloader = module.train_dataloader if data is None else lambda: data
    if val is not None:
        made.val_dataloader = lambda: val
    elif is_overridden("val_dataloader", module):
        made.val_dataloader = module.val_dataloader
    return made  # type: ignore[no-any-return]
