"""Small files in the formats of data sets that conf/data names, with random pixels."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import torchvision

from leyden.data.in_memory import InMemoryDataModule
from tests.example import MNIST, Diamonds, FashionMNIST

NUM_TRAIN, NUM_TEST = 5_200, 100  # more than the default val_size
# Of those that name nothing by themselves: what a person would type.
GIVEN = {
    "table": ("data.dataset.file=houses.csv", "data.dataset.targets=price", "data.val_size=1000"),
    "text": ("data.dataset.file=book.txt", "data.dataset.context=16", "data.dataset.stride=8"),
}
SETS = (
    "fashion_jpegs",
    "mnist",
    "fashion_mnist",
    "kmnist",
    "emnist",
    "cifar10",
    "diamonds",
    *GIVEN,
)


def overrides(name, root):
    """Choose a data set, of the files below `root` if there are any of it, else of the project's own data folder."""
    place = [f"data.root={root}"] if name in SETS else []
    return [f"data={name}", "data.download=false", *place, *GIVEN.get(name, ())]


def in_memory(dataset, **changed):
    """A data module of a data set in memory, of numbers unless `normalize` says otherwise."""
    options = {
        "batch_size": 5,
        "eval_batch_size": 4,
        "val_size": 4,
        "augment": None,
        "seed": 0,
        "root": "",
        "download": False,
        "normalize": "none",
    }
    return InMemoryDataModule(dataset=dataset, **options | changed)


def write(root):
    random = np.random.default_rng(0)
    for folder in ("MNIST", "FashionMNIST", "KMNIST"):
        raw = root / folder / "raw"
        write_images(raw / "train", random, NUM_TRAIN, 10)
        write_images(raw / "t10k", random, NUM_TEST, 10)
    raw = root / "EMNIST" / "raw"
    for split, num_classes, first in (("balanced", 47, 0), ("letters", 26, 1)):
        write_images(raw / f"emnist-{split}-train", random, NUM_TRAIN, num_classes, first)
        write_images(raw / f"emnist-{split}-test", random, NUM_TEST, num_classes, first)
    write_cifar10(root / "cifar-10-batches-py", random)
    write_text(root / "book.txt", random)
    rooms = random.integers(1, 9, NUM_TRAIN)
    area = random.uniform(20, 200, NUM_TRAIN)
    price = 3 * area + 10 * rooms
    write_table(root / "houses.csv", ["rooms", "area", "price"], np.stack([rooms, area, price], 1))
    names = ["carat", "cut", "color", "clarity", "depth", "table", "price", "x", "y", "z"]
    write_table(root / "diamonds.csv", names, random.uniform(1, 60, (NUM_TRAIN + 800, 10)))
    return root


def write_table(path, names, rows):
    header = ",".join(names)
    np.savetxt(path, rows, fmt="%.2f", delimiter=",", header=header, comments="")


def write_text(path, random):
    words = random.choice(["one ", "two ", "three.\n"], NUM_TRAIN)
    path.write_text("".join(words))


def write_images(path, random, num, num_classes, first=0):
    """Pixels and labels in the format of MNIST, in files whose names begin so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = random.integers(0, 256, (num, 28, 28), dtype=np.uint8)
    write_idx(f"{path}-images-idx3-ubyte", pixels)
    labels = np.arange(num) % num_classes + first
    write_idx(f"{path}-labels-idx1-ubyte", labels.astype(np.uint8))


def write_idx(path, array):
    head = bytes([0, 0, 8, array.ndim])
    sizes = np.array(array.shape, ">i4")
    Path(path).write_bytes(head + sizes.tobytes() + array.tobytes())


def write_cifar10(folder, random):
    folder.mkdir(parents=True)
    kinds = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse"]
    names = [*kinds, "ship", "truck"]
    write_pickle(folder / "batches.meta", {"label_names": names})
    sizes = {f"data_batch_{n}": NUM_TRAIN // 5 for n in range(1, 6)}
    sizes["test_batch"] = NUM_TEST
    for name, num in sizes.items():
        pixels = random.integers(0, 256, (num, 3 * 32 * 32), dtype=np.uint8)
        labels = [n % 10 for n in range(num)]
        write_pickle(folder / name, {"data": pixels, "labels": labels})


def write_pickle(path, content):
    path.write_bytes(pickle.dumps(content))


def expect(root, monkeypatch):
    """Let the checksums of the files below `root` be the right ones."""
    for made, pattern in (
        (MNIST, "MNIST/raw/*-idx*"),
        (FashionMNIST, "FashionMNIST/raw/*-idx*"),
        (Diamonds, "diamonds.csv"),
    ):
        sums = {}
        for path in root.glob(pattern):
            content = path.read_bytes()
            sums[path.name] = hashlib.sha256(content).hexdigest()
        monkeypatch.setattr(made, "sha256", sums)
    cifar = torchvision.datasets.CIFAR10
    for part in ("train_list", "test_list"):
        unchecked = [[name, None] for name, _ in getattr(cifar, part)]
        monkeypatch.setattr(cifar, part, unchecked)
    monkeypatch.setattr(cifar, "meta", cifar.meta | {"md5": None})
