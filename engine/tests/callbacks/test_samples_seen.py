"""Epochs, seconds and speed in a run's result are those that were trained, whatever ends the run or its epoch."""

import errno
import os

import pytest

from leyden.callbacks.checkpoint import RunCheckpoint
from leyden.run.directory import Run
from leyden.tasks import Classification
from tests.conftest import QUICK, finish, start  # 1,000 images of training, 10 batches of 100 an epoch

LAST = "objective=null"  # the last epoch is the best one, so that none needs to be whole


@pytest.fixture
def train(cli, tmp_path):
    """Trains a small run in the directory named, and returns it."""

    def run(*arguments, name="a", code=0):
        found, _, err = cli("train", f"run_dir={tmp_path / name}", *QUICK, "test=false", *arguments)
        assert found == code, err
        return Run(tmp_path / name)

    return run


def seen(run):
    """Epochs and samples."""
    return run.result.epochs, round(run.result.samples_per_second * run.result.seconds)


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("arguments", "epochs", "samples"),
    [
        (["+trainer.max_steps=4", LAST], 0, 400),
        (["trainer.max_epochs=2", "trainer.limit_train_batches=0.3"], 2, 600),
        (["trainer.max_epochs=2", "+trainer.overfit_batches=2"], 2, 400),
        (["+trainer.max_steps=2", "trainer.accumulate_grad_batches=3", LAST], 0, 600),
        (["trainer.max_epochs=2", "data.batch_size=300"], 2, 2000),  # the last batch has 100
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_result_counts_the_samples_and_the_completed_epochs_that_were_trained(train, arguments, epochs, samples):
    assert seen(train(*arguments)) == (epochs, samples)


@pytest.mark.slow
def test_the_samples_of_all_processes_are_counted_over_all_starts(tmp_path, mnist_root):
    arguments = (*QUICK, "test=false", f"run_dir={tmp_path / 'a'}", "trainer.devices=2", "trainer.strategy=ddp")
    for num in (1, 2):
        finish(start(*arguments, "trainer.accelerator=cpu", f"trainer.max_epochs={num}", OMP_NUM_THREADS="1"))
        assert seen(Run(tmp_path / "a")) == (num, 1000 * num)


def test_an_epoch_that_a_callback_stops_is_not_complete(train, monkeypatch):
    def stop(self, outputs, batch, batch_idx):
        self.trainer.should_stop = self.trainer.global_step == 14

    monkeypatch.setattr(Classification, "on_train_batch_end", stop)
    assert seen(train("trainer.max_epochs=3")) == (1, 1400)


def test_a_run_that_is_resumed_within_an_epoch_counts_each_sample_once(train, monkeypatch):
    def fail(self, outputs, batch, batch_idx):
        if self.trainer.global_step == 15:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    arguments = ("trainer.max_epochs=3", "callbacks.checkpoint.every_n_steps=4")
    with monkeypatch.context() as patched:
        patched.setattr(Classification, "on_train_batch_end", fail)
        failed = train(*arguments, code=2).result
    assert (failed.status, failed.epochs) == ("failed", 1)
    assert seen(train(*arguments)) == (3, 3000)
    assert seen(train("trainer.max_epochs=4", "callbacks.checkpoint.every_n_steps=4")) == (4, 4000)


def test_a_run_that_failed_at_its_last_step_has_the_result_of_the_undisturbed_run(train, monkeypatch):
    real = RunCheckpoint.on_train_end  # by which the last checkpoint is written

    def full(self, trainer, *args):
        if trainer.global_step == 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, trainer, *args)

    whole = train("trainer.max_epochs=2", name="whole")
    with monkeypatch.context() as patched:
        patched.setattr(RunCheckpoint, "on_train_end", full)
        failed = train("trainer.max_epochs=2", code=2).result
    assert (failed.status, failed.optimizer_steps) == ("failed", whole.result.optimizer_steps)
    resumed = train("trainer.max_epochs=2")
    assert resumed.result.epochs == whole.result.epochs == 2
    assert seen(resumed) == seen(whole)
    later = train("trainer.max_epochs=2", "test=true").result
    assert "test/acc" in later.metrics
    assert (later.epochs, later.seconds) == (2, pytest.approx(resumed.result.seconds, rel=0.5))


def test_a_failure_after_training_leaves_no_number_to_the_resumed_run(train, monkeypatch):
    from leyden.training import start

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(start, "fit", lambda *args, real=start.fit, **given: (real(*args, **given), full()))
        failed = train("trainer.max_epochs=2", code=2).result
    assert (failed.epochs, failed.seconds) == (2, None)
    assert seen(train("trainer.max_epochs=2")) == (2, 2000)
