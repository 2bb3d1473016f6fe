"""Work of real kinds, which no value in one place says: each of which says its kind."""

import copy
import random

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
import torchmetrics
from lightning.pytorch.callbacks import BaseFinetuning
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, RandomSampler, Subset, TensorDataset, random_split

from tests.strangers.generated import stranger_package
from tests.strangers.plain import BATCH, NUM, Plain, PlainData, Rows, network, rows, stacked

# Data


class Splits(PlainData):
    def setup(self, stage):
        order = np.random.default_rng().permutation(np.random.permutation(60)).tolist()
        random.shuffle(order)
        if stage == "fit":
            self.data, self.val, _ = random_split(Subset(Rows(60), order), [NUM, 10, 10])
        if stage == "test":
            self.test, _ = random_split(Subset(Rows(60, 2), order), [10, 50])


class SplitBySystem(PlainData):
    """It holds out by the system's entropy, which nobody can repeat; or chooses by it what to train on."""

    def setup(self, stage):
        super().setup(stage)
        drawn = random.SystemRandom().sample(range(60), 60)
        if self.way == "train":
            self.data = Subset(Rows(60), drawn[:NUM])
        else:
            self.val = Subset(Rows(60), drawn[-10:])


class Pool(RandomSampler):
    def __iter__(self):
        pool = [*range(self.num_samples)]
        while pool:
            yield pool.pop(int(torch.randint(len(pool), (1,))))


class Drawing(Rows):
    num_read = 0

    def __getitem__(self, index):
        self.num_read += 1
        inputs, targets = super().__getitem__(index)
        return (inputs + torch.rand(4)) / (1 + 0.01 * self.num_read), targets


class Prefetcher:
    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        yield from self.loader


class Wandering:
    def __init__(self):
        self.place = 0
        self.rng = np.random.default_rng(0)

    def __iter__(self):
        for _ in range(NUM // BATCH):
            self.place += int(self.rng.integers(1, 7))
            yield rows(BATCH, self.place)


class Graph:
    num_made = 0
    stores: dict = {}  # noqa: RUF012 - of the class

    def __init__(self, inputs, targets):
        self.inputs = inputs
        self.targets = targets
        Graph.num_made += 1
        Graph.stores[Graph.num_made] = self


MAKERS = {
    "pool": lambda data: data.make_loader(data.data, sampler=Pool(data.data)),
    "huggingface": lambda data: data.make_loader(stranger_package.Streaming(Rows())),
    "webdataset": lambda data: data.make_loader(stranger_package.Pipeline(Rows())),
    "wrapper": lambda data: Prefetcher(data.make_loader(data.data, shuffle=True)),
    "own": lambda data: Wandering(),
}
# What all loaders are made with
OPTIONS = {
    "workers": {"num_workers": 2},
    "persistent_workers": {"num_workers": 2, "persistent_workers": True},
    "graphs": {"collate_fn": lambda samples: Graph(*stacked(samples))},
}


class Loaded(PlainData):
    @property
    def kind(self):
        return Drawing if "workers" in self.way else Rows

    def make_loader(self, samples, **options):
        return super().make_loader(samples, **OPTIONS.get(self.way, {}), **options)

    def train_dataloader(self):
        return MAKERS[self.way](self) if self.way in MAKERS else super().train_dataloader()

    def val_dataloader(self):
        return self.make_loader(self.val, shuffle=self.way == "pool")


class Combined(PlainData):
    """Two loaders of training in some mode, or one; two of validation and of test."""

    def train_dataloader(self):
        if not self.way:
            return super().train_dataloader()
        both = {
            "a": self.make_loader(Rows(), shuffle=True),
            "b": self.make_loader(Rows(25, 4), shuffle=True),
        }
        return both if self.way == "none" else CombinedLoader(both, self.way)

    def val_dataloader(self):
        return [self.make_loader(Rows(10, 1)), self.make_loader(Rows(15, 3))]

    test_dataloader = val_dataloader


class Whole(Plain):
    """It brings its own data, as Lightning's examples of one file do; each hook of them is called once."""

    kind = Rows
    make_loader = PlainData.make_loader
    train_dataloader = PlainData.train_dataloader
    val_dataloader = PlainData.val_dataloader
    test_dataloader = PlainData.test_dataloader

    def __init__(self, scheduler=None):
        super().__init__()
        self.scheduler = scheduler
        self.calls = []

    def prepare_data(self):
        self.calls.append("prepare_data")

    def setup(self, stage):
        self.calls.append(stage)
        PlainData.setup(self, stage)

    def on_train_start(self):
        assert self.calls in (["prepare_data", "fit"], ["prepare_data", "fit", "test"])

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return ([optimizer], [self.scheduler(optimizer)]) if self.scheduler else optimizer


class Replacing(Whole):
    def on_train_epoch_end(self):
        self.data = TensorDataset(torch.rand(NUM, 4), torch.rand(NUM))


class OfAnyForm(Plain):
    """It trains on pairs of tensors, graphs, and what several loaders give."""

    def loss(self, batch):
        if isinstance(batch, dict):
            batch = [part for part in batch.values() if part is not None]
        if isinstance(batch, list | tuple) and isinstance(batch[0], list | tuple):
            return sum(map(self.loss, batch))
        return super().loss((batch.inputs, batch.targets) if isinstance(batch, Graph) else batch)


# Copies of weights, and what is trained


class EMA(Plain):
    def __init__(self):
        super().__init__()
        self.ema = [copy.deepcopy(self.net)]
        self.best = None
        self.best_loss = float("inf")

    def on_train_batch_end(self, outputs, batch, batch_idx):
        with torch.no_grad():
            for mean, here in zip(self.ema[0].parameters(), self.net.parameters(), strict=True):
                mean.lerp_(here, 0.1)

    def validation_step(self, batch, batch_idx):
        self.log(
            "val/loss", F.mse_loss(self.ema[0](batch[0]).squeeze(1), batch[1]), batch_size=BATCH
        )

    def on_validation_epoch_end(self):
        loss = self.trainer.callback_metrics["val/loss"].item()
        if loss < self.best_loss:
            self.best = copy.deepcopy(self.net.state_dict())
            self.best_loss = loss
        else:
            self.net.load_state_dict(self.best)


class Milestones(BaseFinetuning):
    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.net[0])

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[0], optimizer, lr=0.01)


class Unfreezing(Plain):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(*network()[:3], nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.net[0].requires_grad_(False)

    def on_train_epoch_start(self):
        self.net[0].requires_grad_(self.current_epoch > 0)
        if self.current_epoch > 0:
            self.net[3].eval()
        self.net[2].p *= 0.5
        for group in self.optimizers().param_groups:
            group["lr"] *= 0.5


class First(nn.Module):
    def forward(self, outputs):
        return outputs[0]


class MadeLate(Plain):
    """A network that is made in a hook, or grows in an epoch."""

    def __init__(self, way: str):
        super().__init__(way)
        if way != "epoch":
            self.net = None

    def configure_model(self):
        if self.net is None and self.way == "configure_model":
            recurrent = nn.LSTM(8, 6, 2, dropout=0.2)
            self.net = nn.Sequential(
                nn.LazyLinear(8), nn.ReLU(), recurrent, First(), nn.Linear(6, 1)
            )

    def setup(self, stage):
        if self.net is None and self.way == "setup":
            self.net = network(self.trainer.datamodule.data.tensors[0].shape[1])

    def on_train_epoch_start(self):
        if self.way == "epoch" and self.current_epoch == 1 and len(self.net) == 4:
            self.net.append(nn.Linear(1, 1))
            self.trainer.optimizers[0].add_param_group({"params": self.net[4].parameters()})


class Denoising(Plain):
    def on_train_start(self):
        if self.way == "sets":
            with torch.no_grad():
                self.net[0].bias.fill_(0.3)
        else:
            L.seed_everything(1, verbose=False)

    def loss(self, batch):
        noise = random.random() + np.random.rand() + np.random.default_rng().normal()
        return super().loss((batch[0] + torch.randn_like(batch[0]) * noise, batch[1]))


class ChangedLate(Plain):
    def __init__(self):
        super().__init__()
        self.sharpness = 1.0
        self.gains = [1.0]
        self.mean = None

    def on_fit_start(self):
        self.mean = self.trainer.datamodule.data.tensors[0].mean(0)

    def on_train_epoch_start(self):
        if self.current_epoch > 0:
            self.sharpness += 1
            self.gains.append(2.0)
            self.bias = 3.0

    def loss(self, batch):
        inputs = batch[0] if self.mean is None else batch[0] - self.mean
        return super().loss((inputs, batch[1])) * self.sharpness * sum(self.gains) + getattr(
            self, "bias", 0
        )


# Optimizers and schedules


class Scheduled(Plain):
    """A schedule that is given, stepped in one of many ways; one that follows a metric, or some in sequence."""

    def __init__(self, optimizer, way: str, scheduler=None):
        super().__init__(way)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.automatic_optimization = way != "by hand"

    def training_step(self, batch, batch_idx):
        if self.automatic_optimization:
            return super().training_step(batch, batch_idx)
        self.optimizers().zero_grad()
        self.manual_backward(self.loss(batch))
        self.optimizers().step()
        self.lr_schedulers().step()
        return None

    def configure_optimizers(self):
        optimizer = self.optimizer(self.parameters())
        schedule = self.scheduler(optimizer) if self.scheduler else None
        if self.way == "lost":
            return optimizer
        if self.way in ("list", "by hand"):
            return [optimizer], [schedule]
        if self.way == "metric":
            schedule = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
        if self.way == "within":
            warm_up = lr_scheduler.ConstantLR(optimizer, 0.5, 2)
            schedule = lr_scheduler.SequentialLR(optimizer, [warm_up, schedule], [2])
        if self.way == "sequence":
            last = lr_scheduler.CosineAnnealingLR(
                optimizer, self.trainer.estimated_stepping_batches
            )
            schedule = lr_scheduler.SequentialLR(optimizer, [Warming(optimizer), last], [4])
        config = {
            "scheduler": schedule,
            **({"monitor": "val/loss"} if self.way == "metric" else {}),
        }
        if frequency := {"step": 1, "seldom": 5, "sequence": 2}.get(self.way):
            config |= {"interval": "step", "frequency": frequency}
        return {"optimizer": optimizer, "lr_scheduler": config}


class Warming(lr_scheduler.LambdaLR):
    def __init__(self, optimizer):
        super().__init__(optimizer, lr_lambda=self.scale)

    def scale(self, step):
        return min(1.0, (step + 1) / 10)


class Decaying(torch.optim.SGD):
    num = 0

    def step(self, closure=None):
        self.num += 1
        for each in self.param_groups[0]["params"]:
            each.data.mul_(0.9 if self.num % 5 == 0 else 1)
        return super().step(closure)


class Optimized(Plain):
    def __init__(self, way: str):
        super().__init__(way)
        self.norms = []

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
    ):
        self.norms.append(nn.utils.get_total_norm([each.grad for each in self.parameters()]).item())
        self.clip_gradients(optimizer, float(np.median(self.norms)), "norm")

    def configure_optimizers(self):
        if self.way == "lbfgs":
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)
        if self.way == "outside":
            return Decaying(self.parameters(), lr=0.05)
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
        rng = np.random.default_rng(0)
        schedule = lr_scheduler.LambdaLR(optimizer, lambda step: rng.uniform(0.5, 1.5))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Manual(Plain):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.other = network()

    def train_loss(self, batch, batch_idx):
        often, rarely = self.optimizers()
        loss = self.loss(batch)
        self.manual_backward(loss)
        self.clip_gradients(often, 1.0, "norm")
        often.step()
        often.zero_grad()
        self.manual_backward(F.mse_loss(self.other(batch[0]).squeeze(1), self(batch[0]).detach()))
        if batch_idx % 8 == 6:
            rarely.step()
            rarely.zero_grad()
            self.lr_schedulers().step()
        return loss

    def configure_optimizers(self):
        made = [
            torch.optim.RMSprop(each.parameters(), lr)
            for each, lr in ((self.net, 0.05), (self.other, 0.025))
        ]
        return made, [lr_scheduler.StepLR(made[1], 2, 0.8)]


# Steps, and what a checkpoint has of them


class Skipping(Plain):
    def on_train_batch_start(self, batch, batch_idx):
        return -1 if self.way == "ends" and batch_idx == 6 else None

    def train_loss(self, batch, batch_idx):
        return None if batch_idx % 3 == 1 else self.loss(batch)


class FromIterator(Plain):
    def training_step(self, dataloader_iter):
        batch, batch_idx, _ = next(dataloader_iter)
        return super().training_step(batch, batch_idx)


class SecondLoader(Plain):
    def on_fit_start(self):
        self.loader = DataLoader(Rows(25, 9), 5, shuffle=True)
        self.iterator = iter(self.loader)

    def train_loss(self, batch, batch_idx):
        if (other := next(self.iterator, None)) is None:
            self.iterator = iter(self.loader)
            other = next(self.iterator)
        return self.loss(batch) + self.loss(other)


class EpochEnd(Plain):
    def __init__(self):
        super().__init__()
        self.outputs = []
        self.metrics = {"max": torchmetrics.MaxMetric()}
        self.r2 = torchmetrics.R2Score()

    def train_loss(self, batch, batch_idx):
        loss = self.loss(batch)
        if batch_idx == 0:
            self.log("train/first", loss, batch_size=BATCH)
        self.outputs.append(loss.detach())
        self.metrics["max"].update(loss.detach())
        outputs = self(batch[0]).detach()
        self.r2.update(torch.stack([outputs, -outputs], 1), torch.stack([batch[1], -batch[1]], 1))
        self.log("train/r2", self.r2, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self):
        mean = torch.stack(self.outputs).mean()
        self.log("train/mean", mean)
        self.log("train/max", self.metrics["max"].compute())
        self.outputs.clear()
        self.metrics["max"].reset()
        with torch.no_grad():
            self.net[3].bias.add_(0.01 * mean)


class SWAG(Plain):
    factors: tuple = ()
    rounds = 0

    def on_train_epoch_end(self):
        self.factors += (1.5,)
        self.rounds += 1

    def on_train_end(self):
        self.factors = (2.0,)
        self.register_buffer("mean", torch.ones(1))

    def test_step(self, batch, batch_idx):
        self.log(
            "test/factor", sum(self.factors) * float(getattr(self, "mean", 0.5)), batch_size=BATCH
        )
        self.log("test/rounds", float(self.rounds), batch_size=BATCH)
        super().test_step(batch, batch_idx)


class MadeInSetup(Plain):
    def setup(self, stage):
        num = 5e6 if self.way == "large" else 2e6
        self.table = torch.arange(num) / num

    def loss(self, batch):
        return super().loss((batch[0] + self.table[:4], batch[1]))


class Extra(nn.Module):
    factor = 1.0

    def forward(self, inputs):
        self.factor *= 0.99 if self.training else 1.0
        return inputs * self.factor

    def get_extra_state(self):
        return {"factor": self.factor}

    def set_extra_state(self, state):
        self.factor = state["factor"]


class Saving(Plain):
    def __init__(self, way: str = ""):
        super().__init__(way)
        self.norms = np.zeros(4, dtype=np.float32)
        self.net.append(Extra())

    def train_loss(self, batch, batch_idx):
        self.norms = 0.9 * self.norms + batch[0].mean(0).numpy()
        return self.loss((batch[0] + torch.from_numpy(self.norms), batch[1]))

    def on_save_checkpoint(self, checkpoint):
        checkpoint["norms"] = Extra() if self.way else self.norms

    def on_load_checkpoint(self, checkpoint):
        self.norms = np.asarray(checkpoint["norms"])


class Named(Plain):
    """Metrics by the names that are given, without an empty one; values for Lightning's finders; a layer that is not always used."""

    def __init__(
        self,
        train: str = "train_loss",
        val: str = "val_loss",
        test: str = "test_loss",
        lr: float = 0.01,
    ):
        super().__init__()
        self.names = {"train": train, "val": val, "test": test}
        self.lr = lr
        self.batch_size = BATCH
        self.other = nn.Linear(4, 1)

    def log_loss(self, stage, batch):
        loss = self.loss(batch)
        if name := self.names[stage]:
            self.log(
                name,
                loss,
                batch_size=BATCH,
                on_step=False,
                on_epoch=True,
                sync_dist=stage != "train",
            )
        return loss

    def training_step(self, batch, batch_idx):
        return self.log_loss("train", batch) + (
            self.other(batch[0]).square().mean() if batch_idx % 2 else 0
        )

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log_loss("val", batch)

    def test_step(self, batch, batch_idx):
        self.log_loss("test", batch)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)
