"""Paths of the project and its packages, independent of the working directory."""

import functools
import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]  # the project's folder
SRC = ROOT / "src"
CONF = ROOT / "conf"
ENGINE = ("leyden", "hydra_plugins")


def own_packages(folder: str = "") -> list[str]:
    """Return the names of the project's own packages: those in `src/` that are not the engine's.

    Args:
        folder: If given, only packages that have a folder of this name.
    """
    packages = sorted(path.parent for path in SRC.glob("*/__init__.py") if path.parent.name not in ENGINE)
    return [package.name for package in packages if (package / folder).is_dir()]


def own_folders(folder: str) -> tuple[str, ...]:
    """Return the dotted names of the folders with this name in the project's own packages."""
    return tuple(f"{package}.{folder}" for package in own_packages(folder))


@functools.cache  # thousands of runs name the same few targets
def current_target(target: str) -> str:
    """Return a `_target_` with the current name of the project's package, in case it was renamed.

    A package counts as renamed if it can't be found and one of the project's own packages has the same module.

    Args:
        target: Dotted name, such as `mine.models.mlp.MLP`.
    """
    package, _, rest = target.partition(".")
    if not package.isidentifier() or package in sys.modules or importlib.util.find_spec(package):
        return target
    module = rest.rpartition(".")[0].replace(".", "/")
    return next((f"{own}.{rest}" for own in own_packages() if (SRC / own / f"{module}.py").exists()), target)
