from unittest.mock import Mock

import lightning as L
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from torch.utils.tensorboard import SummaryWriter

from leyden.loggers import TensorBoard, last_step, truncate_events
from tests.callbacks.events import read
from tests.conftest import QUICK
from tests.training.test_start import curves
from tests.training.test_start_exact import stopping


def writer_number(path):
    """The last part of a name, which counts the writers of a process.

    TensorBoard reads files by name: the writers of one process in one second get to 10 before 9.
    """
    return int(path.name.split(".")[-1])


def events(directory):
    paths = sorted(directory.glob("events*"), key=writer_number)
    return [event for path in paths for event in LegacyEventFileLoader(str(path)).Load()]


def steps(directory):
    return [event.step for event in events(directory) if event.summary.value]


def test_two_names_of_a_stage_never_share_a_curve_and_an_open_viewer_is_told_of_a_resumed_run_alone(
    tmp_path,
):
    metrics = {"train/acc": 0.5, "train_acc": 0.25, "lr": 1.0}
    logged = []
    for purge_step, told in ((0, []), (3, [3])):
        logger = TensorBoard(save_dir=str(tmp_path), purge_step=purge_step)
        for step in (purge_step, purge_step + 1):
            logger.log_metrics(metrics, step)
            logged += [(step, "charts/acc", 0.5), (step, "train_acc", 0.25), (step, "lr", 1.0)]
        logger.finalize("success")
        written = events(tmp_path / "train")
        assert [event.step for event in written if event.HasField("session_log")] == told
        found = []
        for event in written:
            found += [(event.step, each.tag, each.simple_value) for each in event.summary.value]
        assert found == logged


def write(directory, steps, **kwargs):
    before = set(directory.glob("events*"))
    writer = SummaryWriter(str(directory), **kwargs)
    for step in steps:
        writer.add_scalar("a", step, step)
    writer.close()
    (path,) = set(directory.glob("events*")) - before
    return path


def sizes(directory):
    return {path.name: path.stat().st_size for path in directory.glob("events*")}


def test_a_start_drops_what_comes_after_its_checkpoint(tmp_path):
    kept = {}
    for start, end in ((0, 5), (5, 7), (7, 12)):
        truncate_events(tmp_path, kept)
        assert last_step(tmp_path) == start - 1
        path = write(tmp_path, range(start, end), purge_step=start or None)
        kept = sizes(tmp_path)
        with path.open("ab") as file:
            file.write(path.read_bytes()[-40:])
    truncate_events(tmp_path, kept)
    assert steps(tmp_path) == list(range(12))
    truncate_events(tmp_path, {})
    assert sizes(tmp_path) == {}


@given(end=st.floats(0, 1))
def test_of_what_is_torn_or_damaged_the_whole_events_are_read(tmp_path_factory, end):
    directory = tmp_path_factory.mktemp("torn")
    path = write(directory, range(10))
    content = path.read_bytes()
    path.write_bytes(content[: int(end * len(content))])
    try:
        kept = steps(directory)
    except Exception:  # TensorBoard does not read a file of which the first record is torn
        kept = []
    assert last_step(directory) == max(kept, default=-1)


def test_a_resumed_run_has_no_point_twice_and_a_full_disk_is_named(tmp_path, monkeypatch):
    row = write(tmp_path, range(10)).rename(tmp_path / "hparams.tfevents")
    before = row.read_bytes()
    kept = None
    # The third start resumes from a checkpoint that a start without TensorBoard has saved.
    for begin in (0, 2, 5):
        logger = TensorBoard(save_dir=str(tmp_path), purge_step=begin)
        logger.kept = kept
        for step in range(begin, begin + 3):
            logger.log_metrics({"train/acc": 0.5}, step)
            if step == 1:
                kept = logger.sizes()
        logger.finalize("success")
        if begin == 2:
            assert steps(tmp_path / "train") == [0, 1, 2, 3, 4]
            kept = None
    assert steps(tmp_path / "train") == [0, 1, 2, 3, 4, 5, 6, 7]
    assert row.read_bytes() == before
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(SummaryWriter, "add_scalar", Mock(side_effect=full))
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
        tags = events.Tags()["histograms"]
        assert tags
        for tag in tags:
            assert [each.step for each in events.Histograms(tag)] == [10, 20, 30]
        assert [step for step, name, _ in curves(run) if name == "own"] == [10, 20, 30]
