"""MLflow logger for curves, configuration and pictures."""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from leyden.run import lock


class MLflow(MLFlowLogger):
    """Logs to an MLflow run, and continues in it when the run resumes.

    The file `mlflow_run_id.txt` in the run directory holds the MLflow run's ID. MLflow can't delete points, so a
    resumed run skips the points that it would log again; they are equal.

    Args:
        save_dir: The run directory.
        tracking_uri: URI of a server, or of a file: `sqlite:///PATH`.
        experiment_name: Name of the MLflow experiment.
    """

    needs = "mlflow"

    def __init__(self, *, save_dir: str, tracking_uri: str, experiment_name: str) -> None:
        directory = Path(save_dir)
        self.id_file = directory / "mlflow_run_id.txt"
        self.is_resumed = self.id_file.exists()
        self._last_steps: dict[str, int] = {}
        self._lock: Callable[[], Any] = contextlib.nullcontext
        pictures = None  # the server's default location
        if tracking_uri.startswith("sqlite:///"):  # two concurrent jobs must not both create the tables
            database = Path(tracking_uri.removeprefix("sqlite:///"))
            database.parent.mkdir(parents=True, exist_ok=True)
            pictures = database.with_name("mlflow_artifacts").absolute().as_uri()  # not in the working directory
            self._lock = functools.partial(lock.hold, database.with_suffix(".lock"))
        with self._lock():
            super().__init__(
                experiment_name=experiment_name,
                run_name=directory.name,
                artifact_location=pictures,
                tracking_uri=tracking_uri,
                run_id=self.id_file.read_text(encoding="utf-8") if self.is_resumed else None,
            )

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """MLflow's client; the first access creates the MLflow run."""
        with self._lock():
            client = super().experiment
        if not self.id_file.exists():
            self.id_file.write_text(str(self._run_id), encoding="utf-8")
        return client

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log each metric, unless it already has a point at this step or a later one."""
        step = step or 0
        new = {name: value for name, value in metrics.items() if name != "epoch" and step > self._last_step(name)}
        self._last_steps.update(dict.fromkeys(new, step))
        if new:
            super().log_metrics(new, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Log the configuration at the first start; MLflow allows no changes later, such as more epochs."""
        if not self.is_resumed:
            super().log_hyperparams(params)

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int) -> None:
        """Save images as artifacts, named by step, so that a resumed run overwrites the same file."""
        for number, image in enumerate(images):
            self.experiment.log_image(
                self.run_id, image, artifact_file=f"{key}/{step}{f'_{number}' * (number > 0)}.png"
            )

    def _last_step(self, name: str) -> int:
        if name not in self._last_steps:
            points = self.experiment.get_metric_history(self.run_id, name) if self.is_resumed else []
            self._last_steps[name] = max((point.step for point in points), default=-1)
        return self._last_steps[name]
