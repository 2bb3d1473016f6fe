import numpy as np
import pytest
import torch
from torch import nn

from leyden.pictures.network import colours, first_weights, mosaic


def test_a_dense_layer_on_pixels_is_seen_as_images():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 7), nn.ReLU(), nn.Linear(7, 2))
    weights_NCHW = first_weights(network, (3, 4, 5))
    assert weights_NCHW.shape == (7, 3, 4, 5)
    image = torch.randn(1, 3, 4, 5)
    expected = network[1](image.flatten(1)) - network[1].bias
    torch.testing.assert_close((weights_NCHW * image).sum(dim=(1, 2, 3))[None], expected)


def test_a_convolution_on_pixels_is_seen_as_its_filters():
    network = nn.Sequential(nn.Conv2d(1, 6, 5), nn.Flatten(), nn.Linear(6, 2))
    assert torch.equal(first_weights(network, (1, 28, 28)), network[0].weight)


@pytest.mark.parametrize(
    "network", [nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(196, 10)), nn.Conv2d(8, 4, 3), nn.Flatten()]
)
def test_a_first_layer_that_sees_no_pixels_has_no_images(network):
    assert first_weights(network, (1, 28, 28)) is None


def test_colours_tell_the_sign():
    negative, zero, positive = colours(np.array([-2.0, 0.0, 2.0]).reshape(3, 1, 1, 1)).reshape(3, 3).tolist()
    assert (negative, zero, positive) == ([0, 0, 255], [255, 255, 255], [255, 0, 0])
    assert colours(np.zeros((1, 3, 2, 2))).shape == (1, 2, 2, 3)


def test_small_filters_are_enlarged_and_none_is_lost():
    tiles = np.zeros((10, 3, 3, 3), dtype=np.uint8)
    picture = mosaic(tiles)
    assert picture.shape == (2 * 31 + 1, 8 * 31 + 1, 3)
    assert (picture == 0).all(axis=2).sum() == 10 * 30 * 30
