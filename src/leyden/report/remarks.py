"""What is said below a table: which run is best, what to do next, which runs have not finished."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from leyden.config.objective import Objective
from leyden.config.terminal import typed
from leyden.report.record import Record, position


def remarks(
    records: Sequence[Record], aims: Sequence[Objective], winners: Sequence[Record], directory: Path
) -> list[str]:
    """The lines.

    Args:
        records: All runs.
        aims: What they were selected on.
        winners: The best run, or of several objectives the Pareto front.
        directory: Where the runs are.
    """
    lines = []
    testable = [winner for winner in winners if winner.result is None or winner.result.can_be_tested]
    if len(aims) == 1 and winners:
        lines.append(f"Best: {winners[0].run.directory.name}.{' Its test evaluation:' if testable else ''}")
    elif winners:
        names = ", ".join(f"{aim.metric} ({aim.mode})" for aim in aims)
        then = " The test evaluation of one:" if testable else ""
        lines.append(f"Pareto front of {names}: {len(winners)} of {len(records)} runs.{then}")
    for winner in testable:
        reached = ", ".join(f"{value:.6g}" for value in winner.values)
        lines.append(
            f"    python -m leyden.evaluate {typed('run', winner.run.directory)}"
            + f"  # {reached}" * (len(aims) > 1)
        )
    if (study := directory / "study.journal").is_file():
        lines.append(f"The search in a browser: optuna-dashboard {shlex.quote(str(study.absolute()))}")
    for state in ("failed", "diverged", "pruned", "queued", "running", "interrupted"):
        for record in records:
            if record.status == state:
                more = record.error or ("" if state in ("diverged", "pruned") else position(record))
                lines.append(f"{state}: {record.run.directory.name}{f' ({more})' if more else ''}")
    return lines
