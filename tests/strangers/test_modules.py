"""Modules that others wrote are trained as they are, or one line says what is in the way."""

import sys
import types

import pytest
from torch import nn

from leyden.run.directory import Run
from tests.conftest import QUICK

DATA = ("data=own", "data._target_=tests.strangers.modules.Data", "trainer.max_epochs=2", "callbacks=bare")


def module(name, *more):
    return ("task=own", f"task._target_=tests.strangers.modules.{name}", *DATA, *more)


@pytest.fixture
def train(cli, tmp_path):
    """Trains in a directory of this name; returns the run, stdout and stderr."""

    def run(name, *arguments, code=0):
        found, out, err = cli("train", f"run_dir={tmp_path / name}", *arguments)
        assert found == code, err
        return Run(tmp_path / name), out, err

    return run


# What is known only by values.


def test_a_constructor_that_asks_a_tensor_for_its_value_passes_the_checks(train, cli, tmp_path):
    train("a", *module("Item"), "dry_run=true")
    code, _, err = cli(
        "train", "-m", *module("Item"), "+task.num_layers=2,3", "sweep_name=s", "trainer.max_epochs=1"
    )
    assert code == 0, err
    assert len([*(tmp_path / "outputs" / "sweeps" / "s").glob("*/result.json")]) == 2


def test_a_network_that_asks_for_a_value_in_its_forward_passes_the_checks(cli):
    own = ("model._target_=tests.strangers.modules.Peeking", "~model.hidden_sizes", "~model.dropout")
    code, _, err = cli("train", *QUICK[:3], *QUICK[4:], *own, "dry_run=true")
    assert code == 0, err


def test_its_bugs_show_in_the_checks_as_in_training(train):
    _, _, checked = train("a", *module("Broken"), "dry_run=true", code=1)
    _, _, trained = train("a", *module("Broken"), code=1)
    for err in (checked, trained):
        assert "AttributeError: 'Broken' object has no attribute 'num_targets'" in err
        assert "in __init__\n    self.layer = nn.Linear(4, self.num_targets)" in err
        assert "meta" not in err


# The other package of the same classes.


@pytest.fixture
def other_lightning(monkeypatch):
    """A stand-in for the package pytorch_lightning, whose classes are others than those of lightning."""
    for name, base in (("LightningModule", nn.Module), ("LightningDataModule", object), ("Callback", object)):
        kind = type(name, (base,), {"__module__": f"pytorch_lightning.{name.lower()}"})
        mine = type(f"My{name}", (kind,), {"__module__": "of_a_stranger"})
        package = sys.modules.get("of_a_stranger") or types.ModuleType("of_a_stranger")
        setattr(package, mine.__name__, mine)
        monkeypatch.setitem(sys.modules, "of_a_stranger", package)


@pytest.mark.parametrize(
    ("key", "kind"), [("task", "LightningModule"), ("data", "LightningDataModule"), ("callbacks.mine", "Callback")]
)
def test_a_class_of_pytorch_lightning_is_named_as_such(train, other_lightning, key, kind):
    plus = "+" * (key == "callbacks.mine")
    _, _, err = train("a", *module("Plain"), f"{plus}{key}._target_=of_a_stranger.My{kind}", code=2)
    assert f"{key}: My{kind} is a {kind} of the package pytorch_lightning" in err
    assert "`import lightning as L`" in err
    assert len(err.splitlines()) == 1


def test_what_is_no_callback_is_refused(train):
    _, _, err = train("a", *module("Plain"), "+callbacks.mine._target_=torch.nn.Identity", code=2)
    assert "callbacks.mine: makes a Identity; must be a Callback" in err


# Facts.


@pytest.mark.parametrize(
    ("name", "said"), [("vocab_size", "vocabulary"), ("num_outputs", "num_classes"), ("weights", "my_weights")]
)
def test_a_fact_whose_name_is_taken_is_told_what_to_give_instead(train, monkeypatch, name, said):
    from tests.strangers.modules import Data

    monkeypatch.setattr(Data, "facts", {name: 100}, raising=False)
    _, _, err = train("a", *module("Plain"), code=2)
    assert f"data: facts.{name}: " in err
    assert said in err
    assert len(err.splitlines()) == 1
