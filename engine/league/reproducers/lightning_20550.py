"""Lightning #20550: a loader's state is not loaded where configure_optimizers asks for the steps."""

import tempfile

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torchdata.stateful_dataloader import StatefulDataLoader


class Net(L.LightningModule):
    asks = False

    def training_step(self, batch):
        seen.append(batch.item())

    def configure_optimizers(self):
        if self.asks:
            print("steps:", self.trainer.estimated_stepping_batches)


options = {"logger": False, "accelerator": "cpu", "enable_progress_bar": False}
saved = ModelCheckpoint(tempfile.mkdtemp(), every_n_train_steps=2, save_top_k=-1)
path = f"{saved.dirpath}/epoch=0-step=2.ckpt"
for title, start, asks in (("undisturbed", None, 0), ("resumed", path, 0), ("resumed", path, 1)):
    Net.asks, seen = asks, []
    trainer = L.Trainer(max_epochs=1, callbacks=saved, **options)
    trainer.fit(Net(), StatefulDataLoader(torch.arange(4)), ckpt_path=start)
    print(f"{title}: {seen}")
