"""Images in a folder per class: what is found, how it is split, and what is told of mistakes."""

import os
import shutil

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from leyden.config.errors import UserError
from leyden.data import folder
from leyden.data.folder import FolderDataModule
from leyden.data.splits import SplitLoader
from leyden.data.transforms import Augment, Normalize
from tests.data import folders


@pytest.fixture
def root(tmp_path):
    return folders.write(tmp_path / "pets")


def module(root, **changed):
    return FolderDataModule(root=str(root), **{**folders.OPTIONS, **changed})


def test_it_gives_images_and_classes_and_its_facts(root):
    data = module(root, num_workers=2)
    assert data.facts.class_names == ("cat", "dog")
    assert (data.facts.num_classes, data.facts.input_shape) == (2, (3, 20, 16))
    assert data.sizes == {"train": 24, "val": 10}  # the test set is not even listed
    data.setup("test")
    assert data.sizes == {"train": 24, "val": 10, "test": 12}
    data.check_world_size(4)
    with pytest.raises(ValueError, match="too few for 5 processes"):
        data.check_world_size(5)
    for split, size in data.sizes.items():
        loader = getattr(data, f"{split}_dataloader")()
        assert isinstance(loader, SplitLoader)
        images, labels = zip(*loader, strict=True)
        images_NCHW, labels_N = torch.cat(images), torch.cat(labels)
        assert images_NCHW.shape == (size, 3, 20, 16)
        assert (images_NCHW.dtype, labels_N.dtype) == (torch.float32, torch.int64)
        assert 0 <= images_NCHW.min() <= images_NCHW.max() <= 1
        assert labels_N.bincount().tolist() == [size / 2] * 2
    data.teardown("fit")


def test_a_split_is_in_the_order_of_classes_and_names_but_that_of_training(root):
    data = module(root, eval_batch_size=100)
    data.setup("test")
    ((images_NCHW, labels_N),) = data.test_dataloader()
    paths = [path for name in ("cat", "dog") for path in sorted((root / "test" / name).iterdir())]
    assert labels_N.tolist() == [0] * 6 + [1] * 6
    pixels_NCHW = torch.stack([data.read_image(path) for path in paths])
    assert torch.equal(images_NCHW, Normalize((0.0,) * 3, (1.0,) * 3)(pixels_NCHW))
    assert torch.equal(data.inputs("test", slice(None)), pixels_NCHW)
    assert torch.equal(data.inputs("test", np.array([7, 0])), pixels_NCHW[[7, 0]])
    assert len({str(labels_N.tolist()) for _, labels_N in data.train_dataloader()}) > 1


def test_validation_is_its_own_folder_or_cut_from_training(root, tmp_path):
    paths = [path for name in ("cat", "dog") for path in sorted((root / "val" / name).iterdir())]
    data = module(root, val_size=None)
    data.setup("fit")
    assert torch.equal(data.inputs("val", slice(None)), torch.stack([*map(data.read_image, paths)]))
    with pytest.raises(ValueError, match="val_size=3: the data have a validation split already, and can't have"):
        module(root, val_size=3).setup("fit")
    shutil.rmtree(root / "val")
    data = module(root, val_size=6)
    data.setup("fit")
    assert data.sizes == {"train": 18, "val": 6}
    assert sorted(torch.cat(list(data.indices.values())).tolist()) == list(range(24))
    assert module(root).val_dataloader() == []


def test_standardize_is_over_the_training_split(root, capfd):
    data = module(root, normalize="standardize", num_workers=2)
    expected = Normalize.standardize_pixels([data.facts and data.inputs("train", slice(None))])
    assert data.facts.mean == pytest.approx(expected.mean, abs=1e-12)
    assert data.facts.std == pytest.approx(expected.std, abs=1e-12)
    assert "standardize: all 24 training images are read once" in capfd.readouterr().err
    images_NCHW = torch.cat([images_NCHW for images_NCHW, _ in data.train_dataloader()])
    assert images_NCHW.mean((0, 2, 3)).abs().max() < 1e-5
    data.teardown("fit")


def test_each_training_image_is_changed_by_a_draw_of_its_own(root):
    augment = Augment(num_chunks=8, affine=v2.RandomAffine(degrees=30), erasing=v2.RandomErasing(p=0.5))
    changed = [
        torch.cat([x for x, _ in module(root, augment=augment, num_workers=n).train_dataloader()]) for n in (0, 3)
    ]
    assert torch.equal(*changed)
    plain = torch.cat([x for x, _ in module(root).train_dataloader()])
    assert not torch.equal(changed[0], plain)
    evaluated = []
    for data in (module(root, augment=augment), module(root)):
        data.setup("fit")
        evaluated.append(next(iter(data.val_dataloader()))[0])
    assert torch.equal(*evaluated)


def test_hidden_files_are_left_out_and_others_are_told(root, tmp_path, capfd):
    (root / "train" / ".ipynb_checkpoints").mkdir()
    (root / "train" / "notes.txt").write_text("")
    (root / "train" / "cat" / "._001.jpg").write_bytes(b"")
    (root / "train" / "cat").rename(tmp_path / "elsewhere")
    (root / "train" / "cat").symlink_to(tmp_path / "elsewhere")  # links are followed
    shutil.rmtree(root / "test" / "cat")  # a class may have no test image
    strange = os.fsdecode(b"a \xff\xe4.png")
    (root / "train" / "dog" / "001.png").rename(root / "train" / "dog" / strange)
    data = module(root)
    data.setup("fit")
    data.setup("test")
    assert data.facts.class_names == ("cat", "dog")
    assert (data.sizes["train"], data.inputs("train", slice(None)).shape) == (24, (24, 3, 20, 16))
    assert [labels_N.tolist() for _, labels_N in data.test_dataloader()] == [[1] * 4, [1] * 2]
    assert capfd.readouterr().err == ""
    (root / "train" / "dog" / "old.bmp").write_bytes(b"")
    module(root).setup("fit")
    assert f"{root}/train/dog: 1 entries are ignored; images end in .png, .jpg" in capfd.readouterr().err


def remove(root, pattern):
    for path in root.glob(pattern):
        path.unlink() if path.is_file() else shutil.rmtree(path)


DAMAGES = {
    "no folder": (
        lambda root: remove(root, "train"),
        "train: there is no such folder; images lie in .*/train/CLASS/",
    ),
    "no class": (lambda root: remove(root, "train/*"), "train: holds no image; they lie in .*/pets/train/CLASS/"),
    "a class of its own": (
        lambda root: (root / "test" / "bird").mkdir(),
        r"test/bird: is not a class of the training images \(cat, dog\)",
    ),
    "no test image": (
        lambda root: remove(root, "test/*/*"),
        "test: holds no image; they lie in .*/CLASS/ and end in",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_can_not_be_listed_is_named_in_a_line(root, name):
    damage, message = DAMAGES[name]
    damage(root)
    data = module(root)
    with pytest.raises((ValueError, OSError), match=f"pets/{message}") as refused:  # noqa: PT012 - either of them
        data.setup("fit")
        data.setup("test")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("content", [b"", b"no image", b"half", None])
def test_a_broken_file_is_named(root, num_workers, content):
    path = root / "train" / "dog" / "001.png"
    whole = path.read_bytes()
    path.unlink()
    if content is None:
        path.symlink_to("nowhere")
    else:
        path.write_bytes(whole[:100] if content == b"half" else content)
    data = module(root, num_workers=num_workers)
    with pytest.raises(UserError, match=r"pets/train/dog/001\.png: not a PNG, JPEG or WebP image that can be read"):
        list(data.train_dataloader())
    data.teardown("fit")


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("image_size", [None, 5, [5], [5, 5, 5], [0, 5], [5.0, 5], [True, 5], "55"]),
        ("channels", [0, 2, 4, "3", None]),
        *((name, [0, -1, 1.5, True, "1", None]) for name in ("batch_size", "eval_batch_size")),
        *((name, [-1, 1.5, True, "1"]) for name in ("val_size", "num_workers", "seed")),
        ("normalize", ["none", None, 1]),
        ("augment", ["affine", 1]),
    ],
)
def test_arguments_that_are_none_are_refused(tmp_path, argument, values):
    for value in values:
        with pytest.raises(ValueError, match=f"{argument}="):
            module(tmp_path, **{argument: value})


def test_names_lie_in_one_block_of_memory(root):
    data = module(root)
    data.setup("fit")
    dataset, indices_N = data.datasets["train"], data.indices["train"]
    assert not dataset.names.dtype.hasobject
    assert dataset.names.nbytes + dataset.targets.nbytes + indices_N.nbytes < 24 * 30


@pytest.mark.parametrize("large", [False, True])
def test_a_folder_is_identified_by_names_and_sizes_and_a_small_one_by_contents(root, monkeypatch, large):
    def digest():
        data = module(root)
        data.setup("fit")
        return data.digests["train/"]

    monkeypatch.setattr(folder, "MAX_FILES", 1 if large else 1000)
    path, same = root / "train" / "dog" / "000.jpg", digest()
    content = path.read_bytes()
    os.utime(path, (0, 0))
    assert digest() == same
    assert same.endswith("(names and sizes)") == large
    path.write_bytes(content[:-1] + b"x")
    assert (digest() == same) == large
    path.write_bytes(content + b"x")
    assert digest() != same
