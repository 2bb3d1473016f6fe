import numpy as np
import pytest

from leyden.pictures.figures import as_colours, render, sheet


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
