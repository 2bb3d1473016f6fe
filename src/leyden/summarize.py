"""Many runs as one table and picture."""

import argparse
import csv
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from leyden.config import UserError
from leyden.picture import draw
from leyden.plain import flatten
from leyden.run import CONTROL, Run

NUM_SHOWN = 20  # rows in the terminal; the files have them all


@dataclass
class Job:
    """A run: what was chosen for it, and what came of it."""

    run: Run
    choices: dict[str, Any]
    status: str
    objective: dict[str, Any]
    value: float | None
    epochs: int | None
    seconds: float | None
    error: str


@dataclass
class Row:
    """Runs that differ in nothing but the seed."""

    choices: dict[str, Any]
    jobs: list[Job]

    @property
    def values(self) -> list[float]:
        """The objectives of those that have one."""
        return [job.value for job in self.jobs if job.value is not None]

    def cells(self) -> dict[str, Any]:
        """What the files say: choices, objective (mean, deviation, number), epochs, seconds, states."""
        states = [job.status for job in self.jobs]
        return {
            **self.choices,
            "objective": statistics.fmean(self.values) if self.values else None,
            "deviation": statistics.stdev(self.values) if len(self.values) > 1 else None,
            "n": len(self.values),
            "epochs": _mean([job.epochs for job in self.jobs]),
            "seconds": _mean([job.seconds for job in self.jobs]),
            "status": ", ".join(
                f"{states.count(state)} {state}" if len(states) > 1 else state for state in dict.fromkeys(states)
            ),
        }


def read_job(run: Run) -> tuple[Job, dict[str, Any]]:
    """A run directory as a `Job` with the overrides of its first start as choices, and its flat configuration."""
    config = run.config
    typed = (override.lstrip("+~").partition("=") for override in run.overrides)
    result = run.result or {}
    objective = result.get("objective") or config["objective"] or {}
    error = result.get("error")
    job = Job(
        run=run,
        choices={key: value for key, _, value in typed if key.split(".")[0] not in (*CONTROL, "sweep")},
        status=result.get("status") or ("running" if run.is_locked else "interrupted"),
        objective=objective,
        value=objective.get("value"),
        epochs=result.get("epochs"),
        seconds=result.get("seconds"),
        error=" ".join(f"{error['type']}: {error['message']}".split()) if error else "",
    )
    return job, dict(flatten(config))


def read_jobs(directory: Path) -> list[Job]:
    """The runs in or below a directory, by path; a run has a choice for each key that any of them was given.

    Raises:
        UserError: There is none.
    """
    pairs = [read_job(Run(path.parent)) for path in sorted(directory.rglob("config.yaml"))]
    if not pairs:
        raise UserError(f"{directory}: there is no run in or below it")
    keys = list(dict.fromkeys(key for job, _ in pairs for key in job.choices))
    for job, flat in pairs:
        job.choices = {key: flat.get(key, job.choices.get(key)) for key in keys}
    return [job for job, _ in pairs]


def merge(jobs: Sequence[Job]) -> tuple[list[str], list[Row]]:
    """The choices that vary, but for the seed, and a row for each of their combinations, best first."""
    keys = [key for key in jobs[0].choices if len({str(job.choices[key]) for job in jobs}) > 1]
    shown = [key for key in keys if key != "seed"]
    rows: dict[str, Row] = {}
    for job in jobs:
        choices = {key: job.choices[key] for key in shown}
        rows.setdefault(str(choices), Row(choices, [])).jobs.append(job)
    worst = -math.inf if _mode(jobs) == "max" else math.inf
    value = {id(row): row.cells()["objective"] for row in rows.values()}
    ordered = sorted(
        rows.values(),
        key=lambda row: worst if value[id(row)] is None or math.isnan(value[id(row)]) else value[id(row)],
        reverse=_mode(jobs) == "max",
    )
    return shown, ordered


def best(jobs: Sequence[Job]) -> Job | None:
    """The run with the best objective; None if none has ended well."""
    ended = [
        job for job in jobs if job.status == "finished" and job.value is not None and not math.isnan(job.value)
    ]
    if not ended:
        return None
    choose = max if _mode(jobs) == "max" else min
    return choose(ended, key=lambda job: job.value or 0.0)


def summarize(directory: Path) -> None:
    """Write `summary.csv`, `summary.md` and `summary.png` for the runs below a directory, and print the table.

    Raises:
        UserError: There is no run.
    """
    jobs = read_jobs(directory)
    keys, rows = merge(jobs)
    cells = [row.cells() for row in rows]
    with (directory / "summary.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(cells[0]))
        table.writeheader()
        table.writerows(cells)
    text = _markdown(jobs, keys, cells)
    (directory / "summary.md").write_text(text)
    points = [(job.choices, job.value) for job in jobs if job.value is not None]
    draw(points, jobs[0].objective.get("metric", "objective"), directory / "summary.png")
    _print(directory, jobs, keys, cells)


def _texts(cells: dict[str, Any], keys: Sequence[str]) -> list[str]:
    value, deviation = cells["objective"], cells["deviation"]
    objective = "" if value is None else f"{value:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")
    numbers = ["" if cells[name] is None else f"{cells[name]:.4g}" for name in ("epochs", "seconds")]
    choices = [f"{cells[key]:.4g}" if isinstance(cells[key], float) else str(cells[key]) for key in keys]
    return [*choices, objective, str(cells["n"]), *numbers, cells["status"]]


def _head(jobs: Sequence[Job], keys: Sequence[str]) -> list[str]:
    return [*keys, jobs[0].objective.get("metric", "objective"), "n", "epochs", "seconds", "status"]


def _markdown(jobs: Sequence[Job], keys: Sequence[str], cells: Sequence[dict[str, Any]]) -> str:
    head = _head(jobs, keys)
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(_texts(row, keys))} |" for row in cells]
    return "\n".join([*lines, "", *_remarks(jobs), ""])


def _remarks(jobs: Sequence[Job]) -> list[str]:
    lines = []
    if winner := best(jobs):
        lines.append(f"Best: {winner.run.directory.name}. Its look at the test set:")
        lines.append(f"    python -m leyden.evaluate run={winner.run.directory}")
    for state in ("failed", "pruned", "running", "interrupted"):
        some = [job for job in jobs if job.status == state]
        lines += [f"{state}: {job.run.directory.name}{f' ({job.error})' if job.error else ''}" for job in some]
    return lines


def _print(directory: Path, jobs: Sequence[Job], keys: Sequence[str], cells: Sequence[dict[str, Any]]) -> None:
    last = [key.rpartition(".")[2] for key in keys]  # short where it is clear
    heads = [name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)]
    table = Table(*_head(jobs, heads), box=None)
    for row in cells[:NUM_SHOWN]:
        table.add_row(*_texts(row, keys))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    if len(cells) > NUM_SHOWN:
        console.print(f"... and {len(cells) - NUM_SHOWN} more rows")
    console.print("\n".join([*_remarks(jobs), f"written: {directory}/summary.csv, summary.md, summary.png"]))


def _mode(jobs: Sequence[Job]) -> str:
    return str(jobs[0].objective.get("mode", "max"))


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None


def main() -> None:
    """The command: `python -m leyden.summarize DIR`."""
    parser = argparse.ArgumentParser(prog="python -m leyden.summarize", description=__doc__)
    parser.add_argument("directory", type=Path, help="any folder with runs in or below it, as outputs/sweeps/NAME")
    try:
        summarize(parser.parse_args().directory)
    except (UserError, OSError, json.JSONDecodeError) as error:
        raise SystemExit(f"leyden: {error}") from None


if __name__ == "__main__":
    main()
