"""`leyden.Exact` in anybody's Trainer: two lines, and the same bits after any stop."""

import contextlib
import enum
import random
import shutil
import sys
import threading
from random import shuffle
from unittest.mock import Mock

import lightning as L
import numpy as np
import pytest
import torch
import torchmetrics
from lightning.pytorch import callbacks as of_lightning
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Subset

from leyden import Exact
from leyden.exact import ExactError, state
from leyden.exact.digest import digest_of_content
from leyden.exact.memory import Memory
from tests import records
from tests.conftest import here
from tests.strangers.plain import Plain, PlainData, Rows
from tests.strangers.stand_ins import Manual, Whole

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Lightning's own checkpoints go to the working directory."""
    monkeypatch.chdir(tmp_path)


def loader(**more):
    return DataLoader(Rows(160), 16, shuffle=True, **more)


class Net(Plain):
    def __init__(self):
        super().__init__()
        self.save_hyperparameters({"a": object})
        self.rng, self.seen, self.losses = np.random.default_rng(), 0, []

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.seen += 1  # which the checkpoint of this step must have

    def train_loss(self, batch, batch_idx):
        order = [1, 2, 3]
        shuffle(order)
        loss = self.loss(batch) * (1 + self.seen / 100 + order[0] / 100 + self.rng.random())
        self.losses.append(loss.item())
        return loss * (1 + self.losses[0] / 100)

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Following(Net):
    """It is validated within an epoch; then its schedule is stepped."""

    def on_validation_epoch_end(self):
        self.seen += 5

    def configure_optimizers(self):
        optimizer = Plain.configure_optimizers(self)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=0.9, patience=0, threshold=10.0
        )
        config = {"scheduler": schedule, "interval": "step", "frequency": 2, "monitor": "val/loss"}
        return {"optimizer": optimizer, "lr_scheduler": config}


class Drawn(IterableDataset):
    """Samples that are drawn, without a length; from a list, those that it has when an epoch starts."""

    def __init__(self, source=None):
        self.source = source

    def __iter__(self):
        of_list = (
            [self.source[n] for n in torch.randint(len(self.source), (160,))]
            if self.source
            else [None] * 160
        )
        for value in of_list:
            inputs = torch.randn(4) if value is None else torch.full((4,), value)
            yield inputs, inputs.sum()


class Collector(Net):
    """Fills the list from which its loader draws."""

    def __init__(self):
        super().__init__()
        self.buffer = [0.1, 0.2, 0.3]

    def train_loss(self, batch, batch_idx):
        self.buffer.append(0.01 * self.global_step)
        return super().train_loss(batch, batch_idx)

    def train_dataloader(self):
        return DataLoader(Drawn(self.buffer), 16)


class Harder(Rows):
    """Its samples draw more numbers from epoch to epoch, from the generator that orders them, too."""

    def __init__(self, module):
        super().__init__(160)
        self.module = module

    def __getitem__(self, index):
        inputs, targets = super().__getitem__(index)
        return inputs + sum(random.random() for _ in range(1 + self.module.level)), targets


class Popping(RandomSampler):
    def __iter__(self):
        left = [*range(self.num_samples)]
        while left:
            yield left.pop(random.randrange(len(left)))


class Curriculum(Plain):
    def __init__(self):
        super().__init__()
        self.level = 0

    def on_train_epoch_start(self):
        self.level = self.current_epoch

    def train_dataloader(self):
        samples = Harder(self)
        return DataLoader(samples, 16, sampler=Popping(samples))


class SetsWeights(Net):
    def on_train_start(self):
        torch.nn.init.ones_(self.net[0].weight)


class SetsABuffer(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("level", torch.zeros(1))

    def train_loss(self, batch, batch_idx):
        self.level += 1
        return super().train_loss(batch, batch_idx) * (1 + self.level.item() / 100)

    def on_train_start(self):
        self.level.fill_(5.0)


class Checked(SetsABuffer):
    """The check of a few batches before training changes what training uses."""

    def __init__(self):
        super().__init__()
        self.num_batches, self.scale, self.setting = 0, None, 0

    def on_fit_start(self):
        self.setting = self.trainer.num_sanity_val_steps

    def on_train_start(self):
        super().on_train_start()
        self.drawn = self.num_batches + np.random.default_rng().random()

    def validation_step(self, batch, batch_idx):
        np.random.default_rng()
        self.num_batches += 1
        self.level = self.level + 1
        if self.scale is None:
            self.scale = 1 + self.num_batches / 10
        super().validation_step(batch, batch_idx)

    def train_loss(self, batch, batch_idx):
        factor = self.scale * (1 + (self.num_batches + self.drawn + self.setting) / 100)
        return super().train_loss(batch, batch_idx) * factor


class Counts(L.Callback):
    """Its own state counts validations; it makes an attribute in the check, and freezes a weight."""

    def __init__(self):
        self.number, self.checked = 0, 0

    def on_sanity_check_start(self, trainer, module):
        self.checked = 1

    def on_sanity_check_end(self, trainer, module):
        module.net[0].bias.requires_grad_(False)

    def on_validation_end(self, trainer, module):
        self.number += 1
        module.seen += self.number + self.checked

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state_dict):
        self.number = state_dict["number"]


class Centred(Rows):
    """It knows its centre from the sample that is read first, and draws by itself."""

    def __init__(self, num):
        super().__init__(num)
        self.centre, self.kind = None, enum.Enum("Kind", "NEW READ").NEW
        self.rng, self.noise = np.random.default_rng(3), torch.Generator()

    def __getitem__(self, index):
        inputs, targets = super().__getitem__(index)
        if self.centre is None:
            self.centre = inputs.mean()
            self.kind = type(self.kind).READ
        drawn = self.rng.random() + torch.rand(1, generator=self.noise)
        return inputs - self.centre * self.kind.value + drawn, targets


def parts():
    """Loaders of training and of validation of the same data."""
    samples = Centred(200)
    train, val = Subset(samples, range(160)), Subset(samples, range(160, 200))
    return DataLoader(train, 16, shuffle=True), DataLoader(val, 20)


class KilledError(BaseException):
    """In place of a kill: nothing of the run is saved."""


class Kill(L.Callback):
    def __init__(self, at):
        self.at = at

    def on_train_batch_end(self, trainer, *_):
        if 0 < self.at <= trainer.global_step:
            raise KilledError


def trainer_of(*callbacks, **options):
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return L.Trainer(
        accelerator="cpu", callbacks=[*callbacks], **{**dict.fromkeys(quiet, False), **options}
    )


def start(
    folder, module=Net, data=None, options=None, *, at=-1, callbacks=(), exact="report", seed=0
):
    """Train from the first line of a script on."""
    mine = Exact(folder, seed=seed, every_n_steps=4, exact=exact)
    options = {"max_epochs": 3, "log_every_n_steps": 3, **(options or {})}
    callbacks = [*callbacks, *(make() for make in options.pop("made", ()))]
    trainer, made = trainer_of(mine, Kill(at), *callbacks, **options), module()
    try:
        mine.fit(trainer, made, *([] if data is None else data()))
    except KilledError:
        return None
    return digest_of_content(made.state_dict()), digest_of_content(getattr(made, "losses", None))


def both():
    """Loaders of training and of validation."""
    return loader(), DataLoader(Rows(160, 1), 80)


ROWS = {
    "loaders": (Net, both),
    "data module": (Plain, lambda: (PlainData(),)),
    "of the module": (Whole, None),
    "manual": (Manual, lambda: (PlainData(),)),
    "workers": (Net, lambda: (loader(num_workers=1, persistent_workers=True),)),
    "no length": (Net, lambda: (DataLoader(Drawn(), 16),)),
    "list": (Collector, None),
    "curriculum": (Curriculum, None),
    "validated within": (Following, both, {"val_check_interval": 2}),
    "limited": (Net, both, {"max_steps": 25}),
    "set weights": (SetsWeights, both),
    "set a buffer": (SetsABuffer, both),
    "checked before": (Checked, parts, {"made": [Counts]}),
    "averaged": (Net, both, {"made": [lambda: of_lightning.EMAWeightAveraging(decay=0.9)]}),
    "double": (Net, both, {"precision": "64-true"}),
}


@pytest.mark.parametrize("name", ROWS)
def test_killed_thrice_it_ends_in_the_same_bits(tmp_path, name, capsys):
    whole = start(tmp_path / "whole", *ROWS[name])
    for at in (
        2,
        10,
        19,
        23,
    ):  # before the first checkpoint, within an epoch and a later one, at the end of one
        assert start(tmp_path / "killed", *ROWS[name], at=at) is None
    assert start(tmp_path / "killed", *ROWS[name], exact="require") == whole
    said = capsys.readouterr().err
    assert "exact resume" not in said
    assert "had ended before" not in said
    assert start(tmp_path / "killed", *ROWS[name])[0] == whole[0]  # it is finished already
    assert (
        "this training had ended before: the module has its last weights, but not"
        in capsys.readouterr().err
    )


def test_the_mean_by_which_spikes_are_found_is_kept(tmp_path):
    found = {}
    for folder, at in (("whole", -1), ("killed", 14), ("killed", -1)):
        spikes = of_lightning.SpikeDetection(atol=1e9)
        start(tmp_path / folder, Net, both, at=at, callbacks=[spikes])
        found[folder] = float(spikes.last_val), spikes.running_mean.compute()
    assert found["killed"] == found["whole"]


@pytest.mark.parametrize("mode", ["report", "require"])
def test_what_no_checkpoint_has_is_announced_or_an_error(tmp_path, capsys, mode):
    line = "the checkpoint has 1 schedules, and this start 0"  # it is lost within an epoch
    averaging = [
        of_lightning.StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1) for _ in range(2)
    ]
    start(tmp_path, Net, both, at=6, callbacks=averaging[:1])
    with pytest.raises(ExactError, match=line) if mode == "require" else contextlib.nullcontext():
        start(tmp_path, Net, both, callbacks=averaging[1:], exact=mode)
    assert (f"exact resume is not guaranteed: {line}" in capsys.readouterr().err) == (
        mode == "report"
    )


def test_a_trainers_own_parts_stay_as_they_are(tmp_path):
    saves = of_lightning.ModelCheckpoint(tmp_path / "own", monitor="val/loss", save_last=True)
    own = [saves, of_lightning.EarlyStopping("val/loss", patience=9)]
    mine = Exact(tmp_path / "run", every_n_steps=4)
    options = {"enable_checkpointing": True, "logger": CSVLogger(tmp_path / "csv")}
    trainer = trainer_of(mine, *own, max_epochs=2, **options)
    callbacks, files = [*trainer.callbacks], trainer.strategy.checkpoint_io
    mine.fit(trainer, Net(), *both())
    assert trainer.callbacks == callbacks
    assert trainer.strategy.checkpoint_io is files
    assert "hyper_parameters" in torch.load(tmp_path / "own" / "last.ckpt", weights_only=False)
    assert "hyper_parameters" not in torch.load(
        tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True
    )


class MakesAnObject(Net):
    tool = None

    def validation_step(self, batch, batch_idx):
        if self.tool is None:
            self.tool = Tool()
        super().validation_step(batch, batch_idx)


class Tool:
    pass


def test_an_object_that_the_check_before_training_makes_is_announced(tmp_path, capsys):
    start(tmp_path, MakesAnObject, both, at=6)
    line = "module.tool (a Tool that was first made in training)"
    assert line in capsys.readouterr().err


def test_a_trainer_that_resumed_checks_its_next_training(tmp_path):
    start(tmp_path / "run", Checked, both, at=21)  # the checkpoint is of the end of an epoch
    trainer = trainer_of(max_epochs=3)
    for folder, expected in (("run", False), ("next", True)):
        module = Checked()
        checked = Mock()
        trainer.callbacks.append(L.pytorch.callbacks.LambdaCallback(on_sanity_check_end=checked))
        trainer.fit_loop.epoch_progress.reset()
        Exact(tmp_path / folder, every_n_steps=4).fit(trainer, module, *both())
        assert checked.called == expected


class Unreadable(Net):
    def on_save_checkpoint(self, checkpoint):
        checkpoint["mine"] = {"list": [1, object()]}


class NeedsUnreadable(Unreadable):
    """As darts' modules do: its own object of this start is what it gets."""

    def on_load_checkpoint(self, checkpoint):
        assert len(checkpoint["mine"]["list"]) == 2


class LateUnreadable(Net):
    def on_save_checkpoint(self, checkpoint):
        if self.global_step > 4:
            checkpoint["late"] = object()


class Holder(torch.nn.Identity):
    def get_extra_state(self):
        return object()


class UnreadableNet(Net):
    def __init__(self):
        super().__init__()
        self.net.append(Holder())


class KeepsAnObject(L.Callback):
    def state_dict(self):
        return {"metric": object()}


class NotFinite(Net):
    def train_loss(self, batch, batch_idx):
        return super().train_loss(batch, batch_idx) * (float("nan") if self.global_step >= 9 else 1)


class SavesAFormat(Net):
    def on_save_checkpoint(self, checkpoint):
        checkpoint["format"] = 2


UNSAVED = {
    SavesAFormat: "this run can't resume: on_save_checkpoint saves under the key format",
    UnreadableNet: "this run can't resume: the checkpoint could not be read again: state_dict.net.4._extra_state is a",
    NotFinite: "weights are not finite at step 10",
    Net: "the checkpoint could not be written",
}


@pytest.mark.parametrize("module", UNSAVED)
def test_what_can_not_be_saved_ends_no_run(tmp_path, module, capsys, monkeypatch):
    if module is Net:
        full = Mock(side_effect=OSError(28, "No space left on device"))
        monkeypatch.setattr("leyden.exact.checkpoint.replacing", full)
    assert start(tmp_path, module, both, at=14) is None
    assert start(tmp_path, module, both)
    assert UNSAVED[module] in (said := capsys.readouterr().err)
    assert said.count("can't resume") == 2 * (
        module in (UnreadableNet, SavesAFormat)
    )  # once a start


LEFT_OUT = {
    Unreadable: "mine, as mine.list.1 is a builtins.object",
    NeedsUnreadable: "mine, as mine.list.1 is a builtins.object",
    KeepsAnObject: "callbacks.KeepsAnObject, as callbacks.KeepsAnObject.metric is a builtins.object",
    LateUnreadable: "late, as late is a builtins.object",
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_what_could_not_be_read_again_is_left_out_by_name(tmp_path, kind, capsys):
    module = kind if issubclass(kind, Net) else Net

    def begin(folder, **more):
        return start(
            tmp_path / folder, module, both, callbacks=[] if module is kind else [kind()], **more
        )

    whole = begin("whole")
    assert begin("killed", at=14) is None
    assert begin("killed") == whole
    assert (
        capsys.readouterr().err.count(f"not guaranteed: checkpoints leave out {LEFT_OUT[kind]}\n")
        == 3
    )
    with pytest.raises(ExactError, match="checkpoints leave out"):
        begin(
            "required", exact="require", at=1 if kind is not LateUnreadable else 14
        )  # before the first batch


def test_a_damaged_checkpoint_is_refused_and_nothing_changes(tmp_path):
    start(tmp_path, Net, both, at=14)
    last = tmp_path / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    lock = last.with_name("lock")  # says who was the last to hold it
    lock.unlink()
    before = records.files(tmp_path)
    with pytest.raises(ExactError, match=r"last\.ckpt: .* is corrupt; nothing was changed"):
        start(tmp_path, Net, both)
    lock.unlink()
    assert records.files(tmp_path) == before


class Lazy:
    """A package that is not installed, as MONAI's lazy imports: it raises its own error, whatever it is asked for."""

    def __getattribute__(self, name):
        raise ImportError("install it")


class Keeper:
    num = 0

    def state_dict(self):
        return {"num": self.num}

    def load_state_dict(self, state):
        raise RuntimeError("of another version")


class RaisingMetric(torchmetrics.MeanMetric):
    @property
    def metric_state(self):
        raise RuntimeError("not synced")


class Raises(Plain):
    def __init__(self):
        super().__init__()
        self.factor, self.keeper, self.mean = 1.0, Keeper(), RaisingMetric()
        self.missing, self.system, self.cache = {"package": Lazy()}, random.SystemRandom(), {}

    def train_loss(self, batch, batch_idx):
        self.factor += 0.1
        self.keeper.num += 1
        self.cache["last", batch_idx] = (
            threading.Lock()
        )  # as gpytorch's caches, of what can't be pickled
        return self.loss(batch) * self.factor


def test_what_raises_is_named_once_and_the_training_goes_on(tmp_path, capsys):
    whole, said = start(tmp_path / "whole", Raises, both), capsys.readouterr().err.splitlines()
    for words in (
        "module.mean (RuntimeError: not synced) can't be looked at",
        "module.system (NotImplementedError: ",
        "module.cache (a lock) changes and",
    ):
        assert sum(words in line for line in said) == 1, said
    assert start(tmp_path / "killed", Raises, both, at=14) is None
    assert start(tmp_path / "killed", Raises, both) == whole
    assert capsys.readouterr().err.count("module.keeper (RuntimeError: of another version)") == 1
    with pytest.raises(ExactError, match=r"module\."):
        start(tmp_path / "required", Raises, both, exact="require")


def test_what_is_wrong_or_could_not_resume_is_refused(tmp_path):
    for option, value in (("seed", -1), ("exact", "yes"), ("every_n_steps", 0)):
        with pytest.raises(ValueError, match=f"{option}={value}: must be "):
            Exact(tmp_path, **{option: value})
    with pytest.raises(
        ExactError, match="LearningRateFinder trains and goes back before the run begins"
    ):
        start(tmp_path, Net, both, callbacks=[of_lightning.LearningRateFinder()])
    start(tmp_path, Net, both, at=9)
    with pytest.raises(ExactError, match="trained with seed 0, and this start has 1"):
        start(tmp_path, Net, both, seed=1)


class Counting:
    """A loader of one's own, without a state that it saves."""

    def __init__(self):
        self.loader, self.seen = loader(), 0

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for batch in self.loader:
            self.seen += 1
            yield batch


class Stateful(Counting):
    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def test_of_loaders_only_ones_own_without_a_state_are_looked_at(tmp_path, monkeypatch):
    for make, looked_at in ((loader, False), (Counting, True), (Stateful, False)):
        made = Mock(side_effect=Memory)
        monkeypatch.setattr(state, "Memory", made)
        start(tmp_path / make.__name__, data=lambda make=make: [make()], options={"max_epochs": 1})
        roots = [name for call in made.call_args_list for name in call.args[0]]
        assert ("train_dataloaders[0]" in roots) == looked_at


def test_the_same_object_can_begin_anew(tmp_path):
    """As in a notebook, whose cell is executed again, with the folder deleted."""
    mine, steps = Exact(tmp_path / "run", every_n_steps=4), []
    for n in range(3):
        trainer = trainer_of(mine, max_epochs=1)
        mine.fit(trainer, Net(), *both())
        steps.append(trainer.global_step)
        if n == 1:
            shutil.rmtree(tmp_path / "run")
    assert steps == [10, 10, 10]


def test_a_training_by_the_trainer_alone_is_reported(tmp_path, capsys):
    mine = Exact(tmp_path / "run")
    trainer_of(mine, max_epochs=1).fit(Net(), loader())
    assert "this run can't resume: write `with exact: trainer.fit(" in capsys.readouterr().err
    mine.fit(trainer_of(mine, fast_dev_run=True), Net(), loader())
    assert "fast_dev_run: nothing is kept" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


SCRIPT = """
import sys
from leyden import Exact
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, SubsetRandomSampler
from tests.exact.test_fit import Net, Rows, trainer_of

exact = Exact(sys.argv[1], every_n_steps=2)
own = DataLoader(Rows(160), 16, sampler=SubsetRandomSampler(range(160)))
apart = Net()  # its running means differ from process to process
apart.net = nn.Sequential(nn.BatchNorm1d(4), apart.net)
exact.fit(trainer_of(exact, max_epochs=3, devices=2, strategy=DDPStrategy(broadcast_buffers=False)), apart, own)
"""


@pytest.mark.slow
@pytest.mark.matrix
def test_processes_that_are_killed_end_in_the_same_bits(tmp_path, capsys):
    (tmp_path / "train.py").write_text(SCRIPT)
    assert here("resumetest", "--", sys.executable, str(tmp_path / "train.py"), "{dir}") == 0
    assert "the same bits in all 15 steps" in capsys.readouterr().out
