"""Results of a run, and the failure that ended one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from leyden.base.errors import is_mistake, last_frame
from leyden.config.checks import Objective


@dataclass(frozen=True)
class Failure:
    """The error that ended a run.

    Args:
        type: Name of the exception's class.
        message: Message of the exception.
        where: Line of code that raised it, such as `models/mlp.py:12 in forward`; empty for a
            mistake in the configuration.
    """

    type: str
    message: str
    where: str = ""

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Return the failure of an exception; without the place of a user's mistake."""
        where = ""
        if not is_mistake(error):
            where = last_frame(error)
        return cls(type(error).__name__, str(error), where)

    def __str__(self) -> str:
        place = ""
        if self.where:
            place = f"\n    at {self.where}"
        return f"{self.type}: {self.message}{place}"


@dataclass(frozen=True)
class Result:
    """The result of a run, as stored at the root of `run.json`.

    Args:
        status: `finished`, `pruned`, `failed`, or `fast_dev_run` for a trial run.
        objective: The objective with the run's value; None if the run has no objective.
        metrics: Metrics of the best epoch by name, those of the test evaluation if there was one,
            and `num_parameters`; of frozen ones, also `num_trained_parameters`.
        epochs: Number of completed epochs. An epoch that `max_steps`, `max_time` or a callback
            ended before its last batch does not count.
        optimizer_steps: Number of optimizer steps over all starts.
        seconds: Time of training and validation over all starts; None if unknown.
        samples_per_second: Training samples over all starts, divided by `seconds`; None if unknown.
        checkpoint: Path of the evaluated checkpoint, relative to the run directory; None if there
            is none.
        requeues: How often the cluster job was requeued.
        error: The error of a failed run, else None.
        stages: For each stage, the names of the metrics that it logged. The stages are those of
            `STAGES`; `test` only if the run was evaluated on the whole test set.
        test_batches: Digests of the first batches of the test set, see `first_batches`; empty if
            unknown.
        can_be_tested: Whether the task has a `test_step` and the data have a test set.
        best_epoch: Number of the best epoch, counted from 1; None if unknown.
        best_step: Step at which the best epoch's metrics were logged; None if unknown.
        val_samples: Number of samples that the validation metrics are of; None if unknown.
    """

    status: str
    objective: Objective | None
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
    test_batches: dict[str, str] = field(default_factory=dict)
    best_epoch: int | None = None
    best_step: int | None = None
    val_samples: int | None = None

    @classmethod
    def failed(
        cls,
        objective: Objective | None,
        error: Failure,
        *,
        epochs: int = 0,
        num_steps: int = 0,
        requeues: int = 0,
    ) -> "Result":
        """Create the result of a run that failed after the given numbers of epochs and steps."""
        return cls("failed", objective, {}, epochs, num_steps, None, None, None, requeues, error)

    @property
    def is_complete(self) -> bool:
        """True if the run is complete: finished or pruned."""
        return self.status in ("finished", "pruned")

    @property
    def is_tested(self) -> bool:
        """True if the run was evaluated on the whole test set."""
        return "test" in self.stages

    @property
    def test_metrics(self) -> dict[str, float]:
        """The metrics of the test evaluation."""
        return {name: self.metrics[name] for name in self.stages.get("test", ())}

    def with_stage(self, stage: str, measured: Mapping[str, float]) -> "Result":
        """Return the result with the metrics of a stage that is evaluated at the end of the run.

        One whose name was also logged in another stage gets the stage as prefix, as in `test/acc`.
        """
        named = {}
        for name, value in measured.items():
            is_taken = name in self.metrics
            named[f"{stage}/{name}" if is_taken else name] = value
        stages = {**self.stages, stage: [*named]}
        return replace(self, metrics={**self.metrics, **named}, stages=stages)

    def with_objective(self, objective: Objective | None) -> "Result":
        """Return the result with this objective, whose value is taken from `metrics`.

        None if the metric is missing.
        """
        valued = objective and replace(objective, value=self.metrics.get(objective.metric))
        return replace(self, objective=valued)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values; `objective` is an object or null."""
        values = asdict(self)
        if self.error and not self.error.where:
            values["error"].pop("where")
        return values

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Result":
        """Create a result from the values of `to_dict`; others are ignored.

        Raises:
            ValueError: The content is not a valid result.
        """
        try:
            values = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
            if values.get("objective") is not None:
                values["objective"] = Objective(**values["objective"])
            if values.get("error") is not None:
                values["error"] = Failure(**values["error"])
            found = cls(**values)
            if not found._is_of_its_types():
                raise TypeError
            return found
        except (TypeError, KeyError) as wrong:
            raise ValueError("its result is not valid") from wrong

    def _is_of_its_types(self) -> bool:
        """Return whether the values that reports count, sort and print have their types.

        A record may be a stranger's.
        """
        if type(self.status) is not str:
            return False
        if type(self.metrics) is not dict or type(self.stages) is not dict:
            return False
        if not all(map(_is_number, self.metrics.values())):
            return False
        for names in self.stages.values():
            if type(names) is not list or not {*map(type, names)} <= {str}:
                return False
        if not self.metrics.keys() >= {*self.stages.get("test", ())}:
            return False
        counts = [self.epochs, self.optimizer_steps, self.best_epoch, self.val_samples]
        numbers = [*counts, self.seconds, self.samples_per_second]
        return all(number is None or _is_count(number) for number in numbers)


def _is_number(value: Any) -> bool:
    """Return whether a metric's value can be a float, and is no truth value."""
    return type(value) is float or (type(value) is int and abs(value) < MAX_NUMBER)


def _is_count(value: Any) -> bool:
    """Return whether a value is a number that is finite as a float."""
    return isinstance(value, int | float) and abs(value) < MAX_NUMBER


MAX_NUMBER = 1e300
