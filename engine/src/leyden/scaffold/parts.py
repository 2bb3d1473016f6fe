"""New networks, tasks and datasets: templates, and the function that writes them."""

import ast
import keyword
import re
import shlex

import yaml

from leyden.config.errors import UserError
from leyden.config.paths import ROOT, SRC, own_packages
from leyden.config.terminal import leyden_command

NETWORK = '''"""{title}: say here what it is, and its source."""

from torch import Tensor, nn


class {name}(nn.Module):
    """{title}: say here what it does.

    Args:
        input_shape: Shape of one image, (C, H, W): the data's, not in the YAML.
        num_classes: Number of logits: the data's, too.
        hidden_size: Units of the hidden layer. All that is your choice stands in conf/model/{module}.yaml.
    """

    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int, hidden_size: int) -> None:
        super().__init__()
        if type(hidden_size) is not int or hidden_size < 1:
            raise ValueError(f"hidden_size={{hidden_size}}: must be a positive whole number")
        num_channels, height, width = input_shape
        # A network that is not for all shapes says so, too: raise ValueError(f"images of {{input_shape}}: ...").
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(num_channels * height * width, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, num_classes),
        )

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits, shape (N, num_classes), of images, shape (N, C, H, W)."""
        logits_NK: Tensor = self.layers(images_NCHW)
        return logits_NK
'''

CONFIG = """# {title}: leyden train model={module}
_target_: {own}.models.{module}.{name}
hidden_size: 128
"""

SEARCH = """# @package _global_
# {title}: its size and the learning rate; bad trials are stopped early by the median of the others.
#
#   leyden train -m sweep={module} sweep_name=my_search
defaults:
  - /callbacks/pruning: median
  - override /model: {module}
  - override /hydra/sweeper: optuna

hydra:
  sweeper:
    params:
      optimizer.lr: tag(log,interval(0.0001,0.01))
      model.hidden_size: 64,128,256
"""

TASK = '''"""{title}: say here what it is, and its source.

Shapes: N samples of a batch, K classes.
"""

import torch.nn.functional as F
from leyden.tasks.task import Outcome, Task
from torch import Tensor


class {name}(Task):
    """{title}: say here what is learned.

    It logs `train/loss`, `val/loss` and `test/loss`, and the metrics of `task.metrics`. `Task` says what else there is.
    """

    kind = "classes"  # which pictures suit; "" for none

    def step(self, batch: tuple[Tensor, Tensor]) -> Outcome:
        """Return the mean loss of a batch, with its predictions and targets for metrics and pictures."""
        inputs, labels_N = batch
        logits_NK = self(inputs)
        return Outcome(F.cross_entropy(logits_NK, labels_N), logits_NK, labels_N)
'''

TASK_CONFIG = """# @package _global_
# {title}: leyden train task={module}
task:
  _target_: {own}.tasks.{module}.{name}
  metrics: {{}}  # by name: +task/metrics=f1
objective:
  metric: val/loss
  mode: min
"""

DATASET = '''"""{title}: say here what it is, and its source."""

import math
from typing import Any

import torch
from torch.utils.data import Dataset

# By the norm of what lies within them.
SHAPES = {{"diamond": 1.0, "disc": 2.0, "square": math.inf}}


class {name}(Dataset[Any]):
    """{title}: `data`, (4000 or 1000, 32, 32) uint8, and `targets`, int64, the place in `classes` of each.

    It draws shapes, until you put your images in their place: grey ones as here, or of shape (N, H, W, 3). Files belong
    below `root`: fetch them if `download`, and raise RuntimeError("Dataset not found") if they are not there.

    Args:
        root: Folder of the downloads.
        train: Whether it is the training set, else the test set.
        download: Whether to fetch what is missing.
    """

    def __init__(self, *, root: str, train: bool, download: bool) -> None:
        random = torch.Generator().manual_seed(int(train))
        num = 4000 if train else 1000
        points_HW2 = torch.cartesian_prod(torch.arange(32.0), torch.arange(32.0)).reshape(32, 32, 2)
        self.classes = list(SHAPES)
        self.targets = torch.arange(num) % len(SHAPES)
        images = []
        for target in self.targets.tolist():
            center_2 = 8 + 16 * torch.rand(2, generator=random)
            radius = 4 + 4 * torch.rand((), generator=random)
            distances_HW = torch.linalg.vector_norm(points_HW2 - center_2, SHAPES[self.classes[target]], dim=-1)
            images.append(distances_HW < radius)
        self.data = 255 * torch.stack(images).to(torch.uint8)
'''

DATA_CONFIG = """# {title}: leyden train data={module}
defaults:
  - in_memory  # what is not set below

dataset:
  _target_: {own}.data.{module}.{name}
val_size: 500
"""

# The files of each kind; `folder` is that of the project's package.
FILES = {
    "model": {
        "{folder}/models/{module}.py": NETWORK,
        "conf/model/{module}.yaml": CONFIG,
        "conf/sweep/{module}.yaml": SEARCH,
    },
    "task": {
        "{folder}/tasks/{module}.py": TASK,
        "conf/task/{module}.yaml": TASK_CONFIG,
    },
    "data": {
        "{folder}/data/{module}.py": DATASET,
        "conf/data/{module}.yaml": DATA_CONFIG,
    },
}


def write_part(kind: str, module: str) -> None:
    """Write the files and print the next steps.

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
    names = {
        "own": packages[0],
        "folder": (SRC / packages[0]).relative_to(ROOT).as_posix(),
        "module": module,
        "name": "".join(map(str.capitalize, words)),
        "title": " ".join(words).capitalize(),
    }
    _check_name(kind, module, names["name"])
    files = {path.format(**names): text.format(**names) for path, text in FILES[kind].items()}
    for path, text in files.items():
        if path.endswith(".py") and (used := {names["name"], module} & _used_names(text)):
            raise UserError(f"{kind}={module}: the file uses the name {min(used)} itself; choose another name")
        if (ROOT / path).exists():
            raise UserError(f"{kind}={module}: {path} exists; choose another name")
    for path, text in files.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".py"):
            (ROOT / path).with_name("__init__.py").touch()
        (ROOT / path).write_text(text, encoding="utf-8")
        print(path)
    more = " objective.metric=val/loss objective.mode=min" if kind == "task" else ""
    print("next steps:")
    print(f"  {leyden_command('train')} {kind}={module}{more}")
    if (ROOT / "Makefile").exists():
        print(f"  make test ARGS={shlex.quote(f'-k {module}')}")


def _check_name(kind: str, module: str, class_name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", module) or keyword.iskeyword(module):
        raise UserError(f"{kind}={module}: must be the name of a Python module (a-z, 0-9 and _), such as capsule")
    from hydra.core.override_parser.overrides_parser import OverridesParser

    # The name is read by Hydra on the command line, and by YAML in a defaults list.
    values = OverridesParser.create().parse_override(f"{kind}={module}").value(), yaml.safe_load(module)
    if wrong := [value for value in values if not isinstance(value, str)]:
        raise UserError(f"{kind}={module}: is read as {wrong[0]}, not as a name; choose another name")
    if keyword.iskeyword(class_name):
        raise UserError(f"{kind}={module}: {class_name} can't be the name of a class; choose another name")


def _used_names(text: str) -> set[str]:
    """Return the names that the code of a module uses: what it imports, from where, and all other names."""
    used = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            used |= {alias.asname or alias.name for alias in node.names}
            modules = (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            )
            used |= {name.partition(".")[0] for name in modules}
        elif isinstance(node, ast.Name):
            used.add(node.id)
    return used
