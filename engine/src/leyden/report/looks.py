"""Looks at a comparison, which are counted in a list beside the runs or the table."""

from collections.abc import Sequence
from pathlib import Path

from leyden.base.terminal import one_line, warn
from leyden.run.files import appending
from leyden.run.provenance import now
from leyden.verdict import looks
from leyden.verdict.groups import MIN_VALUES, Group


def count_look(
    folder: Path | None,
    comparison: str,
    parts: Sequence[Sequence[Group]],
    min_values: int = MIN_VALUES,
) -> int:
    """Return the number of this look at a comparison, and record it in a folder.

    The same values as before are the same look. If the list can't be written, a warning says so. Looks at a copy of the
    folder, or at a folder above it, are other looks. Nothing is counted where no two settings have enough runs.

    Args:
        folder: Folder of the compared runs, or of the table; None if it is another person's: then this is the first look.
        comparison: Text that names the comparison.
        parts: The settings that are compared with each other, those of each data set apart.
        min_values: Number of values from which on a setting is compared.
    """
    values = looks.values_seen(parts, min_values)
    if not values or folder is None:
        return 1
    path = folder / looks.FILE
    comparison = one_line(comparison)
    try:
        with appending(path, looks.LOOKS_HEADER) as (rows, append):
            number, digest, is_new = looks.next_look(rows, comparison, values)
            if is_new:
                num_runs = sum(len(each) for _, each in values)
                append([now(), comparison, str(number), str(num_runs), digest])
            return number
    except OSError as error:
        counted = "this counts as the first look, also if there were others"
        warn(f"{path} can't be written ({error.strerror}): {counted}")
        return 1
