"""Files that the library writes into a project: new parts, and its `conf/train.yaml`.

Their texts are in `templates/`.
"""

import keyword
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from string import Template

from leyden.base.errors import UserError
from leyden.base.paths import own_packages, root, src
from leyden.base.terminal import leyden_command

NO_TEXTS = ("false", "inf", "nan", "no", "null", "off", "on", "true", "yes")  # for YAML or Hydra
TEMPLATES = Path(__file__).with_name("templates")
# The files of each kind of part, with their templates; `folder` is that of the project's package.
PART_FILES = {
    "model": {
        "{folder}/models/{module}.py": "network.py.txt",
        "conf/model/{module}.yaml": "network.yaml",
        "conf/sweep/{module}.yaml": "search.yaml",
    },
    "task": {
        "{folder}/tasks/{module}.py": "{base}.py.txt",
        "conf/task/{module}.yaml": "{base}.yaml",
    },
    "data": {
        "{folder}/data/{module}.py": "dataset.py.txt",
        "conf/data/{module}.yaml": "dataset.yaml",
    },
}

# What is typed to train each task that a new one can begin as; a word in capitals stands for the
# reader's.
TASKS = {
    "classification": ["task={module}"],
    "regression": ["task={module} data=DATA"],
    "forecast": ["experiment={module}"],
    "contrastive": [
        "task={module} model=cnn model.dropout=0 optimizer=adam test=false "
        "run_dir=outputs/{module}/features",
        "experiment={module}_probe init_from=outputs/{module}/features",
    ],
    "autoencoder": ["task={module} model=MODEL"],
    "language": ["task={module} data=DATA model=MODEL"],
}
# Files that one needs besides.
BESIDE = {
    "forecast": {
        "{folder}/data/{module}.py": "series.py.txt",
        "conf/data/{module}.yaml": "series.yaml",
        "conf/experiment/{module}.yaml": "forecast_recipe.yaml",
    },
    "contrastive": {"conf/experiment/{module}_probe.yaml": "probe.yaml"},
}


def write_part(kind: str, module: str, base: str = "classification") -> None:
    """Write the files of a new part and print the next steps.

    Args:
        kind: `model`, `task` or `data`.
        module: Name of the new module.
        base: The task of `TASKS` that a new one begins as.

    Raises:
        UserError: The name can't be used, or one of the files exists.
    """
    packages = own_packages("models") or own_packages()
    if not packages:
        raise UserError(
            f"{src()}: has no package, a folder with __init__.py, in which the file could be "
            "written"
        )
    words = module.strip("_").split("_")
    name = "".join(map(str.capitalize, words))
    names = {
        "own": packages[0],
        "module": module,
        "name": name,
        "title": " ".join(words).capitalize(),
    }
    is_taken = any(each in (*keyword.kwlist, *NO_TEXTS) for each in (module, name))
    if is_taken or not re.fullmatch(r"[a-z][a-z0-9_]*", module):
        raise UserError(
            f"{kind}={module}: must be the name of a Python module (a-z, 0-9 and _), "
            "such as capsule"
        )
    folder = (src() / packages[0]).relative_to(root()).as_posix()
    typed = [f"{kind}={module}"]
    templates = {**PART_FILES[kind]}
    if kind == "task":
        typed = [each.format(module=module) for each in TASKS[base]]
        templates |= BESIDE.get(base, {})
    files = {}
    for place, template in templates.items():
        path = root() / place.format(folder=folder, module=module)
        files[path] = _filled(template.format(base=base), names)
        if os.path.lexists(path):
            raise UserError(
                f"{kind}={module}: {path.relative_to(root())} exists; choose another name"
            )
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        package = path.with_name("__init__.py")
        if path.suffix == ".py" and not os.path.lexists(package):
            package.touch()
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(root()).as_posix())
    print("next steps:")
    for each in typed:
        print(f"  {leyden_command('train')} {each}")
    if (root() / "Makefile").exists():
        print(f"  make test ARGS={shlex.quote(f'-k {module}')}")


def _filled(template: str, names: Mapping[str, str]) -> str:
    return Template((TEMPLATES / template).read_text(encoding="utf-8")).substitute(names)


def write_train_config(project: Path, task: str, data: str) -> None:
    """Write `conf/train.yaml`.

    Args:
        project: The project's folder.
        task: Dotted name of the LightningModule.
        data: Dotted name of the LightningDataModule; `module` if the LightningModule has its own
            data loaders.

    Raises:
        UserError: A name is no dotted name, or there is something else of this file's name.
    """
    has_own_data = data != "module"
    _check_dotted("task", task, "Net")
    if has_own_data:
        _check_dotted("data", data, "Waves")
    choice = "module"
    if has_own_data:
        choice = "own"
    text = _filled("train.yaml", {"task": task, "data_choice": choice})
    if has_own_data:
        text += f"data:  # keyword arguments of the LightningDataModule\n  _target_: {data}\n"
    path = project / "conf" / "train.yaml"
    if os.path.lexists(path):
        raise UserError(f"{path}: must be a file; move away what has this name")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _check_dotted(key: str, name: str, example: str) -> None:
    parts = name.split(".")
    if len(parts) < 2 or not all(map(str.isidentifier, parts)):
        raise UserError(f"{key}={name}: must be a dotted name, such as lab.net.{example}")
