"""Options of Lightning's trainer are honoured, or refused in a line before training."""

import torch

from leyden.run.result import Result
from tests.conftest import assert_same_bits
from tests.records import forget_result, table
from tests.training.test_start import train  # noqa: F401 - a fixture


def test_max_time_ends_the_run(train):  # noqa: F811
    run, out, _ = train("a", "+trainer.max_time={seconds:1}", "trainer.max_epochs=100000", "test=true")
    assert run.result.status == "finished"
    assert run.result.epochs < 100000
    assert run.result.seconds >= 1
    assert "test/acc" in out


STOPPER = "_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/acc, mode: max, patience: 1"
STOPPING = (f"+callbacks.es={{{STOPPER}, min_delta: 10}}", "trainer.max_epochs=6")


def test_a_run_that_was_stopped_early_is_over(train):  # noqa: F811
    """Also where it was killed before its result was written, and where it is tested later."""
    whole, *_ = train("a", *STOPPING, "test=true")
    assert whole.result.epochs == 2
    killed, *_ = train("b", *STOPPING, "test=false")
    before = killed.result
    forget_result(killed.directory)
    killed, *_ = train("b", *STOPPING, "test=false")
    assert killed.result.metrics == before.metrics
    assert killed.result.epochs == 2
    tested, *_ = train("b", *STOPPING, "test=true")
    assert tested.result.metrics == whole.result.metrics
    assert_same_bits(tested.directory, whole.directory)


def test_fast_dev_run_is_no_finished_run(train):  # noqa: F811
    for _ in range(2):
        run, out, _ = train("a", "+trainer.fast_dev_run=true")
        assert run.result.status == "fast_dev_run"
        assert "epoch 1/1  train acc" in out  # also the second time, though there is a checkpoint
        assert run.result.optimizer_steps == 1
        assert "this is not a finished run" in out
    assert len(run.starts) == 2


def test_a_finished_run_that_was_not_tested_is_tested_when_asked_for(train, tmp_path):  # noqa: F811
    arguments = ("trainer.max_epochs=2", "model.dropout=0.2")
    untested, *_ = train("a", *arguments, "test=false")
    before = untested.result
    tested, out, _ = train("a", *arguments, "test=true")
    whole, *_ = train("b", *arguments, "test=auto")
    assert tested.result.metrics == whole.result.metrics
    assert "test/acc" in out
    assert Result.from_dict(tested.starts[0]["result"]) == before
    evaluations = table(tmp_path / "outputs" / "test_evaluations.csv")
    assert [row["run"] for row in evaluations] == [str(tested.directory), str(whole.directory)]
    assert not before.is_tested
    assert all(run.result.is_tested for run in (tested, whole))
    # Once is enough.
    train("a", *arguments, "test=true")
    assert len(tested.starts) == 2


def test_another_number_of_processes_is_another_run(train):  # noqa: F811
    """As `devices: auto` is on a machine with another number of devices."""
    run, *_ = train("a", "trainer.max_epochs=1")
    path = run.checkpoint("last")
    content = torch.load(path, weights_only=True)
    content["callbacks"]["RankState"]["processes"] *= 2
    torch.save(content, path)
    _, _, err = train("a", "trainer.max_epochs=2", code=2)
    assert "was trained by 2 processes, this run would have 1" in err
    assert run.result.status == "finished"
