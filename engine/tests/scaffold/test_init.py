"""What `leyden init` finds in the files of others, which are imported in a process of its own."""

import os

import pytest
import yaml

from leyden.scaffold import imported

BASE = """
import lightning as L
class Theirs(L.LightningModule):  # of an installed package
    def train_dataloader(self):
        return []
"""
NET = """
from theirs import Theirs
class Net(Theirs):
    pass
"""
DATA = """
from lightning.pytorch import LightningDataModule as Base, Trainer
Alias = Base
class Data(Alias):
    pass
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write files into a project of one's own, beside an installed package."""
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "theirs.py").write_text(BASE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"))
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


def test_a_module_is_found_whose_base_is_of_another_package(project, cli):
    folder = project(net=NET, data=DATA, random="raise SystemExit  # shadows one of Python's")
    code, _, err = cli("init")
    assert (code, err) == (0, "")
    assert written(folder)["task"]["_target_"] == "net.Net"
    assert written(folder)["data"]["_target_"] == "data.Data"


@pytest.mark.slow
def test_one_with_loaders_trains_on_its_own_data_and_one_without_is_refused(project, cli):
    folder = project(net=NET)
    assert cli("init")[0] == 0
    assert "module" in str(written(folder)["defaults"])
    (folder / "conf" / "train.yaml").unlink()
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


SCRIPTS = {  # and what is reported of each
    "fits": ("L.Trainer().fit(None)", "RuntimeError: trains when it is imported"),
    "exits": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "ends": ("import os; os._exit(3)", "it ended Python with code 3"),
    "asks": ("input()", "EOFError: EOF when reading a line"),
    "parses": ("import argparse; argparse.ArgumentParser().parse_args(['x'])", "SystemExit: 2"),
    "misses": ("import not_installed", "ModuleNotFoundError: No module named 'not_installed'"),
    "moves": ("import os; os.chdir('/'); x = [1, 2][2]", "IndexError: list index out of range"),
    "killed": ("import os; os.kill(os.getpid(), 9)", "it ended Python with code -9"),
}


@pytest.mark.slow
def test_no_script_can_end_it(project, cli):
    last = {"waits": BASE}
    folder = project(**{name: f"import lightning as L\n{text}\n" for name, (text, _) in SCRIPTS.items()}, **last)
    found, errors = imported.import_classes([*SCRIPTS, *last], [folder])
    assert found == [("waits.Theirs", "task", True)]
    assert errors == {name: told for name, (_, told) in SCRIPTS.items()}


@pytest.mark.slow
def test_a_script_that_waits_is_killed_and_its_class_found_by_its_base(project, cli, monkeypatch):
    monkeypatch.setattr(imported, "LIMIT_S", 10.0)
    text = "import time\ntime.sleep(1000)\nclass Script(L.LightningDataModule):\n    pass\n"
    folder = project(a_script=text, net=BASE.replace("(L.", "(other.LightningModule, L."))
    code, _, err = cli("init")
    assert (code, err) == (
        0,
        "leyden: not imported, so that classes may be missed: a_script: not within 10 s; net: not within 10 s\n",
    )
    assert written(folder)["task"]["_target_"] == "net.Theirs"
    assert written(folder)["data"]["_target_"] == "a_script.Script"


@pytest.mark.slow
def test_no_regular_file_is_read(project, cli):
    folder = project(net=NET)
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
