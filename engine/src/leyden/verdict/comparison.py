"""Two settings of a table: which is better. And several settings, each beside one control."""

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from leyden.verdict.difference import (
    FIRST,
    Look,
    Verdict,
    decide,
    decide_among,
)
from leyden.verdict.groups import (
    MIN_PAIRS,
    MIN_PLANNED_PAIRS,
    MIN_TRIMMED,
    MIN_VALUES,
    Group,
    Samples,
    samples_of_all,
    samples_of_two,
    shape_remarks,
    trimmed_samples,
)
from leyden.verdict.numbers import metric_digits, metric_text, value_text
from leyden.verdict.ranking import EQUAL, REPEATED, RankingOverSets, rank_groups_over_sets
from leyden.verdict.reports import Report, TextRow
from leyden.verdict.tables import (
    Condition,
    DataRows,
    RunTable,
    TableError,
    check_look,
    check_mode,
    data_columns,
    order_of,
)

ESTIMANDS = ("mean", "iqm")


@dataclass(frozen=True)
class Question:
    """Options of a comparison of two settings, with the names and defaults that `compare` has."""

    mode: str = ""
    margin: float = 0.0
    planned: bool = False
    look: Look = FIRST
    pairs: bool = False
    estimand: str = "mean"


@dataclass(frozen=True)
class TableComparison(Report):
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

    def cells(self) -> list[TextRow]:
        """Return both settings with their values."""
        cells: list[TextRow] = [("", "setting", self.metric, "n")]
        for name, side in zip("AB", self.sides, strict=True):
            cells.append((name, side.name, side.measured, side.count))
        return cells

    def lines(self) -> list[str]:
        """Return the verdict, its interval, and what it assumes."""
        verdict = f"Verdict: {self.found.in_words('A', 'B')}"
        if self.found.better and any(side.lost for side in self.sides):
            verdict += ", by the runs that finished"
        lines = [verdict]
        if self.found.interval:
            how = f"{self.found.num_pairs} pairs" if self.found.num_pairs else "not paired"
            level = f"{100 * (1 - self.found.level):.4g} %"
            difference, span = difference_texts(self.found)
            lines.append(f"A - B: {difference}, {level} interval {span} ({how})")
        return [*lines, *self.remarks]

    def rows(self) -> list[dict[str, Any]]:
        """Return the verdict as a row, with both means and the interval of their difference."""
        return [_row(*self.sides, self.found, "A", "B")]

    def contents(self) -> dict[str, Any]:
        """Return both sides, all of the verdict, and the remarks."""
        a, b = self.sides
        return {
            "metric": self.metric,
            "a": _side(a),
            "b": _side(b),
            **_found(self.found, "a", "b"),
            "remarks": self.remarks,
        }

    def compared(self) -> list[Sequence[Group]]:
        """Return both sides."""
        return [self.sides]


def _row(a: Group, b: Group, found: Verdict, name: str, other: str) -> dict[str, Any]:
    low, high = found.interval or (None, None)
    return {
        "a": a.name,
        "b": b.name,
        "mean_a": a.mean,
        "mean_b": b.mean,
        "n_a": len(a.values),
        "n_b": len(b.values),
        "num_pairs": found.num_pairs,
        "difference": found.difference,
        "low": low,
        "high": high,
        "better": found.better,
        "verdict": found.in_words(name, other),
    }


def _side(side: Group) -> dict[str, Any]:
    mean = side.mean if side.values else None
    return {"choices": side.choices, "mean": mean, "n": len(side.values), "lost": side.lost}


def _found(found: Verdict, a: str, b: str) -> dict[str, Any]:
    confidence = 1 - found.level
    return {**vars(found), "confidence": confidence, "verdict": found.in_words(a, b)}


def difference_texts(found: Verdict) -> tuple[str, str]:
    """Return a difference and its interval as texts; empty ones where there is none."""
    if not found.interval or found.difference is None:
        return "", ""
    low, high = found.interval
    in_digits = metric_digits(found.difference, high - found.difference)
    return in_digits(found.difference), f"{in_digits(low)} to {in_digits(high)}"


@dataclass(frozen=True)
class ComparisonOverSets(Report):
    """Two settings compared on each data set of a table, and over all; `str` gives the text.

    Args:
        each: The comparison on each data set.
        over: The two sides, ranked over the data sets.
    """

    each: Mapping[Hashable, TableComparison]
    over: RankingOverSets

    def parts(self) -> Mapping[Hashable, Report]:
        """Return the comparison on each data set."""
        return self.each

    def lines(self) -> list[str]:
        """Return the verdict over the data sets."""
        like = self.over.like_best
        if not like:
            return self.over.remarks
        verdict = f"{like[0]} is better" if len(like) == 1 else "can't be told apart"
        if self.over.lost:
            verdict += ", by the runs that finished"
        return [f"Verdict over {self.over.num_sets} data sets: {verdict}", *self.over.remarks]

    def facts(self) -> dict[str, Any]:
        """Return the verdict over all data sets."""
        best = self.over.like_best
        return {"better": best[0] if len(best) == 1 else "", **self.over.facts()}


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
    looks: int = 0,
    pairs: bool = False,
    estimand: str = "mean",
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
        looks: Number of looks that were planned before the first one; 0 without a plan.
        pairs: Whether it was decided beforehand to compare in pairs: then four seeds are enough for
            that, as they are with `planned`, in place of six.
        estimand: `mean`, or `iqm` for the interquartile mean, of eight or more runs of each.

    Raises:
        TableError: A column is missing, a side has no rows, the sides share a setting, or their
            rows are from several data sets.
    """
    check_mode(mode, is_needed=bool(over))
    check_look(look, looks)
    if not 0 <= margin < math.inf:
        raise TableError(f"margin={margin}: must be a positive number")
    if estimand not in ESTIMANDS:
        raise TableError(f"estimand={estimand}: must be mean or iqm")
    table = RunTable.of(rows, metric, seed, ignore, over)
    asked = Question(mode, margin, planned, Look(look, looks), pairs, estimand)
    each: dict[Hashable, TableComparison] = {}
    sets: dict[Hashable, dict[str, Group]] = {}
    for name, settings in table.sets.items():
        sides = [table.side(settings, a, "a"), table.side(settings, b, "b")]
        _refuse_shared(*sides)
        if over:
            for letter, side in (("a", a), ("b", b)):
                table.one(settings, side, letter, f"over={over} takes one setting a side")
        else:
            _refuse_mixed_data(sides, {*_columns_of(a)}.intersection(_columns_of(b)))
        each[name] = replace(compare_settings(settings, sides, asked), metric=metric)
        sets[name] = dict(zip("AB", each[name].sides, strict=True))
    if not over:
        return each[""]
    num_chosen = 1  # Bonferroni, as in `_decided`
    if not planned:
        num_chosen = max(math.comb(len(settings), 2) for settings in table.sets.values())
    over_all = rank_groups_over_sets(sets, mode, look, looks, num_chosen)
    return ComparisonOverSets(each, over_all)


def _refuse_shared(a: Sequence[Group], b: Sequence[Group]) -> None:
    """Raise a `TableError` if both sides have a setting."""
    for setting in a:
        if any(setting is other for other in b):
            raise TableError(f"a and b share the setting {setting.name}")


def _columns_of(condition: Condition) -> Iterable[str]:
    """Return the columns that a condition names; of a function those in its attribute `columns`."""
    found: Iterable[str] = getattr(condition, "columns", ())
    return found if callable(condition) else condition


def _refuse_mixed_data(sides: Sequence[Sequence[Group]], named: Collection[str]) -> None:
    """Raise a `TableError` if the sides are of several data sets, and nobody asked for that.

    Args:
        sides: The settings of each side.
        named: Columns of which both conditions choose values.
    """
    for name in data_columns(sides[0]):
        of_sides = []
        for side in sides:
            of_sides.append(dict.fromkeys(value_text(one.choices[name]) for one in side))
        is_chosen = name in named and all(len(values) == 1 for values in of_sides)
        values = of_sides[0] | of_sides[1]
        if len(values) > 1 and not is_chosen:
            first, second, *_ = values
            raise TableError(
                f"a and b have several values of {name}, such as {first} and {second}: "
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
    least = MIN_TRIMMED if asked.estimand == "iqm" else MIN_VALUES
    if min(nums) < least:
        return TableComparison((a, b), Verdict(nums, least=least), remarks)
    if asked.estimand == "iqm":
        samples = trimmed_samples(a, b)
    else:
        is_planned = asked.planned or asked.pairs
        samples = samples_of_two(a, b, MIN_PLANNED_PAIRS if is_planned else MIN_PAIRS)
    found = _decided(settings, sides, (a, b), asked, samples)
    remarks += _about_spread(a, b)
    remarks += _about_values(found, a, b, asked, samples)
    remarks += _about_chance(found, a, b, asked.mode)
    remarks += _about_plan(asked, len(settings))
    remarks += shape_remarks(samples, min(nums))
    return TableComparison((a, b), found, remarks)


def _decided(
    settings: Sequence[Group],
    sides: Sequence[Sequence[Group]],
    two: tuple[Group, Group],
    asked: Question,
    samples: Samples,
) -> Verdict:
    """Return the verdict on two of some settings, of which all lend spread if nobody chose before.

    Args:
        settings: As in `compare_settings`.
        sides: As in `compare_settings`.
        two: The two.
        asked: The arguments of `compare`.
        samples: The two as they are tested alone.
    """
    num_chosen = len(sides[0]) * len(sides[1])  # Bonferroni: the pair was chosen among so many
    if not asked.planned:
        num_chosen = max(num_chosen, math.comb(len(settings), 2))
    question = asked.look.asked(asked.mode, num_chosen, asked.margin)
    if asked.planned or asked.estimand == "iqm":
        return decide(samples, 0, 1, question)
    others = []
    for setting in settings:
        is_other = not any(setting is one for one in two)
        if is_other and len(setting.values) >= MIN_VALUES:
            others.append(setting)
    if not others:
        return decide(samples, 0, 1, question)
    groups = [*two, *others]
    min_pairs = MIN_PLANNED_PAIRS if asked.pairs else MIN_PAIRS
    return decide_among(groups, samples_of_all(groups), 0, 1, question, min_pairs)


def _best(side: Sequence[Group], mode: str) -> Group:
    """Return the best setting of a side, of those that have enough runs if any has."""

    def order(one: Group) -> tuple[Any, ...]:
        has_few = len(one.values) < MIN_VALUES
        return (has_few, *order_of(one, mode or "max"))

    return min(side, key=order)


def _about_sides(a: Group, b: Group, sides: Sequence[Sequence[Group]]) -> list[str]:
    """Return remarks on which runs and settings are compared."""
    remarks = []
    if a.is_repeated or b.is_repeated:
        remarks.append(REPEATED)
    if a.lost or b.lost:
        remarks.append(f"Finished runs only: {a.lost} of A and {b.lost} of B have no value.")
    if len(sides[0]) > 1 or len(sides[1]) > 1:
        remarks.append(
            "Measure the best setting anew: it was chosen by these values, which favor it."
        )
    return remarks


def _about_spread(a: Group, b: Group) -> list[str]:
    """Return a remark on each setting whose values are all equal."""
    remarks = []
    for name, side in (("A", a), ("B", b)):
        if not side.deviation:
            remarks.append(f"{name}: {EQUAL}")
    return remarks


def _about_values(
    found: Verdict, a: Group, b: Group, asked: Question, samples: Samples
) -> list[str]:
    """Return a remark on the means that are compared, if they are not those of all runs."""
    means = []
    for name, sample in zip("AB", samples.each, strict=True):
        means.append(f"{name} {metric_text(sample.mean)}")
    shown = ", ".join(means)
    if asked.estimand == "iqm":
        what = "interquartile means, of the middle half of the runs"
        return [f"Compared are {what}: {shown}."]
    most = max(len(a.values), len(b.values))
    if found.num_pairs and most > found.num_pairs:
        return [f"Over the {found.num_pairs} seeds that both have: {shown}."]
    return []


def _about_chance(found: Verdict, a: Group, b: Group, mode: str) -> list[str]:
    """Return remarks on the difference that would have been seen, and on a next run."""
    remarks: list[str] = []
    if not found.interval:
        return remarks
    if not found.better and not found.is_same:
        remarks += found.power_in_words()
    if mode:
        wins = num_wins(a, b, mode)
        pairs = len(a.values) * len(b.values)
        chance = f"{100 * wins / pairs:.0f} %"
        remarks.append(
            f"Expect A's next run to beat B's in {chance}: {wins:g} of {pairs} pairs do."
        )
    return remarks


def _about_plan(asked: Question, num_settings: int) -> list[str]:
    """Return remarks on what was decided before the results, and what that takes."""
    remarks = []
    num_pairs = math.comb(num_settings, 2)
    if asked.planned:
        remarks.append("planned=true: right only if the two were named before any result was seen.")
    elif num_pairs > 1:
        why = f"now all {num_pairs} pairs count"
        remarks.append(f"Add planned=true if both were named before any result: {why}.")
    if asked.pairs:
        remarks.append("pairs=true: right only if decided before any result was seen.")
    return remarks


def num_wins(a: Group, b: Group, mode: str) -> float:
    """Return in how many pairs of runs a's is better than b's, a tie being half.

    Their share is an unbiased estimate of the probability that a's next run is better (Mann and
    Whitney, Annals of Mathematical Statistics 18, 1947).

    Example:
        >>> num_wins(Group({0: 0.9, 1: 0.7}), Group({0: 0.8, 1: 0.7}), "max")
        2.5
    """
    sign = -1 if mode == "min" else 1
    total = 0.0
    for value in a.values.values():
        for other in b.values.values():
            gain = sign * (value - other)
            total += 0.5 if not gain else gain > 0
    return total


@dataclass(frozen=True)
class ControlComparison(Report):
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

    def cells(self) -> list[TextRow]:
        """Return each setting with its difference from the control."""
        control = self.control
        cells: list[TextRow] = [
            ("setting", self.metric, "n", "minus control", "interval", "verdict"),
            (control.name, control.measured, control.count, "", "", "control"),
        ]
        for setting, found in zip(self.settings, self.found, strict=True):
            words = found.in_words("better", "worse").removesuffix(" is better")
            difference, span = difference_texts(found)
            cells.append((setting.name, setting.measured, setting.count, difference, span, words))
        return cells

    def lines(self) -> list[str]:
        """Return what the verdicts assume."""
        return self.remarks

    def rows(self) -> list[dict[str, Any]]:
        """Return a row per setting: `a` is the setting, `b` the control."""
        rows = []
        for setting, found in zip(self.settings, self.found, strict=True):
            rows.append(_row(setting, self.control, found, "setting", "control"))
        return rows

    def contents(self) -> dict[str, Any]:
        """Return the control, each setting with its verdict, and the remarks."""
        settings = []
        for setting, found in zip(self.settings, self.found, strict=True):
            settings.append({**_side(setting), **_found(found, "setting", "control")})
        return {
            "metric": self.metric,
            "control": _side(self.control),
            "settings": settings,
            "remarks": self.remarks,
        }

    def compared(self) -> list[Sequence[Group]]:
        """Return the control and the settings."""
        return [[self.control, *self.settings]]


@dataclass(frozen=True)
class ControlOverSets(Report):
    """Settings compared with a control on each data set of a table; `str` gives the text.

    Args:
        each: The comparisons on each data set.
    """

    each: Mapping[Hashable, ControlComparison]

    def parts(self) -> Mapping[Hashable, Report]:
        """Return the comparisons on each data set."""
        return self.each

    def lines(self) -> list[str]:
        """Return what the intervals count."""
        return ["Each data set is compared on its own: chance has its 5 % on each of them."]


def compare_with_control(
    rows: DataRows,
    metric: str,
    control: Condition,
    *,
    mode: str,
    seed: str | None = "seed",
    ignore: Sequence[str] = (),
    over: str = "",
    look: int = 1,
    looks: int = 0,
) -> ControlComparison | ControlOverSets:
    """Compare each setting of a table with one of them, the control (Dunnett's question).

    There are as many comparisons as other settings (Bonferroni), fewer than pairs, so differences
    from a control show with fewer runs.

    Args:
        rows: As in `compare`.
        metric: As in `compare`.
        control: Values by column that the rows of the control have, or a function of a row.
        mode: `min` or `max`, the better direction.
        seed: As in `compare`.
        ignore: As in `compare`.
        over: Column of the data set: settings are compared on each, apart; empty for one.
        look: As in `compare`.
        looks: As in `compare`.

    Raises:
        TableError: A column is missing, the control is no or several settings, or the settings are
            of several data sets.
    """
    check_mode(mode)
    check_look(look, looks)
    table = RunTable.of(rows, metric, seed, ignore, over)
    each: dict[Hashable, ControlComparison] = {}
    for name, settings in table.sets.items():
        _refuse_several_data(settings)
        chosen = table.one(settings, control, "control", "must be one setting")
        found = control_settings(settings, chosen, mode, Look(look, looks))
        each[name] = replace(found, metric=metric)
    if not over:
        return each[""]
    return ControlOverSets(each)


def _refuse_several_data(settings: Sequence[Group]) -> None:
    """Raise a `TableError` if settings are of several data sets."""
    for name in data_columns(settings):
        first, second, *_ = dict.fromkeys(value_text(one.choices[name]) for one in settings)
        raise TableError(
            f"the settings have several values of {name}, such as {first} and {second}: "
            f"over={name} compares on each, and ignore={name} is for a column that is no setting"
        )


def control_settings(
    settings: Sequence[Group], control: Group, mode: str, look: Look = FIRST
) -> ControlComparison:
    """Compare settings with a control.

    Args:
        settings: All settings, in any order.
        control: One of them.
        mode: `min` or `max`, the better direction.
        look: The look at them.
    """
    others = [one for one in settings if one is not control and len(one.values) >= MIN_VALUES]
    others.sort(key=lambda one: order_of(one, mode))
    num_few = len(settings) - 1 - len(others)
    remarks = []
    if num_few:
        count = "1 setting has" if num_few == 1 else f"{num_few} settings have"
        remarks.append(f"Add runs: {count} fewer than {MIN_VALUES}, and can't be compared.")
    if len(control.values) < MIN_VALUES:
        remarks.append(f"Add runs to the control: it takes {MIN_VALUES}.")
        others = []
    lost = sum(group.lost for group in (control, *others))
    if lost:
        remarks.append(f"Runs without a value, which are not counted: {lost}.")
    if not others:
        return ControlComparison(control, [], [], remarks)
    asked = look.asked(mode, len(others))
    found = []
    groups = [control, *others]
    samples = samples_of_all(groups) if len(groups) > 2 else None
    for number in range(1, len(groups)):
        found.append(decide_among(groups, samples, number, 0, asked))
    count = "one comparison" if len(others) == 1 else f"{len(others)} comparisons"
    each = f"{100 * (1 - asked.level):.4g} %"
    together = f"{100 * (1 - look.level):.4g} %"
    remarks.append(f"Intervals of {each}, together {together}: {count} with the control.")
    return ControlComparison(control, others, found, remarks)
