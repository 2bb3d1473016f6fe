"""What `leyden init` finds in the files of others, which are read and not imported."""

import os

import pytest
import yaml

from leyden import scaffold
from leyden.config.errors import UserError

BASE = """
import lightning as L
class Base(L.LightningModule):
    def train_dataloader(self):
        return []
    @abstractmethod
    def loss(self): ...
"""
NET = """
from base import Base as B
raise SystemExit  # a script, which is not run
try:
    class Net(B):
        def loss(self): ...
finally:
    pass
class Other(Net2):
    pass
"""
DATA = """
from lightning.pytorch import LightningDataModule as Base, Trainer
class Data(Base):
    class Inner(Base):
        pass
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write files into a project of one's own."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def write(**texts):
        for name, text in texts.items():
            (folder / f"{name}.py").parent.mkdir(exist_ok=True)
            (folder / f"{name}.py").write_text(text)
        return folder

    return write


OTHER = "from torch import nn\nclass Net(nn.Module):\n    pass\nclass Wide(Net):\n    pass\n"
GENERIC = """
import lightning as L
class Base(L.LightningModule, Generic[T]):
    def train_dataloader(self): ...
class Net(Base[int]): ...
"""
PLAIN = "import lightning.pytorch as pl\nclass Net(pl.LightningModule):\n    pass\n"
THEIRS = "from theirs import Theirs\nclass Net(Theirs):\n    pass\n"
TWO = {"base": BASE, "net": NET.replace("Net2", "Net")}
NAMED = ["task=net.Net", "data=module"]
CALL = "L.Trainer(max_epochs=15, logger=CSVLogger('logs'), callbacks=[Stop()])"
TRAINS = f"import lightning as L\nif __name__ == '__main__':\n    {CALL}\n"
NOT_TAKEN = f"train.py:3: not taken over: {CALL}; set trainer.KEY, callbacks and logger in conf/"
NO_LOADER = "data=...: net.Net has no train_dataloader, and no LightningDataModule was found; write one of the two"
SEVERAL = "task=...: name the LightningModule; found net.Net, net.Other"


@pytest.mark.parametrize(
    ("files", "arguments", "targets", "message"),
    [
        ({"a_net": NET, "base": BASE, "data": DATA}, [], ("a_net.Net", "data.Data"), ""),
        ({"net": NET, "base": BASE}, [], ("net.Net", None), ""),
        ({"net": NET, "base": BASE, "z_other": OTHER}, [], ("net.Net", None), ""),  # another class of the same name
        ({"net": GENERIC}, [], ("net.Net", None), ""),
        ({"net/__init__": PLAIN}, ["data=module"], ("net.Net", None), ""),
        ({"net": PLAIN}, ["data=module"], ("net.Net", None), ""),
        ({"net": PLAIN}, [], None, NO_LOADER),
        ({"net": THEIRS}, [], None, "task=...: name the LightningModule; found none"),
        ({"net": THEIRS}, NAMED, ("net.Net", None), ""),
        (TWO, [], None, SEVERAL),
        (TWO, ["task=net.Other"], ("net.Other", None), ""),
        ({"net": NET, "train": TRAINS}, NAMED, ("net.Net", None), NOT_TAKEN),
    ],
)
def test_classes_are_found_by_their_bases(project, cli, files, arguments, targets, message):
    folder = project(**files)
    code, _, err = cli("init", *arguments)
    assert (code, err) == (0 if targets else 2, f"leyden: {message}\n" if message else "")
    if targets:
        found = yaml.safe_load((folder / "conf" / "train.yaml").read_text())
        assert (found["task"]["_target_"], found.get("data", {}).get("_target_")) == targets
        assert {"data": "own" if targets[1] else "module"} in found["defaults"]


def test_no_regular_file_is_read(project, cli):
    folder = project(net=NET, base=BASE)
    os.mkfifo(folder / "b.py")
    (folder / "c.py").symlink_to("c.py")
    (folder / "d.py").mkdir()
    (folder / "d.py" / "e.py").write_text("raise SystemExit")
    (folder / "f").symlink_to(".")
    (folder / "g.py").symlink_to("nowhere")
    (folder / "h.py").write_bytes(b"\xff\0")
    (folder / "i.py").write_text("(" * 10_000)
    assert cli("init")[::2] == (0, "")


@pytest.mark.parametrize("kind", ["fifo", "folder", "link", "no folder", "linked folder"])
def test_a_name_that_is_taken_is_refused(project, cli, kind):
    folder = project(net=NET)
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
