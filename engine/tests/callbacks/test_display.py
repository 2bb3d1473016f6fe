"""What only shows something, or looks on, changes no bit, and costs the run nothing: a mistake in it is a line."""

import sys
from pathlib import Path

import pytest

from leyden.callbacks.display import DisplayCallback
from leyden.pictures.outputs import OnEvaluation
from leyden.run.files import (
    FINGERPRINTS_FILE,
    Fingerprint,
    append_fingerprint,
    first_difference,
    read_fingerprints,
    write_whole,
)
from tests.conftest import assert_same_bits

ALL = {"Curves", "Confusion", "Errors", "Summary", "the row for TensorBoard's HParams"}
SHORT = ("model.dropout=0.2", "trainer.max_epochs=2")


def broken(*args, **kwargs):
    raise ZeroDivisionError("a bug")


def test_all_of_them_can_fail_and_the_run_is_what_it_was(train, monkeypatch):
    arguments = ("callbacks=default", "trainer.max_epochs=1", "model.dropout=0.2")
    whole, *_ = train("whole", *arguments)
    for module in [module for name, module in sys.modules.items() if name.startswith("leyden.pictures.")]:
        for name in ("publish", "render", "save_picture"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, broken)
    monkeypatch.setattr("leyden.callbacks.display.print_table", broken)
    monkeypatch.setattr("leyden.report.outcome.hparams_of", broken)
    run, _, err = train("broken", *arguments)
    assert (run.result.status, run.result.metrics) == ("finished", whole.result.metrics)
    for name in ALL:
        assert f"leyden: {name} failed (ZeroDivisionError), the run continues without it" in err
    assert "a bug" in err
    assert "in broken" in err  # a traceback to the line
    # A run that fails tells its own error, too.
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


def test_fingerprints_change_no_bit_and_say_where_runs_part_and_by_what(train):
    found = {}
    for name, more in {
        "a": (),  # a line per epoch
        "each": ("callbacks.fingerprint.every_n_steps=1",),
        "without": ("~callbacks.fingerprint",),
        "other": ("model.dropout=0.3",),
        "checkpoints": ("callbacks.checkpoint.every_n_steps=3",),
    }.items():
        run, *_ = train(name, *SHORT, *more)
        found[name] = read_fingerprints(run.directory)
        if name == "each":
            lines = (run.directory / FINGERPRINTS_FILE).read_text().splitlines()
            assert len({line.partition(",")[0] for line in lines}) == len(lines)  # an epoch's end is no second line
        if name == "without":
            assert_same_bits(run.directory.with_name("each"), run.directory)
    assert {name: [*each] for name, each in found.items()} == {
        "a": [10, 20],
        "each": [*range(1, 21)],
        "without": [],
        "other": [10, 20],
        "checkpoints": [3, 6, 9, 10, 12, 15, 18, 20],
    }
    assert first_difference(found["a"], found["each"]) is None
    assert first_difference(found["a"], found["checkpoints"]) is None
    assert first_difference(found["a"], found["other"]) == (10, ["weights", "optimizer"])


@pytest.mark.parametrize("end", ["", "30,aa", "-1," + ",".join(["0" * 32] * 3) + "\n"])
def test_what_is_no_line_of_fingerprints_is_left_out(tmp_path, end):
    one = Fingerprint("0" * 32, "1" * 32, "f" * 32)
    append_fingerprint(tmp_path, 10, one)
    with (tmp_path / FINGERPRINTS_FILE).open("a") as file:
        file.write(end)
    assert read_fingerprints(tmp_path) == {10: one}
