"""The file that `leyden init` writes, and that nothing is overwritten."""

import os

import pytest
import yaml

NAMED = ": must be a dotted name, such as lab.net."


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A folder of one's own, the working directory."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.mark.parametrize("data", [{"data": "net.Data"}, {}])
def test_it_is_of_the_classes_that_are_named(project, command, data):
    arguments = ["task=net.Net", *(f"{key}={name}" for key, name in data.items())]
    assert command("init", *arguments)[1] == ""
    found = yaml.safe_load((project / "conf" / "train.yaml").read_text())
    assert found["task"]["_target_"] == "net.Net"
    assert found.get("data", {}).get("_target_") == data.get("data")
    assert {"data": "own" if data else "module"} in found["defaults"]
    command("init", *arguments, code=2)  # it is a project already


def test_what_is_no_name_and_a_name_that_is_taken_is_refused(project, command):
    for arguments, message in (
        ([], "task=PACKAGE.MODULE.CLASS: name the LightningModule, such as task=lab.net.Net"),
        (["task=Net"], f"task=Net{NAMED}Net"),
        (["task=net.Net", "data=a b"], f"data=a b{NAMED}Waves"),
    ):
        assert command("init", *arguments, code=2)[1] == f"leyden: {message}\n"
    path = project / "conf" / "train.yaml"
    path.parent.mkdir()
    for take in (os.mkfifo, os.mkdir, lambda path: path.symlink_to("there")):
        take(path)
        _, err = command("init", "task=net.Net", "data=module", code=2)
        assert err.count("\n") == 1
        assert "move away what has this name" in err
        path.rmdir() if take is os.mkdir else path.unlink()
    assert not (project / "train.yaml").exists()
