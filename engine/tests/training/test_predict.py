import csv
import json
import os
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from leyden.config.errors import UserError
from leyden.data.images import read_centered, read_image
from tests.conftest import SMALL
from tests.example import MNIST


@pytest.fixture(scope="module")
def digits(mnist_root):
    """Four test images, (28, 28) uint8, light on dark, and their classes."""
    test = MNIST(str(mnist_root), train=False)
    return test.data[:4].numpy(), test.targets[:4].tolist()


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


def test_a_drawing_is_cut_out_scaled_and_centered_by_its_mass(tmp_path):
    for ground, ink in ((190, 50), (30, 220)):
        drawing(7, ground=ground, ink=ink).save(tmp_path / "drawn.png")
        found = read_centered(tmp_path / "drawn.png", (1, 28, 28))
        assert (found.shape, found.dtype, int(found.max())) == ((1, 28, 28), torch.uint8, 255)
        assert not found[0, 0].any()
        rows, columns = (found[0].any(axis).nonzero().flatten() for axis in (1, 0))
        assert max(int(each[-1] - each[0]) + 1 for each in (rows, columns)) == 20
        weights = found[0].double() / found[0].double().sum()
        for axis in (0, 1):
            assert abs(float(weights.sum(1 - axis) @ torch.arange(28.0).double()) - 13.5) <= 0.5
    assert read_centered(tmp_path / "drawn.png", (3, 32, 32)).shape == (3, 32, 32)
    Image.new("L", (9, 9), 7).save(tmp_path / "empty.png")
    with pytest.raises(UserError, match="has one colour"):
        read_centered(tmp_path / "empty.png", (1, 28, 28))


def variants(pixels):
    """The same picture in other modes, depths and sizes."""
    grey = Image.fromarray(pixels)
    white = Image.new("L", grey.size, 255)
    transparent = Image.merge("LA", (white, grey))
    yield "grey.png", grey
    yield "rgb.png", grey.convert("RGB")
    yield "palette.png", grey.convert("P")
    yield "grey-alpha.png", transparent
    yield "rgba.png", transparent.convert("RGBA")
    yield "16bit.png", Image.fromarray(pixels.astype(np.uint16) * 257)


def test_any_mode_and_depth_is_the_same_picture(digits, tmp_path):
    pixels = digits[0][0]
    for name, image in variants(pixels):
        image.save(tmp_path / name)
        found = read_image(tmp_path / name, (1, 28, 28), invert=False)
        assert found.dtype == torch.uint8
        assert found.shape == (1, 28, 28)
        assert np.abs(found[0].numpy().astype(int) - pixels).max() <= 1, name


def test_any_size_and_jpeg_are_nearly_the_same_picture(digits, tmp_path):
    pixels = digits[0][0]
    large = Image.fromarray(pixels).resize((280, 280), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.jpg", quality=95)
    found = read_image(tmp_path / "large.jpg", (1, 28, 28), invert=False)[0].numpy()
    assert np.abs(found.astype(int) - pixels).mean() < 8
    wide = Image.new("L", (560, 280))
    wide.paste(large, (140, 0))
    wide.save(tmp_path / "wide.png")
    found = read_image(tmp_path / "wide.png", (1, 28, 28), invert=False)
    assert not found[0, :7].any()  # padded to the aspect, not squeezed
    assert found[0, 7:21].any()
    assert not found[0, 21:].any()


def test_dark_on_light_is_inverted(digits, tmp_path):
    pixels = digits[0][0]
    Image.fromarray(255 - pixels).save(tmp_path / "dark.png")
    assert np.array_equal(read_image(tmp_path / "dark.png", (1, 28, 28), invert=True)[0], pixels)
    ink = Image.merge("LA", (Image.new("L", (28, 28)), Image.fromarray(pixels)))  # black ink on nothing
    ink.save(tmp_path / "ink.png")
    assert np.array_equal(read_image(tmp_path / "ink.png", (1, 28, 28), invert=True)[0], pixels)


def test_networks_with_three_channels_get_three(digits, tmp_path):
    Image.fromarray(digits[0][0]).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png", (3, 32, 32), invert=False).shape == (3, 32, 32)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\nbroken", b"GIF89a"])
def test_what_is_no_image_is_named(tmp_path, content):
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(UserError, match=r"image\.png: not a PNG, JPEG or WebP image"):
        read_image(tmp_path / "image.png", (1, 28, 28), invert=False)


def test_half_an_image_is_named(digits, tmp_path):
    Image.fromarray(digits[0][0]).save(tmp_path / "image.png")
    whole = (tmp_path / "image.png").read_bytes()
    (tmp_path / "image.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"image\.png"):
        read_image(tmp_path / "image.png", (1, 28, 28), invert=False)


@pytest.mark.slow(minutes=0.1)
def test_a_run_directory_is_all_that_it_takes(cli, digits, tmp_path):
    """Trains a network, moves its directory, and lets it classify a folder and a list."""
    large = [argument for argument in SMALL if not argument.startswith("data.val_size")]
    normalize = ("data.val_size=40000", "data.normalize=standardize", "model.hidden_sizes=[64]")
    assert cli("train", f"run_dir={tmp_path / 'run'}", *large, *normalize)[0] == 0
    (tmp_path / "run").rename(tmp_path / "moved")
    folder = tmp_path / "images"
    folder.mkdir()
    for number, pixels in enumerate(digits[0]):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("not an image by its name")

    code, out, err = cli("predict", f"run={tmp_path / 'moved'}", f"images={folder}", f"output={tmp_path / 'o.csv'}")
    assert code == 0, err
    with (tmp_path / "o.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["class"]) for row in rows] == digits[1]
    for number, row in enumerate(rows):
        assert f"{number}.png" in out
        probabilities = [float(row[f"p({k})"]) for k in range(10)]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert max(probabilities) == float(row["probability"])

    Image.fromarray(255 - digits[0][0]).save(tmp_path / "dark.png")
    code, _, err = cli("predict", f"run={tmp_path / 'moved'}", f"images={tmp_path / 'dark.png'}")
    assert code == 0
    assert "did you mean center=true, or invert=true?" in err

    # Ten digits drawn by hand, small, off center, on a grey ground with a shadow.
    drawings = tmp_path / "drawings"
    drawings.mkdir()
    for k in range(10):
        drawing(k).save(drawings / f"{k}.png")
    code, _, err = cli("predict", f"run={tmp_path / 'moved'}", f"images={drawings}", "invert=true")
    assert code == 0
    assert "not centered on a black ground, did you mean center=true?" in err
    arguments = ("center=true", f"output={tmp_path / 'drawn.csv'}")
    code, _, err = cli("predict", f"run={tmp_path / 'moved'}", f"images={drawings}", *arguments)
    assert (code, err) == (0, "")
    with (tmp_path / "drawn.csv").open() as file:
        hits = [int(row["class"]) == k for k, row in enumerate(csv.DictReader(file))]
    assert sum(hits) >= 9

    picture = tmp_path / "picture.png"
    assert cli("predict", f"run={tmp_path / 'moved'}", f"images={folder}", f"picture={picture}")[0] == 0
    with Image.open(picture) as image:
        drawn = np.asarray(image.convert("L"))
    # Half of each tile and more is the black ground of a digit; the captions stand on white.
    assert (drawn < 10).mean() > 0.2
    assert (drawn > 245).mean() > 0.2

    images = f"images=[{folder / '1.png'},{folder / '0.png'}]"
    code, _, err = cli("predict", f"run={tmp_path / 'moved'}", images, f"output={tmp_path / 'o.json'}")
    assert code == 0, err
    found = json.loads((tmp_path / "o.json").read_text())
    assert [int(row["class"]) for row in found] == [digits[1][1], digits[1][0]]

    # What is no file is named, and not waited for.
    odd = folder / "odd.png"
    for make, undo in (
        (odd.mkdir, odd.rmdir),
        (partial(os.mkfifo, odd), odd.unlink),
        (partial(odd.symlink_to, odd.name), odd.unlink),
    ):
        make()
        code, _, err = cli("predict", f"run={tmp_path / 'moved'}", f"images={folder}")
        assert (code, err.count("\n")) == (2, 1), err
        assert f"{odd}: not a PNG, JPEG or WebP image that can be read" in err
        undo()

    # Evaluating it by a directory that was moved works, too.
    code, out, err = cli("evaluate", f"run={tmp_path / 'moved'}", "checkpoint=last", "accelerator=cpu")
    assert code == 0, err
    assert "test evaluations by mnist_mlp so far: 2" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("images=nowhere.png",), "images=nowhere.png: no such file or folder"),
        (("images=.",), "no .png, .jpg, .jpeg, .webp file in this folder"),
        (("images=[]",), "name a file, a folder, or a list"),
        (("images=image.png", "output=o.xml"), "must end in .csv or .json"),
        (("images=image.png", "output=nowhere/o.csv"), "there is no folder nowhere"),
        (("images=image.png", "picture=o.jpg"), "picture=o.jpg: must end in .png"),
        (("images=image.png", "picture=nowhere/o.png"), "there is no folder nowhere"),
        (("images=image.png", "checkpoint=first"), "checkpoint=first: must be best, last, or a kept one"),
        ((), "images=FILES, table=FILE, prompt=TEXT: give exactly one of them"),
    ],
)
def test_mistakes(cli, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("name: x\ntrainer: {}\n")
    torch.save({}, tmp_path / "run" / "checkpoints" / "best.ckpt")
    code, _, err = cli("predict", "run=run", *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
