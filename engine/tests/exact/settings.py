"""Settings of a plain Trainer, each trained by `Exact`, killed twice, and compared with a whole run.

Run as a module, it writes their table in docs/exact-matrix.md anew, from the rows below. With a name,
a folder and a batch it is a training, which is killed before that batch:

    python -m tests.exact.settings NAME FOLDER (plain | whole | BATCH)
"""

import json
import os
import random
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import callbacks as of_lightning
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, IterableDataset, WeightedRandomSampler, get_worker_info

from leyden import Exact
from leyden.exact.digest import digest_of_content
from tests import ENGINE
from tests.conftest import start
from tests.strangers.plain import Rows

SAME, ANNOUNCED, REFUSED = "same bits", "announced", "refused"
WAYS = {"one process": 1, "DDP of two": 2}
NUM, BATCH, EPOCHS = 48, 4, 4
PAGE = ENGINE / "docs" / "exact-matrix.md"
HEAD = "| a Trainer with |"


class Noisy(Rows):
    """Samples into which each source of random numbers draws."""

    def __getitem__(self, index):
        inputs, targets = super().__getitem__(index)
        noise = torch.randn(4) + float(np.random.rand()) + random.random()
        return inputs + noise / 20, targets


class Stream(IterableDataset):
    def __iter__(self):
        data, order = Noisy(NUM), torch.randperm(NUM).tolist()
        worker = get_worker_info()
        if worker:
            order = order[worker.id :: worker.num_workers]
        for index in order:
            yield data[index]


class Net(L.LightningModule):
    def __init__(self, schedule=None, *, are_logged=True):
        super().__init__()
        layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1)]
        self.net = nn.Sequential(*layers)
        self.schedule, self.are_logged = schedule, are_logged

    def loss(self, batch):
        inputs, targets = batch
        return F.mse_loss(self.net(inputs).squeeze(1), targets)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        if self.are_logged:
            self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        if self.are_logged:
            self.log("val_loss", self.loss(batch), sync_dist=True)

    def configure_optimizers(self):
        trained = [each for each in self.parameters() if each.requires_grad]
        optimizer = torch.optim.Adam(trained, 0.01)
        if self.schedule is None:
            return optimizer
        return [optimizer], [self.schedule(optimizer)]


class Manual(Net):
    """Two optimizers, of which one steps in each third batch, with its schedule."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.other = nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        each_batch, each_third = self.optimizers()
        inputs, targets = batch
        loss = self.loss(batch)
        other = F.mse_loss(self.other(inputs).squeeze(1), targets)
        each_batch.zero_grad()
        self.manual_backward(loss + other)
        each_batch.step()
        if batch_idx % 3 == 2:
            each_third.step()
            each_third.zero_grad()
            self.lr_schedulers().step()
        self.log("loss", loss)

    def configure_optimizers(self):
        other = torch.optim.SGD(self.other.parameters(), 0.05)
        adam = torch.optim.Adam(self.net.parameters(), 0.01)
        return [adam, other], [lr_scheduler.StepLR(other, 5, 0.7)]


class Finetuned(Net):
    @property
    def backbone(self):
        return self.net[:2]


def compiled():
    module = Net()
    module.compile(backend="aot_eager")
    return module


def one_cycle(optimizer):
    cycle = lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=NUM // BATCH * EPOCHS)
    return {"scheduler": cycle, "interval": "step"}


def by_step(optimizer):
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.8)
    when = {"interval": "step", "frequency": 3, "monitor": "loss_step"}
    return {"scheduler": plateau, **when}


def by_epoch(optimizer):
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5, threshold=10)
    return {"scheduler": plateau, "interval": "epoch", "monitor": "val_loss"}


def loaders(data=None, **options):
    if data is None:
        data = Noisy(NUM)
        if "sampler" not in options:
            options["shuffle"] = True
    return DataLoader(data, BATCH, **options), DataLoader(Noisy(16, 1), BATCH)


def weighted():
    return loaders(sampler=WeightedRandomSampler(torch.arange(1.0, NUM + 1), NUM))


class Seen(L.Callback):
    """The validations."""

    def __init__(self):
        self.seen = []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking and "val_loss" in trainer.callback_metrics:
            self.seen.append([trainer.global_step, float(trainer.callback_metrics["val_loss"])])


class Setting(NamedTuple):
    """A row: how the page names it, the Trainer's options, what is trained, and what is expected."""

    name: str
    trainer: dict[str, Any] = {}  # noqa: RUF012
    module: Callable[[], Any] = Net
    data: Callable[[], Any] = loaders
    callback: Callable[[], Any] | None = None
    expected: str = SAME  # in one process and in two


WITHIN = {"check_val_every_n_epoch": None}
SETTINGS = {
    "accumulate": Setting("`accumulate_grad_batches=4`", {"accumulate_grad_batches": 4}),
    "bf16_mixed": Setting("`precision=bf16-mixed`", {"precision": "bf16-mixed"}),
    "bf16_true": Setting("`precision=bf16-true`", {"precision": "bf16-true"}),
    "double": Setting("`precision=64-true`", {"precision": "64-true"}),
    "clip": Setting(
        "gradients clipped by value",
        {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
    ),
    "val_quarter": Setting("`val_check_interval=.25`", {"val_check_interval": 0.25}),
    "val_5": Setting("`val_check_interval=5`, across epochs", {"val_check_interval": 5, **WITHIN}),
    "val_18": Setting(
        "`val_check_interval=18`, across epochs", {"val_check_interval": 18, **WITHIN}
    ),
    "ema": Setting(
        "`EMAWeightAveraging`", callback=lambda: of_lightning.EMAWeightAveraging(decay=0.9)
    ),
    "ema_half": Setting(
        "the same, and `val_check_interval=.5`",
        {"val_check_interval": 0.5},
        callback=lambda: of_lightning.EMAWeightAveraging(decay=0.9),
    ),
    "swa": Setting(
        "`StochasticWeightAveraging`",
        callback=lambda: of_lightning.StochasticWeightAveraging(0.01, swa_epoch_start=2),
        expected=ANNOUNCED,
    ),
    "early_stopping": Setting(
        "`EarlyStopping`",
        callback=lambda: of_lightning.EarlyStopping("val_loss", min_delta=1.0, patience=1),
    ),
    "manual": Setting("manual optimization, two optimizers", module=Manual),
    "compiled": Setting("`module.compile()`", module=compiled),
    "stream_workers": Setting(
        "an `IterableDataset` with two workers", data=lambda: loaders(Stream(), num_workers=2)
    ),
    "stream": Setting("an `IterableDataset`", data=lambda: loaders(Stream())),
    "persistent": Setting(
        "`persistent_workers`", data=lambda: loaders(num_workers=2, persistent_workers=True)
    ),
    "limited": Setting("`limit_train_batches=.6`", {"limit_train_batches": 0.6}),
    "max_time": Setting("`max_time` and `max_steps`", {"max_time": "00:01:00:00", "max_steps": 40}),
    "checkpoint": Setting(
        "`ModelCheckpoint`, the two best and the last",
        callback=lambda: of_lightning.ModelCheckpoint(
            "own", monitor="val_loss", save_top_k=2, save_last=True
        ),
    ),
    "one_cycle": Setting("`OneCycleLR` by the step", module=lambda: Net(one_cycle)),
    "plateau_epoch": Setting("`ReduceLROnPlateau` by the epoch", module=lambda: Net(by_epoch)),
    "plateau_step": Setting("`ReduceLROnPlateau` by the step", module=lambda: Net(by_step)),
    "weighted": Setting("`WeightedRandomSampler`", data=weighted),
    "finetuning": Setting(
        "`BackboneFinetuning`",
        module=Finetuned,
        callback=lambda: of_lightning.BackboneFinetuning(2),
    ),
    "overfit": Setting("`overfit_batches=3`", {"overfit_batches": 3, "max_epochs": 12}),
    "timer": Setting("`Timer`", callback=lambda: of_lightning.Timer(duration="00:01:00:00")),
    "schedule": Setting(
        "`GradientAccumulationScheduler`",
        callback=lambda: of_lightning.GradientAccumulationScheduler({0: 1, 2: 3}),
    ),
    "monitor": Setting(
        "`LearningRateMonitor`, a logger",
        {"logger": True},
        module=lambda: Net(one_cycle),
        callback=of_lightning.LearningRateMonitor,
    ),
    "barebones": Setting("`barebones`", {"barebones": True}, module=lambda: Net(are_logged=False)),
    "anomaly": Setting(
        "`detect_anomaly` and `deterministic`", {"detect_anomaly": True, "deterministic": True}
    ),
    "reload": Setting(
        "`reload_dataloaders_every_n_epochs=1`", {"reload_dataloaders_every_n_epochs": 1}
    ),
    "sanity": Setting("`num_sanity_val_steps=-1`", {"num_sanity_val_steps": -1}),
    "spikes": Setting(
        "`SpikeDetection`", callback=lambda: of_lightning.SpikeDetection(rtol=1e9, atol=1e9)
    ),
}


class Kill(L.Callback):
    """Kills this process before a batch, counted through all epochs; of two, the second one."""

    def __init__(self, at, num_processes):
        self.at, self.num_processes = at, num_processes

    def on_train_batch_start(self, trainer, *args):
        is_mine = trainer.global_rank == self.num_processes - 1
        if is_mine and trainer.fit_loop.total_batch_idx + 1 == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def trainer_of(setting, folder, callbacks, num_processes):
    options = {"accelerator": "cpu", "max_epochs": EPOCHS, "log_every_n_steps": 1}
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    if "barebones" in setting.trainer:
        del options["log_every_n_steps"]
    else:
        options |= dict.fromkeys(quiet, False)
    options |= setting.trainer
    if options.get("logger"):
        options["logger"] = CSVLogger(folder)
    if any(isinstance(each, of_lightning.ModelCheckpoint) for each in callbacks):
        options["enable_checkpointing"] = True
    if num_processes > 1:
        options |= {"devices": num_processes, "strategy": DDPStrategy()}
    return L.Trainer(callbacks=callbacks, default_root_dir=folder, **options)


def train(name, folder, way):
    """Train, from the first line of a script on, and write what has come of it."""
    torch.set_num_threads(1)
    os.chdir(folder)
    setting, num_processes = SETTINGS[name], int(os.environ.get("NUM_PROCESSES", "1"))
    seen, at = Seen(), int(way) if way.isdigit() else 0
    exact = Exact(folder / "run", seed=0, every_n_steps=2 if name == "overfit" else 3)
    callbacks = [Kill(at, num_processes), seen]
    if setting.callback:
        callbacks.append(setting.callback())
    trainer, module = trainer_of(setting, folder, callbacks, num_processes), setting.module()
    if way == "plain":
        trainer.fit(module, *setting.data())
    else:
        with exact:
            trainer.fit(module, *setting.data())
    bits = [module.state_dict(), [each.state_dict() for each in trainer.optimizers]]
    schedules = [each.scheduler.state_dict() for each in trainer.lr_scheduler_configs]
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    done = {"steps": trainer.global_step, "epochs": trainer.current_epoch}
    done["batches"] = trainer.fit_loop.total_batch_idx + 1
    done["validations"] = [step for step, _ in seen.seen]
    done["bits"] = digest_of_content([*bits, schedules, metrics, seen.seen])
    (folder / f"result-{trainer.global_rank}.json").write_text(json.dumps(done))


class Start(NamedTuple):
    codes: list[int]
    said: list[str]  # Leyden's lines
    results: list[dict[str, Any]]  # of each process

    @property
    def lengths(self):
        return [{**each, "bits": None} for each in self.results]


def started(name, folder, way, num_processes):
    folder.mkdir(parents=True, exist_ok=True)
    environment = {"NUM_PROCESSES": str(num_processes), "OMP_NUM_THREADS": "1"}
    if num_processes > 1:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        environment |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    script, processes = ("-m", "tests.exact.settings"), []
    for rank in range(num_processes):
        if num_processes > 1:
            environment["LOCAL_RANK"] = str(rank)
        words = (name, str(folder), way)
        processes.append(start(*words, script=script, cwd=ENGINE, **environment))
    outputs = [each.communicate(timeout=120)[0] for each in processes]
    codes = [each.poll() for each in processes]
    (folder / f"output-{way}.txt").write_text("\n".join(outputs))
    lines = [line for each in outputs for line in each.splitlines()]
    found = [json.loads(each.read_text()) for each in sorted(folder.glob("result-*.json"))]
    return Start(codes, [line for line in lines if line.startswith("leyden: ")], found)


def outcome(name, way, folder, seed=0):
    """What two kills at drawn batches come to, and the line that says so."""
    num_processes = WAYS[way]
    whole = started(name, folder / "whole", "whole", num_processes)
    if any(whole.codes):
        return (REFUSED if whole.said else "crash"), (whole.said or ["nothing is said"])[-1]
    plain = started(name, folder / "plain", "plain", num_processes)
    if plain.lengths != whole.lengths:
        return "harmed", f"alone {plain.lengths}, by Exact {whole.lengths}"
    num_batches = whole.results[0]["batches"]
    kills = sorted(random.Random(f"{name} {seed}").sample(range(2, num_batches), 2))
    said = []
    for at in kills:
        killed = started(name, folder / "run", str(at), num_processes)
        said += killed.said
        if killed.codes[-1] != -signal.SIGKILL:
            return "crash", f"killed at {kills}: {killed.codes}, {killed.said[-1:]}"
    last = started(name, folder / "run", "whole", num_processes)
    said += last.said
    if any(last.codes):
        return "crash", f"killed at {kills}: {last.codes}, {last.said[-1:]}"
    announced = [line for line in said if "exact resume is not guaranteed" in line]
    if last.results == whole.results:
        return SAME, (announced or [""])[0]
    return (ANNOUNCED if announced else "silent"), (announced or [f"killed at {kills}"])[0]


def table():
    lines = [f"{HEAD} {' | '.join(WAYS)} |", "|---|---|---|"]
    for setting in SETTINGS.values():
        lines.append(f"| {setting.name} | {setting.expected} | {setting.expected} |")
    return "\n".join(lines) + "\n"


def on_the_page(text):
    """What a page has before the table, the table, and what follows."""
    before, begin, rest = text.partition(HEAD)
    found, end, after = (begin + rest).partition("\n\n")
    return before, found.rstrip("\n") + "\n", end[1:] + after


if __name__ == "__main__":
    if len(sys.argv) > 1:
        name, folder, way = sys.argv[1:]
        train(name, Path(folder), way)
    else:
        before, _, after = on_the_page(PAGE.read_text())
        PAGE.write_text(before + table() + after)
