"""The task that each framework of the league trains: four epochs of eleven batches, in seconds."""

import os
import random
import resource
import signal
import sys

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from leyden import exact

NUM_SAMPLES, NUM_VAL, BATCH_SIZE, NUM_EPOCHS, NUM_BATCHES = 44, 8, 4, 4, 11
NUM_STEPS = NUM_EPOCHS * NUM_BATCHES
EVERY_N_STEPS = 4  # a checkpoint, where the framework resumes within an epoch
MAX_EPOCHS = {"early": 8}  # stopped after three: the validation loss rises from the first on
WITH_VALIDATION = ("plateau", "early")
DISTURB_AT = "LEAGUE_AT"  # environment variable: the step after which this process is disturbed
DISTURB_BYTES = "LEAGUE_BYTES"  # and the size at which a file that it writes kills it; else SIGTERM
CANNOT = 64  # exit code: the framework has no such thing


def cannot(why):
    """End a script whose framework has nothing of the kind."""
    print(f"league: {why}")
    sys.exit(CANNOT)


def seed():
    """Seed all random numbers."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def random_states():
    """Return the states of all random numbers."""
    return {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }


def set_random_states(states):
    """Set the states of all random numbers."""
    torch.set_rng_state(states["torch"])
    np.random.set_state(states["numpy"])
    random.setstate(states["python"])


def save(states, path):
    """Save a file, whole or not at all."""
    new = path.with_suffix(".new")
    torch.save(states, new)
    new.replace(path)


def make_net(scenario):
    """Return a network; its weights are 71 kB, so that a file of them can be cut."""
    hidden = nn.Dropout(0.5) if scenario == "dropout" else nn.ReLU()
    return nn.Sequential(
        nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 128), hidden, nn.Linear(128, 1)
    )


class NetWithLoss(nn.Module):
    """The network with its loss, as the Trainer wants it."""

    def __init__(self, scenario):
        super().__init__()
        self.net = make_net(scenario)

    def forward(self, inputs, targets):
        return {"loss": nn.functional.mse_loss(self.net(inputs), targets)}


def num_epochs(scenario):
    """Return the largest number of epochs."""
    return MAX_EPOCHS.get(scenario, NUM_EPOCHS)


def sample(index):
    """Return the sample of an index."""
    generator = torch.Generator().manual_seed(index)
    inputs = torch.randn(8, generator=generator)
    return inputs, inputs.sum().reshape(1)


class Samples(Dataset):
    """Samples in memory, with the noise of a scenario; those for validation have the wrong sign."""

    def __init__(self, scenario, is_validation=False):
        self.noise = "" if is_validation else scenario
        self.sign = -1 if is_validation else 1
        self.num = NUM_VAL if is_validation else NUM_SAMPLES

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        inputs, targets = sample(index)
        if self.noise == "numpy":
            inputs = inputs + float(np.random.normal())
        elif self.noise == "random":
            inputs = inputs + random.gauss(0, 1)
        elif self.noise == "workers":
            inputs = inputs + torch.randn(8)
        return inputs, self.sign * targets


class NoisySamples(Samples):
    """Samples that tell StatefulDataLoader the random state of a worker, as its tutorial advises."""

    def state_dict(self):
        return {"random": torch.get_rng_state()}

    def load_state_dict(self, state):
        torch.set_rng_state(state["random"])


class Stream(IterableDataset):
    """A stream without end, which goes on where it was; it tells its position to whoever asks."""

    def __init__(self):
        self.position = 0

    def __iter__(self):
        while True:
            self.position += 1
            yield sample(self.position)

    def state_dict(self, *_):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def is_shuffled(scenario):
    """Return whether the samples are in random order."""
    return scenario in ("shuffle", "workers", "ddp")


def make_loader(scenario, make=DataLoader, samples=Samples, make_sampler=None, **options):
    """Return the training loader, made by a class of a framework; `samples` are those of workers."""
    if scenario == "stream":
        return make(Stream(), batch_size=BATCH_SIZE, **options)
    is_with_workers = scenario == "workers"
    data = samples(scenario) if is_with_workers else Samples(scenario)
    options["num_workers"] = 2 if is_with_workers else 0
    if make_sampler is None:
        options["shuffle"] = is_shuffled(scenario)
    else:
        options["sampler"] = make_sampler(data, shuffle=is_shuffled(scenario))
    return make(data, batch_size=BATCH_SIZE, **options)


def collate(rows):
    """Return a batch of rows by name, as the Trainer wants it."""
    inputs, targets = default_collate(rows)
    return {"inputs": inputs, "targets": targets}


def make_val_loader(scenario):
    """Return a loader of validation, in scenarios that need one."""
    if scenario not in WITH_VALIDATION:
        return None
    return DataLoader(Samples(scenario, is_validation=True), batch_size=NUM_VAL)


def make_average(net):
    """Return PyTorch's average of the weights of a network."""
    return AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))


class Progress:
    """Counts of a loop of one's own, with its early stopping."""

    def __init__(self):
        self.step, self.epoch, self.batch, self.best, self.bad = 0, 0, 0, float("inf"), 0

    def state_dict(self):
        return dict(self.__dict__)

    def load_state_dict(self, state):
        self.__dict__.update(state)

    def count_batch(self):
        """Count a batch, which is a step."""
        self.step += 1
        self.batch += 1

    def end_epoch(self, net, scenario, schedule):
        """Count an epoch, validate where the scenario does, and return whether to stop."""
        self.epoch += 1
        self.batch = 0
        if scenario not in WITH_VALIDATION:
            return False
        (batch,) = make_val_loader(scenario)
        with torch.no_grad():
            loss = nn.functional.mse_loss(net(batch[0]), batch[1]).item()
        schedule.step(loss)
        self.bad += 1
        if loss < self.best:
            self.best, self.bad = loss, 0
        return scenario == "early" and self.bad == 2


def mark(step, model=None, optimizer=None, batch=None):
    """Mark a step, then be disturbed if it is time."""
    exact.mark(step, model, optimizer, batch)
    disturb(step)


def disturb(step):
    """After a step that the environment names, end by SIGTERM, or by SIGXFSZ amid the next checkpoint."""
    if os.environ.get(DISTURB_AT) != str(step):
        return
    limit = os.environ.get(DISTURB_BYTES)
    if not limit:
        os.kill(os.getpid(), signal.SIGTERM)
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the system kills, wherever the file is written
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
