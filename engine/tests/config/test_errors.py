"""An error while a run is composed and built is a line; a bug while it trains is a traceback to the researcher's line."""

import errno
import re
import signal
import sys
import traceback

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from leyden.base.errors import Exit, UserError, ending
from leyden.base.paths import LIBRARY
from leyden.run.directory import Run
from tests import ENGINE
from tests.conftest import QUICK

MINE = """
import lightning as L
from torch import nn


class Net(nn.Sequential):
    def __init__(self, *, input_shape, num_classes, bug):
        super().__init__(nn.Flatten(), nn.Linear(784, num_classes))
        self.bug = bug
        if bug == "KeyError":
            {}["hidden"]  # KeyError
        if bug == "OSError":
            open("/nowhere/at/all")  # OSError
        if bug == "on purpose":
            raise ValueError("bug=on purpose: must be none")  # on purpose

    def forward(self, x):
        if self.bug == "forward":
            return self[1](x)  # forward
        if self.bug == "training" and self.training and x.device.type != "meta":
            raise RuntimeError("in training")  # training
        return super().forward(x)


class Show(L.Callback):
    def on_train_start(self, trainer, pl_module):
        {}["callback"]  # callback


class Data:
    def __init__(self, root, train, download):
        self.targets = [{}["label"]]  # data
"""
NET = ("model._target_=mine.Net", "~model.hidden_sizes", "~model.dropout")
WHILE_BUILT = {
    bug: [*NET, f"+model.bug='{bug}'"] for bug in ("KeyError", "OSError", "on purpose", "forward")
}
WHILE_BUILT |= {"data": ["data.dataset._target_=mine.Data"]}
WHILE_TRAINED = {
    "training": [*NET, "+model.bug=training"],
    "callback": ["+callbacks.mine._target_=mine.Show"],
}


@pytest.fixture
def run(cli, tmp_path, monkeypatch):
    """Runs the command with the module `mine` at hand; its exit code and what it prints."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)

    def run(*arguments):
        monkeypatch.delitem(sys.modules, "mine", raising=False)  # of another test
        small = [override for override in QUICK if not override.startswith("model")]
        code, out, err = cli(
            "train", *small, f"run_dir={tmp_path / 'run'}", "trainer.max_epochs=1", *arguments
        )
        return code, out + err

    return run


def line_of(bug):
    return next(n for n, line in enumerate(MINE.splitlines(), start=1) if line.endswith(f"# {bug}"))


@pytest.mark.parametrize("bug", WHILE_BUILT)
def test_an_error_while_a_run_is_built_is_a_line_with_its_place(run, tmp_path, bug):
    code, output = run(*WHILE_BUILT[bug])
    assert code == 2, output
    assert len(output.strip().splitlines()) <= 2, output
    assert output.startswith("leyden: data: " if bug == "data" else "leyden: model")
    assert f"mine.py:{line_of(bug)} in " in output
    assert not (tmp_path / "run").exists()


def test_a_module_that_cannot_be_imported_shows_where(run, tmp_path):
    for text in ("x = y", "import nothing_of_this_name", "def ("):
        (tmp_path / "mine.py").write_text(f"{text}\n")
        code, output = run(*NET, "+model.bug=none")
        assert code == 2, output
        assert "mine.py" in output, output
        assert "Traceback" not in output, output


@pytest.mark.parametrize("bug", WHILE_TRAINED)
def test_a_bug_while_it_trains_is_a_traceback_to_its_line(run, tmp_path, bug):
    code, output = run(*WHILE_TRAINED[bug])
    assert code == 1, output
    assert f'mine.py", line {line_of(bug)}' in output
    assert f"mine.py:{line_of(bug)} in " in Run(tmp_path / "run").result.error.where


@pytest.mark.parametrize("bug", ["KeyError", "training"])
def test_a_debugger_and_a_variable_get_the_error_itself(run, monkeypatch, bug):
    monkeypatch.setattr(sys, "gettrace", lambda: print)
    with pytest.raises((UserError, RuntimeError)) as raised:
        run(*{**WHILE_BUILT, **WHILE_TRAINED}[bug])
    assert 'mine.py", line' in "".join(traceback.format_exception(raised.value))
    monkeypatch.undo()
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(UserError), ending():
        raise UserError("one line")


ENDS = [
    (UserError("seed=x: must be a number"), 2, "leyden: seed=x: must be a number"),
    (FloatingPointError("the loss is nan"), 2, "leyden: FloatingPointError: the loss is nan"),
    (MisconfigurationException("no step"), 2, "leyden: MisconfigurationException: no step"),
    (MemoryError(), 2, "leyden: MemoryError"),
    (torch.OutOfMemoryError("out of memory"), 2, "leyden: OutOfMemoryError: out of memory"),
    (
        OSError(errno.ENOSPC, "No space left on device"),
        2,
        "leyden: [Errno 28] No space left on device",
    ),
    (KeyboardInterrupt(), 130, "Interrupted."),
    (KeyError("x"), 1, "Traceback (most recent call last):"),
    (FileNotFoundError("of code of the user's"), 1, "Traceback (most recent call last):"),
]


def test_each_error_has_its_exit_code(capsys):
    for error, code, shown in ENDS:
        with pytest.raises(SystemExit) as stop, ending():
            raise error
        signal.signal(signal.SIGINT, signal.default_int_handler)
        said = capsys.readouterr().err
        assert (stop.value.code, said.startswith(shown)) == (code, True), (error, said)


def test_the_page_of_keys_has_the_table_of_exit_codes_and_a_process_ends_in_one_place():
    rows = re.findall(
        r"^\| (\d+) \| ", (ENGINE / "docs" / "keys.md").read_text(), flags=re.MULTILINE
    )
    assert [*map(int, rows)] == sorted({*Exit})
    ends = re.compile(r"raise SystemExit|sys\.exit\(|os\._exit\(")
    found = {
        path.relative_to(LIBRARY).as_posix(): ends.findall(path.read_text())
        for path in LIBRARY.rglob("*.py")
    }
    assert {name: texts for name, texts in found.items() if texts} == {
        "base/errors.py": ["raise SystemExit", "os._exit("],
        "exact/signals.py": ["raise SystemExit"],  # for a Trainer without Leyden's commands
        "queue/hosts.py": ["sys.exit("],  # a site's command, which runs by itself
        "queue/bootstrap.py": ["sys.exit("] * 3,  # it runs before Leyden can be imported
    }
