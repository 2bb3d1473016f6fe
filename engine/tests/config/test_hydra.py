"""The command line: options may stand anywhere among overrides."""

import re

import yaml

from leyden.base.paths import LIBRARY
from tests import CONF


def test_options_can_stand_between_overrides_and_after_them(cli, command, tmp_path):
    search = ("-cn", "train", "optimizer.lr=0.1,0.2", "-m", "--config-dir", str(CONF))
    for arguments in (("optimizer.lr=0.1,0.2", "--multirun"), search):
        out, _ = command("train", "seed=1", *arguments, "--cfg", "hydra", "optimizer=adam")
        found = yaml.safe_load(out)["hydra"]
        assert found["mode"] == "MULTIRUN"
        assert found["overrides"]["task"][:3] == [
            "seed=1",
            "optimizer.lr=0.1,0.2",
            "optimizer=adam",
        ]
    out, _ = command("train", "optimizer.lr=0.5", "--cfg", "job", "seed=1")
    assert "lr: 0.5" in out
    assert "\nseed: 1\n" in out
    _, err = command("train", "optimizer.lr=0.5", "--cfg", "everything", "seed=1", code=2)
    assert "invalid choice: 'everything'" in err
    (tmp_path / "mine.yaml").write_text("defaults: [train, _self_]\nseed: 7\n")
    further = ("--config-dir", str(tmp_path), "-cn", "mine")
    _, out, _ = cli("train", "--cfg", "job", *further)
    assert "\nseed: 7\n" in out


def test_only_public_modules_of_hydra_are_imported():
    private = re.compile(r"hydra\._internal|hydra\.\w+\._|import hydra\.main|hydra\.main\(")
    assert [path for path in LIBRARY.rglob("*.py") if private.search(path.read_text())] == []
