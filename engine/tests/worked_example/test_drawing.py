"""Digits that somebody draws or photographs are read as those of MNIST were made."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from leyden.config.errors import UserError
from tests.example import MNIST

read_digit = MNIST.read_image


def drawing(side=200, ground=190, ink=50):
    """A seven as somebody draws and photographs it: off center, on a grey ground with a shadow."""
    source = np.random.default_rng(7)
    image = Image.new("L", (side, side), ground)
    points = [(30 + 90 * x, 60 + 90 * y) for x, y in ((0.2, 0.12), (0.8, 0.1), (0.45, 0.95))]
    ImageDraw.Draw(image).line(points, fill=ink, width=10, joint="curve")
    shadow = np.linspace(0, 15, side)[None] + source.normal(0, 4, (side, side))
    return Image.fromarray((np.asarray(image) + shadow).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(("ground", "ink"), [(190, 50), (30, 220)])
def test_a_drawing_is_cut_out_scaled_and_centered_by_its_mass(tmp_path, ground, ink):
    drawing(ground=ground, ink=ink).save(tmp_path / "drawn.png")
    found = read_digit(tmp_path / "drawn.png")
    assert (found.shape, found.dtype, int(found.max())) == ((1, 28, 28), torch.uint8, 255)
    assert not found[0, 0].any()
    rows, columns = (found[0].any(axis).nonzero().flatten() for axis in (1, 0))
    assert max(int(each[-1] - each[0]) + 1 for each in (rows, columns)) == 20
    weights = found[0].double() / found[0].double().sum()
    for axis in (0, 1):
        assert abs(float(weights.sum(1 - axis) @ torch.arange(28.0).double()) - 13.5) <= 0.5


def test_one_of_mnist_stays_as_it_is_and_one_colour_is_no_digit(tmp_path, mnist_root):
    digit = MNIST(str(mnist_root), train=False).data[0]
    Image.fromarray(digit.numpy()).save(tmp_path / "digit.png")
    assert torch.equal(read_digit(tmp_path / "digit.png")[0], digit)
    Image.new("L", (9, 9), 7).save(tmp_path / "empty.png")
    with pytest.raises(UserError, match="has one colour"):
        read_digit(tmp_path / "empty.png")
