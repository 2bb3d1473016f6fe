"""A run as one file, to be handed on: a zip archive of its files and a manifest with their hashes."""

import hashlib
import re
import stat
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from leyden.config.mistakes import UserError
from leyden.run.crate import NAME, Content, contents, manifest
from leyden.run.directory import Run
from leyden.run.files import MAX_BYTES, refuse_links, replacing, writing

# What a bundle holds, in this order, beside pictures; a run may lack those that are not needed.
NEEDED = ("config.yaml", "provenance.json", "result.json", "checkpoints/best.ckpt")
FILES = (*NEEDED, "fingerprint.csv", "metrics.csv", "model.onnx")
LARGE = ("checkpoints/best.ckpt", "model.onnx")
PICTURE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.png")
MAX_FILES = 200
BLOCK = 2**20


def pack(run: Run, path: Path, *, onnx: Path | None, license_url: str | None) -> None:
    """Write the bundle of a run; the same run gives the same bytes.

    Args:
        run: One that has ended well.
        path: Of the bundle.
        onnx: Its network as ONNX, if there is one.
        license_url: As `manifest` has it.

    Raises:
        UserError: The run has not ended well, lacks a file, or holds too much; or the bundle can't be written.
    """
    result = run.result
    if result is None or not result.has_ended_well:
        status = result.status if result else "there is no result.json"
        raise UserError(f"{run.directory}: has not ended well ({status}); a bundle is that of a finished run")
    run.checkpoint("best")
    refuse_links(run.directory, run.directory / "checkpoints")
    places = {name: run.directory / name for name in FILES if name != "model.onnx"}
    places |= {"model.onnx": onnx} if onnx else {}
    pictures = sorted(each.name for each in run.directory.iterdir() if PICTURE.fullmatch(each.name))
    places |= {name: run.directory / name for name in pictures}
    files: dict[str, Content] = {}
    with writing("output", path), replacing(path) as target, zipfile.ZipFile(target, "w") as archive:
        for name, place in places.items():
            if place.is_file() or name in NEEDED:
                with place.open("rb") as file, archive.open(_entry(name, place.stat().st_size), "w") as entry:
                    files[name] = _copy(file, entry)
        archive.writestr(_entry(NAME), manifest(run, files, license_url))
        try:
            _checked(archive.infolist(), target.tell())  # what is written can be read
        except ValueError as error:
            raise UserError(f"{run.directory}: can't be bundled: {error}") from error


def _entry(name: str, size: int = 0) -> zipfile.ZipInfo:
    """One that tells nothing of this machine and this time."""
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr, entry.file_size = 3, (stat.S_IFREG | 0o644) << 16, size
    return entry


def _copy(source: IO[bytes], target: IO[bytes]) -> Content:
    """Copy a file in blocks, however large it is."""
    size, digest = 0, hashlib.sha256()
    while block := source.read(BLOCK):
        target.write(block)
        digest.update(block)
        size += len(block)
    return Content(size, digest.hexdigest())


def unpack(file: Path, directory: Path) -> None:
    """Make a run directory of a bundle, which anybody may have made; nothing of it is executed.

    Args:
        file: The bundle.
        directory: Must not be there, or be empty.

    Raises:
        UserError: The file is no bundle, is damaged or holds what a bundle does not; or the directory can't be made.
            Nothing is left of it then.
    """
    if not file.is_file():
        raise UserError(f"{file}: is no file")
    try:
        with tempfile.TemporaryDirectory(prefix=f"{directory.name}.", dir=directory.parent) as folder:
            (made := Path(folder) / "run").mkdir()
            with zipfile.ZipFile(file) as archive:
                _extract(archive, _checked(archive.infolist(), file.stat().st_size), made)
            made.replace(directory)  # which fails if anything is in it
    except OSError as error:
        raise UserError(f"{directory}: {file} can't be unpacked there ({error.strerror or error})") from error
    except Exception as error:  # whatever zipfile stumbles over
        raise UserError(f"{file}: is refused as a bundle ({' '.join(str(error).split())})") from error


def _checked(entries: Sequence[zipfile.ZipInfo], num_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """The entries of an archive of so many bytes, by name.

    Raises:
        ValueError: They are not those of a bundle.
    """
    if len(entries) > MAX_FILES:
        raise ValueError(f"it holds {len(entries)} files, more than {MAX_FILES}")
    for entry in entries:
        name = entry.filename
        if name not in (NAME, *FILES) and not PICTURE.fullmatch(name):
            raise ValueError(f"it holds {name[:200]}, which is no file of a bundle")
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            raise ValueError(f"{name} is a link, or no file")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed, which nothing in a bundle is")
        if entry.file_size > MAX_BYTES and name not in LARGE:
            raise ValueError(f"{name} has {entry.file_size} bytes, more than {MAX_BYTES}")
    if sum(entry.file_size for entry in entries) > num_bytes:
        raise ValueError("it holds more than it has bytes")
    if len({entry.filename.casefold() for entry in entries}) < len(entries):
        raise ValueError("it holds a file twice")
    found = {entry.filename: entry for entry in entries}
    if missing := [name for name in (NAME, *NEEDED) if name not in found]:
        raise ValueError(f"it holds no {missing[0]}")
    return found


def _extract(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], directory: Path) -> None:
    """Write the files of a bundle.

    Raises:
        ValueError: They are not what the manifest says.
    """
    told = contents(archive.read(entries.pop(NAME)))
    if wrong := {*told} ^ {*entries}:
        raise ValueError(f"{NAME} and what it holds differ in {min(wrong)[:200]}")
    (directory / "checkpoints").mkdir()
    for name, entry in entries.items():
        with archive.open(entry) as source, replacing(directory / name) as target:
            if _copy(source, target) != told[name]:
                raise ValueError(f"{name} is not what {NAME} says: it was damaged or changed")
