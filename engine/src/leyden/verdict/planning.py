"""The number of seeds that a sweep takes, before it is run."""

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from leyden.verdict.difference import POWER, Look, decide_among, width
from leyden.verdict.groups import MAX_SPREAD_RATIO, MIN_VALUES, Group, samples_of_all
from leyden.verdict.numbers import metric_text
from leyden.verdict.quantiles import NORMAL, chi_squared_quantile, smallest
from leyden.verdict.reports import Report, TextRow
from leyden.verdict.tables import TableError

NUM_DRAWS = 400  # sweeps that are simulated for a number of seeds
SHOWN_SEEDS = (3, 5, 10, 20, 40)
MAX_SEEDS = 100
MAX_SETTINGS = 100
FEW = 20  # degrees of freedom of a pilot, up to which its deviation is said to be uncertain


@dataclass(frozen=True)
class Plan(Report):
    """A plan of a sweep; `str` gives the text.

    Args:
        deviation: Standard deviation of the runs of a setting, which differ in their seeds.
        num_settings: Number of settings.
        num_seeds: Number of seeds of each; 0 if no allowed number shows the wanted difference.
        wanted: The difference that is to be seen; 0 if none was named.
        seen: The smallest difference that four of five such sweeps see, by number of seeds.
        looks: Number of planned looks, the last one at all seeds.
        seconds: Seconds of a run; None if unknown.
        freedom: Degrees of freedom of the deviation; infinite if it was typed.
        left_out: Names of the pilot's settings that diverge, whose deviation does not count.
    """

    deviation: float
    num_settings: int
    num_seeds: int
    wanted: float
    seen: dict[int, float]
    looks: int = 1
    seconds: float | None = None
    freedom: float = math.inf
    left_out: Sequence[str] = ()

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each number of seeds that was looked at."""
        rows = []
        for num, size in sorted(self.seen.items()):
            runs = num * self.num_settings
            row = {"seeds": num, "runs": runs, "seen": size}
            if self.seconds is not None:
                row["hours"] = runs * self.seconds / 3600
            rows.append(row)
        return rows

    def cells(self) -> list[TextRow]:
        """Return the numbers of seeds, with the runs and hours, and what they show."""
        cells: list[TextRow] = [("seeds", "runs", "hours", "difference seen")]
        for row in self.rows():
            hours = f"{row['hours']:.2g}" if "hours" in row else ""
            cells.append((str(row["seeds"]), str(row["runs"]), hours, f"{row['seen']:.2g}"))
        return cells

    def lines(self) -> list[str]:
        """Return what to do."""
        lines = [f"Seen: by four of five such sweeps; deviation {metric_text(self.deviation)}."]
        if self.freedom <= FEW:
            least = chi_squared_quantile(0.1, self.freedom)
            factor = math.sqrt(self.freedom / least)
            lines.append(
                f"Add runs to the pilot: the deviation may be {factor:.2g} times as large."
            )
        if self.left_out:
            names = " and ".join(self.left_out)
            lines.append(f"Left out of the pilot, as it diverges: {names}.")
        if not self.num_seeds:
            lines.append(f"Allow more runs: these don't show a difference of {self.wanted:g}.")
            return lines
        size = f"{self.wanted or self.seen[self.num_seeds]:.2g}"
        runs = self.num_seeds * self.num_settings
        what = f"{self.num_seeds} seeds of each of {self.num_settings} settings, {runs} runs"
        lines.append(f"Run {what}: then a difference of {size} shows.")
        if self.looks > 1:
            nums = ", ".join(map(str, self.looks_at))
            level = f"{100 * Look(1, self.looks).level:.2g} %"
            lines.append(f"Look after {nums} seeds: each look spends {level} of the 5 %.")
        return lines

    @property
    def looks_at(self) -> list[int]:
        """Number of seeds at each planned look."""
        parts = range(1, self.looks + 1)
        nums = [max(MIN_VALUES, self.num_seeds * part // self.looks) for part in parts]
        return [*dict.fromkeys(nums)]

    def contents(self) -> dict[str, Any]:
        """Return all of the plan."""
        return {
            "deviation": self.deviation,
            "settings": self.num_settings,
            "seeds": self.num_seeds,
            "difference": self.wanted or self.seen.get(self.num_seeds),
            "looks": self.looks,
            "looks_at": self.looks_at,
            "rows": self.rows(),
            "remarks": self.lines(),
        }


def plan(
    deviation: float,
    *,
    settings: int = 2,
    difference: float = 0.0,
    runs: int = 0,
    looks: int = 1,
    seconds: float | None = None,
    freedom: float = math.inf,
) -> Plan:
    """Plan a sweep: how many seeds show a difference, or which difference shows with so many runs.

    A difference is seen if the setting that is worse by it than the best one is excluded by `rank`
    at the last look. All settings have the same seeds, and values are normal. The tests are those
    of `rank`, on simulated sweeps, of which the chance that means differ is computed exactly.

    Args:
        deviation: Standard deviation of the runs of a setting, which differ in their seeds.
        settings: Number of settings.
        difference: The difference that is to be seen in four of five sweeps; 0 to spend all runs.
        runs: Largest number of runs of all settings together; 0 for any.
        looks: Number of looks, planned before the first one.
        seconds: Seconds of a run, for the hours; None if unknown.
        freedom: Degrees of freedom of the deviation, of a pilot.

    Raises:
        TableError: A value is not allowed, or neither a difference nor a number of runs is given.

    Example:
        >>> found = plan(0.01, settings=2, difference=0.02)
        >>> found.num_seeds, round(found.seen[5], 4)
        (5, 0.0179)
    """
    if not 0 < deviation < math.inf:
        raise TableError(f"deviation={deviation}: must be a positive number")
    if not 2 <= settings <= MAX_SETTINGS:
        raise TableError(f"settings={settings}: must be from 2 to {MAX_SETTINGS}")
    if not 1 <= looks <= MAX_SEEDS:
        raise TableError(f"looks={looks}: must be a positive whole number")
    if not 0 <= difference < math.inf:
        raise TableError(f"difference={difference}: must be a positive number")
    if seconds is not None and not 0 <= seconds < math.inf:
        raise TableError(f"seconds={seconds}: must be a positive number")
    if not difference and not runs:
        raise TableError("difference= or runs= is missing: what is to be seen, or may be spent")
    most = min(runs // settings or MAX_SEEDS, MAX_SEEDS)
    if most < MIN_VALUES:
        raise TableError(f"runs={runs}: {settings} settings take {MIN_VALUES * settings} or more")
    seen: dict[int, float] = {}

    def is_enough(num: int) -> bool:
        """Return whether so many seeds show the difference, and keep what they show."""
        if num not in seen:
            seen[num] = deviation * detectable_by(num, settings, looks)
        return difference > 0 and seen[num] <= difference

    low = MIN_VALUES - 1
    high = most
    for num in (*SHOWN_SEEDS, most):
        if num > most:
            continue
        if is_enough(num):
            high = num
            break
        low = num
    while low < most and high - low > 1:
        middle = (low + high) // 2
        if is_enough(middle):
            high = middle
        else:
            low = middle
    num_seeds = 0 if difference and not is_enough(high) else high
    return Plan(deviation, settings, num_seeds, difference, seen, looks, seconds, freedom)


def detectable_by(num_seeds: int, num_settings: int, looks: int = 1) -> float:
    """Return the difference, in deviations, that four of five sweeps see at the last look.

    The width of an interval depends on the values' distances from their means alone, which tell
    nothing about the means. So the mean difference is averaged over exactly, the widths by draws.
    """
    half_widths = _half_widths(num_seeds, num_settings, Look(looks, looks))
    error = math.sqrt(2 / num_seeds)

    def power(difference: float) -> float:
        return statistics.fmean(NORMAL.cdf((difference - half) / error) for half in half_widths)

    return smallest(lambda difference: power(difference) >= POWER, 1e-3)


def _half_widths(num_seeds: int, num_settings: int, look: Look) -> list[float]:
    """Return half the width of the interval by which `rank` tells two settings apart, in draws."""
    source = random.Random(0)
    asked = look.asked("max", (num_settings - 1) / 2)
    found = []
    for _ in range(NUM_DRAWS):
        groups = []
        for _ in range(num_settings):
            values = {seed: source.gauss(0, 1) for seed in range(num_seeds)}
            groups.append(Group(values))
        samples = samples_of_all(groups) if num_settings > 2 else None
        found.append(width(decide_among(groups, samples, 0, 1, asked)) / 2)
    return found


def deviation_of(settings: Sequence[Group]) -> tuple[float, int, list[str]]:
    """Return the common standard deviation of settings of a pilot, and its degrees of freedom.

    Returns:
        Both, and the names of settings that diverge and do not count: of three or more, those that
        spread ten times as much as the middle one.

    Raises:
        TableError: No setting has two runs, or their values are equal.
    """
    known = [one.deviation for one in settings if one.deviation is not None]
    most = math.inf
    if len(known) > 2:
        most = MAX_SPREAD_RATIO * statistics.median(known) or math.inf
    total = 0.0
    freedom = 0
    left_out = []
    for setting in settings:
        deviation = setting.deviation
        if deviation is None:
            continue
        if deviation > most:
            left_out.append(setting.name)
            continue
        num = len(setting.values)
        total += deviation**2 * (num - 1)
        freedom += num - 1
    if not total:
        raise TableError("the pilot has no deviation: it takes two runs of a setting that differ")
    return math.sqrt(total / freedom), freedom, left_out
