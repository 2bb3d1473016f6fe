"""Modules, batches, splits and loops of strangers are trained as they are, or one line says what is in the way."""

import re

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from PIL import Image
from torch import nn

from leyden.assembly.trainer import silence_lightning
from leyden.run.directory import Run
from leyden.training.evaluation import partial_test_message
from tests import records
from tests.conftest import QUICK, SMALL, checkpoint
from tests.exact.test_fit import trainer_of
from tests.strangers.cells import FEW
from tests.strangers.plain import Plain, PlainData, own
from tests.strangers.stand_ins import Combined, MadeLate, OfAnyForm
from tests.training.test_start import curves
from tests.training.test_start_exact import stopping


def module(name, *more, data="plain.PlainData"):
    file = "test_modules" if name in globals() else "stand_ins"
    return own(f"{file}.{name}", data, "trainer.max_epochs=2", "callbacks=bare", *more)


class Broken(Plain):
    def __init__(self):
        super().__init__()
        torch.ones(1).item()
        self.layer = nn.Linear(4, self.num_targets)


class OfTheirs(
    type("LightningModule", (nn.Module,), {"__module__": "pytorch_lightning.lightningmodule"})
):
    pass


class OfFacts(PlainData):
    facts = {"tokenizer": object()}  # noqa: RUF012 - as the page has it


class Validating(Plain):
    val_dataloader = PlainData.val_dataloader


class Untestable(PlainData):
    test_dataloader = L.LightningDataModule.test_dataloader


def test_its_bugs_show_in_the_checks_as_in_training(train):
    for more in ("dry_run=true", "dry_run=false"):
        _, _, err = train("a", *module("Broken"), more, code=2)
        assert "task: AttributeError: 'Broken' object has no attribute 'num_targets'" in err
        assert "test_modules.py:" in err
        assert "meta" not in err


@pytest.mark.parametrize("typed", ["dry_run=true", "callbacks.checkpoint.every_n_steps=3"])
def test_loaders_know_the_trainer_whenever_they_are_asked_for(train, monkeypatch, typed):
    loader = PlainData.train_dataloader

    def asking(self):
        assert self.trainer.max_epochs == 2
        return loader(self)

    monkeypatch.setattr(PlainData, "train_dataloader", asking)
    train("a", *module("Plain"), typed)


@pytest.mark.nightly  # own data are trained by day, and sweeps of others
def test_modules_with_data_of_their_own_are_swept_with_a_schedule(train, command, tmp_path):
    typed = own("stand_ins.Whole", "", "callbacks=bare")
    train("a", *typed, "dry_run=true")
    command("train", "-m", *typed, "scheduler=cosine", "trainer.max_epochs=1,2", "sweep_name=s")
    runs = [Run(path) for path in records.ended(tmp_path / "outputs" / "sweeps" / "s")]
    assert sorted(run.result.optimizer_steps for run in runs) == [8, 16]
    for run in runs:
        (state,) = checkpoint(run)["lr_schedulers"]
        assert state["T_max"] == run.result.optimizer_steps


def scheduled(way, choice="cosine", *more):
    typed = (
        f"+task.way='{way}'",
        "optimizer=sgd",
        "optimizer.lr=0.1",
        "trainer.max_epochs=10",
        "objective=null",
    )
    return module("Scheduled", *typed, f"scheduler={choice}", *more)


@pytest.mark.matrix
@pytest.mark.filterwarnings(
    "ignore:A `OneCycleLR` scheduler is using"
)  # Lightning asks before the interval is set
@pytest.mark.parametrize(
    ("way", "choice"), [("list", "cosine"), ("plain", "onecycle"), ("step", "cosine")]
)
def test_a_schedule_is_as_long_as_the_run_whatever_interval_the_module_names(train, choice, way):
    run, _, err = train(
        "a", *scheduled(way, choice, "callbacks=default", "trainer.log_every_n_steps=1")
    )
    rates = [value for _, name, value in curves(run) if name.startswith("lr")]
    (state,) = checkpoint(run)["lr_schedulers"]
    assert state.get("T_max", state.get("total_steps")) == 80
    assert rates[-1] < 0.001
    assert max(rates) > 0.09
    assert "scheduler" not in err


@pytest.mark.parametrize("way", ["by hand", "lost"])
def test_one_that_the_module_steps_itself_is_told_its_length(train, way):
    _, _, err = train("a", *scheduled(way))
    assert (
        "scheduler: is built for 80 steps, one per optimizer step, but Scheduled steps it manually or not"
        in err
    )


OWN_LOADERS = "defines train_dataloader and val_dataloader and test_dataloader, which "
STEPPED = "scheduler: is built for 80 optimizer steps, but Scheduled has it stepped every "
NO_EFFECT = "has no effect, as Plain takes no {}; set its own arguments by task.ARG=VALUE"
FACTS = "data.facts: tokenizer is a builtins.object; facts must be tensors, arrays and plain values"
THEIRS = """task: OfTheirs is a LightningModule of the package pytorch_lightning, whose classes are not those of lightning; \
in its file, write `import lightning.pytorch as pl`"""
DDP = "ddp, ddp_find_unused_parameters_true, ddp_find_unused_parameters_false"
STRATEGIES = f"must be one of auto, {DDP}, fsdp2, elastic, or a"
DEEP_SPEED = "DeepSpeedStrategy may shard weights or optimizer states; checkpoints hold"


def strategy(value, **options):
    if options:
        options = {"_target_": f"lightning.pytorch.strategies.{value}", **options}
        value = f"{{{', '.join(f'{key}: {each}' for key, each in options.items())}}}"
    return (f"trainer.strategy={value}", "trainer.accelerator=cpu", *SMALL)


# What is typed, and the line that refuses it before training.
REFUSED = [
    *((strategy(value), STRATEGIES) for value in ("fsdp", "ddp_spawn", "null")),
    (strategy("DeepSpeedStrategy", stage=3), DEEP_SPEED),
    (strategy("DDPStrategy", start_method="spawn"), "each process is started by its own"),
    (module("OfTheirs"), THEIRS),
    (module("Plain", data="test_modules.OfFacts"), FACTS),
    (
        module("Plain", "+callbacks.mine._target_=torch.nn.Identity"),
        "creates a Identity; must be a Callback",
    ),
    (module("Whole"), f"task: Whole {OWN_LOADERS}"),
    (module("Validating"), "task: Validating defines val_dataloader, which "),
    (module("Plain", data=""), "data: Plain has no train_dataloader; choose data other than"),
    (scheduled("seldom"), f"{STEPPED}5 step; "),
    (scheduled("within"), f"{STEPPED}1 epoch; "),
    (module("Plain", "scheduler=cosine"), "Plain takes no scheduler; choose scheduler=none"),
    (module("Plain", "optimizer.lr=0.5"), f"optimizer.lr=0.5: {NO_EFFECT.format('optimizer')}"),
    (module("Plain", "model.dropout=0.5"), f"model.dropout=0.5: {NO_EFFECT.format('network')}"),
]


@pytest.mark.parametrize(("typed", "said"), REFUSED)
def test_what_does_not_fit_together_is_refused_in_a_line_before_training(train, typed, said):
    run, _, err = train("a", *typed, code=2)
    assert said in err
    assert len(err.splitlines()) == 1
    assert run.directory.exists() == said.startswith(STEPPED)
    assert not run.result or run.result.optimizer_steps == 0


def test_a_fork_that_would_stand_elsewhere_is_refused(train, tmp_path):
    typed = module("Scheduled", "+task.way=metric")
    train("parent", *typed)
    arguments = (*typed, f"fork={tmp_path / 'parent'}@last", "trainer.max_epochs=3")
    fork, _, err = train("fork", *arguments, "optimizer.lr=0.5", code=2)
    assert (
        "a schedule that follows a metric can't be recomputed for different settings of the optimizer"
        in err
    )
    assert fork.result.status == "failed"
    fork, *_ = train("other", *arguments)
    assert fork.result.status == "finished"


def test_no_test_evaluation_is_proposed_where_there_can_be_none(train):
    _, out, _ = train("a", *module("Plain", data="test_modules.Untestable"))
    assert "next steps" in out
    assert "leyden evaluate" not in out


def test_what_is_set_when_training_ends_is_announced_and_the_test_is_that_of_the_best_epoch(
    train, command
):
    first = ("objective.metric=val/loss", "objective.mode=max")
    run, _, err = train("a", *FEW, *own("stand_ins.SWAG"), *first, "test=true")
    best = run.result.best_epoch
    assert best < 3
    assert run.result.metrics["test/factor"] == 0.5 * 1.5 * best
    assert run.result.metrics["test/rounds"] == best
    assert "leyden: module.factors, module.mean: changed by on_train_end" in err
    out, _ = command("evaluate", f"run={run.directory}")
    assert re.search(rf"test/rounds +{best}\b", out)


def test_a_network_that_setup_makes_is_tested_unless_it_is_made_for_training_alone(
    train, monkeypatch
):
    typed = (*FEW, *own("stand_ins.MadeLate", "plain.PlainData", "+task.way=setup"), "test=true")
    run, _, err = train("a", *typed)
    assert run.result.metrics["test/loss"] > 0
    assert "on_train_end" not in err
    make = MadeLate.setup
    monkeypatch.setattr(MadeLate, "setup", lambda self, stage: stage == "fit" and make(self, stage))
    _, _, err = train("b", *typed, code=2)
    assert "best.ckpt: does not fit the network (ValueError: there is no net.0.bias; create" in err
    assert "test/loss" not in train("b", *typed, "test=false")[0].result.metrics


def test_a_large_tensor_that_setup_makes_is_in_no_checkpoint(train):
    run, *_ = train("a", *FEW, *own("stand_ins.MadeInSetup", "plain.PlainData", "+task.way=large"))
    assert (
        max(path.stat().st_size for path in (run.directory / "checkpoints").glob("*.ckpt"))
        < 1_000_000
    )


SHORT = ("trainer.log_every_n_steps=1", "trainer.max_epochs=2")
OBJECTIVE = ("objective.metric=val/loss", "objective.mode=min")


def test_batches_of_any_form_are_trained_on(train):
    typed = own("stand_ins.OfAnyForm", "stand_ins.Loaded", *SHORT, *OBJECTIVE, "+data.way=graphs")
    run, _, err = train("a", *typed)
    assert "failed" not in err
    assert run.result.metrics["test/loss"] >= 0
    assert "time/samples_per_second" in (run.directory / "metrics.csv").read_text()
    assert round(run.result.samples_per_second * run.result.seconds) == 80
    assert curves(run)


def test_a_trained_run_is_put_to_use_by_the_accelerator_of_its_trainer(train, command, tmp_path):
    run, *_ = train("a", *QUICK, "trainer.accelerator=cpu", "trainer.max_epochs=1")
    picture = tmp_path / "a.png"
    Image.new("L", (28, 28), 40).save(picture)
    config = run.config
    config["trainer"]["accelerator"] = "mps"
    records.put(run.directory, config=config)
    for verb, *more in (("predict", f"images={picture}"), ("evaluate",)):
        for wrong in ("mps", "gpus"):
            _, err = command(verb, f"run={run.directory}", *more, f"accelerator={wrong}", code=2)
            assert re.fullmatch("leyden: trainer: .*\n", err), err
        command(verb, f"run={run.directory}", *more)


def test_each_of_several_optimizers_has_its_curves(train):
    run, *_ = train("a", *own("stand_ins.Manual"), *SHORT, *OBJECTIVE, "trainer.max_epochs=1")
    found = {}
    for _, name, value in curves(run):
        found.setdefault(name, []).append(value)
    for n in range(2):
        assert found[f"grad_norm_{n}"]
        assert found[f"lr_{n}"] == pytest.approx([0.05 * 0.5**n] * len(found[f"lr_{n}"]))
    assert not {"lr", "grad_norm"} & {*found}


@pytest.mark.parametrize("mode", ["min_size", "none"])
def test_loaders_that_are_combined_are_trained_on_without_a_number_of_samples(train, mode):
    typed = own(
        "stand_ins.OfAnyForm", "stand_ins.Combined", *SHORT, "objective=null", f"+data.way={mode}"
    )
    run, *_ = train("a", *typed)
    assert run.result.samples_per_second is None
    expected = {f"{split}/loss/dataloader_idx_{n}" for split in ("val", "test") for n in (0, 1)}
    assert expected <= {*run.result.metrics}


@pytest.mark.parametrize("mode", ["min_size", "sequential"])
@pytest.mark.parametrize("limit", [1.0, 1], ids=["all", "one"])
def test_a_part_of_combined_loaders_is_no_test_evaluation(mode, limit):
    silence_lightning()
    trainer = trainer_of(limit_test_batches=limit)
    trainer.test(
        OfAnyForm(), CombinedLoader(Combined("none").test_dataloader(), mode), verbose=False
    )
    assert bool(partial_test_message(trainer)) == isinstance(limit, int)


KEPT = ("callbacks=bare", "callbacks.checkpoint.keep_all=true")


def splits(task, *more):
    return own(task, "stand_ins.SplitBySystem", *SHORT, *KEPT, *more)


def test_another_validation_split_refuses_a_resume_and_an_evaluation_and_is_announced_of_a_fork(
    train, command
):
    typed = splits("plain.Plain")
    with stopping(11):
        train("a", *typed, code=1)
    _, _, err = train("a", *typed, code=2)
    assert "the data differ from those that it was trained on: first batch of val" in err
    run, *_ = train("a", *typed, "exact=off")
    _, err = command("evaluate", f"run={run.directory}", code=2)
    assert "first batch of val differs from that in training" in err
    _, _, err = train("b", *KEPT, f"fork={run.directory}@1", "trainer.max_epochs=3")
    assert "fork: the data differ" in err


def test_other_batches_of_a_loader_of_the_modules_own_are_announced_at_their_first_step(train):
    typed = splits("stand_ins.SecondLoader", "+data.way=train")
    with stopping(11):
        train("a", *typed, code=1)
    _, _, err = train("a", *typed)
    assert "parts from the interrupted run at step 9" in err
