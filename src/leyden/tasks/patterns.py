"""Which parameters are meant: patterns of their names."""

import fnmatch
from collections.abc import Iterable, Sequence

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
