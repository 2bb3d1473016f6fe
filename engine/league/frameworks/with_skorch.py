"""skorch with Checkpoint, resumed at its last epoch: python with_skorch.py DIR SCENARIO."""

import sys
from pathlib import Path

import task
import torch
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback, Checkpoint, EarlyStopping, LRScheduler
from skorch.helper import predefined_split
from torch.optim.lr_scheduler import ReduceLROnPlateau


class Marks(Callback):
    """Marks of each batch."""

    def on_epoch_begin(self, net, **_):
        self.batch = 0

    def on_batch_end(self, net, batch, training, **_):
        if training:
            self.batch += 1
            step = (len(net.history) - 1) * task.NUM_BATCHES + self.batch
            task.mark(step, net.module_, net.optimizer_, batch)


def main(folder, scenario):
    missing = {
        "ema": "skorch has no average of weights",
        "accumulate": "skorch has no accumulation; its questions show how to write it",
        "ddp": "skorch trains in one process, but for its mixin of accelerate",
        "stream": "skorch's epochs end with the loader",
    }
    if scenario in missing:
        task.cannot(missing[scenario])
    task.seed()
    saved = Checkpoint(monitor=None, dirname=folder)
    callbacks = [("marks", Marks()), ("saved", saved)]
    if scenario == "plateau":
        policy = LRScheduler(ReduceLROnPlateau, monitor="valid_loss", patience=1)
        callbacks.insert(0, ("schedule", policy))
    if scenario == "early":
        callbacks.append(("stop", EarlyStopping(patience=2)))
    val = task.Samples(scenario, is_validation=True)
    net = NeuralNetRegressor(
        task.make_net(scenario), optimizer=torch.optim.Adam, lr=0.01, batch_size=task.BATCH_SIZE,
        iterator_train__shuffle=scenario in ("shuffle", "workers"), callbacks=callbacks, verbose=0,
        iterator_train__num_workers=2 if scenario == "workers" else 0,
        train_split=predefined_split(val) if scenario in task.WITH_VALIDATION else None,
    ).initialize()  # fmt: skip
    if (Path(folder) / "params.pt").exists():
        net.load_params(checkpoint=saved)
    left = task.num_epochs(scenario) - len(net.history)
    net.partial_fit(task.Samples(scenario), y=None, epochs=left)
    task.mark("end", net.module_)


if __name__ == "__main__":
    main(*sys.argv[1:])
