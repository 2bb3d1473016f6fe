"""Composer, resumed by autoresume: python with_composer.py DIR SCENARIO."""

import sys

import task
import torch
from composer import Callback, Trainer
from composer.algorithms import EMA
from composer.callbacks import EarlyStopper
from composer.models import ComposerModel
from composer.utils import dist, reproducibility
from torch.nn.functional import mse_loss
from torchmetrics import MeanSquaredError


class Net(ComposerModel):
    def __init__(self, scenario):
        super().__init__()
        self.net = task.make_net(scenario)

    def forward(self, batch):
        return self.net(batch[0])

    def loss(self, outputs, batch):
        return mse_loss(outputs, batch[1])

    def get_metrics(self, is_train=False):
        return {} if is_train else {"loss": MeanSquaredError()}

    def update_metric(self, batch, outputs, metric):
        metric.update(outputs, batch[1])


class Marks(Callback):
    def batch_end(self, state, logger):
        task.mark(state.timestamp.batch.value, state.model, state.optimizers, state.batch)


def main(folder, scenario):
    if scenario == "plateau":
        task.cannot("Composer's schedules know no metric")
    reproducibility.seed_all(0)
    net = Net(scenario)
    loader = task.make_loader(scenario, make_sampler=dist.get_sampler)
    stops = [EarlyStopper("loss", "eval", patience=2)] if scenario == "early" else []
    num_steps = task.num_epochs(scenario) * task.NUM_BATCHES
    trainer = Trainer(
        model=net, train_dataloader=loader, eval_dataloader=task.make_val_loader(scenario),
        algorithms=[EMA(half_life="10ba")] if scenario == "ema" else [],
        optimizers=torch.optim.Adam(net.parameters(), lr=0.01), seed=0, device="cpu",
        callbacks=[Marks(), *stops], max_duration=f"{num_steps}ba",
        device_train_microbatch_size=2 if scenario == "accumulate" else None, progress_bar=False,
        save_folder=folder, save_interval=f"{task.EVERY_N_STEPS}ba", run_name="league", autoresume=True,
    )  # fmt: skip
    trainer.fit()
    task.mark("end", net)


if __name__ == "__main__":
    main(*sys.argv[1:])
