"""Callbacks that a run does not depend on: summary, progress bar, fingerprints.

The errors of their base never end a run.
"""

import functools
import inspect
import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_only
from rich import get_console
from rich.progress import Task, TextColumn
from rich.text import Text

from leyden.base.errors import log_and_continue
from leyden.base.table import print_table
from leyden.base.terminal import relative_path, show, time_text
from leyden.data.contract import sizes_of
from leyden.data.transforms import check_integers
from leyden.exact.digest import digest_of_content
from leyden.exact.random_state import random_states
from leyden.exact.sharding import FSDP2
from leyden.exact.stages import stages_of
from leyden.run.files import (
    HASH_LENGTH,
    Fingerprint,
    append_fingerprint,
    read_fingerprints,
    write_fingerprints,
)
from leyden.run.lock import check_held
from leyden.tasks import network_of
from leyden.verdict.numbers import metric_text


class DisplayCallback(L.Callback):
    """Base of callbacks that a run does not depend on: after an error, the run continues.

    Attributes:
        at_end: True if the callback draws only at the end of a run, in `on_fit_end` or from an
            evaluation.
    """

    at_end = False

    def __init_subclass__(cls) -> None:
        for name, hook in list(vars(cls).items()):
            if name.startswith("on_") and inspect.isfunction(hook):
                setattr(cls, name, _continue_on_error(hook))


def _continue_on_error(hook: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(hook)
    def wrapped(self: DisplayCallback, *args: Any) -> None:
        with log_and_continue(type(self).__name__):
            hook(self, *args)

    return wrapped


class Summary(DisplayCallback):
    """Prints the layers with their parameters, the sizes of the splits, and the device."""

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the table, and the checkpoint from which the run resumes."""
        network = network_of(pl_module)
        rows = []
        for name, module in network.named_modules():
            own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
            if own > 0:
                # PyTorch has a name of its own for a class that is sharded.
                kind = type(module).__name__.removeprefix("FSDP")
                rows.append({"layer": name, "type": kind, "parameters": f"{own:,}"})
        total = sum(parameter.numel() for parameter in network.parameters())
        rows.append({"layer": "total", "type": type(network).__name__, "parameters": f"{total:,}"})
        # Use the existing loaders: requesting new ones would replace the data module's samplers.
        data = trainer.datamodule  # type: ignore[attr-defined]
        num_by_split = sizes_of(data, trainer.train_dataloader, trainer.val_dataloaders)
        how = getattr(data, "how_split", "")
        sizes = []
        for split, num in num_by_split.items():
            size = split
            if num is not None:
                size = f"{split} {num:,}"
            sizes.append(f"{size} ({how})" if how and split == "val" else size)
        device = f"{trainer.world_size} x {trainer.strategy.root_device.type}, {trainer.precision}"
        print_table(rows)
        show(f"samples: {', '.join(sizes)}; device: {device}")
        show(f"run directory: {relative_path(Path(trainer.default_root_dir))}")
        if trainer.ckpt_path:
            show(f"resumes from {trainer.ckpt_path}, step {trainer.global_step}")


def metric_texts(metrics: Mapping[str, float]) -> Iterator[str]:
    """Yield metrics as text, those of a stage together, so that four fit into 80 characters.

    Example:
        >>> [*metric_texts({"val/acc": 0.9, "val/loss": 0.3, "fid": 7.0})]
        ['fid 7.0000', 'val acc 0.9000 loss 0.3000']
    """
    by_stage: dict[str, list[str]] = defaultdict(list)
    for name in sorted(metrics):
        stage, _, short = name.rpartition("/")
        by_stage[stage].append(f"{short} {metric_text(metrics[name])}")
    for stage, texts in by_stage.items():
        yield " ".join([stage, *texts]).lstrip()


BAR_WIDTH = 5  # characters
FIRST_LINE_S = (
    60.0  # after which a long epoch has a line within; each further one takes twice as long
)
MAX_BETWEEN_S = 600.0


class EpochColumn(TextColumn):
    """Shows the epoch as the printed lines do, counted from 1, and the rest as Lightning does.

    Args:
        num_epochs: Number of epochs; None if it is not limited.
    """

    def __init__(self, num_epochs: int | None) -> None:
        super().__init__("{task.description}")
        self.num_epochs = num_epochs

    def render(self, task: Task) -> Text:
        """Return the text of a bar."""
        epoch = re.match(r"Epoch (\d+)", task.description)
        if epoch is None:
            return super().render(task)
        return Text(f"epoch {int(epoch[1]) + 1}/{self.num_epochs}")


class Progress(RichProgressBar):
    """Progress bar with the current loss and accuracy, and a printed line for each completed epoch.

    Where nobody would see the bar, such as in a file, there are the lines alone, and within an
    epoch of minutes a few with the speed and the remaining time.

    Args:
        refresh_rate: Refreshes per second; 0: neither bar nor lines.
    """

    def __init__(self, *, refresh_rate: int) -> None:
        check_integers(refresh_rate=(refresh_rate, 0))
        console = get_console()
        is_seen = console.is_terminal or console.is_jupyter
        super().__init__(refresh_rate=refresh_rate if is_seen else 0, leave=False)
        self._has_lines = refresh_rate > 0
        self._refreshed = 0.0
        self._epoch_s: float | None = None  # of the epoch before, with its validation
        self._begin()

    def _begin(self, step: int = 0) -> None:
        """Start the clock of an epoch, or of the rest of one."""
        self._start = time.monotonic()
        self._first_step = step
        self._num_batches = 0
        self._wait = FIRST_LINE_S
        self._line_at = self._start + self._wait

    def configure_columns(self, trainer: L.Trainer) -> list[Any]:
        """Return the bar's columns, without speed, so that metrics fit into 80 characters."""
        _, bar, batches, seconds, _ = super().configure_columns(trainer)
        bar.bar_width = BAR_WIDTH
        return [EpochColumn(trainer.max_epochs), bar, batches, seconds]

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return the metrics logged for the bar, such as loss and accuracy, by short names."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)  # added by the logger
        shown = {}
        for name, value in metrics.items():
            shown[name.removeprefix("train/").removesuffix("_step")] = value
        return shown

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock; a run resumed within an epoch gets no `on_train_epoch_start`."""
        super().on_train_start(trainer, pl_module)
        self._begin(trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Refresh the bar, if it is due; Lightning would collect the metrics after every batch."""
        now = time.monotonic()
        self._num_batches += 1
        if not self.is_enabled:
            if self._has_lines and now >= self._line_at and trainer.is_global_zero:
                self._wait = min(2 * self._wait, MAX_BETWEEN_S)
                self._line_at = now + self._wait
                with log_and_continue("the line on the speed"):
                    self._print_speed(trainer, batch_idx + 1, now - self._start)
            return
        if now - self._refreshed >= 1 / self.refresh_rate or trainer.is_last_batch:
            self._refreshed = now
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the previous epoch's line."""
        super().on_train_epoch_start(trainer, pl_module)
        self._print_epoch(trainer)
        if self._num_batches:
            self._epoch_s = time.monotonic() - self._start
        self._begin(trainer.global_step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the last epoch's line."""
        self._print_epoch(trainer)
        super().on_train_end(trainer, pl_module)

    def _print_speed(self, trainer: L.Trainer, num_done: int, seconds: float) -> None:
        """Print where an epoch is, its speed, and as far as known how long the rest takes."""
        num = trainer.num_training_batches
        steps_per_s = (trainer.global_step - self._first_step) / seconds
        of_num = ""
        if math.isfinite(num):
            of_num = f"/{num}"
        line = (
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  batch {num_done}{of_num}  "
            f"{steps_per_s:.3g} steps/s"
        )
        if math.isfinite(num):
            batch_s = seconds / self._num_batches
            rest_s = batch_s * (num - num_done)
            line += f"  {time_text(rest_s)} left of this epoch"
            num_epochs = trainer.max_epochs or 0
            more = num_epochs - trainer.current_epoch - 1
            if more > 0 and trainer.max_steps < 0:
                epoch_s = self._epoch_s or batch_s * num
                line += f", {time_text(rest_s + more * epoch_s)} in all"
        get_console().print(line, highlight=False, markup=False, soft_wrap=True)

    def _print_epoch(self, trainer: L.Trainer) -> None:
        # Lightning's `callback_metrics` also contain those of earlier epochs.
        found = stages_of(trainer).epoch
        of_steps = {f"{name}_step" for name in found}
        metrics = {name: value for name, value in found.items() if name not in of_steps}
        if self._has_lines and trainer.is_global_zero and metrics:
            seconds = time.monotonic() - self._start
            head = f"epoch {trainer.current_epoch}/{trainer.max_epochs}"
            line = "  ".join([head, *metric_texts(metrics), f"{seconds:.1f} s"])
            get_console().print(line, highlight=False, markup=False, soft_wrap=True)


class Fingerprints(DisplayCallback):
    """Adds a line to `fingerprint.csv` at the end of each epoch and at each checkpoint.

    A line contains hashes of the weights, the optimizers' states and the random states. Training is
    not affected. A run that resumes deletes the lines after its checkpoint. Only the process of
    rank 0 writes, with its own states, and its own part of weights that are sharded.

    Args:
        every_n_steps: Optimizer steps between additional lines; None for none.
    """

    def __init__(self, *, every_n_steps: int | None) -> None:
        if every_n_steps is not None:
            check_integers(every_n_steps=(every_n_steps, 1))
        self.every_n_steps = every_n_steps
        self._writes = False
        self._written: set[int] = set()  # steps that have a line
        self._step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the existing lines up to the step from which the run resumes."""
        self._step = trainer.global_step
        # Of FSDP2, a digest is of this process's part; other sharded states all processes would
        # have to gather.
        is_whole = isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy | FSDP2)
        self._writes = trainer.is_global_zero and is_whole
        if self._writes:
            directory = Path(trainer.default_root_dir)
            found = read_fingerprints(directory)
            kept = {step: each for step, each in found.items() if step <= self._step}
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
        step = trainer.global_step
        if not self._writes or step in self._written:
            return
        found = Fingerprint(
            weights=state_digest(trainer.lightning_module.state_dict()),
            optimizer=state_digest([optimizer.state_dict() for optimizer in trainer.optimizers]),
            random=state_digest(random_states()),
        )
        directory = Path(trainer.default_root_dir)
        check_held(directory)
        append_fingerprint(directory, step, found)
        self._written.add(step)


def state_digest(content: Any) -> str:
    """Return the first digits of a hash of tensors and plain values."""
    return digest_of_content(content)[:HASH_LENGTH]
