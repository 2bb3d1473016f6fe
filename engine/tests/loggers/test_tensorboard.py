from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from torch.utils.tensorboard import SummaryWriter

from leyden.loggers import TensorBoard, truncate_events
from leyden.run.directory import Run
from tests.callbacks.events import read, scalars
from tests.training.test_start import curves, train  # noqa: F401 - a fixture


def rounded(points):
    return sorted((step, tag, f"{value:.5g}") for step, tag, value in points)


def test_the_curves_are_those_of_the_table_and_nothing_else_is_written(train):  # noqa: F811
    run, *_ = train("a", "trainer.max_epochs=2", "callbacks=bare")
    found = [(step, tag, value) for tag, points in scalars(run).items() for step, value in points]
    assert rounded(found) == rounded(curves(run))
    assert not (run.directory / "hparams.yaml").exists()


def test_two_names_of_a_stage_never_share_a_curve(tmp_path):
    logger = TensorBoard(save_dir=str(tmp_path), purge_step=0)
    for step in (0, 1):
        logger.log_metrics({"train/acc": 0.5, "train_acc": 0.25, "lr": 1.0}, step)
    logger.finalize("success")
    curves = read(Run(tmp_path))
    found = {tag: [event.value for event in curves.Scalars(tag)] for tag in curves.Tags()["scalars"]}
    assert found == {"charts/acc": [0.5, 0.5], "train_acc": [0.25, 0.25], "lr": [1.0, 1.0]}


def test_a_viewer_that_is_open_is_told_of_a_resumed_run_alone(tmp_path):
    for purge_step, told in ((0, []), (3, [3])):
        logger = TensorBoard(save_dir=str(tmp_path), purge_step=purge_step)
        logger.log_metrics({"train/acc": 0.5}, purge_step)
        logger.finalize("success")
        assert [event.step for event in events(tmp_path / "train") if event.HasField("session_log")] == told


def write(directory, steps, **kwargs):
    """An event file with a scalar at each of the steps."""
    before = set(directory.glob("events*"))
    writer = SummaryWriter(str(directory), **kwargs)
    for step in steps:
        writer.add_scalar("a", step, step)
    writer.close()
    (path,) = set(directory.glob("events*")) - before
    return path


def steps(directory):
    """All of them, in the order in which TensorBoard reads."""
    return [event.step for event in events(directory) if event.summary.value]


def events(directory):
    paths = sorted(directory.glob("events*"))
    return [event for path in paths for event in LegacyEventFileLoader(str(path)).Load()]


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
        whole = steps(directory)
    except Exception:  # TensorBoard does not read a file of which the first record is torn
        whole = []
    truncate_events(directory, step)
    assert steps(directory) == [kept for kept in whole if kept < step]
    write(directory, range(20, 22))
    # Sorted, as files of the same second are read by their number as text.
    assert sorted(steps(directory)) == [*(kept for kept in whole if kept < step), 20, 21]


def test_a_damaged_event_costs_no_other_and_the_row_for_hparams_is_left_alone(tmp_path):
    row = write(tmp_path, range(10)).rename(tmp_path / "hparams.tfevents")
    before = row.read_bytes()
    path = write(tmp_path, range(10))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    truncate_events(tmp_path, 10)
    assert len(steps(tmp_path)) == 9
    assert row.read_bytes() == before
