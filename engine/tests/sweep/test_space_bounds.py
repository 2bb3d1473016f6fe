"""A sweep that would never end is refused by counting its jobs, before one of them is made."""

import pytest

from leyden.config.checks import MAX_JOBS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("seed=range(1000000)",), "seed=range(1000000): 1,000,000 jobs"),
        (("seed=shuffle(range(0,1000000000))",), "1,000,000,000 jobs"),
        ((f"seed=range(1{'0' * 400})",), "infinitely many jobs"),
        (("optimizer.lr=range(0,1,1e-9)",), "optimizer.lr=range(0,1,1e-9): 1,000,000,000 jobs"),
        (("optimizer.lr=range(0,inf)",), "infinitely many jobs"),
        (("seed=range(0,1000)", "optimizer.lr=range(0.1,1,0.001)"), "seed x optimizer.lr: 900,000 jobs"),
        (
            ("sweep.settings=[{model:mlp},{model:cnn}]", "seed=range(0,60000)"),
            "seed x sweep.settings: 120,000 jobs",
        ),
        (("sweep.seeds=1000000000",), "sweep.seeds=1000000000: 1,000,000,000 jobs"),
        (("sweep.seeds=50000", "optimizer.lr=1,2,3"), "sweep.seeds=50000 of 3 settings: 150,000 jobs"),
        (("sweep=random", "sweep.seeds=1000000000"), "sweep.seeds=1000000000"),
        (("sweep=random", "data.batch_size=range(1,1000000000)"), "data.batch_size=range(1,1000000000)"),
    ],
)
def test_more_jobs_than_a_sweep_can_have_are_a_line(cli, tmp_path, arguments, message):
    code, out, err = cli("train", "-m", *arguments)
    assert code == 2
    assert message in err
    assert f"a sweep has {MAX_JOBS:,} at most" in err
    assert "Traceback" not in out + err
    assert not (tmp_path / "outputs" / "sweeps").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("trainer.max_epochs=100000000",),
        ("-m", "seed=range(10,0,-1000000000000000)"),
        ("-m", "seed=range(1000000,1000003)"),
        ("-m", "sweep=random", "hydra.sweeper.num_trials=1000000000"),
    ],
)
def test_a_large_number_that_is_no_number_of_jobs_starts(cli, arguments):
    code, _, err = cli("train", *arguments, "dry_run=true")
    assert code == 0, err


def test_more_jobs_at_once_than_there_can_be_are_a_line(cli):
    code, _, err = cli("train", "-m", "seed=0,1", "cluster.num_jobs=1000000000")
    assert (code, err) == (
        2,
        "leyden: cluster.num_jobs=1000000000: must be a positive whole number, 100000 at most, or null\n",
    )
