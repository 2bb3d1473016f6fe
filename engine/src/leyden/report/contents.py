"""The parts of a run's files that reports need: configuration, overrides, times of its starts and result."""

from dataclasses import dataclass
from typing import Any

from leyden.config.objective import Objective, objectives
from leyden.report.configs import Base, ConfigReader
from leyden.run.directory import RunContents
from leyden.run.identity import typed_overrides
from leyden.run.result import Failure, Result

# Positions of fields that JSON has no type for.
OBJECTIVES, ERROR = (list(Result.__dataclass_fields__).index(name) for name in ("objectives", "error"))


@dataclass
class Contents:
    """The parts of a run's files that reports need, exactly as recorded.

    Args:
        base: Configuration from which the run's differs in a few flat values.
        changed: Those values.
        typed: Overrides of the first start, by key.
        start_times: Time of each start, in ISO 8601; None if unknown.
        objectives: The objectives; without values if the run has no result.
        result: The result; None if the run has none.
    """

    base: Base
    changed: dict[str, Any]
    typed: dict[str, str]
    start_times: list[str | None]
    objectives: tuple[Objective, ...]
    result: Result | None

    @classmethod
    def read(cls, run: RunContents, configs: ConfigReader) -> "Contents":
        """Read the files of a run.

        Raises:
            UserError: A file is damaged. Untrusted content can raise other types as well.
        """
        (base, changed, plain), result, starts = configs.read(run), run.result, run.starts
        return cls(
            base,
            changed,
            typed=typed_overrides(starts[0]["overrides"] if starts else []),
            start_times=[time if isinstance(time := start.get("time"), str) else None for start in starts],
            objectives=result.objectives if result and result.objectives else objectives(plain["objective"]),
            result=result,
        )

    def to_json(self) -> list[Any]:
        """Return the contents of a run with a result, without the base, as JSON values."""
        assert self.result is not None
        result = [*vars(self.result).values()]
        result[OBJECTIVES] = [[*vars(each).values()] for each in self.result.objectives]
        result[ERROR] = self.result.error and [*vars(self.result.error).values()]
        aims = None if self.result.objectives else [[*vars(each).values()] for each in self.objectives]
        return [self.changed, self.typed, self.start_times, aims, result]

    @classmethod
    def from_json(cls, base: Base, values: list[Any]) -> "Contents":
        """Create contents from a base and the values of `to_json`."""
        changed, typed, start_times, aims, result = values
        result[OBJECTIVES] = found = tuple([Objective(*each) for each in result[OBJECTIVES]])
        result[ERROR] = result[ERROR] and Failure(*result[ERROR])
        return cls(
            base,
            changed,
            typed,
            start_times,
            objectives=found if aims is None else tuple(Objective(*each) for each in aims),
            result=Result(*result),
        )
