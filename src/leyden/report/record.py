"""A run among many: what was chosen for it, and what came of it."""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from leyden.config.objective import Objective
from leyden.run.directory import Run
from leyden.run.points import points
from leyden.run.result import Result


@dataclass
class Record:
    """A run: what was chosen for it, and what came of it.

    Args:
        run: Its directory.
        choices: By key; one that its configuration does not have is not there.
        typed: Those that were typed at its first start.
        config: Its resolved configuration, flat.
        status: That of its result, but `diverged` where an objective is NaN; or `running`, `queued`, `interrupted`.
        objectives: With what was reached.
        result: Its result; None if it has none.
        starts: As `Run` has them.
    """

    run: Run
    choices: dict[str, Any]
    typed: dict[str, str]
    config: dict[str, Any]
    status: str
    objectives: tuple[Objective, ...]
    result: Result | None
    starts: list[dict[str, Any]]

    @property
    def epochs(self) -> int | None:
        """Those that have ended."""
        return self.result.epochs if self.result else None

    @property
    def seconds(self) -> float | None:
        """Of training."""
        return self.result.seconds if self.result else None

    @property
    def started(self) -> float | None:
        """When it was first started, in seconds since the epoch; None where that is not known."""
        return _seconds(self.starts[0].get("time")) if self.starts else None

    @property
    def ended(self) -> float | None:
        """The same of its end, by its last start and the seconds of training: times of files change when copied."""
        started = _seconds(self.starts[-1].get("time")) if self.starts else None
        return None if started is None or self.seconds is None else started + self.seconds

    @property
    def error(self) -> str:
        """What it failed by, in one line; empty for nothing."""
        error = self.result.error if self.result else None
        return " ".join(f"{error.type}: {error.message} {error.where}".split()) if error else ""

    @property
    def values(self) -> list[float]:
        """What it reached, one number per objective; empty if it has not reached all."""
        there = [aim.value for aim in self.objectives if aim.value is not None and not math.isnan(aim.value)]
        return there if len(there) == len(self.objectives) else []

    @property
    def gains(self) -> list[float]:
        """The same with signs that make more better."""
        return [aim.gain for aim in self.objectives if aim.gain is not None] if self.values else []


def _seconds(text: Any) -> float | None:
    """Since the epoch; None for what is no time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None


def position(record: Record) -> str:
    """How far a run has come that has not ended: its last step and objective, by its `metrics.csv`."""
    found = points(record.run.directory / "metrics.csv", last_bytes=2**16)
    metric = record.objectives[0].metric if record.objectives else None
    reached = [f"{metric} {value:.4f}" for _, name, value in found if name == metric]
    return ", ".join([f"step {step}" for step, *_ in found[-1:]] + reached[-1:])
