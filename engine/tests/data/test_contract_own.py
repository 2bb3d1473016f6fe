"""A LightningDataModule of one's own gets what that of the example has."""

import pytest

from leyden import assembly
from leyden.testing.contracts import compose
from tests.training.test_start import curves

TASK = ("task=own", "task._target_=tests.tasks.own.Plain", "trainer.log_every_n_steps=3")


def own(name, *more):
    return ("data=own", f"data._target_=tests.data.own.{name}", *TASK, *more)


def test_what_is_missing_costs_that_feature_only(train):
    run, out, err = train("a", *own("TrainingOnly"), "trainer.max_epochs=1", "objective.metric=train/acc")
    assert "no evaluation on the test set: the data have no test_dataloader" in out
    assert "failed" not in err
    assert run.result.metrics["train/acc"] > 0
    assert "samples: 200 train" in out
    _, _, err = train("b", *own("TrainingOnly"), "test=true", "objective.metric=train/acc", code=2)
    assert "test=true: the data have no test_dataloader" in err


def test_facts_reach_a_network(train):
    run, *_ = train(
        *("a", "data=own", "data._target_=tests.data.own.WithFacts", "model.hidden_sizes=[16]"),
        "trainer.max_epochs=1",
    )
    assert run.result.metrics["test/acc"] >= 0
    assert (run.directory / "confusion.png").exists()
    assert not (run.directory / "errors.png").exists()  # there are no inputs(split, indices) to show


@pytest.mark.parametrize("split", ["calibration", "test"])
def test_no_run_is_selected_by_a_split_that_is_not_logged_while_it_trains(train, split):
    data = ("data=own", "data._target_=tests.data.own.WithSizes", "model.hidden_sizes=[16]")
    _, _, err = train("a", *data, f"objective.metric={split}/loss", code=2)
    assert f"objective.metric={split}/loss: must be one of train/acc, train/loss, val/acc, val/loss\n" in err


def test_a_schedule_of_data_that_tell_no_length_needs_a_number_of_steps(train):
    data = ("data=own", "data._target_=tests.data.own.StreamingWithFacts", "model.hidden_sizes=[16]")
    data = (*data, "scheduler=onecycle", "trainer.max_epochs=2", "trainer.log_every_n_steps=1")
    _, _, err = train("a", *data, code=2)
    assert "scheduler: the number of batches of these data is unknown; set trainer.max_steps" in err
    run, *_ = train("a", *data, "+trainer.max_steps=15")
    assert run.result.optimizer_steps == 15
    rates = [value for _, name, value in curves(run) if name.startswith("lr")]
    assert rates[-1] < 1e-5 < max(rates)


def test_the_jobs_of_a_sweep_are_checked_on_data_of_their_own(mnist_root):
    """Nobody knows what an argument of a data module that somebody else wrote changes; of ours some change nothing."""
    assembly.silence_lightning()
    for choice, key, num in (("own", "+data.batch_size", 2), ("mnist", "data.batch_size", 1)):
        read = {}
        for value in (10, 20):
            where = (
                [f"data.root={mnist_root}"] if choice == "mnist" else ["data._target_=tests.data.own.Plain", *TASK]
            )
            assembly.dry_build(compose(f"data={choice}", f"{key}={value}", *where), read)
        assert len(read) == num
