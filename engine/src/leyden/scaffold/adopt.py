"""The `conf/train.yaml` that makes an existing code base a project."""

import ast
from collections.abc import Iterator
from pathlib import Path

from leyden.config.errors import UserError
from leyden.config.paths import NOT_OWN, source_folder

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
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def only_class(folder: Path, key: str) -> str:
    """Return the only class of a kind in the Python files of a folder.

    Args:
        folder: The folder that is searched.
        key: `task` or `data`; without a LightningDataModule, the data are those of the LightningModule.

    Raises:
        UserError: There is none, or there are several.
    """
    found = list(_classes(folder, BASES[key]))
    if len(found) == 1:
        return found[0]
    if not found and key == "data":
        return "module"
    raise UserError(f"{key}=...: name the {BASES[key]}; found {', '.join(found) or 'none'}")


def _classes(folder: Path, base: str) -> Iterator[str]:
    """Yield the dotted names of the classes that derive from a Lightning class directly, without importing them."""
    root = source_folder(folder)
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] in NOT_OWN or not all(part.isidentifier() for part in parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and base in map(_last_name, node.bases):
                yield ".".join([*parts, node.name])


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
