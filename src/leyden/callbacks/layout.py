"""Which curves share a chart."""

import re
from collections.abc import Mapping
from typing import Any

import lightning as L

from leyden.callbacks.showing import Showing
from leyden.callbacks.stages import panel, stages_of
from leyden.callbacks.writer import tensorboard_writer
from leyden.tasks.task import Task

LABELS = {"acc": "accuracy"}


def layout(stages: Mapping[str, str]) -> dict[str, Any]:
    """One chart per metric, with all splits in it; and what tells of the optimization.

    Args:
        stages: The stage that logs each metric.
    """
    charts: dict[str, list[str]] = {}
    for stage in ("train", "val", "test"):
        for name in sorted(name for name in stages if stages[name] == stage):
            if name.removesuffix("_step") not in stages or not name.endswith("_step"):
                charts.setdefault(panel(name), []).append(f"^{re.escape(name)}$")
    learning = {LABELS.get(title, title): ["Multiline", charts[title]] for title in sorted(charts, key=_loss_first)}
    steps = sorted(name for name in stages if name.endswith("_step") and panel(name) == "loss")
    of_steps = {"loss of the last steps": ["Multiline", [f"^{re.escape(name)}$" for name in steps]]}
    optimization = {
        **(of_steps if steps else {}),
        "gradient norm": ["Multiline", ["^grad_norm(_[0-9]+)?$"]],
        "learning rate": ["Multiline", ["^lr(_[0-9]+)?$"]],
    }
    return {"learning": learning, "optimization": optimization}


def _loss_first(title: str) -> tuple[bool, str]:
    return title != "loss", title


class Layout(Showing):
    """Lets training and validation share a chart in TensorBoard's custom scalars.

    It is written once for all starts: at the first one, or, as a module that is no `Task` does not say what it logs, when
    its first epoch is over.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write that of a task."""
        if trainer.global_step == 0 and isinstance(pl_module, Task):
            stages = {name: stage for stage in ("train", "val", "test") for name in pl_module.names_in(stage)}
            self._write(trainer, {**stages, "train/loss_step": "train"})

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write that of another module after its first epoch, when all that this one has logged is known."""
        if trainer.current_epoch == 1 and not isinstance(pl_module, Task):
            self._write(trainer, stages_of(trainer).names)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write it after an only epoch."""
        self.on_train_epoch_start(trainer, pl_module)

    @staticmethod
    def _write(trainer: L.Trainer, stages: Mapping[str, str]) -> None:
        if writer := tensorboard_writer(trainer):
            writer.add_custom_scalars(layout(stages))
