"""The command line: options may stand anywhere among overrides."""

import re

from leyden.config.paths import CONF, LIBRARY


def test_options_can_stand_between_overrides_and_after_them(cli, command, tmp_path):
    search = ("-cn", "train", "optimizer.lr=0.1,0.2", "-m", "--config-dir", str(CONF))
    for arguments in (("optimizer.lr=0.1,0.2", "--multirun"), search):
        out, err = command("train", "seed=1", *arguments, "dry_run=true", "optimizer=adam")
        jobs = [line.split() for line in out.splitlines()]
        rates = ("optimizer.lr=0.1", "optimizer.lr=0.2")
        assert [[rate in job for rate in rates] for job in jobs] == [[True, False], [False, True]]
        assert all("seed=1" in job and "optimizer=adam" in job for job in jobs)
    out, err = command("train", "optimizer.lr=0.5", "--cfg", "job", "seed=1")
    assert "lr: 0.5" in out
    assert "\nseed: 1\n" in out
    _, err = command("train", "optimizer.lr=0.5", "--cfg", "everything", "seed=1", code=2)
    assert "invalid choice: 'everything'" in err
    (tmp_path / "mine.yaml").write_text("defaults: [train, _self_]\nseed: 7\n")
    further = ("--config-dir", str(tmp_path), "-cn", "mine")
    assert "\nseed: 7\n" in cli("train", "--cfg", "job", *further)[1]


def test_only_public_modules_of_hydra_are_imported():
    private = re.compile(r"hydra\._internal|hydra\.\w+\._|import hydra\.main|hydra\.main\(")
    assert [path for path in LIBRARY.rglob("*.py") if private.search(path.read_text())] == []
