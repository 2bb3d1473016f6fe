"""What a run is selected on."""

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig

from leyden.config.errors import UserError


@dataclass(frozen=True)
class Objective:
    """A metric that is to become as small or as large as can be, and what a run has reached of it.

    Args:
        metric: Its name, as `val/acc`.
        mode: `min` or `max`.
        value: None where it is not known, or not yet.
    """

    metric: str
    mode: str
    value: float | None = None

    @property
    def gain(self) -> float | None:
        """The value with a sign that makes more better."""
        return self.value if self.value is None or self.mode == "max" else -self.value


def objectives(node: Any) -> tuple[Objective, ...]:
    """What stands in a configuration, where metric and mode can be lists.

    Raises:
        UserError: There are not as many modes as metrics, or it is something else.

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
        raise UserError(f"objective.mode={modes}: must be as many as objective.metric={metrics}")
    if not all(isinstance(name, str) and name for name in metrics):
        raise UserError(f"objective.metric={metrics}: must be names of metrics, as val/acc")
    for mode in modes:
        if mode not in ("min", "max"):
            raise UserError(f"objective.mode={mode}: must be one of min, max")
    return tuple(Objective(metric, mode) for metric, mode in zip(metrics, modes, strict=True))
