"""Objectives: the metrics that decide which run is best."""

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig

from leyden.config.errors import UserError


@dataclass(frozen=True)
class Objective:
    """A metric to minimize or maximize, and a run's value of it.

    Args:
        metric: Name of the metric, such as `val/acc`.
        mode: `min` or `max`.
        value: The run's value; None if it is not known (yet).
    """

    metric: str
    mode: str
    value: float | None = None

    @property
    def gain(self) -> float | None:
        """The value, negated for mode `min`, so that larger is better."""
        return self.value if self.value is None or self.mode == "max" else -self.value


def objectives(node: Any) -> tuple[Objective, ...]:
    """Return the objectives of the config node `objective`, whose metric and mode can be lists.

    Raises:
        UserError: The node is malformed, or the numbers of metrics and modes differ.

    Example:
        >>> objectives({"metric": ["val/acc", "num_parameters"], "mode": ["max", "min"]})[1]
        Objective(metric='num_parameters', mode='min', value=None)
        >>> objectives(None)
        ()
    """
    if node is None:
        return ()
    if not isinstance(node, dict | DictConfig):
        raise UserError(f"objective={node}: must be null, or set by objective.metric and objective.mode")
    if set(node) != {"metric", "mode"}:
        raise UserError(f"objective: has {', '.join(map(str, node)) or 'nothing'}; must have metric and mode")
    metrics, modes = (
        list(values) if isinstance(values, list | ListConfig) else [values]
        for values in (node["metric"], node["mode"])
    )
    if not metrics or len(metrics) != len(modes):
        raise UserError(f"objective.mode={modes}: must have as many entries as objective.metric={metrics}")
    if not all(isinstance(name, str) and name for name in metrics):
        raise UserError(f"objective.metric={metrics}: must be names of metrics, such as val/acc")
    for mode in modes:
        if mode not in ("min", "max"):
            raise UserError(f"objective.mode={mode}: must be one of min, max")
    return tuple(Objective(metric, mode) for metric, mode in zip(metrics, modes, strict=True))
