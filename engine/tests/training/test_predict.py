import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import leyden
from leyden.data.folder import read_image
from tests import records
from tests.conftest import QUICK
from tests.example import MNIST


@pytest.fixture(scope="module")
def digits(mnist_root):
    """Four test images, (28, 28) uint8, light on dark."""
    return MNIST(str(mnist_root), train=False).data[:4].numpy()


def test_dark_on_light_is_inverted(digits, tmp_path):
    pixels = digits[0]
    Image.fromarray(255 - pixels).save(tmp_path / "dark.png")
    assert np.array_equal(read_image(tmp_path / "dark.png", (1, 28, 28), invert=True)[0], pixels)
    ink = Image.merge("LA", (Image.new("L", (28, 28)), Image.fromarray(pixels)))  # black ink on nothing
    ink.save(tmp_path / "ink.png")
    assert np.array_equal(read_image(tmp_path / "ink.png", (1, 28, 28), invert=True)[0], pixels)


def test_a_run_directory_is_all_that_it_takes(train, cli, digits, tmp_path):
    run, *_ = train("run", *QUICK, "data.normalize=standardize", "trainer.max_epochs=1")
    moved = run.directory.rename(tmp_path / "moved")
    folder = tmp_path / "images"
    folder.mkdir()
    paths = [folder / f"{number}.png" for number in range(len(digits))]
    for path, pixels in zip(paths, digits, strict=True):
        Image.fromarray(pixels).save(path)
    (folder / "notes.txt").write_text("not an image by its name")
    trained = leyden.load(moved)
    with torch.inference_mode():
        logits = trained.network(trained.facts.normalize(torch.from_numpy(digits)[:, None]))
    expected = [[f"{p:.5f}" for p in row] for row in logits.softmax(dim=1).tolist()]

    def predicted(images, output):
        code, out, err = cli("predict", f"run={moved}", f"images={images}", f"output={output}")
        assert code == 0, err
        assert "0.png" in out
        text = output.read_text()
        rows = json.loads(text) if output.suffix == ".json" else list(csv.DictReader(text.splitlines()))
        found = [[f"{float(row[f'p({k})']):.5f}" for k in range(10)] for row in rows]
        assert [int(row["class"]) for row in rows] == [row.index(max(row)) for row in found]
        return found

    assert predicted(folder, tmp_path / "o.csv") == expected
    assert predicted(f"[{paths[1]},{paths[0]}]", tmp_path / "o.json") == [expected[1], expected[0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("images=nowhere.png",), "images=nowhere.png: no such file or folder"),
        (("images=image.png", "output=o.xml"), "must end in .csv or .json"),
        (("images=image.png", "output=nowhere/o.csv"), "there is no folder nowhere"),
        (("images=image.png", "checkpoint=first"), "checkpoint=first: must be best, last, or a kept one"),
        ((), "run=DIR with images=FILES, or with table=FILE: must be given"),
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
