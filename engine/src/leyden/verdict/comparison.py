"""Two settings of a table: which is better. And several settings, each beside one control."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from leyden.verdict.difference import Asked, Verdict, decide_among, decide_two, look_level
from leyden.verdict.groups import (
    MIN_PAIRS,
    MIN_PLANNED_PAIRS,
    MIN_VALUES,
    Group,
    samples_of_all,
    samples_of_two,
    shape_remarks,
)
from leyden.verdict.numbers import (
    aligned_lines,
    metric_digits,
    metric_text,
    printable_value,
    value_text,
)
from leyden.verdict.ranking import EQUAL, REPEATED, RankingOverSets, rank_over_sets
from leyden.verdict.tables import (
    Condition,
    DataRow,
    DataRows,
    TableError,
    check_look,
    check_mode,
    order_of,
    records,
    setting_columns,
    settings_of,
    sides_of,
)

DATA_NAMES = {"data", "dataset", "data_set", "benchmark"}  # columns whose values can't be mixed


@dataclass(frozen=True)
class Question:
    """Options of a comparison of two settings, with the names and defaults that `compare` has."""

    mode: str = ""
    margin: float = 0.0
    planned: bool = False
    look: int = 1
    pairs: bool = False


@dataclass(frozen=True)
class TableComparison:
    """Two settings of a table and the verdict on them; `str` gives the text.

    Args:
        sides: The settings that are compared.
        found: The verdict.
        remarks: What it assumes and how many settings were to choose from.
        metric: Name of the metric.
    """

    sides: tuple[Group, Group]
    found: Verdict
    remarks: list[str]
    metric: str = ""

    def __str__(self) -> str:
        """Return both settings, the verdict, what it is based on and what it assumes."""
        rows = [("", "setting", self.metric, "n")]
        for name, side in zip("AB", self.sides, strict=True):
            rows.append((name, side.name, side.measured, side.count))
        verdict = f"Verdict: {self.found.in_words('A', 'B')}"
        if self.found.better and any(side.lost for side in self.sides):
            verdict += ", by the runs that finished"
        lines = [*aligned_lines(rows), verdict]
        if self.found.interval:
            how = f"{self.found.num_pairs} pairs" if self.found.num_pairs else "not paired"
            level = f"{100 * (1 - self.found.level):.4g} %"
            difference, span = difference_texts(self.found)
            lines.append(f"A - B: {difference}, {level} interval {span} ({how})")
        return "\n".join([*lines, *self.remarks])


def difference_texts(found: Verdict) -> tuple[str, str]:
    """Return a difference and its interval as texts; empty ones where there is none."""
    if not found.interval or found.difference is None:
        return "", ""
    low, high = found.interval
    in_digits = metric_digits(found.difference, high - found.difference)
    return in_digits(found.difference), f"{in_digits(low)} to {in_digits(high)}"


@dataclass(frozen=True)
class ComparisonOverSets:
    """Two settings compared on each data set of a table, and over all; `str` gives the text.

    Args:
        each: The comparison on each data set.
        over: The two sides, ranked over the data sets.
    """

    each: Mapping[Hashable, TableComparison]
    over: RankingOverSets

    def __str__(self) -> str:
        """Return the comparison on each data set, and the verdict over them."""
        parts = [f"{printable_value(name)}\n{found}" for name, found in self.each.items()]
        like = self.over.like_best
        verdict = f"{like[0]} is better" if len(like) == 1 else "can't be told apart"
        lines = [*self.over.remarks]
        if like:
            lines = [f"Verdict over {self.over.num_sets} data sets: {verdict}", *lines]
        return "\n\n".join([*parts, "\n".join(lines)])


def compare(
    rows: DataRows,
    metric: str,
    a: Condition,
    b: Condition,
    *,
    mode: str = "",
    seed: str | None = "seed",
    ignore: Sequence[str] = (),
    over: str = "",
    margin: float = 0.0,
    planned: bool = False,
    look: int = 1,
    pairs: bool = False,
) -> TableComparison | ComparisonOverSets:
    """Compare two settings of a table; a side with several settings is represented by its best one.

    Args:
        rows: The table, a row per run; or a data frame of pandas or Polars.
        metric: Column of the metric.
        a: Values by column that the rows of the first side have, or a function of a row.
        b: The same for the second side.
        mode: `min` or `max`, the better direction; empty if it is unknown.
        seed: Column that pairs the runs of both sides; None if there is none.
        ignore: Columns that are no settings, such as other metrics and times; patterns like `time*`
            are allowed.
        over: Column of the data set: the two are compared on each, and over all; empty for one.
        margin: Largest difference that does not matter, to be called the same (two one-sided
            tests); 0 for none.
        planned: Whether the two sides were named before the results were seen. Then no other row
            matters. Otherwise they count as chosen among all pairs of the table's settings, and the
            interval is as much wider.
        look: Number of this look at the two, if runs were added since; it widens the interval.
        pairs: Whether it was decided beforehand to compare in pairs: then four seeds are enough for
            that, as they are with `planned`, in place of six.

    Raises:
        TableError: A column is missing, a side has no rows, the sides share a setting, or their
            rows are from several data sets.
    """
    check_mode(mode, is_needed=bool(over))
    check_look(look)
    if not 0 <= margin < math.inf:
        raise TableError(f"margin={margin}: must be a positive number")
    named = [name for name in (seed, over) if name]
    table = records(rows, metric, named)
    columns = setting_columns(table, [metric, *named], ignore)
    asked = Question(mode, margin, planned, look, pairs)
    if not over:
        settings = settings_of(table, columns, metric, seed)
        sides = _both(settings, table, a, b)
        _refuse_mixed_data(sides, [*_columns_of(a), *_columns_of(b)])
        return replace(compare_settings(settings, sides, asked), metric=metric)
    sets: dict[Hashable, list[DataRow]] = {}
    for row in table:
        sets.setdefault(value_text(row.get(over)), []).append(row)
    each: dict[Hashable, TableComparison] = {}
    means: dict[Hashable, dict[str, float]] = {}
    for name, of_set in sets.items():
        settings = settings_of(of_set, columns, metric, seed)
        sides = _both(settings, table, a, b)
        for letter, side in zip("ab", sides, strict=True):
            if len(side) > 1:
                two = " and ".join(setting.name for setting in side[:2])
                raise TableError(f"{letter}: over={over} takes one setting a side, not {two}")
        each[name] = replace(compare_settings(settings, sides, asked), metric=metric)
        both = zip("AB", each[name].sides, strict=True)
        means[name] = {letter: side.mean for letter, side in both if side.values}
    return ComparisonOverSets(each, rank_over_sets(means, mode, look))


def _both(
    settings: Sequence[Group], table: Sequence[DataRow], a: Condition, b: Condition
) -> list[list[Group]]:
    """Return the settings of both sides.

    Raises:
        TableError: A side has none, or they share one.
    """
    sides = [sides_of(settings, table, a, "a"), sides_of(settings, table, b, "b")]
    for setting in sides[0]:
        if any(setting is other for other in sides[1]):
            raise TableError(f"a and b share the setting {setting.name}")
    return sides


def _columns_of(condition: Condition) -> Iterable[str]:
    """Return the columns that a condition names; of a function those in its attribute `columns`."""
    found: Iterable[str] = getattr(condition, "columns", ())
    return found if callable(condition) else condition


def _refuse_mixed_data(sides: Sequence[Sequence[Group]], named: Sequence[str]) -> None:
    """Raise a `TableError` if the sides are of several data sets, and nobody asked for that."""
    settings = [setting for side in sides for setting in side]
    for name in settings[0].choices:
        if name.rpartition(".")[2].lower() not in DATA_NAMES or name in named:
            continue
        values = [*dict.fromkeys(value_text(setting.choices[name]) for setting in settings)]
        if len(values) > 1:
            raise TableError(
                f"a and b have several values of {name}, such as {values[0]} and {values[1]}: "
                f"over={name} compares on each, {name} in both conditions chooses one, and "
                f"ignore={name} is for a column that is no setting"
            )


def compare_settings(
    settings: Sequence[Group], sides: Sequence[Sequence[Group]], asked: Question
) -> TableComparison:
    """Compare the best of some settings with the best of others, of those that have enough runs.

    Args:
        settings: All settings, which the two may be chosen from, and which lend each other their
            spread, unless the two were planned.
        sides: Those of each side.
        asked: The arguments of `compare`.
    """
    a = _best(sides[0], asked.mode)
    b = _best(sides[1], asked.mode)
    remarks = _about_sides(a, b, sides)
    nums = (len(a.values), len(b.values))
    if min(nums) < MIN_VALUES:
        return TableComparison((a, b), Verdict(nums), remarks)
    for name, side in (("A", a), ("B", b)):
        if not side.deviation:
            remarks.append(f"{name}: {EQUAL}")
    num_chosen = len(sides[0]) * len(sides[1])  # Bonferroni: the pair was chosen among so many
    if not asked.planned:
        num_chosen = max(num_chosen, math.comb(len(settings), 2))
    level = look_level(asked.look) / num_chosen
    next_level = look_level(asked.look + 1) / num_chosen
    question = Asked(asked.mode, level, next_level, asked.margin)
    min_pairs = MIN_PLANNED_PAIRS if asked.planned or asked.pairs else MIN_PAIRS
    groups = [a, b]
    if not asked.planned:
        for setting in settings:
            is_other = setting is not a and setting is not b
            if is_other and len(setting.values) >= MIN_VALUES:
                groups.append(setting)
    if len(groups) > 2:
        found = decide_among(groups, samples_of_all(groups), 0, 1, question, min_pairs)
    else:
        found = decide_two(a, b, question, min_pairs)
    remarks += _about_verdict(found, a, b)
    if asked.planned:
        remarks.append("planned=true: right only if the two were named before any result was seen.")
    elif len(settings) > 2:
        among = f"among {len(settings)} settings; planned=true if not."
        remarks.append(f"Widened, since the two may be chosen {among}")
    if asked.pairs:
        remarks.append("pairs=true: right only if decided before any result was seen.")
    remarks += shape_remarks(samples_of_two(a, b, min_pairs), min(nums))
    return TableComparison((a, b), found, remarks)


def _best(side: Sequence[Group], mode: str) -> Group:
    """Return the best setting of a side, of those that have enough runs if any has."""
    return min(side, key=lambda one: (len(one.values) < MIN_VALUES, *order_of(one, mode or "max")))


def _about_sides(a: Group, b: Group, sides: Sequence[Sequence[Group]]) -> list[str]:
    """Return remarks on which runs and settings are compared."""
    remarks = []
    if a.is_repeated or b.is_repeated:
        remarks.append(REPEATED)
    if a.lost or b.lost:
        remarks.append(f"Finished runs only: {a.lost} of A and {b.lost} of B have no value.")
    if len(sides[0]) > 1 or len(sides[1]) > 1:
        remarks.append(
            "The best setting was chosen by these values, so they are biased in its favor."
        )
    return remarks


def _about_verdict(found: Verdict, a: Group, b: Group) -> list[str]:
    """Return remarks on the values that the verdict stands on, and what it would have seen."""
    remarks = []
    if found.num_pairs and max(len(a.values), len(b.values)) > found.num_pairs:
        shared = [key for key in a.values if key in b.values]
        means = []
        for name, side in (("A", a), ("B", b)):
            mean = sum(side.values[key] for key in shared) / len(shared)
            means.append(f"{name} {metric_text(mean)}")
        remarks.append(f"Over the {len(shared)} seeds that both have: {', '.join(means)}.")
    if found.interval and not found.better and not found.is_same:
        remarks.append(found.power_in_words())
    return remarks


@dataclass(frozen=True)
class ControlComparison:
    """Settings of a table, each compared with one control; `str` gives the text.

    Args:
        control: The control.
        settings: The others that have enough runs, best mean first.
        found: The verdict on each: `a` is the setting, `b` the control.
        remarks: What it assumes.
        metric: Name of the metric.
    """

    control: Group
    settings: Sequence[Group]
    found: Sequence[Verdict]
    remarks: list[str] = field(default_factory=list)
    metric: str = ""

    def __str__(self) -> str:
        """Return a table with the difference from the control of each setting."""
        rows = [("setting", self.metric, "n", "minus control", "interval", "verdict")]
        control = self.control
        rows.append((control.name, control.measured, control.count, "", "", "control"))
        for setting, found in zip(self.settings, self.found, strict=True):
            words = found.in_words("better", "worse").removesuffix(" is better")
            difference, span = difference_texts(found)
            rows.append((setting.name, setting.measured, setting.count, difference, span, words))
        return "\n".join([*aligned_lines(rows), *self.remarks])


def compare_with_control(
    rows: DataRows,
    metric: str,
    control: Condition,
    *,
    mode: str,
    seed: str | None = "seed",
    ignore: Sequence[str] = (),
    look: int = 1,
) -> ControlComparison:
    """Compare each setting of a table with one of them, the control (Dunnett, JASA 50, 1955).

    Only comparisons with the control count, so that they are widened less than those of any two.

    Args:
        rows: The table, a row per run; or a data frame of pandas or Polars.
        metric: Column of the metric.
        control: Values by column that the rows of the control have, or a function of a row.
        mode: `min` or `max`, the better direction.
        seed: As in `compare`.
        ignore: As in `compare`.
        look: As in `compare`.

    Raises:
        TableError: A column is missing, or the control is no or several settings.
    """
    check_mode(mode)
    check_look(look)
    table = records(rows, metric, [seed] if seed else [])
    columns = setting_columns(table, [metric, seed], ignore)
    settings = settings_of(table, columns, metric, seed)
    found = sides_of(settings, table, control, "control")
    if len(found) > 1:
        two = " and ".join(setting.name for setting in found[:2])
        raise TableError(f"control: must be one setting, not {two}")
    return replace(control_settings(settings, found[0], mode, look), metric=metric)


def control_settings(
    settings: Sequence[Group], control: Group, mode: str, look: int = 1
) -> ControlComparison:
    """Compare settings with a control.

    Args:
        settings: All settings, in any order.
        control: One of them.
        mode: `min` or `max`, the better direction.
        look: Number of this look, as in `look_level`.
    """
    others = [one for one in settings if one is not control and len(one.values) >= MIN_VALUES]
    others.sort(key=lambda one: order_of(one, mode))
    num_few = len(settings) - 1 - len(others)
    remarks = []
    if num_few:
        remarks.append(f"Settings with fewer than {MIN_VALUES} runs, not compared: {num_few}.")
    if len(control.values) < MIN_VALUES:
        remarks.append(f"The control has too few runs; it takes {MIN_VALUES}.")
        return ControlComparison(control, [], [], remarks)
    if not others:
        return ControlComparison(control, [], [], remarks)
    groups = [control, *others]
    samples = samples_of_all(groups) if len(groups) > 2 else None
    level = look_level(look) / len(others)
    asked = Asked(mode, level, look_level(look + 1) / len(others))
    found = []
    for number in range(1, len(groups)):
        found.append(decide_among(groups, samples, number, 0, asked))
    count = "one comparison" if len(others) == 1 else f"{len(others)} comparisons"
    intervals = (
        f"Intervals of {100 * (1 - level):.4g} %, together {100 * (1 - look_level(look)):.4g} %"
    )
    remarks.append(f"{intervals}: {count} with the control.")
    return ControlComparison(control, others, found, remarks)
