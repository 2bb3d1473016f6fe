"""Many runs as one table and picture."""

import contextlib
import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from leyden.config.mistakes import UserError
from leyden.config.objective import Objective
from leyden.config.terminal import Terminal, typed, warn
from leyden.report.plot import draw
from leyden.report.ranking import front, merge
from leyden.report.records import Record, States, position, read_records
from leyden.run.directory import Run
from leyden.run.files import read_json, write_whole

AVERAGED = ["seed", "data.fold"]  # of runs that no sweep holds together, as conf/train.yaml has it
NUM_SHOWN = 20  # rows in the terminal; the files have them all


def summarize(directory: Path, states: States) -> list[Run]:
    """Write `summary.csv`, `summary.md` and `summary.png` for the runs below a directory, and print the table.

    Args:
        directory: Any folder with runs in or below it.
        states: Tells the state of jobs of a cluster.

    Returns:
        The best run, or of several objectives those that no other beats.

    Raises:
        UserError: There is no run.
    """
    records = read_records(directory, states)
    log_keys, averaged = _described(directory)
    rows = merge(records, averaged)
    keys = list(rows[0].choices)
    aims = next((record.objectives for record in records if record.objectives), ())
    metrics = [objective.metric for objective in aims] or ["objective"]
    cells = [row.cells(metrics) for row in rows]
    table = csv.DictWriter(text := io.StringIO(newline=""), fieldnames=list(cells[0]))
    table.writeheader()
    table.writerows(cells)
    _write(directory / "summary.csv", text.getvalue().encode(errors="surrogateescape"))
    # Of several seeds the best is that of the best row, not the luckiest of all.
    winners = front(rows[0].records if len(aims) == 1 else records)
    remarks = _remarks(records, aims, winners)
    head = _head(keys, metrics)
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(_texts(row, keys, metrics))} |" for row in cells]
    _write(directory / "summary.md", "\n".join([*lines, "", *remarks, ""]).encode(errors="surrogateescape"))
    picture = draw(
        [(record.choices, record.values) for record in records if record.values],
        metrics,
        log=log_keys,
        averaged=averaged,
    )
    _write(directory / "summary.png", picture)

    short = [key.rpartition(".")[2] for key in keys]  # where it is clear
    shown = [name if short.count(name) == 1 else key for key, name in zip(keys, short, strict=True)]
    grid = Table(*_head(shown, metrics), box=None)
    for row in cells[:NUM_SHOWN]:
        grid.add_row(*_texts(row, keys, metrics))
    console = Terminal()
    console.print(grid)
    if len(cells) > NUM_SHOWN:
        console.print(f"... and {len(cells) - NUM_SHOWN} more rows")
    console.print("\n".join([*remarks, f"written: {directory}/summary.csv, summary.md, summary.png"]))
    return [winner.run for winner in winners]


def _write(path: Path, content: bytes) -> None:
    """Write a file whole; sweeps that share jobs can end at once, so each process has a name of its own for it."""
    own = path.with_name(f"{path.name}.{os.getpid()}")
    write_whole(own, content)
    own.replace(path)


def _described(directory: Path) -> tuple[list[str] | None, list[str]]:
    """What a sweep was described by.

    Returns:
        The choices that a search has tried by orders of magnitude, None where that is not known; and those that a mean is over.
    """
    path = directory / "sweep.json"
    with contextlib.suppress(UserError, OSError):
        sweep = read_json(path, {})
        if isinstance(sweep, dict):
            log, averaged = sweep.get("log"), sweep.get("average_over", AVERAGED)
            if isinstance(log, list | None) and isinstance(averaged, list):
                return log, averaged
    warn(f"{path} is no description of a sweep: its axes are scaled by their values")
    return None, AVERAGED


def _head(keys: Sequence[str], metrics: Sequence[str]) -> list[str]:
    return [*keys, *metrics, "n", "epochs", "seconds", "status"]


def _texts(cells: dict[str, Any], keys: Sequence[str], metrics: Sequence[str]) -> list[str]:
    value, deviation = cells["objective"], cells["deviation"]
    objective = "" if value is None else f"{value:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")
    further = ["" if cells[name] is None else f"{cells[name]:.6g}" for name in metrics[1:]]
    numbers = ["" if cells[name] is None else f"{cells[name]:.4g}" for name in ("epochs", "seconds")]
    choices = [f"{cells[key]:.4g}" if isinstance(cells[key], float) else str(cells[key]) for key in keys]
    return [*choices, objective, *further, str(cells["n"]), *numbers, cells["status"]]


def _remarks(records: Sequence[Record], aims: Sequence[Objective], winners: Sequence[Record]) -> list[str]:
    lines = []
    if len(aims) == 1 and winners:
        lines.append(f"Best: {winners[0].run.directory.name}. Its look at the test set:")
    elif winners:
        names = ", ".join(f"{aim.metric} ({aim.mode})" for aim in aims)
        lines.append(
            f"Pareto front of {names}: {len(winners)} of {len(records)} runs. A look at the test set by one:"
        )
    for winner in winners:
        reached = ", ".join(f"{value:.6g}" for value in winner.values)
        lines.append(
            f"    python -m leyden.evaluate {typed('run', winner.run.directory)}"
            + f"  # {reached}" * (len(aims) > 1)
        )
    for state in ("failed", "pruned", "queued", "running", "interrupted"):
        for record in records:
            if record.status == state:
                more = record.error or ("" if state == "pruned" else position(record))
                lines.append(f"{state}: {record.run.directory.name}{f' ({more})' if more else ''}")
    return lines
