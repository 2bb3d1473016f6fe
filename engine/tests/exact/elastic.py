"""A training on virtual ranks, as a program: `python -m tests.exact.elastic KINDS PROCESSES RANKS FOLDER [KILL_AT]`."""

import functools
import os
import random
import signal
import sys
import warnings
from pathlib import Path

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
import torchmetrics
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, WeightedRandomSampler

from leyden.exact import Elastic, Exact
from leyden.exact.digest import digest_of_content


class Noisy(Dataset):
    """Samples that are drawn anew each time, by all three sources of random numbers."""

    def __init__(self, num, seed):
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(num, 16, generator=generator)
        self.classes = torch.randint(0, 4, (num,), generator=generator)

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        noise = 0.1 * torch.randn(16) + random.random() + np.random.rand()
        return self.inputs[index] + noise, self.classes[index]


class Base(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = self.made()

    def made(self):
        return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", F.cross_entropy(self.net(batch[0]), batch[1]))
        self.log("val/num", float(len(batch[0])), reduce_fx="sum")

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), 1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=60)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Convolution(Base):
    def made(self):
        body = (nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        return nn.Sequential(nn.Unflatten(1, (1, 4, 4)), *body, nn.Linear(128, 4))


class Transformer(Base):
    def made(self):
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.3, batch_first=True)
        body = (nn.Linear(4, 16), layer, nn.Flatten())
        return nn.Sequential(nn.Unflatten(1, (4, 4)), *body, nn.Linear(64, 4))


class Stranger(Base):
    """It has metrics, attributes, buffers, generators, a slow copy of weights, an unused layer, and draws in each hook."""

    def __init__(self):
        super().__init__()
        self.mean = torchmetrics.MeanMetric()
        self.acc = torchmetrics.Accuracy("multiclass", num_classes=4)
        self.errors = torchmetrics.MetricCollection([torchmetrics.MeanSquaredError()])
        self.rng, self.seen, self.outs, self.factor, self.slow = (
            np.random.default_rng(),
            0,
            [],
            1,
            0,
        )
        self.copy, self.unused = nn.Linear(32, 4).requires_grad_(False), nn.Linear(3, 3)
        self.register_buffer("level", torch.zeros(16))
        self.register_buffer("late", torch.zeros(1))

    def made(self):
        body = (nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4))
        return nn.Sequential(nn.Linear(16, 32), *body)

    def on_train_epoch_start(self):
        self.factor = 1 + random.random() / 10

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0] + 0.01 * torch.randn_like(batch[0]), batch[1]

    def training_step(self, batch, batch_idx):
        self.seen += 1
        self.level = 0.9 * self.level + 0.1 * batch[0].mean(0)
        if self.global_step > 2:
            self.late += batch[0].mean()
        outputs = self.net(batch[0] + self.level + self.late)
        loss = F.cross_entropy(outputs, batch[1]) * self.factor * (1 + self.rng.random() / 100)
        loss = loss * (1 + self.seen / 1000 + self.slow / 100) + self.copy.weight.sum() / 1000
        self.slow = 0.9 * self.slow + 0.1 * loss.item()
        self.mean(loss.detach())
        self.errors.update(outputs.detach()[:, 0], batch[0][:, 0])
        self.log("train/mean", self.mean, on_epoch=True, on_step=False)
        self.log("train/loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        return {"loss": loss}

    def on_train_batch_end(self, outputs, batch, batch_idx):
        with torch.no_grad():
            self.copy.weight.lerp_(self.net[-1].weight, 0.1)
        self.log("train/sum", outputs["loss"] + batch[0].sum())

    def on_before_optimizer_step(self, optimizer):
        for each in self.net.parameters():
            each.grad.mul_(0.99)

    def on_train_epoch_end(self):
        self.log_dict(self.errors.compute())
        self.errors.reset()

    def validation_step(self, batch, batch_idx):
        outputs = self.net(batch[0]) + torch.rand(1) / 100
        self.late = self.late + outputs.mean() / 1000
        self.acc(outputs, batch[1])
        self.outs.append(F.cross_entropy(outputs, batch[1]))
        self.log("val/acc", self.acc)
        self.log("val/loss", self.outs[-1])
        self.log("val/num", float(len(batch[0])), reduce_fx="sum")

    def on_validation_epoch_end(self):
        self.log("val/outs", torch.stack(self.outs).mean(), sync_dist=True)
        self.outs.clear()


class Branches(Base):
    """A layer is used by some batches alone, and another one is frozen later."""

    def __init__(self):
        super().__init__()
        self.seldom, self.late = nn.Linear(16, 4), []

    def training_step(self, batch, batch_idx):
        inputs, classes = batch
        outputs = self.net(inputs)
        if inputs[0, 0] > inputs[1, 0]:
            outputs = outputs + self.seldom(inputs)
        loss = F.cross_entropy(outputs, classes)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def on_train_batch_start(self, batch, batch_idx):
        self.net[0].requires_grad_(self.global_step < 3)

    def on_train_epoch_start(self):
        self.net[2].bias.requires_grad_(self.current_epoch == 0)

    def on_before_backward(self, loss):
        self.log("train/before", loss, on_step=False, on_epoch=True)


class Kill(L.Callback):
    """Kills one process in a step, while the others wait for its gradients."""

    def __init__(self, step):
        self.step = step

    def on_before_backward(self, trainer, *args):
        if (
            trainer.global_step == self.step
            and trainer.global_rank == self.step % trainer.world_size
        ):
            os.kill(os.getpid(), signal.SIGKILL)


KINDS = {
    "perceptron": Base,
    "convolution": Convolution,
    "transformer": Transformer,
    "stranger": Stranger,
}


def options(processes, ranks, **more):
    """What a trainer is made with, but for its callbacks; with fewer than no virtual ranks, as DDP."""
    kind = functools.partial(Elastic, ranks) if ranks > 0 else DDPStrategy
    accelerator = os.environ.get("ACCELERATOR", "cpu")
    strategy = kind(process_group_backend="gloo" if accelerator == "cpu" else None)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    quiet |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "log_every_n_steps": 2}
    made = {"devices": processes, "strategy": strategy, "accelerator": accelerator}
    made |= {"max_epochs": 2, "gradient_clip_val": 0.5}
    if accelerator != "cpu":
        made["deterministic"] = True
    return {**made, **quiet, **more}


# Each a module, and what a trainer and its loader of training have besides, with the samples of a virtual rank.
CASES = {kind: (module, {}, {}, 43) for kind, module in KINDS.items()} | {
    "branches": (Branches, {}, {}, 43),
    "few": (Stranger, {"max_epochs": 4}, {}, 2),
    "reloaded": (Stranger, {"reload_dataloaders_every_n_epochs": 1}, {}, 19),
    "rounded": (Transformer, {"precision": "bf16-mixed"}, {}, 19),
    "workers": (Stranger, {}, {"num_workers": 1, "generator": torch.Generator()}, 19),
    "weighted": (Stranger, {"limit_train_batches": 2, "limit_val_batches": 0.5}, {}, 43),
    "checked": (Stranger, {"num_sanity_val_steps": 2}, {}, 19),
    "looked": (Transformer, {"num_sanity_val_steps": 2}, {}, 43),
    "accumulated": (Stranger, {"accumulate_grad_batches": 2, "val_check_interval": 2}, {}, 43),
}


def train(kind, processes, ranks, folder, kill_at=-1):
    made, more, of_loader, num = CASES[kind]
    exact = Exact(folder, seed=1, every_n_steps=2)
    module = made()
    callbacks = [exact, Kill(kill_at)]
    trainer = L.Trainer(callbacks=callbacks, **options(processes, ranks, **more))
    num_ranks = abs(ranks)
    samples = Noisy(num * num_ranks - 1, 0)
    # DDP validates some samples twice, and draws for them, unless it can divide them.
    validated = Noisy(max(num // 4, 1) * num_ranks + (ranks > 2), 1)
    if kind == "weighted":
        sampler = WeightedRandomSampler(torch.arange(len(samples)) + 1.0, len(samples))
    else:
        sampler = RandomSampler(samples)
    train = DataLoader(samples, 8, sampler=sampler, **of_loader)
    exact.fit(trainer, module, train, DataLoader(validated, 8))
    if trainer.is_global_zero:
        weights = [digest_of_content(each) for each in module.state_dict().values()]
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        Path(folder, "end.txt").write_text(repr((weights, sorted(metrics.items()))))


def main(kinds, processes, ranks, folder, kill_at=-1):
    warnings.simplefilter("ignore")
    for kind in kinds.split(","):
        train(kind, int(processes), int(ranks), Path(folder, kind), int(kill_at))


if __name__ == "__main__":
    main(*sys.argv[1:])
