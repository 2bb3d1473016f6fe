"""A resumed Trainer begins its random numbers anew: shuffling and dropout part from the undisturbed run."""

import tempfile

import lightning as L
import torch
from torch.utils.data import DataLoader


class Net(L.LightningModule):
    def configure_model(self):
        self.net = torch.nn.Linear(1, 1)

    def training_step(self, batch):
        print(int(batch), end=" ")
        return self.net(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


folder = tempfile.mkdtemp()
quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
for title, epochs, is_resumed in [("2 epochs", 2, 0), ("\n1 epoch", 1, 0), ("\nresumed", 2, 1)]:
    print(title, end=": ")
    L.seed_everything(0, verbose=False)
    trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", **quiet)
    data = DataLoader(torch.arange(8.0).reshape(8, 1), shuffle=True)
    trainer.fit(Net(), data, ckpt_path=f"{folder}/epoch.ckpt" if is_resumed else None)
    trainer.save_checkpoint(f"{folder}/epoch.ckpt")
