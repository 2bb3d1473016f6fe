"""Plans of sweeps, by a typed deviation or by a pilot: runs, or a table in a file."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from leyden import verdict
from leyden.base.arguments import parse_number, parse_size
from leyden.base.errors import UserError
from leyden.report.looks import MAX_LOOKS, write_plan
from leyden.report.tables import is_table, table_of
from leyden.verdict.groups import Group
from leyden.verdict.planning import deviation_of

PLANNED = {  # options with their defaults
    "deviation": "",
    "difference": "0",
    "settings": "",
    "runs": "",
    "looks": "1",
    "seconds": "",
    "write": "",
}


@dataclass(frozen=True)
class Pilot:
    """Runs by which others are planned.

    Args:
        settings: Their settings.
        seconds: Seconds of each, as far as they are known.
    """

    settings: Sequence[Group]
    seconds: Sequence[float] = ()


def make_plan(place: Path | None, options: Mapping[str, str]) -> verdict.Plan:
    """Return the plan of a sweep, which is written into the folder `write`, if one is named.

    Args:
        place: A pilot, a folder with runs or a table in a file; None with a typed deviation.
        options: `PLANNED`, and of a table `metric`, `seed` and `ignore`.

    Raises:
        UserError: An option is missing or wrong, or the folder has looks already.
        TableError: As in `verdict.plan`.
    """
    if (place is None) != bool(options["deviation"]):
        raise UserError("either a pilot, a folder with runs or a table, or deviation= is needed")
    pilot = read_pilot(place, options) if place else Pilot([])
    settings = parse_number(options, "settings") or max(len(pilot.settings), 2)
    seconds = None
    if pilot.seconds:
        seconds = statistics.fmean(pilot.seconds)
    if options["seconds"]:
        seconds = parse_size(options, "seconds")
    freedom: float = math.inf
    left_out: Sequence[str] = ()
    if place:
        deviation, freedom, left_out = deviation_of(pilot.settings)
    else:
        deviation = parse_size(options, "deviation")
    looks = parse_number(options, "looks") or 1
    if looks > MAX_LOOKS:
        raise UserError(f"looks={looks}: must be at most {MAX_LOOKS}")
    found = verdict.plan(
        deviation,
        settings=settings,
        difference=parse_size(options, "difference"),
        runs=parse_number(options, "runs") or 0,
        looks=looks,
        seconds=seconds,
        freedom=freedom,
    )
    found = replace(found, left_out=left_out)
    if options["write"]:
        write_plan(Path(options["write"]), found.contents())
    return found


def read_pilot(place: Path, options: Mapping[str, str]) -> Pilot:
    """Return the runs in a folder, or those of a table in a file."""
    if is_table(place):
        return Pilot(table_of(place, options).sets[""])
    from leyden.report.ranking import groups_of, merge_rows, read_sweep
    from leyden.report.records import read_records

    records = read_records(place)
    rows = merge_rows(records, read_sweep(place)["average_over"])
    seconds = [record.seconds for record in records if record.seconds]
    return Pilot(groups_of([row for row in rows if row.finished]), seconds)
