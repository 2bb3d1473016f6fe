"""The defaults in conf/ are the worked example; who replaces that replaces this file, too."""

import json

import pytest
import torch

from leyden.config.checks import Objective
from leyden.config.paths import ROOT
from leyden.run.directory import Run
from tests import records
from tests.conftest import weights
from tests.training.test_start import curves


@pytest.mark.slow
@pytest.mark.nightly  # .ci/run begins with this command
def test_the_default_is_the_experiment_of_the_note(command, tmp_path, monkeypatch):
    """The whole default command: it learns, it tests once, and it says where everything is."""
    monkeypatch.chdir(ROOT)
    out, _ = command("train")
    (directory,) = (tmp_path / "outputs" / "mnist_mlp").iterdir()
    result = Run(directory).result
    assert result.status == "finished"
    assert result.metrics["test/acc"] >= 0.975
    assert result.objective == Objective("val/acc", "max", result.metrics["val/acc"])
    assert (result.epochs, result.optimizer_steps, result.error) == (5, 5 * 430, None)
    assert result.samples_per_second == pytest.approx(5 * 55_000 / result.seconds)
    assert (directory / result.checkpoint).exists()
    said = ("407,050", "55,000 train", "5,000 val", "test/acc", "samples/s", "tensorboard --logdir=")
    assert [text for text in (*said, str(directory)) if text not in out] == []
    assert list(directory.glob("train/events.out.tfevents.*"))
    (look,) = records.table(tmp_path / "outputs" / "test_evaluations.csv")
    assert json.loads(look["metrics"]) == {k: v for k, v in result.metrics.items() if k.startswith("test/")}
    steps = {step for step, metric, _ in curves(Run(directory)) if metric == "val/acc"}
    assert steps == {429, 859, 1289, 1719, 2149}


@pytest.mark.slow(minutes=0.1)
def test_keras_note_trains_on_all_images_and_evaluates_the_last_weights(command, tmp_path):
    run_dir = tmp_path / "run"
    out, _ = command("train", "experiment=keras_note", f"run_dir={run_dir}", "trainer.max_epochs=1")
    run = Run(run_dir)
    assert "60,000 train" in out
    assert run.result.optimizer_steps == 469  # five epochs are the 2,345 updates of the note
    assert run.result.objective is None
    assert run.config["trainer"]["max_epochs"] == 1
    best = weights(run_dir, "best")
    assert all(torch.equal(best[key], value) for key, value in weights(run_dir, "last").items())
