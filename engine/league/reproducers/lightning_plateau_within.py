"""Resumed within an epoch, Lightning leaves out the step of ReduceLROnPlateau at that epoch's end."""

import tempfile

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torchdata.stateful_dataloader import StatefulDataLoader


class Net(L.LightningModule):
    def configure_model(self):
        self.net = torch.nn.Linear(1, 1)

    def training_step(self, batch):
        self.log("loss", float(self.current_epoch), on_step=False, on_epoch=True)
        return self.net(batch).mean()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "loss"}}


saved = ModelCheckpoint(tempfile.mkdtemp(), every_n_train_steps=6, save_top_k=-1)
for path in None, f"{saved.dirpath}/epoch=1-step=6.ckpt":
    net = Net()
    trainer = L.Trainer(max_epochs=3, callbacks=saved, logger=False, accelerator="cpu")
    trainer.fit(net, StatefulDataLoader(torch.ones(4, 1)), ckpt_path=path)
    print("resumed: lr" if path else "undisturbed: lr", net.optimizers().param_groups[0]["lr"])
