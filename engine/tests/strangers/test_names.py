"""A metric's stage is where Lightning logged it, whatever its name is."""

import json

import pytest
import torch

from leyden.run.directory import Run
from tests import mistakes, records
from tests.conftest import weights
from tests.strangers.plain import Rows
from tests.strangers.plain import own as of_strangers
from tests.strangers.stand_ins import Named

BASE = ("name=named", "callbacks=bare", "logger=none", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1")


def own(kind="Named", objective="val_loss", **given):
    values = [f"+task.{key}={value}" for key, value in given.items()]
    return (*BASE, *of_strangers(f"stand_ins.{kind}"), f"objective.metric={objective}", *values)


def loss_on(run, dataset):
    module = Named()
    module.load_state_dict(weights(run.directory, "best"))
    return module.eval().loss((dataset.inputs, dataset.targets)).item()


def test_a_metric_of_validation_is_kept_for_the_weights_that_it_was_measured_on(train):
    run, *_ = train("a", *own(objective="train_loss"), "trainer.max_epochs=1", "+trainer.val_check_interval=3")
    assert "train_loss" in run.result.metrics
    assert "val_loss" not in run.result.metrics  # it is of the sixth step
    run, *_ = train("b", *own(), "trainer.max_epochs=2", "+trainer.val_check_interval=4")
    assert run.result.metrics["val_loss"] == pytest.approx(loss_on(run, Rows(10, 1)))
    assert run.result.stages == {"train": ["train_loss"], "val": ["val_loss"], "test": ["test_loss"]}


@pytest.mark.parametrize("test", ["test_loss", "quality", "''"])
def test_an_evaluation_on_the_test_set_is_recorded_whatever_its_metrics_are_called(train, tmp_path, test):
    arguments = (*own(test=test), "trainer.max_epochs=1", "test=true")
    run, *_ = train("a", *arguments)
    assert run.result.is_tested
    recorded = tmp_path / "outputs" / "test_evaluations.csv"
    (row,) = records.table(recorded)
    expected = {} if test == "''" else {test: run.result.metrics[test]}
    assert json.loads(row["metrics"]) == expected == run.result.test_metrics
    if expected:
        assert expected[test] == pytest.approx(loss_on(run, Rows(10, 2)))


def test_a_name_of_all_stages_is_that_of_validation_and_the_test_has_one_of_its_own(train):
    arguments = own(train="loss", val="loss", test="loss", objective="loss")
    every = "+trainer.check_val_every_n_epoch=2"
    run, _, err = train("a", *arguments, "trainer.max_epochs=3", every)
    said = "loss: logged in training and in validation; the run's metrics use the values of validation"
    assert err.count(said) == 1
    # The first epoch has the loss of training alone, which is not compared with that of validation.
    assert torch.load(run.checkpoint("best"), weights_only=True)["global_step"] == 16
    assert run.result.metrics["loss"] == pytest.approx(loss_on(run, Rows(10, 1)))
    assert run.result.objective.value == run.result.metrics["loss"]
    assert run.result.metrics["test/loss"] == pytest.approx(loss_on(run, Rows(10, 2)))
    assert run.result.stages == {"val": ["loss"], "test": ["test/loss"]}
    # Neither where the run was stopped after it.
    train("b", *arguments, "trainer.max_epochs=1", every, "test=false")
    longer, *_ = train("b", *arguments, "trainer.max_epochs=3", every, "test=auto")  # as recorded it would be false
    assert longer.result.metrics == run.result.metrics


def test_an_epoch_without_validation_is_no_candidate(train):
    run, *_ = train("a", *own(), "+trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3")
    assert torch.load(run.checkpoint("best"), weights_only=True)["global_step"] == 16
    run, *_ = train("b", *own("EachSecond"), "trainer.max_epochs=2")  # the second validation logs nothing
    assert torch.load(run.checkpoint("best"), weights_only=True)["global_step"] == 8


UNLOGGED = """
trainer.max_epochs=1 EVERY=2  =>  1  =>  val_loss: no epoch of this run ends with a validation
+trainer.val_check_interval=3  =>  1  =>  val_loss: no epoch of this run ends with a validation
EVERY=2 objective.metric=f1  =>  2  =>  objective.metric=f1: is not logged; the run logs train_loss, val_loss
EVERY=2 +callbacks.es={EARLY}  =>  1  =>  val_loss: was not logged when the run ended before its first validation
"""
EARLY = "_target_:lightning.pytorch.callbacks.EarlyStopping,monitor:train_loss,mode:min,stopping_threshold:1e9"


@pytest.mark.parametrize(("typed", "epochs", "message"), mistakes(UNLOGGED))
def test_an_objective_without_a_value_ends_the_run_with_the_true_reason(train, typed, epochs, message):
    typed = typed.replace("EVERY", "+trainer.check_val_every_n_epoch")
    typed = typed.replace("EARLY", f"{EARLY},check_on_train_epoch_end:true").split()
    run, _, err = train("a", *own(), "trainer.max_epochs=9", *typed, code=2)
    assert message in err
    assert len(err.strip().splitlines()) <= 3
    assert run.result.optimizer_steps == 8 * int(epochs)


def test_a_module_that_logs_nothing_is_trained_without_an_objective(train):
    arguments = own(train="''", val="''", test="''")
    run, *_ = train("a", *arguments, "objective=null", "trainer.max_epochs=2")
    assert run.result.status == "finished"
    assert run.result.metrics == {"num_parameters": 54}
    assert run.result.is_tested
    _, _, err = train("b", *arguments, "objective.metric=num_parameters", "trainer.max_epochs=2", code=2)
    assert "objective.metric=num_parameters: is not logged; the run logs nothing" in err


PRUNED = ("-m", "sweep=random", "+callbacks/pruning=median", "hydra.sweeper.num_trials=3", "sweep_name=s")
PRUNED = (*PRUNED, "hydra.sweeper.params=null", "+task.lr=interval(0.001,0.01)", "trainer.max_epochs=3")


@pytest.mark.nightly  # a search prunes by day in tests/sweep
@pytest.mark.slow(minutes=0.2)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_search_prunes_by_any_metric_of_validation(command, tmp_path):
    many = ("data._target_=tests.strangers.stand_ins.SeveralOfValidation",)
    arguments = own(val="val/loss", objective="val/loss/dataloader_idx_0")
    pruner = ("callbacks.pruning.pruner.n_startup_trials=1", "callbacks.pruning.pruner.n_warmup_steps=0")
    command("train", *PRUNED, *arguments, *many, *pruner)
    results = [Run(path.parent).result for path in (tmp_path / "outputs" / "sweeps" / "s").glob("*/config.yaml")]
    assert len(results) == 3
    assert {"finished"} <= {result.status for result in results} <= {"finished", "pruned"}


@pytest.mark.slow(minutes=0.2)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_search_that_prunes_by_a_metric_of_training_is_refused_in_a_line(cli, tmp_path):
    code, out, err = cli("train", *PRUNED, *own(objective="train_loss"))
    assert code != 0
    assert "metric=train_loss: pruning needs one objective that validation logs" in out + err
    assert "validation logs val_loss" in out + err
