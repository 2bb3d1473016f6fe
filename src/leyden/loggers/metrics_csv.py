"""The curves of a run as a table, `metrics.csv` in its directory."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_only

from leyden.run.lock import check_held
from leyden.run.result import HEADER, rows, write_rows


class MetricsCSV(Logger):
    """Appends a line `step,metric,value` for each value logged; a step is an optimizer step.

    A resumed run drops the lines from its checkpoint's step on, so that no point is there twice.

    Args:
        save_dir: The run directory.
        purge_step: The step that the run goes on from; 0 for a new one.
    """

    def __init__(self, *, save_dir: str, purge_step: int) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.purge_step = purge_step
        self._started = False

    @property
    def experiment(self) -> Any:
        """Take whatever a module adds to the experiment of each logger, as pictures; a table has no place for it."""
        return DummyLogger().experiment

    @property
    def name(self) -> str:
        """Nothing: the file lies in the run directory itself."""
        return ""

    @property
    def version(self) -> str:
        """Nothing, as `name`."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration lies beside the file."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append the values."""
        if not self._started:
            self._start()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            check_held(self.path.parent)  # now: what is open stays that of this run
            table = csv.writer(file)
            if file.tell() == 0:  # somebody has deleted it
                table.writerow(HEADER)
            table.writerows((step, name, value) for name, value in metrics.items() if name != "epoch")

    def _start(self) -> None:
        """Write the header and the lines that stay."""
        self._started = True
        write_rows(self.path, [row for row in rows(self.path) if int(row[0]) < self.purge_step])
