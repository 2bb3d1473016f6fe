"""LightningModules as strangers write them, one per trait; each class says which."""

import collections
import copy
import enum
import itertools
import random
from pathlib import Path

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
import torchmetrics
from torch import nn
from torch.nn.utils import prune
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, IterableDataset

from tests.strangers.data import BATCH, Rows


def network(width=8):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 1))


class Plain(L.LightningModule):
    """A small regression; what others are made from."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, inputs):
        return self.net(inputs).squeeze(1)

    def loss(self, batch):
        inputs, targets = batch
        return F.mse_loss(self(inputs), targets)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=BATCH)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch), batch_size=BATCH)

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.loss(batch), batch_size=BATCH)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Synced(Plain):
    """Metrics that are means over processes."""

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch), batch_size=BATCH, sync_dist=True)

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.loss(batch), batch_size=BATCH, sync_dist=True)


# State in attributes of the module


class Hidden(Plain):
    """The hidden state of truncated backpropagation, a tensor in an attribute."""

    def __init__(self):
        super().__init__()
        self.hidden = None

    def training_step(self, batch, batch_idx):
        hidden = torch.zeros(BATCH) if self.hidden is None else self.hidden
        output = self(batch[0]) + 0.5 * hidden
        self.hidden = output.detach()
        return F.mse_loss(output, batch[1])


class Unseeded(Plain):
    """NumPy generators without a seed, made in the constructor and in each step."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng()

    def training_step(self, batch, batch_idx):
        noise = self.rng.normal() + np.random.default_rng().normal()
        return F.mse_loss(self(batch[0] + 0.1 * float(noise)), batch[1])


class Counter(Plain):
    """A counter of steps in an attribute, by which a term of the loss is faded in."""

    num_seen = 0

    def training_step(self, batch, batch_idx):
        self.num_seen += 1
        return self.loss(batch) + 0.01 * self.num_seen * self.net[0].weight.square().sum()


class Reward(Plain):
    """A running reward, a float."""

    def __init__(self):
        super().__init__()
        self.reward = 10.0

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.reward = 0.95 * self.reward + 0.05 * loss.item()
        return loss * self.reward


class Annealed(Plain):
    """A temperature that falls at the start of each epoch."""

    def __init__(self):
        super().__init__()
        self.temperature = 1.0

    def on_train_epoch_start(self):
        self.temperature *= 0.5

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0]) / self.temperature, batch[1])


class Directions(Plain):
    """Random features, drawn in the constructor into an attribute that is no buffer."""

    def __init__(self):
        super().__init__()
        self.directions = torch.randn(4, 4)

    def forward(self, inputs):
        return super().forward(torch.cos(inputs @ self.directions))


class FittedAtStart(Plain):
    """What a hook of the start finds in the data of training, and all steps use."""

    def __init__(self):
        super().__init__()
        self.mean = None

    def on_fit_start(self):
        data = self.trainer.datamodule.train
        self.mean = torch.stack([data[n][0] for n in range(10)]).mean(0)

    def forward(self, inputs):
        return super().forward(inputs if self.mean is None else inputs - self.mean)


class ChangedLate(Plain):
    """What has its first change, or is there at all, when the best epoch is over; testing depends on it."""

    def __init__(self):
        super().__init__()
        self.sharpness, self.gains = 1.0, [1.0]

    def on_train_epoch_start(self):
        if self.current_epoch > 0:
            self.sharpness += 1
            self.gains.append(2.0)
            self.bias = 3.0

    def loss(self, batch):
        scale = self.sharpness * sum(self.gains)
        return super().loss(batch) * scale + getattr(self, "bias", 0)


class Order(Plain):
    """An order that is drawn at the start of each epoch, and used in its steps."""

    def on_train_epoch_start(self):
        self.order = torch.randperm(8)

    def training_step(self, batch, batch_idx):
        return self.loss(batch) * (1 + self.order[batch_idx])


class Replay(Plain):
    """A replay buffer: a deque of tensors, from which is drawn."""

    def __init__(self):
        super().__init__()
        self.buffer = collections.deque(maxlen=20)

    def training_step(self, batch, batch_idx):
        self.buffer.extend(zip(*batch, strict=True))
        inputs, targets = zip(*random.sample(self.buffer, 5), strict=True)
        return self.loss((torch.stack(inputs), torch.stack(targets)))


class Transition:
    """A step in an environment, an object."""

    def __init__(self, inputs, target):
        self.inputs, self.target = inputs, target


class ReplayOfObjects(Plain):
    """A replay buffer of objects of its own class."""

    def __init__(self):
        super().__init__()
        self.buffer = []

    def training_step(self, batch, batch_idx):
        self.buffer += [Transition(*each) for each in zip(*batch, strict=True)]
        drawn = random.sample(self.buffer, 5)
        return self.loss((torch.stack([d.inputs for d in drawn]), torch.stack([d.target for d in drawn])))


class World:
    """An environment with a state."""

    def __init__(self):
        self.position, self.rng = np.zeros(4), np.random.default_rng(0)

    def step(self, action):
        self.position = 0.9 * self.position + action + self.rng.normal(0, 1, 4)
        return torch.from_numpy(self.position).float()


class Agent(Plain):
    """An environment in an attribute, which the training steps."""

    def __init__(self):
        super().__init__()
        self.world = World()

    def training_step(self, batch, batch_idx):
        inputs = torch.stack([self.world.step(0.1) for _ in range(BATCH)])
        return self.loss((inputs, batch[1]))


class DQN(Plain):
    """A target network in sync every few steps, an environment, a replay buffer and a falling epsilon."""

    def __init__(self):
        super().__init__()
        self.target, self.world = copy.deepcopy(self.net), World()
        self.buffer, self.epsilon, self.num_steps = collections.deque(maxlen=30), 1.0, 0

    def training_step(self, batch, batch_idx):
        self.epsilon, self.num_steps = self.epsilon * 0.9, self.num_steps + 1
        action = random.random() if random.random() < self.epsilon else self.net(batch[0])[0].item()
        self.buffer.append(self.world.step(action))
        states = torch.stack(random.choices(self.buffer, k=BATCH))
        if self.num_steps % 5 == 0:
            self.target.load_state_dict(self.net.state_dict())
        return F.mse_loss(self.net(states), 1 + 0.9 * self.target(states).detach())


class NumPyGenerator(Plain):
    """A NumPy generator in an attribute."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)

    def noise(self):
        return torch.from_numpy(self.rng.normal(0, 0.1, (BATCH, 4))).float()

    def training_step(self, batch, batch_idx):
        return self.loss((batch[0] + self.noise(), batch[1]))


class TorchGenerator(NumPyGenerator):
    """A generator of PyTorch in an attribute."""

    def __init__(self):
        super().__init__()
        self.rng = torch.Generator().manual_seed(0)

    def noise(self):
        return 0.1 * torch.randn(BATCH, 4, generator=self.rng)


class PythonGenerator(NumPyGenerator):
    """A generator of Python's in an attribute."""

    def __init__(self):
        super().__init__()
        self.rng = random.Random(0)

    def noise(self):
        return torch.tensor([[self.rng.gauss(0, 0.1) for _ in range(4)] for _ in range(BATCH)])


class Seen(Plain):
    """A set of what was seen."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def training_step(self, batch, batch_idx):
        self.seen |= {round(value.item(), 1) for value in batch[1]}
        return self.loss(batch) * len(self.seen)


class Memory(Plain):
    """A dictionary of arrays by class, as a bank of features."""

    def __init__(self):
        super().__init__()
        self.bank = {}

    def training_step(self, batch, batch_idx):
        key = int(batch[1][0] * 3)
        self.bank[key] = 0.5 * self.bank.get(key, np.zeros(4, dtype=np.float32)) + batch[0].mean(0).numpy()
        return self.loss((batch[0] + torch.from_numpy(self.bank[key]), batch[1]))


class Buffer(Plain):
    """A buffer that no checkpoint has (`persistent=False`)."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4), persistent=False)

    def training_step(self, batch, batch_idx):
        self.mean = 0.9 * self.mean + 0.1 * batch[0].mean(0)
        return self.loss((batch[0] - self.mean, batch[1]))


class WithOwnSchedule(Plain):
    """A schedule whose function is a method of its own."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": Warming(optimizer), "interval": "step"}}


class Warming(lr_scheduler.LambdaLR):
    """A rate that rises by a method of the schedule."""

    def __init__(self, optimizer):
        super().__init__(optimizer, lr_lambda=self.scale)

    def scale(self, step):
        return min(1.0, (step + 1) / 10)


class Tried(Plain):
    """A state in a class, as counters of strangers' layers are."""

    num = 0

    def training_step(self, batch, batch_idx):
        Tried.num += 1
        return self.loss(batch) * Tried.num

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.loss(batch) * Tried.num, batch_size=BATCH)


CALLS = [0]


class Global(Plain):
    """A state in a variable of the file."""

    def training_step(self, batch, batch_idx):
        CALLS[0] += 1
        return self.loss(batch) * CALLS[0]


class Closed(Plain):
    """A state in a closure."""

    def __init__(self):
        super().__init__()
        calls = itertools.count(1)
        self.next = lambda: next(calls)

    def training_step(self, batch, batch_idx):
        return self.loss(batch) * self.next()


class Hooked(Plain):
    """A forward hook that gathers the mean of activations in a list."""

    def __init__(self):
        super().__init__()
        self.means = [torch.zeros(8)]
        self.net[1].register_forward_hook(self.hook)

    def hook(self, layer, inputs, output):
        if self.training:
            self.means.append(0.9 * self.means[-1] + 0.1 * output.detach().mean(0))
        return output - self.means[-1]


class Layer(nn.Module):
    """A layer with a plain number that changes."""

    def __init__(self):
        super().__init__()
        self.factor = 1.0

    def forward(self, inputs):
        if self.training:
            self.factor *= 0.99
        return inputs * self.factor


class InALayer(Plain):
    """A number that changes in a layer below the module."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), Layer(), nn.Linear(8, 1))


class InALoss(Plain):
    """A number that changes in an object that is no module."""

    def __init__(self):
        super().__init__()
        self.criterion = Criterion()

    def training_step(self, batch, batch_idx):
        return self.criterion(self(batch[0]), batch[1])


class Criterion:
    """A loss that weighs itself by its own mean so far."""

    def __init__(self):
        self.mean = 1.0

    def __call__(self, outputs, targets):
        loss = F.mse_loss(outputs, targets)
        self.mean = 0.9 * self.mean + 0.1 * loss.item()
        return loss / self.mean


class FadingDropout(Plain):
    """The probability of a dropout that falls in each step."""

    def training_step(self, batch, batch_idx):
        self.net[2].p *= 0.9
        return self.loss(batch)


class Initialised(Plain):
    """Weights that are set from the data once, which a plain flag says."""

    def __init__(self):
        super().__init__()
        self.is_initialised = False

    def training_step(self, batch, batch_idx):
        if not self.is_initialised:
            with torch.no_grad():
                self.net[0].bias.copy_(batch[0].sum())
            self.is_initialised = True
        return self.loss(batch)


class ByHook(Plain):
    """Weights that are set when training starts, whenever it starts."""

    def on_train_start(self):
        with torch.no_grad():
            self.net[0].bias.fill_(0.3)


class Reseeding(Plain):
    """Everything is seeded when training starts, whenever it starts."""

    def on_train_start(self):
        L.seed_everything(1, verbose=False)


# Copies of weights


class EMAInAList(Plain):
    """An average of the weights, hidden from PyTorch in a list, that validation uses."""

    def __init__(self):
        super().__init__()
        self.ema = [copy.deepcopy(self.net)]

    def on_train_batch_end(self, outputs, batch, batch_idx):
        with torch.no_grad():
            for mean, here in zip(self.ema[0].parameters(), self.net.parameters(), strict=True):
                mean.lerp_(here, 0.1)

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", F.mse_loss(self.ema[0](batch[0]).squeeze(1), batch[1]), batch_size=BATCH)


class EMAInADict(Plain):
    """An average of the weights in a dictionary of tensors, to which the weights are drawn."""

    def __init__(self):
        super().__init__()
        self.ema = {name: each.clone() for name, each in self.net.state_dict().items()}

    def training_step(self, batch, batch_idx):
        for name, each in self.net.state_dict().items():
            self.ema[name].lerp_(each, 0.1)
        away = sum((each - self.ema[name]).square().sum() for name, each in self.net.named_parameters())
        return self.loss(batch) + away


class Averaged(Plain):
    """An `AveragedModel` of PyTorch, which is a submodule."""

    def __init__(self):
        super().__init__()
        self.average = AveragedModel(self.net)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.average.update_parameters(self.net)

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", F.mse_loss(self.average(batch[0]).squeeze(1), batch[1]), batch_size=BATCH)


class Momentum(Plain):
    """A momentum encoder and a queue in buffers, as self-supervised methods have."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 6)
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(12, 6), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def loss(self, batch):
        query = F.normalize(self.encoder(batch[0] + 0.1 * torch.randn_like(batch[0])), dim=1)
        with torch.no_grad():
            key = F.normalize(self.teacher(batch[0]), dim=1)
        logits = torch.cat([(query * key).sum(1, keepdim=True), query @ self.queue.T.clone()], dim=1)
        if self.training:
            for mean, here in zip(self.teacher.parameters(), self.encoder.parameters(), strict=True):
                mean.data.lerp_(here.data, 0.01)
            self.queue[(torch.arange(len(key)) + self.pointer) % 12] = key
            self.pointer += len(key)
        return F.cross_entropy(logits / 0.2, torch.zeros(len(key), dtype=torch.long))

    def configure_optimizers(self):
        return torch.optim.SGD(self.encoder.parameters(), lr=0.1)


class Best(Plain):
    """The best weights in an attribute, to which it goes back when validation is worse."""

    def __init__(self):
        super().__init__()
        self.best, self.best_loss = None, float("inf")

    def on_validation_epoch_end(self):
        loss = self.trainer.callback_metrics["val/loss"].item()
        if loss < self.best_loss:
            self.best, self.best_loss = copy.deepcopy(self.net.state_dict()), loss
        else:
            self.net.load_state_dict(self.best)


# What is trained, and how


class Unfreezing(Plain):
    """The first layer is trained from the second epoch on, by its own hook."""

    def __init__(self):
        super().__init__()
        self.net[0].requires_grad_(False)

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.net[0].requires_grad_(True)


class Modes(Plain):
    """A batch norm that is held in evaluation mode from the start of the second epoch on."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    def on_train_epoch_start(self):
        if self.current_epoch >= 1:
            self.net[1].eval()


class DropoutInValidation(Plain):
    """Dropout that draws in validation, too (Monte Carlo)."""

    def validation_step(self, batch, batch_idx):
        self.net.train()
        super().validation_step(batch, batch_idx)
        self.net.eval()


class Denoising(Plain):
    """Random noise in validation and testing, from the global state, as diffusion models have."""

    def loss(self, batch):
        return super().loss((batch[0] + torch.randn_like(batch[0]), batch[1]))


class Double(Plain):
    """It sets PyTorch's default type for all that is made after it."""

    def __init__(self):
        torch.set_default_dtype(torch.float64)
        super().__init__()

    def forward(self, inputs):
        return super().forward(inputs.double())

    def loss(self, batch):
        return super().loss((batch[0], batch[1].double()))


class Growing(Plain):
    """A layer more from the second epoch on."""

    def on_train_epoch_start(self):
        if self.current_epoch == 1 and len(self.net) == 4:
            self.net.append(nn.Linear(1, 1))
            self.trainer.optimizers[0].add_param_group({"params": self.net[4].parameters()})


class Pruned(Plain):
    """Weights that are pruned after the first epoch, which renames parameters."""

    def on_train_epoch_end(self):
        if self.current_epoch == 0:
            prune.l1_unstructured(self.net[0], "weight", 0.5)


class Lazy(Plain):
    """Layers that take their shape from the first batch."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 1))


class Configured(Plain):
    """A network that is made in `configure_model`."""

    def __init__(self):
        super().__init__()
        self.net = None

    def configure_model(self):
        if self.net is None:
            self.net = network()


class MadeInSetup(Plain):
    """A network that is made in `setup`, when the data are known."""

    def __init__(self):
        super().__init__()
        self.net = None

    def setup(self, stage):
        if self.net is None:
            self.net = network(self.trainer.datamodule.train.inputs.shape[1] * 2)


class Item(Plain):
    """`.item()` in a constructor."""

    def __init__(self):
        super().__init__()
        rates = [each.item() for each in torch.linspace(0, 0.3, 3)]
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(rates[1]), nn.Linear(8, 1))


class Compiled(Plain):
    """`torch.compile` in a constructor."""

    def __init__(self):
        super().__init__()
        self.net = torch.compile(self.net, backend="eager")


class Spectral(Plain):
    """A parametrised layer, whose power iteration goes on."""

    def __init__(self):
        super().__init__()
        self.net[0] = nn.utils.parametrizations.spectral_norm(self.net[0])


class BatchNorm(Plain):
    """A batch norm."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))


class Recurrent(Plain):
    """An LSTM over a sequence."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, 6, num_layers=2, dropout=0.2, batch_first=True), nn.Linear(6, 1)

    def forward(self, inputs):
        return self.head(self.lstm(inputs[:, :, None])[0][:, -1]).squeeze(1)


class Numbers(Plain):
    """Random numbers of Python and NumPy in the training step, from the global states."""

    def training_step(self, batch, batch_idx):
        return self.loss(batch) * (random.random() + np.random.rand())


# Optimizers and schedules


class Stepping(Plain):
    """A schedule over `trainer.estimated_stepping_batches`."""

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        total = self.trainer.estimated_stepping_batches
        schedule = lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class LoaderLength(Plain):
    """A schedule over the length of the training loader, which it asks for."""

    def configure_optimizers(self):
        self.trainer.fit_loop.setup_data()
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        return [optimizer], [lr_scheduler.StepLR(optimizer, len(self.trainer.train_dataloader) // 8, 0.7)]


class PerEpoch(Plain):
    """A schedule per epoch."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
        return [optimizer], [lr_scheduler.CosineAnnealingLR(optimizer, 3)]


class Plateau(Plain):
    """A schedule that follows a metric."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
        schedule = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val/loss"}}


class Rated(Plain):
    """A learning rate that Lightning's finder sets."""

    def __init__(self):
        super().__init__()
        self.lr = 0.001

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class FromEngine(Plain):
    """The optimizer and the schedule of the engine, stepped per epoch, as Lightning's default is."""

    def __init__(self, optimizer, scheduler):
        super().__init__()
        self.optimizer, self.scheduler = optimizer, scheduler

    def configure_optimizers(self):
        optimizer = self.optimizer(self.parameters())
        return [optimizer], [self.scheduler(optimizer)]


class Chained(Plain):
    """Two schedules in sequence, stepped every second step."""

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        first = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4)
        second = lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
        schedule = lr_scheduler.SequentialLR(optimizer, [first, second], [4])
        return [optimizer], [{"scheduler": schedule, "interval": "step", "frequency": 2}]


class RandomSchedule(Plain):
    """A schedule with a generator of its own, which is no plain value."""

    def configure_optimizers(self):
        optimizer, rng = torch.optim.SGD(self.parameters(), lr=0.05), np.random.default_rng(0)
        schedule = lr_scheduler.LambdaLR(optimizer, lambda step: rng.uniform(0.5, 1.5))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class ByHand(Plain):
    """A learning rate that is changed by hand in the optimizer's groups."""

    def on_train_epoch_start(self):
        for group in self.optimizers().param_groups:
            group["lr"] *= 0.5


class Groups(Plain):
    """A group of parameters that is added to the optimizer in training."""

    def configure_optimizers(self):
        return torch.optim.Adam(self.net[3].parameters(), lr=0.01)

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.trainer.optimizers[0].add_param_group({"params": self.net[0].parameters()})


class LBFGS(Plain):
    """An optimizer that asks for the loss several times in a step."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 1)

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


class Lookahead(torch.optim.SGD):
    """An optimizer with slow weights in an attribute."""

    def __init__(self, params, lr):
        super().__init__(params, lr)
        self.slow = [each.detach().clone() for group in self.param_groups for each in group["params"]]
        self.num = 0

    def step(self, closure=None):
        loss = super().step(closure)
        self.num += 1
        if self.num % 5 == 0:
            for slow, each in zip(self.slow, self.param_groups[0]["params"], strict=True):
                slow.lerp_(each.detach(), 0.5)
                each.data.copy_(slow)
        return loss


class HomemadeOptimizer(Plain):
    """An optimizer with a state of its own that its `state_dict` leaves out."""

    def configure_optimizers(self):
        return Lookahead(self.parameters(), lr=0.05)


class AutoClip(Plain):
    """Gradients clipped at the median of all norms so far, a list."""

    def __init__(self):
        super().__init__()
        self.norms = []

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.norms.append(nn.utils.get_total_norm([each.grad for each in self.parameters()]).item())
        self.clip_gradients(optimizer, float(np.median(self.norms)), "norm")


# Manual optimization


class _Manual(Plain):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class ThreeOptimizers(_Manual):
    """Three optimizers that are stepped by hand."""

    def training_step(self, batch, batch_idx):
        for n, optimizer in enumerate(self.optimizers()):
            if n < 2 or batch_idx % 2:
                optimizer.zero_grad()
                self.manual_backward(self.loss(batch))
                self.clip_gradients(optimizer, 1.0, "norm")
                optimizer.step()

    def configure_optimizers(self):
        made = (torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop)
        return [kind(self.parameters(), lr=0.01) for kind in made]


class HandSchedules(_Manual):
    """An optimizer and its schedule, both stepped by hand, with gradients of three batches."""

    def training_step(self, batch, batch_idx):
        self.manual_backward(self.loss(batch) / 3)
        if batch_idx % 3 == 2:
            self.optimizers().step()
            self.optimizers().zero_grad()
            self.lr_schedulers().step()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
        return [optimizer], [lr_scheduler.StepLR(optimizer, 2, 0.8)]


class Pending(_Manual):
    """Two optimizers, of which one is stepped rarely: gradients are under way at any checkpoint."""

    def __init__(self):
        super().__init__()
        self.other = network()

    def training_step(self, batch, batch_idx):
        often, rarely = self.optimizers()
        self.manual_backward(self.loss(batch))
        often.step()
        often.zero_grad()
        self.manual_backward(F.mse_loss(self.other(batch[0]).squeeze(1), self(batch[0]).detach()))
        if batch_idx % 8 == 6:
            rarely.step()
            rarely.zero_grad()

    def configure_optimizers(self):
        return [torch.optim.SGD(each.parameters(), lr=0.05) for each in (self.net, self.other)]


class GAN(_Manual):
    """Lightning's example: two networks, and pictures to each logger's `experiment`."""

    def __init__(self):
        super().__init__()
        self.generator, self.critic = nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        self.validation_z = torch.randn(8, 3)

    def loss(self, batch):
        return F.softplus(self.critic(self.generator(torch.randn(len(batch[0]), 3)))).mean()

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        self.toggle_optimizer(first)
        fake = self.generator(torch.randn(BATCH, 3))
        self.manual_backward(F.softplus(-self.critic(fake)).mean())
        first.step()
        first.zero_grad()
        self.untoggle_optimizer(first)
        self.toggle_optimizer(second)
        loss = F.softplus(-self.critic(batch[0])).mean() + F.softplus(self.critic(fake.detach())).mean()
        self.manual_backward(loss)
        second.step()
        second.zero_grad()
        self.untoggle_optimizer(second)
        self.log("d_loss", loss, prog_bar=True)

    def configure_optimizers(self):
        return [torch.optim.Adam(each.parameters(), lr=0.01) for each in (self.generator, self.critic)], []

    def on_validation_epoch_end(self):
        pictures = self.generator(self.validation_z).detach().reshape(1, 4, 8).clamp(0, 1)
        for logger in self.loggers:
            logger.experiment.add_image("generated_images", pictures, self.current_epoch)


# Steps


class Skipping(Plain):
    """A training step that returns nothing at times."""

    def training_step(self, batch, batch_idx):
        return None if batch_idx % 3 == 1 else self.loss(batch)


class CutShort(Plain):
    """An epoch that ends early, by `on_train_batch_start`."""

    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 6 else None


class FromIterator(Plain):
    """A training step that takes the iterator of the loader."""

    def training_step(self, dataloader_iter):
        batch, batch_idx, _ = next(dataloader_iter)
        return super().training_step(batch, batch_idx)


class SecondLoader(Plain):
    """A second loader that is iterated inside of the training step."""

    def on_fit_start(self):
        self.more = itertools.cycle(DataLoader(Rows(25, 9), 5, shuffle=True))

    def training_step(self, batch, batch_idx):
        return self.loss(batch) + self.loss(next(self.more))


class Restarted(SecondLoader):
    """A second loader that is begun anew when it is at its end."""

    def on_fit_start(self):
        self.loader = DataLoader(Rows(25, 9), 5, shuffle=True)
        self.iterator = iter(self.loader)

    def training_step(self, batch, batch_idx):
        try:
            other = next(self.iterator)
        except StopIteration:
            self.iterator = iter(self.loader)
            other = next(self.iterator)
        return self.loss(batch) + self.loss(other)


class EpochLists(Plain):
    """Outputs of steps in a list, of which the end of the epoch logs the mean and acts on it."""

    def __init__(self):
        super().__init__()
        self.outputs = []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.outputs.append(loss.detach())
        return loss

    def on_train_epoch_end(self):
        mean = torch.stack(self.outputs).mean()
        self.log("train/mean", mean)
        self.outputs.clear()
        with torch.no_grad():
            self.net[3].bias.add_(0.01 * mean)


class PlainMetrics(Plain):
    """Metrics of torchmetrics in a plain dictionary."""

    def __init__(self):
        super().__init__()
        self.metrics = {"mean": torchmetrics.MeanMetric(), "max": torchmetrics.MaxMetric()}

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        for metric in self.metrics.values():
            metric.update(loss.detach())
        return loss

    def on_train_epoch_end(self):
        for name, metric in self.metrics.items():
            self.log(f"train/{name}", metric.compute())
            metric.reset()


class Sums(Plain):
    """Sums over an epoch in plain numbers."""

    def on_train_epoch_start(self):
        self.total, self.num = 0.0, 0

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.total, self.num = self.total + loss.item(), self.num + 1
        return loss

    def on_train_epoch_end(self):
        self.log("train/mean", self.total / self.num)


class ByEpoch(Plain):
    """Samples that depend on the epoch, which the module tells the data set when an epoch starts."""

    def on_train_epoch_start(self):
        self.trainer.datamodule.train.epoch = self.current_epoch


class Mining(Plain):
    """It changes the weights of the sampler by its losses."""

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.trainer.datamodule.sampler.weights[batch_idx * BATCH : (batch_idx + 1) * BATCH] += loss.item()
        return loss


class PseudoLabels(Plain):
    """It writes its own predictions over the targets of the training set after each epoch."""

    def on_train_epoch_end(self):
        data = self.trainer.datamodule.train
        self.eval()
        with torch.no_grad():
            data.targets = 0.5 * data.targets + 0.5 * self(data.inputs)
        self.train()


class Batches(Plain):
    """Batches of any kind: objects, dictionaries, lists of those."""

    def loss(self, batch):
        if isinstance(batch, list) and isinstance(batch[0], dict):
            batch = {name: torch.stack([each[name] for each in batch]) for name in ("inputs", "targets")}
        inputs, targets = (
            batch[n] if isinstance(batch, dict) else getattr(batch, n) for n in ("inputs", "targets")
        )
        return F.mse_loss(self(inputs), targets)

    def training_step(self, batch, batch_idx):
        return self.loss(batch)


class TwoValidation(Plain):
    """Two loaders for validation."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val/loss", self.loss(batch), batch_size=BATCH)


class TwoTests(Plain):
    """Two loaders for testing."""

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("test/loss", self.loss(batch), batch_size=BATCH)


class Combined(Plain):
    """Batches from two loaders at once."""

    def training_step(self, batch, batch_idx):
        if isinstance(batch, dict):
            return sum(self.loss(part) for part in batch.values() if part is not None)
        return self.loss(batch)


class Sequential(Plain):
    """Batches from two loaders one after the other."""

    def training_step(self, batch, batch_idx, dataloader_idx):
        return self.loss(batch) * (1 + dataloader_idx)


class Names(Plain):
    """Metrics by the names that most modules in the world have."""

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss, batch_size=BATCH)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch), batch_size=BATCH)

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.loss(batch), batch_size=BATCH)


class OwnLoaders(Plain):
    """The module has the loaders."""

    def train_dataloader(self):
        return DataLoader(Rows(), BATCH, shuffle=True)

    def val_dataloader(self):
        return DataLoader(Rows(10, 1), BATCH)

    def test_dataloader(self):
        return DataLoader(Rows(10, 2), BATCH)


class Source(IterableDataset):
    """Samples from a function, as reinforcement learning has them."""

    def __init__(self, generate):
        self.generate = generate

    def __iter__(self):
        yield from self.generate()


class Generates(OwnLoaders):
    """A stream from a method of the module."""

    def generate(self):
        yield from Rows()

    def train_dataloader(self):
        return DataLoader(Source(self.generate), BATCH)


class OnPolicy(Generates):
    """A stream from a method that asks the network, and walks on from sample to sample."""

    def generate(self):
        position = torch.zeros(4)
        for inputs, target in Rows():
            with torch.no_grad():
                position = 0.9 * position + inputs + self(position.unsqueeze(0))
            yield position, target


class Collates(OwnLoaders):
    """A method of the module is the `collate_fn`, and draws from the module's generator."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)

    def collate(self, samples):
        inputs, targets = (torch.stack(part) for part in zip(*samples, strict=True))
        return inputs * self.rng.uniform(0.5, 1.5), targets

    def train_dataloader(self):
        return DataLoader(Rows(), BATCH, shuffle=True, collate_fn=self.collate)


class Encodes(Collates):
    """The `collate_fn` asks the network."""

    def collate(self, samples):
        inputs, targets = super().collate(samples)
        with torch.no_grad():
            return inputs + 0.1 * self(inputs).unsqueeze(1), targets


# Checkpoints


class Kind(enum.Enum):
    """A kind of network."""

    SMALL = 1


class WithNetwork(Plain):
    """`save_hyperparameters()` with a network."""

    def __init__(self, encoder):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(encoder, nn.ReLU(), nn.Linear(8, 1))


class WithNames(Plain):
    """`save_hyperparameters()` with plain values."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.save_hyperparameters()
        self.net = network(self.hparams.width)


class WithPath(Plain):
    """`save_hyperparameters()` with a path and an `Enum`."""

    def __init__(self):
        super().__init__()
        self.save_hyperparameters({"path": Path("weights"), "kind": Kind.SMALL})


class Arrays(Plain):
    """`on_save_checkpoint` with an array."""

    def __init__(self):
        super().__init__()
        self.norms = np.zeros(4, dtype=np.float32)

    def training_step(self, batch, batch_idx):
        self.norms = 0.9 * self.norms + batch[0].mean(0).numpy()
        return self.loss((batch[0] + torch.from_numpy(self.norms), batch[1]))

    def on_save_checkpoint(self, checkpoint):
        checkpoint["norms"] = self.norms

    def on_load_checkpoint(self, checkpoint):
        self.norms = np.asarray(checkpoint["norms"])


class Objects(Plain):
    """`on_save_checkpoint` with an object of its own class."""

    def __init__(self):
        super().__init__()
        self.criterion = Criterion()

    def training_step(self, batch, batch_idx):
        return self.criterion(self(batch[0]), batch[1])

    def on_save_checkpoint(self, checkpoint):
        checkpoint["criterion"] = self.criterion

    def on_load_checkpoint(self, checkpoint):
        self.criterion = checkpoint["criterion"]


class ExtraState(Plain):
    """A layer that keeps its state by `get_extra_state`."""

    def __init__(self):
        super().__init__()
        self.net.append(Extra())


class Extra(Layer):
    def get_extra_state(self):
        return {"factor": self.factor}

    def set_extra_state(self, state):
        self.factor = state["factor"]
