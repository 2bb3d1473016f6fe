"""Digits that somebody draws or photographs are read as those of MNIST were made."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from leyden.config.errors import UserError
from tests.conftest import SMALL
from tests.example import MNIST

read_digit = MNIST.read_image


def arc(x, y, rx, ry, begin, end):
    angles = np.radians(np.linspace(begin, end, 24))
    return [*zip(x + rx * np.cos(angles), y + ry * np.sin(angles), strict=True)]


# Strokes of ten digits, in a square of side 1.
STROKES = [
    [arc(0.5, 0.5, 0.3, 0.45, 0, 360)],
    [[(0.35, 0.25), (0.55, 0.08), (0.5, 0.92)]],
    [[*arc(0.5, 0.3, 0.28, 0.25, 180, 380), (0.25, 0.9), (0.8, 0.88)]],
    [[*arc(0.45, 0.28, 0.27, 0.22, 200, 440), *arc(0.45, 0.7, 0.3, 0.23, -80, 150)]],
    [[(0.6, 0.08), (0.2, 0.6), (0.82, 0.58)], [(0.63, 0.35), (0.6, 0.95)]],
    [[(0.78, 0.1), (0.3, 0.12), (0.28, 0.45), *arc(0.48, 0.66, 0.28, 0.24, -110, 140)]],
    [[(0.65, 0.06), (0.4, 0.35), *arc(0.48, 0.68, 0.24, 0.24, 200, 560)]],
    [[(0.2, 0.12), (0.8, 0.1), (0.45, 0.95)]],
    [[*arc(0.5, 0.28, 0.2, 0.2, 90, 450), *arc(0.5, 0.72, 0.26, 0.22, -90, 270)]],
    [arc(0.5, 0.32, 0.23, 0.23, 0, 360), [(0.72, 0.35), (0.6, 0.95)]],
]


def drawing(k, side=200, ground=190, ink=50):
    """A digit as somebody draws and photographs it."""
    source = np.random.default_rng(k)
    image = Image.new("L", (side, side), ground)
    draw, size = ImageDraw.Draw(image), source.uniform(70, 110)
    left, top = source.uniform(5, side - 5 - size, 2)
    for stroke in STROKES[k]:
        points = [(left + size * x, top + size * y) for x, y in stroke]
        draw.line(points, fill=ink, width=int(size / 9), joint="curve")
    shadow = np.linspace(0, 15, side)[None] + source.normal(0, 4, (side, side))
    return Image.fromarray((np.asarray(image) + shadow).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(("ground", "ink"), [(190, 50), (30, 220)])
def test_a_drawing_is_cut_out_scaled_and_centered_by_its_mass(tmp_path, ground, ink):
    drawing(7, ground=ground, ink=ink).save(tmp_path / "drawn.png")
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


@pytest.mark.slow(minutes=0.1)
def test_a_small_perceptron_reads_nine_of_ten_drawings(cli, tmp_path):
    """Ten digits drawn by hand, small, off center, on a grey ground with a shadow."""
    large = [argument for argument in SMALL if not argument.startswith("data.val_size")]
    more = ("data.val_size=40000", "data.normalize=standardize", "model.hidden_sizes=[64]")
    assert cli("train", f"run_dir={tmp_path / 'run'}", *large, *more)[0] == 0
    drawings = tmp_path / "drawings"
    drawings.mkdir()
    for k in range(10):
        drawing(k).save(drawings / f"{k}.png")
    arguments = (f"images={drawings}", f"output={tmp_path / 'drawn.csv'}")
    code, _, err = cli("predict", f"run={tmp_path / 'run'}", *arguments)
    assert (code, err) == (0, "")
    with (tmp_path / "drawn.csv").open() as file:
        hits = [int(row["class"]) == k for k, row in enumerate(csv.DictReader(file))]
    assert sum(hits) >= 9
