"""Every run is a row of TensorBoard's HParams table, by what was typed, with what came of it."""

import hashlib

import pytest
from tensorboard.plugins.hparams import api_pb2, metadata

from tests.callbacks.events import best, hparams, metric, read, scalars
from tests.training.test_start import train  # noqa: F401 - a fixture

SMALL_CHOICES = {
    "callbacks": "default",
    "data.val_size": 59000,
    "data.batch_size": 100,
    "data.eval_batch_size": 10000,
    "model.hidden_sizes": "[16]",
}  # and not `trainer.log_every_n_steps`, which changes nothing that is learned
TYPED = {
    "optimizer.lr": 0.02,
    "seed": 3,
    "trainer.max_epochs": 3,
    "objective.metric": "val/loss",
    "objective.mode": "min",
    "trainer.gradient_clip_val": "null",
    "trainer.deterministic": True,
}


def test_choices_have_their_types_and_metrics_their_true_values(train):  # noqa: F811
    typed = (f"{'++' * ('.' in key)}{key}={value}" for key, value in TYPED.items())
    run, *_ = train("a", "callbacks=default", "resume=auto", *typed)
    chosen, status = hparams(run)
    assert chosen == {**SMALL_CHOICES, **TYPED}
    assert type(chosen["trainer.deterministic"]) is bool
    assert status == api_pb2.STATUS_SUCCESS
    assert {metric("val", tag): points for tag, points in best(run).items()} == selecting(run)
    content = read(run, "best").summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    name = metadata.parse_session_start_info_plugin_data(content).group_name
    assert name == hashlib.sha256(str(run.directory).encode()).hexdigest()[:8]  # equal names would be one row
    # The curves have no point more than they had.
    assert [step for step, _ in scalars(run)["val/loss"]] == [9, 19, 29]


def selecting(run):
    """The metrics by which a setting may be chosen, each on its curve: none of training, and of the test set."""
    assert run.result.test_metrics
    curves = scalars(run)
    step, metrics = run.result.best_step, run.result.metrics
    found = {name: [(step, pytest.approx(metrics[name]))] for name in ("val/acc", "val/loss")}
    assert all(point in [(s, pytest.approx(v)) for s, v in curves[name]] for name, (point,) in found.items())
    return found


def test_without_tensorboard_there_is_no_row(train):  # noqa: F811
    run, *_ = train("a", "trainer.max_epochs=1", "logger=csv")
    assert not list(run.directory.rglob("hparams*"))
