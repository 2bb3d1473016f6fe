"""Files that the library writes into a project: new parts, and the `conf/train.yaml` that makes a folder a project.

Their texts are in `templates/`.
"""

import ast
import contextlib
import keyword
import os
import re
import shlex
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template

from leyden.config.errors import UserError
from leyden.config.paths import NOT_OWN, ROOT, SRC, own_packages, source_folder
from leyden.config.terminal import leyden_command, warn

TEMPLATES = Path(__file__).with_name("templates")
# The files of each kind of part, with their templates; `folder` is that of the project's package.
PARTS = {
    "model": {
        "{folder}/models/{module}.py": "network.py.txt",
        "conf/model/{module}.yaml": "network.yaml",
        "conf/sweep/{module}.yaml": "search.yaml",
    },
    "task": {"{folder}/tasks/{module}.py": "task.py.txt", "conf/task/{module}.yaml": "task.yaml"},
    "data": {"{folder}/data/{module}.py": "dataset.py.txt", "conf/data/{module}.yaml": "dataset.yaml"},
}
# Names that Hydra on the command line, or YAML in a defaults list, reads as another value.
VALUES = ("null", "true", "false", "nan", "inf", "on", "off", "yes", "no")
BASES = {"task": "LightningModule", "data": "LightningDataModule"}
MAX_CHARS = 150  # of a call


def write_part(kind: str, module: str) -> None:
    """Write the files of a new part and print the next steps.

    Args:
        kind: `model`, `task` or `data`.
        module: Name of the new module.

    Raises:
        UserError: The name can't be used, or one of the files exists.
    """
    packages = own_packages("models") or own_packages()
    if not packages:
        raise UserError(f"{SRC}: has no package, a folder with __init__.py, in which the file could be written")
    words = module.strip("_").split("_")
    name = "".join(map(str.capitalize, words))
    names = {"own": packages[0], "module": module, "name": name, "title": " ".join(words).capitalize()}
    if not re.fullmatch(r"[a-z][a-z0-9_]*", module) or keyword.iskeyword(module):
        raise UserError(f"{kind}={module}: must be the name of a Python module (a-z, 0-9 and _), such as capsule")
    if module in VALUES or keyword.iskeyword(name):
        raise UserError(f"{kind}={module}: is read as a value, not as a name; choose another name")
    folder = (SRC / packages[0]).relative_to(ROOT).as_posix()
    files = {
        ROOT / path.format(folder=folder, module=module): _filled(template, names)
        for path, template in PARTS[kind].items()
    }
    for path, text in files.items():
        if path.suffix == ".py" and (used := {name, module} & _used_names(text)):
            raise UserError(f"{kind}={module}: the file uses the name {min(used)} itself; choose another name")
        if os.path.lexists(path):
            raise UserError(f"{kind}={module}: {path.relative_to(ROOT)} exists; choose another name")
        _refuse_links(path, ROOT)
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".py" and not os.path.lexists(package := path.with_name("__init__.py")):
            package.touch()
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT).as_posix())
    more = " objective.metric=val/acc objective.mode=max" if kind == "task" else ""
    print(f"next steps:\n  {leyden_command('train')} {kind}={module}{more}")
    if (ROOT / "Makefile").exists():
        print(f"  make test ARGS={shlex.quote(f'-k {module}')}")


def _filled(template: str, names: Mapping[str, str]) -> str:
    return Template((TEMPLATES / template).read_text(encoding="utf-8")).substitute(names)


def _used_names(text: str) -> set[str]:
    """Return the names that the code of a module uses: what it imports, from where, and all other names."""
    used = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [name for alias in node.names for name in (alias.name, alias.asname)]
            used |= {name.partition(".")[0] for name in (*names, getattr(node, "module", None)) if name}
        elif isinstance(node, ast.Name):
            used.add(node.id)
    return used


def _refuse_links(path: Path, project: Path) -> None:
    """Check that a project's file can be written in its folder, and not elsewhere through a link.

    Raises:
        UserError: A folder above it, below the project, is a link or no folder.
    """
    for folder in path.parents:
        if folder == project:
            return
        if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
            raise UserError(f"{folder}: must be a folder, and no link; move away what has this name")


def write_train_config(project: Path, task: str, data: str) -> None:
    """Write `conf/train.yaml`.

    Args:
        project: The project's folder.
        task: Dotted name of the LightningModule.
        data: Dotted name of the LightningDataModule; `module` if the LightningModule has its own data loaders.

    Raises:
        UserError: There is something else of this name.
    """
    text = _filled("train.yaml", {"task": task, "data_choice": "module" if data == "module" else "own"})
    if data != "module":
        text += f"data:  # keyword arguments of the LightningDataModule\n  _target_: {data}\n"
    path = project / "conf" / "train.yaml"
    _refuse_links(path, project)
    if os.path.lexists(path):
        raise UserError(f"{path}: must be a file; move away what has this name")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def choose_classes(project: Path, task: str, data: str) -> tuple[str, str]:
    """Return the names of the LightningModule and the data; those not given are searched in a project's Python files.

    The files are read, and not imported: one can be a script that trains. A class is found by its base, which is
    Lightning's or another class that was found. Trainers that the files create are reported, since their arguments are not
    taken over.

    Args:
        project: The folder that is searched.
        task: Dotted name of the LightningModule; empty: the only one.
        data: As `task`; `module` if the LightningModule has its own data loaders, as it must without a data module.

    Raises:
        UserError: There is none, or there are several.
    """
    trees = dict(_parse_files(project))
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _last_name(node.func) in ("Trainer", "LightningCLI"):
                shown = textwrap.shorten(ast.unparse(node), MAX_CHARS, placeholder=" ...")
                where = f"{name.replace('.', '/')}.py:{node.lineno}"
                warn(f"{where}: not taken over: {shown}; set trainer.KEY, callbacks and logger in conf/")
    if task and data:
        return task, data
    found = {kind: _find_classes(trees, base) for kind, base in BASES.items()}
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


def _find_classes(trees: Mapping[str, ast.Module], base: str) -> dict[str, set[str]]:
    """Return the names that each class of some modules defines and inherits, by the class's dotted name.

    Args:
        trees: The modules, by dotted name.
        base: Name of the class that they inherit from, in one step or several; abstract and generic ones are left out.
    """
    classes: dict[str, tuple[ast.ClassDef, list[str]]] = {}
    for module, tree in trees.items():
        found, aliases = _classes_and_aliases(tree)
        aliases |= {node.name: f"{module}.{node.name}" for node in found}
        for node in found:
            bases = [_last_name(each) for each in node.bases]
            classes[f"{module}.{node.name}"] = node, [aliases.get(each, each) for each in bases]
    names_of = {base: set[str]()}  # by the name of a class, with its module or without
    num_before = 0
    while len(names_of) > num_before:  # a base can be found after the class that inherits from it
        num_before = len(names_of)
        for name, (node, bases) in classes.items():
            if inherited := [names_of[each] for each in bases if each in names_of]:
                own = {getattr(each, "name", "") for each in node.body}
                names_of[name] = names_of[node.name] = own.union(*inherited)
    return {name: names_of[name] for name in sorted(classes) if name in names_of and not _is_base(classes[name][0])}


def _classes_and_aliases(tree: ast.Module) -> tuple[list[ast.ClassDef], dict[str, str]]:
    """Return the classes of a module that are in no other class or function, and what it imports under another name."""
    classes: list[ast.ClassDef] = []
    aliases: dict[str, str] = {}
    pending: list[ast.AST] = [*tree.body]
    while pending:  # a chain of a thousand `elif` is nested as deep
        node = pending.pop(0)
        if isinstance(node, ast.ClassDef):
            classes.append(node)
        elif isinstance(node, ast.ImportFrom):
            aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending += [each for each in ast.iter_child_nodes(node) if not isinstance(each, ast.expr)]
    return classes, aliases


def _parse_files(project: Path) -> Iterator[tuple[str, ast.Module]]:
    """Yield a project's Python files that can be imported, as dotted names with their syntax trees."""
    root = source_folder(project)
    for folder, paths in ((root, root.rglob("*.py")), (project, project.glob("*.py"))):
        for path in sorted(paths):
            parts = path.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            is_own = parts and not (parts[1:] and parts[0] in NOT_OWN) and all(map(str.isidentifier, parts))
            with contextlib.suppress(OSError, SyntaxError, ValueError, RecursionError, MemoryError):
                if is_own and path.is_file():
                    yield ".".join(parts), ast.parse(path.read_text(encoding="utf-8-sig"))


def _is_base(node: ast.ClassDef) -> bool:
    """Return whether a class is made to be inherited from: it defines an abstract method, or is generic."""
    decorators = [each for part in node.body for each in getattr(part, "decorator_list", ())]
    is_generic = "Generic" in map(_last_name, node.bases) or bool(getattr(node, "type_params", ()))
    return is_generic or "abstractmethod" in map(_last_name, decorators)


def _last_name(node: ast.expr) -> str:
    node = node.value if isinstance(node, ast.Subscript) else node  # as Base[int]
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
