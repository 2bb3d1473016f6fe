"""`leyden.Exact` in anybody's Trainer: two lines, and the same bits after any stop."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from random import Random, shuffle

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from leyden import Exact
from leyden.exact import ExactError
from leyden.exact.digest import digest_of_content

X = torch.randn(160, 8, generator=torch.Generator().manual_seed(1))
Y = X.sum(1, keepdim=True)
CALLS = [0]
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Lightning's own checkpoints go to the working directory."""
    monkeypatch.chdir(tmp_path)


def loader(**more):
    return DataLoader(TensorDataset(X, Y), 16, shuffle=True, **more)


class Net(L.LightningModule):
    """Draws, counts and remembers, as modules do."""

    def __init__(self):
        super().__init__()
        self.save_hyperparameters({"a": object})
        self.net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.3), torch.nn.Linear(16, 1))
        self.rng, self.seen, self.losses = np.random.default_rng(), 0, []

    def loss(self, batch):
        self.seen += 1
        order = [1, 2, 3]
        shuffle(order)
        loss = ((self.net(batch[0]) - batch[1]) ** 2).mean() * (
            1 + self.seen / 100 + order[0] / 100 + self.rng.random()
        )
        self.losses.append(loss.item())
        return loss

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch) * (1 + self.losses[0] / 100)
        self.log("loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val", ((self.net(batch[0]) - batch[1]) ** 2).mean())

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), 1e-2)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Manual(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()


class WithLoaders(Net):
    def train_dataloader(self):
        return loader()

    def val_dataloader(self):
        return DataLoader(TensorDataset(X, Y), 80)


class Data(L.LightningDataModule):
    def setup(self, stage):
        self.order = Random(0)

    def train_dataloader(self):
        return loader()


class Drawn(IterableDataset):
    """Samples that are drawn, without a length; from a list, those that it has when an epoch starts."""

    def __init__(self, source=None):
        self.source = source

    def __iter__(self):
        of_list = [self.source[n] for n in torch.randint(len(self.source), (160,))] if self.source else [None] * 160
        for value in of_list:
            inputs = torch.randn(8) if value is None else torch.full((8,), value)
            yield inputs, inputs.sum(0, keepdim=True)


class Collector(Net):
    """Fills the list from which its loader draws."""

    def __init__(self):
        super().__init__()
        self.buffer = [0.1, 0.2, 0.3]

    def training_step(self, batch, batch_idx):
        self.buffer.append(0.01 * self.global_step)
        return super().training_step(batch, batch_idx)

    def train_dataloader(self):
        return DataLoader(Drawn(self.buffer), 16)


class Global(Net):
    """A variable of its file."""

    def training_step(self, batch, batch_idx):
        CALLS[0] += 1
        return super().training_step(batch, batch_idx) * (1 + CALLS[0])


class KilledError(BaseException):
    """In place of a kill: nothing of the run is saved."""


class Kill(L.Callback):
    def __init__(self, at):
        self.at = at

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.at:
            raise KilledError


QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def start(folder, module=Net, data=None, at=-1, callbacks=(), exact="report", seed=0, **options):
    """Train from the first line of a script on."""
    mine = Exact(folder, seed=seed, every_n_steps=4, exact=exact)
    options = {"max_epochs": 3, "log_every_n_steps": 3, **QUIET, **options}
    trainer = L.Trainer(callbacks=[mine, Kill(at), *callbacks], **options)
    made = module()
    try:
        mine.fit(trainer, made, *([] if data is None else data()))
    except KilledError:
        return None
    return digest_of_content([made.state_dict(), made.seen, made.losses])


ROWS = {
    "loaders": (Net, lambda: (loader(), DataLoader(TensorDataset(X, Y), 80))),
    "data module": (Net, lambda: (Data(),)),
    "of the module": (WithLoaders, None),
    "manual": (Manual, lambda: (loader(),)),
    "workers": (Net, lambda: (loader(num_workers=1, persistent_workers=True),)),
    "no length": (Net, lambda: (DataLoader(Drawn(), 16),)),
    "list": (Collector, None),
}


@pytest.mark.parametrize("name", ROWS)
def test_killed_thrice_it_ends_in_the_same_bits(tmp_path, name, capsys):
    whole = start(tmp_path / "whole", *ROWS[name])
    for at in (2, 7, 10, 23):  # before the first checkpoint, within an epoch, at the end of one
        assert start(tmp_path / "killed", *ROWS[name], at=at) is None
    assert start(tmp_path / "killed", *ROWS[name], exact="require") == whole
    said = capsys.readouterr().err
    assert "exact resume" not in said
    assert "had ended before" not in said
    assert start(tmp_path / "killed", *ROWS[name]) is not None  # it is finished already
    assert "this training had ended before: the module has its last weights, but not" in capsys.readouterr().err


def test_a_schedule_that_is_lost_within_an_epoch_is_announced_or_an_error(tmp_path, capsys):
    for mode in ("report", "require"):
        averaging = lambda: [StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)]  # noqa: E731
        start(tmp_path / mode, *ROWS["loaders"], at=6, callbacks=averaging())
        with pytest.raises(ExactError, match="1 schedules") if mode == "require" else contextlib.nullcontext():
            start(tmp_path / mode, *ROWS["loaders"], callbacks=averaging(), exact=mode)
    assert "not guaranteed: the checkpoint has 1 schedules, and this start 0" in capsys.readouterr().err


def test_what_is_not_looked_at_is_seen_by_what_it_does(tmp_path, capsys):
    for at in (7, -1):
        CALLS[0] = 0
        start(tmp_path, Global, ROWS["loaders"][1], at=at)
    assert "parts from the interrupted run at step 5 (loss " in capsys.readouterr().err
    start(tmp_path / "b", Global, ROWS["loaders"][1], at=7)
    CALLS[0] = 0
    with pytest.raises(ExactError, match="exact=require: parts from the interrupted run at step 5"):
        start(tmp_path / "b", Global, ROWS["loaders"][1], exact="require")


def test_a_trainers_own_parts_stay_as_they_are(tmp_path):
    own = [ModelCheckpoint(tmp_path / "own", monitor="val", save_last=True), EarlyStopping("val", patience=9)]
    options = {"enable_checkpointing": True, "logger": CSVLogger(tmp_path / "csv")}
    mine = Exact(tmp_path / "run", every_n_steps=4)
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", callbacks=[mine, *own], enable_progress_bar=False, **options
    )
    callbacks, files = [*trainer.callbacks], trainer.strategy.checkpoint_io
    mine.fit(trainer, Net(), *ROWS["loaders"][1]())
    assert trainer.callbacks == callbacks
    assert trainer.strategy.checkpoint_io is files
    content = torch.load(tmp_path / "own" / "last.ckpt", weights_only=False)
    assert "hyper_parameters" in content
    assert "hyper_parameters" not in torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)


class Unreadable(Net):
    def on_save_checkpoint(self, checkpoint):
        checkpoint["mine"] = {"list": [1, object()]}


class NotFinite(Net):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (float("nan") if self.global_step >= 9 else 1)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        (Unreadable, "mine.list.1 is a builtins.object"),
        (NotFinite, "weights are not finite at step 10"),
    ],
)
def test_what_can_not_be_saved_ends_no_run(tmp_path, module, line, capsys):
    assert start(tmp_path, module, ROWS["loaders"][1], at=14) is None
    assert start(tmp_path, module, ROWS["loaders"][1])
    assert line in capsys.readouterr().err
    if module is Unreadable:
        with pytest.raises(ExactError, match="mine"):  # before the first batch
            start(tmp_path / "required", module, ROWS["loaders"][1], exact="require", at=1)


def test_a_folder_that_can_not_be_written_to_ends_no_run(tmp_path, capsys, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("leyden.exact.checkpoint.replacing", full)
    assert start(tmp_path, *ROWS["loaders"])
    assert "the checkpoint could not be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [({"seed": -1}, "seed=-1"), ({"exact": "yes"}, "must be report"), ({"every_n_steps": 0}, "must be a positive")],
)
def test_a_wrong_argument_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        Exact(tmp_path, **options)


def test_what_could_not_resume_is_refused(tmp_path):
    with pytest.raises(ExactError, match="LearningRateFinder trains and goes back before the run begins"):
        start(tmp_path, *ROWS["loaders"], callbacks=[LearningRateFinder()])
    with pytest.raises(ValueError, match="callbacks="):
        Exact(tmp_path).fit(L.Trainer(accelerator="cpu", logger=False), Net(), loader())
    start(tmp_path, *ROWS["loaders"], at=9)
    with pytest.raises(ExactError, match="trained with seed 0, and this start has 1"):
        start(tmp_path, *ROWS["loaders"], seed=1)


def test_the_same_object_can_begin_anew(tmp_path):
    """As in a notebook, whose cell is executed again, with the folder deleted."""
    mine, digests = Exact(tmp_path / "run", every_n_steps=4), []
    torch.manual_seed(0)
    made = Net().state_dict()
    for n in range(3):
        torch.manual_seed(0), np.random.seed(0)
        trainer = L.Trainer(
            max_epochs=1, accelerator="cpu", callbacks=[mine], logger=False, enable_progress_bar=False
        )
        module = Net()
        module.load_state_dict(made)
        module.rng = np.random.default_rng(0)
        mine.fit(trainer, module, *ROWS["loaders"][1]())
        digests.append(trainer.global_step)
        if n == 1:
            shutil.rmtree(tmp_path / "run")
    assert digests == [10, 10, 10]


def test_a_training_by_the_trainer_alone_is_reported(tmp_path, capsys):
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    mine = Exact(tmp_path / "run")
    L.Trainer(max_epochs=1, callbacks=[mine], **options).fit(Net(), loader())
    assert "this run can't resume: call exact.fit" in capsys.readouterr().err
    mine.fit(L.Trainer(callbacks=[mine], fast_dev_run=True, **options), Net(), loader())
    assert "fast_dev_run: nothing is kept" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("module", [Net, Global])
def test_it_can_be_asked_beforehand(tmp_path, module, capsys):
    mine = Exact(tmp_path / "run", every_n_steps=4)
    trainer = L.Trainer(max_epochs=2, accelerator="cpu", callbacks=[mine], logger=False, enable_progress_bar=False)
    torch.set_num_threads(1)
    is_same = mine.test(trainer, module(), *ROWS["loaders"][1]())
    printed = capsys.readouterr().out
    assert is_same == (module is Net), printed
    assert ("the same bits in all 8 steps" in printed) == is_same
    assert not (tmp_path / "run").exists()


SCRIPT = """
import os, sys, hashlib
import lightning as L
from leyden import Exact
from tests.exact.test_fit import Net, loader, KilledError

class Kill(L.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == int(os.environ["AT"]) and trainer.global_rank == 2:
            os.kill(os.getpid(), int(os.environ["BY"]))

exact = Exact(sys.argv[1], every_n_steps=2)
trainer = L.Trainer(max_epochs=3, callbacks=[exact, Kill()], accelerator="cpu", devices=3, logger=False,
    strategy="ddp", enable_checkpointing=False, enable_progress_bar=False)
module = Net()
exact.fit(trainer, module, loader())
if trainer.is_global_zero:
    print("END", hashlib.sha256(b"".join(each.numpy().tobytes() for each in module.state_dict().values())).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.matrix
def test_processes_that_are_killed_or_stopped_end_in_the_same_bits(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)

    def begin(folder, at=-1, by=0):
        environment = {**os.environ, "AT": str(at), "BY": str(int(by)), "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, str(tmp_path / "train.py"), str(tmp_path / folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        end = [line for line in done.stdout.splitlines() if line.startswith("END")]
        return done.returncode, end, done.stderr

    (_, whole, error) = begin("whole")
    assert whole, error
    for at, by in ((2, signal.SIGKILL), (4, signal.SIGTERM), (6, signal.SIGINT)):
        code, end, error = begin("stopped", at, by)
        assert code, error
        assert not end
    _, end, error = begin("stopped")
    assert end == whole, error
    assert "exact resume" not in error
