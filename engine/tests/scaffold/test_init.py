"""The file that `leyden init` writes, and files of new parts: of classes that are named, and through no link."""

import os

import pytest
import yaml

from leyden import scaffold
from leyden.config.errors import UserError


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


@pytest.mark.parametrize("kind", ["fifo", "folder", "link", "no folder", "linked folder"])
def test_a_name_that_is_taken_is_refused(project, cli, kind):
    folder = project
    path = folder / "conf" / "train.yaml"
    if not kind.endswith(" folder"):
        path.parent.mkdir()
    {
        "fifo": os.mkfifo,
        "folder": os.mkdir,
        "link": lambda path: path.symlink_to("elsewhere"),
        "no folder": lambda path: path.parent.touch(),
        "linked folder": lambda path: path.parent.symlink_to(folder),
    }[kind](path)
    code, _, err = cli("init", "task=net.Net", "data=module")
    assert code == 2
    assert "Errno" not in err
    assert "move away what has this name" in err
    assert err.count("\n") == 1
    assert not (folder / "train.yaml").exists()


def test_a_new_part_is_written_through_no_link(tmp_path, monkeypatch):
    elsewhere, package = tmp_path / "elsewhere", tmp_path / "src" / "mine"
    for folder in (elsewhere, package / "models", tmp_path / "conf" / "model"):
        folder.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "models" / "__init__.py").symlink_to(elsewhere / "package.py")
    (tmp_path / "conf" / "sweep").symlink_to(elsewhere)
    monkeypatch.setattr(scaffold, "ROOT", tmp_path)
    monkeypatch.setattr(scaffold, "SRC", tmp_path / "src")
    monkeypatch.setattr(scaffold, "own_packages", lambda folder="": ["mine"])
    with pytest.raises(UserError, match="conf/sweep: must be a folder, and no link"):
        scaffold.write_part("model", "capsule")
    (tmp_path / "conf" / "sweep").unlink()
    (tmp_path / "conf" / "model" / "capsule.yaml").symlink_to(elsewhere / "capsule.yaml")
    with pytest.raises(UserError, match=r"conf/model/capsule\.yaml exists"):
        scaffold.write_part("model", "capsule")
    scaffold.write_part("model", "other")
    assert not [*elsewhere.iterdir()]
