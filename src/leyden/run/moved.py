"""What older run directories call otherwise, and what it is called now."""

import functools
import importlib.util
import sys
from typing import Any

from leyden.config.paths import SRC, own_packages

# Where the worked example was part of the engine: what is the project's own now stands behind its package.
MOVED = {
    "leyden.data.datamodule.Image": "leyden.data.in_memory.InMemory",
    "leyden.data.images.Image": "leyden.data.in_memory.InMemory",
    "leyden.models.": "{own}.models.",
    "leyden.optim.": "{own}.optimizers.rmsprop.",
    "leyden.data.mnist.": "{own}.data.mnist.",
    "leyden.data.fashion_mnist.": "{own}.data.fashion_mnist.",
    "leyden.data.emnist.": "{own}.data.emnist.",
}


def modern(config: dict[str, Any]) -> dict[str, Any]:
    """A plain configuration as it would be kept today."""
    config = dict(with_new_names(config))
    if "label_smoothing" in config and "task" not in config:  # there was one task
        smoothing = config.pop("label_smoothing")
        config["task"] = {"_target_": "leyden.tasks.classification.Classification", "label_smoothing": smoothing}
    return config


def with_new_names(node: Any) -> Any:
    """A plain configuration whose targets are those of today.

    Example:
        >>> with_new_names({"_target_": "leyden.data.datamodule.ImageDataModule"})
        {'_target_': 'leyden.data.in_memory.InMemoryDataModule'}
    """
    if isinstance(node, list):
        return [with_new_names(value) for value in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _new(value) if key == "_target_" and isinstance(value, str) else with_new_names(value)
        for key, value in node.items()
    }


@functools.cache  # of thousands of runs most have the same
def _new(target: str) -> str:
    for old, new in MOVED.items():
        if target.startswith(old):
            return (
                _in_own_package(new, target.removeprefix(old)) if "{own}" in new else new + target.removeprefix(old)
            )
    package, _, rest = target.partition(".")
    is_known = (
        package in sys.modules or importlib.util.find_spec(package) is not None if package.isidentifier() else True
    )
    if not is_known:  # the owner's package had another name when the run was made
        return _in_own_package("{own}.", rest, otherwise=target)
    return target


def _in_own_package(pattern: str, rest: str, otherwise: str | None = None) -> str:
    """The name in the package beside the engine that has such a module."""
    names = [pattern.format(own=own) + rest for own in own_packages()]
    for name in names:
        if (SRC / (name.rpartition(".")[0].replace(".", "/") + ".py")).exists():
            return name
    return otherwise or (names[0] if names else pattern + rest)
