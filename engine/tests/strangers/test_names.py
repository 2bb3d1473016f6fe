"""A metric's stage is where Lightning logged it, whatever its name is."""

import json
from types import SimpleNamespace

import pytest

from leyden.sweep import pruning
from tests import mistakes, records
from tests.conftest import checkpoint, weights
from tests.strangers.plain import Rows
from tests.strangers.plain import own as of_strangers
from tests.strangers.stand_ins import Named

BASE = (
    "name=named",
    "callbacks=bare",
    "logger=none",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
)


def own(objective="val_loss", **given):
    values = [f"+task.{key}={value}" for key, value in given.items()]
    return (*BASE, *of_strangers("stand_ins.Named"), f"objective.metric={objective}", *values)


def loss_on(run, dataset):
    module = Named()
    module.load_state_dict(weights(run.directory, "best"))
    return pytest.approx(module.eval().loss(dataset.tensors).item())


def best_step(run):
    return checkpoint(run, "best")["global_step"]


def test_a_metric_of_validation_is_kept_for_the_weights_that_it_was_measured_on(train):
    run, *_ = train(
        "a", *own(objective="train_loss"), "trainer.max_epochs=1", "+trainer.val_check_interval=3"
    )
    assert "train_loss" in run.result.metrics
    assert "val_loss" not in run.result.metrics  # it is of the sixth step
    run, *_ = train(
        "b", *own(), "trainer.max_epochs=2", "+trainer.val_check_interval=4", "test=true"
    )
    assert run.result.metrics["val_loss"] == loss_on(run, Rows(10, 1))
    assert run.result.stages == {
        "train": ["train_loss"],
        "val": ["val_loss"],
        "test": ["test_loss"],
    }


@pytest.mark.parametrize("test", ["test_loss", "quality", "''"])
def test_an_evaluation_on_the_test_set_is_recorded_whatever_its_metrics_are_called(
    train, tmp_path, test
):
    run, *_ = train("a", *own(test=test), "trainer.max_epochs=1", "test=true")
    assert run.result.is_tested
    (row,) = records.table(tmp_path / "outputs" / "test_evaluations.csv")
    expected = {} if test == "''" else {test: run.result.metrics[test]}
    assert json.loads(row["metrics"]) == expected == run.result.test_metrics
    for value in expected.values():
        assert value == loss_on(run, Rows(10, 2))


def test_a_name_of_all_stages_is_that_of_validation_and_the_test_has_one_of_its_own(train):
    arguments = (
        *own("loss", train="loss", val="loss", test="loss"),
        "+trainer.check_val_every_n_epoch=2",
    )
    run, _, err = train("a", *arguments, "trainer.max_epochs=3")
    said = (
        "loss: logged in training and in validation; the run's metrics use the values of validation"
    )
    assert err.count(said) == 1
    # The first epoch has the loss of training alone, which is not compared with that of validation.
    assert best_step(run) == 16
    assert run.result.objective.value == run.result.metrics["loss"] == loss_on(run, Rows(10, 1))
    assert run.result.metrics["test/loss"] == loss_on(run, Rows(10, 2))
    assert run.result.stages == {"val": ["loss"], "test": ["test/loss"]}
    # Neither where the run was stopped after it.
    train("b", *arguments, "trainer.max_epochs=1", "test=false")
    longer, *_ = train("b", *arguments, "trainer.max_epochs=3", "test=true")
    assert longer.result.metrics == run.result.metrics


def test_an_epoch_whose_validation_logs_no_metric_is_no_candidate(train, monkeypatch):
    first = lambda self, batch, _: self.log_loss("val", batch) if self.current_epoch == 0 else None  # noqa: E731
    monkeypatch.setattr(Named, "validation_step", first)
    run, *_ = train("a", *own(), "trainer.max_epochs=2")
    assert best_step(run) == 8


UNLOGGED = """
trainer.max_epochs=1 EVERY=2  =>  1  =>  val_loss: no epoch of this run ends with a validation
+trainer.val_check_interval=3  =>  1  =>  val_loss: no epoch of this run ends with a validation
EVERY=2 objective.metric=f1  =>  2  =>  objective.metric=f1: is not logged; the run logs train_loss, val_loss
EVERY=2 +callbacks.es={EARLY}  =>  1  =>  val_loss: was not logged when the run ended before its first validation
"""
EARLY = "_target_:lightning.pytorch.callbacks.EarlyStopping,monitor:train_loss,mode:min,stopping_threshold:1e9"


@pytest.mark.parametrize(("typed", "epochs", "message"), mistakes(UNLOGGED))
def test_an_objective_without_a_value_ends_the_run_with_the_true_reason(
    train, typed, epochs, message
):
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
    _, _, err = train(
        "b", *arguments, "objective.metric=num_parameters", "trainer.max_epochs=2", code=2
    )
    assert "objective.metric=num_parameters: is not logged; the run logs nothing" in err


def test_pruning_is_by_any_metric_of_validation_and_by_none_of_training(
    train, tmp_path, monkeypatch
):
    (tmp_path / "study.journal").touch()
    trial = SimpleNamespace(report=lambda value, epoch: None, should_prune=lambda: True)
    monkeypatch.setattr(pruning, "find_trial", lambda directory, pruner: trial)
    pruned = ("+callbacks/pruning=median", "trainer.max_epochs=3", "test=false")
    several = "data._target_=tests.strangers.stand_ins.Combined"
    run, *_ = train(
        "a", *own(val="val/loss", objective="val/loss/dataloader_idx_0"), several, *pruned
    )
    assert run.result.status == "pruned"
    assert run.result.epochs == 1
    _, _, err = train("b", *own(objective="train_loss"), *pruned, code=2)
    assert "metric=train_loss: pruning needs one objective that validation logs" in err
    assert "validation logs val_loss" in err
