"""Summary of runs: a table, a verdict on which may be the best, and what did not finish."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leyden.base.table import cell_text, csv_text, short_names
from leyden.base.terminal import leyden_command
from leyden.config.checks import Objective
from leyden.report.ranking import (
    Row,
    by_data,
    look_at,
    merge_rows,
    over_data_sets,
    plus_minus,
    read_sweep,
    settings_by_data,
)
from leyden.report.records import (
    NOT_OF_OWNER,
    Record,
    are_own,
    position,
    read_records,
    test_set_remarks,
    threads_remark,
    varying_keys,
)
from leyden.report.tables import print_reports
from leyden.run.files import write_whole
from leyden.verdict.groups import MIN_VALUES, Group
from leyden.verdict.ranking import MARK, Ranking
from leyden.verdict.reports import Report, TextRow

NUM_SHOWN = 20  # rows in the terminal; the files contain all rows
MEASURED = ("objective", "deviation", "n", "epochs", "seconds", "status")  # names in `Row.measured`
LIKE_BEST = {
    None: "",
    True: "yes",
    False: "no",
}
UNFINISHED = ("failed", "diverged", "pruned", "queued", "running", "interrupted")


@dataclass
class SweepSummary(Report):
    """The runs in or below a folder, and the verdict on them.

    Args:
        directory: The folder.
        records: The runs.
        rows_of_runs: The settings, best first, those of each data set together.
        objective: What the runs are compared by; None if they have no objective.
        is_own: Whether the folder is this user's own, who may write to it.
        like_best: For each row whether it may be the best; None if that can't be told.
        remarks: The verdict in words.
    """

    directory: Path
    records: Sequence[Record]
    rows_of_runs: Sequence[Row]
    objective: Objective | None
    is_own: bool
    like_best: Sequence[bool | None]
    remarks: Sequence[str]

    @property
    def keys(self) -> list[str]:
        """The settings that vary between the rows."""
        return varying_keys([row.choices for row in self.rows_of_runs])

    @property
    def best(self) -> list[int]:
        """Index of the best row on each data set; empty without an objective."""
        if not self.objective:
            return []
        return [_first_tested(part) for part in by_data(self.rows_of_runs)]

    def cells(self) -> list[TextRow]:
        """Return the first rows; those that may be the best are marked, but not the best."""
        keys = self.keys
        columns = ["row", *keys, *MEASURED]
        columns.remove("deviation")
        names = short_names(keys, taken=columns)
        if self.objective:
            names["objective"] = self.objective.metric
        best = self.best
        cells: list[TextRow] = [[names.get(key, key) for key in columns]]
        for number, row in enumerate(self.rows_of_runs[:NUM_SHOWN]):
            like = self.like_best[number]
            shown = row.shown
            values = {**_cells(row, like), **shown.choices}
            values |= {
                "row": number + 1,
                "n": shown.count,
                "objective": shown.measured,
            }
            if like and number not in best:
                values["objective"] += f" {MARK}"
            cells.append([cell_text(values.get(key, "")) for key in columns])
        return cells

    def lines(self) -> list[str]:
        """Return the verdict, the runs that did not finish, and how the best setting is tested."""
        lines = []
        num_more = len(self.rows_of_runs) - NUM_SHOWN
        if num_more > 0:
            lines.append(f"... and {num_more} more rows")
        if any(row.shown.deviation is not None for row in self.rows_of_runs):
            lines.append(plus_minus(self.rows_of_runs))
        lines += self.remarks
        lines += _unfinished_lines(self)
        lines += test_set_remarks(self.records)
        if self.is_own:
            lines.append(f"written: {self.directory}/summary.csv")
        for number in self.best:
            lines += _best_lines(self, number)
        return lines

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of `summary.csv`; what a row lacks is absent."""
        pairs = zip(self.rows_of_runs, self.like_best, strict=True)
        return [_cells(row, like) for row, like in pairs]

    def contents(self) -> dict[str, Any]:
        """Return the objective, the rows with their runs, and the remarks."""
        rows = []
        for row, like in zip(self.rows_of_runs, self.like_best, strict=True):
            runs = [record.directory for record in row.records]
            rows.append({"choices": row.choices, **row.measured(), "like_best": like, "runs": runs})
        aim = self.objective
        objective = None
        if aim:
            objective = {"metric": aim.metric, "mode": aim.mode}
        remarks = [*self.remarks, *test_set_remarks(self.records)]
        return {
            "objective": objective,
            "rows": rows,
            "remarks": remarks,
        }

    def compared(self) -> list[Sequence[Group]]:
        """Return the settings on each data set."""
        return [*settings_by_data(self.rows_of_runs)]


def summarize(
    directory: Path, form: str = "table", over: str = "", pdf: str = "", *, trust: bool = False
) -> None:
    """Write `summary.csv` for the runs below a directory, and print the table.

    Nothing is written to a folder without a run of one's own.

    Args:
        directory: Any folder with runs in or below it.
        form: Format of the printed table, as in `print_reports`.
        over: `data` to rank also over several data sets.
        pdf: File for the intervals as a picture; empty for none.
        trust: Whether the folder is one's own in any case, as that of a sweep that has run.

    Raises:
        UserError: There is no run.
    """
    summary = read_sweep_summary(directory, over, trust=trust)
    if summary.is_own:
        write_table(summary)
    print_reports([summary], form, pdf)


def read_sweep_summary(directory: Path, over: str = "", *, trust: bool = False) -> SweepSummary:
    """Return the summary of the runs below a directory.

    Where rows are compared, this counts as a look.

    Args:
        directory: As in `summarize`.
        over: As in `summarize`.
        trust: As in `summarize`.

    Raises:
        UserError: There is no run.
    """
    records = read_records(directory)
    sweep = read_sweep(directory)
    rows = merge_rows(records, sweep["average_over"])
    objective = next((record.objective for record in records if record.objective), None)
    is_own = trust or are_own(records)
    folder = None
    if is_own:
        folder = directory
    ranking = _contenders(rows, objective, folder, sweep["excluded"])
    remarks = [*ranking.remarks]
    if not is_own:
        remarks.append(NOT_OF_OWNER)
    remarks += threads_remark(record.threads for record in records)
    if over and objective:
        found = over_data_sets(rows, objective.mode, folder)
        for name, rank in found.shown.items():
            remarks.append(f"mean rank {rank}: {name}")
        remarks += found.remarks
    return SweepSummary(directory, records, rows, objective, is_own, ranking.like_best, remarks)


def _contenders(
    rows: Sequence[Row], objective: Objective | None, folder: Path | None, excluded: Sequence[str]
) -> Ranking:
    """Return which rows may be the best, and count this as a look; none while runs are going."""
    statuses = [record.status for row in rows for record in row.records]
    num_open = statuses.count("queued") + statuses.count("running")
    if objective and not num_open:
        return look_at(folder, rows, objective.mode, excluded)
    remarks = []
    if objective:
        # With fewer runs, a verdict would be a look that costs the next one some of its power.
        remarks.append(
            f"Runs queued or running: {num_open}. Which rows may be the best is shown when all "
            "have ended."
        )
    return Ranking([], [None] * len(rows), remarks)


def write_table(summary: SweepSummary) -> None:
    """Write `summary.csv`, whole: sweeps that share jobs can end together, in several processes."""
    table = csv_text(summary.rows(), [*summary.keys, *MEASURED, "like_best"])
    path = summary.directory / "summary.csv"
    own = path.with_name(f"{path.name}.{os.getpid()}")
    write_whole(own, table.encode(errors="backslashreplace"))
    own.replace(path)


def _cells(row: Row, like: bool | None) -> dict[str, Any]:
    """Return the values of a row; what it lacks is absent."""
    measured = {name: value for name, value in row.measured().items() if value is not None}
    return {**measured, **row.choices, "like_best": LIKE_BEST[like]}


def _first_tested(rows: Mapping[int, Row]) -> int:
    """Return the index of a data set's best row with enough runs to be compared, or of the best."""
    for number, row in rows.items():
        if len(row.setting.values) >= MIN_VALUES:
            return number
    return min(rows)


def _unfinished_lines(summary: SweepSummary) -> list[str]:
    """Return how to view a search, and a line for each run that did not finish."""
    lines = []
    study = summary.directory / "study.journal"
    if study.is_file():
        file = shlex.quote(str(study.absolute()))
        how = f"after pip install optuna-dashboard: optuna-dashboard {file}"
        lines.append(f"The search in a browser, {how}")
    for status in UNFINISHED:
        for record in summary.records:
            if record.status == status:
                line = f"{status}: {record.run.directory.name}"
                more = record.error or record.reason or position(record)
                lines.append(f"{line} ({more})" if more else line)
    return lines


def _best_lines(summary: SweepSummary, number: int) -> list[str]:
    """Return a line on the best row, and the command that evaluates it.

    Empty without a finished run.
    """
    runs = summary.rows_of_runs[number].distinct
    if not runs:
        return []
    first = runs[0]
    if len(runs) == 1:
        line = f"Best: {first.run.directory.name}."
        then = "The test evaluation:"
        chosen = shlex.quote(f"run={first.run.directory}")
    else:
        line = f"Best setting: row {number + 1}, {len(runs)} runs."
        then = "The test evaluation of all, which counts as one:"
        chosen = shlex.quote(f"runs={summary.directory}")
        if number > 0:
            chosen += f" row={number + 1}"
    if first.result and not first.result.can_be_tested:
        return [line]
    return [f"{line} {then}", f"    {leyden_command('evaluate')} {chosen}"]
