"""The steps beyond a checkpoint, which a resumed run must compute again.

No state has to be known to compare: whatever a checkpoint lacks is seen by what it does.
"""

import contextlib
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from leyden.exact.digest import digest
from leyden.exact.files import opened, read_bounded, replacing
from leyden.exact.loaders import gather_from_processes
from leyden.exact.memory import MAX_WHOLE, Reporter, is_rank_zero, reason

STEPS_FILE = "checkpoints/steps.jsonl"
MAX_STOP_BYTES = 2**26  # of this file


class StepRecord:
    """Records values of steps, and compares those that a resumed run computes again.

    Recorded are every so many batches, and the first one after each checkpoint, with the learning
    rates after it; of the latter, and of the batch after a stop that has time, a checksum of the
    weights, too: what acts on the gradients, such as a mask, changes no loss of the first batch.
    Values that are never recorded are not compared. Only the process of rank zero records.

    Args:
        directory: Folder with `checkpoints`.
        reporter: Announces the first step that parts.
    """

    def __init__(self, directory: Path, reporter: Reporter) -> None:
        self.file = directory / STEPS_FILE
        self.reporter = reporter
        self.is_last = False  # True for the batch before a stop
        self.batch = 0  # number of batches of all starts
        self._has_checkpoint = False
        self._is_after_checkpoint = False
        self._before: dict[int, dict[str, str]] = {}  # values of the stopped run, by batch

    def state_dict(self) -> dict[str, Any]:
        """Return the number of batches."""
        return {"batch": self.batch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of batches, and read what the stopped run has recorded beyond them."""
        self.batch = int(state_dict["batch"])
        self.saved()
        with contextlib.suppress(Exception):  # there is none, or its last line is cut off
            for line in read_bounded(self.file, MAX_STOP_BYTES).splitlines():
                row = json.loads(line)
                values = {str(name): str(value) for name, value in row["values"].items()}
                for name in values.keys() - {"weights"}:
                    float(values[name])
                if row["batch"] > self.batch:
                    self._before[row["batch"]] = values

    def begin(self) -> None:
        """Let all processes compare at the same steps."""
        self._before = gather_from_processes(self._before)[0]

    def saved(self) -> None:
        """Record the next batch; what was recorded before a checkpoint is not needed any more."""
        self._has_checkpoint = self._is_after_checkpoint = True

    def is_due(self, every_n_steps: int) -> bool:
        """Return whether the batch is recorded or compared."""
        if self.batch in self._before:
            return True
        is_logged = self.batch % max(1, every_n_steps) == 0
        return self._has_checkpoint and (self._is_after_checkpoint or self.is_last or is_logged)

    def end(
        self, found: Mapping[str, Any], optimizers: Iterable[Any], modules: Iterable[nn.Module]
    ) -> None:
        """Record and compare a batch that is due.

        Args:
            found: Its values by name; only numbers count.
            optimizers: Those with learning rates.
            modules: Those with weights.
        """
        values: dict[str, str] = {}
        try:
            if is_rank_zero():
                values = self._values(found, optimizers, modules)
        except Exception as error:  # of a user's own class
            self.reporter.name([f"step {self.batch} ({reason(error)})"], "can't be recorded")
        if self.batch in self._before:
            self._compare(values)
        if is_rank_zero() and self.reporter.mode != "off":
            self._write({name: values[name] for name in values if self._has_weights(name)})
        self._is_after_checkpoint = False

    def _has_weights(self, name: str) -> bool:
        return name != "weights" or self.is_last or self._is_after_checkpoint

    def _values(
        self, found: Mapping[str, Any], optimizers: Iterable[Any], modules: Iterable[nn.Module]
    ) -> dict[str, str]:
        values: dict[str, str] = {}
        for name, each in found.items():
            number = torch.as_tensor(each).detach()
            if number.numel() == 1:
                values[name] = repr(number.item() + 0.0)
        rates: list[Any] = []  # they act in the next step
        for optimizer in optimizers:
            rates += [group["lr"] for group in optimizer.param_groups]
        for index, rate in enumerate(rates):
            values[f"lr[{index}]"] = repr(float(rate))
        if self._has_weights("weights") or "weights" in self._before.get(self.batch, {}):
            values["weights"] = _weights(modules)
        return values

    def _compare(self, values: dict[str, str]) -> None:
        before = self._before.pop(self.batch)
        mine = [name for name, value in before.items() if values.get(name, value) != value]
        parts = gather_from_processes(mine)[0]
        if not parts:
            return
        self._before = {}
        name = parts[0]
        now = values.get(name)
        then = before.get(name)
        if name != "weights" and now is not None:
            now = f"{float(now):.9g}"
            then = f"{float(before[name]):.9g}"
        self.reporter.announce(
            f"parts from the interrupted run at step {self.batch} ({name} {now}, was {then}): "
            "something that no checkpoint has changes"
        )

    def _write(self, values: dict[str, str]) -> None:
        """Add a line to the file; one that can't be written is announced, and ends no run."""
        try:
            row = json.dumps({"batch": self.batch, "values": values})
            line = f"{row}\n".encode()
            if self._is_after_checkpoint:
                with replacing(self.file) as file:
                    file.write(line)
            else:
                with opened(self.file, "ab") as file:
                    file.write(line)
        except OSError as error:
            self.reporter.name([f"{self.file} ({reason(error)})"], "can't be written")

    def delete(self) -> None:
        """Delete the file, when the last checkpoint is that of the last step."""
        if is_rank_zero():
            with contextlib.suppress(OSError):
                self.file.unlink()


def _weights(modules: Iterable[nn.Module]) -> str:
    """Return a checksum of the weights and buffers: of large ones, of a part."""
    named: list[Any] = []  # a state_dict may need all processes
    for module in modules:
        named += [*module.named_parameters(), *module.named_buffers()]
    return digest(named, MAX_WHOLE)[:16]


def resume_line(checkpoint: Path, step: int, epoch: int) -> str:
    """Return where a training resumes, in words.

    Args:
        checkpoint: The checkpoint.
        step: Number of steps that it holds.
        epoch: Its epoch, counted from 0.
    """
    steps = checkpoint.parents[1] / STEPS_FILE
    saved = checkpoint.stat().st_mtime
    text = f"resumes at step {step:,} of epoch {epoch + 1} from {checkpoint.parents[1]}"
    last_seen = steps.stat().st_mtime if steps.exists() else saved
    lost_s = last_seen - saved
    if lost_s >= 1:
        span = f"{lost_s:.0f} s" if lost_s < 120 else f"{lost_s / 60:,.0f} min"
        return f"{text} (saved at least {span} before the stop)"
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(saved))
    return f"{text} (saved {at})"
