"""Configurations of many runs, which share the values that they have in common."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from leyden.run.record import with_current_targets

MAX_CHANGED = 16  # values in which a configuration differs from the one that it shares the others with


class FlatConfig(Mapping[str, Any]):
    """A flat configuration, with targets under the project package's current name.

    Args:
        base: Values of all keys.
        changed: Values that differ from those, and of further keys.

    Example:
        >>> dict(FlatConfig({"seed": 0, "optimizer.lr": 0.1}, {"seed": 3}))
        {'seed': 3, 'optimizer.lr': 0.1}
    """

    __slots__ = ("base", "changed")

    def __init__(self, base: dict[str, Any], changed: dict[str, Any]) -> None:
        self.base, self.changed = base, changed

    def __getitem__(self, key: str) -> Any:
        return self.changed[key] if key in self.changed else self.base[key]

    def __contains__(self, key: object) -> bool:
        return key in self.changed or key in self.base

    def __iter__(self) -> Iterator[str]:
        return iter({**self.base, **self.changed})

    def __len__(self) -> int:
        return len({**self.base, **self.changed})


class SharedConfigs:
    """Makes flat configurations that share the values of the latest one with the same keys."""

    def __init__(self) -> None:
        self._bases: dict[tuple[str, ...], tuple[dict[str, Any], dict[str, Any]]] = {}

    def share(self, recorded: dict[str, Any]) -> FlatConfig:
        """Return a recorded flat configuration."""
        keys = tuple(recorded)
        if keys in self._bases:
            base, current = self._bases[keys]
            # Of 1, 1.0 and true, which are equal, the types differ.
            changed = {
                key: value
                for (key, value), other in zip(recorded.items(), base.values(), strict=True)
                if value != other
                or type(value) is not type(other)
                or (type(value) is list and repr(value) != repr(other))
            }
            if len(changed) <= MAX_CHANGED:
                return FlatConfig(current, with_current_targets(changed))
        self._bases[keys] = recorded, with_current_targets(recorded)
        return FlatConfig(self._bases[keys][1], {})


def keys_to_compare(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys of mappings, without those that have the same value in all by a base that they share."""
    flat = [config for config in configs if isinstance(config, FlatConfig)]
    bases = {id(config.base): config.base for config in flat}
    if len(flat) < len(configs) or len(bases) != 1:
        return [*dict.fromkeys(key for config in configs for key in config)]
    (base,) = bases.values()
    changed = dict.fromkeys(key for config in flat for key in config.changed)
    return [*(key for key in base if key in changed), *(key for key in changed if key not in base)]
