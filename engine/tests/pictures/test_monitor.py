"""A run that is slowed by a busy machine says so."""

import pytest

from leyden.pictures import monitor
from leyden.run.directory import Run
from tests.conftest import QUICK


@pytest.fixture
def first_epoch(tmp_path, monkeypatch, capsys):
    """What is said after a first epoch that has waited for so many of ten seconds, and slept for most of the others."""

    def first_epoch(waited_s, *sooner):
        schedule, clock = tmp_path / "schedstat", iter((100.0, *sooner, 110.0, 120.0))
        monkeypatch.setattr(monitor, "SCHEDULE", schedule)
        monkeypatch.setattr(monitor.time, "monotonic", lambda: next(clock))
        callback = monitor.CpuContention()
        schedule.write_text("5000000000 7000000000 12\n")
        callback.on_train_start(None, None)
        schedule.write_text(f"5100000000 {7 + waited_s}000000000 99\n")
        for _ in sooner:
            callback.on_train_epoch_end(None, None)
            assert not capsys.readouterr().err
        callback.on_train_epoch_end(None, None)
        said = capsys.readouterr().err
        schedule.write_text("6000000000 99000000000 100\n")
        callback.on_train_epoch_end(None, None)
        assert not capsys.readouterr().err, "once is enough"
        return said

    return first_epoch


def test_it_tells_for_how_long_it_waited(first_epoch):
    assert "slowed by a busy machine: the run waited 60% of its time for a processor (load " in first_epoch(6)


def test_epochs_that_are_over_at_once_count_together(first_epoch):
    assert "waited 60% of its time" in first_epoch(6, 100.3, 100.6)


def test_a_quiet_machine_is_not_spoken_of(first_epoch):
    assert not first_epoch(1)


@pytest.mark.parametrize("text", [None, "", "something else"])
def test_a_system_that_does_not_tell(tmp_path, monkeypatch, text):
    monkeypatch.setattr(monitor, "SCHEDULE", tmp_path / "schedstat")
    if text is not None:
        monitor.SCHEDULE.write_text(text)
    assert monitor._waited_s() is None


def test_it_is_part_of_a_run(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(monitor, "MIN_WAITING_PART", -1)
    monkeypatch.setattr(monitor, "MIN_EPOCH_S", 0)
    code, _, err = cli("train", f"run_dir={tmp_path / 'run'}", *QUICK, "trainer.max_epochs=2")
    assert code == 0, err
    assert err.count("slowed by a busy machine") == 1
    assert Run(tmp_path / "run").result.status == "finished"
