"""The project: copies of it, and the worked example by what `conf/` names, as the engine's tests don't know its package."""

import importlib.util
import shutil
import subprocess

import yaml
from hydra.utils import get_object

from leyden.base.paths import own_packages
from tests import CONF, ROOT

OWN = own_packages()[0]


def _target(choice, *keys):
    node = yaml.safe_load((CONF / f"{choice}.yaml").read_text())
    for key in keys:
        node = node[key]
    return get_object(node["_target_"])


MLP = _target("model/mlp")
RMSprop = _target("optimizer/keras_rmsprop")
DATA = ("mnist", "fashion_mnist", "emnist", "diamonds")
MNIST, FashionMNIST, EMNIST, Diamonds = (_target(f"data/{name}", "dataset") for name in DATA)
mnist = importlib.import_module(MNIST.__module__)
fashion_mnist = importlib.import_module(FashionMNIST.__module__)


def script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def git(folder, *arguments):
    who = ("-c", "user.name=me", "-c", "user.email=me@here")
    return subprocess.check_output(["git", *who, *arguments], cwd=folder, text=True)


def commit(folder, message="mine"):
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", message)


def copy_to(folder):
    """Copy the project as git has it, changes included; returns the folder."""
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")[
        :-1
    ]
    for file in filter(lambda file: (ROOT / file).is_file(), listed):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, folder / file)
    git(folder, "init", "-q")
    return folder
