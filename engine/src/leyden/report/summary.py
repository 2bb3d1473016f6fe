"""Summary of many runs as a table and a picture, with remarks on the best and the unfinished runs."""

import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leyden.config.console import Terminal, text_table
from leyden.config.objective import Objective
from leyden.config.terminal import csv_text, leyden_command, metric_text, program_command, quoted_override
from leyden.report.held_out import test_set_remarks
from leyden.report.listing import as_json, format_value, short_names
from leyden.report.looks import count_look
from leyden.report.picture import Point, draw_summary
from leyden.report.ranking import (
    IDLE_SEED,
    MARK,
    Contenders,
    Row,
    by_data,
    contenders,
    first_tested,
    generalize_over_datasets,
    merge_rows,
    pareto_front,
    read_sweep_settings,
    varying_keys,
)
from leyden.report.records import Record, position, read_records
from leyden.report.statistics import MIN_VALUES
from leyden.run.directory import Run
from leyden.run.files import write_whole


def best_remarks(
    num_all: int,
    objectives: Sequence[Objective],
    winners: Sequence[Record],
    directory: Path,
    row: int,
    num_runs: int,
    failed: str,
) -> list[str]:
    """Return a line on the best run or setting, and the commands that evaluate it; empty if no run has finished.

    Args:
        num_all: Number of all runs.
        objectives: The objectives of the runs.
        winners: The best run, or the Pareto front if there are several objectives.
        directory: Folder with the runs.
        row: Number of the best setting's row, from 1 on.
        num_runs: Number of finished runs of the best setting; with several, all of them are to be evaluated.
        failed: As in `summarize`, since the rows' order follows from it.
    """
    lines = []
    testable = [winner for winner in winners if winner.result is None or winner.result.can_be_tested]
    if len(objectives) == 1 and winners and num_runs > 1:
        then = " The test evaluation of all, which counts as one:" if testable else ""
        lines.append(f"Best setting: row {row}, {num_runs} runs.{then}")
        options = f" row={row}" * (row > 1) + f" failed={failed}" * (failed != "drop")
        command = f"    {leyden_command('evaluate')} {quoted_override('runs', directory)}{options}"
        lines += [command] * bool(testable)
        testable = []
    elif len(objectives) == 1 and winners:
        lines.append(f"Best: {winners[0].run.directory.name}.{' Its test evaluation:' if testable else ''}")
    elif winners:
        names = ", ".join(f"{each.metric} ({each.mode})" for each in objectives)
        then = " The test evaluation of one:" if testable else ""
        lines.append(f"Pareto front of {names}: {len(winners)} of {num_all} runs.{then}")
    for winner in testable:
        if len(objectives) > 1:
            lines.append(f"  {', '.join(f'{value:.6g}' for value in winner.values)}:")
        lines.append(f"    {leyden_command('evaluate')} {quoted_override('run', winner.run.directory)}")
    return lines


def unfinished_remarks(records: Sequence[Record], directory: Path) -> list[str]:
    """Return how to view a search, and a line for each run that did not finish."""
    lines = []
    if (study := directory / "study.journal").is_file():
        program = program_command("optuna-dashboard")
        first = "" if program else ", after pip install optuna-dashboard"
        command = f"{program or 'optuna-dashboard'} {shlex.quote(str(study.absolute()))}"
        lines.append(f"The search in a browser{first}: {command}")
    for state in ("failed", "diverged", "pruned", "queued", "running", "interrupted"):
        for record in records:
            if record.status == state:
                more = (
                    record.error or record.reason or ("" if state in ("diverged", "pruned") else position(record))
                )
                lines.append(f"{state}: {record.run.directory.name}{f' ({more})' if more else ''}")
    return lines


SELECTED = "Row {} was selected by these values, so its mean is biased in its favor; a test evaluation is not."
NUM_SHOWN = 20  # rows in the terminal; the files contain all rows


def summarize(
    directory: Path,
    form: str = "table",
    failed: str = "drop",
    over: str = "seeds",
    before_end: Callable[[Sequence[Run]], None] = lambda runs: None,
) -> None:
    """Write `summary.csv`, `summary.md` and `summary.png` for the runs below a directory, and print the table.

    Args:
        directory: Any folder with runs in or below it.
        form: Format of the printed table, `table` or `json`.
        failed: `drop` to leave failed runs out of the means, `worst` to give them the worst value on their data.
        over: `seeds` for verdicts on this dataset, `datasets` for verdicts on others of its kind.
        before_end: Called with the best run of each data set, or the Pareto front if there are several objectives,
            before the last lines are printed: the commands that evaluate it.

    Raises:
        UserError: There is no run.
    """
    records = read_records(directory)
    log_keys, averaged = read_sweep_settings(directory)
    rows = merge_rows(records, averaged, failed)
    if over == "datasets":
        generalize_over_datasets(rows)
    keys = varying_keys([row.choices for row in rows])
    objectives = next((record.objectives for record in records if record.objectives), ())
    metrics = [objective.metric for objective in objectives] or ["objective"]
    is_single = len(objectives) == 1
    marked = _contenders(rows, averaged, objectives, directory)
    cells = _cells(rows, keys, metrics, averaged, marked)
    parts = by_data(rows)
    best = [_best_on_data(part, averaged, is_single=is_single) for part in parts]
    winners = [winner for _, _, found in best for winner in found]
    evaluations = test_set_remarks(records)
    selected = [
        SELECTED.format(number + 1)
        for part, (number, num, _) in zip(parts, best, strict=True)
        if is_single and len(part) > 1 and num
    ]
    notes = [*_repetition_remarks(rows, averaged), *marked.remarks, *selected]
    notes += [*unfinished_remarks(records, directory), *evaluations]
    last = []
    for part, (number, num, found) in zip(parts, best, strict=True):
        num_all = sum(len(row.records) for row in part.values())
        last += best_remarks(num_all, objectives, found, directory, row=number + 1, num_runs=num, failed=failed)
    first = {number + 1 for number, _, _ in best}
    shown = [
        _row_texts(number, cell, keys, metrics, is_best=number in first, num_all=row.num_all(averaged))
        for number, (cell, row) in enumerate(zip(cells, rows, strict=True), start=1)
    ]
    _write_csv(directory / "summary.csv", cells)
    _write_markdown(directory / "summary.md", ["row", *keys, *metrics, *COLUMNS], shown, [*notes, *last])
    formats = ["png", *["pdf"] * any(record.config.get("picture_format") == "pdf" for record in records)]
    for file_format in formats:
        picture = draw_summary(
            [
                Point(record.choices, record.values, record.status == "pruned")
                for row in rows
                for record in row.records
                if record in row.finished or (record.status == "pruned" and record.values)
            ],
            metrics,
            log=log_keys,
            averaged=averaged,
            file_format=file_format,
        )
        _write(directory / f"summary.{file_format}", picture)
    if form == "json":
        best_run = str(winners[0].run.directory) if is_single and len(parts) == 1 and winners else None
        content = _json_content(rows, metrics, averaged, marked, best_run, evaluations)
        print(json.dumps(content, indent=2))  # ASCII, so no control characters
        return
    _print_table(keys, metrics, shown)
    files = ["summary.csv", "summary.md", *(f"summary.{file_format}" for file_format in formats)]
    Terminal().print("\n".join([*notes, f"written: {directory}/{', '.join(files)}"]))
    before_end([winner.run for winner in winners])
    if last:
        Terminal().print("\n".join(last))


def _best_on_data(
    rows: Mapping[int, Row], averaged: Sequence[str], *, is_single: bool
) -> tuple[int, int, list[Record]]:
    """Return the index of the best of some rows, its number of runs, and the best of these.

    With several objectives, the index is -1, the number is 1, and the runs are the Pareto front.
    """
    if not is_single:
        return -1, 1, pareto_front([record for row in rows.values() for record in row.records])
    number = [*rows][first_tested([*rows.values()], averaged)]
    # The best run is that of the best setting, not a lucky seed of another one.
    return number, len(rows[number].distinct(averaged)), pareto_front(rows[number].records)


def _cells(
    rows: Sequence[Row], keys: Sequence[str], metrics: Sequence[str], averaged: Sequence[str], marked: Contenders
) -> list[dict[str, Any]]:
    """Return the rows of `summary.csv`."""
    return [
        {
            **dict.fromkeys(keys, ""),
            **row.cells(metrics, averaged),
            "like_best": {None: "", True: "yes", False: "no"}[is_like],
        }
        for row, is_like in zip(rows, marked.like_best, strict=True)
    ]


def _write_markdown(
    path: Path, header: Sequence[str], shown: Sequence[Sequence[str]], notes: Sequence[str]
) -> None:
    lines = [f"| {' | '.join(texts)} |" for texts in (header, *shown)]
    lines.insert(1, "|" + "---|" * len(header))
    _write(path, "\n".join([*lines, "", *notes, ""]).encode(errors="surrogateescape"))


def _write_csv(path: Path, cells: Sequence[dict[str, Any]]) -> None:
    text = csv_text([cells[0], *([row[name] for name in cells[0]] for row in cells)])
    _write(path, text.encode(errors="surrogateescape"))


def _repetition_remarks(rows: Sequence[Row], averaged: Sequence[str]) -> list[str]:
    """Return remarks on runs that count once, though there are several."""
    repeats = any(row.repeats(averaged) for row in rows)
    return ["Exact repetitions (same seed) count once in n."] * repeats + [IDLE_SEED] * any(
        row.has_idle_seed(averaged) for row in rows
    )


def _contenders(
    rows: Sequence[Row], averaged: Sequence[str], objectives: Sequence[Objective], directory: Path
) -> Contenders:
    """Return which rows may be the best, and count this as a look; nothing for several objectives or unended runs."""
    statuses = [record.status for row in rows for record in row.records]
    num_open = statuses.count("queued") + statuses.count("running")
    if len(objectives) != 1 or num_open:
        # With fewer runs, a verdict would be a look at the table that costs the next one some of its power.
        are = "1 run is" if num_open == 1 else f"{num_open} runs are"
        waits = f"{are} queued or running: which rows may be the best is shown when all have ended."
        return Contenders([None] * len(rows), None, [waits] if len(objectives) == 1 else [])
    parts = [
        [row for row in part.values() if len(row.group(averaged).values) >= MIN_VALUES] for part in by_data(rows)
    ]
    counted = [record for tested in parts if len(tested) > 1 for row in tested for record in row.finished]
    look = count_look(directory, "summary", counted) if counted else 1
    return contenders(rows, averaged, objectives[0].mode, look)


def _print_table(keys: Sequence[str], metrics: Sequence[str], shown: Sequence[Sequence[str]]) -> None:
    """Print the first rows of the table, with short names of the keys."""
    names = short_names(keys)
    table = text_table("row", *(names[key] for key in keys), *metrics, *COLUMNS)
    for texts in shown[:NUM_SHOWN]:
        table.add_row(*texts)
    console = Terminal()
    console.print(table)
    if len(shown) > NUM_SHOWN:
        console.print(f"... and {len(shown) - NUM_SHOWN} more rows")


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically, with a temporary name per process, since sweeps that share jobs can end together."""
    own = path.with_name(f"{path.name}.{os.getpid()}")
    write_whole(own, content)
    own.replace(path)


COLUMNS = ("n", "epochs", "seconds", "status")


def _row_texts(
    number: int, cells: dict[str, Any], keys: Sequence[str], metrics: Sequence[str], *, is_best: bool, num_all: int
) -> list[str]:
    """Return the cells of a row as text."""
    value, deviation = cells["objective"], cells["deviation"]
    objective = "" if value is None else metric_text(value, deviation)
    objective += f" {MARK}" * (cells["like_best"] == "yes" and not is_best)
    others = ["" if cells[name] is None else f"{cells[name]:.6g}" for name in metrics[1:]]
    numbers = ["" if cells[name] is None else f"{cells[name]:.4g}" for name in ("epochs", "seconds")]
    num = f"{cells['n']} of {num_all}" if cells["n"] < num_all else str(cells["n"])
    choices = [format_value(cells[key]) for key in keys]
    return [str(number), *choices, objective, *others, num, *numbers, cells["status"]]


def _json_content(
    rows: Sequence[Row],
    metrics: Sequence[str],
    averaged: Sequence[str],
    marked: Contenders,
    best: str | None,
    evaluations: list[str],
) -> Any:
    """Return the table for JSON output; a choice that a row lacks is absent."""
    lines = []
    for row, is_like in zip(rows, marked.like_best, strict=True):
        cells = {key: value for key, value in row.cells(metrics, averaged).items() if key not in row.choices}
        runs = [str(record.run.directory) for record in row.records]
        lines.append({"choices": row.choices, **cells, "like_best": is_like, "runs": runs})
    content = {"objectives": list(metrics), "rows": lines, "best": best, "further_seeds": marked.num_further}
    content["remarks"] = marked.remarks
    return as_json({**content, "test_evaluations": evaluations})
