"""What every data set in conf/data must do: a new YAML needs no new test, only its files, unless a person must name more for it."""

import numpy as np
import pytest
import torch

from leyden import assembly
from leyden.base.errors import UserError
from leyden.files import load
from leyden.testing.contracts import compose
from tests import conf
from tests.data import small
from tests.example import EMNIST, FashionMNIST, fashion_mnist

WITHOUT_FILES = {"own", "dataset", "folder", "module", "in_memory"}
NAMES = sorted({path.stem for path in conf("data")} - WITHOUT_FILES)


@pytest.fixture
def datamodule(small_root):
    def made(name, *more):
        cfg = compose(*small.overrides(name, small_root), *more)
        if "num_workers" in cfg.data:
            cfg.data.num_workers = 0  # tests/data/test_streamed.py has those that read in processes
        return assembly.datamodule(cfg)

    return made


@pytest.mark.matrix
@pytest.mark.parametrize("name", NAMES)
def test_it_gives_samples_and_its_facts(datamodule, name):
    data = datamodule(name)
    data.setup("test")
    facts = data.facts
    assert {*data.sizes} == {"train", "val", "test"}
    input_kind = torch.int64 if facts.kind == "text" else torch.float32
    target_kind = torch.float32 if facts.kind == "values" else torch.int64
    num_targets = facts.num_outputs if facts.kind == "text" else facts.num_classes
    for split, num in data.sizes.items():
        loader = getattr(data, f"{split}_dataloader")()
        batches = [*loader]
        assert sum(len(targets) for _, targets in batches) == num, split
        inputs, targets = batches[0]
        assert inputs.shape == (len(targets), *facts.input_shape), split
        assert inputs.dtype == input_kind, split
        assert targets.dtype == target_kind, split
        if target_kind == torch.int64:
            assert 0 <= targets.min() <= targets.max() < num_targets, split
        if split != "train":
            raw = data.inputs(split, [0, 1])
            assert torch.equal(facts.normalize(raw), inputs[:2]), split


def test_emnist_is_upright_and_has_a_choice_of_splits(datamodule, small_root):
    letters = datamodule("emnist", "data.dataset.split=letters")
    assert letters.facts.class_names == tuple("abcdefghijklmnopqrstuvwxyz")
    assert letters.held[True].targets.unique().tolist() == [*range(26)]
    with pytest.raises(UserError, match=r"data: Unknown value 'words' for argument split"):
        datamodule("emnist", "data.dataset.split=words")
    path = small_root / "EMNIST/raw/emnist-balanced-train-images-idx3-ubyte"
    pixels = np.fromfile(path, np.uint8, count=28 * 28, offset=16)
    first = torch.from_numpy(pixels).reshape(28, 28)
    assert torch.equal(EMNIST(str(small_root), "balanced").data[0], first.T)


@pytest.mark.system
def test_fashion_mnist_comes_from_debians_package(tmp_path, monkeypatch):
    if not fashion_mnist.DEBIAN.is_dir():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    train = load(FashionMNIST, tmp_path, train=True, download=True)
    test = load(FashionMNIST, tmp_path, train=False, download=True)
    assert train.data.shape == (60_000, 28, 28)
    assert test.data.shape == (10_000, 28, 28)
    assert train.targets.bincount().tolist() == [6_000] * 10
    for made in (train, test):
        assert made.classes[made.targets[0]] == "Ankle boot"


def test_without_files_and_network_it_says_so_before_the_first_step(command, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "nowhere")
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    root = tmp_path / "data"
    _, err = command("train", "data=fashion_mnist", f"data.root={root}", code=2)
    assert f"leyden: data: root={root}: the dataset is missing, and can't be downloaded" in err
    assert "Connection refused" in err
    assert not list((tmp_path / "outputs").glob("*/*"))
    assert not root.exists()
