"""A LightningDataModule of one's own gets what that of the example has."""

import pytest

from leyden import assembly
from leyden.run.directory import Run
from leyden.testing.contracts import compose
from tests.conftest import assert_same_bits, finish, start
from tests.forks import TIMEOUT_S
from tests.training.test_start import curves
from tests.training.test_start_exact import assert_same_run, kill_at, stopping

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


@pytest.mark.slow(minutes=0.1)
def test_a_loader_without_a_state_is_gone_on_with_from_the_end_of_an_epoch(train):
    _, _, err = train("a", *own("Homemade"), "callbacks.checkpoint.every_n_steps=3", code=2)
    assert (
        "callbacks.checkpoint.every_n_steps=3: must be null, since a run can't resume within an epoch of these data"
        in err
    )
    arguments = own("Homemade", "trainer.max_epochs=3")
    whole, *_ = train("whole", *arguments)
    with stopping(15):
        train("stopped", *arguments, code=1)
    stopped, *_ = train("stopped", *arguments, "resume=must")
    assert_same_run(whole, stopped)


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


@pytest.mark.slow
def test_it_is_swept_and_pruned(cli, tmp_path):
    sweep = ("-m", *own("Plain"), "sweep_name=s", "trainer.max_epochs=2", "cluster.num_jobs=2")
    code, _, err = cli("train", *sweep, "+data.batch_size=10,20")
    assert code == 0, err
    table = (tmp_path / "outputs" / "sweeps" / "s" / "summary.md").read_text()
    assert table.count("| 10") + table.count("| 20") == 2
    search = ("hydra/sweeper=optuna", "+callbacks/pruning=median", "hydra.sweeper.num_trials=3")
    search = (
        *search,
        "+data.batch_size=choice(10,20,40)",
        "sweep_name=t",
        "callbacks.pruning.pruner.n_startup_trials=1",
    )
    code, out, err = cli("train", *sweep[:-2], *search)
    assert code == 0, out + err


def test_it_is_evaluated(train, cli):
    run, *_ = train("a", *own("Plain"), "trainer.max_epochs=1")
    code, out, err = cli("evaluate", f"run={run.directory}")
    assert code == 0, err
    assert "test/acc" in out


@pytest.mark.slow
def test_two_processes_share_the_samples(tmp_path, mnist_root):
    ddp = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    arguments = (*own("Plain", "trainer.max_epochs=2"), f"outputs={tmp_path / 'outputs'}", *ddp)
    arguments = (*arguments, "callbacks.checkpoint.every_n_steps=2")
    finish(start(f"run_dir={tmp_path / 'whole'}", *arguments))
    whole = Run(tmp_path / "whole")
    assert whole.result.optimizer_steps == 10  # 200 samples, 20 per process and step
    kill_at(8, f"run_dir={tmp_path / 'killed'}", *arguments, module="tests.tasks.own:Plain").communicate(
        timeout=TIMEOUT_S
    )
    finish(start(f"run_dir={tmp_path / 'killed'}", "resume=must", *arguments))
    assert_same_bits(whole.directory, tmp_path / "killed")


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


def test_what_is_no_data_module_is_refused(train):
    _, _, err = train("a", "data=own", "data._target_=torch.nn.Identity", code=2)
    assert "data: creates a Identity; must be a LightningDataModule" in err
