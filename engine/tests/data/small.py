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
SETS = (
    "fashion_jpegs",
    "mnist",
    "fashion_mnist",
    "kmnist",
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
    }
    return InMemoryDataModule(
        dataset=dataset, **{**options, "download": False, "normalize": "none", **changed}
    )


def write(root):
    random = np.random.default_rng(0)
    for folder in ("MNIST", "FashionMNIST", "KMNIST"):
        for prefix, num in (("train", NUM_TRAIN), ("t10k", NUM_TEST)):
            write_images(root / folder / "raw" / prefix, random, num, 10)
    for part, num in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        write_images(root / "EMNIST" / "raw" / f"emnist-balanced-{part}", random, num, 47)
    write_cifar10(root / "cifar-10-batches-py", random)
    rooms, area = random.integers(1, 9, NUM_TRAIN), random.uniform(20, 200, NUM_TRAIN).round(2)
    rows = [f"{r},{a},{3 * a + 10 * r:.3f}" for r, a in zip(rooms, area, strict=True)]
    (root / "houses.csv").write_text("\n".join(["rooms,area,price", *rows]) + "\n")
    words = ["one ", "two ", "three.\n"]
    (root / "book.txt").write_text("".join(words[k] for k in random.integers(0, 3, NUM_TRAIN)))
    names = ["carat", "cut", "color", "clarity", "depth", "table", "price", "x", "y", "z"]
    rows = random.uniform(1, 60, (NUM_TRAIN + 800, len(names))).round(2).astype(str)
    rows[:, 1:4] = "Ideal"
    (root / "diamonds.csv").write_text("\n".join(map(",".join, [names, *rows])) + "\n")
    return root


def write_images(path, random, num, num_classes):
    """Pixels and labels in the format of MNIST, in files whose names begin so."""
    pixels, labels = random.integers(0, 256, (num, 28, 28)), np.arange(num) % num_classes
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
        head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
        path.with_name(f"{path.name}-{name}-ubyte").write_bytes(
            head + array.astype(np.uint8).tobytes()
        )


def write_cifar10(folder, random):
    folder.mkdir(parents=True)
    names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    content = {"batches.meta": {"label_names": names}}
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        num = NUM_TEST if name == "test_batch" else NUM_TRAIN // 5
        data = random.integers(0, 256, (num, 3 * 32 * 32), dtype=np.uint8)
        content[name] = {"data": data, "labels": [n % 10 for n in range(num)]}
    for name, entry in content.items():
        (folder / name).write_bytes(pickle.dumps(entry))


def expect(root, monkeypatch):
    """Let the checksums of the files below `root` be the right ones."""
    for made, files in (
        (MNIST, root.glob("MNIST/raw/*-idx*")),
        (FashionMNIST, root.glob("FashionMNIST/raw/*-idx*")),
        (Diamonds, [root / "diamonds.csv"]),
    ):
        sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        monkeypatch.setattr(made, "sha256", sums)
    cifar = torchvision.datasets.CIFAR10
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(cifar, part, [[name, None] for name, _ in getattr(cifar, part)])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": None})
