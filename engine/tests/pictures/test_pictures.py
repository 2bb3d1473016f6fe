"""What one run shows in TensorBoard and as files, read back."""

import pytest
import torch
from PIL import Image

from leyden.pictures.outputs import OnEvaluation
from leyden.run.directory import Run
from leyden.run.lock import list_files
from leyden.tasks.task import Task
from tests.callbacks.events import images, read, scalars
from tests.conftest import SMALL, assert_same_bits, here
from tests.training.test_start import curves, train  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def run(tmp_path_factory, mnist_root):
    """Two epochs of ten steps, and the test set, with all pictures."""
    directory = tmp_path_factory.mktemp("pictures")
    all_of_it = ("trainer.max_epochs=2", "data.normalize=standardize")
    assert (
        here(
            "train", f"run_dir={directory / 'run'}", f"outputs={directory}", *SMALL, *all_of_it, "optimizer.lr=0.01"
        )
        == 0
    )
    return Run(directory / "run")


def test_a_picture_has_the_samples_of_all_loaders_of_a_split():
    class Counted(OnEvaluation):
        kind = "counted"

    module, callback = type("Counting", (Task,), {"kind": "counted"})(network=torch.nn.Linear(1, 1)), Counted()
    for loader in (0, 1):
        for batch in (0, 1):
            outputs = {"predictions": torch.zeros(2), "targets": torch.zeros(2)}
            callback.on_test_batch_end(None, module, outputs, None, batch, loader)
    assert len(callback._batches) == 4


def test_curves_have_their_steps_and_values(run):
    found = scalars(run)
    logged = [2, 5, 8, 11, 14, 17]  # each third step, counted from 0 over the epochs
    for name in ("train/loss_step", "train/acc_step", "lr", "grad_norm", "time/samples_per_second"):
        assert [step for step, _ in found[name]] == logged, name
    for name in ("train/loss", "train/acc", "val/loss", "val/acc", "time/epoch_seconds"):
        assert [step for step, _ in found[name]] == [9, 19], name
    for name in ("test/loss", "test/acc"):
        assert [step for step, _ in found[name]] == [20], name
    assert all(value == pytest.approx(0.01) for _, value in found["lr"])
    assert all(value > 0 for name in found if name.startswith("time/") for _, value in found[name])
    assert found["train/loss"][0][1] > found["train/loss"][1][1]
    assert found["test/acc"][0][1] == pytest.approx(run.result.metrics["test/acc"])


def test_images_have_their_steps(run):
    found = images(run)
    assert {tag: [step for step, *_ in points] for tag, points in found.items()} == {
        "confusion/test": [20],
        "errors/test": [20],
    }


def test_the_stages_share_charts_which_come_first_and_a_picture_is_with_its_split(run):
    tags = {stage: read(run, stage).Tags() for stage in ("train", "val", "test")}
    for stage in tags:
        assert {"charts/loss", "charts/acc"} <= {*tags[stage]["scalars"]}
    every = {tag for found in tags.values() for kind in ("scalars", "images") for tag in found[kind]}
    assert {tag for tag in every if tag.partition("/")[0] == min(every).partition("/")[0]} == {
        "charts/acc",
        "charts/loss",
    }
    assert {"confusion/test", "errors/test"} == {*tags["test"]["images"]}
    assert not list(run.directory.glob("*tfevents*")), "a run that TensorBoard calls `.`"


def test_files_are_pictures(run):
    for name in ("curves", "confusion", "errors"):
        with Image.open(run.directory / f"{name}.png") as image:
            assert image.format == "PNG"
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(10**6)) > 20, "nothing is drawn"
    assert not list(run.directory.glob("*.tmp"))


@pytest.mark.slow(minutes=0.1)
def test_pictures_are_pdf_files_too_where_that_is_asked(train):  # noqa: F811
    train("a", "callbacks=default", "trainer.max_epochs=1", "test=false")
    run, *_ = train(
        "a", "callbacks=default", "trainer.max_epochs=2", "test=false", "picture_format=pdf"
    )  # the same run
    names = {path.name for path in run.directory.glob("*.p[dn][fg]")}
    assert names == {f"{stem}.{kind}" for stem in ("curves", "confusion", "errors") for kind in ("pdf", "png")}
    assert all(path.read_bytes().startswith(b"%PDF") for path in run.directory.glob("*.pdf"))


@pytest.mark.slow(minutes=0.1)
def test_a_job_of_a_sweep_shows_the_validation_split_and_keeps_its_curves(train, tmp_path):  # noqa: F811
    run, *_ = train("a", "callbacks=default", "trainer.max_epochs=2", "test=false")
    found = images(run)
    assert [step for step, *_ in found["confusion/val"]] == [20]
    assert [step for step, *_ in found["errors/val"]] == [20]
    assert not [tag for tag in [*found, *scalars(run)] if "test" in tag]
    assert [step for step, name, _ in curves(run) if name == "val/acc"] == [9, 19]
    assert not (tmp_path / "outputs" / "test_evaluations.csv").exists()


def test_pictures_change_no_bit(train):  # noqa: F811
    dropout = ("model.dropout=0.2", "trainer.max_epochs=2", "data.normalize=standardize")
    bare, *_ = train("bare", *dropout, "callbacks=bare", "logger=none")
    full, *_ = train("full", *dropout, "callbacks=default")
    assert_same_bits(bare.directory, full.directory)
    assert bare.result.metrics == full.result.metrics
    assert list_files(bare.directory) == {
        "checkpoints",
        "config.yaml",
        "fingerprint.csv",
        "run.json",
    }
