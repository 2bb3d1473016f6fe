"""Which curves share a chart."""

import lightning as L

from leyden.callbacks.sparse import Sparse
from leyden.callbacks.writer import tensorboard_writer

# Regular expressions of tags, as TensorBoard's custom scalars take them.
LAYOUT = {
    "learning": {
        "loss": ["Multiline", ["^train/loss$", "^val/loss$", "^test/loss$"]],
        "accuracy": ["Multiline", ["^train/acc$", "^val/acc$", "^test/acc$"]],
    },
    "optimization": {
        "loss of the last steps": ["Multiline", ["^train/loss_step$"]],
        "gradient norm": ["Multiline", ["^grad_norm$"]],
        "learning rate": ["Multiline", ["^lr(_[0-9]+)?$"]],
    },
}


class Layout(Sparse):
    """Lets training and validation share a chart in TensorBoard's custom scalars."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write it, once for all starts."""
        if trainer.global_step == 0 and (writer := tensorboard_writer(trainer)):
            writer.add_custom_scalars(LAYOUT)
