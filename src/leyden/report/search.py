"""How a search went, as panels of its picture: the best so far, and which of the searched keys matter."""

import math
import statistics
import warnings
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate
from typing import Any

from leyden.config.objective import Objective
from leyden.report.plot import shorten
from leyden.report.ranking import Row

LEAST = 10  # settings; fewer tell nothing of importance
NUM_TOP = 5  # settings at least that are compared with all; Optuna's advice


def panels(rows: Sequence[Row], aim: Objective, log: Collection[str]) -> list[Callable[[Any], None]]:
    """What draws the panels, each on the axes that it is given. Few settings have none.

    Args:
        rows: Settings, each the mean over its runs.
        aim: What was searched for.
        log: The keys that were searched by orders of magnitude.
    """
    found = []
    for row in rows:
        if (finished := row.finished) and math.isfinite(
            mean := statistics.fmean(record.values[0] for record in finished)
        ):
            ends = [record.ended for record in finished if record.ended is not None]
            found.append((row.choices, mean, max(ends) if len(ends) == len(finished) else None))
    drawn: list[Callable[[Any], None]] = []
    shares = importances([(choices, mean) for choices, mean, _ in found], aim.mode, log)
    if shares:
        drawn.append(lambda axes: _draw_importances(axes, shares))
    known = [(end, mean) for _, mean, end in found if end is not None]
    if len(known) == len(found) > 1:
        history = [mean for _, mean in sorted(known, key=lambda each: each[0])]
        drawn.append(lambda axes: _draw_history(axes, history, aim))
    return drawn


def importances(found: Sequence[tuple[dict[str, Any], float]], mode: str, log: Collection[str]) -> dict[str, float]:
    """How much each key decides whether a setting is among the best, as shares of one, by PED-ANOVA.

    A key that only some settings have counts where it is (Watanabe et al., PED-ANOVA, IJCAI 2023, and Optuna's extension to
    conditional keys). Empty where there are fewer than `LEAST` settings, or where all are equally good.

    Args:
        found: Choices and value of each setting.
        mode: `min` or `max`: what is better.
        log: The keys that were searched by orders of magnitude.
    """
    keys = list(dict.fromkeys(key for choices, _ in found for key in choices))
    share = max(0.1, NUM_TOP / max(1, len(found)))
    order = sorted((value for _, value in found), reverse=mode == "max")
    if not keys or len(found) < LEAST or order[math.ceil(share * len(found)) - 1] == order[-1]:
        return {}
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {key: _distribution([c[key] for c, _ in found if key in c], key in log) for key in keys}
    study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
    for choices, value in found:
        own = {key: distributions[key] for key in choices}
        params = {
            key: str(choice) if isinstance(own[key], optuna.distributions.CategoricalDistribution) else choice
            for key, choice in choices.items()
        }
        study.add_trial(optuna.create_trial(params=params, distributions=own, value=value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a key that hardly any setting has, or lacks
        return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=share))


def _distribution(values: Sequence[Any], log: bool) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    numeric = all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in values)
    if not numeric:
        return CategoricalDistribution(list(dict.fromkeys(map(str, values))))
    low, high = min(values), max(values)
    log = log and low > 0
    if all(isinstance(x, int) for x in values):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _draw_importances(axes: Any, shares: dict[str, float]) -> None:
    ordered = sorted(shares.items(), key=lambda item: item[1])
    bars = axes.barh([shorten(key) for key, _ in ordered], [share for _, share in ordered])
    axes.bar_label(bars, [f" {share:.2f}" for _, share in ordered])
    axes.set_xlim(0, 1.15)
    axes.set_xlabel("importance (PED-ANOVA)")


def _draw_history(axes: Any, history: Sequence[float], aim: Objective) -> None:
    numbers = range(1, len(history) + 1)
    axes.scatter(numbers, history, s=18, alpha=0.7)
    best = list(accumulate(history, max if aim.mode == "max" else min))
    axes.step(numbers, best, where="post", alpha=0.6, label="best so far")
    axes.legend()
    axes.set_xlabel("settings, in the order of their end")
    axes.set_ylabel(aim.metric)
    axes.grid(alpha=0.3)
