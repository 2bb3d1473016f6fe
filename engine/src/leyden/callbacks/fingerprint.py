"""Fingerprints of a run during training: hashes of weights, optimizer and random states."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from leyden.callbacks.display import DisplayCallback
from leyden.exact.digest import digest_of_content
from leyden.exact.random_state import random_states
from leyden.exact.sharding import FSDP2
from leyden.run.files import HASH_LENGTH, Fingerprint, append_fingerprint, read_fingerprints, write_fingerprints
from leyden.run.lock import check_held


class Fingerprints(DisplayCallback):
    """Adds a line to `fingerprint.csv` at the end of each epoch and at each checkpoint.

    A line contains hashes of the weights, the optimizers' states and the random states. Training is not affected. A
    run that resumes deletes the lines after its checkpoint. Only the process of rank 0 writes, with its own states, and
    its own part of weights that are sharded.

    Args:
        every_n_steps: Optimizer steps between additional lines; None for none.
    """

    def __init__(self, *, every_n_steps: int | None) -> None:
        if every_n_steps is not None and (type(every_n_steps) is not int or every_n_steps < 1):
            raise ValueError(f"every_n_steps={every_n_steps}: must be a positive whole number or null")
        self.every_n_steps = every_n_steps
        self._writes = False
        self._written: set[int] = set()  # steps that have a line
        self._step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the existing lines up to the step from which the run resumes."""
        self._step = trainer.global_step
        # Of FSDP2, a digest is of this process's part; other sharded states all processes would have to gather.
        is_whole = isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy | FSDP2)
        self._writes = trainer.is_global_zero and is_whole
        if self._writes:
            directory = Path(trainer.default_root_dir)
            kept = {step: each for step, each in read_fingerprints(directory).items() if step <= self._step}
            check_held(directory)
            write_fingerprints(directory, kept)
            self._written = {*kept}

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Add a line, every `every_n_steps`."""
        step = trainer.global_step
        if self.every_n_steps and step // self.every_n_steps != self._step // self.every_n_steps:
            self._append_line(trainer)
        self._step = step

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add a line."""
        self._append_line(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, *args: Any) -> None:
        """Add a line."""
        self._append_line(trainer)

    def _append_line(self, trainer: L.Trainer) -> None:
        step, directory = trainer.global_step, Path(trainer.default_root_dir)
        if not self._writes or step in self._written:
            return
        found = Fingerprint(
            weights=state_digest(trainer.lightning_module.state_dict()),
            optimizer=state_digest([optimizer.state_dict() for optimizer in trainer.optimizers]),
            random=state_digest(random_states()),
        )
        check_held(directory)
        append_fingerprint(directory, step, found)
        self._written.add(step)


def state_digest(content: Any) -> str:
    """Return the first digits of a hash of tensors and plain values."""
    return digest_of_content(content)[:HASH_LENGTH]
