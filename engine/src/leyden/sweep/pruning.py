"""Pruning: early stopping of unpromising trials of a search."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import lightning as L
from optuna.pruners import BasePruner

from leyden.assembly.instantiate import user_errors
from leyden.exact.stages import stages_of
from leyden.sweep.search import find_trial

NEEDS_OBJECTIVE = (
    "pruning needs one objective that validation logs, such as val/acc; ~callbacks/pruning "
    "removes it"
)


class Pruning(L.Callback):
    """Reports the objective to Optuna after each epoch, and stops the run if the pruner says so.

    It does nothing outside of a search. The study is in the parent folder of the run directory; the
    trial is found by the name of the run directory.

    Args:
        metric: The objective, a metric that validation logs.
        pruner: One of Optuna's pruners.
    """

    state_key = "Pruning"  # the key in checkpoints, independent of the class name

    def __init__(self, *, metric: Any, pruner: Any) -> None:
        if not isinstance(metric, str):
            raise ValueError(f"metric={metric}: {NEEDS_OBJECTIVE}")
        if not isinstance(pruner, BasePruner):
            raise ValueError(f"pruner={pruner}: must be one of Optuna's pruners")
        self.metric, self.pruner = metric, pruner
        self.pruned = False
        self._trial: Any = None
        self._is_in_search = False

    def check_logged(self, names: Collection[str]) -> None:
        """Check that validation logs the objective.

        Raises:
            ValueError: The objective is not in `names`.
        """
        if self.metric not in names:
            logs = ", ".join(sorted(names)) or "nothing"
            raise ValueError(f"metric={self.metric}: {NEEDS_OBJECTIVE}; validation logs {logs}")

    def state_dict(self) -> dict[str, Any]:
        """Return whether the run was pruned."""
        return {"pruned": self.pruned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore whether the run was pruned."""
        self.pruned = bool(state_dict["pruned"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the trial; stop at once if it was pruned before."""
        trainer.should_stop = trainer.should_stop or self.pruned
        directory = Path(trainer.default_root_dir)
        self._is_in_search = (directory.parent / "study.journal").exists()
        if trainer.is_global_zero and self._is_in_search:
            self._trial = find_trial(directory, self.pruner)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the objective at the end of an epoch, and stop if the trial should be pruned.

        Validations within an epoch are ignored, since they select no best epoch.
        """
        if trainer.state.fn != "fit" or not self._is_in_search or not trainer.is_last_batch:
            return
        stages = stages_of(trainer)
        found = stages.validation
        if self.metric not in found and stages.names.get(self.metric) == "val":
            return  # a module need not log it each time
        with user_errors("callbacks"):
            self.check_logged(found)
        epoch = trainer.current_epoch + 1
        prune = False
        if self._trial is not None:
            self._trial.report(found[self.metric].item(), epoch)
            prune = self._trial.should_prune()
        # Rank zero decides for all processes. After the last epoch, there is nothing to stop.
        if trainer.strategy.broadcast(prune) and epoch < (trainer.max_epochs or 0):
            self.pruned = trainer.should_stop = True
