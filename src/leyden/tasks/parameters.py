"""Parameters by patterns of their names: those that are frozen, and groups with options of their own."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

MAX_LISTED = 6


def matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Those of the names that match one of the patterns.

    Raises:
        ValueError: A pattern matches none of them.

    Example:
        >>> matching(["network.0.weight", "network.0.bias", "network.2.bias"], ["network.0.*", "*.bias"])
        ['network.0.weight', 'network.0.bias', 'network.2.bias']
    """
    names = list(names)
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"{pattern} matches none of {listed(names)}")
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def listed(texts: Sequence[str]) -> str:
    """Texts in a line, of many the first ones.

    Example:
        >>> listed([str(number) for number in range(9)])
        '0, 1, 2, 3, 4, 5 and 3 more'
    """
    more = f" and {len(texts) - MAX_LISTED} more" if len(texts) > MAX_LISTED else ""
    return ", ".join(texts[:MAX_LISTED]) + more


def freeze(module: nn.Module, patterns: Sequence[str]) -> None:
    """Let what matches stay as it is in training, whoever makes the optimizer: parameters and running statistics.

    A layer whose `running_mean` matches, as that of a BatchNorm does by `network.layers.1.*` and does not by `*.weight`, is
    in evaluation mode in training, too: it normalises by its running statistics, which stay. Where the parameters of such
    a layer match alone, these stay, and its statistics go on to follow the batches.

    Args:
        module: Of which the parameters and running statistics are.
        patterns: Of their names, as `state_dict()` has them.

    Raises:
        ValueError: A pattern matches nothing, or nothing is left to train.

    Example:
        >>> layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 3))
        >>> freeze(layers, ["1.*", "0.weight"])
        >>> layers[1].training, [name for name, parameter in layers.named_parameters() if parameter.requires_grad]
        (False, ['0.bias', '2.weight', '2.bias'])
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    statistics = [name for name, _ in module.named_buffers() if name.endswith("running_mean")]
    for name in matching([*parameters, *statistics], patterns):
        if name in parameters:
            parameters[name].requires_grad_(False)
        else:
            # Of this layer alone; Lightning gives it back after each validation.
            module.get_submodule(name.rpartition(".")[0]).training = False
    if patterns and not any(parameter.requires_grad for parameter in module.parameters()):
        raise ValueError("leaves no parameter to train")


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], groups: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What an optimizer takes: the parameters that match a group, with its options; and before them all others.

    Args:
        named: Names and parameters, as `named_parameters()` of the task gives them: `network.layers.1.weight`.
        groups: By a name of your choice: `match`, a pattern or a list of those (`*.bias`), and options of the optimizer
            (`lr`, `weight_decay`). A parameter is in the first group that it matches.

    Raises:
        ValueError: A group has no `match`, or a pattern of it matches nothing that the groups before it have left; or it is
            to freeze, which is not the optimizer's to do.

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
            raise ValueError(f"groups.{name}: must have match, a pattern of names, as *.bias")
        patterns = [group["match"]] if isinstance(group["match"], str) else list(group["match"])
        if "freeze" in group:
            raise ValueError(
                f"groups.{name}.freeze: is a key of the root, for any optimizer: freeze=[{','.join(patterns)}]"
            )
        try:
            chosen = {key: left.pop(key) for key in matching(left, patterns)}
        except ValueError as error:
            raise ValueError(f"groups.{name}: {error}") from error
        options = {key: value for key, value in group.items() if key != "match"}
        made.append({"params": list(chosen.items()), **options})
    return [{"params": list(left.items())}, *made] if left else made
