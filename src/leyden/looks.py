"""Who has looked at the test set, and how often."""

import csv
import json
from pathlib import Path

import filelock

from leyden.provenance import now
from leyden.run import Run


def record_look(outputs: str, run: Run, checkpoint: str, metrics: dict[str, float]) -> int:
    """Write an evaluation down in `test_set_looks.csv`; returns how often the experiment has looked."""
    path = Path(outputs) / "test_set_looks.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    name = run.config["name"]
    with filelock.FileLock(path.with_suffix(".lock")):
        new = not path.exists()
        with path.open("a", newline="") as file:
            table = csv.writer(file)
            if new:
                table.writerow(["time", "experiment", "run", "checkpoint", "metrics"])
            table.writerow([now(), name, run.directory, checkpoint, json.dumps(metrics)])
        with path.open(newline="") as file:
            return sum(row["experiment"] == name for row in csv.DictReader(file))
