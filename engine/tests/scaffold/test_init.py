"""The file that `leyden init` writes, and that nothing is overwritten."""

import os

import pytest
import yaml


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder of one's own, the working directory."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("arguments", "targets", "message"),
    [
        (["task=net.Net", "data=net.Data"], ("net.Net", "net.Data"), ""),
        (["task=net.Net"], ("net.Net", None), ""),
        ([], None, "task=PACKAGE.MODULE.CLASS: name the LightningModule, such as task=lab.net.Net"),
        (["task=Net"], None, "task=Net: must be a dotted name, such as lab.net.Net"),
        (["task=net.Net", "data=a b"], None, "data=a b: must be a dotted name, such as lab.net.Waves"),
    ],
)
def test_it_is_of_the_classes_that_are_named(project, cli, arguments, targets, message):
    code, _, err = cli("init", *arguments)
    assert (code, err) == (0 if targets else 2, f"leyden: {message}\n" if message else "")
    if targets:
        found = yaml.safe_load((project / "conf" / "train.yaml").read_text())
        assert (found["task"]["_target_"], found.get("data", {}).get("_target_")) == targets
        assert {"data": "own" if targets[1] else "module"} in found["defaults"]
        assert cli("init", *arguments)[0] == 2  # it is a project already


def test_a_name_that_is_taken_is_refused(project, cli):
    path = project / "conf" / "train.yaml"
    path.parent.mkdir()
    for take in (os.mkfifo, os.mkdir, lambda path: path.symlink_to("there")):
        take(path)
        code, _, err = cli("init", "task=net.Net", "data=module")
        assert (code, err.count("\n")) == (2, 1)
        assert "move away what has this name" in err
        path.rmdir() if take is os.mkdir else path.unlink()
    assert not (project / "train.yaml").exists()
