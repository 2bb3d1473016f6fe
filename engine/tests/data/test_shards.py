"""Images in tar archives: what is found, in which order, what is refused, and the cache of the index."""

import contextlib
import io
import os
import re
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from leyden.config.errors import UserError
from leyden.data import shards
from leyden.data.contract import DataModule
from leyden.data.folder import FolderDataModule
from leyden.data.shards import ShardsDataModule
from tests.data import folders

OPTIONS = {**folders.OPTIONS, "eval_batch_size": 100}
PATTERNS = {"train": "train*.tar", "val": "val*.tar", "test": "test*.tar"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "INDEXES", tmp_path / "cache")
    return tmp_path / "cache"


def module(root, **changed):
    return ShardsDataModule(root=str(root), **{**OPTIONS, **PATTERNS, **changed})


def png(shade=0):
    file = io.BytesIO()
    Image.fromarray(np.full((9, 7, 3), shade, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def write(path, members, **options):
    """A tar archive of members: a name with its content, or a TarInfo."""
    with tarfile.open(path, "w", **options) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            name, content = member
            content = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def samples(*classes):
    return [each for n, name in enumerate(classes) for each in ((f"{n}.png", png(n)), (f"{n}.cls", name))]


def batch(loader):
    ((inputs, targets),) = loader
    return inputs, targets


def test_a_packed_folder_is_the_folder(tmp_path):
    pets = folders.pack(folders.write(tmp_path / "pets", train=9, val=6, test=8))
    packed, folder = module(pets), FolderDataModule(root=str(pets), **OPTIONS)
    assert isinstance(packed, DataModule)
    assert packed.facts == folder.facts
    for data in (packed, folder):
        data.setup("test")
    assert packed.sizes == folder.sizes
    for split in ("val", "test"):
        ours, theirs = (batch(getattr(data, f"{split}_dataloader")()) for data in (packed, folder))
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
    for ours, theirs in zip(packed.train_dataloader(), folder.train_dataloader(), strict=True):
        assert torch.equal(ours[0], theirs[0])


def test_the_samples_of_web_dataset(tmp_path):
    members = [
        each for n in (10, 9) for each in ((f"a/{n}.PNG", png(n)), (f"a/{n}.cls", f" {n}\n"), (f"a/{n}.json", "{}"))
    ]
    write(tmp_path / "train-1.tar", [*members, ("a/9.seg.png", png(200)), ("a/._9.png", "of a Mac")])
    write(tmp_path / "train-0.tar", [("x.cls", "9"), ("y.cls", "9"), ("y.png", png(1)), ("x.png", png(2))])
    write(tmp_path / "test.tar", [("0.png", png(3)), ("0.cls", "10")])
    data = module(tmp_path)
    assert data.facts.class_names == ("9", "10")
    assert data.sizes == {"train": 4}
    dataset, _ = data.splits["train"]
    assert [(int(pixels.max()), target) for pixels, target in (dataset[n] for n in range(4))] == [
        (1, 0),
        (2, 0),
        (10, 1),
        (9, 0),
    ]
    data.setup("test")
    assert batch(data.test_dataloader())[1].tolist() == [1]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_those_in_any_language(tmp_path, form):
    name = "/".join(["ü" * 20, "猫" * 9] if form != tarfile.USTAR_FORMAT else ["x" * 90, "u" * 90])
    write(tmp_path / "train.tar", [(f"{name}/1.png", png()), (f"{name}/1.2.png", png())], format=form)
    data = module(tmp_path)
    assert data.facts.class_names == (name.rpartition("/")[2],)
    assert data.sizes == {"train": 2}


def link(name, kind=tarfile.LNKTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "0.png"
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "holds no image; they end in .png"),
        ([("0.ppm", "P6"), ("0.txt", "cat")], "holds no image"),
        ([("0.cls", "cat")], "0.cls has no image"),
        ([("0.png", png())], "0.png has no class; it is the text in KEY.cls, or the name of the image's folder"),
        ([*samples("cat"), ("1.png", png())], "1.png has no class; there is no 1.cls"),
        ([*samples("cat"), ("1.cls", "dog")], "1.cls has no image"),
        ([*samples("cat"), ("0.jpg", png())], "0.png and 0.jpg are two images of one sample"),
        ([*samples("cat"), ("0.png", png())], "0.png occurs twice"),
        ([*samples("cat"), ("0.cls", "dog")], "0.cls occurs twice"),
        ([*samples("cat"), link("1.png")], "1.png is a link or a sparse file"),
        ([*samples("cat"), link("1.png", tarfile.SYMTYPE)], "1.png is a link or a sparse file"),
        (samples(""), "0.cls must hold the name or the number of a class"),
        (samples("cat\ndog"), "0.cls must hold the name"),
        (samples(b"\xff\xfe"), "0.cls must hold the name"),
        (samples("x" * 1001), "0.cls must hold the name"),
    ],
)
def test_what_is_refused(tmp_path, members, message):
    path = write(tmp_path / "train.tar", members)
    with pytest.raises(ValueError, match=message) as refused:
        module(tmp_path).setup("fit")
    assert str(refused.value).startswith(f"{path}: ")


@pytest.mark.parametrize("name", ["0.txt", "0.png", "0.cls"])
@pytest.mark.parametrize(
    "headers",
    [
        *({"size": size} for size in ("-1536", "-2048", "-3072", "9" * 30)),
        *({"GNU.sparse.size": "x"}, {"GNU.sparse.map": "a,b"}),
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"},
    ],
)
def test_wrong_numbers_in_extended_headers_are_refused(tmp_path, name, headers):
    path = tmp_path / "train.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in (("0.txt", "text"), *samples("cat")):
            content = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(member)
            info.size, info.pax_headers = len(content), headers if member == name else {}
            archive.addfile(info, io.BytesIO(content))
    with pytest.raises(ValueError, match=re.escape(f"{path}: ")):
        module(tmp_path).setup("fit")


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_a_compressed_archive_is_refused(tmp_path, mode):
    with tarfile.open(tmp_path / "train.tar", f"w:{mode}"):
        pass
    with pytest.raises(ValueError, match=r"train\.tar: is compressed, so no image can be read by itself"):
        module(tmp_path).setup("fit")


def test_a_truncated_archive_is_refused_wherever_it_ends(tmp_path):
    whole = write(tmp_path / "whole.tar", samples("cat", "dog")).read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    path = tmp_path / "train.tar"
    for length in range(0, end + 1, 256):
        path.write_bytes(whole[:length])
        with pytest.raises(
            ValueError, match=r"train.tar: is not a tar archive, or it is truncated or damaged|no image"
        ):
            shards.make_index(path)
    path.write_bytes(whole[: end + 512])
    assert len(shards.make_index(path).offsets) == 2


def test_concatenated_archives_are_refused(tmp_path):
    parts = [write(tmp_path / f"{name}.tar", samples(name)).read_bytes() for name in ("cat", "dog")]
    (tmp_path / "train.tar").write_bytes(b"".join(parts))
    with pytest.raises(ValueError, match="there is something after its end"):
        module(tmp_path).setup("fit")


def test_a_damaged_archive_is_refused_or_read(drawn, tmp_path):
    whole = write(tmp_path / "whole.tar", samples("cat", "dog", "cat")).read_bytes()
    path = tmp_path / "train.tar"
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(drawn.randint(1, 4)):
            content[drawn.randrange(len(content))] = drawn.randrange(256)
        path.write_bytes(content)
        with contextlib.suppress(ValueError, UserError):
            data = module(tmp_path)
            data.setup("fit")
            dataset, _ = data.splits["train"]
            assert all(dataset[n][0].shape == (3, 20, 16) for n in range(len(dataset)))


def test_a_class_that_training_does_not_have_is_refused(tmp_path):
    write(tmp_path / "train.tar", samples("cat", "dog"))
    write(tmp_path / "val.tar", samples("cat", "cow"))
    with pytest.raises(ValueError, match=r"val.tar: cow is not a class of the training images \(cat, dog\)"):
        module(tmp_path).setup("fit")


def test_names_of_archives(tmp_path):
    (tmp_path / "train").mkdir()
    write(tmp_path / "train" / "b-01.tar", samples("cat", "dog"))
    write(tmp_path / "train" / "b-00.tar", samples("cow"))
    write(tmp_path / "train" / ".b-02.tar", samples("hidden"))
    data = module(tmp_path, train="**/b-*.tar")
    assert data.facts.class_names == ("cat", "cow", "dog")
    with pytest.raises(FileNotFoundError, match=r"test\*.tar: there is no such file; test=... names the archives"):
        data.setup("test")
    with pytest.raises(
        FileNotFoundError, match=r"train\*.tar: there is no such file; train=... names the archives"
    ):
        module(tmp_path).setup("fit")
    for wrong in ("", 3, None, "/data/*.tar"):
        with pytest.raises(ValueError, match=r"train=.*: must be the name of archives in root="):
            module(tmp_path, train=wrong)


def test_a_folder_in_place_of_an_archive_is_refused(tmp_path):
    (tmp_path / "train.tar").mkdir()
    with pytest.raises((ValueError, OSError), match=r"train\.tar"):
        module(tmp_path).setup("fit")


def test_an_archive_is_indexed_once_until_it_changes(tmp_path, cache, monkeypatch, capsys):
    monkeypatch.setattr(shards, "MIN_ANNOUNCED", 1000)
    path = write(tmp_path / "train.tar", samples("cat", "dog"))
    made, make = [], shards.make_index
    monkeypatch.setattr(shards, "make_index", lambda path: made.append(path) or make(path))
    first = module(tmp_path)
    first.setup("fit")
    assert "1 archives of 0.0 GiB are read through once" in capsys.readouterr().err
    second = module(tmp_path)
    second.setup("fit")
    assert (len(made), capsys.readouterr().err) == (1, "")
    assert second.digests == first.digests
    (file,) = cache.iterdir()
    for damage in (b"", b"PK", file.read_bytes()[:-100]):
        file.write_bytes(damage)
        module(tmp_path).setup("fit")
    assert len(made) == 4
    write(path, samples("cat", "cow"))
    os.utime(path, ns=(1, 1))
    changed = module(tmp_path)
    assert changed.facts.class_names == ("cat", "cow")
    assert changed.digests != first.digests
    # Labels in each other's place, with the same size and time.
    content = path.read_bytes().replace(b"cow", b"kat").replace(b"cat", b"cow").replace(b"kat", b"cat")
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    swapped = module(tmp_path)
    swapped.setup("fit")
    assert swapped.digests != changed.digests
    assert [swapped.splits["train"][0].targets.tolist(), changed.splits["train"][0].targets.tolist()] == [
        [1, 0],
        [0, 1],
    ]


def test_without_a_place_for_the_index_it_is_announced(tmp_path, cache, monkeypatch, capsys):
    made, make = [], shards.make_index
    monkeypatch.setattr(shards, "make_index", lambda path: made.append(path) or make(path))
    write(tmp_path / "train.tar", samples("cat", "dog"))
    cache.write_text("a file")
    data = module(tmp_path)
    assert data.facts.class_names == ("cat", "dog")
    assert capsys.readouterr().err.count("can't be written") == 1
    assert len(made) == 1


def test_an_image_that_is_damaged_is_named(tmp_path):
    write(tmp_path / "train.tar", [("0.png", "no image"), ("0.cls", "cat")])
    with pytest.raises(UserError, match=r"train.tar, the image at byte 512: not a PNG, JPEG or WebP image"):
        module(tmp_path).setup("fit")
