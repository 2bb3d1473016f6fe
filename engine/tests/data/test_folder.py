import io
import itertools
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from leyden.base.errors import UserError
from leyden.data import folder
from leyden.data.contract import Facts
from leyden.data.folder import FolderDataModule, read_image
from tests.data import folders


@pytest.fixture
def root(tmp_path):
    return folders.write(tmp_path / "pets")


def module(root, stage=None, **changed):
    options = {"image_size": [20, 16], "channels": 3, **folders.SPLITS}
    data = FolderDataModule(root=str(root), **options | changed)
    if stage:
        data.setup(stage)
    return data


def pixels_of(data, root, split):
    paths = sorted((root / split).glob("*/*"))
    return torch.stack([*map(data.read_image, paths)])


def test_it_gives_images_and_classes_in_order_and_its_facts(root):
    data = module(root, num_workers=2, eval_batch_size=100)
    assert data.facts == Facts((3, 20, 16), 2, ("cat", "dog"), (0.0,) * 3, (1.0,) * 3, 255.0)
    assert data.facts.class_counts == (12, 12)
    assert data.sizes == {"train": 24, "val": 10}  # the test set is not even listed
    data.setup("test")
    with pytest.raises(ValueError, match="too few for 5 processes"):
        data.check_world_size(5)
    images, labels = zip(*data.train_dataloader(), strict=True)
    assert torch.cat(images).shape == (24, 3, 20, 16)
    labels_N = torch.cat(labels)
    assert labels_N.bincount().tolist() == [12, 12]
    assert not torch.equal(labels_N, labels_N.sort().values)
    ((images_NCHW, labels_N),) = data.test_dataloader()
    assert labels_N.tolist() == [0] * 6 + [1] * 6
    pixels_NCHW = pixels_of(data, root, "test")
    assert torch.equal(images_NCHW, data.facts.normalize(pixels_NCHW))
    chosen = np.array([7, 0])
    assert torch.equal(data.inputs("test", chosen), pixels_NCHW[chosen])
    data.teardown("fit")


def test_validation_is_its_own_folder_or_cut_from_training(root):
    data = module(root, "fit", val_size=None)
    assert torch.equal(data.inputs("val", slice(None)), pixels_of(data, root, "val"))
    already = "val_size=3: the data have a validation split already, and can't have"
    with pytest.raises(ValueError, match=already):
        module(root, "fit", val_size=3)
    shutil.rmtree(root / "val")
    data = module(root, "fit", val_size=6)
    assert data.sizes == {"train": 18, "val": 6}
    every = torch.cat([*data.indices.values()])
    assert sorted(every.tolist()) == [*range(24)]
    assert module(root).val_dataloader() == []


def test_to_standardize_all_images_are_read_and_the_main_process_says_so(root, monkeypatch, capfd):
    for rank, num_said in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        data = module(root, normalize="standardize")
        inputs_NCHW = data.facts.normalize(data.inputs("train", slice(None)))
        assert inputs_NCHW.mean(dim=(0, 2, 3)).abs().max() < 1e-5
        err = capfd.readouterr().err
        assert err.count("all 24 training images are read once for this") == num_said


def test_hidden_and_other_files_are_left_out_and_links_are_followed(root, tmp_path):
    train = root / "train"
    (train / ".ipynb_checkpoints").mkdir()
    for name in ("notes.txt", "cat/._001.jpg", "cat/old.bmp"):
        (train / name).write_bytes(b"")
    elsewhere = tmp_path / "elsewhere"
    (train / "cat").rename(elsewhere)
    (train / "cat").symlink_to(elsewhere)
    shutil.rmtree(root / "test" / "cat")  # a class may have no test image
    dogs = train / "dog"
    (dogs / "001.png").rename(dogs / os.fsdecode(b"a \xff\xe4.png"))
    data = module(root, "test")
    assert data.facts.class_names == ("cat", "dog")
    assert data.sizes["train"] == 24
    assert data.inputs("train", slice(None)).shape == (24, 3, 20, 16)
    assert data.digests
    labels = [labels_N.tolist() for _, labels_N in data.test_dataloader()]
    assert labels == [[1] * 4, [1] * 2]


def test_what_can_not_be_listed_is_named_in_a_line(root):
    (root / "test" / "bird").mkdir()
    for removed, message in (
        ("none", r"pets/test/bird: is not a class of the training images \(cat, dog\)"),
        ("test/*/*", "test=Folder: has no samples"),
        ("train/*", r"Couldn't find any class folder in .*/pets/train"),
        ("train", r"No such file or directory: '.*/pets/train'"),
    ):
        for path in root.glob(removed):
            path.unlink() if path.is_file() else shutil.rmtree(path)
        with pytest.raises((ValueError, OSError), match=message) as refused:
            module(root, "fit").setup("test")
        assert "\n" not in str(refused.value)
        shutil.rmtree(root / "test" / "bird", ignore_errors=True)


def test_a_broken_file_is_named(root):
    path = root / "train" / "dog" / "001.png"
    half = path.read_bytes()[:100]
    for content, num_workers in ((b"", 2), (b"no image", 0), (half, 2), ("huge", 0), ("a link", 0)):
        path.unlink()
        if content == "a link":
            path.symlink_to("nowhere")
        elif content == "huge":  # it would fill the memory
            Image.new("1", (12_000, 12_000)).save(path)
        else:
            path.write_bytes(content)
        data = module(root, num_workers=num_workers)
        with pytest.raises(UserError, match=r"train/dog/001\.png: not an image that can be read"):
            list(data.train_dataloader())
        data.teardown("fit")


@pytest.mark.parametrize(
    ("pattern", "place"),
    [("p[0-9]", "{}_{}"), ("^.(.)_", "{}_{}"), ("[^/]+", "{}/{}")],
)
def test_no_group_of_images_is_in_two_splits(root, pattern, place):
    shutil.rmtree(root / "val")
    for split, patients in (("train", ["p0", "p1", "p2", "p3"]), ("test", ["p4", "p5"])):
        patient = itertools.cycle(patients)
        for path in sorted((root / split).glob("*/*")):
            moved = path.parent / place.format(next(patient), path.name)
            moved.parent.mkdir(exist_ok=True)
            path.rename(moved)
    data = module(root, "fit", group=pattern, val_size=6)
    groups = np.array(data.groups_of(data.datasets["train"]))
    train = {*groups[data.indices["train"]]}
    val = {*groups[data.indices["val"]]}
    assert len(train) == 3
    assert len(val) == 1
    assert not train & val
    data.setup("test")
    other = root / "test" / "cat" / place.format("p0", "000.jpg")
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(b"")
    with pytest.raises(ValueError, match=r"test: has groups of the training set: p?0"):
        module(root, "fit", group=pattern, val_size=6).setup("test")
    with pytest.raises(ValueError, match=r"group=q: matches nothing in .*train"):
        module(root, "fit", group="q")


WRONG = {
    "image_size": [None, 5, [5], [0, 5], [True, 5], "55"],
    "channels": [0, 2, "3", None],
    "group": ["(", 1],
    "batch_size": [0, 1.5, True, "1", None],
    "num_workers": [-1, 1.5, "1"],
    "normalize": ["none", None],
    "augment": ["affine", 1],
}


def test_arguments_that_are_none_are_refused(tmp_path):
    for argument, values in WRONG.items():
        for value in values:
            with pytest.raises(ValueError, match=f"{argument}="):
                module(tmp_path, **{argument: value})


def test_a_folder_is_identified_by_names_and_sizes_and_a_small_one_by_contents(root, monkeypatch):
    path = root / "train" / "dog" / "000.jpg"
    content = path.read_bytes()
    changed = content[:-1] + b"x"
    longer = content + b"x"

    def digest(content, time):
        path.write_bytes(content)
        os.utime(path, (time, 0))
        return module(root, "fit").digests["train/"]

    first = digest(content, 0)
    assert digest(content, 1) == first
    assert digest(changed, 2) != first
    assert digest(longer, 3) != first
    monkeypatch.setattr(folder, "MAX_FILES", 1)
    by_size = digest(content, 0)
    assert by_size.endswith("(names and sizes)")
    assert digest(changed, 2) == by_size
    assert digest(longer, 3) != by_size


def save(path, array):
    Image.fromarray(array).save(path)
    return path


def test_the_middle_part_of_its_aspect_is_cut_out(tmp_path):
    marked = np.zeros((40, 80, 3), np.uint8)
    marked[10:30, 30:50] = 255  # 20 x 20 in the middle
    for array in (marked, marked.transpose(1, 0, 2)):
        path = save(tmp_path / "x.png", array)
        found = read_image(path, (3, 20, 20))
        assert (found[:, 6:14, 6:14] == 255).all()
        found[:, 4:-4, 4:-4] = 0
        assert not found.any()


def test_an_image_may_be_inverted_and_its_transparent_parts_are_background(tmp_path):
    array = folders.pixels(20, 16, 0)
    path = save(tmp_path / "x.png", array)
    transparent = tmp_path / "transparent.png"
    Image.new("RGBA", (20, 20), (120, 120, 120, 0)).save(transparent)
    for invert, expected in ((False, array), (True, 255 - array)):
        found = read_image(path, (3, 20, 16), invert=invert)
        assert np.array_equal(found.permute(1, 2, 0), expected)
        assert found.is_contiguous()
        assert not read_image(transparent, (3, 20, 20), invert=invert).any()


def difference(path, expected, shape):
    """Absolute differences of an image from another one, where both are read."""
    found = read_image(path, shape).float()
    return (found - read_image(expected, shape)).abs()


def test_any_mode_and_depth_is_the_same_picture(tmp_path):
    rgb = Image.fromarray(folders.pixels(60, 60, 1))
    grey = rgb.convert("L")
    opaque = Image.new("L", rgb.size, 255)
    in_16_bits = np.asarray(grey).astype(np.uint16) * 257
    rgb.save(tmp_path / "rgb.png")
    grey.save(tmp_path / "grey.png")
    modes = {
        "rgba.png": Image.merge("RGBA", (*rgb.split(), opaque)),
        "cmyk.jpg": rgb.convert("CMYK"),
        "grey-16bit.png": Image.fromarray(in_16_bits),
        "grey-alpha.png": Image.merge("LA", (grey, opaque)),
    }
    for name, image in modes.items():
        image.save(tmp_path / name)
        original = "grey.png" if name.startswith("grey") else "rgb.png"
        for channels, expected in ((1, "grey.png"), (3, original)):
            apart = difference(tmp_path / name, tmp_path / expected, (channels, 20, 20))
            assert apart.max() <= 4, name


# How each orientation of EXIF, from 2, is turned upright.
TURNED = [
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_90,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_270,
]


@pytest.mark.parametrize("size", [(20, 30), (160, 240)])
def test_a_jpeg_is_upright_and_a_large_one_nearly_what_all_its_pixels_are(tmp_path, size):
    upright = Image.fromarray(folders.pixels(*size, 3))
    expected = tmp_path / "e.png"
    path = tmp_path / "x.jpg"
    upright.save(expected)
    turned = [upright, *map(upright.transpose, TURNED)]
    for orientation, lying in enumerate(turned, start=1):  # as a camera was held
        exif = Image.Exif()
        exif[0x112] = orientation
        lying.save(path, quality=100, subsampling=0, exif=exif)
        assert difference(path, expected, (3, 18, 12)).mean() < 8, orientation


def jpeg(drawn, mode, damage):
    noise = np.frombuffer(drawn.randbytes(27 * 9), dtype=np.uint8)
    small = Image.fromarray(noise.reshape(9, 9, 3))
    image = small.resize((drawn.randint(1, 90), drawn.randint(1, 90)))
    exif = Image.Exif()
    exif[274] = drawn.choice([1, 1, 6])
    file = io.BytesIO()
    image.convert(mode).save(
        file,
        "JPEG",
        quality=drawn.choice([30, 75, 95]),
        progressive=drawn.random() < 0.3,
        exif=exif.tobytes(),
    )
    content = bytearray(file.getvalue())
    if damage == "bytes":
        for _ in range(drawn.randint(1, 4)):
            place = drawn.randrange(2, len(content) - 2)
            content[place] = drawn.randrange(256)
    if damage == "end":
        del content[drawn.randrange(2, len(content)) :]
    return content


@pytest.mark.parametrize("damage", ["none", "bytes", "end"])
def test_a_jpeg_is_what_pillow_makes_of_it(drawn, tmp_path, monkeypatch, damage):
    path = tmp_path / "a.jpg"
    ours = folder._decode_jpeg

    def read(decode, channels):
        """The pixels, or the words that refuse them."""
        monkeypatch.setattr(folder, "_decode_jpeg", decode)
        try:
            return read_image(path, (channels, 32, 40)).tolist()
        except UserError as error:
            assert damage != "none"
            return str(error)

    for _ in range(60):
        mode = drawn.choice(["L", "RGB", "CMYK"])
        path.write_bytes(jpeg(drawn, mode, damage))
        channels = drawn.choice([1, 3])
        expected = read(lambda *_: None, channels)
        assert read(ours, channels) == expected
