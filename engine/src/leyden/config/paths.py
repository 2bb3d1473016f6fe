"""Folders of a project by their names of before, which files of projects import.

`leyden.base.paths` has them.
"""

from pathlib import Path

from leyden.base.paths import conf, root, src


def __getattr__(name: str) -> Path:
    """Return a folder by its name of before."""
    if name not in ("ROOT", "SRC", "CONF"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    functions = {
        "ROOT": root,
        "SRC": src,
        "CONF": conf,
    }
    return functions[name]()
