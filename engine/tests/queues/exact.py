"""A training of its own by `Exact`, as a job's program: `exact.py FOLDER`."""

import os
import sys
import time

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

from leyden.exact import Exact


class Slow(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        time.sleep(0.05)
        print("step", self.trainer.global_step, flush=True)
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


if __name__ == "__main__":
    run = Exact(os.path.join(sys.argv[1], os.environ["SLURM_ARRAY_TASK_ID"]))  # noqa: PTH118
    data = DataLoader(TensorDataset(torch.randn(200, 4)), batch_size=2)
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    run.fit(L.Trainer(max_epochs=1, accelerator="cpu", callbacks=[run], **off), Slow(), data)
