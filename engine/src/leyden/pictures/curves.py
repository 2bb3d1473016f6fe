"""A training in pictures and loggers, besides its metrics: its curves, its throughput, its configuration."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from matplotlib.figure import Figure
from torch.optim import Optimizer

from leyden.callbacks.display import DisplayCallback
from leyden.callbacks.kept import samples_per_batch
from leyden.config.values import flatten
from leyden.exact.lightning import logged_steps
from leyden.exact.stages import stages_of
from leyden.pictures.outputs import save_picture, wrapped
from leyden.run.directory import Run
from leyden.run.result import chart_of, plain, read_curves, use_log_scale

MAX_PANELS = 4
COLOURS = {"train": "#1f77b4", "val": "#d95f02"}
STYLES = {"train": ("-", "o"), "val": ("--", "s")}  # lines and markers, which differ in grey, too
STEP_COLOUR = "#c6d8ea"  # curve of step values, behind the curve of epoch means


class Curves(DisplayCallback):
    """Draws `curves.png` from the whole `metrics.csv`, including earlier starts, when training ends or fails.

    Without `metrics.csv` there is no picture.
    """

    at_end = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the curves."""
        directory = Path(trainer.default_root_dir)
        if trainer.is_global_zero and (curves := read_curves(directory / "metrics.csv")):
            title = f"{directory.parent.name}/{directory.name}"
            save_picture(trainer, draw_curves(curves, stages_of(trainer).names, title), "curves.png")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Draw the curves, unless the run was interrupted from outside and will resume."""
        if isinstance(exception, Exception):
            self.on_fit_end(trainer, pl_module)


def draw_curves(curves: dict[str, list[tuple[int, float]]], stages: Mapping[str, str], run: str = "") -> Figure:
    """Return one panel per metric, the loss first, with training and validation over optimizer steps.

    Args:
        curves: Points of each curve, as from `read_curves`.
        stages: Stage that logged each metric; metrics without one are not drawn.
        run: Name of the run, the figure's title.
    """
    panels: dict[str, list[str]] = {}
    for name in curves:
        if name in stages:
            panels.setdefault(chart_of(name), []).append(name)
    titles = sorted(panels, key=lambda title: title != "loss")[:MAX_PANELS] or ["loss"]
    width = max(9, 4.5 * len(titles))
    run = wrapped(run, width, 10)
    figure = Figure(figsize=(width, 3.5))
    # Without a layout engine, which would draw twice.
    top = 0.9 - 0.05 * run.count("\n")
    figure.subplots_adjust(left=0.07, right=0.99, bottom=0.14, top=top, wspace=0.2)
    figure.suptitle(run, fontsize=10)
    for number, title in enumerate(titles, start=1):
        axes: Any = figure.add_subplot(1, len(titles), number)
        names = sorted(panels.get(title, ()), key=lambda name: (not name.endswith("_step"), stages[name]))
        for name in names:
            steps, values = zip(*sorted(curves[name]), strict=True)
            is_step = name.endswith("_step") and len(names) > 1
            line, marker = ("-", None) if is_step else STYLES[stages[name]]
            colour = STEP_COLOUR if is_step else COLOURS[stages[name]]
            marker = marker if len(steps) <= 20 else None
            axes.plot(steps, values, line, color=colour, label=plain(name), marker=marker, markersize=3)
        if title == "loss" and all(value > 0 for name in names for _, value in curves[name]):
            use_log_scale(axes, "y")
        axes.set_xlabel("optimizer steps")
        axes.set_ylabel(plain(title))
        axes.grid(alpha=0.3)
        if names:
            axes.legend()
    return figure


class Monitor(L.Callback):
    """Logs learning rate, gradient norm and speed, at the steps at which a task logs its loss.

    - `lr`: the learning rate of the next update; `lr_0`, `lr_1` etc. for several parameter groups, in one optimizer
      or more.
    - `grad_norm`: the Euclidean norm of all gradients, over all processes, before clipping; `grad_norm_0`,
      `grad_norm_1` etc. for the parameters of each optimizer, if a module steps several manually. These are logged
      every `log_every_n_steps` batches.
    - `time/samples_per_second`: training samples per second since the previous such step of the epoch; omitted if
      their number is unknown.
    - `time/epoch_seconds`: duration of an epoch with its validation, since the start of the program.

    Times differ between equal runs, so all of them have the prefix `time/`.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clocks, also where a run resumes within an epoch."""
        self._start = self._since = time.monotonic()
        self._num_batches = 0  # since the last logged step

    on_train_epoch_start = on_train_start

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        self._num_batches += 1

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Log, if it is due, before a checkpoint of this step, so that a resumed run does not log it again."""
        several = len(trainer.optimizers) > 1
        # Count batches: with steps, which optimizers take in turns, some optimizers would never be logged.
        num = trainer.fit_loop.total_batch_idx if several else trainer.global_step
        if (num + 1) % trainer.log_every_n_steps != 0:  # type: ignore[attr-defined]
            return
        owned = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in (owned if several else pl_module.parameters()) if p.grad is not None]
        groups = [group for each in trainer.optimizers for group in each.param_groups]
        values = {"lr" if len(groups) == 1 else f"lr_{n}": float(group["lr"]) for n, group in enumerate(groups)}
        suffix = f"_{_optimizer_index(trainer, optimizer)}" if several else ""
        norm: Any = torch.nn.utils.get_total_norm(gradients)
        values[f"grad_norm{suffix}"] = (norm.full_tensor() if hasattr(norm, "full_tensor") else norm).item()
        now = time.monotonic()
        if num_samples := samples_per_batch(trainer):
            values["time/samples_per_second"] = num_samples * self._num_batches / (now - self._since)
        self._num_batches, self._since = 0, now
        self._log_directly(trainer, values, logged_steps(trainer))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch's duration."""
        seconds = time.monotonic() - self._start
        self._log_directly(trainer, {"time/epoch_seconds": seconds}, logged_steps(trainer) - 1)

    def _log_directly(self, trainer: L.Trainer, values: dict[str, float], step: int) -> None:
        # Not `pl_module.log`, which would make them metrics of the run, like loss and accuracy.
        for logger in trainer.loggers:
            logger.log_metrics(values, step)


def _optimizer_index(trainer: L.Trainer, optimizer: Optimizer) -> int:
    """Return the index of an optimizer, found by its parameter groups, since Lightning may have wrapped it."""
    return next(n for n, each in enumerate(trainer.optimizers) if each.param_groups is optimizer.param_groups)


class LoggedConfig(DisplayCallback):
    """Logs the resolved configuration to each logger."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log it at each start."""
        config = dict(flatten(Run(trainer.default_root_dir).config)) if trainer.is_global_zero else {}
        for logger in trainer.loggers if config else ():
            logger.log_hyperparams(config)
