import numpy as np
import pytest
import torch

from leyden.pictures.outputs import (
    MAX_POINTS,
    ClassEvaluation,
    as_colours,
    confusion_counts,
    confusion_figure,
    errors_figure,
    gather,
    interleave,
    most_confident,
    prediction_figure,
    render,
    sheet,
)

NAMES = ("cat", "dog", "eel")
PROBABILITIES_NK = np.array(
    [[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.0, 0.8, 0.2], [0.1, 0.2, 0.7], [0.0, 0.99, 0.01]], dtype=np.float32
)
EVALUATION = ClassEvaluation("val", np.array([0, 1, 2, 2, 0]), PROBABILITIES_NK, NAMES)


@pytest.mark.parametrize(
    ("eel", "caption"), [("eel", "true cat →\npredicted dog\n0.990"), ("moray", "cat →\ndog\n0.990")]
)
def test_a_mistake_names_both_classes(eel, caption):
    evaluation = ClassEvaluation("val", EVALUATION.labels_N, PROBABILITIES_NK, ("cat", "dog", eel))
    figure = errors_figure(evaluation, most_confident(evaluation), np.zeros((3, 1, 8, 8)))
    assert figure.axes[0].texts[0].get_text() == caption
    assert "true class → predicted class" in figure.texts[0].get_text().replace("\n", " ")


def test_rows_are_true_classes_and_columns_predicted_ones():
    assert confusion_counts(EVALUATION).tolist() == [[1, 1, 0], [1, 0, 0], [0, 1, 1]]


@pytest.mark.parametrize("num_classes", [2, 100])
def test_few_and_many_classes_are_drawn(num_classes):
    labels_N = np.arange(200) % num_classes
    probabilities_NK = np.eye(num_classes, dtype=np.float32)[(labels_N + (labels_N == 1)) % num_classes]
    evaluation = ClassEvaluation(
        "test", labels_N, probabilities_NK, tuple(f"class {k}" for k in range(num_classes))
    )
    assert len(np.unique(render(confusion_figure(evaluation)).reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_processes_take_turns_within_a_batch(world_size):
    batches = [torch.arange(7), torch.arange(7, 14), torch.arange(14, 15)]
    parts = [[batch[rank::world_size] for batch in batches] for rank in range(world_size)]
    assert torch.equal(interleave(parts), torch.arange(15))


def test_a_process_that_has_kept_a_batch_more_is_cut_to_the_others(monkeypatch):
    mine = [torch.tensor([0, 2]), torch.tensor([4, 6])]
    theirs = [torch.tensor([1, 3]), torch.tensor([5]), torch.tensor([9])]  # its parts are smaller: it kept on

    def all_gather_object(every, batches):
        every[:] = [mine, theirs]

    monkeypatch.setattr(torch.distributed, "all_gather_object", all_gather_object)
    assert gather(mine, 2).tolist() == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "shape", [(1, 1, 28, 28), (9, 3, 32, 32), (0, 1, 28, 28), (17, 1, 8, 16), (3, 2, 300, 200)]
)
def test_any_number_and_shape_of_images_is_drawn(shape):
    pixels = render(sheet(np.random.default_rng(0).random(shape), ["a\nb"] * shape[0], "title"))
    assert min(pixels.shape[:2]) > 30
    assert (pixels < 128).any()


def test_black_is_the_smallest_value_and_white_the_largest():
    shown = as_colours(np.array([[-1.0, 0.0], [1.0, 3.0]]).reshape(1, 1, 2, 2))
    assert shown[0, :, :, 0].tolist() == [[0.0, 0.25], [0.5, 1.0]]
    assert shown.shape == (1, 2, 2, 3)


@pytest.mark.parametrize("num", [50, MAX_POINTS + 1])
def test_predictions_have_named_axes_of_equal_scale_and_a_scale_of_what_colours_mean(num):
    true = np.random.default_rng(0).normal(size=(num, 2))
    figure = prediction_figure(0.5 * true, true, ("price (k$)", "area"), "title")
    render(figure)  # makes the layout
    panels = [axes for axes in figure.axes if axes.get_xlabel()]
    assert [axes.get_xlabel() for axes in panels] == [r"true price (k\$)", "true area"]
    assert all(axes.get_xlim() == axes.get_ylim() for axes in panels)
    assert len({round(axes.title.get_window_extent().y0) for axes in panels}) == 1
    bars = [axes.get_ylabel() for axes in figure.axes if axes not in panels]
    assert bars == ["samples per cell"] * (2 if num > MAX_POINTS else 0)
