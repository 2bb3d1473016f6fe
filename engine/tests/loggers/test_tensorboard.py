from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader as EventFileLoader

from leyden.loggers import TensorBoard
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
    events = read(Run(tmp_path))
    found = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found == {"charts/acc": [0.5, 0.5], "train_acc": [0.25, 0.25], "lr": [1.0, 1.0]}


def started(directory, purge_step):
    """A logger that has logged a step, as a run that begins or resumes at this step does."""
    logger = TensorBoard(save_dir=str(directory), purge_step=purge_step)
    logger.log_metrics({"train/acc": 0.5}, purge_step)
    logger.finalize("success")


def test_a_viewer_that_is_open_is_told_of_a_resumed_run_alone(tmp_path):
    def told():
        events = [event for path in tmp_path.glob("train/events*") for event in EventFileLoader(str(path)).Load()]
        return [event.step for event in events if event.HasField("session_log")]

    started(tmp_path, 0)
    assert told() == []
    started(tmp_path, 3)
    assert told() == [3]
