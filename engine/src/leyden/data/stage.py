"""Data on a node's own disk: a copy of a shared folder, made once per node."""

import hashlib
import json
import os
import shutil
from pathlib import Path

from leyden.config.errors import UserError
from leyden.run import lease
from leyden.run.files import read_json, sha256_of, write_whole


def stage(source: Path, scratch: str) -> Path:
    """Copy a folder to a node's disk, and return the copy; one that is there is used again if its source is unchanged.

    Args:
        source: The folder; links in it are copied as what they lead to.
        scratch: Folder on the node's disk; environment variables in it, such as `$TMPDIR`, are the node's.

    Raises:
        UserError: A variable is not set, the folder can't be copied, or the copy has other bytes.
    """
    expanded = os.path.expandvars(scratch)
    if "$" in expanded:
        raise UserError(f"cluster.stage={scratch}: a variable in it is not set on this node")
    name = f"{source.name}-{hashlib.sha256(str(source).encode()).hexdigest()[:8]}"
    copy = Path(expanded) / f"leyden-{os.getuid()}" / name
    marker = copy.with_name(f"{name}.json")
    try:
        with lease.hold(copy.with_name(f"{name}.lock")):
            files = _files(source)
            if read_json(marker, None) != files:
                marker.unlink(missing_ok=True)
                shutil.rmtree(copy, ignore_errors=True)
                for path in files:
                    _copy(source / path, copy / path)
                write_whole(marker, json.dumps(files))
    except OSError as error:
        raise UserError(f"cluster.stage={scratch}: {source} can't be copied there ({error.strerror})") from error
    return copy


def _files(folder: Path) -> dict[str, list[int]]:
    """Return the files below a folder: their size in bytes, and when they changed, in nanoseconds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            status = path.stat()
            found[str(path.relative_to(folder))] = [status.st_size, status.st_mtime_ns]
    return found


def _copy(source: Path, target: Path) -> None:
    """Copy a file, and compare the hashes of both.

    Raises:
        OSError: A file can't be read or written.
        UserError: They differ.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    with source.open("rb") as there, target.open("rb") as here:
        if sha256_of(there) != sha256_of(here):
            raise UserError(f"cluster.stage: {target} has other bytes than {source}")
