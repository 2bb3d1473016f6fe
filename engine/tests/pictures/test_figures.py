from types import SimpleNamespace

import numpy as np
import pytest
import torch

from leyden import pictures
from leyden.pictures import OnEvaluation, confusion_figure, prediction_figure, render
from leyden.tasks import Task

CAPTIONS = {"eel": "true cat →\npredicted dog\n0.990", "moray": "cat →\ndog\n0.990"}


@pytest.mark.parametrize(("eel", "caption"), CAPTIONS.items())
def test_the_most_confident_mistake_is_first_and_names_both_classes(monkeypatch, eel, caption):
    figures, labels_N = [], torch.tensor([0, 1, 2, 2, 0])
    logits_NK = torch.tensor([[0.9, 0.1, 0], [0.6, 0.4, 0], [0, 0.8, 0.2], [0.1, 0.2, 0.7], [0, 0.99, 0.01]]).log()
    data = SimpleNamespace(inputs=lambda split, indices: torch.zeros(len(indices), 1, 8, 8))
    monkeypatch.setattr(pictures, "publish", lambda trainer, figure, *_: figures.append(figure))
    errors = pictures.Errors(num_images=2, class_names=("cat", "dog", eel))
    errors.draw(SimpleNamespace(datamodule=data), "val", logits_NK, labels_N)
    captions = [text.get_text() for text in figures[0].axes[0].texts]
    assert captions[0] == caption
    assert [text.splitlines()[2] for text in captions] == ["0.990", "0.800"]  # the third one has no room


def test_few_and_many_classes_are_drawn():
    for num_classes in (2, 100):
        counts_KK = np.diag(np.arange(num_classes)) + np.eye(num_classes, k=1, dtype=int)
        figure = confusion_figure(counts_KK, tuple(f"class {k}" for k in range(num_classes)), "title")
        assert len(np.unique(render(figure).reshape(-1, 3), axis=0)) > 20
        cells = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
        assert cells == ({(1, 0): "1", (1, 1): "1"} if num_classes == 2 else {})  # true 0, predicted 1


def test_a_picture_has_the_samples_of_all_loaders_of_a_split():
    module, callback = type("Counting", (Task,), {"kind": "classes"})(network=torch.nn.Linear(1, 1)), OnEvaluation()
    callback.kind = "classes"
    for loader, batch in ((0, 0), (0, 1), (1, 0), (1, 1)):
        kept = {"predictions": torch.zeros(2), "targets": torch.zeros(2)}
        callback.on_test_batch_end(None, module, kept, None, batch, loader)
    assert len(callback._batches) == 4


def test_the_processes_take_turns_within_a_batch(monkeypatch):
    batches = [torch.arange(7), torch.arange(7, 14), torch.arange(14, 15)]
    for world_size in (1, 3):
        parts = [[batch[rank::world_size] for batch in batches] for rank in range(world_size)]
        parts[-1].append(torch.tensor([99]))  # its parts are smaller: it has kept one more batch

        def gathered(every, mine, parts=parts):
            every[:] = parts

        monkeypatch.setattr(torch.distributed, "all_gather_object", gathered)
        assert torch.equal(pictures.gather(parts[0][:3], world_size), torch.arange(15))


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
        panels = [axes for axes in figure.axes if axes.get_xlabel()]
        assert [axes.get_xlabel() for axes in panels] == [r"true price (k\$)", "true area"]
        assert all(axes.get_xlim() == axes.get_ylim() for axes in panels)
        assert len({round(axes.title.get_window_extent().y0) for axes in panels}) == 1
        assert [axes.get_ylabel() for axes in figure.axes if axes not in panels] == ["samples per cell"] * 2
