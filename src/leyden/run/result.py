"""Results of a run: `result.json`, which is written last of all, and the curves in `metrics.csv`."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from leyden.config.objective import Objective
from leyden.run.files import read_bytes, write_whole
from leyden.scheduler import num_restarts


@dataclass(frozen=True)
class Failure:
    """What a run ended by.

    Args:
        type: Name of the exception's class.
        message: Its text.
        where: Place in somebody's code, as `models/mlp.py:12 in forward`; empty for a mistake in the configuration.
    """

    type: str
    message: str
    where: str = ""


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Args:
        status: `finished`, `pruned`, `failed`, or `fast_dev_run` for one that was only tried.
        objectives: What it was selected on, with what was reached.
        metrics: Those of the best epoch by name; with a test evaluation also its own; and `num_parameters`.
        epochs: That were completed: trained on all batches that the trainer's limits leave.
        optimizer_steps: Over all starts.
        seconds: Of training with validation, over all starts; None where it is not known.
        samples_per_second: Of training: the samples of all batches, over all starts, by `seconds`; None where it is not known.
        checkpoint: The one that was evaluated, relative to the run directory; None where there is none.
        requeues: How often the job of a cluster had been started again.
        error: None for a run that has not failed.
        stages: The names among the metrics that each stage has logged: `train`, `val`, and `test` for a run that was evaluated
            on the whole test set.
        can_be_tested: Whether the task has a `test_step`, and the data have a test set.
    """

    status: str
    objectives: tuple[Objective, ...]
    metrics: dict[str, float]
    epochs: int
    optimizer_steps: int
    seconds: float | None
    samples_per_second: float | None
    checkpoint: str | None = None
    requeues: int = 0
    error: Failure | None = None
    stages: dict[str, list[str]] = field(default_factory=dict)
    can_be_tested: bool = True

    @classmethod
    def failed(
        cls, objectives: tuple[Objective, ...], error: Failure, *, epochs: int = 0, num_steps: int = 0
    ) -> "Result":
        """The result of a run that has failed after so many epochs and steps."""
        return cls("failed", objectives, {}, epochs, num_steps, None, None, None, num_restarts(), error)

    @property
    def has_ended_well(self) -> bool:
        """Whether nothing is left to do."""
        return self.status in ("finished", "pruned")

    @property
    def is_tested(self) -> bool:
        """Whether it was evaluated on the test set, and not on a part of it alone."""
        return "test" in self.stages

    @property
    def test_metrics(self) -> dict[str, float]:
        """The metrics of its evaluation on the test set."""
        return {name: self.metrics[name] for name in self.stages.get("test", ())}

    def with_test(self, measured: Mapping[str, float]) -> "Result":
        """Return the result with an evaluation on the test set.

        A name that training or validation has logged, too, is that of their metric; the test's gets `test/` before it.
        """
        named = {f"test/{name}" if name in self.metrics else name: value for name, value in measured.items()}
        return replace(self, metrics={**self.metrics, **named}, stages={**self.stages, "test": [*named]})

    def reached(self, objectives: tuple[Objective, ...]) -> "Result":
        """The same with what was reached of these objectives; None where there is no such metric."""
        valued = tuple(replace(each, value=self.metrics.get(each.metric)) for each in objectives)
        return replace(self, objectives=valued)

    def to_json(self) -> str:
        """The text of `result.json`: one objective stands as such, several as a list, none as null."""
        values = asdict(self)
        aims = list(values.pop("objectives"))
        if self.error and not self.error.where:
            values["error"].pop("where")
        objective = aims if len(aims) > 1 else aims[0] if aims else None
        return json.dumps({"status": values.pop("status"), "objective": objective, **values}, indent=2) + "\n"

    @classmethod
    def from_json(cls, content: Any) -> "Result":
        """The result in the content of `result.json`.

        Raises:
            ValueError: It is none.
        """
        try:
            known = {each.name for each in fields(cls)}  # a newer engine may write more
            values = {name: value for name, value in dict(content).items() if name in known}
            aims = content["objective"]
            aims = aims if isinstance(aims, list) else [aims] if aims else []
            error = Failure(**values.pop("error")) if values.get("error") else values.pop("error", None)
            result = cls(**values, objectives=tuple(Objective(**aim) for aim in aims), error=error)
        except (TypeError, KeyError, ValueError) as wrong:
            raise ValueError("is no result of a run") from wrong
        if not _is_sound(result):
            raise ValueError("is no result of a run")
        return result


def _is_sound(result: Result) -> bool:
    """Whether all is of its type; what a run that has ended well has, it must have."""
    reached = (result.seconds, *(aim.value for aim in result.objectives))
    return (
        isinstance(result.status, str)
        and isinstance(result.metrics, dict)
        and all(isinstance(name, str) and _is_number(value) for name, value in result.metrics.items())
        and isinstance(result.stages, dict)
        and all(isinstance(names, list) and {*names} <= {*result.metrics} for names in result.stages.values())
        and _is_number(result.epochs)
        and _is_number(result.optimizer_steps)
        and _is_number(result.requeues)
        and isinstance(result.checkpoint, str | None)
        and isinstance(result.can_be_tested, bool)
        and (result.samples_per_second is None or _is_number(result.samples_per_second))
        and all(_is_number(value) or (value is None and not result.has_ended_well) for value in reached)
        and all(isinstance(aim.metric, str) and aim.mode in ("min", "max") for aim in result.objectives)
        and all(isinstance(text, str) for text in (vars(result.error).values() if result.error else ()))
    )


def _is_number(value: Any) -> bool:
    """Whether it is a number that can be printed and compared, NaN among them."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


HEADER = ["step", "metric", "value"]
MAX_BYTES = 2**28  # some million points


def rows(path: Path, *, last_bytes: int | None = None) -> Iterator[list[str]]:
    """The lines of the table that are whole, as texts: step, metric, value.

    Whatever else is there is left out: the header, a line that a killed run has not finished, damaged ones. Each
    line is read for itself, so that none of them spoils the next. A file that can't be read has none.
    """
    try:
        text = read_bytes(path, max_bytes=MAX_BYTES, last_bytes=last_bytes).decode(errors="replace")
    except OSError:
        return
    for line in text.split("\n")[:-1]:  # behind the last line feed is what was not finished
        try:
            step, metric, value = next(csv.reader([line]))
            int(step), float(value)
        except (ValueError, StopIteration, csv.Error):
            continue
        if "\ufffd" not in metric:
            yield [step, metric, value]


def write_rows(path: Path, kept: Sequence[Sequence[str]]) -> None:
    """Write the table anew, of these lines."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([HEADER, *kept])
    write_whole(path, text.getvalue())


def points(path: Path, *, last_bytes: int | None = None) -> list[tuple[int, str, float]]:
    """The same as numbers: step, metric, value, in the order in which they were logged.

    Args:
        path: The file.
        last_bytes: Reads no more than the end of it; None reads all.
    """
    return [(int(step), metric, float(value)) for step, metric, value in rows(path, last_bytes=last_bytes)]
