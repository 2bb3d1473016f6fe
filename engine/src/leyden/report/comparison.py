"""Verdicts that `compare` prints of two groups of runs, and `compare` and `summarize` of a table; and fronts of both."""

import contextlib
import fnmatch
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from leyden import verdict
from leyden.config.checks import Objective
from leyden.config.errors import UserError
from leyden.config.table import json_text, print_table, short_names
from leyden.config.terminal import show, some_of
from leyden.config.values import ABSENT
from leyden.report.listing import parse_condition, select
from leyden.report.ranking import (
    Row,
    assign_data,
    assumptions,
    count_look,
    merge_rows,
    plus_minus,
    read_sweep,
)
from leyden.report.records import (
    NOT_OWN,
    Record,
    aim_of,
    are_own,
    compare_configs,
    read_raw_records,
    read_records,
    refuse_test_metrics,
    test_set_remarks,
    threads_remark,
)
from leyden.verdict.comparison import (
    ComparisonOverSets,
    ControlComparison,
    Question,
    TableComparison,
    compare_settings,
    control_settings,
)
from leyden.verdict.difference import LEVEL, look_level
from leyden.verdict.groups import MIN_VALUES, Group
from leyden.verdict.ranking import RankingOverSets

AIM = {"metric": "", "mode": ""}  # options with their defaults
OF_TABLES = {"seed": "seed", "ignore": ""}  # those that runs don't have
ASKED = {  # what is compared with what, and how
    "a": "",
    "b": "",
    "control": "",
    "over": "",
    "margin": "0",
    "planned": "false",
    "pairs": "false",
}
Comparison = TableComparison | ComparisonOverSets | ControlComparison
SPENT = f"{100 * look_level(1):.3g} % of the {100 * LEVEL:g} % error rate"
FIRST_LOOK = f"The first look spends {SPENT}, hence not 95 %; later looks have the rest."
OF_TABLES_ONLY = "is for a table in a file; runs record it"


def refuse_options(
    options: Mapping[str, str], defaults: Mapping[str, str], why: str = OF_TABLES_ONLY
) -> None:
    """Raise a `UserError` if one of some options is given where it has no effect, such as those of tables for runs."""
    if given := next((key for key, default in defaults.items() if options[key] != default), None):
        raise UserError(f"{given}={options[given]}: {why}")


def metrics_of(text: str, mode: str = "") -> dict[str, str]:
    """Return metrics with their better directions; `mode` is that of those that have none.

    Example:
        >>> metrics_of("val/acc:max,num_parameters", "min")
        {'val/acc': 'max', 'num_parameters': 'min'}

    Raises:
        UserError: A name is empty, or stands twice.
    """
    found: dict[str, str] = {}
    for each in map(str.strip, text.split(",")):
        name, _, end = each.rpartition(":")
        name, end = (name, end) if name and end in ("min", "max") else (each, mode)
        if name in found or (text and not name):
            raise UserError(f"{text}: {f'{name} stands twice' if name else 'a name is empty'}")
        found[name] = end
    if mode and mode not in found.values():
        raise UserError(f"mode={mode}: has no effect, as {text} names the directions")
    return found


def compare_all(
    folders: Sequence[Path], options: Mapping[str, str], asked: Question
) -> list[Comparison]:
    """Return a comparison for each metric that the options name.

    Args:
        folders: One or two folders with runs, or a table in a file.
        options: Those of the command, as typed.
        asked: What is asked of two settings, at the first look and without a mode.

    Raises:
        UserError: An option has no effect, or as in `compare_runs` and `compare_table`.
    """
    metrics = metrics_of(options["metric"], options["mode"])
    if len(metrics) > 1 and asked.margin:
        is_of_one = f"is of one metric; metric= names {len(metrics)}"
        raise UserError(f"margin={options['margin']}: {is_of_one}")
    if options["control"]:
        others = {key: default for key, default in ASKED.items() if key != "control"}
        refuse_options(options, others, "has no effect beside control=")
    found = []
    for name, mode in metrics.items():
        one = {**options, "metric": name, "mode": mode}
        if len(folders) == 1 and folders[0].is_file():
            one["ignore"] = ",".join([options["ignore"], *metrics])
            found.append(compare_table(folders[0], one, asked))
        else:
            found.append(_compare_folders(folders, one, asked))
    return found


def _compare_folders(
    folders: Sequence[Path], options: Mapping[str, str], asked: Question
) -> Comparison:
    refuse_options(options, {**OF_TABLES, "over": ""})
    if options["control"] and len(folders) == 1:
        return compare_runs_with_control(folders[0], options["control"], options)
    is_chosen = options["a"] and options["b"]
    if not folders or (len(folders) == 1 and not is_chosen):
        raise UserError(
            "two groups are needed: two folders, or one with a=CONDITION and b=CONDITION, or with control=CONDITION"
        )
    return compare_runs([folders[0], folders[-1]], options, asked)


def compare_runs(
    directories: Sequence[Path], options: Mapping[str, str], asked: Question
) -> TableComparison:
    """Compare two groups of runs; a group with several settings is represented by its best one.

    Args:
        directories: Folder of each group; the same one twice to compare runs chosen by conditions.
        options: The conditions `a` and `b`, in the syntax of `parse_condition`, empty for all runs; and `metric` and
            `mode` of another recorded metric that is compared, empty for the runs' objective.
        asked: What is asked of the two, at the first look; the mode is that of the metric.

    Raises:
        UserError: A group has no finished run, the groups share a run, or they have different objectives or data.
    """
    read = {directory: read_raw_records(directory) for directory in dict.fromkeys(directories)}
    records = [record for of in read.values() for record in of]
    if options["metric"] or options["mode"]:
        _judge(records, options["metric"], options["mode"])
    groups = [
        _group(read[directory], options[name], name)
        for directory, name in zip(directories, "ab", strict=True)
    ]
    paths = [{os.path.realpath(record.directory) for record in group} for group in groups]
    if shared := sorted(paths[0] & paths[1]):
        raise UserError(f"{some_of(shared, 1)}: in both groups")
    objective = _shared_objective(*groups)
    sides, rest = _rows_of(
        directories, groups, [each for each in records if aim_of(each) == objective]
    )
    both = [row for side in sides for row in side]
    if keys := assign_data(both):
        raise UserError(
            f"runs of different data can't be compared; these differ in {' and '.join(keys)}: choose runs of one data "
            "set for both groups, by a= and b="
        )
    settings = [[row.setting for row in side] for side in sides]

    def compared(look: int) -> TableComparison:
        every = [*settings[0], *settings[1], *(row.setting for row in rest)]
        return compare_settings(every, settings, replace(asked, mode=objective.mode, look=look))

    found = compared(1)
    best = [next(row for row in both if row.setting is setting) for setting in found.sides]
    conditions = [options["a"], options["b"]]
    own = min(
        (each for each in read if are_own(read[each])),
        key=lambda each: each.resolve().name,
        default=None,
    )
    if (look := _look(own, directories, conditions, found.sides, objective.metric)) > 1:
        found = compared(look)
    found.remarks.extend([NOT_OWN] * (own is None))
    if any(setting.deviation for setting in found.sides):
        found.remarks.append(plus_minus(best))
    if found.found.interval:
        if look == 1:  # of a later one, `assumptions` says it
            found.remarks.append(FIRST_LOOK)
        found.remarks.extend(assumptions(best, look))
    num_threads = [record.threads for row in best for record in row.finished]
    found.remarks.extend(threads_remark(num_threads))
    found.remarks.extend(test_set_remarks([record for row in both for record in row.records]))
    return replace(found, metric=objective.metric)


def _judge(records: Sequence[Record], metric: str, mode: str) -> None:
    """Let another recorded metric be the objective of runs, with its value at the best checkpoint.

    Raises:
        UserError: It is of the test set, no run has it, or its better direction is missing.
    """
    _check_metrics("metric", [metric], records)
    if mode not in ("min", "max"):
        raise UserError(f"mode={mode}: must be min or max, as in metric={metric}:max")
    for record in records:
        record.objective = Objective(
            metric, mode, record.result.metrics.get(metric) if record.result else None
        )


def _check_metrics(option: str, metrics: Collection[str], records: Sequence[Record]) -> None:
    """Raise a `UserError` if a metric is of the test set, or no run has it."""
    refuse_test_metrics(option, metrics, records)
    results = [record.result for record in records if record.result]
    known = {
        name for result in results for name in {*result.metrics} - {*result.stages.get("test", ())}
    }
    if lacking := next((metric for metric in metrics if metric not in known), None):
        there_are = ", ".join(sorted(known)) or "none"
        raise UserError(f"{option}={lacking}: no run has this metric; there are {there_are}")


def _group(records: Sequence[Record], condition: str, option: str) -> list[Record]:
    """Return the runs of a group.

    Raises:
        UserError: There is none.
    """
    chosen, _ = select(records, condition, option)
    if not chosen:
        raise UserError(f"{option}={condition}: no run matches this")
    return chosen


def _shared_objective(*groups: Sequence[Record]) -> Objective:
    """Return the objective that all runs share.

    Raises:
        UserError: The runs have different objectives, or none.
    """
    aims = {aim_of(record) for group in groups for record in group}
    if len(aims) == 1 and (only := aims.pop()):
        return only
    names = sorted(f"{aim.metric} ({aim.mode})" if aim else "none" for aim in aims) or ["none"]
    raise UserError(
        f"the runs have the objective {' or '.join(names)}; metric= and mode= name one for all"
    )


def _rows_of(
    directories: Sequence[Path], groups: Sequence[Sequence[Record]], records: Sequence[Record]
) -> tuple[list[list[Row]], list[Row]]:
    """Return the finished settings of each group, and the others of the folders that have the groups' data.

    Args:
        directories: Folder of each group.
        groups: The runs of each group.
        records: All runs of the folders that have the groups' objective.

    Raises:
        UserError: A group has no finished run.
    """
    averaged = [
        *dict.fromkeys(
            key for directory in directories for key in read_sweep(directory)["average_over"]
        )
    ]
    compare_configs(records)
    rows = merge_rows(records, averaged)

    def within(ids: Collection[int]) -> list[Row]:
        parts = (
            replace(row, records=[each for each in row.records if id(each) in ids]) for row in rows
        )
        return [row for row in parts if row.finished]

    known = [{*map(id, group)} for group in groups]
    sides = [within(ids) for ids in known]
    for directory, group, side in zip(directories, groups, sides, strict=True):
        if not side:
            raise UserError(
                f"{directory}: none of {len(group)} runs has finished with a value of its objective"
            )
    rest = within({*map(id, records)}.difference(*known))
    return sides, [row for row in rest if row.data == sides[0][0].data]


def _look(
    folder: Path | None,
    directories: Sequence[Path],
    conditions: Sequence[str],
    settings: Sequence[Group],
    metric: str,
) -> int:
    """Return the number of this look at the comparison, recorded in a folder.

    The comparison is named by the metric, the folders, the settings, and the conditions, however these are spaced.
    """
    names = sorted(
        f"{directory.resolve().name} {setting.name} {_compact(condition)}"
        for directory, setting, condition in zip(directories, settings, conditions, strict=True)
    )
    return count_look(folder, f"{metric} {' and '.join(names)}", [settings])


def _compact(condition: str) -> str:
    return "".join(condition.replace("==", "=").split())


def compare_runs_with_control(
    directory: Path, control: str, options: Mapping[str, str]
) -> ControlComparison:
    """Compare each setting of a folder's runs with one of them.

    Args:
        directory: The folder.
        control: Condition that the runs of the control meet, in the syntax of `parse_condition`.
        options: `metric` and `mode`, as in `compare_runs`.

    Raises:
        UserError: The control has no finished run or is several settings, or as in `compare_runs`.
    """
    records = read_raw_records(directory)
    if options["metric"] or options["mode"]:
        _judge(records, options["metric"], options["mode"])
    group = _group(records, control, "control")
    objective = _shared_objective(group)
    alike = [record for record in records if aim_of(record) == objective]
    sides, rest = _rows_of([directory], [group], alike)
    if len(sides[0]) > 1:
        two = " and ".join(row.setting.name for row in sides[0][:2])
        raise UserError(f"control={control}: must be one setting, not {two}")
    row = sides[0][0]
    settings = [row.setting, *(other.setting for other in rest)]
    folder = directory if are_own(records) else None
    name = f"{objective.metric} control {_compact(control)}"
    look = count_look(folder, name, [settings])
    found = control_settings(settings, row.setting, objective.mode, look)
    found.remarks.extend(assumptions([row, *rest], look))
    if folder is None:
        found.remarks.append(NOT_OWN)
    found.remarks.extend(
        test_set_remarks([record for one in [row, *rest] for record in one.records])
    )
    return replace(found, metric=objective.metric)


def print_comparisons(comparisons: Sequence[Comparison], form: str) -> None:
    """Print comparisons, one per metric, as `table` or `json`."""
    if form == "table":
        show("\n\n".join(str(found) for found in comparisons))
        return
    contents = [_content(found) for found in comparisons]
    print(json_text(contents if len(contents) > 1 else contents[0]))


def _content(compared: Comparison) -> dict[str, Any]:
    if isinstance(compared, ControlComparison):
        return _control_content(compared)
    if isinstance(compared, ComparisonOverSets):
        each = {str(name): _content(found) for name, found in compared.each.items()}
        over = compared.over
        better = over.like_best[0] if len(over.like_best) == 1 else ""
        numbers = {"num_sets": over.num_sets, "p_value": over.p_value, "level": over.level}
        return {"sets": each, "over": {"better": better, **numbers, "remarks": over.remarks}}
    found = compared.found
    sides = {name: _side(side) for name, side in zip("ab", compared.sides, strict=True)}
    words = {"confidence": 1 - found.level, "verdict": found.in_words("a", "b")}
    return {
        "metric": compared.metric,
        **sides,
        **vars(found),
        **words,
        "remarks": compared.remarks,
    }


def _control_content(compared: ControlComparison) -> dict[str, Any]:
    settings = []
    for setting, found in zip(compared.settings, compared.found, strict=True):
        words = {"confidence": 1 - found.level, "verdict": found.in_words("setting", "control")}
        settings.append({**_side(setting), **vars(found), **words})
    return {
        "metric": compared.metric,
        "control": _side(compared.control),
        "settings": settings,
        "remarks": compared.remarks,
    }


def _side(side: Group) -> dict[str, Any]:
    mean = side.mean if side.values else None
    return {"choices": side.choices, "mean": mean, "n": len(side.values), "lost": side.lost}


@contextlib.contextmanager
def table_errors() -> Iterator[None]:
    """Raise errors of a table as those of the user.

    Raises:
        UserError: A table can't be read, or can't be compared as asked.
    """
    try:
        yield
    except verdict.TableError as error:
        raise UserError(str(error)) from error


def compare_table(path: Path, options: Mapping[str, str], asked: Question) -> Comparison:
    """Return the comparison of a table's settings, whose look is counted in a list beside it.

    Args:
        path: The file.
        options: `metric`, `mode`, `seed`, `ignore`, `over`, `control`, `a` and `b`, as typed.
        asked: What is asked of the two, at the first look; the mode is that in `options`.

    Raises:
        UserError: An option does not fit the table.
        TableError: The file is no table, or an option does not fit it.
    """
    rows = verdict.read(path)
    given = _given(options, rows)
    name = f"{path.name} {options['metric']} "
    if options["control"]:
        control = _condition(options, "control", rows)
        name += f"control {_compact(options['control'])}"

        def compared(look: int) -> Comparison:
            return verdict.compare_with_control(rows, control=control, look=look, **given)

    else:
        a = _condition(options, "a", rows)
        b = _condition(options, "b", rows)
        name += " and ".join(sorted([_compact(options["a"]), _compact(options["b"])]))
        name += f" over {options['over']}" if options["over"] else ""
        question = {**vars(asked), **given, "over": options["over"]}

        def compared(look: int) -> Comparison:
            return verdict.compare(rows, a=a, b=b, **{**question, "look": look})

    found = compared(1)
    least = 1 if options["over"] else MIN_VALUES
    look = count_look(path.resolve().parent, name, _compared_groups(found), least)
    return found if look == 1 else compared(look)


def _compared_groups(found: Comparison) -> list[Sequence[Group]]:
    """Return the settings that a comparison looks at, those of each data set apart."""
    if isinstance(found, ControlComparison):
        return [[found.control, *found.settings]]
    if isinstance(found, ComparisonOverSets):
        return [each.sides for each in found.each.values()]
    return [found.sides]


def summarize_table(path: Path, options: Mapping[str, str]) -> None:
    """Print which settings of a table can't be told apart from the best; the look is counted in a list beside it.

    Args:
        path: The file.
        options: `metric`, `mode`, `seed`, `ignore`, `over` and `format`, as typed.

    Raises:
        UserError: The metric is missing, or the format is not `table`.
        TableError: The file is no table, or an option does not fit it.
    """
    if options["format"] != "table":
        raise UserError(
            f"format={options['format']}: is for runs; verdict.rank in Python returns a table's verdict"
        )
    rows, over = verdict.read(path), options["over"]
    given = _given(options, rows)
    found = verdict.rank(rows, over=over, **given)
    each = found.each.values() if isinstance(found, RankingOverSets) else [found]
    comparison = f"{path.name} {options['metric']} {over}".rstrip()
    least = 1 if over else MIN_VALUES
    parts = [ranking.settings for ranking in each]
    look = count_look(path.resolve().parent, comparison, parts, least)
    show(str(found if look == 1 else verdict.rank(rows, over=over, look=look, **given)))


def _given(options: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the options as arguments of `verdict`.

    Raises:
        UserError: The metric is missing, or no column is ignored by a name.
    """
    if not options["metric"]:
        raise UserError("metric= is missing: the column of the table that is compared")
    ignore = _ignored(options, rows)
    return {
        "metric": options["metric"],
        "mode": options["mode"],
        "seed": options["seed"] or None,
        "ignore": ignore,
    }


def _ignored(options: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names, or patterns, of a table's columns that are no settings.

    Raises:
        UserError: The table has no such column.
    """
    ignore = [name for name in options["ignore"].split(",") if name]
    columns = [*dict.fromkeys(name for row in rows for name in row)]
    for name in ignore:
        if name not in columns and not fnmatch.filter(columns, name):
            raise UserError(f"no column is named {name}; there are {some_of(columns)}")
    return ignore


def _condition(
    options: Mapping[str, str], name: str, rows: Sequence[Mapping[str, Any]]
) -> Callable[[Mapping[str, Any]], bool]:
    """Return a condition on the settings of a table.

    Raises:
        UserError: It is missing or wrong.
    """
    if not options[name]:
        raise UserError(f"{name}= is missing: the setting of this side, such as {name}=model=mlp")
    is_met, keys = parse_condition(options[name], name)
    outcomes = (options["metric"], options["seed"])
    for key in sorted(keys):
        if key in outcomes or not any(key in row for row in rows):
            raise UserError(f"{name}: {key} is no column with a setting")

    def condition(row: Mapping[str, Any]) -> bool:
        return is_met(lambda key: row.get(key, ABSENT))

    condition.columns = keys  # type: ignore[attr-defined]
    return condition


def show_front(place: Path, options: Mapping[str, str]) -> None:
    """Print the settings of runs or of a table that no other one beats by the means of several metrics.

    Args:
        place: A folder with runs, or a file.
        options: `front`, such as `val/acc:max,num_parameters:min`, and `format`; of a table `seed` and `ignore`.

    Raises:
        UserError: A direction is missing, or of runs: one of the metrics, none has finished, or their data differ.
        TableError: The file is no table, or lacks a metric.
    """
    metrics = metrics_of(options["front"])
    if not all(metrics.values()):
        raise UserError("front: min or max is missing, as in front=val/acc:max,num_parameters:min")
    if place.is_file():
        rows = verdict.read(place)
        ignore = [options["seed"], *_ignored(options, rows)]
    else:
        refuse_options(options, OF_TABLES)
        rows, ignore = _rows_of_front(place, metrics), []
    found = verdict.front(rows, metrics, ignore=ignore)
    if options["format"] == "json":
        print(json_text(found))
        return
    whole = {name for name in metrics if all(float(row[name]).is_integer() for row in found)}
    shown = [
        {key: int(value) if key in whole else value for key, value in row.items()} for row in found
    ]
    print_table(shown, names=short_names(found[0]))
    show("By their means; leyden compare says whether a difference is more than chance.")


def _rows_of_front(directory: Path, metrics: Collection[str]) -> list[dict[str, Any]]:
    """Return choices and metrics of each finished run, but of those that repeat each other one.

    Raises:
        UserError: As in `show_front`.
    """
    records = read_records(directory)
    _check_metrics("front", metrics, records)
    rows = [
        row for row in merge_rows(records, read_sweep(directory)["average_over"]) if row.finished
    ]
    if not rows:
        raise UserError(
            f"{directory}: none of {len(records)} runs has finished with a value of its objective"
        )
    if keys := assign_data(rows):
        raise UserError(
            f"front: the runs' data differ in {' and '.join(keys)}; name a folder with runs of one data set"
        )
    return [
        {**row.choices, **{name: record.result.metrics.get(name) for name in metrics}}
        for row in rows
        for record in row.distinct
        if record.result
    ]
