"""Epochs, seconds and speed in a run's result are those that were trained, whatever ends the run or its epoch."""

import errno
import os
from types import SimpleNamespace

import pytest
import torch

from leyden.callbacks.checkpoint import RunCheckpoint
from leyden.callbacks.samples import SamplesSeen
from leyden.tasks import Classification
from leyden.training import start as training


def seen(run):
    """Epochs and samples; most runs here have 1,000 images of training, 10 batches of 100 an epoch."""
    return run.result.epochs, round(run.result.samples_per_second * run.result.seconds)


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


COUNTED = {
    "+trainer.max_steps=4 objective=null": (0, 400),
    "trainer.max_epochs=2 trainer.limit_train_batches=0.3": (2, 600),
    "trainer.max_epochs=2 +trainer.overfit_batches=2": (2, 400),
    "+trainer.max_steps=2 trainer.accumulate_grad_batches=3 objective=null": (0, 600),
    "trainer.max_epochs=2 data.batch_size=300": (2, 2000),  # the last batch has 100
}


@pytest.mark.matrix
@pytest.mark.parametrize("typed", COUNTED)
def test_a_result_counts_the_samples_and_the_completed_epochs_that_were_trained(train, typed):
    run, *_ = train("a", *typed.split())
    assert seen(run) == COUNTED[typed]


def test_an_epoch_that_a_callback_stops_is_not_complete(train, monkeypatch):
    def stop(self, *_):
        self.trainer.should_stop = self.trainer.global_step == 14

    monkeypatch.setattr(Classification, "on_train_batch_end", stop)
    run, *_ = train("a", "trainer.max_epochs=3")
    assert seen(run) == (1, 1400)


def test_a_run_that_is_resumed_within_an_epoch_counts_each_sample_once(train, monkeypatch):
    def failing(self, *_):
        return self.trainer.global_step == 15 and full()

    typed = ("a", "callbacks.checkpoint.every_n_steps=4")
    with monkeypatch.context() as patched:
        patched.setattr(Classification, "on_train_batch_end", failing)
        failed, *_ = train(*typed, "trainer.max_epochs=3", code=2)
    assert failed.result.status == "failed"
    assert failed.result.epochs == 1
    for num in (3, 4):
        run, *_ = train(*typed, f"trainer.max_epochs={num}")
        assert seen(run) == (num, 1000 * num)


def test_a_run_that_failed_at_its_last_step_or_after_it_has_the_result_of_the_undisturbed_run(
    train, monkeypatch
):
    fit = training.fit
    whole, *_ = train("whole", "trainer.max_epochs=2")
    for name, owner, method, failing in (
        ("last step", RunCheckpoint, "on_train_end", full),  # it writes the last checkpoint
        ("after it", training, "fit", lambda *given, **more: full(fit(*given, **more))),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(owner, method, failing)
            failed, *_ = train(name, "trainer.max_epochs=2", code=2)
        assert failed.result.status == "failed"
        assert failed.result.optimizer_steps == 20
        assert failed.result.seconds is None or name == "last step"
        resumed, *_ = train(name, "trainer.max_epochs=2")
        assert seen(resumed) == seen(whole) == (2, 2000)
    later, *_ = train(name, "trainer.max_epochs=2", "test=true")
    assert "test/acc" in later.result.metrics
    assert later.result.epochs == 2
    assert later.result.seconds == pytest.approx(resumed.result.seconds, rel=0.5)


def test_the_first_bad_batch_is_the_one_that_is_named_and_without_losses_there_is_none():
    counted = SamplesSeen()
    assert counted.bad_batch() is None
    for batch_idx, loss in enumerate((1.0, float("nan"), 1.0, float("inf"))):
        trainer = SimpleNamespace(current_epoch=2, fit_loop=SimpleNamespace(batch_idx=batch_idx))
        counted.on_before_backward(trainer, None, torch.tensor(loss))
        assert counted.bad_batch() == ((2, 1) if batch_idx else None)
