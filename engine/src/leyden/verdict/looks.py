"""Looks at a comparison: asking again after more values spends a further part of the error rate.

A list has a row for each look. Who keeps it, reads it and appends to it.
"""

import hashlib
from collections.abc import Sequence

from leyden.verdict.groups import Group

FILE = "looks.csv"
LOOKS_HEADER = ("time", "comparison", "look", "runs", "values")
Seen = list[tuple[str, list[float]]]  # the values of each setting


def values_seen(parts: Sequence[Sequence[Group]], min_values: int) -> Seen:
    """Return the settings that a look compares, with their values; empty if no two can be compared.

    Args:
        parts: The settings that are compared with each other, those of each data set apart.
        min_values: Number of values from which on a setting is compared.
    """
    found = []
    for part in parts:
        tested = []
        for setting in part:
            values = sorted(setting.values.values())
            if len(values) >= min_values:
                tested.append((setting.name, values))
        if len(tested) > 1:
            found += tested
    return sorted(found)


def next_look(
    rows: Sequence[Sequence[str]], comparison: str, values: Seen
) -> tuple[int, str, bool]:
    """Return the number of a look, the digest of its values, and whether the list lacks it.

    The same values as before are the same look.

    Args:
        rows: The list, with the fields of `HEADER`; a damaged row may have fewer.
        comparison: Text that names the comparison.
        values: What is looked at, by `values_seen`.

    Example:
        >>> values = [("a", [0.1, 0.2]), ("b", [0.3, 0.4])]
        >>> number, digest, is_new = next_look([], "a and b", values)
        >>> number, is_new
        (1, True)
        >>> next_look([["today", "a and b", "1", "4", digest]], "a and b", values)[::2]
        (1, False)
    """
    text = repr(values)
    sha256 = hashlib.sha256(text.encode())
    digest = sha256.hexdigest()[:16]
    number = 1
    for row in rows:
        is_whole = len(row) == len(LOOKS_HEADER)
        if is_whole and row[1] == comparison:
            if row[4] == digest:
                return number, digest, False
            number += 1
    return number, digest, True
