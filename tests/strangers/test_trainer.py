"""Batches, loggers, strategies and loops of strangers: each works, or is refused in one line."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from leyden.run.directory import Run
from tests.strangers.for_trainer import COLLATES
from tests.training.test_train import curves

HERE = "tests.strangers.for_trainer"


def own(task, data="Collated", *more):
    return (
        *("data=own", f"data._target_={HERE}.{data}", "task=own", f"task._target_={HERE}.{task}"),
        *("trainer.log_every_n_steps=1", "trainer.max_epochs=2", *more),
    )


@pytest.fixture
def train(cli, tmp_path):
    """Trains on data and with a module of a stranger's, and returns the run, and what was printed."""

    def run(name, *arguments, code=0):
        found, out, err = cli("train", f"run_dir={tmp_path / name}", *arguments)
        assert found == code, err
        return Run(tmp_path / name), out, err

    return run


@pytest.mark.parametrize("task", ["AnyBatch", "AnyBatchTask"])
@pytest.mark.parametrize("form", COLLATES)
def test_batches_of_any_form_are_trained_on_and_counted_where_they_show_their_size(train, form, task):
    more = ("objective.metric=val/loss", "objective.mode=min", f"+data.form={form!r}")
    run, _, err = train("a", *own(task, "Collated", *more))
    assert "failed" not in err
    assert run.result.metrics["test/loss"] >= 0
    result = json.loads((run.directory / "result.json").read_text())
    with (run.directory / "metrics.csv").open() as file:
        has_speed = "time/samples_per_second" in file.read()
    if form == "opaque":
        assert not has_speed
        assert result["samples_per_second"] is None
    else:
        assert has_speed
        assert round(result["samples_per_second"] * result["seconds"]) == 100
    assert curves(run)


def test_a_module_that_adds_pictures_to_all_loggers_is_trained(train):
    more = ("objective.metric=val/loss", "objective.mode=min", "+data.form=dict")
    run, *_ = train("a", *own("Pictured", "Collated", *more))
    events = EventAccumulator(str(run.directory)).Reload()
    assert {"all", "first"} <= set(events.Tags()["images"])


def test_a_logger_that_is_chosen_alone_takes_pictures_and_drops_them(train):
    more = ("objective.metric=val/loss", "objective.mode=min", "+data.form=dict", "logger=csv")
    train("a", *own("Pictured", "Collated", *more))
