import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from leyden.config.errors import UserError
from leyden.data.folder import read_image
from tests import records
from tests.conftest import SMALL
from tests.example import MNIST


@pytest.fixture(scope="module")
def digits(mnist_root):
    """Four test images, (28, 28) uint8, light on dark, and their classes."""
    test = MNIST(str(mnist_root), train=False)
    return test.data[:4].numpy(), test.targets[:4].tolist()


def test_any_size_and_jpeg_are_nearly_the_same_picture(digits, tmp_path):
    pixels = digits[0][0]
    large = Image.fromarray(pixels).resize((280, 280), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.jpg", quality=95)
    found = read_image(tmp_path / "large.jpg", (1, 28, 28))[0].numpy()
    assert np.abs(found.astype(int) - pixels).mean() < 8
    wide = Image.new("L", (560, 280))
    wide.paste(large, (140, 0))
    wide.save(tmp_path / "wide.png")
    found = read_image(tmp_path / "wide.png", (1, 28, 28))[0].numpy()  # cut to the aspect, not squeezed
    assert np.abs(found.astype(int) - pixels).mean() < 8


def test_dark_on_light_is_inverted(digits, tmp_path):
    pixels = digits[0][0]
    Image.fromarray(255 - pixels).save(tmp_path / "dark.png")
    assert np.array_equal(read_image(tmp_path / "dark.png", (1, 28, 28), invert=True)[0], pixels)
    ink = Image.merge("LA", (Image.new("L", (28, 28)), Image.fromarray(pixels)))  # black ink on nothing
    ink.save(tmp_path / "ink.png")
    assert np.array_equal(read_image(tmp_path / "ink.png", (1, 28, 28), invert=True)[0], pixels)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\nbroken", b"GIF89a"])
def test_what_is_no_image_is_named(tmp_path, content):
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(UserError, match=r"image\.png: not a PNG, JPEG or WebP image"):
        read_image(tmp_path / "image.png", (1, 28, 28))


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

    images = f"images=[{folder / '1.png'},{folder / '0.png'}]"
    code, _, err = cli("predict", f"run={tmp_path / 'moved'}", images, f"output={tmp_path / 'o.json'}")
    assert code == 0, err
    found = json.loads((tmp_path / "o.json").read_text())
    assert [int(row["class"]) for row in found] == [digits[1][1], digits[1][0]]

    (folder / "odd.png").mkdir()
    code, _, err = cli("predict", f"run={tmp_path / 'moved'}", f"images={folder}")
    assert (code, err.count("\n")) == (2, 1), err
    assert f"{folder / 'odd.png'}: not a PNG, JPEG or WebP image that can be read" in err

    # Evaluating it by a directory that was moved works, too.
    code, out, err = cli("evaluate", f"run={tmp_path / 'moved'}", "checkpoint=last", "accelerator=cpu")
    assert code == 0, err
    assert "Test evaluations so far: mnist_mlp 2" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("images=nowhere.png",), "images=nowhere.png: no such file or folder"),
        (("images=image.png", "output=o.xml"), "must end in .csv or .json"),
        (("images=image.png", "output=nowhere/o.csv"), "there is no folder nowhere"),
        (("images=image.png", "checkpoint=first"), "checkpoint=first: must be best, last, or a kept one"),
        ((), "images=FILES, table=FILE: give one of them"),
    ],
)
def test_mistakes(cli, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    records.put(tmp_path / "run", config={"name": "x", "trainer": {}})
    torch.save({}, tmp_path / "run" / "checkpoints" / "best.ckpt")
    code, _, err = cli("predict", "run=run", *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
