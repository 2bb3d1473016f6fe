from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from leyden import pictures
from leyden.base.metric_names import STAGES
from leyden.pictures import OnEvaluation, confusion_figure, prediction_figure, render
from leyden.run.directory import Run
from leyden.run.lock import list_files
from leyden.tasks import Task
from leyden.training.evaluation import draws_outputs
from tests import ENGINE
from tests.callbacks.events import images, read, scalars
from tests.conftest import SMALL, assert_same_bits, here
from tests.training.test_start import curves, train  # noqa: F401 - a fixture

FULL = (
    "trainer.max_epochs=2",
    "data.normalize=standardize",
    "optimizer.lr=0.01",
    "model.dropout=0.2",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory, mnist_root):
    """Two epochs of ten steps, and the test set, with all pictures."""
    outputs = tmp_path_factory.mktemp("pictures")
    directory = outputs / "run"
    assert here("train", f"run_dir={directory}", f"outputs={outputs}", *SMALL, *FULL) == 0
    return Run(directory)


def test_curves_are_those_of_the_table_and_have_their_steps_and_values(run):
    in_table = {}
    for step, name, value in curves(run):
        in_table.setdefault(name, []).append((step, pytest.approx(value)))
    found = scalars(run)
    logged = {name: points for name, points in found.items() if not name.startswith("time/")}
    assert logged == in_table
    # Each third step, counted from 0 over the epochs.
    each_third = "train/loss_step train/acc_step lr grad_norm time/samples_per_second"
    for steps, names in (
        ([2, 5, 8, 11, 14, 17], each_third),
        ([9, 19], "train/loss train/acc val/loss val/acc time/epoch_seconds"),
        ([20], "test/loss test/acc"),
    ):
        for name in names.split():
            assert [step for step, _ in found[name]] == steps, name
    for _, rate in found["lr"]:
        assert rate == pytest.approx(0.01)
    for _, value in [*found["time/samples_per_second"], *found["time/epoch_seconds"]]:
        assert value > 0
    (_, first), (_, second) = found["train/loss"]
    assert first > second
    assert found["test/acc"] == [(20, pytest.approx(run.result.metrics["test/acc"]))]
    assert not (run.directory / "hparams.yaml").exists()


def test_the_stages_share_charts_which_come_first_and_a_picture_is_with_its_split(run):
    every = set()
    for stage in ("train", "val", "test"):
        tags = read(run, stage).Tags()
        assert {"charts/loss", "charts/acc"} <= {*tags["scalars"]}
        every |= {*tags["scalars"], *tags["images"]}
    assert sorted(every)[:2] == ["charts/acc", "charts/loss"]
    assert images(run) == {"confusion/test": [20], "errors/test": [20]}
    assert {*images(run)} == {*tags["images"]}
    assert not list(run.directory.glob("*tfevents*")), "a run that TensorBoard calls `.`"
    for name in ("curves", "confusion", "errors"):
        with Image.open(run.directory / f"{name}.png") as image:
            assert image.format == "PNG"
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(10**6)) > 20, "nothing is drawn"
    assert not list(run.directory.glob("*.tmp"))


@pytest.mark.slow(minutes=0.1)
def test_a_job_of_a_sweep_shows_the_validation_split_and_pictures_may_be_pdf_files_too(
    train,  # noqa: F811
    tmp_path,
):
    train("a", "callbacks=default", "trainer.max_epochs=1", "test=false")
    typed = ("callbacks=default", "trainer.max_epochs=2", "test=false", "picture_format=pdf")
    run, *_ = train("a", *typed)  # the same run
    found = images(run)
    assert {*found} == {"confusion/val", "errors/val"}
    assert found["confusion/val"][-1] == found["errors/val"][-1] == 20
    assert not [name for name in scalars(run) if "test" in name]
    assert [step for step, name, _ in curves(run) if name == "val/acc"] == [9, 19]
    assert not (tmp_path / "outputs" / "test_evaluations.csv").exists()
    for name in ("curves", "confusion", "errors"):
        path = run.directory / f"{name}.pdf"
        assert path.read_bytes().startswith(b"%PDF")
        assert path.with_suffix(".png").exists()


def test_pictures_change_no_bit(command, run, tmp_path):
    command("train", f"run_dir={tmp_path / 'bare'}", *SMALL, *FULL, "callbacks=bare", "logger=none")
    bare = Run(tmp_path / "bare")
    assert_same_bits(bare.directory, run.directory)
    assert bare.result.metrics == run.result.metrics
    drawn = {"curves.png", "confusion.png", "errors.png"}
    logged = {"metrics.csv", "best"}
    assert list_files(run.directory) - list_files(bare.directory) - {*STAGES} == drawn | logged
    assert not list_files(bare.directory) & {*drawn, *logged, *STAGES}


def test_the_page_has_all_files_of_a_run(run):
    page = (ENGINE / "docs" / "keys.md").read_text()
    _, _, part = page.partition("## Files of a run\n")
    _, tree, *_ = part.split("```")
    named = {"…", *STAGES}
    for line in tree.splitlines()[2:]:
        if not line.startswith("   "):  # which goes on with the words of the line before
            names, *_ = line[2:].split("   ")
            named |= {name.rstrip("/") for name in names.split("  ")}
    assert list_files(run.directory) | {"…", *STAGES} == named


def test_the_most_confident_mistake_is_first_and_names_both_classes(monkeypatch):
    shares_NK = torch.tensor(
        [
            [0.9, 0.1, 0],
            [0.6, 0.4, 0],
            [0, 0.8, 0.2],
            [0.1, 0.2, 0.7],
            [0, 0.99, 0.01],
        ]
    )
    labels_N = torch.tensor([0, 1, 2, 2, 0])
    data = SimpleNamespace(inputs=lambda split, indices: torch.zeros(len(indices), 1, 8, 8))
    figures = []
    monkeypatch.setattr(pictures, "publish", lambda trainer, figure, *_: figures.append(figure))
    errors = pictures.Errors(num_images=2, class_names=("cat", "dog", "eel"))
    trainer = SimpleNamespace(datamodule=data)
    errors.draw(trainer, "val", shares_NK.log(), labels_N)
    captions = [text.get_text() for text in figures[0].axes[0].texts]
    # The third one has no room.
    assert captions == ["cat →\ndog\n0.990", "eel →\ndog\n0.800"]


@pytest.mark.parametrize(
    ("num_classes", "cells"),
    [
        (2, {(1, 0): "1", (1, 1): "1"}),  # true 0, predicted 1
        (100, {}),
    ],
)
def test_few_and_many_classes_are_drawn(num_classes, cells):
    names = tuple(f"class {k}" for k in range(num_classes))
    counts_KK = np.diag(np.arange(num_classes)) + np.eye(num_classes, k=1, dtype=int)
    figure = confusion_figure(counts_KK, names, "title")
    colours = np.unique(render(figure).reshape(-1, 3), axis=0)
    assert len(colours) > 20
    texts = figure.axes[0].texts
    assert {text.get_position(): text.get_text() for text in texts} == cells


def test_a_picture_has_the_samples_of_all_loaders_of_a_split():
    module = Task(network=torch.nn.Linear(1, 1))
    callback = OnEvaluation()
    module.kind = callback.kind = "classes"
    kept = {"predictions": torch.zeros(2), "targets": torch.zeros(2)}
    trainer = SimpleNamespace(strategy=None)
    for loader, batch in ((0, 0), (0, 1), (1, 0), (1, 1)):
        callback.on_test_batch_end(trainer, module, kept, None, batch, loader)
    assert len(callback._batches) == 4


@pytest.mark.parametrize("kind", ["classes", "text"])
def test_a_run_is_evaluated_for_the_pictures_of_its_kind(kind):
    module = Task(network=torch.nn.Linear(1, 1))
    module.kind = kind
    drawing = [pictures.Confusion(class_names=("a", "b"))]
    assert draws_outputs(drawing, module) == (kind == "classes")


def test_the_processes_take_turns_within_a_batch(monkeypatch):
    batches = [torch.arange(7), torch.arange(7, 14), torch.arange(14, 15)]
    for world_size in (1, 3):
        parts = []
        for rank in range(world_size):
            parts.append([batch[rank::world_size] for batch in batches])
        if world_size > 1:
            parts[-1].append(torch.tensor([99]))  # its parts are smaller: it has one more batch

        def gathered(mine, parts=parts):
            return [[part] for part in parts]

        monkeypatch.setattr(pictures, "gather_from_processes", gathered)
        assert torch.equal(pictures.gather([parts[0]]), torch.arange(15))


def test_images_of_any_number_and_shape_are_drawn_from_black_to_white():
    for shape in ((9, 3, 32, 32), (0, 1, 28, 28), (3, 2, 300, 200)):
        pixels = render(pictures.sheet(torch.rand(shape), ["a\nb"] * shape[0], "title"))
        assert min(pixels.shape[:2]) > 30
        assert (pixels < 128).any()
    shown = pictures.as_colours(torch.tensor([[-1.0, 0.0], [1.0, 3.0]]).reshape(1, 1, 2, 2))
    assert shown[0, 0].tolist() == [[0.0, 0.25], [0.5, 1.0]]
    assert shown.shape == (1, 3, 2, 2)


def test_predictions_have_named_axes_of_equal_scale_and_a_scale_of_what_colours_mean():
    for num in (1, 5000):
        true = np.random.default_rng(0).normal(size=(num, 2))
        figure = prediction_figure(0.5 * true, true, ("price (k$)", "area"), "title")
        render(figure)  # makes the layout
        price, of_price, area, of_area = figure.axes
        assert price.get_xlabel() == r"true price (k\$)"
        assert area.get_xlabel() == "true area"
        heights = set()
        for panel in (price, area):
            assert panel.get_xlim() == panel.get_ylim()
            heights.add(round(panel.title.get_window_extent().y0))
        assert len(heights) == 1
        for scale in (of_price, of_area):
            assert scale.get_ylabel() == "samples per cell"
