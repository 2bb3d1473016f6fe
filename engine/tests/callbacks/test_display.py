"""What only shows something, or looks on, changes no bit, and costs the run nothing: a mistake in it is a line."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies import SingleDeviceStrategy

from leyden import pictures
from leyden.callbacks import Fingerprints, display
from leyden.pictures import OnEvaluation
from leyden.run import files
from leyden.run.files import first_difference, read_fingerprints
from tests.conftest import assert_same_bits

TWO_EPOCHS = ("trainer.max_epochs=2", "logger=none")  # of ten batches each


def broken(*args, **kwargs):
    raise ZeroDivisionError("a bug")


def test_all_of_them_can_fail_and_the_run_is_what_it_was(train, monkeypatch):
    arguments = ("callbacks=default", "trainer.max_epochs=1", "model.dropout=0.2", "test=true")
    whole, *_ = train("whole", *arguments)
    for name in ("publish", "render", "save_picture"):
        monkeypatch.setattr(pictures, name, broken)
    monkeypatch.setattr("leyden.callbacks.display.print_table", broken)
    monkeypatch.setattr("leyden.report.hparams.hparams_of", broken)
    run, _, err = train("broken", *arguments)
    assert run.result.status == "finished"
    assert run.result.metrics == whole.result.metrics
    for name in ("Curves", "Confusion", "Errors", "Summary", "the row for TensorBoard's HParams"):
        assert f"leyden: {name} failed (ZeroDivisionError), the run continues without it" in err
    assert re.search(r"in broken\n(.|\n)*a bug", err)  # a traceback to the line
    # A run that fails tells its own error, too.
    diverging = ("optimizer=sgd", "optimizer.lr=1e30", "trainer.log_every_n_steps=1")
    run, _, err = train("a", "callbacks=default", *diverging, code=2)
    assert run.result.error.type == "FloatingPointError"
    assert "Curves failed" in err


def test_an_epoch_of_minutes_has_a_few_lines_with_speed_and_remaining_time(train, monkeypatch):
    clock = SimpleNamespace(now=0.0)

    def batch_of(seconds):
        def end(self, trainer, module, outputs, batch, batch_idx):
            clock.now += seconds
            return on_batch_end(self, trainer, module, outputs, batch, batch_idx)

        return end

    on_batch_end = display.Progress.on_train_batch_end
    monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: clock.now))
    said = {}
    for seconds in (30, 1):
        monkeypatch.setattr(display.Progress, "on_train_batch_end", batch_of(seconds))
        _, out, _ = train(f"of {seconds}", "callbacks.progress.refresh_rate=1", *TWO_EPOCHS)
        said[seconds] = [line for line in out.splitlines() if "steps/s" in line]
    first, second, third, *others = said[30]
    begin = "epoch 1/2  batch 2/10  0.0333 steps/s  4 min left of this epoch, 9 min in all"
    assert first == begin
    assert second.startswith("epoch 1/2  batch 6/10 ")  # twice as long after the first
    assert third.startswith("epoch 2/2  batch 2/10 ")
    assert third.endswith(" 4 min left of this epoch")
    assert len(others) == 1
    assert said[1] == []


def test_whatever_is_made_of_them_is_one_of_them_and_a_full_disk_a_line(capfd):
    class Mine(OnEvaluation):
        on_train_start = on_fit_end = broken

    class Child(Mine):
        def on_train_start(self, *args):
            super().on_train_start(*args)
            raise KeyError("another")

        def on_train_end(self):
            raise KeyboardInterrupt

        def on_test_end(self):
            files.write_whole(Path("/dev/null/x"), "")

    child = Child()
    child.on_train_start(None, None)
    child.on_fit_end(None, None)
    assert capfd.readouterr().err.count("leyden: Child failed") == 3
    child.on_test_end()
    reason = "[Errno 20] Not a directory: '/dev/null/x.tmp'"
    line = f"leyden: Child failed ({reason}), the run continues without it\n"
    assert capfd.readouterr().err == line
    with pytest.raises(KeyboardInterrupt):
        child.on_train_end()


def test_fingerprints_change_no_bit_and_say_where_runs_part_and_by_what(train):
    def trained(name, *typed):
        run, *_ = train(name, "model.dropout=0.2", "trainer.max_epochs=2", *typed)
        return run.directory, read_fingerprints(run.directory)

    _, found = trained("a")
    assert [*found] == [10, 20]  # a line per epoch
    directory, each = trained("each", "callbacks.fingerprint.every_n_steps=1")
    assert [*each] == [*range(1, 21)]
    lines = (directory / files.FINGERPRINTS_FILE).read_text().splitlines()
    steps = [line.partition(",")[0] for line in lines]
    assert len({*steps}) == len(steps)  # an epoch's end is no second line
    without, none = trained("without", "~callbacks.fingerprint")
    assert none == {}
    assert_same_bits(directory, without)
    _, checkpoints = trained("checkpoints", "callbacks.checkpoint.every_n_steps=3")
    assert [*checkpoints] == [3, 6, 9, 10, 12, 15, 18, 20]
    _, other = trained("other", "model.dropout=0.3")
    assert first_difference(found, each) is None
    assert first_difference(found, checkpoints) is None
    assert first_difference(found, other) == (10, ["weights", "optimizer"])


def test_what_is_no_line_of_fingerprints_is_left_out(tmp_path):
    one = files.Fingerprint("0" * 32, "1" * 32, "f" * 32)
    for end in ("", "-1," + ",".join(["0" * 32] * 3) + "\n", "30,aa"):
        files.append_fingerprint(tmp_path, 10, one)
        with (tmp_path / files.FINGERPRINTS_FILE).open("a") as file:
            file.write(end)
        assert read_fingerprints(tmp_path) == {10: one}


@pytest.mark.parametrize(("is_global_zero", "written"), [(True, True), (False, False)])
def test_only_the_process_of_rank_zero_writes_fingerprints(tmp_path, is_global_zero, written):
    strategy = SingleDeviceStrategy("cpu")
    given = {"is_global_zero": is_global_zero, "strategy": strategy, "global_step": 0}
    trainer = SimpleNamespace(default_root_dir=tmp_path, **given)
    Fingerprints(every_n_steps=None).on_train_start(trainer, None)
    assert (tmp_path / files.FINGERPRINTS_FILE).exists() == written
