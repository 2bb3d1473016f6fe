"""A run knows the files that define its classes, and is not resumed, nor used without a word, when they change."""

import importlib
import os
import sys

import pytest

from leyden.run import provenance
from tests.conftest import QUICK, assert_same_bits
from tests.records import files
from tests.training.test_start_exact import stopping

NET = """
import torch
from torch import nn

from .parts import act


class Net(nn.Module):
    def __init__(self, *, input_shape, num_outputs, hidden_sizes, dropout):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), act(), nn.Linear(8, num_outputs))

    def forward(self, images):
        return self.layers(images)
"""


def forget():
    """As in a new process."""
    provenance._digest.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "given"]:
        del sys.modules[name]


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "code" / "given"
    (folder / "deep").mkdir(parents=True)
    for name, text in {
        "__init__.py": "",
        "net.py": NET,
        "parts.py": "import given.deep.er as deeper\nfrom torch import nn\nact = nn.ReLU\n",
        "deep/__init__.py": "",
        "deep/er.py": "from .. import net  # a circle\ndef later():\n    import given.none\n",
        "other.py": "",
    }.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "code")
    forget()
    yield folder
    forget()


def test_the_files_are_those_of_ones_own_code_wherever_it_lies(package, tmp_path, monkeypatch):
    importlib.import_module("given.net")
    every = provenance.code_of()
    assert not [name for name in every if name.startswith(("torch/", "leyden/"))]
    found = {name: each for name, each in every.items() if name.startswith("given/")}
    names = ["given/__init__.py", "given/deep/__init__.py", "given/deep/er.py", "given/net.py", "given/parts.py"]
    assert [*found] == names
    # A copy elsewhere, with Windows' ends of lines.
    package.rename(tmp_path / "given")
    (tmp_path / "given" / "net.py").write_bytes(NET.replace("\n", "\r\n").encode())
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    starts = [{"code": found}, {"code": {}}]  # a job is submitted by a process that has imported nothing
    assert provenance.changed_code(starts) == []
    (tmp_path / "given" / "parts.py").write_text("act = None")
    assert provenance.changed_code(starts) == []  # this process has imported what was there
    forget()
    assert provenance.changed_code(starts) == ["given/parts.py"]


@pytest.mark.slow(minutes=0.1)
def test_a_run_whose_code_has_changed_is_refused_unless_that_is_meant(package, tmp_path, command):
    run = tmp_path / "a"
    typed = (*QUICK, "model._target_=given.net.Net", "trainer.max_epochs=1", "callbacks.checkpoint.every_n_steps=3")

    def call(*more, verb="train", code=0):
        return "".join(command(verb, *((f"run_dir={run}", *typed) if verb == "train" else ()), *more, code=code))

    def edit(activation):
        path = package / "parts.py"
        text = path.read_text()
        # Python takes its compiled file for one of the same size that is edited within the same second.
        later = int(path.stat().st_mtime) + 2
        path.write_text(text.replace(text.split("nn.")[1], f"{activation}\n"))
        os.utime(path, (later, later))
        forget()

    with stopping(2):
        call(code=1)
    edit("GELU")  # nothing was saved: it starts over, as after a bug that was mended
    with stopping(5):
        assert "changed" not in call(code=1)
    edit("ReLU")
    before = files(run)
    for resume in ("auto", "must"):
        err = call(f"resume={resume}", code=2)
        assert err.count("\n") == 1
        assert f"{run}: given/parts.py changed since the run's last start" in err
        assert "by resume=changed" in err
    assert files(run) == before
    edit("GELU")
    for more in ((), (f"run_dir={tmp_path / 'b'}",)):
        assert "changed" not in call(*more)
    assert_same_bits(run, tmp_path / "b")
    # What has finished is used, with a line.
    edit("ReLU")
    out = call()
    assert "nothing was trained" in out
    assert "given/parts.py changed since the run was trained; this is the result of the code before" in out
    assert call(f"run={run}", verb="evaluate").count("changed since the run was trained") == 1
    assert call("trainer.max_epochs=2", code=2).count("\n") == 1
    call("trainer.max_epochs=2", "resume=changed")
    call("trainer.max_epochs=3")  # the new code is that of the last start
