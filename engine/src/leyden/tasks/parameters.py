"""Selection of parameters by name patterns: frozen parameters, and parameter groups with their own options."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from leyden.config.terminal import some_of


def match_names(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Return the names that match at least one of the patterns.

    Raises:
        ValueError: A pattern matches no name.

    Example:
        >>> match_names(["network.0.weight", "network.0.bias", "network.2.bias"], ["network.0.*", "*.bias"])
        ['network.0.weight', 'network.0.bias', 'network.2.bias']
    """
    names = list(names)
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"{pattern} matches none of {some_of(names)}")
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def freeze(module: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the matching parameters and running statistics, independently of the optimizer.

    A layer whose `running_mean` matches is kept in evaluation mode during training, so that it normalises by its
    running statistics and does not update them. For a BatchNorm, `network.layers.1.*` matches it, and `*.weight`
    does not. If only such a layer's parameters match, they are frozen, but its statistics are still updated.

    Args:
        module: Module with the parameters and running statistics.
        patterns: Patterns of their names, as in `state_dict()`.

    Raises:
        ValueError: A pattern matches nothing, or no parameter is left to train.

    Example:
        >>> layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 3))
        >>> freeze(layers, ["1.*", "0.weight"])
        >>> layers[1].training, [name for name, parameter in layers.named_parameters() if parameter.requires_grad]
        (False, ['0.bias', '2.weight', '2.bias'])
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    statistics = [name for name, _ in module.named_buffers() if name.endswith("running_mean")]
    for name in match_names([*parameters, *statistics], patterns):
        if name in parameters:
            parameters[name].requires_grad_(False)
        else:
            # Not of its submodules; Lightning restores each layer's mode after a validation.
            module.get_submodule(name.rpartition(".")[0]).training = False
    if patterns and not any(parameter.requires_grad for parameter in module.parameters()):
        raise ValueError("leaves no parameter to train")


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], groups: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return an optimizer's parameter groups: the ungrouped parameters, then each group with its options.

    Args:
        named: Names and parameters, from the task's `named_parameters()`: `network.layers.1.weight`.
        groups: Groups by arbitrary name: `match`, a pattern or a list of patterns (`*.bias`), and options of the
            optimizer (`lr`, `weight_decay`). A parameter belongs to the first group that it matches.

    Raises:
        ValueError: A group has no `match`, one of its patterns matches none of the parameters left by earlier
            groups, or it has the option `freeze`, which is not an optimizer's.

    Example:
        >>> groups = {"biases": {"match": "*.bias", "weight_decay": 0.0}}
        >>> [len(group["params"]) for group in parameter_groups(nn.Linear(1, 1).named_parameters(), groups)]
        Traceback (most recent call last):
            ...
        ValueError: groups.biases: *.bias matches none of weight, bias
        >>> groups = {"biases": {"match": "*bias", "weight_decay": 0.0}}
        >>> [len(group["params"]) for group in parameter_groups(nn.Linear(1, 1).named_parameters(), groups)]
        [1, 1]
    """
    left = dict(named)
    made: list[dict[str, Any]] = []
    for name, group in groups.items():
        if not isinstance(group, Mapping) or not group.get("match"):
            raise ValueError(f"groups.{name}: must have match, a pattern of names, such as *.bias")
        patterns = [group["match"]] if isinstance(group["match"], str) else list(group["match"])
        if "freeze" in group:
            raise ValueError(
                f"groups.{name}.freeze: can't be set per group; set the root key "
                f"freeze=[{','.join(patterns)}] instead"
            )
        try:
            chosen = {key: left.pop(key) for key in match_names(left, patterns)}
        except ValueError as error:
            raise ValueError(f"groups.{name}: {error}") from error
        options = {key: value for key, value in group.items() if key != "match"}
        made.append({"params": list(chosen.items()), **options})
    return [{"params": list(left.items())}, *made] if left else made
