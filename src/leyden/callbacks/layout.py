"""Which curves share a chart."""

import re
from collections.abc import Sequence
from typing import Any

import lightning as L

from leyden.callbacks.showing import Showing
from leyden.callbacks.writer import tensorboard_writer
from leyden.tasks.task import Task

LABELS = {"acc": "accuracy"}
# Regular expressions of tags, as TensorBoard's custom scalars take them.
OPTIMIZATION = {
    "loss of the last steps": ["Multiline", ["^train/loss_step$"]],
    "gradient norm": ["Multiline", ["^grad_norm$"]],
    "learning rate": ["Multiline", ["^lr(_[0-9]+)?$"]],
}


def layout(names: Sequence[str]) -> dict[str, Any]:
    """One chart per metric, with all splits in it; and what tells of the optimization."""
    learning = {
        LABELS.get(name, name): [
            "Multiline",
            [f"^{split}/{re.escape(name)}$" for split in ("train", "val", "test")],
        ]
        for name in names
    }
    return {"learning": learning, "optimization": OPTIMIZATION}


class Layout(Showing):
    """Lets training and validation share a chart in TensorBoard's custom scalars."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write it, once for all starts."""
        if trainer.global_step == 0 and (writer := tensorboard_writer(trainer)):
            logged = pl_module.metric_names if isinstance(pl_module, Task) else {"train/loss"}
            names = sorted({name.partition("/")[2] for name in logged}, key=lambda name: (name != "loss", name))
            writer.add_custom_scalars(layout(names))
