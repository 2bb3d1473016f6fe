"""Small files in the formats of data sets that conf/data names, with random pixels."""

import hashlib
import pickle

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
SETS = ("fashion_jpegs", "mnist", "fashion_mnist", "kmnist", "emnist", "cifar10", "diamonds", *GIVEN)


def overrides(name, root):
    """Choose a data set, of the files below `root` if there are any of it, else of the project's own data folder."""
    place = [f"data.root={root}"] if name in SETS else []
    return [f"data={name}", "data.download=false", *place, *GIVEN.get(name, ())]


def in_memory(dataset, **changed):
    """A data module of a data set in memory, of numbers unless `normalize` says otherwise."""
    options = {"batch_size": 5, "eval_batch_size": 4, "val_size": 4, "augment": None, "seed": 0, "root": ""}
    return InMemoryDataModule(dataset=dataset, **{**options, "download": False, "normalize": "none", **changed})


def write(root):
    """Write them all below `root`."""
    random = np.random.default_rng(0)
    for folder in ("MNIST", "FashionMNIST", "KMNIST"):
        write_mnist(root / folder / "raw", random)
    write_emnist(root / "EMNIST" / "raw", random)
    write_cifar10(root / "cifar-10-batches-py", random)
    write_table(root / "houses.csv", random)
    write_text(root / "book.txt", random)
    write_diamonds(root / "diamonds.csv", random)
    return root


def expect(root, monkeypatch):
    """Let the checksums of the files below `root` be the right ones."""
    for folder in root.glob("*/raw"):
        sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*-idx*")}
        if made := {"MNIST": MNIST, "FashionMNIST": FashionMNIST}.get(folder.parent.name):
            monkeypatch.setattr(made, "sha256", sums)
    table = hashlib.sha256((root / "diamonds.csv").read_bytes()).hexdigest()
    monkeypatch.setattr(Diamonds, "sha256", {"diamonds.csv": table})
    batches = root / "cifar-10-batches-py"
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in batches.iterdir()}
    cifar = torchvision.datasets.CIFAR10
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(cifar, part, [[name, sums[name]] for name, _ in getattr(cifar, part)])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": sums["batches.meta"]})


def pixels(random, num):
    return random.integers(0, 256, (num, 28, 28), dtype=np.uint8)


def labels(num, num_classes, first=0):
    return (np.arange(num) % num_classes + first).astype(np.uint8)


def idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    path.write_bytes(head + array.tobytes())


def write_mnist(folder, random):
    for prefix, num in (("train", NUM_TRAIN), ("t10k", NUM_TEST)):
        idx(folder / f"{prefix}-images-idx3-ubyte", pixels(random, num))
        idx(folder / f"{prefix}-labels-idx1-ubyte", labels(num, 10))


def write_emnist(folder, random):
    for split, (num_classes, first) in {"balanced": (47, 0), "letters": (26, 1)}.items():
        for part, num in (("train", NUM_TRAIN), ("test", NUM_TEST)):
            idx(folder / f"emnist-{split}-{part}-images-idx3-ubyte", pixels(random, num))
            idx(folder / f"emnist-{split}-{part}-labels-idx1-ubyte", labels(num, num_classes, first))


def write_cifar10(folder, random):
    folder.mkdir(parents=True)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    batches = {f"data_batch_{n}": NUM_TRAIN // 5 for n in range(1, 6)} | {"test_batch": NUM_TEST}
    content = {"batches.meta": {"label_names": names}}
    for name, num in batches.items():
        data = random.integers(0, 256, (num, 3 * 32 * 32), dtype=np.uint8)
        content[name] = {"data": data, "labels": labels(num, 10).tolist()}
    for name, entry in content.items():
        (folder / name).write_bytes(pickle.dumps(entry))


def write_table(path, random):
    rooms, area = random.integers(1, 9, NUM_TRAIN), random.uniform(20, 200, NUM_TRAIN).round(2)
    rows = [f"{r},{a},{3 * a + 10 * r:.3f}" for r, a in zip(rooms, area, strict=True)]
    path.write_text("\n".join(["rooms,area,price", *rows]) + "\n")


def write_diamonds(path, random):
    names = ["carat", "cut", "color", "clarity", "depth", "table", "price", "x", "y", "z"]
    rows = random.uniform(1, 60, (NUM_TRAIN + 800, len(names))).round(2).astype(str)
    rows[:, 1:4] = "Ideal"
    path.write_text("\n".join(map(",".join, [names, *rows])) + "\n")


def write_text(path, random):
    words = ["one ", "two ", "three.\n"]
    path.write_text("".join(words[k] for k in random.integers(0, 3, NUM_TRAIN)))
