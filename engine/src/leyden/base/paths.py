"""The project that a command is started in, and the library's own folder."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[1]
# Environment variable: the project's folder, for processes started elsewhere.
PROJECT = "LEYDEN_PROJECT"
# Packages beside `conf/` that are not the project's own code.
NOT_OWN_PACKAGES = (
    "leyden",
    "hydra_plugins",
    "engine",
    "tests",
    "conf",
    "docs",
    "scripts",
    "outputs",
    "data",
    "build",
    "dist",
)


def find_project(start: Path) -> Path | None:
    """Return the first folder with a `conf/train.yaml`, from `start` upwards.

    It is None if there is none.

    A directory of a run or a sweep is no project, since it may be a stranger's, and a project's
    code is executed.
    """
    for folder in (start, *start.parents):
        files = [folder / "run.json", folder / "sweep.json"]
        is_record = any(path.exists() for path in files)
        settings = folder / "conf" / "train.yaml"
        if settings.is_file() and not is_record:
            return folder
    return None


def source_folder(project: Path) -> Path:
    """Return the folder with a project's packages: `src/`, or the project itself."""
    packages = project.glob("src/*/__init__.py")
    return project / "src" if any(packages) else project


_found: Path | None = None


def project() -> Path | None:
    """Return the project's folder, searched when first asked for; None outside of projects.

    Once found it stays, wherever the process goes; until then each call searches.
    """
    global _found
    if _found is None and PROJECT in os.environ:
        given = Path(os.environ[PROJECT])
        _found = given.absolute()
    if _found is None:
        _found = find_project(Path.cwd())
    return _found


def root() -> Path:
    """Return the project's folder; outside of projects, as in a notebook, the working directory."""
    return project() or Path.cwd()


def src() -> Path:
    """Return the folder with the project's packages."""
    return source_folder(root())


def conf() -> Path:
    """Return the folder with the project's config files."""
    return root() / "conf"


def add_to_path() -> None:
    """Make the project's packages importable without installation, as `python -m` does."""
    if project() is None:
        return
    for folder in (str(root()), str(src())):
        if folder not in sys.path:
            sys.path.insert(0, folder)


def prepare_process() -> None:
    """Prepare the process of a command, before PyTorch is imported.

    It sets the project's packages, OpenMP's threads, and memory.

    Threads spin while they wait for each other, and can take a core that another process needs.
    With GNU OpenMP's default of 300,000 spins, a run beside one other process took 2.6 times as
    long as with 30,000; on a quiet machine there was no difference (docs/speed.md). The variable is
    read when PyTorch loads OpenMP.

    PyTorch asks Linux for pages of 2 MB for tensors that large (PyTorch #93888): a new batch of 64
    images of 3 x 224 x 224 took 8 ms in place of 25, most of which were faults of 4 kB pages.
    Results depend on neither variable.
    """
    add_to_path()
    if "GOMP_SPINCOUNT" not in os.environ and "OMP_WAIT_POLICY" not in os.environ:
        os.environ["GOMP_SPINCOUNT"] = "30000"
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def code_folders(project: Path) -> list[Path]:
    """Return the folders from which a project's packages, and a library in it, are imported.

    Args:
        project: A project, or another checkout of it.
    """
    folders = [project / "engine" / "src", source_folder(project)]
    return [folder for folder in folders if folder.is_dir()]


def environment_of(project: Path) -> dict[str, str]:
    """Return the environment with which a process runs the code and settings of a project.

    Args:
        project: A project, or a copy or another checkout of it.
    """
    folders = [str(folder) for folder in code_folders(project)]
    if given := os.environ.get("PYTHONPATH"):
        folders.append(given)
    return {PROJECT: str(project), "PYTHONPATH": os.pathsep.join(folders)}


def conf_files(pattern: str = "**/*.yaml") -> Iterator[tuple[Path, Path]]:
    """Yield the config files that Hydra can find, as (path relative to `conf/`, path).

    First those of the project, then those of the library that the project has no file of the same
    name for.

    Args:
        pattern: Glob pattern relative to `conf/`.
    """
    found = set()
    for folder in (conf(), LIBRARY / "conf"):
        for path in sorted(folder.glob(pattern)):
            name = path.relative_to(folder)
            if name not in found:
                found.add(name)
                yield name, path


def choices(group: str) -> tuple[list[str], list[str]]:
    """Return the choices of a config group.

    They are those of the project's `conf/`, then those of the library alone.
    """
    own: list[str] = []
    library: list[str] = []
    for _, path in conf_files(f"{group}/*.yaml"):
        names = library if path.is_relative_to(LIBRARY) else own
        names.append(path.stem)
    return own, library


def own_packages(folder: str = "") -> list[str]:
    """Return the names of the project's own packages.

    Args:
        folder: If given, only packages that have a folder of this name.
    """
    found = []
    files = src().glob("*/__init__.py")
    for path in sorted(files):
        package = path.parent
        if package.name not in NOT_OWN_PACKAGES and (package / folder).is_dir():
            found.append(package.name)
    return found
