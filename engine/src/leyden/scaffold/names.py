"""Names of the library: those of earlier versions, and what stands in their place.

A name is public if it stands in the `__all__` of a package. Modules are read, never imported, so
that names can be looked up where PyTorch is not installed.
"""

import ast
import functools
from fnmatch import fnmatchcase
from pathlib import Path

from leyden.base.doors import MOVED
from leyden.base.paths import LIBRARY

# Names of before that another package has now.
ELSEWHERE = {"leyden.config.console.Terminal": "rich.console.Console"}  # until 0.2
# Verbs, files and settings that went, and what to do; a key is found wherever its pattern is.
GONE_VERBS = {"schema": "editors have no schemas any more"}  # until 0.2
GONE_FILES = {  # until 0.2
    "conf/evaluate.yaml": "has no effect: leyden evaluate takes its own options",
    "conf/export.yaml": "has no effect: leyden export takes its own options",
    "conf/predict.yaml": "has no effect: leyden predict takes its own options",
    "*/trust.yaml": "has no effect: trust=true uses another's run",
}
GONE_KEYS = {  # until 0.2
    "callbacks.*.update_starting_at_step": "the average begins at the first step",
    "callbacks.checkpoint.max_kept_gib": "has no limit any more",
    "cluster.gpu_option": "sbatch's options are keys of cluster, as gpus_per_node",
    "cluster.jobs_per_node": "each job has its own resources",
    "cluster.num_trials_at_once": "cluster.num_jobs is for searches, too",
    "cluster.stage": "data are read from where they are",
    "cluster.use_srun": "srun is used where a job has several processes",
    "hydra.launcher.num_jobs": "is cluster.num_jobs now",
    "hydra.sweeper.exclude": "type a sweep for each part of the grid",
    "hydra.sweeper.union": "type a sweep for each part of the grid",
    "hydra.sweeper.when": "type a search for each choice",
    "sweep.fail_fast": "the other jobs are trained",
}


def successor(name: str) -> str | None:
    """Return the public name in place of a dotted name of the library.

    None if it is public, or none is known.

    Each public name was called the same in the modules of its package, so that these need no entry
    in `MOVED`.

    Example:
        >>> successor("leyden.data.facts.Facts")
        'leyden.data.Facts'
    """
    if name in MOVED or name in ELSEWHERE:
        return MOVED.get(name) or ELSEWHERE[name]
    parts = name.split(".")
    if len(parts) < 4 or parts[0] != "leyden":
        return None
    package = ".".join(parts[:2])
    is_public = parts[-1] in public_names(package)
    if is_public:
        return f"{package}.{parts[-1]}"
    return None


def exists(name: str) -> bool:
    """Return whether a dotted name of the library is a module, or a name in one."""
    module = _module(name)
    if module is not None:
        return True
    package, _, last = name.rpartition(".")
    module = _module(package)
    return module is not None and last in _names_in(module)


def is_gone(name: str) -> bool:
    """Return whether a text is a dotted name that the library has no longer."""
    package = ".".join(name.split(".")[:2])
    return exists(package) and not exists(name)


def remedy(name: str) -> str:
    """Return what to use in place of a name that is gone."""
    package = ".".join(name.split(".")[:2])
    names = public_names(package)
    if names:
        return f"is gone; {package} has {', '.join(sorted(names))}"
    return "is gone; docs/versions.md lists the packages with public names"


def gone_key(path: str) -> str | None:
    """Return what to do about a setting that went; None for any other.

    Args:
        path: The key with those above it, such as `sweep.fail_fast`.
    """
    for pattern, text in GONE_KEYS.items():
        if fnmatchcase(path.removeprefix("hydra.sweeper.params."), pattern):
            return text
    return None


def public_names(package: str) -> frozenset[str]:
    """Return the names in the `__all__` of a package; empty if it has none."""
    module = _module(package)
    if module is None:
        return frozenset()
    found: list[str] = []
    for node in _statements(module):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            found = ast.literal_eval(node.value)
    return frozenset(found)


def _module(name: str) -> Path | None:
    """Return the file of a module of the library; None if there is none."""
    package, *parts = name.split(".")
    if package != "leyden":
        return None
    path = LIBRARY.joinpath(*parts)
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            return file
    return None


@functools.cache
def _statements(module: Path) -> list[ast.stmt]:
    return ast.parse(module.read_text(encoding="utf-8")).body


@functools.cache
def _names_in(module: Path) -> frozenset[str]:
    """Return the names that a module defines, imports or returns by its `__getattr__`."""
    found: set[str] = set()
    for statement in _statements(module):
        for node in ast.walk(statement):
            if isinstance(node, ast.alias):
                found.add(node.asname or node.name)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)  # as lazily(…) has it
    return frozenset(found)
