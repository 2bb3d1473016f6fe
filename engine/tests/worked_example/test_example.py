"""The defaults in conf/ are the worked example; who replaces that replaces these files, too."""

import functools
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leyden.config.checks import Objective
from leyden.run.directory import Run
from leyden.testing.contracts import compose
from tests import ROOT, records
from tests.conftest import weights
from tests.example import RMSprop


@pytest.mark.slow
@pytest.mark.nightly  # .ci/run begins with this command
def test_the_default_is_the_experiment_of_the_note(command, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    out, _ = command("train")
    (directory,) = (tmp_path / "outputs" / "mnist_mlp").iterdir()
    result = Run(directory).result
    assert result.status == "finished"
    assert result.metrics["test/acc"] >= 0.975
    assert result.objective == Objective("val/acc", "max", result.metrics["val/acc"])
    assert result.epochs == 5
    assert result.optimizer_steps == 5 * 430
    assert (directory / result.checkpoint).exists()
    for text in (
        "407,050",
        "train 55,000",
        "val 5,000",
        "test/acc",
        "samples/s",
        "tensorboard --logdir=",
        str(directory),
    ):
        assert text in out
    assert list(directory.glob("train/events.out.tfevents.*"))
    (look,) = records.table(tmp_path / "outputs" / "test_evaluations.csv")
    assert json.loads(look["metrics"]) == result.test_metrics


@pytest.mark.slow(minutes=0.1)
def test_keras_note_trains_on_all_images_and_evaluates_the_last_weights(command, tmp_path):
    run_dir = tmp_path / "run"
    out, _ = command("train", "experiment=keras_note", f"run_dir={run_dir}", "trainer.max_epochs=1")
    run = Run(run_dir)
    assert "train 60,000" in out
    assert run.result.optimizer_steps == 469  # five epochs are the 2,345 updates of the note
    assert run.result.objective is None
    assert run.config["trainer"]["max_epochs"] == 1
    best = weights(run_dir, "best")
    for key, value in weights(run_dir, "last").items():
        assert torch.equal(best[key], value)


def assert_follows(gradients, optimizer_of, step, rho, **close):
    """The weight goes where a formula of the gradient and of the mean of its squares says."""
    w = torch.nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
    optimizer = optimizer_of([w])
    expected = 0.5
    v = 0.0
    for g in gradients:
        w.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        v = rho * v + (1 - rho) * g**2
        expected -= step(g, v)
        assert w.item() == pytest.approx(expected, **close)


GRADIENTS = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=8)


@given(GRADIENTS, st.floats(1e-5, 1), st.floats(0, 0.99), st.floats(1e-8, 1))
def test_follows_the_formula(gradients, lr, rho, eps):
    made = functools.partial(RMSprop, lr=lr, rho=rho, eps=eps)
    assert_follows(gradients, made, lambda g, v: lr * g / (v + eps) ** 0.5, rho, rel=1e-9, abs=1e-9)


def test_that_of_keras_2_is_optimizer_rmsprop():
    """The note is of 2021, when Keras 2 was current, which stepped by lr g / (√v + ε)."""
    node = compose("optimizer=rmsprop").optimizer
    assert node.weight_decay == 0.0
    made = functools.partial(torch.optim.RMSprop, lr=node.lr, alpha=node.alpha, eps=node.eps)
    gradients = (1e-9, -3.0, 1e-4, 0.2, 0.0, 50.0)
    assert_follows(gradients, made, lambda g, v: 1e-3 * g / (v**0.5 + 1e-7), 0.9, rel=0, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", 0), ("lr", float("nan")), ("rho", 1), ("rho", -0.1), ("eps", 0)],
)
def test_refuses_what_is_out_of_range(name, value):
    settings = {"lr": 1e-3, "rho": 0.9, "eps": 1e-7, name: value}
    with pytest.raises(ValueError, match=name):
        RMSprop([torch.nn.Parameter(torch.ones(1))], **settings)
