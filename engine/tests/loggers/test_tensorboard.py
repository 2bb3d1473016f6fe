from tests.callbacks.events import scalars
from tests.training.test_start import curves, train  # noqa: F401 - a fixture


def rounded(points):
    return sorted((step, tag, f"{value:.5g}") for step, tag, value in points)


def test_the_curves_are_those_of_the_table_and_nothing_else_is_written(train):  # noqa: F811
    run, *_ = train("a", "trainer.max_epochs=2", "callbacks=bare")
    found = [(step, tag, value) for tag, points in scalars(run).items() for step, value in points]
    found = [point for point in found if not point[1].startswith("best/")]  # those of HParams
    assert rounded(found) == rounded(curves(run))
    assert not (run.directory / "hparams.yaml").exists()
