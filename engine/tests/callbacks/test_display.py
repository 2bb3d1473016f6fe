"""A mistake in what only shows something is told, and costs the run nothing."""

import sys
from pathlib import Path

import pytest

from leyden.callbacks.display import DisplayCallback
from leyden.pictures.outputs import OnEvaluation
from leyden.run.files import write_whole
from tests.training.test_start import train  # noqa: F401 - a fixture

ALL = {"Curves", "Confusion", "Errors", "Summary", "the row for TensorBoard's HParams"}


def broken(*args, **kwargs):
    raise ZeroDivisionError("a bug")


def test_all_of_them_can_fail_and_the_run_is_what_it_was(train, monkeypatch):  # noqa: F811
    arguments = ("callbacks=default", "trainer.max_epochs=1", "model.dropout=0.2")
    whole, *_ = train("whole", *arguments)
    for module in [module for name, module in sys.modules.items() if name.startswith("leyden.pictures.")]:
        for name in ("publish", "render", "save_picture"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, broken)
    monkeypatch.setattr("leyden.callbacks.display.print_table", broken)
    monkeypatch.setattr("leyden.report.outcome.hparams_of", broken)
    run, _, err = train("broken", *arguments)
    assert run.result.status == "finished"
    assert run.result.metrics == whole.result.metrics
    for name in ALL:
        assert f"leyden: {name} failed (ZeroDivisionError), the run continues without it" in err
    assert "a bug" in err
    assert "in broken" in err  # a traceback to the line


def test_a_run_that_fails_tells_its_own_error(train, monkeypatch):  # noqa: F811
    monkeypatch.setattr("leyden.pictures.curves.save_picture", broken)
    diverging = ("optimizer=sgd", "optimizer.lr=1e30", "trainer.log_every_n_steps=1")
    run, _, err = train("a", "callbacks=default", *diverging, code=2)
    assert run.result.error.type == "FloatingPointError"
    assert "Curves failed" in err


def test_whatever_is_made_of_them_is_one_of_them_and_a_full_disk_a_line(capfd):
    class Mine(OnEvaluation):
        on_train_start = on_fit_end = broken

        def on_test_end(self, *args):
            write_whole(Path("/dev/null/x"), "")

    class Child(Mine):
        def on_train_start(self, *args):
            super().on_train_start(*args)
            raise KeyError("another")

        def on_train_end(self, *args):
            raise KeyboardInterrupt

    assert issubclass(Child, DisplayCallback)
    child = Child()
    child.on_train_start(None, None)
    child.on_fit_end(None, None)
    assert capfd.readouterr().err.count("leyden: Child failed") == 3
    child.on_test_end()
    full = "leyden: Child failed ([Errno 20] Not a directory: '/dev/null/x.tmp'), the run continues without it\n"
    assert capfd.readouterr().err == full
    with pytest.raises(KeyboardInterrupt):
        child.on_train_end()
