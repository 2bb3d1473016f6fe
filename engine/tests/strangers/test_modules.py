"""Modules that others wrote are trained as they are, or one line says what is in the way."""

import sys
import types

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from leyden.run.directory import Run
from tests import records
from tests.strangers.plain import Plain, PlainData, Rows, own
from tests.training.test_start import curves

HERE = "tests.strangers.test_modules"


def module(name, *more, data="plain.PlainData"):
    file = "test_modules" if name in globals() else "stand_ins"
    return own(f"{file}.{name}", data, "trainer.max_epochs=2", "callbacks=bare", *more)


class Broken(Plain):
    def __init__(self):
        super().__init__()
        torch.ones(1).item()
        self.layer = nn.Linear(4, self.num_targets)


class Validating(Plain):
    def val_dataloader(self):
        return DataLoader(Rows(), 10)


class Untestable(L.LightningDataModule):
    kind, make_loader = Rows, PlainData.make_loader
    setup, train_dataloader, val_dataloader = PlainData.setup, PlainData.train_dataloader, PlainData.val_dataloader


def test_its_bugs_show_in_the_checks_as_in_training(train):
    for more in ("dry_run=true", "dry_run=false"):
        _, _, err = train("a", *module("Broken"), more, code=2)
        assert "task: AttributeError: 'Broken' object has no attribute 'num_targets'" in err
        assert "test_modules.py:" in err
        assert "meta" not in err


def test_a_class_of_pytorch_lightning_is_named_as_such(train, monkeypatch):
    kind = type("LightningModule", (nn.Module,), {"__module__": "pytorch_lightning.lightningmodule"})
    package = types.ModuleType("of_a_stranger")
    package.Mine = type("Mine", (kind,), {"__module__": "of_a_stranger"})
    monkeypatch.setitem(sys.modules, "of_a_stranger", package)
    _, _, err = train("a", *module("Plain"), "task._target_=of_a_stranger.Mine", code=2)
    assert "task: Mine is a LightningModule of the package pytorch_lightning" in err
    assert "`import lightning.pytorch as pl`" in err
    assert len(err.splitlines()) == 1


UNHELD = "data.facts: tokenizer is a builtins.object; facts must be tensors, arrays and plain values"
FACTS = [("num_outputs", 100, "data: facts.num_outputs: is Leyden's own name"), ("tokenizer", object(), UNHELD)]


@pytest.mark.parametrize(("name", "value", "said"), FACTS)
def test_a_fact_whose_name_is_taken_or_that_no_checkpoint_could_hold_is_refused(
    train, monkeypatch, name, value, said
):
    monkeypatch.setattr(PlainData, "facts", {name: value}, raising=False)
    run, _, err = train("a", *module("Plain"), code=2)
    assert said in err
    assert len(err.splitlines()) == 1
    assert not run.directory.exists()


@pytest.mark.parametrize("typed", ["dry_run=true", "callbacks.checkpoint.every_n_steps=3"])
def test_loaders_know_the_trainer_whenever_they_are_asked_for(train, monkeypatch, typed):
    loader = PlainData.train_dataloader

    def asking(self):
        assert self.trainer.max_epochs == 2
        return loader(self)

    monkeypatch.setattr(PlainData, "train_dataloader", asking)
    train("a", *module("Plain"), typed)


@pytest.mark.slow(minutes=0.2)
def test_modules_with_data_of_their_own_are_swept_with_a_schedule(train, command, tmp_path):
    typed = module("Whole", data="")
    train("a", *typed, "dry_run=true")
    command("train", "-m", *typed, "scheduler=cosine", "+task.num=20,40", "sweep_name=s")
    runs = [Run(path) for path in records.ended(tmp_path / "outputs" / "sweeps" / "s")]
    assert sorted(run.result.optimizer_steps for run in runs) == [8, 16]
    for run in runs:
        (state,) = torch.load(run.directory / "checkpoints" / "last.ckpt", weights_only=True)["lr_schedulers"]
        assert state["T_max"] == run.result.optimizer_steps


def scheduled(way, *more):
    typed = (f"+task.way='{way}'", "optimizer=sgd", "optimizer.lr=0.1", "trainer.max_epochs=10", "objective=null")
    return module("Scheduled", *typed, *more)


@pytest.mark.matrix
@pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using")  # Lightning asks before the interval is set
@pytest.mark.parametrize(("way", "choice"), [("list", "cosine"), ("plain", "onecycle"), ("step", "cosine")])
def test_a_schedule_is_as_long_as_the_run_whatever_interval_the_module_names(train, choice, way):
    more = (f"scheduler={choice}", "callbacks=default", "trainer.log_every_n_steps=1")
    run, _, err = train("a", *scheduled(way, *more))
    rates = [value for _, name, value in curves(run) if name.startswith("lr")]
    (state,) = torch.load(run.directory / "checkpoints" / "last.ckpt", weights_only=True)["lr_schedulers"]
    assert state.get("T_max", state.get("total_steps")) == 80
    assert rates[-1] < 0.001
    assert max(rates) > 0.09
    assert "scheduler" not in err


@pytest.mark.parametrize("way", ["by hand", "lost"])
def test_one_that_the_module_steps_itself_is_told_its_length(train, way):
    _, _, err = train("a", *scheduled(way, "scheduler=cosine"))
    said = "is built for 80 steps, one per optimizer step, but Scheduled steps it manually or not at all"
    assert f"scheduler: {said}" in err


OWN_LOADERS = "defines train_dataloader and val_dataloader and test_dataloader, which "
STEPPED = "scheduler: is built for 80 optimizer steps, but Scheduled has it stepped every "
NO_EFFECT = "has no effect, as Plain takes no {}; set its own arguments by task.ARG=VALUE"
# What is typed, and the line that refuses it before training.
REFUSED = [
    (module("Plain", "+callbacks.mine._target_=torch.nn.Identity"), "creates a Identity; must be a Callback"),
    (module("Whole"), f"task: Whole {OWN_LOADERS}"),
    (module("Validating"), "task: Validating defines val_dataloader, which "),
    (module("Plain", data=""), "data: Plain has no train_dataloader; choose data other than"),
    (scheduled("seldom", "scheduler=cosine"), f"{STEPPED}5 step; "),
    (scheduled("within", "scheduler=cosine"), f"{STEPPED}1 epoch; "),
    (module("Plain", "scheduler=cosine"), "Plain takes no scheduler; choose scheduler=none"),
    (module("Plain", "optimizer.lr=0.5"), f"optimizer.lr=0.5: {NO_EFFECT.format('optimizer')}"),
    (module("Plain", "model.dropout=0.5"), f"model.dropout=0.5: {NO_EFFECT.format('network')}"),
]


@pytest.mark.parametrize(("typed", "said"), REFUSED)
def test_what_does_not_fit_together_is_refused_in_a_line_before_training(train, typed, said):
    run, _, err = train("a", *typed, code=2)
    assert said in err
    assert len(err.splitlines()) == 1
    assert not run.result or run.result.optimizer_steps == 0


def test_a_fork_that_would_stand_elsewhere_is_refused(train, tmp_path):
    typed = module("Scheduled", "+task.way=metric")
    train("parent", *typed)
    arguments = (*typed, f"fork={tmp_path / 'parent'}@last", "trainer.max_epochs=3")
    fork, _, err = train("fork", *arguments, "optimizer.lr=0.5", code=2)
    said = "a schedule that follows a metric can't be recomputed for different settings of the optimizer"
    assert f"fork: {said}" in err
    assert fork.result.status == "failed"
    fork, *_ = train("other", *arguments)
    assert fork.result.status == "finished"


def test_no_test_evaluation_is_proposed_where_there_can_be_none(train):
    for name, more in (("a", "test=false"), ("b", f"data._target_={HERE}.Untestable")):
        _, out, _ = train(name, *module("Plain"), more)
        assert "next steps" in out
        assert ("leyden evaluate" in out) == (name == "a")
