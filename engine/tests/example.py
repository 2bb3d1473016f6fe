"""The worked example by what `conf/` names: the engine's tests don't know the package that it lies in."""

import importlib

import yaml
from hydra.utils import get_object

from leyden.config.paths import CONF, own_packages

OWN = own_packages()[0]


def _target(choice, *keys):
    node = yaml.safe_load((CONF / f"{choice}.yaml").read_text())
    for key in keys:
        node = node[key]
    return get_object(node["_target_"])


MLP = _target("model/mlp")
RMSprop = _target("optimizer/keras_rmsprop")
MNIST, FashionMNIST, EMNIST, Diamonds = (
    _target(f"data/{name}", "dataset") for name in ("mnist", "fashion_mnist", "emnist", "diamonds")
)
mnist, fashion_mnist = (importlib.import_module(made.__module__) for made in (MNIST, FashionMNIST))
