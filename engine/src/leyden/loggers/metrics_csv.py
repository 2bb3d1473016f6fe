"""Logger that writes a run's metrics to `metrics.csv` in its directory."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_only

from leyden.run.lock import check_held
from leyden.run.result import HEADER, read_rows, write_rows


class MetricsCSV(Logger):
    """Appends a line `step,metric,value` for each logged value; the step counts optimizer steps.

    When a run resumes, the lines from its checkpoint's step on are deleted, so that no point is duplicated.

    Args:
        save_dir: The run directory.
        purge_step: The step from which the run resumes; 0 for a new run.
    """

    def __init__(self, *, save_dir: str, purge_step: int) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.purge_step = purge_step
        self._started = False

    @property
    def experiment(self) -> Any:
        """Dummy that ignores what modules add to a logger's experiment, such as images."""
        return DummyLogger().experiment

    @property
    def name(self) -> str:
        """Empty name, since the file is in the run directory itself."""
        return ""

    @property
    def version(self) -> str:
        """Empty version, since the file is in the run directory itself."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing; the configuration is saved beside the file."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append the values."""
        if not self._started:
            self._start()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            check_held(self.path.parent)  # checked while the file is open, so that it stays this run's file
            table = csv.writer(file)
            if file.tell() == 0:  # the file was deleted
                table.writerow(HEADER)
            table.writerows((step, name, value) for name, value in metrics.items() if name != "epoch")

    def _start(self) -> None:
        """Write the header and the lines to keep."""
        self._started = True
        write_rows(self.path, [row for row in read_rows(self.path) if int(row[0]) < self.purge_step])
