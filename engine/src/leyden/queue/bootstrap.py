"""Script that starts Python on a node: `bootstrap.py ARCHIVE FOLDERS ARGUMENT... CALL`.

It is run by its path with any Python of the node, before Leyden can be imported, so it imports the
standard library alone.

Args:
    ARCHIVE: Archive with the project, as made by `leyden.queue.snapshot.snapshot`; or a project's
        folder.
    FOLDERS: Folders of the project to import from, separated by colons.
    ARGUMENT: Arguments of Python.
    CALL: The last argument of Python, a file of `leyden.run.process.write_call`.
"""

import hashlib
import json
import os
import signal
import stat
import sys
import tarfile
import tempfile
from pathlib import Path

PROJECT_VARIABLE = "LEYDEN_PROJECT"  # as in `leyden.base.paths`
# Variables of the name of the job's folder on the node, which the job's script removes.
JOB_VARIABLE = "LEYDEN_JOB"
START_VARIABLE = "LEYDEN_RESTARTS"


def extract(archive: Path, folder: Path) -> None:
    """Extract an archive of ours to a folder."""
    with tarfile.open(archive) as opened:
        opened.extraction_filter = getattr(tarfile, "data_filter", None)  # an older Python has none
        opened.extractall(folder)


def unpack(archive: Path) -> Path:
    """Unpack an archive to this node's temporary folder, once for all processes of a job there.

    Return the folder.
    """
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()[:16]
    mine = Path(tempfile.gettempdir()) / f"leyden-{os.getuid()}"
    mine.mkdir(mode=0o700, exist_ok=True)
    if mine.stat().st_uid != os.getuid():  # anybody can make a folder there, with other code in it
        sys.exit(f"leyden: {mine}: belongs to another user; set TMPDIR")
    job = os.environ.get(JOB_VARIABLE, "").replace(":", "_")  # a path of Python has no colon
    of_slurm = os.environ.get("SLURM_RESTART_COUNT", "0")
    start = os.environ.get(START_VARIABLE, of_slurm)
    folder = mine / f"{job}.{start}" / f"code-{digest}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=folder.parent))
    extract(archive, new)
    try:
        new.rename(folder)
    except OSError:  # another process was faster
        return folder if folder.is_dir() else new
    return folder


def open_own(path: str) -> int:
    """Open a file that is executed; end this process if anybody else could have written it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        sys.exit(
            f"leyden: {path}: can't be read ({error.strerror}); the same command submits the job "
            "again"
        )
    found = os.fstat(descriptor)
    is_own = stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid()
    if not is_own or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        sys.exit(
            f"leyden: {path}: must be a file of yours that nobody else may write to, so it is not "
            "executed"
        )
    return descriptor


def main() -> None:
    """Set the environment, and replace this process by Python with the given arguments."""
    # The scheduler's signal to requeue waits until training can handle it; by default it would end
    # the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    source, folders, *arguments, call = sys.argv[1:]
    descriptor = open_own(call)
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        variables = json.loads(file.readline())
    for name, value in variables.items():  # the site, or cluster.setup, may have set it
        os.environ.setdefault(name, value)
    project = Path(source)
    if not project.is_dir():
        project = unpack(project)
    path = [str(project / each) for each in folders.split(":")]
    before = os.environ.get("PYTHONPATH")
    if before:
        path.append(before)
    os.environ["PYTHONPATH"] = os.pathsep.join(path)
    os.environ[PROJECT_VARIABLE] = str(project)
    os.set_inheritable(
        descriptor, True
    )  # whatever has this path by then, it is the file that was checked
    os.execv(sys.executable, [sys.executable, *arguments, f"/dev/fd/{descriptor}"])


if __name__ == "__main__":
    main()
