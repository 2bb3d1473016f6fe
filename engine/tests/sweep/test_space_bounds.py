"""A sweep that would never end is refused by counting its jobs, before one of them is made."""

import pytest


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
