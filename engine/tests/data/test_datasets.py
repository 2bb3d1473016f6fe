"""What every data set in conf/data must do: a new YAML needs no new test, only its files.

Those that a person has to name more for have tests of their own: test_folder.py, test_streamed_own.py and test_contract_own.py.
"""

import functools
import shutil

import hydra
import pytest
import torch
import torchvision
import yaml

from leyden import assembly
from leyden.config.errors import UserError
from leyden.config.hydra import composing
from leyden.data.contract import Facts
from leyden.data.splits import SplitLoader
from leyden.files.fetch import load, verify_files
from tests import conf
from tests.data import small
from tests.example import EMNIST, FashionMNIST, fashion_mnist

NAMES = sorted({path.stem for path in conf("data")} - {"own", "dataset", "folder", "module", "in_memory"})


@pytest.fixture
def choose(small_root):
    """The overrides that choose a data set."""
    return functools.partial(small.overrides, root=small_root)


@pytest.fixture
def compose(choose):
    def compose(name, *overrides):
        with composing():
            return hydra.compose("train", overrides=[*choose(name), *overrides])

    return compose


@pytest.mark.matrix
@pytest.mark.parametrize("name", NAMES)
def test_it_gives_samples_and_its_facts(compose, name):
    cfg = compose(name)
    if "num_workers" in cfg.data:
        cfg.data.num_workers = 0  # tests/data/test_streamed.py has those that read in processes
    data = assembly.datamodule(cfg)
    data.setup("test")
    facts = data.facts
    assert Facts.from_state(yaml.safe_load(yaml.safe_dump(facts.to_state()))) == facts, "it is no plain values"
    splits = {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
    assert {*data.sizes} == {*splits}
    for split, loader in splits.items():
        assert isinstance(loader, SplitLoader), split
        batches = list(loader)
        assert len(batches) == len(loader), split
        assert sum(len(targets) for _, targets in batches) == data.sizes[split], split
        inputs, targets = batches[0]
        assert inputs.shape == (len(targets), *facts.input_shape), split
        raw = data.inputs(split, [0, 1])
        assert raw.shape == (2, *facts.input_shape), split
        if split != "train":
            assert torch.equal(facts.normalize(raw), inputs[:2]), "inputs() gives what the loader normalises"
        if facts.vocabulary is not None:
            assert inputs.dtype == targets.dtype == torch.int64, split
            assert max(inputs.max(), targets.max()) < len(facts.vocabulary), split
            continue
        assert inputs.dtype == torch.float32, split
        if facts.num_classes is None:
            assert targets.dtype == torch.float32, split
            assert targets[0].numel() == len(facts.target_names) == facts.num_outputs, split
        else:
            assert facts.num_classes == len(facts.class_names) == len(set(facts.class_names)) == facts.num_outputs
            assert targets.dtype == torch.int64, split
            assert targets.min() >= 0, split
            assert targets.max() < facts.num_classes, split


def test_emnist_has_a_choice_of_splits(compose):
    letters = assembly.datamodule(compose("emnist", "data.dataset.split=letters"))
    assert letters.facts.class_names == tuple("abcdefghijklmnopqrstuvwxyz")
    assert sorted(set(letters.held[True].targets.tolist())) == list(range(26))
    with pytest.raises(UserError, match=r"data: Unknown value 'words' for argument split"):
        assembly.datamodule(compose("emnist", "data.dataset.split=words"))


def test_emnist_is_upright(small_root):
    raw = (small_root / "EMNIST/raw/emnist-balanced-train-images-idx3-ubyte").read_bytes()[16:]
    first = torch.frombuffer(bytearray(raw[: 28 * 28]), dtype=torch.uint8).reshape(28, 28)
    assert torch.equal(EMNIST(str(small_root), "balanced").data[0], first.T)


@pytest.mark.system
def test_fashion_mnist_comes_from_debians_package(tmp_path, monkeypatch):
    if not fashion_mnist.DEBIAN.is_dir():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    train, test = (load(FashionMNIST, tmp_path, train=train, download=True) for train in (True, False))
    verify_files(FashionMNIST, tmp_path)
    assert train.data.shape == (60_000, 28, 28)
    assert test.data.shape == (10_000, 28, 28)
    assert train.targets.bincount().tolist() == [6_000] * 10
    assert (train.classes[train.targets[0]], test.classes[test.targets[0]]) == ("Ankle boot", "Ankle boot")


def test_without_files_and_network_it_says_so_before_the_first_step(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "nowhere")
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    root = tmp_path / "data"
    code, _, err = cli("train", "data=fashion_mnist", f"data.root={root}")
    assert code == 2
    assert f"leyden: data: root={root}: the dataset is missing, and can't be downloaded" in err
    assert "Connection refused" in err
    assert not list((tmp_path / "outputs").glob("*/*"))
    assert not root.exists()


def test_a_truncated_file_without_a_checksum_is_named(small_root, tmp_path):
    shutil.copytree(small_root / "KMNIST", tmp_path / "KMNIST")
    path = tmp_path / "KMNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileNotFoundError, match=r"a file of the dataset is truncated, and download=false"):
        load(torchvision.datasets.KMNIST, tmp_path, train=True, download=False)
