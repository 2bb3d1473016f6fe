"""Images in shards, streamed from disk: tar archives as WebDataset and `tar` write them.

An index of where each image begins makes a shard a dataset with random access, so that order, samples and resume are
those of a folder of images.
"""

import contextlib
import hashlib
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from leyden.config.paths import ROOT
from leyden.config.terminal import warn
from leyden.data.files import MAX_BYTES, digest_of
from leyden.data.folder import FolderDataModule
from leyden.data.images import SUFFIXES, center_crop
from leyden.data.table import sorted_classes
from leyden.run.files import replacing
from leyden.run.process import is_main_process

INDEXES = ROOT / "data" / ".shards"  # a cache: a file per shard, made anew if it is missing or damaged
CLASS = ".cls"
MAX_CLASS_BYTES = 1000
MIN_ANNOUNCED = 2**30  # bytes of archives: reading through fewer takes seconds
# First bytes of files by gzip, bzip2, xz, zstd and lz4.
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")
BLOCK = 512  # bytes; a tar archive consists of such blocks, and ends with two of zeros, or more
MAX_END_BYTES = 2**20


class ShardsDataModule(FolderDataModule):
    """Images of any size in tar archives, streamed from disk by random access.

    A sample is an image, KEY.jpg (.jpeg, .png, .webp), whose class is the text in KEY.cls, or else the name of its
    folder in the archive. Hidden members, and those with other suffixes, are ignored.

    Args:
        train: Names of the training split's archives in `root`; `*` and `?` match any characters, `**` any folders.
        val: As `train`; if there is no such archive, `val_size` images of `train` are the validation split.
        test: As `train`, for the test set.
        kwargs: Arguments of `FolderDataModule`.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, *, train: str, val: str, test: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.patterns = {"train": train, "val": val, "test": test}
        self._classes: list[str] | None = None  # of the training split, once its archives were read
        for split, pattern in self.patterns.items():
            if not isinstance(pattern, str) or not pattern or Path(pattern).is_absolute():
                raise ValueError(
                    f"{split}={pattern}: must be the name of archives in root={self.root}, such as train-*.tar"
                )

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 that identifies the images of each training or validation split.

        It is that of their names, sizes and classes, or of the whole archive up to 32 MiB.
        """
        opened = {split: dataset for split, (dataset, _) in self.splits.items() if split != "test"}
        return {split: dataset.digest for split, dataset in opened.items() if isinstance(dataset, Shards)}

    def open(self, split: str) -> "Shards | None":
        """Return the images of a split, labelled by the classes of the training split."""
        paths = self._paths(split)
        if not paths and split == "val":
            return None
        indexes = read_indexes(paths)
        if self._classes is None:
            of_train = indexes if split == "train" else read_indexes(self._paths("train"))
            self._classes = sorted_classes({name for index in of_train for name in index.classes.tolist()})
        return Shards(paths, indexes, self._classes, self.input_shape)

    def _paths(self, split: str) -> list[Path]:
        pattern = self.patterns[split]
        paths = sorted(path for path in Path(self.root).glob(pattern) if not path.name.startswith("."))
        if not paths and split != "val":
            raise FileNotFoundError(
                f"{Path(self.root, pattern)}: there is no such file; {split}=... names the archives"
            )
        return paths


class Shards(Dataset[tuple[Tensor, int]]):
    """Images in tar archives, in the order of the archives and of their members.

    Args:
        paths: The archives.
        indexes: The index of each archive.
        classes: Names of the classes.
        input_shape: Shape of the returned images, (C, H, W).

    Raises:
        ValueError: An image is of an unknown class.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        indexes: "Sequence[Index]",
        classes: Sequence[str],
        input_shape: tuple[int, int, int],
    ) -> None:
        self.paths, self.classes, self.input_shape = paths, classes, input_shape
        number_of = {name: number for number, name in enumerate(classes)}
        for path, index in zip(paths, indexes, strict=True):
            if unknown := sorted({*index.classes.tolist()} - {*classes}):
                raise ValueError(
                    f"{path}: {unknown[0]} is not a class of the training images ({', '.join(classes[:20])})"
                )
        # Arrays, not lists: reference counting would copy the memory of a million objects into each worker.
        self.shards = np.repeat(np.arange(len(paths), dtype=np.int32), [len(index.offsets) for index in indexes])
        self.offsets = np.concatenate([index.offsets for index in indexes])
        self.sizes = np.concatenate([index.sizes for index in indexes])
        numbers = [np.array([number_of[name] for name in index.classes.tolist()], np.int32) for index in indexes]
        self.targets = np.concatenate([each[index.labels] for each, index in zip(numbers, indexes, strict=True)])
        self.digest = digest_of("".join(str(index.digest) for index in indexes).encode())

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return an image's pixels, shape (C, H, W), uint8, and its class."""
        path, offset, size = self.paths[self.shards[index]], int(self.offsets[index]), int(self.sizes[index])
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            content = file.read(size)
        name = f"{path}, the image at byte {offset}"
        return center_crop(content, name, self.input_shape), int(self.targets[index])


class Index(NamedTuple):
    """A shard's images, N, by the order of its members.

    Attributes:
        offsets: First byte of each image in the archive, shape (N,), int64.
        sizes: Bytes of each image, shape (N,), int64.
        labels: Position of each image's class in `classes`, shape (N,), int32.
        classes: Names of the shard's classes, sorted, as an array of texts.
        digest: SHA-256 of the archive, or of the images' names, sizes and classes if it is large, as an array of one
            text.
    """

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int32]
    classes: NDArray[np.str_]
    digest: NDArray[np.str_]


def read_indexes(paths: Sequence[Path]) -> list[Index]:
    """Return the index of each tar archive, from the cache unless the archive has changed.

    Raises:
        ValueError: An archive is damaged, compressed, or has no images, or an image has no class.
    """
    cached = [_cache_file(path) for path in paths]
    new = [path for path, file in zip(paths, cached, strict=True) if not file.exists()]
    if is_main_process() and (size := sum(path.stat().st_size for path in new)) > MIN_ANNOUNCED:
        warn(
            f"data: {len(new)} archives of {size / 2**30:.1f} GiB are read through once, for an index of their images"
        )
    found = [_read_index(path, file) for path, file in zip(paths, cached, strict=True)]
    if new and is_main_process() and not any(file.exists() for file in cached):
        warn(f"{INDEXES}: can't be written, so the archives are read through at each start")
    return found


def _cache_file(path: Path) -> Path:
    status = path.stat()
    identity = (
        f"{path.absolute()} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"  # no program sets ctime
    )
    return INDEXES / f"{path.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:24]}.npz"


def _read_index(path: Path, cached: Path) -> Index:
    """Return the index of an archive, which is written to the cache unless it is there."""
    try:
        with cached.open("rb") as file, np.load(file, allow_pickle=False) as found:
            return Index(**found)
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):  # missing or damaged
        index = make_index(path)
    with contextlib.suppress(OSError):  # another process writes it, or nobody can
        INDEXES.mkdir(parents=True, exist_ok=True)
        with replacing(cached) as writable:
            np.savez(writable, **index._asdict())
    return index


def make_index(path: Path) -> Index:
    """Return the index of a tar archive, which is read once for it.

    Raises:
        ValueError: The archive is damaged, compressed, or has no images, or an image has no class.
    """
    images: dict[str, tuple[int, int]] = {}  # offset and size, by the member's name
    texts: dict[str, str] = {}  # content of a .cls member, by its key
    for member, content in _members(path):
        key, suffix = _key_and_suffix(member.name)
        is_image = member.name.lower().endswith(SUFFIXES)
        if not is_image and suffix != CLASS:
            continue
        if not member.isreg() or member.issparse():
            raise ValueError(f"{path}: {member.name} is a link or a sparse file; the archive must hold its content")
        if member.name in images or (suffix == CLASS and key in texts):
            raise ValueError(f"{path}: {member.name} occurs twice")
        if is_image:
            images[member.name] = member.offset_data, member.size
        else:
            texts[key] = _class_name(path, member.name, content)
    labels = (
        _labels_by_text(path, images, texts)
        if texts
        else {name: PurePosixPath(name).parent.name for name in images}
    )
    if not labels:
        raise ValueError(f"{path}: holds no image; they end in {', '.join(SUFFIXES)}")
    if bare := next((name for name, label in labels.items() if not label), None):
        raise ValueError(
            f"{path}: {bare} has no class; it is the text in KEY{CLASS}, or the name of the image's folder"
        )
    classes, positions = np.unique(np.array([*labels.values()]), return_inverse=True)
    offsets, sizes = np.array([images[name] for name in labels], dtype=np.int64).T
    described = "".join(f"{images[name][1]} {name} {label}\0" for name, label in labels.items()).encode()
    digest = digest_of(path.read_bytes() if path.stat().st_size <= MAX_BYTES else described)
    return Index(offsets, sizes, positions.astype(np.int32), classes, np.array(digest))


def _labels_by_text(path: Path, names: Iterable[str], texts: Mapping[str, str]) -> dict[str, str]:
    """Return the class of each image, by name: the text of its key. `KEY.seg.png` is no image but another field."""
    image_of: dict[str, str] = {}
    for name in names:
        key, suffix = _key_and_suffix(name)
        if suffix in SUFFIXES and image_of.setdefault(key, name) != name:
            raise ValueError(f"{path}: {image_of[key]} and {name} are two images of one sample")
    if lacking := min({*image_of} - {*texts}, default=None):
        raise ValueError(f"{path}: {image_of[lacking]} has no class; there is no {lacking}{CLASS}")
    if lacking := min({*texts} - {*image_of}, default=None):
        raise ValueError(f"{path}: {lacking}{CLASS} has no image; images end in {', '.join(SUFFIXES)}")
    return {name: texts[key] for key, name in image_of.items()}


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield the members of an archive that are neither folders nor hidden, with the content of .cls members."""
    with path.open("rb") as file:
        if file.read(6).startswith(COMPRESSED):
            raise ValueError(
                f"{path}: is compressed, so no image can be read by itself; decompress it to a plain .tar"
            )
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    archive.members = []  # type: ignore[attr-defined]  # else it keeps all of them
                    if member.size < 0:  # by an extended header; what follows would be read again and again
                        raise tarfile.ReadError("a size is negative")
                    if member.isdir() or PurePosixPath(member.name).name.startswith("."):
                        continue
                    is_class = member.isreg() and member.name.lower().endswith(CLASS)
                    text = archive.extractfile(member) if is_class else None
                    yield member, text.read(MAX_CLASS_BYTES + 1) if text else b""
                file.seek(archive.offset)
                end = file.read(MAX_END_BYTES)
                if len(end) < BLOCK:
                    raise tarfile.ReadError("there is no end")
                if end.strip(b"\0") or file.read(1):  # tarfile stops at the first end
                    raise tarfile.ReadError("there is something after its end, as after `cat a.tar b.tar`")
        except (
            tarfile.TarError,
            ValueError,
            OSError,
        ) as error:  # the last two for wrong numbers in extended headers
            raise ValueError(f"{path}: is not a tar archive, or it is truncated or damaged ({error})") from error


def _class_name(path: Path, name: str, content: bytes) -> str:
    """Return the text of a .cls member, without white space at its ends."""
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable() or len(content) > MAX_CLASS_BYTES:
        raise ValueError(f"{path}: {name} must hold the name or the number of a class, in one line of UTF-8")
    return text


def _key_and_suffix(name: str) -> tuple[str, str]:
    """Split a member's name as WebDataset does: at the first dot after the last slash.

    Example:
        >>> _key_and_suffix("v1.0/cat.seg.PNG")
        ('v1.0/cat', '.seg.png')
    """
    folder, slash, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    return f"{folder}{slash}{stem}", f"{dot}{suffix}".lower()
