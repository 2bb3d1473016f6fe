"""What one run shows in TensorBoard and as files, read back."""

import pytest
from PIL import Image

from leyden.run.directory import Run
from leyden.run.lock import list_files
from leyden.run.result import STAGES
from tests import ENGINE
from tests.callbacks.events import images, read, scalars
from tests.conftest import SMALL, assert_same_bits, here
from tests.training.test_start import curves, train  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def run(tmp_path_factory, mnist_root):
    """Two epochs of ten steps, and the test set, with all pictures."""
    directory = tmp_path_factory.mktemp("pictures")
    all_of_it = ("trainer.max_epochs=2", "data.normalize=standardize", "optimizer.lr=0.01")
    assert here("train", f"run_dir={directory / 'run'}", f"outputs={directory}", *SMALL, *all_of_it) == 0
    return Run(directory / "run")


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


def test_the_stages_share_charts_which_come_first_and_a_picture_is_with_its_split(run):
    tags = {stage: read(run, stage).Tags() for stage in ("train", "val", "test")}
    for stage in tags:
        assert {"charts/loss", "charts/acc"} <= {*tags[stage]["scalars"]}
    every = {tag for found in tags.values() for kind in ("scalars", "images") for tag in found[kind]}
    first = {tag for tag in every if tag.partition("/")[0] == min(every).partition("/")[0]}
    assert first == {"charts/acc", "charts/loss"}
    pictures = {tag: [step for step, *_ in points] for tag, points in images(run).items()}
    assert pictures == {"confusion/test": [20], "errors/test": [20]}
    assert {*pictures} == {*tags["test"]["images"]}
    assert not list(run.directory.glob("*tfevents*")), "a run that TensorBoard calls `.`"


def test_files_are_pictures(run):
    for name in ("curves", "confusion", "errors"):
        with Image.open(run.directory / f"{name}.png") as image:
            assert image.format == "PNG"
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(10**6)) > 20, "nothing is drawn"
    assert not list(run.directory.glob("*.tmp"))


@pytest.mark.slow(minutes=0.1)
def test_a_job_of_a_sweep_shows_the_validation_split_and_pictures_may_be_pdf_files_too(train, tmp_path):  # noqa: F811
    train("a", "callbacks=default", "trainer.max_epochs=1", "test=false")
    typed = ("callbacks=default", "trainer.max_epochs=2", "test=false", "picture_format=pdf")
    run, *_ = train("a", *typed)  # the same run
    found = images(run)
    assert {tag: points[-1][0] for tag, points in found.items()} == {"confusion/val": 20, "errors/val": 20}
    assert not [tag for tag in [*found, *scalars(run)] if "test" in tag]
    assert [step for step, name, _ in curves(run) if name == "val/acc"] == [9, 19]
    assert not (tmp_path / "outputs" / "test_evaluations.csv").exists()
    names = {path.name for path in run.directory.glob("*.p[dn][fg]")}
    assert names == {f"{stem}.{kind}" for stem in ("curves", "confusion", "errors") for kind in ("pdf", "png")}
    assert all(path.read_bytes().startswith(b"%PDF") for path in run.directory.glob("*.pdf"))


def test_pictures_change_no_bit(train):  # noqa: F811
    dropout = ("model.dropout=0.2", "trainer.max_epochs=2", "data.normalize=standardize")
    bare, *_ = train("bare", *dropout, "callbacks=bare", "logger=none")
    full, *_ = train("full", *dropout, "callbacks=default")
    assert_same_bits(bare.directory, full.directory)
    assert bare.result.metrics == full.result.metrics
    drawn, logged = {"curves.png", "confusion.png", "errors.png"}, {"metrics.csv", "best"}
    assert list_files(full.directory) - list_files(bare.directory) - {*STAGES} == drawn | logged
    assert not list_files(bare.directory) & {*drawn, *logged, *STAGES}


def test_the_page_has_all_files_of_a_run(run):
    tree = (ENGINE / "docs" / "keys.md").read_text().partition("## Files of a run\n")[2].split("```")[1]
    begins = [line[2:].split("   ")[0] for line in tree.splitlines()[2:] if line[2:3] != " "]
    named = {name.rstrip("/") for begin in begins for name in begin.split("  ")} - {"…"}
    assert list_files(run.directory) - {*STAGES} == named - {*STAGES}
