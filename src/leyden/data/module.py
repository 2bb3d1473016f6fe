"""The data that a LightningModule brings itself, by its own loaders."""

from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden

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
