from unittest.mock import Mock

import lightning as L
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from torch.utils.tensorboard import SummaryWriter

from leyden.loggers import TensorBoard, truncate_events
from tests.callbacks.events import read
from tests.callbacks.test_checkpoint import damage
from tests.conftest import QUICK
from tests.training.test_start import curves
from tests.training.test_start_exact import stopping


def events(directory):
    paths = sorted(directory.glob("events*"))  # the order in which TensorBoard reads
    return [event for path in paths for event in LegacyEventFileLoader(str(path)).Load()]


def steps(directory):
    return [event.step for event in events(directory) if event.summary.value]


def test_two_names_of_a_stage_never_share_a_curve_and_an_open_viewer_is_told_of_a_resumed_run_alone(
    tmp_path,
):
    metrics, logged = {"train/acc": 0.5, "train_acc": 0.25, "lr": 1.0}, []
    for purge_step, told in ((0, []), (3, [3])):
        logger = TensorBoard(save_dir=str(tmp_path), purge_step=purge_step)
        for step in (purge_step, purge_step + 1):
            logger.log_metrics(metrics, step)
            logged += [(step, "charts/acc", 0.5), (step, "train_acc", 0.25), (step, "lr", 1.0)]
        logger.finalize("success")
        written = events(tmp_path / "train")
        assert [event.step for event in written if event.HasField("session_log")] == told
        found = [
            (event.step, each.tag, each.simple_value)
            for event in written
            for each in event.summary.value
        ]
        assert found == logged


def write(directory, steps, **kwargs):
    before = set(directory.glob("events*"))
    writer = SummaryWriter(str(directory), **kwargs)
    for step in steps:
        writer.add_scalar("a", step, step)
    writer.close()
    (path,) = set(directory.glob("events*")) - before
    return path


def test_a_start_drops_what_comes_after_it_and_is_read_last(tmp_path):
    for start, end in ((0, 8), (5, 9), (7, 12)):
        truncate_events(tmp_path, start)
        write(tmp_path, range(start, end), purge_step=start or None)
    assert steps(tmp_path) == list(range(12))
    truncate_events(tmp_path, 0)
    assert steps(tmp_path) == []


@given(end=st.floats(0, 1), step=st.integers(0, 12))
def test_what_is_torn_anywhere_keeps_its_whole_events(tmp_path_factory, end, step):
    directory = tmp_path_factory.mktemp("torn")
    path = write(directory, range(10))
    content = path.read_bytes()
    path.write_bytes(content[: int(end * len(content))])
    try:
        kept = [each for each in steps(directory) if each < step]
    except Exception:  # TensorBoard does not read a file of which the first record is torn
        kept = []
    truncate_events(directory, step)
    assert steps(directory) == kept
    write(directory, range(20, 22))
    assert sorted(steps(directory)) == [
        *kept,
        20,
        21,
    ]  # files of the same second are read by their number as text


def test_a_damaged_event_costs_no_other_and_the_row_for_hparams_is_left_alone(tmp_path):
    row = write(tmp_path, range(10)).rename(tmp_path / "hparams.tfevents")
    before = row.read_bytes()
    damage(write(tmp_path, range(10)))
    truncate_events(tmp_path, 10)
    assert len(steps(tmp_path)) == 9
    assert row.read_bytes() == before


def test_a_resumed_run_has_no_point_twice_and_a_full_disk_is_named(tmp_path, monkeypatch):
    for begin in (0, 2):
        logger = TensorBoard(save_dir=str(tmp_path), purge_step=begin)
        for step in range(begin, 4):
            logger.log_metrics({"train/acc": 0.5}, step)
        logger.finalize("success")
    assert steps(tmp_path / "train") == [0, 1, 2, 3]
    monkeypatch.setattr(
        SummaryWriter, "add_scalar", Mock(side_effect=OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space left on device"):
        logger.log_metrics({"train/acc": 0.5}, 4)


class Histograms(L.Callback):
    """That of docs/own.md, which logs a value, too."""

    def on_validation_epoch_end(self, trainer, pl_module):
        for name, weights in pl_module.network.named_parameters():
            trainer.logger.experiment.add_histogram(name, weights, trainer.global_step)
        trainer.loggers[1].log_metrics({"own": 1.0}, trainer.global_step)


OWN = ("+callbacks.histograms._target_=tests.loggers.test_tensorboard.Histograms",)
OWN = (
    *QUICK,
    *OWN,
    "+callbacks.confusion._target_=leyden.pictures.Confusion",
)  # for which the best weights are validated


def test_what_others_log_before_a_checkpoint_is_kept_by_a_resume_once(train):
    longer, *_ = train("longer", *OWN, "trainer.max_epochs=2")
    train("longer", *OWN, "trainer.max_epochs=3")
    with stopping(25):
        killed, *_ = train("killed", *OWN, "trainer.max_epochs=3", code=1)
    train("killed", *OWN, "trainer.max_epochs=3")
    assert sorted(curves(killed)) == sorted(curves(longer))
    for run in (longer, killed):
        events = read(run, "val")
        every = {
            tuple(each.step for each in events.Histograms(tag))
            for tag in events.Tags()["histograms"]
        }
        assert every == {(10, 20, 30)}
        assert [step for step, name, _ in curves(run) if name == "own"] == [10, 20, 30]
