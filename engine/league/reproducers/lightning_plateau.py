"""Lightning's checkpoint at an epoch's end lacks what ReduceLROnPlateau learns at that epoch's end."""

import tempfile

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader


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


saved = ModelCheckpoint(tempfile.mkdtemp(), save_last=True)
for title, epochs, path in [("3 epochs", 3, None), ("2 epochs", 2, None), ("resumed", 3, "last")]:
    net = Net()
    trainer = L.Trainer(max_epochs=epochs, callbacks=saved, logger=False)
    trainer.fit(net, DataLoader(torch.ones(4, 1)), ckpt_path=path)
    print(f"{title}: lr", net.optimizers().param_groups[0]["lr"])
