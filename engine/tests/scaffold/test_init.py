"""What `leyden init` finds in the files of others, which are read and not imported."""

import os

import pytest
import yaml

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
            (folder / f"{name}.py").write_text(text)
        return folder

    return write


def written(folder):
    return yaml.safe_load((folder / "conf" / "train.yaml").read_text())


def test_classes_are_found_by_their_bases(project, cli):
    folder = project(a_net=NET, base=BASE, data=DATA)
    code, _, err = cli("init")
    assert (code, err) == (0, "")
    assert written(folder)["task"]["_target_"] == "a_net.Net"
    assert written(folder)["data"]["_target_"] == "data.Data"


def test_a_base_of_the_same_name_in_another_file_is_another_class(project, cli):
    other = "from torch import nn\nclass Net(nn.Module):\n    pass\nclass Wide(Net):\n    pass\n"
    folder = project(a_net=NET, base=BASE, z_other=other)
    assert cli("init")[0] == 0
    assert written(folder)["task"]["_target_"] == "a_net.Net"


def test_a_module_is_named_where_none_or_several_are_found(project, cli):
    folder = project(net="from theirs import Theirs\nclass Net(Theirs):\n    pass\n")
    assert cli("init")[::2] == (2, "leyden: task=...: name the LightningModule; found none\n")
    assert cli("init", "task=net.Net")[0] == 0
    assert written(folder)["task"]["_target_"] == "net.Net"
    (folder / "conf" / "train.yaml").unlink()
    project(base=BASE, net=NET.replace("Net2", "Net"))
    assert cli("init")[::2] == (2, "leyden: task=...: name the LightningModule; found net.Net, net.Other\n")
    assert cli("init", "task=net.Other")[0] == 0


def test_one_with_loaders_trains_on_its_own_data_and_one_without_is_refused(project, cli):
    folder = project(net=NET, base=BASE)
    assert cli("init")[0] == 0
    assert "module" in str(written(folder)["defaults"])
    (folder / "conf" / "train.yaml").unlink()
    (folder / "base.py").unlink()
    project(net="import lightning.pytorch as pl\nclass Net(pl.LightningModule):\n    pass\n")
    code, _, err = cli("init")
    assert code == 2
    assert err == (
        "leyden: data=...: net.Net has no train_dataloader, and no LightningDataModule was found; write one of the two\n"
    )
    assert cli("init", "data=module")[0] == 0


def test_a_trainer_of_ones_own_is_named_as_not_taken_over(project, cli):
    call = "Trainer(max_epochs=15, logger=CSVLogger('logs'), callbacks=[Stop()])"
    project(net=NET, train=f"import lightning as L\nif __name__ == '__main__':\n    L.{call}\n")
    code, _, err = cli("init", "task=net.Net", "data=module")
    assert code == 0
    assert err == f"leyden: train.py:3: not taken over: L.{call}; set trainer.KEY, callbacks and logger in conf/\n"


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


@pytest.mark.parametrize("kind", ["fifo", "folder", "link", "no folder"])
def test_a_name_that_is_taken_is_refused(project, cli, kind):
    folder = project(net=NET)
    path = folder / "conf" / "train.yaml"
    if kind != "no folder":
        path.parent.mkdir()
    {
        "fifo": os.mkfifo,
        "folder": os.mkdir,
        "link": lambda path: path.symlink_to("elsewhere"),
        "no folder": lambda path: path.parent.touch(),
    }[kind](path)
    code, _, err = cli("init", "task=net.Net", "data=module")
    assert code == 2
    assert "Errno" not in err
    assert "move away what has this name" in err
    assert err.count("\n") == 1
