"""Where things are, whatever folder a command is started in."""

import functools
import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]  # of the project
SRC = ROOT / "src"
CONF = ROOT / "conf"
ENGINE = ("leyden", "hydra_plugins")


def own_packages(folder: str = "") -> list[str]:
    """The packages beside the engine: those that the project's owner writes.

    Args:
        folder: Only those that have a folder of this name.
    """
    packages = sorted(path.parent for path in SRC.glob("*/__init__.py") if path.parent.name not in ENGINE)
    return [package.name for package in packages if (package / folder).is_dir()]


def own_folders(folder: str) -> tuple[str, ...]:
    """The folders of this name in those packages, as Python names them."""
    return tuple(f"{package}.{folder}" for package in own_packages(folder))


@functools.cache  # of thousands of runs most have the same
def in_own_package(target: str) -> str:
    """Return a target by the name of today, where its package is gone and one beside the engine has such a module.

    Args:
        target: What a configuration names, as `mine.models.mlp.MLP`.
    """
    package, _, rest = target.partition(".")
    if not package.isidentifier() or package in sys.modules or importlib.util.find_spec(package):
        return target
    module = rest.rpartition(".")[0].replace(".", "/")
    return next((f"{own}.{rest}" for own in own_packages() if (SRC / own / f"{module}.py").exists()), target)
