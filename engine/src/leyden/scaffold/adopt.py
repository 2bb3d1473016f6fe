"""The `conf/train.yaml` that makes an existing code base a project."""

import ast
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from leyden.config.errors import UserError
from leyden.config.paths import NOT_OWN, source_folder
from leyden.config.terminal import one_line, warn

CONFIG = """\
# A training run: the choice for each group, and what this project changes. leyden train --help lists the choices.
defaults:
  - run_defaults
  - data: {data_choice}
  - model: none  # the LightningModule creates its network
  - task: own
  - optimizer: adam  # ignored if the LightningModule creates its optimizer
  - scheduler: none
  - trainer: auto
  - callbacks: default
  - logger: default
  - cluster: local
  - _self_
  - experiment: null
  - sweep: given

objective: null  # {{metric: val_loss, mode: min}} selects the best epoch by a logged metric; null: keep the last epoch
task:  # keyword arguments of the LightningModule can be set here
  _target_: {task}
"""
DATA = """\
data:  # keyword arguments of the LightningDataModule
  _target_: {data}
"""
BASES = {"task": "LightningModule", "data": "LightningDataModule"}
MAX_CHARS = 150  # of a call


def write_train_config(folder: Path, task: str, data: str) -> None:
    """Write `conf/train.yaml`.

    Args:
        folder: The project's folder.
        task: Dotted name of the LightningModule.
        data: Dotted name of the LightningDataModule; `module` if the LightningModule has its own data loaders.
    """
    text = CONFIG.format(task=task, data_choice="module" if data == "module" else "own")
    text += "" if data == "module" else DATA.format(data=data)
    path = folder / "conf" / "train.yaml"
    for taken, kind in ((path.parent, "a folder"), (path, "a file")):
        if os.path.lexists(taken) and not (kind == "a folder" and taken.is_dir()):
            raise UserError(f"{taken}: must be {kind}; move away what has this name")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def choose_classes(folder: Path, task: str, data: str) -> tuple[str, str]:
    """Return the names of the LightningModule and the data; those not given are searched in the Python files of a folder.

    The files are read, and not imported: one can be a script that trains. A class is found by its base, which is
    Lightning's or another class that was found. Trainers that the files create are reported, since their arguments are not
    taken over.

    Args:
        folder: The folder that is searched.
        task: Dotted name of the LightningModule; empty: the only one.
        data: As `task`; `module` if the LightningModule has its own data loaders, as it must without a data module.

    Raises:
        UserError: There is none, or there are several.
    """
    trees = dict(_parse_files(folder))
    for name, tree in trees.items():
        for call in _trainers(tree):
            shown = one_line(ast.unparse(call))
            shown = shown if len(shown) <= MAX_CHARS else f"{shown[:MAX_CHARS]}..."
            warn(
                f"{name.replace('.', '/')}.py:{call.lineno}: not taken over: {shown}; set trainer.KEY, callbacks and logger in conf/"
            )
    if task and data:
        return task, data
    found = {kind: find_classes(trees, base) for kind, base in BASES.items()}
    if not task and len(found["task"]) != 1:
        raise UserError(f"task=...: name the {BASES['task']}; found {', '.join(found['task']) or 'none'}")
    task = task or next(iter(found["task"]))
    if not data and len(found["data"]) > 1:
        raise UserError(f"data=...: name the {BASES['data']}; found {', '.join(found['data'])}")
    if not data and not found["data"] and "train_dataloader" not in found["task"].get(task, ["train_dataloader"]):
        raise UserError(
            f"data=...: {task} has no train_dataloader, and no {BASES['data']} was found; write one of the two"
        )
    return task, data or next(iter(found["data"]), "module")


def find_classes(trees: Mapping[str, ast.Module], base: str) -> dict[str, set[str]]:
    """Return the names that each class of some modules defines and inherits, by the class's dotted name.

    Args:
        trees: The modules, by dotted name.
        base: Name of the class that they inherit from, in one step or several; abstract ones are left out.
    """
    found: dict[str, set[str]] = {}
    names_of = {base: set[str]()}  # by the name of a class, with its module or without
    num_before = 0
    while len(names_of) > num_before:  # a base can be found after the class that inherits from it
        num_before = len(names_of)
        for module, tree in trees.items():
            classes = {node.name: node for node in _top_level(tree) if isinstance(node, ast.ClassDef)}
            aliases = {name: f"{module}.{name}" for name in classes} | _aliases(tree)
            for name, node in classes.items():
                bases = (aliases.get(each, each) for each in map(_last_name, node.bases))
                if known := [names_of[each] for each in bases if each in names_of]:
                    names = {getattr(each, "name", "") for each in node.body}.union(*known)
                    names_of[name] = names_of[f"{module}.{name}"] = names
                    if not _is_abstract(node):
                        found[f"{module}.{name}"] = names
    return found


def _aliases(tree: ast.Module) -> dict[str, str]:
    """Return the names of what a module imports under another name."""
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return {alias.asname: alias.name for node in imports for alias in node.names if alias.asname}


def _parse_files(folder: Path) -> Iterator[tuple[str, ast.Module]]:
    """Yield the Python files that can be imported, as dotted names with their syntax trees."""
    root = source_folder(folder)
    paths = [(path, root) for path in sorted(root.rglob("*.py"))]
    paths += [(path, folder) for path in sorted(folder.glob("*.py")) if root != folder]
    for path, at in paths:
        parts = path.relative_to(at).with_suffix("").parts
        if (
            (parts[1:] and parts[0] in NOT_OWN)
            or not all(part.isidentifier() for part in parts)
            or not path.is_file()
        ):
            continue
        try:
            yield ".".join(parts), ast.parse(path.read_text(encoding="utf-8-sig"))
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            continue


def _top_level(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements of a module that are not within a class or a function."""
    pending = [node]
    while pending:  # a chain of a thousand `elif` is nested as deep
        found = [*ast.iter_child_nodes(pending.pop(0))]
        yield from found
        pending += [
            each
            for each in found
            if not isinstance(each, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.expr)
        ]


def _is_abstract(node: ast.ClassDef) -> bool:
    """Return whether a class defines an abstract method."""
    decorators = [each for part in node.body for each in getattr(part, "decorator_list", ())]
    return "abstractmethod" in map(_last_name, decorators)


def _trainers(tree: ast.Module) -> Iterator[ast.Call]:
    """Yield the calls that create a Trainer of Lightning."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _last_name(node.func) in ("Trainer", "LightningCLI"):
            yield node


def _last_name(node: ast.expr) -> str:
    node = node.value if isinstance(node, ast.Subscript) else node  # as Base[int]
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
