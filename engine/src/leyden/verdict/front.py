"""The front of several metrics: settings that no other one beats in all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from leyden.verdict.tables import (
    DataRows,
    TableError,
    check_mode,
    metric_value,
    records,
    setting_columns,
    settings_of,
)


def front(
    rows: DataRows, metrics: Mapping[str, str], *, ignore: Sequence[str] = ("seed",)
) -> list[dict[str, Any]]:
    """Return the settings that no other one beats in one metric and equals in the others.

    That is the Pareto front of their means. The means are taken as they are; whether two settings
    differ by more than chance, `compare` says.

    Args:
        rows: The table, a row per run; or a data frame of pandas or Polars. Rows without a value of
            each metric do not count.
        metrics: `min` or `max`, the better direction, of each metric.
        ignore: Columns that are no settings, such as the seed; patterns like `time*` are allowed.

    Returns:
        The choices of each, the number of its runs as `n`, and the means, the best by the first
        metric first.

    Raises:
        TableError: A column is missing, or no row has a value of each metric.

    Example:
        >>> rows = [
        ...     {"width": 8, "acc": 0.9, "s": 1},
        ...     {"width": 64, "acc": 0.95, "s": 3},
        ...     {"width": 32, "acc": 0.9, "s": 2},
        ... ]
        >>> [each["width"] for each in front(rows, {"acc": "max", "s": "min"})]
        [64, 8]
    """
    if not metrics:
        raise TableError("metrics: at least one must be given")
    for mode in metrics.values():
        check_mode(mode)
    first, *others = metrics
    table = records(rows, first, others)
    columns = setting_columns(table, metrics, ignore, is_repeated=False)
    whole = []
    for row in table:
        values = [metric_value(row.get(name), name) for name in metrics]
        if None not in values:
            whole.append(row)
    if not whole:
        raise TableError(f"no row has a value of {' and '.join(metrics)}")
    found: list[dict[str, Any]] = []
    for setting in settings_of(whole, columns, first, None):
        num = setting.choices.get("n", len(setting.values))
        found.append({**setting.choices, "n": num, first: setting.mean})
    for name in others:
        for one, setting in zip(found, settings_of(whole, columns, name, None), strict=True):
            one[name] = setting.mean
    kept = []
    for one in found:
        if not any(_beats(other, one, metrics) for other in found):
            kept.append(one)
    return sorted(kept, key=lambda one: one[first], reverse=metrics[first] == "max")


def _beats(one: Mapping[str, Any], other: Mapping[str, Any], metrics: Mapping[str, str]) -> bool:
    gains = []
    for name, mode in metrics.items():
        gain = float(one[name] - other[name])
        gains.append(gain if mode == "max" else -gain)
    return min(gains) >= 0 < max(gains)
