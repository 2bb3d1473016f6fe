"""What a search searches, in Hydra's override syntax.

optimizer.lr=tag(log,interval(0.0001,0.01))   a number, log-uniform
model.dropout=interval(0.0,0.5)               a number
data.batch_size=int(interval(32,256))         a whole number
data.batch_size=choice(64,128,256)            one of these; 64,128,256 says the same
trainer.accumulate_grad_batches=range(1,5)    1, 2, 3 or 4
"""

import contextlib
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, QuotedString, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial

from leyden.config.mistakes import UserError

MANY = 50


def space(overrides: Sequence[Override]) -> tuple[dict[str, BaseDistribution], list[str]]:
    """The distribution of each key that is searched, and the overrides that are fixed; the last one of a key holds.

    Raises:
        UserError: A range or interval is empty, or not what its tag asks for.
    """
    searched: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    for override in overrides:
        key = override.get_key_element()
        searched.pop(key, None)
        fixed.pop(key, None)
        if not override.is_sweep_override():
            fixed[key] = f"{key}={override.get_value_element_as_str()}"
            continue
        value = override.value()
        try:
            if isinstance(value, Glob):
                searched[key] = CategoricalDistribution(list(map(_text, override.sweep_iterator())))
            else:
                searched[key] = _distribution(value)
        except (ValueError, TypeError) as error:
            raise UserError(f"{override.input_line}: {error}") from error
    return searched, list(fixed.values())


def _distribution(sweep: Any) -> BaseDistribution:
    if unknown := sorted(sweep.tags - {"log"}):
        raise ValueError(f"the tag {unknown[0]} means nothing here, there is log alone")
    log = "log" in sweep.tags
    if isinstance(sweep, ChoiceSweep):
        return CategoricalDistribution([_text(value) for value in sweep.list])
    if isinstance(sweep, IntervalSweep):
        if isinstance(sweep.start, int) and isinstance(sweep.end, int):
            return IntDistribution(sweep.start, sweep.end, log=log)
        return FloatDistribution(float(sweep.start or 0), float(sweep.end or 0), log=log)
    assert isinstance(sweep, RangeSweep)
    values = list(sweep.range())
    if not values:
        raise ValueError("an empty range")
    return CategoricalDistribution([_text(value) for value in values])


def _text(value: Any) -> str:
    """A value as it stands in an override."""
    if isinstance(value, QuotedString):
        return value.with_quotes()
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_text(key)}:{_text(inner)}" for key, inner in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def corners(searched: dict[str, BaseDistribution]) -> list[dict[str, str]]:
    """Settings that take each bound and each choice, so that a mistake shows before the first trial.

    Of more than `MANY` numbers, as a range has, they take the smallest and the largest one.
    """
    values = {key: list(map(str, _extremes(distribution))) for key, distribution in searched.items()}
    number = max((len(list_) for list_ in values.values()), default=1)
    return [{key: list_[n % len(list_)] for key, list_ in values.items()} for n in range(number)]


def _extremes(distribution: BaseDistribution) -> Sequence[Any]:
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        with contextlib.suppress(ValueError):
            if len(choices) > MANY:
                return min(choices, key=_number), max(choices, key=_number)
        return choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low, distribution.high


def _number(choice: Any) -> float:
    return float(str(choice))


def log_keys(searched: dict[str, BaseDistribution]) -> list[str]:
    """The keys that are searched by orders of magnitude."""
    return [key for key, distribution in searched.items() if getattr(distribution, "log", False)]


def as_overrides(trial: Trial | FrozenTrial) -> list[str]:
    """The setting of a trial."""
    return [f"{key}={value}" for key, value in trial.params.items()]
