"""Where things are, whatever folder a command is started in."""

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
