"""`leyden VERB …` is `python -m leyden.VERB …`."""

import pytest

from leyden import __main__ as command
from leyden.run.directory import Run
from tests.conftest import QUICK, finish, start
from tests.test_imports import VERBS


def test_it_lists_the_verbs(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["leyden"])
    command.main()
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert listed == VERBS


def test_a_verb_that_there_is_not(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["leyden", "trian"])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert "trian: no such verb; did you mean train?" in capsys.readouterr().err


def test_a_run_of_several_processes_writes_down_a_command_that_starts_it_again(tmp_path, mnist_root):
    ddp = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_epochs=1")
    output = finish(start("train", f"run_dir={tmp_path / 'a'}", *QUICK, *ddp, script=("-m", "leyden")))
    assert "2 x cpu" in output
    run = Run(tmp_path / "a")
    assert run.starts[0]["command"][1:4] == ["-m", "leyden.train", f"run_dir={tmp_path / 'a'}"]
    finish(start(*run.starts[0]["command"][3:]))  # finished: it has its result
