"""Lightning alone, with a checkpoint every few steps, and "last" to resume from; or with `Exact`: python lightning_alone.py DIR [--exact]."""

import sys

import lightning as L
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from torch.utils.data import DataLoader

from leyden import Exact
from leyden.exact import mark


def main(folder, is_exact):
    L.seed_everything(0)
    loader = DataLoader(RandomDataset(32, 60), 6, shuffle=True)
    exact = Exact(folder, every_n_steps=8)
    marks = LambdaCallback(
        on_train_batch_end=lambda it, module, _, batch, __: mark(
            it.global_step, module, it.optimizers, batch
        )
    )
    callbacks = (
        [exact]
        if is_exact
        else [marks, ModelCheckpoint(folder, every_n_train_steps=8, save_last=True)]
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": not is_exact}
    trainer = L.Trainer(max_epochs=4, callbacks=callbacks, accelerator="cpu", **quiet)
    if is_exact:
        exact.fit(trainer, BoringModel(), loader)
    else:
        trainer.fit(BoringModel(), loader, ckpt_path="last")


if __name__ == "__main__":
    main(sys.argv[1], "--exact" in sys.argv)
