from types import SimpleNamespace

import numpy as np
import pytest
import torch

from leyden.pictures import outputs
from leyden.pictures.base import as_colours, render, sheet
from leyden.pictures.outputs import MAX_POINTS, Reconstructions, prediction_figure


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


def test_three_channels_are_colours():
    red = np.zeros((1, 3, 1, 1))
    red[0, 0] = 9
    assert as_colours(red).tolist() == [[[[1.0, 0.0, 0.0]]]]


def test_reconstructions_stand_below_their_images(monkeypatch):
    drawn = []
    monkeypatch.setattr(outputs, "save_picture", lambda trainer, figure, name: drawn.append(figure))
    monkeypatch.setattr(outputs, "add_image", lambda *_: None)
    images = torch.zeros(10, 1, 20, 20)
    Reconstructions(num_images=10).draw(SimpleNamespace(global_step=1), "val", images + 1, images)
    ((axes,),) = (figure.axes for figure in drawn)
    column = axes.images[0].get_array()[:, 10, 0]  # through the first tiles of two rows, which white gaps part
    assert (np.diff(column) < 0).sum() == (np.diff(column) > 0).sum() == 2
    render(drawn[0])


@pytest.mark.parametrize("num", [50, MAX_POINTS + 1])
def test_predictions_have_named_axes_of_equal_scale_and_a_scale_of_what_colours_mean(num):
    true = np.random.default_rng(0).normal(size=(num, 2))
    figure = prediction_figure(0.5 * true, true, ("price (k$)", "area"), "title")
    render(figure)  # makes the layout
    panels = [axes for axes in figure.axes if axes.get_xlabel()]
    assert [axes.get_xlabel() for axes in panels] == ["true price (k$)", "true area"]
    assert all(axes.get_xlim() == axes.get_ylim() for axes in panels)
    assert len({round(axes.title.get_window_extent().y0) for axes in panels}) == 1
    bars = [axes.get_ylabel() for axes in figure.axes if axes not in panels]
    assert bars == ["samples per cell"] * (2 if num > MAX_POINTS else 0)
