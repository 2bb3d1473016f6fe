import io
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
from leyden.data.transforms import Normalize
from tests.data import folders


@pytest.fixture
def root(tmp_path):
    return folders.write(tmp_path / "pets")


def module(root, stage=None, **changed):
    given = {"image_size": [20, 16], "channels": 3, **folders.SPLITS, **changed}
    data = FolderDataModule(root=str(root), **given)
    if stage:
        data.setup(stage)
    return data


def pixels_of(data, root, split):
    paths = [path for name in ("cat", "dog") for path in sorted((root / split / name).iterdir())]
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
    assert torch.cat(labels).bincount().tolist() == [12, 12]
    assert len({str(labels_N.tolist()) for labels_N in labels}) > 1
    ((images_NCHW, labels_N),) = data.test_dataloader()
    assert labels_N.tolist() == [0] * 6 + [1] * 6
    pixels_NCHW = pixels_of(data, root, "test")
    assert torch.equal(images_NCHW, Normalize((0.0,) * 3, (1.0,) * 3)(pixels_NCHW))
    assert torch.equal(data.inputs("test", np.array([7, 0])), pixels_NCHW[[7, 0]])
    data.teardown("fit")


def test_validation_is_its_own_folder_or_cut_from_training(root):
    data = module(root, "fit", val_size=None)
    assert torch.equal(data.inputs("val", slice(None)), pixels_of(data, root, "val"))
    with pytest.raises(
        ValueError, match="val_size=3: the data have a validation split already, and can't have"
    ):
        module(root, "fit", val_size=3)
    shutil.rmtree(root / "val")
    data = module(root, "fit", val_size=6)
    assert data.sizes == {"train": 18, "val": 6}
    assert sorted(torch.cat(list(data.indices.values())).tolist()) == list(range(24))
    assert module(root).val_dataloader() == []


def test_to_standardize_all_images_are_read_and_the_main_process_says_so(root, monkeypatch, capfd):
    for rank, num_said in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        data = module(root, normalize="standardize")
        inputs_NCHW = data.facts.normalize(data.inputs("train", slice(None)))
        assert inputs_NCHW.mean(dim=(0, 2, 3)).abs().max() < 1e-5
        assert (
            capfd.readouterr().err.count("all 24 training images are read once for this")
            == num_said
        )


def test_hidden_and_other_files_are_left_out_and_links_are_followed(root, tmp_path):
    (root / "train" / ".ipynb_checkpoints").mkdir()
    for name in ("notes.txt", "cat/._001.jpg", "cat/old.bmp"):
        (root / "train" / name).write_bytes(b"")
    (root / "train" / "cat").rename(tmp_path / "elsewhere")
    (root / "train" / "cat").symlink_to(tmp_path / "elsewhere")
    shutil.rmtree(root / "test" / "cat")  # a class may have no test image
    (root / "train" / "dog" / "001.png").rename(
        root / "train" / "dog" / os.fsdecode(b"a \xff\xe4.png")
    )
    data = module(root, "test")
    assert (data.facts.class_names, data.sizes["train"]) == (("cat", "dog"), 24)
    assert data.inputs("train", slice(None)).shape == (24, 3, 20, 16)
    assert data.digests
    assert [labels_N.tolist() for _, labels_N in data.test_dataloader()] == [[1] * 4, [1] * 2]


def test_what_can_not_be_listed_is_named_in_a_line(root):
    (root / "test" / "bird").mkdir()
    for removed, message in (
        ([], r"pets/test/bird: is not a class of the training images \(cat, dog\)"),
        (["test/bird", "test/*/*"], "test=Folder: has no samples"),
        (["train/*"], r"Couldn't find any class folder in .*/pets/train"),
        (["train"], r"No such file or directory: '.*/pets/train'"),
    ):
        for path in [path for pattern in removed for path in root.glob(pattern)]:
            path.unlink() if path.is_file() else shutil.rmtree(path)
        with pytest.raises((ValueError, OSError), match=message) as refused:
            module(root, "fit").setup("test")
        assert "\n" not in str(refused.value)


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
    ("pattern", "subfolder"), [("p[0-9]", False), ("^.(.)_", False), ("[^/]+", True)]
)
def test_no_group_of_images_is_in_two_splits(root, pattern, subfolder):
    shutil.rmtree(root / "val")
    for n, path in enumerate(sorted(root.glob("*/*/*"))):
        patient = n % 4 if path.parts[-3] == "train" else 4 + n % 2
        path.rename(path.with_name(f"p{patient}_{path.name}"))
    if subfolder:
        for path in sorted(root.glob("*/*/*")):
            (path.parent / path.name[:2]).mkdir(exist_ok=True)
            path.rename(path.parent / path.name[:2] / path.name)
    data = module(root, "fit", group=pattern, val_size=6)
    groups = np.array(data.groups_of(data.datasets["train"]))
    train, val = (set(groups[data.indices[split]].tolist()) for split in ("train", "val"))
    assert (len(train), len(val), train & val) == (3, 1, set())
    data.setup("test")
    first = next((root / "train").rglob("p0_*"))
    other = root / "test" / first.relative_to(root / "train")
    other.parent.mkdir(exist_ok=True)
    shutil.copy(first, other)
    with pytest.raises(ValueError, match=r"test: has groups of the training set: p?0"):
        module(root, "fit", group=pattern, val_size=6).setup("test")
    with pytest.raises(ValueError, match=r"group=q: matches nothing in .*train"):
        module(root, "fit", group="q")


def test_arguments_that_are_none_are_refused(tmp_path):
    wrong = {"image_size": [None, 5, [5], [0, 5], [True, 5], "55"], "channels": [0, 2, "3", None]}
    wrong |= {"group": ["(", 1]}
    wrong |= {"batch_size": [0, 1.5, True, "1", None], "num_workers": [-1, 1.5, "1"]}
    wrong |= {"normalize": ["none", None], "augment": ["affine", 1]}
    for argument, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError, match=f"{argument}="):
                module(tmp_path, **{argument: value})


def test_a_folder_is_identified_by_names_and_sizes_and_a_small_one_by_contents(root, monkeypatch):
    path = root / "train" / "dog" / "000.jpg"
    content = path.read_bytes()
    for large, most in ((False, 1000), (True, 1)):
        monkeypatch.setattr(folder, "MAX_FILES", most)
        found = []
        for each in (content, content, content[:-1] + b"x", content + b"x"):
            path.write_bytes(each)
            os.utime(path, (len(found), 0))
            found.append(module(root, "fit").digests["train/"])
        assert found[0].endswith("(names and sizes)") == large
        assert [digest == found[0] for digest in found] == [True, True, large, False]


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def test_the_middle_part_of_its_aspect_is_cut_out_and_transparent_parts_are_background(tmp_path):
    marked = np.zeros((40, 80, 3), np.uint8)
    marked[10:30, 30:50] = 255  # 20 x 20 in the middle
    for array in (marked, marked.transpose(1, 0, 2)):
        found = read_image(save(tmp_path / "x.png", array), (3, 20, 20))
        assert (found[:, 6:14, 6:14] == 255).all()
        found[:, 4:-4, 4:-4] = 0
        assert not found.any()
    array, path = folders.pixels(20, 16, 0), tmp_path / "x.png"
    for invert, expected in ((False, array), (True, 255 - array)):
        found = read_image(save(path, array), (3, 20, 16), invert=invert)
        assert np.array_equal(found.permute(1, 2, 0), expected)
        assert found.is_contiguous()
        Image.new("RGBA", (20, 20), (120, 120, 120, 0)).save(path)
        assert not read_image(path, (3, 20, 20), invert=invert).any()


def test_any_mode_and_depth_is_the_same_picture(tmp_path):
    array = folders.pixels(60, 60, 1)
    rgb = Image.fromarray(array)
    grey, opaque = rgb.convert("L"), Image.new("L", rgb.size, 255)
    modes = {
        "rgba.png": Image.merge("RGBA", (*rgb.split(), opaque)),
        "cmyk.jpg": rgb.convert("CMYK"),
        "grey.png": grey,
        "grey-16bit.png": Image.fromarray(np.asarray(grey).astype(np.uint16) * 257),
        "grey-alpha.png": Image.merge("LA", (grey, opaque)),
    }
    for name, image in modes.items():
        image.save(tmp_path / name)
        for channels in (1, 3):
            expected = np.asarray(grey) if channels == 1 or name.startswith("grey") else array
            expected = read_image(save(tmp_path / "e.png", expected), (channels, 20, 20))
            assert (
                read_image(tmp_path / name, (channels, 20, 20)).int() - expected.int()
            ).abs().max() <= 4, name


@pytest.mark.parametrize("size", [(20, 30), (160, 240)])
def test_a_jpeg_is_upright_and_a_large_one_nearly_what_all_its_pixels_are(tmp_path, size):
    upright = Image.fromarray(folders.pixels(*size, 3))
    upright.save(tmp_path / "e.png")
    expected = read_image(tmp_path / "e.png", (3, 18, 12)).int()
    turned = [upright, *(upright.transpose(Image.Transpose(n)) for n in (0, 3, 1, 5, 2, 6, 4))]
    for orientation, lying in enumerate(turned, start=1):  # as a camera was held
        exif = Image.Exif()
        exif[0x112] = orientation
        lying.save(tmp_path / "x.jpg", quality=100, subsampling=0, exif=exif)
        found = read_image(tmp_path / "x.jpg", (3, 18, 12)).int()
        assert (found - expected).abs().float().mean() < 8, orientation


def jpeg(drawn, mode, damage):
    small = np.frombuffer(drawn.randbytes(27 * 9), dtype=np.uint8).reshape(9, 9, 3)
    size = drawn.randint(1, 90), drawn.randint(1, 90)
    image, file, exif = (
        Image.fromarray(small).resize(size).convert(mode),
        io.BytesIO(),
        Image.Exif(),
    )
    exif[274] = drawn.choice([1, 1, 6])
    options = {"progressive": drawn.random() < 0.3, "exif": exif.tobytes()}
    image.save(file, "JPEG", quality=drawn.choice([30, 75, 95]), **options)
    content = bytearray(file.getvalue())
    for _ in range(drawn.randint(1, 4) if damage == "bytes" else 0):
        content[drawn.randrange(2, len(content) - 2)] = drawn.randrange(256)
    return content[: drawn.randrange(2, len(content))] if damage == "end" else content


@pytest.mark.parametrize("damage", ["none", "bytes", "end"])
def test_a_jpeg_is_what_pillow_makes_of_it(drawn, tmp_path, monkeypatch, damage):
    path, ours = tmp_path / "a.jpg", folder._decode_jpeg
    for _ in range(60):
        path.write_bytes(jpeg(drawn, drawn.choice(["L", "RGB", "CMYK"]), damage))
        channels, found = drawn.choice([1, 3]), []
        for decode in (ours, lambda *_: None):
            monkeypatch.setattr(folder, "_decode_jpeg", decode)
            try:
                found.append(read_image(path, (channels, 32, 40)))
            except UserError as error:
                found.append(str(error))
        assert type(found[0]) is type(found[1])
        assert torch.equal(*found) if isinstance(found[0], torch.Tensor) else found[0] == found[1]
        assert damage != "none" or isinstance(found[0], torch.Tensor)
