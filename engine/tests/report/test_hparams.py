"""Every run is a row of TensorBoard's HParams table, by what was typed, with what came of it."""

import pytest
from tensorboard.plugins.hparams import api_pb2

from tests.callbacks.events import hparams, scalars
from tests.training.test_start import train  # noqa: F401 - a fixture

SMALL_CHOICES = {
    "callbacks": "default",
    "data.val_size": 59000,
    "data.batch_size": 100,
    "data.eval_batch_size": 10000,
    "model.hidden_sizes": "[16]",
    "trainer.log_every_n_steps": 3,
}


def best(run):
    """The metrics of its row."""
    return {tag.removeprefix("best/"): p for tag, p in scalars(run).items() if tag.startswith("best/")}


def test_choices_have_their_types_and_metrics_their_true_values(train):  # noqa: F811
    run, *_ = train(
        "a",
        "callbacks=default",
        "optimizer=adam",
        "optimizer.lr=0.02",
        "seed=3",
        "trainer.max_epochs=3",
        "resume=auto",
        "++model.dropout=0.25",
        "objective.metric=val/loss",
        "objective.mode=min",
        "trainer.gradient_clip_val=null",
        "trainer.deterministic=true",
    )
    chosen, status = hparams(run)
    assert chosen == {
        **SMALL_CHOICES,
        "optimizer": "adam",
        "optimizer.lr": 0.02,
        "seed": 3,
        "trainer.max_epochs": 3,
        "model.dropout": 0.25,
        "objective.metric": "val/loss",
        "objective.mode": "min",
        "trainer.gradient_clip_val": "null",
        "trainer.deterministic": True,
        "status": "finished",
    }
    assert type(chosen["trainer.deterministic"]) is bool
    assert status == api_pb2.STATUS_SUCCESS
    assert best(run) == {name: [(30, pytest.approx(value))] for name, value in validated(run).items()}
    # The curves have no point more than they had.
    assert [step for step, _ in scalars(run)["val/loss"]] == [9, 19, 29]


def validated(run):
    """The metrics by which a setting may be chosen: none of the test set's, which were measured, too."""
    assert run.result.test_metrics
    return {name: value for name, value in run.result.metrics.items() if name not in run.result.test_metrics}


def test_a_run_that_fails_is_a_row_and_a_finished_one_when_it_went_on(train, monkeypatch):  # noqa: F811
    from leyden.tasks.classification import Classification

    step = Classification.training_step

    def failing_step(self, batch):
        if self.global_step == 15:
            raise OSError("the disk is gone")
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Classification, "training_step", failing_step)
        run, *_ = train("a", "callbacks=default", "trainer.max_epochs=2", code=2)
    chosen, status = hparams(run)
    assert chosen == {**SMALL_CHOICES, "trainer.max_epochs": 2, "status": "failed"}
    assert status == api_pb2.STATUS_FAILURE
    assert not best(run)
    run, *_ = train("a", "callbacks=default", "trainer.max_epochs=2")
    chosen, status = hparams(run)
    assert chosen["status"] == "finished"
    assert status == api_pb2.STATUS_SUCCESS
    assert best(run) == {name: [(20, pytest.approx(value))] for name, value in validated(run).items()}
    assert len(list(run.directory.glob("hparams*"))) == 1


def test_a_pruned_run_is_told_apart(train, monkeypatch):  # noqa: F811
    from leyden.pictures.curves import Layout

    def prune(self, trainer, pl_module):
        self.pruned = trainer.should_stop = True

    monkeypatch.setattr(Layout, "on_validation_end", prune)
    run, *_ = train("a", "callbacks=default", "trainer.max_epochs=9", "test=false")
    chosen, status = hparams(run)
    assert chosen["status"] == "pruned"
    assert status == api_pb2.STATUS_SUCCESS
    assert best(run)["val/acc"] == [(10, pytest.approx(run.result.metrics["val/acc"]))]


@pytest.mark.parametrize("logger", ["csv", "none"])
def test_without_tensorboard_there_is_no_row(train, logger):  # noqa: F811
    run, *_ = train("a", "trainer.max_epochs=1", f"logger={logger}")
    assert not list(run.directory.glob("hparams*"))
