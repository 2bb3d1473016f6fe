"""Many runs as one table and picture."""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from leyden.config import UserError
from leyden.picture import draw
from leyden.run import read_json
from leyden.runs import Job, front, merge, position, read_jobs

NUM_SHOWN = 20  # rows in the terminal; the files have them all


def summarize(directory: Path) -> None:
    """Write `summary.csv`, `summary.md` and `summary.png` for the runs below a directory, and print the table.

    Raises:
        UserError: There is no run.
    """
    jobs = read_jobs(directory)
    rows = merge(jobs)
    keys = list(rows[0].choices)
    aims = next((job.objectives for job in jobs if job.objectives), [])
    metrics = [objective["metric"] for objective in aims] or ["objective"]
    cells = [row.cells(metrics) for row in rows]
    with (directory / "summary.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(cells[0]))
        table.writeheader()
        table.writerows(cells)
    # Of several seeds the best is that of the best row, not the luckiest of all.
    remarks = _remarks(jobs, aims, front(rows[0].jobs if len(aims) == 1 else jobs))
    head = _head(keys, metrics)
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(_texts(row, keys, metrics))} |" for row in cells]
    (directory / "summary.md").write_text("\n".join([*lines, "", *remarks, ""]))
    log = read_json(directory / "sweep.json", {}).get("log")
    draw([(job.choices, job.values) for job in jobs if job.values], metrics, log, directory / "summary.png")

    short = [key.rpartition(".")[2] for key in keys]  # where it is clear
    shown = [name if short.count(name) == 1 else key for key, name in zip(keys, short, strict=True)]
    grid = Table(*_head(shown, metrics), box=None)
    for row in cells[:NUM_SHOWN]:
        grid.add_row(*_texts(row, keys, metrics))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(grid)
    if len(cells) > NUM_SHOWN:
        console.print(f"... and {len(cells) - NUM_SHOWN} more rows")
    console.print("\n".join([*remarks, f"written: {directory}/summary.csv, summary.md, summary.png"]))


def _head(keys: Sequence[str], metrics: Sequence[str]) -> list[str]:
    return [*keys, *metrics, "n", "epochs", "seconds", "status"]


def _texts(cells: dict[str, Any], keys: Sequence[str], metrics: Sequence[str]) -> list[str]:
    value, deviation = cells["objective"], cells["deviation"]
    objective = "" if value is None else f"{value:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")
    further = ["" if cells[name] is None else f"{cells[name]:.6g}" for name in metrics[1:]]
    numbers = ["" if cells[name] is None else f"{cells[name]:.4g}" for name in ("epochs", "seconds")]
    choices = [f"{cells[key]:.4g}" if isinstance(cells[key], float) else str(cells[key]) for key in keys]
    return [*choices, objective, *further, str(cells["n"]), *numbers, cells["status"]]


def _remarks(jobs: Sequence[Job], aims: Sequence[dict[str, Any]], winners: Sequence[Job]) -> list[str]:
    lines = []
    if len(aims) == 1 and winners:
        lines.append(f"Best: {winners[0].run.directory.name}. Its look at the test set:")
    elif winners:
        names = ", ".join(f"{aim['metric']} ({aim['mode']})" for aim in aims)
        lines.append(f"Pareto front of {names}: {len(winners)} of {len(jobs)} runs. A look at the test set by one:")
    for winner in winners:
        reached = ", ".join(f"{value:.6g}" for value in winner.values)
        lines.append(
            f"    python -m leyden.evaluate run={winner.run.directory}" + f"  # {reached}" * (len(aims) > 1)
        )
    for state in ("failed", "pruned", "queued", "running", "interrupted"):
        for job in jobs:
            if job.status == state:
                more = job.error or ("" if state == "pruned" else position(job))
                lines.append(f"{state}: {job.run.directory.name}{f' ({more})' if more else ''}")
    return lines


def main() -> None:
    """The command: `python -m leyden.summarize DIR`."""
    parser = argparse.ArgumentParser(prog="python -m leyden.summarize", description=__doc__)
    parser.add_argument("directory", type=Path, help="any folder with runs in or below it, as outputs/sweeps/NAME")
    try:
        summarize(parser.parse_args().directory)
    except (UserError, OSError) as error:
        raise SystemExit(f"leyden: {error}") from None


if __name__ == "__main__":
    main()
