"""The files of one's own code that define a run's classes: those of the project, not of installed packages."""

import ast
import functools
import hashlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from leyden.config.errors import is_library
from leyden.config.paths import LIBRARY
from leyden.config.values import flatten
from leyden.run.identity import identity_values

MAX_FILES = 1000


def code_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of each file of one's own code that a configuration names, or that such a file imports.

    Names are paths such as `project/models/mlp.py`, wherever the package lies: a cluster's jobs run from a copy. What a
    file held when it was first asked for counts, as a process keeps what it has imported.
    """
    values = identity_values(dict(flatten(config))).values()
    waiting = [text for text in values if isinstance(text, str) and re.fullmatch(r"[^\W\d]\w*(\.\w+)+", text)]
    found: dict[str, str] = {}
    while waiting and len(found) < MAX_FILES:
        if (located := _locate(waiting.pop())) and located[0] not in found:
            found[located[0]], imported = _read(*located)
            waiting += imported
    return dict(sorted(found.items()))


def changed_code(recorded: Any) -> list[str]:
    """Return the names of recorded files that hold something else here; files that are not here are left out.

    Args:
        recorded: What `code_of` returned, from an untrusted run directory.
    """
    names = [name for name in recorded if isinstance(name, str)] if isinstance(recorded, dict) else []
    here = {name: _locate(name.removesuffix(".py").replace("/", ".")) for name in names[:MAX_FILES]}
    located = {name: place for name, place in here.items() if place and place[0] == name}
    return [name for name, place in located.items() if _read(*place)[0] != recorded[name]]


@functools.cache
def _folder_of(package: str) -> Path | None:
    """Return the folder that a package or module of one's own lies in; nothing is imported."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # such as `__main__`, of a notebook
        return None
    place = next(iter(spec.submodule_search_locations or ()), spec.origin) if spec else None
    path = Path(place) if place else None
    if path is None or not path.exists() or is_library(str(path)) or path.is_relative_to(LIBRARY):
        return None
    return path.parent


def _locate(name: str) -> tuple[str, Path] | None:
    """Return the file that defines a dotted name, relative to its package's folder and absolute."""
    parts = name.split(".")
    if not (folder := _folder_of(parts[0])):
        return None
    for number in range(len(parts), 0, -1):
        module = "/".join(parts[:number])
        for relative in (f"{module}.py", f"{module}/__init__.py"):
            if (path := folder / relative).is_file():
                return relative, path
    return None


@functools.cache
def _read(name: str, path: Path) -> tuple[str, list[str]]:
    """Return the SHA-256 of a file, and the dotted names that it imports."""
    try:
        content = path.read_bytes().replace(b"\r\n", b"\n")
        return hashlib.sha256(content).hexdigest(), [*_imports(ast.parse(content), name)]
    except (OSError, SyntaxError, ValueError):
        return "", []


def _imports(tree: ast.Module, name: str) -> Iterator[str]:
    package = PurePosixPath(name).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            yield from (".".join([*above, *filter(None, [node.module]), alias.name]) for alias in node.names)
