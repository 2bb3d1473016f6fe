"""Many runs as one table and picture."""

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leyden.config.terminal import Terminal, grid
from leyden.report import search
from leyden.report.contenders import MARK, Contenders, contenders
from leyden.report.formats import as_json, text
from leyden.report.plot import draw
from leyden.report.ranking import Row, described, front, merge, varied
from leyden.report.records import States, read_records
from leyden.report.remarks import remarks
from leyden.report.tested import tested
from leyden.run.directory import Run
from leyden.run.files import write_whole

NUM_SHOWN = 20  # rows in the terminal; the files have them all


def summarize(directory: Path, states: States, form: str = "table") -> list[Run]:
    """Write `summary.csv`, `summary.md` and `summary.png` for the runs below a directory, and print the table.

    Args:
        directory: Any folder with runs in or below it.
        states: Tells the state of jobs of a cluster.
        form: Of what is printed, `table` or `json`.

    Returns:
        The best run, or of several objectives those that no other beats.

    Raises:
        UserError: There is no run.
    """
    records = read_records(directory, states)
    log_keys, averaged = described(directory)
    rows = merge(records, averaged)
    keys = varied([row.choices for row in rows])
    aims = next((record.objectives for record in records if record.objectives), ())
    metrics = [objective.metric for objective in aims] or ["objective"]
    is_single = len(aims) == 1
    like = contenders(rows, averaged, aims[0].mode) if is_single else Contenders([None] * len(rows), None, [])
    cells = [
        {
            **dict.fromkeys(keys, ""),
            **row.cells(metrics, averaged),
            "like_best": {None: "", True: "yes", False: "no"}[is_like],
        }
        for row, is_like in zip(rows, like.like_best, strict=True)
    ]
    file = csv.DictWriter(written := io.StringIO(newline=""), fieldnames=list(cells[0]))
    file.writeheader()
    file.writerows(cells)
    _write(directory / "summary.csv", written.getvalue().encode(errors="surrogateescape"))
    # Of several seeds the best is that of the best row, not the luckiest of all.
    winners = front(rows[0].records if is_single else records)
    evaluations = tested(records)
    repeats = any(cell["n"] < len(row.counted) for cell, row in zip(cells, rows, strict=True))
    once = ["Runs that repeat others, the seed too, count once in n."] if repeats else []
    said = [*once, *like.remarks, *remarks(records, aims, winners, directory), *evaluations]
    head = [*keys, *metrics, *HEAD]
    shown = [
        _texts(cell, keys, metrics, is_first=not number, num_all=row.num_all(averaged))
        for number, (cell, row) in enumerate(zip(cells, rows, strict=True))
    ]
    lines = [f"| {' | '.join(texts)} |" for texts in (head, *shown)]
    lines.insert(1, "|" + "---|" * len(head))
    _write(directory / "summary.md", "\n".join([*lines, "", *said, ""]).encode(errors="surrogateescape"))
    picture = draw(
        [(record.choices, record.values) for record in records if record.values],
        metrics,
        log=log_keys,
        averaged=averaged,
        # Only a search has written down what it tries by orders of magnitude.
        further=search.panels(rows, aims[0], log_keys) if is_single and log_keys is not None else (),
    )
    _write(directory / "summary.png", picture)
    if form == "json":
        best = str(winners[0].run.directory) if is_single and winners else None
        print(
            json.dumps(_for_programs(rows, metrics, averaged, like, best, evaluations), indent=2)
        )  # as ASCII: it steers no terminal
        return [winner.run for winner in winners]
    short = [key.rpartition(".")[2] for key in keys]  # where it is clear
    names = [name if short.count(name) == 1 else key for key, name in zip(keys, short, strict=True)]
    table = grid(*names, *metrics, *HEAD)
    for texts in shown[:NUM_SHOWN]:
        table.add_row(*texts)
    console = Terminal()
    console.print(table)
    if len(cells) > NUM_SHOWN:
        console.print(f"... and {len(cells) - NUM_SHOWN} more rows")
    console.print("\n".join([*said, f"written: {directory}/summary.csv, summary.md, summary.png"]))
    return [winner.run for winner in winners]


def _write(path: Path, content: bytes) -> None:
    """Write a file whole; sweeps that share jobs can end at once, so each process has a name of its own for it."""
    own = path.with_name(f"{path.name}.{os.getpid()}")
    write_whole(own, content)
    own.replace(path)


HEAD = ("n", "epochs", "seconds", "status")


def _texts(
    cells: dict[str, Any], keys: Sequence[str], metrics: Sequence[str], *, is_first: bool, num_all: int
) -> list[str]:
    value, deviation = cells["objective"], cells["deviation"]
    objective = "" if value is None else f"{value:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")
    objective += f" {MARK}" * (cells["like_best"] == "yes" and not is_first)
    further = ["" if cells[name] is None else f"{cells[name]:.6g}" for name in metrics[1:]]
    numbers = ["" if cells[name] is None else f"{cells[name]:.4g}" for name in ("epochs", "seconds")]
    num = f"{cells['n']} of {num_all}" if cells["n"] < num_all else str(cells["n"])
    return [*(text(cells[key]) for key in keys), objective, *further, num, *numbers, cells["status"]]


def _for_programs(
    rows: Sequence[Row],
    metrics: Sequence[str],
    averaged: Sequence[str],
    like: Contenders,
    best: str | None,
    evaluations: list[str],
) -> Any:
    """The table as JSON has it; a row has no choice where there is a gap."""
    lines = []
    for row, is_like in zip(rows, like.like_best, strict=True):
        cells = {key: value for key, value in row.cells(metrics, averaged).items() if key not in row.choices}
        runs = [str(record.run.directory) for record in row.records]
        lines.append({"choices": row.choices, **cells, "like_best": is_like, "runs": runs})
    told = {"objectives": list(metrics), "rows": lines, "best": best, "further_seeds": like.further}
    return as_json({**told, "test_evaluations": evaluations})
