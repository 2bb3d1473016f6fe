"""Parameters in groups, by patterns of their names: options of their own."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from leyden.tasks.patterns import matching


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
