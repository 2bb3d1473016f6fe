"""The global random numbers of Python, NumPy and PyTorch: kept, restored, and given to a stage of the data by itself."""

import contextlib
import functools
import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader")


def random_states() -> dict[str, Any]:
    """Return the states of the random numbers of Python, NumPy and PyTorch (on the CPU), as tensors and plain values."""
    _, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state(),
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Draw from here on as from where `random_states` returned these."""
    random.setstate(states["python"])
    keys, *rest = states["numpy"]
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])


@contextlib.contextmanager
def seeded(seed: int, stage: str, epoch: int = 0) -> Iterator[None]:
    """Let what is drawn within follow from these alone, and put the states back that were there before.

    Args:
        seed: The run's.
        stage: Name of a hook of a data module.
        epoch: Of which its loaders are.
    """
    before = random_states()
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    words = np.random.SeedSequence([seed, zlib.crc32(stage.encode()), epoch]).generate_state(3).tolist()
    random.seed(words[0])
    np.random.seed(words[1])
    torch.default_generator.manual_seed(
        words[2]
    )  # `torch.manual_seed` would seed a GPU that is not started yet, for good
    if on_gpu is not None:
        torch.cuda.manual_seed_all(words[2])
    try:
        yield
    finally:
        restore_random_states(before)
        if on_gpu is not None:
            torch.cuda.set_rng_state_all(on_gpu)


def seed_stages(data: L.LightningDataModule, seed: int) -> None:
    """Let each hook of a data module draw the same numbers in every process that trains, evaluates or resumes with this seed.

    A `setup` that splits at random splits alike for each stage, so no sample is in the test set of one and in the training set
    of another. Loaders that Lightning asks for anew draw other numbers each time. `prepare_data` draws the same for all seeds: it leaves
    files that the next run finds, whatever its seed is.
    """
    for name in ("prepare_data", "setup", *LOADERS):
        if is_overridden(name, data, L.LightningDataModule):
            setattr(
                data, name, _seeded_hook(data, name, getattr(data, name), 0 if name == "prepare_data" else seed)
            )


def _seeded_hook(data: L.LightningDataModule, name: str, hook: Callable[..., Any], seed: int) -> Callable[..., Any]:
    @functools.wraps(hook)  # Lightning looks through it at what is overridden
    def call(*args: Any, **kwargs: Any) -> Any:
        reload = getattr(data.trainer, "reload_dataloaders_every_n_epochs", 0) if name in LOADERS else 0
        epoch = data.trainer.current_epoch // reload * reload if data.trainer and reload else 0
        with seeded(seed, name, epoch):
            return hook(*args, **kwargs)

    return call
