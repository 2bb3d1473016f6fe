"""Throughput of a run, contention for the processors that it computes on, and its provenance as text for TensorBoard."""

import json
import os
import shlex
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch.optim import Optimizer

from leyden.callbacks.display import DisplayCallback
from leyden.callbacks.samples_seen import batch_size
from leyden.config.terminal import warn
from leyden.config.values import flatten
from leyden.pictures.base import logged_steps, tensorboard_writer
from leyden.run.directory import Run
from leyden.run.identity import typed_overrides
from leyden.run.process import num_cores

# Linux keeps here for how long a thread has computed, and for how long it could have, but others did, in nanoseconds.
SCHEDULE = Path("/proc/thread-self/schedstat")
NOTICED = 0.2  # of its time
LEAST_S = 1.0  # what is over sooner is slow for nobody


class CpuContention(DisplayCallback):
    """Says, once, that a run is slowed by a busy machine: after its first epoch, if it waited for a processor for a fifth of the time.

    The first epoch is the first that ends a second or more after the run began to train. It is silent where the system
    does not tell (it is Linux that does).
    """

    def __init__(self) -> None:
        self.before: tuple[float, float] | None = None

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the clock."""
        waited = _waited_s()
        self.before = None if waited is None else (time.monotonic(), waited)

    @rank_zero_only
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say how long the first epoch has waited."""
        if self.before is None or (took_s := time.monotonic() - self.before[0]) < LEAST_S:
            return
        if (waited_s := _waited_s()) is None:
            return
        part = (waited_s - self.before[1]) / took_s
        self.before = None
        if part > NOTICED:
            warn(
                f"slowed by a busy machine: the run waited {part:.0%} of its time for a processor "
                f"(load {os.getloadavg()[0]:.1f} on {num_cores()} cores)"
            )


def _waited_s() -> float | None:
    try:
        _, waited_ns, _ = SCHEDULE.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return int(waited_ns) / 1e9


class Monitor(L.Callback):
    """Logs learning rate, gradient norm and speed, at the steps at which the classifier logs its loss.

    - `lr`: the learning rate of the coming update; `lr_0`, `lr_1` where there are several groups, in one optimizer or more.
    - `grad_norm`: the Euclidean norm of all gradients, over all processes, before they are clipped; `grad_norm_0`, `grad_norm_1` of the
      parameters of each optimizer, where a module steps several by hand. These are logged in a batch of each `log_every_n_steps`.
    - `time/samples_per_second`: training samples per second since the last such step of the epoch; left out where batches do not show their size.
    - `time/epoch_seconds`: an epoch with its validation, over all starts.

    Times differ from run to run, so all of them have the prefix `time/`.
    """

    state_key = "Monitor"  # in the checkpoint, whatever the class is called

    def __init__(self) -> None:
        self._before = 0.0  # seconds of this epoch in earlier starts
        self._start = self._since = time.monotonic()
        self._num_samples: int | None = 0  # None where a batch does not show its size

    def state_dict(self) -> dict[str, Any]:
        """The seconds of this epoch so far."""
        return {"epoch_seconds": self._before + time.monotonic() - self._start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them over."""
        self._before = state_dict["epoch_seconds"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clocks; a run that resumes within an epoch does not start that epoch."""
        self._start = self._since = time.monotonic()
        self._num_samples = 0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start them anew."""
        self._before = 0.0
        self.on_train_start(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count its samples."""
        num = batch_size(batch, trainer.train_dataloader)
        if num is None or self._num_samples is None:
            self._num_samples = None
        else:
            self._num_samples += num * trainer.world_size

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Log, if it is time; before a checkpoint of this step, so that a resumed run does not log it again."""
        several = len(trainer.optimizers) > 1
        # By steps, which they take in turns, some of several optimizers would never be logged.
        num = trainer.fit_loop.total_batch_idx if several else trainer.global_step
        if (num + 1) % trainer.log_every_n_steps != 0:  # type: ignore[attr-defined]
            return
        owned = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in (owned if several else pl_module.parameters()) if p.grad is not None]
        groups = [group for each in trainer.optimizers for group in each.param_groups]
        values = {"lr" if len(groups) == 1 else f"lr_{n}": float(group["lr"]) for n, group in enumerate(groups)}
        position = f"_{_position(trainer, optimizer)}" if several else ""
        values[f"grad_norm{position}"] = torch.nn.utils.get_total_norm(gradients).item()
        now = time.monotonic()
        if self._num_samples is not None:
            values["time/samples_per_second"] = self._num_samples / (now - self._since)
        self._num_samples, self._since = 0, now
        self._log(trainer, values, logged_steps(trainer))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch's time."""
        seconds = self._before + time.monotonic() - self._start
        self._log(trainer, {"time/epoch_seconds": seconds}, logged_steps(trainer) - 1)

    def _log(self, trainer: L.Trainer, values: dict[str, float], step: int) -> None:
        # Not by `pl_module.log`: that would make them metrics of the run, beside loss and accuracy.
        for logger in trainer.loggers:
            logger.log_metrics(values, step)


def _position(trainer: L.Trainer, optimizer: Optimizer) -> int:
    """Return an optimizer's number; they are compared as objects, and Lightning may have wrapped it."""
    return next(n for n, each in enumerate(trainer.optimizers) if each.param_groups is optimizer.param_groups)


class ProvenanceText(DisplayCallback):
    """Shows each logger the resolved configuration; in TensorBoard's texts also where the run comes from.

    `run/config` is `config.yaml`, `run/provenance` the last start in `provenance.json`, and `run/command` what
    starts the same run anew, also for a job of a sweep.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write them at each start, at its step."""
        if not trainer.is_global_zero:
            return
        run = Run(trainer.default_root_dir)
        for logger in trainer.loggers:
            logger.log_hyperparams(dict(flatten(run.config)))
        if writer := tensorboard_writer(trainer):
            start = json.loads((run.directory / "provenance.json").read_text(encoding="utf-8"))[-1]
            diff = start["git"].pop("diff") or ""
            config = (run.directory / "config.yaml").read_text(encoding="utf-8")
            step = trainer.global_step
            writer.add_text("run/config", _block(config), step)
            writer.add_text("run/provenance", _block(json.dumps(start, indent=2)), step)
            writer.add_text("run/command", _block(rerun_command(run, start["git"]["sha"], bool(diff))), step)


def rerun_command(run: Run, sha: str | None, changed: bool) -> str:
    """The command that makes the same run anew."""
    typed = [override for override in run.overrides if typed_overrides([override])]
    checkout = f"git checkout {sha}\n" if sha else ""
    if changed:
        checkout += "git apply diff  # git.diff in provenance.json\n"
    return checkout + shlex.join(["python", "-m", "leyden.train", *typed])


def _block(text: str) -> str:
    """Markdown that shows a text as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines())
