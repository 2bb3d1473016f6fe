"""The command line: options may stand anywhere among overrides."""

import re

import pytest

from leyden.config.paths import CONF, LIBRARY


@pytest.mark.parametrize(
    "arguments",
    [
        ("seed=1", "optimizer.lr=0.1,0.2", "--multirun"),
        ("seed=1", "-cn", "train", "optimizer.lr=0.1,0.2", "-m", "--config-dir", str(CONF)),
    ],
)
def test_an_option_can_stand_between_overrides_and_after_them(cli, arguments):
    code, out, err = cli("train", *arguments, "dry_run=true", "optimizer=adam")
    assert code == 0, err
    jobs = [line.split() for line in out.splitlines()]
    assert [("optimizer.lr=0.1" in job, "optimizer.lr=0.2" in job) for job in jobs] == [
        (True, False),
        (False, True),
    ]
    assert all("seed=1" in job and "optimizer=adam" in job for job in jobs)


def test_an_option_with_a_value_keeps_it_among_overrides(cli):
    code, out, err = cli("train", "optimizer.lr=0.5", "--cfg", "job", "seed=1")
    assert code == 0, err
    assert "lr: 0.5" in out
    assert "\nseed: 1\n" in out
    code, _, err = cli("train", "optimizer.lr=0.5", "--cfg", "everything", "seed=1")
    assert code == 2
    assert "invalid choice: 'everything'" in err


def test_another_file_in_another_folder_is_composed(cli, tmp_path):
    (tmp_path / "mine.yaml").write_text("defaults: [train, _self_]\nseed: 7\n")
    further = ("--config-dir", str(tmp_path), "-cn", "mine")
    assert "\nseed: 7\n" in cli("train", "--cfg", "job", *further)[1]


@pytest.mark.parametrize(
    "override", ["+hydra.callbacks.mine._target_=x", "hydra.run.dir=x", "hydra.sweep.subdir=x"]
)
def test_what_hydra_would_do_around_a_job_is_refused(cli, override):
    code, _, err = cli("train", override)
    assert (code, err.count("\n")) == (2, 1)
    assert "has no effect in Leyden" in err


def test_only_public_modules_of_hydra_are_imported():
    for path in LIBRARY.rglob("*.py"):
        assert not re.search(
            r"hydra\._internal|hydra\.\w+\._|import hydra\.main|hydra\.main\(", path.read_text()
        ), path
