import torch

from leyden.run.result import Result
from tests.conftest import assert_same_bits, checkpoint
from tests.records import forget_result, table


def test_max_time_ends_the_run(train):
    run, out, _ = train(
        "a", "+trainer.max_time={milliseconds:300}", "trainer.max_epochs=100000", "test=true"
    )
    assert run.result.status == "finished"
    assert run.result.epochs < 100000
    assert run.result.seconds >= 0.3
    assert "test/acc" in out


STOPPER = (
    "_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/acc, mode: max, patience: 1"
)
STOPPING = (f"+callbacks.es={{{STOPPER}, min_delta: 10}}", "trainer.max_epochs=6")


def test_a_run_that_was_stopped_early_is_over_and_is_tested_once_when_asked_for(train, tmp_path):
    whole, *_ = train("a", *STOPPING, "test=auto")
    killed, *_ = train("b", *STOPPING, "test=false")
    before = killed.result
    forget_result(killed.directory)
    train("b", *STOPPING, "test=false")
    over = killed.result
    assert over.metrics == before.metrics
    assert over.epochs == whole.result.epochs == 2
    tested, *_ = train("b", *STOPPING, "test=true")
    assert tested.result.metrics == whole.result.metrics
    assert_same_bits(tested.directory, whole.directory)
    assert [each.is_tested for each in (over, tested.result, whole.result)] == [False, True, True]
    train("b", *STOPPING, "test=true")  # once is enough
    evaluations = table(tmp_path / "outputs" / "test_evaluations.csv")
    assert [row["run"] for row in evaluations] == [str(whole.directory), str(tested.directory)]
    assert len(tested.starts) == 3
    assert Result.from_dict(tested.starts[1]["result"]) == over


def test_fast_dev_run_is_no_finished_run(train):
    for _ in range(2):
        run, out, _ = train("a", "+trainer.fast_dev_run=true")
        assert run.result.status == "fast_dev_run"
        assert "epoch 1/1  train acc" in out  # also the second time, though there is a checkpoint
        assert run.result.optimizer_steps == 1
        assert "this is not a finished run" in out
        assert "next steps" not in out
    assert len(run.starts) == 2


def test_another_number_of_processes_is_another_run(train):
    """As `devices: auto` is on a machine with another number of devices."""
    run, *_ = train("a", "trainer.max_epochs=1")
    content = checkpoint(run)
    content["callbacks"]["RankState"]["processes"] *= 2
    torch.save(content, run.checkpoint("last"))
    _, _, err = train("a", "trainer.max_epochs=2", "trust=true", code=2)
    assert "was trained by 2 processes, this run would have 1" in err
    assert run.result.status == "finished"
