"""What every data set in conf/data must do: a new YAML needs no new test, only its files."""

import hydra
import pytest
import torch

from leyden import build
from leyden.config import CONF, UserError
from leyden.data import fashion_mnist
from leyden.data.emnist import EMNIST
from leyden.data.fashion_mnist import FashionMNIST
from leyden.data.fetch import load
from tests.data import small
from tests.models.test_models import SHAPES

NAMES = sorted(path.stem for path in (CONF / "data").glob("*.yaml"))


@pytest.fixture
def choose(small_root):
    """The overrides that choose a data set; one without small files is read from the project's data folder."""

    def choose(name):
        place = [f"data.root={small_root}"] if name in small.NUM_CLASSES else []
        return [f"data={name}", "data.download=false", *place]

    return choose


@pytest.fixture
def compose(choose):
    def compose(name, *overrides):
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose("train", overrides=[*choose(name), *overrides])

    return compose


@pytest.mark.parametrize("name", NAMES)
def test_it_gives_images_and_classes_and_its_facts(compose, name):
    data = build.datamodule(compose(name), 1)
    data.setup("test")
    facts = data.facts
    assert facts.num_classes == len(facts.class_names) == len(set(facts.class_names))
    for split in ("train", "val", "test"):
        pixels_NCHW, labels_N = data.splits[split]
        assert pixels_NCHW.dtype == torch.uint8, split
        assert labels_N.dtype == torch.int64, split
        assert pixels_NCHW.shape == (len(labels_N), *facts.input_shape), split
        assert labels_N.min() >= 0, split
        assert labels_N.max() < facts.num_classes, split
    images_NCHW, _ = next(iter(data.train_dataloader()))
    assert images_NCHW.dtype == torch.float32
    assert images_NCHW.min() >= 0
    assert images_NCHW.max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_the_mlp_trains_on_it_by_its_name_alone(cli, choose, tmp_path, name):
    code, _, err = cli("train", *choose(name), "trainer.max_epochs=1", "trainer.limit_train_batches=2")
    assert code == 0, err
    (run,) = (tmp_path / "outputs").glob("*_mlp/*")
    assert (run / "errors.png").exists()


@pytest.mark.parametrize("name", small.NUM_CLASSES)
def test_the_classes_are_facts(compose, name):
    assert build.datamodule(compose(name), 1).facts.num_classes == small.NUM_CLASSES[name]


def test_emnist_has_a_choice_of_splits(compose):
    letters = build.datamodule(compose("emnist", "data.dataset.split=letters"), 1)
    assert letters.facts.class_names == tuple("abcdefghijklmnopqrstuvwxyz")
    assert sorted(set(letters.splits["train"][1].tolist())) == list(range(26))
    with pytest.raises(UserError, match=r"data: Unknown value 'words' for argument split"):
        build.datamodule(compose("emnist", "data.dataset.split=words"), 1)


def test_emnist_is_upright(small_root):
    raw = (small_root / "EMNIST/raw/emnist-balanced-train-images-idx3-ubyte").read_bytes()[16:]
    first = torch.frombuffer(bytearray(raw[: 28 * 28]), dtype=torch.uint8).reshape(28, 28)
    assert torch.equal(EMNIST(str(small_root), "balanced").data[0], first.T)


def test_fashion_mnist_comes_from_debians_package(tmp_path, monkeypatch):
    if not fashion_mnist.DEBIAN.is_dir():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    train, test = (load(FashionMNIST, tmp_path, train=train, download=True) for train in (True, False))
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
    assert f"leyden: data: root={root}: the data set is not there, and can't be fetched" in err
    assert "Connection refused" in err
    assert not list((tmp_path / "outputs").glob("*/*"))
    assert [path.name for path in root.iterdir()] == [".lock"]


def test_files_that_are_damaged_are_named(small_root, tmp_path):
    folder = tmp_path / "KMNIST" / "raw"
    folder.mkdir(parents=True)
    for path in (small_root / "KMNIST" / "raw").iterdir():
        (folder / path.name).write_bytes(path.read_bytes()[:3])
    from torchvision.datasets import KMNIST

    with pytest.raises(OSError, match=r"files of the data set are damaged; remove them"):
        load(KMNIST, tmp_path, train=True, download=False)


def test_the_contract_of_the_networks_has_every_shape(compose):
    assert {build.datamodule(compose(name), 1).facts.input_shape for name in NAMES} == set(SHAPES)
