"""Lightning alone: a checkpoint at each epoch's end, or, with a stateful loader, every few steps.

python with_lightning.py DIR SCENARIO [--stateful]
"""

import os
import sys
from functools import partial

import lightning as L
import module
import task
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader


def main(folder, scenario, is_stateful):
    L.seed_everything(0)
    options = module.options_of(scenario)
    how = {"every_n_epochs": 1}
    make, make_sampler = DataLoader, None
    if is_stateful:
        from torchdata.stateful_dataloader import StatefulDataLoader as make  # noqa: N813
        from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

        how = {
            "every_n_train_steps": task.EVERY_N_STEPS,
            "save_on_exception": scenario == "sigterm",
        }
        if scenario == "ddp":  # else Lightning wraps the sampler, whose order no checkpoint has
            ranks = {"num_replicas": 2, "rank": int(os.environ.get("LOCAL_RANK", "0"))}
            make_sampler = partial(StatefulDistributedSampler, **ranks)
            options["use_distributed_sampler"] = False
    options["callbacks"] += [module.Marks(), ModelCheckpoint(folder, save_last=True, **how)]
    trainer = L.Trainer(**options)
    net = module.Module(scenario)
    net.on_train_batch_end = lambda *_: None  # the marks disturb
    loader = task.make_loader(scenario, make, task.NoisySamples, make_sampler)
    trainer.fit(net, loader, task.make_val_loader(scenario), ckpt_path="last")
    task.mark("end", net)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], "--stateful" in sys.argv)
