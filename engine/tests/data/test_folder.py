"""Images in a folder per class: what is found, how it is read, and what is told of mistakes."""

import errno
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torchvision.transforms import v2

from leyden.config.errors import UserError
from leyden.data.contract import DataModule
from leyden.data.folder import FolderDataModule
from leyden.data.images import find_images, read_center_crop
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
    assert isinstance(data, DataModule)
    assert data.facts.class_names == ("cat", "dog")
    assert (data.facts.num_classes, data.facts.input_shape) == (2, (3, 20, 16))
    assert data.sizes == {"train": 24, "val": 10}  # the test set is not even listed
    data.setup("test")
    assert data.sizes == {"train": 24, "val": 10, "test": 12}
    data.check_world_size(4)
    with pytest.raises(ValueError, match="too few for 5 processes"):
        data.check_world_size(5)
    for split, loader in (
        ("train", data.train_dataloader()),
        ("val", data.val_dataloader()),
        ("test", data.test_dataloader()),
    ):
        assert isinstance(loader, SplitLoader)
        images, labels = zip(*loader, strict=True)
        images_NCHW, labels_N = torch.cat(images), torch.cat(labels)
        assert images_NCHW.shape == (data.sizes[split], 3, 20, 16)
        assert (images_NCHW.dtype, labels_N.dtype) == (torch.float32, torch.int64)
        assert images_NCHW.min() >= 0
        assert images_NCHW.max() <= 1
        assert labels_N.bincount().tolist() == [data.sizes[split] / 2] * 2
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


def test_validation_of_its_own_is_used_as_it_is(root):
    data = module(root)
    paths = [path for name in ("cat", "dog") for path in sorted((root / "val" / name).iterdir())]
    assert torch.equal(
        data.facts and data.inputs("val", [0, 9]), torch.stack([*map(data.read_image, paths)])[[0, 9]]
    )
    with pytest.raises(
        ValueError, match="val_size=3: the data have a validation split already, and can't have another"
    ):
        module(root, val_size=3).setup("fit")
    assert module(root, val_size=None).facts == data.facts


def test_validation_is_cut_from_training_where_there_is_none(tmp_path):
    data = module(folders.write(tmp_path / "pets", train=10), val_size=6)
    data.setup("fit")
    assert data.sizes == {"train": 14, "val": 6}
    both_N = torch.cat(list(data.indices.values()))
    assert sorted(both_N.tolist()) == list(range(20))
    assert module(tmp_path / "pets").val_dataloader() == []


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


# How a file becomes an input.


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("shape", [(40, 80), (80, 40)])
def test_the_middle_part_of_its_aspect_is_cut_out(tmp_path, shape):
    marked = np.zeros((*shape, 3), np.uint8)
    marked[10:30, 30:50] = 255  # the middle of the wide one, 20 x 20
    if shape == (80, 40):
        marked = marked[::-1] * 0
        marked[30:50, 10:30] = 255
    found = read_center_crop(save(tmp_path / "x.png", marked), (3, 20, 20))
    assert found.shape == (3, 20, 20)
    assert (found[:, 6:14, 6:14] == 255).all()
    assert found[:, :4].sum() == found[:, -4:].sum() == found[:, :, :4].sum() == found[:, :, -4:].sum() == 0


def test_an_image_of_the_right_size_is_as_it_is(tmp_path):
    array = folders.pixels(20, 16, 0)
    found = read_center_crop(save(tmp_path / "x.png", array), (3, 20, 16))
    assert np.array_equal(found.permute(1, 2, 0), array)
    assert found.is_contiguous()


def modes(array):
    """The same picture in modes and depths that are found in the wild."""
    rgb = Image.fromarray(array)
    grey = rgb.convert("L")
    yield "rgb", rgb
    yield "rgba", Image.merge("RGBA", (*rgb.split(), Image.new("L", rgb.size, 255)))
    yield "cmyk", rgb.convert("CMYK")
    yield "grey", grey
    yield "16bit", Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    yield "grey-alpha", Image.merge("LA", (grey, Image.new("L", rgb.size, 255)))


@pytest.mark.parametrize("channels", [1, 3])
def test_any_mode_and_depth_is_the_same_picture(tmp_path, channels):
    array = folders.pixels(60, 60, 1)
    grey = np.asarray(Image.fromarray(array).convert("L"))
    for name, image in modes(array):
        image.save(path := tmp_path / f"{name}.{'jpg' if name == 'cmyk' else 'png'}")
        expected = grey if channels == 1 or name in ("grey", "16bit", "grey-alpha") else array
        expected = read_center_crop(save(tmp_path / "e.png", expected), (channels, 20, 20))
        assert (read_center_crop(path, (channels, 20, 20)).int() - expected.int()).abs().max() <= 4, name


def test_transparent_parts_are_black(tmp_path):
    image = Image.new("RGBA", (20, 20), (255, 255, 255, 0))
    image.save(tmp_path / "x.png")
    assert not read_center_crop(tmp_path / "x.png", (3, 20, 20)).any()


def test_a_large_jpeg_is_nearly_what_all_its_pixels_are(tmp_path):
    array = folders.pixels(900, 1300, 2)
    whole = read_center_crop(save(tmp_path / "x.png", array), (3, 64, 64)).int()
    quick = read_center_crop(save(tmp_path / "x.jpg", array, quality=95), (3, 64, 64)).int()
    assert (whole - quick).abs().float().mean() < 1.5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(20, 30), (160, 240)])
def test_an_image_is_upright(tmp_path, orientation, size):
    upright = Image.fromarray(folders.pixels(*size, 3))
    turns = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}  # what a camera that was held so has done
    lying = upright
    for turn in turns.get(orientation, ()):
        lying = lying.transpose(Image.Transpose(turn))
    exif = Image.Exif()
    exif[0x112] = orientation
    lying.save(tmp_path / "x.jpg", quality=100, subsampling=0, exif=exif)
    upright.save(tmp_path / "e.jpg", quality=100, subsampling=0)
    found, expected = (read_center_crop(tmp_path / name, (3, 18, 12)).int() for name in ("x.jpg", "e.jpg"))
    assert (found - expected).abs().float().mean() < 3


# What lies in a folder beside.


def test_hidden_files_are_left_out_and_others_are_told(root, capfd):
    (root / "train" / ".ipynb_checkpoints").mkdir()
    (root / "train" / "cat" / ".DS_Store").write_bytes(b"")
    (root / "train" / "cat" / "._001.jpg").write_bytes(b"")
    assert module(root).facts.class_names == ("cat", "dog")
    assert capfd.readouterr().err == ""
    (root / "train" / "notes.txt").write_text("")
    (root / "train" / "dog" / "movie.mp4").write_bytes(b"")
    (root / "train" / "dog" / "more.jpg").mkdir()
    data = module(root)
    data.setup("fit")
    assert data.sizes["train"] == 24
    err = capfd.readouterr().err
    assert f"{root}/train: 1 entries are ignored, such as notes.txt; they are not folders of classes" in err
    assert (
        f"{root}/train/dog: 2 entries are ignored, such as more.jpg; they are not images, which end in .png" in err
    )


def test_links_are_followed(root, tmp_path):
    (root / "train" / "cat").rename(tmp_path / "elsewhere")
    (root / "train" / "cat").symlink_to(tmp_path / "elsewhere")
    (root / "train" / "dog" / "link.png").symlink_to(next((tmp_path / "elsewhere").glob("*.png")))
    data = module(root)
    data.setup("fit")
    assert data.sizes["train"] == 25


def test_odd_entries_are_left_out_or_named_and_nobody_waits_for_them(root, tmp_path, capfd):
    cat = root / "train" / "cat"
    os.mkfifo(cat / "pipe.png")
    (cat / "loop").symlink_to("..")
    with socket.socket(socket.AF_UNIX) as there:
        here = Path.cwd()
        os.chdir(cat)  # the whole path may be too long for a socket
        there.bind("socket.png")
        os.chdir(here)
    data = module(root)
    data.setup("fit")
    assert data.sizes["train"] == 24
    assert "3 entries are ignored, such as loop" in capfd.readouterr().err
    (cat / "self.png").symlink_to("self.png")
    for name in ("pipe.png", "self.png"):
        with pytest.raises(UserError, match=rf"cat/{name}: not a PNG, JPEG or WebP image that can be read"):
            read_center_crop(cat / name, (3, 8, 8))
    (tmp_path / "folder.png").mkdir()
    for odd in (tmp_path / "folder.png", cat / "self.png"):
        with pytest.raises(UserError, match=rf"images={odd}: no"):
            find_images(str(odd))
    assert cat / "self.png" in find_images(str(cat))  # and is named when it is read


def test_a_class_without_test_images_is_one_without_test_images(root):
    for path in (root / "test" / "cat").iterdir():
        path.unlink()
    (root / "test" / "cat").rmdir()
    data = module(root)
    data.setup("test")
    assert [labels_N.tolist() for _, labels_N in data.test_dataloader()] == [[1] * 4, [1] * 2]


def move(source, target=None):
    """Move what `source` names below the root, each file of it in turn, to `target`; None: remove it."""

    def damage(root):
        for path in sorted(root.glob(source)):
            path.rename(root / target.format(path.name)) if target else path.unlink()

    return damage


def link(name, target):
    return lambda root: (root / name).symlink_to(target)


def linked_split(root):
    shutil.rmtree(root / "train")
    (root / "train").symlink_to("train")


def linked_in_a_circle(root):
    link("train/cat/x.png", "y.png")(root)
    link("train/cat/y.png", "x.png")(root)


def no_class(root):
    move("train/*/*", "train/{}")(root)
    for path in root.glob("train/*/"):
        path.rmdir()


DAMAGES = {
    "no folder": (move("train", "training"), "train: there is no such folder; images lie in .*/pets/train/CLASS/"),
    "no class": (no_class, "train: holds no folder of a class; images lie in .*/pets/train/CLASS/"),
    "a class without images": (
        lambda root: (root / "train" / "bird").mkdir(),
        r"train/bird: holds no image; they end in \.png, \.jpg, \.jpeg, \.webp",
    ),
    "a class of its own": (
        move("test/cat", "test/bird"),
        r"test/bird: is not a class of the training images \(cat, dog\)",
    ),
    "no test image": (move("test/*/*"), "test: holds no image; they lie in .*/pets/test/CLASS/ and end in"),
    "a link to itself": (link("train/cat/x.png", "x.png"), r"train/cat/x\.png: is a link to itself"),
    "links in a circle": (linked_in_a_circle, r"train/cat/[xy]\.png: is a link to itself"),
    "a broken link": (link("train/dog/lost.png", "nowhere"), r"train/dog/lost\.png: is a broken link"),
    "a class that is a link": (link("train/bird", "bird"), "train/bird: is a link to itself"),
    "a split that is a link": (linked_split, "train: there is no such folder"),
}


def list_splits(root):
    for stage in ("fit", "test"):
        module(root).setup(stage)


@pytest.mark.parametrize("name", DAMAGES)
def test_what_can_not_be_listed_is_named_in_a_line(root, name):
    damage, message = DAMAGES[name]
    damage(root)
    with pytest.raises((ValueError, OSError), match=f"pets/{message}") as refused:
        list_splits(root)
    assert "\n" not in str(refused.value)


def test_what_is_not_ours_is_named_in_a_line_before_anything_is_trained(root, cli, monkeypatch):
    def scandir(path, original=os.scandir):
        if str(path).endswith("train/cat"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    code, _, err = cli("train", "data=folder", f"data.root={root}", "data.image_size=[8,8]", "callbacks=bare")
    assert (code, err.count("\n")) == (2, 1), err
    assert "pets/train/cat: can't be read (Permission denied)" in err


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("content", [b"", b"no image", b"half"])
def test_a_broken_file_is_named(root, num_workers, content):
    path = root / "train" / "dog" / "001.png"
    path.write_bytes(path.read_bytes()[:100] if content == b"half" else content)
    data = module(root, num_workers=num_workers)
    with pytest.raises(UserError, match=r"pets/train/dog/001\.png: not a PNG, JPEG or WebP image that can be read"):
        list(data.train_dataloader())
    data.teardown("fit")


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("image_size", [5, [5], [5, 5, 5], [0, 5], [5.0, 5], [True, 5], [2**14, 5], "55"]),
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


def test_without_a_size_images_keep_their_own(tmp_path):
    root = tmp_path / "pets"
    for split in ("train", "val", "test"):
        for name, size in (("a.png", (30, 20)), ("b.png", (20, 30))):  # the second one is turned by its header
            (root / split / "cat").mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(folders.pixels(*size, seed=1))
            exif = image.getexif()
            exif[ExifTags.Base.Orientation] = 6 if name == "b.png" else 1
            image.save(root / split / "cat" / name, exif=exif)
    data = module(root, image_size=None)
    data.setup("test")  # in this order, too, the training images decide
    assert data.input_shape == (3, 30, 20)
    assert data.facts.input_shape == (3, 30, 20)
    pixels_NCHW = data.inputs("train", [0, 1])
    assert torch.equal(pixels_NCHW[0].permute(1, 2, 0), torch.tensor(folders.pixels(30, 20, seed=1)))
    assert data.read_image(root / "train" / "cat" / "b.png").shape == (3, 30, 20)


@pytest.mark.parametrize("max_opened", [1, 1000])  # found when it is read, or before training
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_image_of_another_size_is_named_beside_one_of_the_first_size(tmp_path, monkeypatch, split, max_opened):
    monkeypatch.setattr("leyden.data.folder.MAX_OPENED", max_opened)
    root = folders.write(tmp_path / "pets", train=1, val=1, test=1)
    Image.fromarray(folders.pixels(28, 29, seed=1)).save(root / split / "dog" / "1.png")
    data = module(root, image_size=None)
    message = r"pets/\w+/dog/1.png: has 28 x 29 pixels, \S+pets/train/cat/000.jpg has 28 x 28; data.image_size=\[28,28\] crops"

    def read():
        data.setup("fit")
        data.setup("test")
        assert max_opened == 1
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
            list(loader)

    with pytest.raises(UserError, match=message) as refused:
        read()
    assert "\n" not in str(refused.value)


def test_photographs_need_a_size(tmp_path):
    root = folders.write(tmp_path / "pets", train=1)
    Image.fromarray(folders.pixels(600, 800, seed=1)).save(root / "train" / "cat" / "0.png")
    with pytest.raises(UserError, match=r"0.png: has 600 x 800 pixels; data.image_size=\[224,224\] crops"):
        module(root, image_size=None).setup("fit")


def test_names_lie_in_one_block_of_memory(root):
    data = module(root)
    data.setup("fit")
    dataset, indices_N = data.datasets["train"], data.indices["train"]
    assert isinstance(dataset.names, np.ndarray)
    assert not dataset.names.dtype.hasobject
    assert dataset.names.nbytes + dataset.targets.nbytes + indices_N.nbytes < 24 * 30


def test_names_are_what_bytes_can_be(tmp_path):
    folders.write(tmp_path / "pets", train=1)
    strange = os.fsdecode(b"a \xff\xe4.png")
    for name in ("cat", "dog"):
        (tmp_path / "pets" / "train" / name / "000.jpg").rename(tmp_path / "pets" / "train" / name / strange)
    data = module(tmp_path / "pets")
    data.setup("fit")
    assert data.inputs("train", [0, 1]).shape == (2, 3, 20, 16)
