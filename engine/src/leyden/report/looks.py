"""Looks at a comparison, counted in a list beside the runs or the table, and plans of them."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from leyden.base.errors import UserError
from leyden.base.terminal import one_line, warn
from leyden.run.files import appending, read_json, read_rows, write_json
from leyden.run.provenance import now
from leyden.verdict.difference import FIRST, Look
from leyden.verdict.groups import MIN_VALUES, Group
from leyden.verdict.reports import Report

LOOKS_FILE = "looks.csv"
LOOKS_HEADER = ("time", "comparison", "look", "runs", "values")
PLAN_FILE = "plan.json"
MAX_LOOKS = 20  # of a plan
Found = TypeVar("Found", bound=Report)
SettingParts = Sequence[Sequence[Group]]


def at_its_look(
    folder: Path | None,
    name: Callable[[Any], str],
    ask: Callable[[Look], Found],
    min_values: int = MIN_VALUES,
) -> tuple[Found, Look]:
    """Return a verdict at the look that it is, which is recorded, and this look.

    Args:
        folder: As in `count_look`.
        name: Returns the text that names the comparison, of the verdict at the first look.
        ask: Returns the verdict at a look.
        min_values: As in `count_look`.
    """
    found = ask(FIRST)
    look = count_look(folder, name(found), found.compared(), min_values)
    return (found if look == FIRST else ask(look)), look


def count_look(
    folder: Path | None, comparison: str, parts: SettingParts, min_values: int = MIN_VALUES
) -> Look:
    """Return this look at a comparison, and record it in a folder.

    The same values as before are the same look. If the list can't be written, a warning says so.
    Looks at a copy of the folder, or at a folder above it, are other looks. Nothing is counted
    where no two settings have enough runs.

    Args:
        folder: Folder of the compared runs, or of the table; None if it is another person's: then
            this is the first look.
        comparison: Text that names the comparison.
        parts: The settings that are compared with each other, those of each data set apart.
        min_values: Number of values from which on a setting is compared.
    """
    values = values_seen(parts, min_values)
    if not values or folder is None:
        return FIRST
    path = folder / LOOKS_FILE
    comparison = one_line(comparison)
    try:
        with appending(path, LOOKS_HEADER) as (rows, append):
            number, digest, is_new = next_look(rows, comparison, values)
            if is_new:
                num_runs = sum(len(each) for _, each in values)
                append([now(), comparison, str(number), str(num_runs), digest])
    except OSError as error:
        warn(
            f"{path} can't be written ({error.strerror}): this counts as the first look, also if "
            "there were others"
        )
        return FIRST
    return Look(number, planned_looks(folder))


def values_seen(parts: SettingParts, min_values: int) -> list[tuple[str, list[float]]]:
    """Return the settings that a look compares, with their values; empty if no two can be.

    Args:
        parts: As in `count_look`.
        min_values: As in `count_look`.
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
    rows: Sequence[Sequence[str]], comparison: str, values: Sequence[tuple[str, Sequence[float]]]
) -> tuple[int, str, bool]:
    """Return the number of a look, the digest of its values, and whether the list lacks it.

    Args:
        rows: The list, with the fields of `LOOKS_HEADER`; a damaged row may have fewer.
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


def planned_looks(folder: Path) -> int:
    """Return the number of looks that were planned for a folder before the first one; else 0.

    Raises:
        UserError: The plan is damaged.
    """
    path = folder / PLAN_FILE
    plan = read_json(path, {})
    looks = None
    if isinstance(plan, dict):
        looks = plan.get("looks", 0)
    if type(looks) is not int or not 0 <= looks <= MAX_LOOKS:
        raise UserError(f"{path}: looks= must be a whole number up to {MAX_LOOKS}")
    return looks


def write_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Write a plan into a folder, whose looks `compare` and `summarize` then spend the level on.

    Raises:
        UserError: Somebody has looked already, so a plan would come too late.
    """
    if read_rows(folder / LOOKS_FILE):
        raise UserError(
            f"{folder}/{LOOKS_FILE}: results were looked at already, so a plan comes too late; "
            "name another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / PLAN_FILE, {"time": now(), **plan})
