"""Lightning alone, with a checkpoint every few steps, and "last" to resume from: python lightning_alone.py DIR."""

import sys

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from torch.utils.data import DataLoader

from leyden.exact import mark


class Mark(L.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        mark(trainer.global_step, pl_module, trainer.optimizers, batch)


def main(folder):
    L.seed_everything(0)
    loader = DataLoader(RandomDataset(32, 60), 6, shuffle=True)
    callbacks = [Mark(), ModelCheckpoint(folder, every_n_train_steps=8, save_last=True)]
    trainer = L.Trainer(
        max_epochs=4, callbacks=callbacks, logger=False, enable_progress_bar=False, accelerator="cpu"
    )
    trainer.fit(BoringModel(), loader, ckpt_path="last")


if __name__ == "__main__":
    main(sys.argv[1])
