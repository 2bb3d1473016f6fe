import numpy as np
import pytest
import torch

from leyden.pictures.outputs import (
    as_colours,
    confusion_figure,
    error_captions,
    gather,
    most_confident,
    prediction_figure,
    render,
    sheet,
)

LABELS_N = torch.tensor([0, 1, 2, 2, 0])
PROBABILITIES_NK = torch.tensor(
    [[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.0, 0.8, 0.2], [0.1, 0.2, 0.7], [0.0, 0.99, 0.01]]
)


@pytest.mark.parametrize(
    ("eel", "caption"), [("eel", "true cat →\npredicted dog\n0.990"), ("moray", "cat →\ndog\n0.990")]
)
def test_the_most_confident_mistake_is_first_and_names_both_classes(eel, caption):
    probabilities_N, predicted_N = PROBABILITIES_NK.max(dim=1)
    indices = most_confident(probabilities_N, predicted_N != LABELS_N)
    assert indices.tolist() == [4, 2, 1]
    chosen = (each[indices] for each in (LABELS_N, predicted_N, probabilities_N))
    captions = error_captions(("cat", "dog", eel), *chosen)
    assert captions[0] == caption
    figure = sheet(torch.zeros(3, 1, 8, 8), captions, "title")
    assert [text.get_text() for text in figure.axes[0].texts] == captions


@pytest.mark.parametrize("num_classes", [2, 100])
def test_few_and_many_classes_are_drawn(num_classes):
    counts_KK = np.diag(np.arange(num_classes)) + np.eye(num_classes, k=1, dtype=int)
    figure = confusion_figure(counts_KK, tuple(f"class {k}" for k in range(num_classes)), "title")
    assert len(np.unique(render(figure).reshape(-1, 3), axis=0)) > 20
    rows_and_columns = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert rows_and_columns == ({(1, 0): "1", (1, 1): "1"} if num_classes == 2 else {})  # true 0, predicted 1


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_processes_take_turns_within_a_batch(monkeypatch, world_size):
    batches = [torch.arange(7), torch.arange(7, 14), torch.arange(14, 15)]
    parts = [[batch[rank::world_size] for batch in batches] for rank in range(world_size)]
    parts[-1].append(torch.tensor([99]))  # its parts are smaller: it has kept one more batch

    def all_gather_object(every, mine):
        every[:] = parts

    monkeypatch.setattr(torch.distributed, "all_gather_object", all_gather_object)
    found = gather(parts[0][:3], world_size)
    assert torch.equal(found, torch.arange(15))


@pytest.mark.parametrize(
    "shape", [(1, 1, 28, 28), (9, 3, 32, 32), (0, 1, 28, 28), (17, 1, 8, 16), (3, 2, 300, 200)]
)
def test_any_number_and_shape_of_images_is_drawn(shape):
    pixels = render(sheet(torch.rand(shape), ["a\nb"] * shape[0], "title"))
    assert min(pixels.shape[:2]) > 30
    assert (pixels < 128).any()


def test_black_is_the_smallest_value_and_white_the_largest():
    shown = as_colours(torch.tensor([[-1.0, 0.0], [1.0, 3.0]]).reshape(1, 1, 2, 2))
    assert shown[0, 0].tolist() == [[0.0, 0.25], [0.5, 1.0]]
    assert shown.shape == (1, 3, 2, 2)


@pytest.mark.parametrize("num", [1, 5000])
def test_predictions_have_named_axes_of_equal_scale_and_a_scale_of_what_colours_mean(num):
    true = np.random.default_rng(0).normal(size=(num, 2))
    figure = prediction_figure(0.5 * true, true, ("price (k$)", "area"), "title")
    render(figure)  # makes the layout
    panels = [axes for axes in figure.axes if axes.get_xlabel()]
    assert [axes.get_xlabel() for axes in panels] == [r"true price (k\$)", "true area"]
    assert all(axes.get_xlim() == axes.get_ylim() for axes in panels)
    assert len({round(axes.title.get_window_extent().y0) for axes in panels}) == 1
    assert [axes.get_ylabel() for axes in figure.axes if axes not in panels] == ["samples per cell"] * 2
