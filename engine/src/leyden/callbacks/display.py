"""Display-only callbacks: their base, whose errors never end a run, and the progress bar."""

import functools
import inspect
import time
from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import CustomTimeColumn

from leyden.callbacks.logged_metrics import stages_of
from leyden.config.errors import log_and_continue


class DisplayCallback(L.Callback):
    """Base of callbacks that a run does not depend on: an error in a hook is reported, and the run continues.

    Attributes:
        at_end: True if the callback draws only at the end of a run, in `on_fit_end` or from an evaluation. Such
            pictures can also be drawn later.
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


class Progress(RichProgressBar):
    """Progress bar with the current loss and accuracy, and a printed line for each completed epoch.

    Args:
        refresh_rate: Refreshes per second; 0: no bar.
    """

    def __init__(self, *, refresh_rate: int) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=False)
        self._refreshed = 0.0

    def configure_columns(self, trainer: L.Trainer) -> list[Any]:
        """Return the bar's columns without times, so that the metrics fit into 80 characters."""
        return [column for column in super().configure_columns(trainer) if not isinstance(column, CustomTimeColumn)]

    def _get_train_description(self, current_epoch: int) -> str:
        """Return the epoch, counted from 1 as in the printed lines; Lightning has no public hook for this text."""
        return f"epoch {current_epoch + 1}/{self.trainer.max_epochs}"

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return the metrics logged for the bar, such as loss and accuracy over the last steps, by short names."""
        metrics = super().get_metrics(trainer, pl_module)
        return {
            name.removeprefix("train/").removesuffix("_step"): value
            for name, value in metrics.items()
            if name != "v_num"  # added by the logger
        }

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock; a run resumed within an epoch gets no `on_train_epoch_start`."""
        super().on_train_start(trainer, pl_module)
        self._start = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Refresh the bar, if it is due; Lightning would collect the metrics after every batch."""
        now = time.monotonic()
        if self.is_enabled and (now - self._refreshed >= 1 / self.refresh_rate or trainer.is_last_batch):
            self._refreshed = now
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the previous epoch's line."""
        super().on_train_epoch_start(trainer, pl_module)
        self._print_epoch(trainer)
        self._start = time.monotonic()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the last epoch's line."""
        self._print_epoch(trainer)
        super().on_train_end(trainer, pl_module)

    def _print_epoch(self, trainer: L.Trainer) -> None:
        # Lightning's `callback_metrics` also contain those of earlier epochs.
        found = stages_of(trainer).epoch
        metrics = {name: value for name, value in found.items() if name not in {f"{each}_step" for each in found}}
        if self.progress is not None and metrics:
            texts = (f"{name} {metrics[name]:.4f}" for name in sorted(metrics))
            seconds = time.monotonic() - self._start
            head = f"epoch {trainer.current_epoch}/{trainer.max_epochs}"
            line = "  ".join([head, *texts, f"{seconds:.1f} s"])
            self.progress.console.print(line, highlight=False, markup=False, soft_wrap=True)
