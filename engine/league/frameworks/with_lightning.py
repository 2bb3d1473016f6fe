"""Lightning alone: a checkpoint at each epoch's end, or, with a stateful loader, every few steps.

python with_lightning.py DIR SCENARIO [--stateful]
"""

import sys

import lightning as L
import module
import task
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader


def main(folder, scenario, is_stateful):
    L.seed_everything(0)
    options = module.options_of(scenario)
    how = {"every_n_epochs": 1}
    make = DataLoader
    if is_stateful:
        from torchdata.stateful_dataloader import StatefulDataLoader as make  # noqa: N813

        how = {
            "every_n_train_steps": task.EVERY_N_STEPS,
            "save_on_exception": scenario == "sigterm",
        }
    options["callbacks"] += [module.Marks(), ModelCheckpoint(folder, save_last=True, **how)]
    trainer = L.Trainer(**options)
    net = module.Module(scenario)
    net.on_train_batch_end = lambda *_: None  # the marks disturb
    loader = task.make_loader(scenario, make, samples=task.NoisySamples)
    trainer.fit(net, loader, task.make_val_loader(scenario), ckpt_path="last")
    task.mark("end", net)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], "--stateful" in sys.argv)
