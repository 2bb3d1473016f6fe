"""The `conf/train.yaml` that makes an existing code base a project."""

import ast
import os
from collections.abc import Iterator
from pathlib import Path

from leyden.config.errors import UserError
from leyden.config.paths import NOT_OWN, source_folder
from leyden.config.terminal import one_line, warn
from leyden.scaffold.imported import Found, import_classes

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
MAX_NAMED = 3  # files of a message
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

    Classes are imported, in another process. What can't be is reported; there, only a class that names Lightning's as
    its base is found. Trainers that the files create are reported, since their arguments are not taken over.

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
    found = _find_classes(folder, trees)
    names = {kind: [each.name for each in found if each.kind == kind] for kind in BASES}
    if not task and len(names["task"]) != 1:
        raise UserError(f"task=...: name the {BASES['task']}; found {', '.join(names['task']) or 'none'}")
    task = task or names["task"][0]
    if not data and len(names["data"]) > 1:
        raise UserError(f"data=...: name the {BASES['data']}; found {', '.join(names['data'])}")
    if not data and not names["data"] and Found(task, "task", False) in found:
        raise UserError(
            f"data=...: {task} has no train_dataloader, and no {BASES['data']} was found; write one of the two"
        )
    return task, data or (names["data"] or ["module"])[0]


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


def _find_classes(folder: Path, trees: dict[str, ast.Module]) -> list[Found]:
    """Return the Lightning classes of the modules that define classes with a base."""
    classes = {
        name: [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.bases]
        for name, tree in trees.items()
    }
    found, errors = import_classes(
        [name for name, nodes in classes.items() if nodes], [source_folder(folder), folder]
    )
    if errors:
        shown = "; ".join(f"{name}: {why}" for name, why in [*errors.items()][:MAX_NAMED])
        more = f"; and {len(errors) - MAX_NAMED} more" if len(errors) > MAX_NAMED else ""
        warn(f"not imported, so that classes may be missed: {shown}{more}")
    for name in errors:
        for node in classes[name]:
            for kind, base in BASES.items():
                if base in map(_last_name, node.bases):
                    found.append(Found(f"{name}.{node.name}", kind, None))
    return found


def _trainers(tree: ast.Module) -> Iterator[ast.Call]:
    """Yield the calls that create a Trainer of Lightning."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _last_name(node.func) in ("Trainer", "LightningCLI"):
            yield node


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
