"""The code that jobs on other machines run: project and library in one file."""

import io
import json
import shlex
import shutil
import sys
import tarfile
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from leyden.base.paths import LIBRARY, NOT_OWN_PACKAGES, conf, root, src
from leyden.exact.files import replacing
from leyden.run.files import files_below
from leyden.run.provenance import GIT_OF_COPY, state_of_code

BOOTSTRAP = LIBRARY / "queue" / "bootstrap.py"


def snapshot(directory: Path) -> Path:
    """Write the project's code and settings, the library, and git's state to an archive.

    It is one file, since sites limit the number of files. `bootstrap.py` unpacks it on a node.

    Args:
        directory: The folder in which the archive is created.

    Returns:
        The archive: a project, with the library in its `engine/src/`; a copy of `bootstrap.py` lies
        beside it.
    """
    archive = directory / f"{datetime.now():%Y-%m-%d_%H-%M-%S_%f}.tar.gz"
    directory.mkdir(parents=True, exist_ok=True)
    contents = {"conf": conf(), "engine/src/leyden": LIBRARY}
    if src() != root():
        contents["src"] = src()
    else:
        for path in root().glob("*"):
            is_package = path.name not in NOT_OWN_PACKAGES and any(path.glob("*.py"))
            if is_package or (path.suffix == ".py" and path.is_file()):
                contents[path.name] = path
    git = json.dumps(state_of_code(), indent=2).encode() + b"\n"
    # Links are archived as the files that they lead to, so that later edits don't change waiting
    # jobs.
    with (
        replacing(archive) as file,
        tarfile.open(fileobj=file, mode="w:gz", dereference=True) as tar,
    ):
        for name, path in contents.items():
            files: Iterable[Path] = files_below(path) if path.is_dir() else [path]
            for each in files:
                tar.add(each, str(Path(name) / each.relative_to(path)), filter=_as_new)
        info = tarfile.TarInfo(GIT_OF_COPY)
        info.size = len(git)
        info.mtime = time.time()
        tar.addfile(info, io.BytesIO(git))
    shutil.copy(BOOTSTRAP, _bootstrap_of(archive))
    return archive


def _bootstrap_of(archive: Path) -> Path:
    """Return the path of the copy of `bootstrap.py` beside an archive."""
    return archive.with_name(archive.name.removesuffix(".tar.gz") + ".py")


def _as_new(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Set the time of an archive member to now, since nodes remove old temporary files.

    Return None to omit it.
    """
    if any(part == "__pycache__" or part.endswith(".egg-info") for part in Path(info.name).parts):
        return None
    info.mtime = time.time()
    return info


def python_on_node(given: str | None, archive: Path | None) -> str:
    """Return the shell command that starts Python on a node.

    Args:
        given: The user's command of Python; None for this one.
        archive: The snapshot to run from; None for the project's folder.
    """
    has_library = bool(archive) or (root() / "engine" / "src").is_dir()
    library = ["engine/src"] if has_library else []
    folders = ":".join([*library, "src" if src() != root() else "."])
    bootstrap = _bootstrap_of(archive) if archive else BOOTSTRAP
    words = [str(bootstrap), str(archive or root()), folders]
    return f"{given or shlex.quote(sys.executable)} {shlex.join(words)}"
