"""Lightning alone, with a checkpoint every few steps, and "last" to resume from; or with `Exact`: python lightning_alone.py DIR [--exact]."""

import sys

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from torch.utils.data import DataLoader

from leyden import Exact
from leyden.exact import mark


class Mark(L.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        mark(trainer.global_step, pl_module, trainer.optimizers, batch)


def main(folder, is_exact):
    L.seed_everything(0)
    loader = DataLoader(RandomDataset(32, 60), 6, shuffle=True)
    exact = Exact(folder, every_n_steps=8)
    saves = [Mark(), ModelCheckpoint(folder, every_n_train_steps=8, save_last=True)]
    trainer = L.Trainer(
        max_epochs=4,
        callbacks=[exact] if is_exact else saves,
        logger=False,
        enable_checkpointing=not is_exact,
        enable_progress_bar=False,
        accelerator="cpu",
    )
    if is_exact:
        exact.fit(trainer, BoringModel(), loader)
    else:
        trainer.fit(BoringModel(), loader, ckpt_path="last")


if __name__ == "__main__":
    main(sys.argv[1], "--exact" in sys.argv)
