"""Doors: public names that are imported when they are first used."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from leyden.base.extras import missing_package, not_installed


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's `__getattr__`, which imports a public name when it is first used.

    An `ImportError` of that function's names the command that installs what is missing.

    Args:
        package: Name of the package.
        homes: Full name of the module that has it, by public name.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - what Python calls
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return _imported(homes[name], name, f"{package}.{name}")

    return __getattr__


def _imported(module: str, name: str, public: str) -> Any:
    """Return a name of a module; `public` is the whole name that a user knows.

    Raises:
        ImportError: A package is not installed; the message names the extra that brings it.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        missing = missing_package(error)
        if missing:
            raise ImportError(f"{public}: {not_installed(missing)}") from error
        raise
