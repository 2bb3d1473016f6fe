"""The printed result of a run, with suggested next commands; and the differences between two runs."""

import hashlib
import json
import math
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from leyden.config.errors import UserError
from leyden.config.paths import ROOT
from leyden.config.table import Row, json_text, print_table
from leyden.config.terminal import (
    leyden_command,
    program_command,
    python_command,
    quoted_override,
    relative_path,
    show,
)
from leyden.config.values import ABSENT, dict_at, differing, flatten
from leyden.report.held_out import count_line
from leyden.run.directory import Run, changed_names, trained_on
from leyden.run.files import first_difference, read_fingerprints
from leyden.run.identity import has_length, key_of
from leyden.run.result import Result
from leyden.verdict.numbers import metric_text


def show_difference(*directories: str, form: str = "table") -> None:
    """Print the differences between two runs, one line per key, or as JSON.

    Raises:
        UserError: There are not exactly two directories, or one is not a run directory.
    """
    if len(directories) != 2:
        raise UserError("diff: must be two run directories, such as diff=[outputs/a,outputs/b]")
    a, b = (Run(directory.strip()) for directory in directories)
    rows, lines = _difference_rows(a, b), _fingerprint_lines(a, b)
    if form == "json":
        print(json_text({"differences": rows, "fingerprints": lines}))
        return
    _print_rows(a, b, rows)
    if lines:
        show("\n".join(lines))


def _print_rows(a: Run, b: Run, rows: Sequence[Row]) -> None:
    names = [run.directory.name for run in (a, b)]
    if names[0] == names[1]:
        names = [str(relative_path(run.directory)) for run in (a, b)]
    print_differences(rows or [{"part": "nothing differs"}], *names)


def print_differences(rows: Sequence[Row], a: str, b: str) -> None:
    """Print rows of `difference_rows`: a part is named once, and values are JSON, which tells texts from numbers."""
    parts = [row["part"] for row in rows]
    shown = [
        {**row, "part": row["part"] if row["part"] != before else ""}
        | {name: json.dumps(row[name], default=str) for name in "ab" if name in row}
        for row, before in zip(rows, ["", *parts], strict=False)
    ]
    print_table(shown, names={"part": "", "key": "", "a": a, "b": b})


def _difference_rows(a: Run, b: Run, *, with_result: bool = True) -> list[Row]:
    """Return a row for each key in which two runs differ, by part; without their results, what can have changed these.

    Loggers can't, and `reproduce` takes the project's own.
    """
    configs = [
        {key: value for key, value in run.config.items() if with_result or key != "logger"} for run in (a, b)
    ]
    rows = difference_rows("configuration", *(dict(flatten(config)) for config in configs))
    data = trained_on(a), trained_on(b)
    if all(data):  # they can't be compared if one run did not record them
        rows += difference_rows("data", *data)
    for part, read in (("code", _code), ("machine", _machine), *[("result", _result)] * with_result):
        rows += difference_rows(part, read(a), read(b))
    return rows


def difference_rows(part: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Row]:
    """Return a row for each key whose values differ; a gap if one is missing."""
    return [
        {"part": part, "key": key}
        | {name: value for name, value in zip("ab", pair, strict=True) if value is not ABSENT}
        for key, pair in differing(a, b).items()
    ]


def _code(run: Run) -> dict[str, Any]:
    """Return the commit and uncommitted changes of the project, and package versions, of the last start."""
    start: dict[str, Any] = run.starts[-1] if run.starts else {}
    return {
        **_commit(dict_at(start, "git")),
        "python": start.get("python"),
        **dict_at(start, "versions"),
    }


def _commit(git: dict[str, Any]) -> dict[str, Any]:
    """Return a commit, and its uncommitted changes in short."""
    texts = json.dumps([git.get("diff"), git.get("left_out")])
    changes = f"yes, {hashlib.sha256(texts.encode()).hexdigest()[:12]}" if git.get("dirty") else git.get("dirty")
    return {"commit": git.get("sha"), "changes": changes}


def _machine(run: Run) -> dict[str, Any]:
    """Return the host and machine of the last start, with the values of its flags and variables."""
    start: dict[str, Any] = run.starts[-1] if run.starts else {}
    found: dict[str, Any] = {"host": start.get("host")}
    for key, value in dict_at(start, "machine").items():
        found |= (
            {f"{key}.{name}": each for name, each in value.items()} if isinstance(value, dict) else {key: value}
        )
    return found


def _result(run: Run) -> dict[str, Any]:
    """Return the status and metrics of a run."""
    result = run.result
    return {"status": "not ended"} if result is None else {"status": result.status, **result.metrics}


def show_equality(there: Run, here: Run) -> bool:
    """Print whether two runs are equal bit for bit, their other differences, and the differences of their metrics.

    Args:
        there: The original run.
        here: The reproduced run.

    Returns:
        Whether all common fingerprints are equal, the reproduced run has as many steps as the original, and their
        metrics are equal.

    Raises:
        UserError: A directory is not a run directory, or the runs have no fingerprints in common.
    """
    rows = _difference_rows(there, here, with_result=False)
    a, b = (read_fingerprints(run.directory) for run in (there, here))
    if not (lines := _fingerprint_lines(there, here)):
        raise UserError(
            f"no fingerprints in common: {there.directory} has {len(a)}, {here.directory} has {len(b)}, none of the same step"
        )
    difference, apart, is_as_long = first_difference(a, b), _metrics_apart(there, here), max(b) >= max(a)
    if names := changed_names(trained_on(there), trained_on(here)):
        lines.append(f"the data differ: {', '.join(names)}")
    if not is_as_long:
        lines.append(f"{here.directory} ends before the other run, at step {max(b)}")
    same_end = max(a) == max(b)  # only then can the final metrics be expected to be equal
    if apart and same_end and not difference:
        lines.append(
            "the metrics are not equal, though the fingerprints are: they were computed on different data, or in a different way"
        )
    lines += [f"{name}: {x:.6g} there, {y:.6g} here, {abs(x - y):.3g} apart" for name, (x, y) in apart.items()]
    show("\n".join(lines))
    if rows:
        _print_rows(there, here, rows)
    return not difference and is_as_long and not (apart and same_end)


def _fingerprint_lines(there: Run, here: Run) -> list[str]:
    """Return in words whether two runs' fingerprints are equal, and which only one has; empty without common steps."""
    a, b = (read_fingerprints(run.directory) for run in (there, here))
    if not (common := sorted({*a} & {*b})):
        return []
    count = _count_fingerprints(common)
    if difference := first_difference(a, b):
        step, parts = difference
        before = [each for each in common if each < step]
        since = f"equal until step {before[-1]}" if before else "there is no earlier fingerprint"
        lines = [f"diverged: step {step} is the first fingerprint that differs, in {', '.join(parts)}; {since}"]
    else:
        over = f"all {count}" if {*a} == {*b} else f"the {count} that both have"
        lines = [f"equal, bit for bit, over {over}, up to step {common[-1]}"]
    for run, only in ((there, {*a} - {*b}), (here, {*b} - {*a})):
        if only:
            lines.append(
                f"only in {run.directory}: {_count_fingerprints(only)}, from step {min(only)} to {max(only)}"
            )
    return lines


def _count_fingerprints(steps: Collection[int]) -> str:
    return f"{len(steps)} fingerprint{'s' * (len(steps) != 1)}"


def _metrics_apart(there: Run, here: Run) -> dict[str, tuple[float, float]]:
    """Return the common metrics that differ, except those of time."""
    a, b = (run.result.metrics if run.result else {} for run in (there, here))
    pairs = {name: (a[name], b[name]) for name in a if name in b and not name.startswith("time/")}
    return {name: (x, y) for name, (x, y) in pairs.items() if x != y and not (math.isnan(x) and math.isnan(y))}


def _next_steps(run: Run, result: Result) -> Iterator[tuple[str, str]]:
    """Yield suggested commands for the current working directory, each with its purpose."""
    where = relative_path(run.directory)
    if any(run.directory.glob("*/events.out.tfevents.*")):
        program = program_command("tensorboard") or f"{python_command()} -m tensorboard.main"
        yield f"{program} {shlex.quote(f'--logdir={where}')}", "view it"
    if "debug" in map(key_of, run.overrides):
        return
    if result.can_be_tested and not result.is_tested:
        yield f"{leyden_command('evaluate')} {quoted_override('run', where)}", "evaluate it on the test set"
    # The other jobs of a sweep train as long as this one.
    if result.epochs == run.config["trainer"]["max_epochs"] and not has_length(run.config) and not run.is_of_sweep:
        longer = f"trainer.max_epochs={2 * result.epochs}"
        yield f"{leyden_command('train')} {quoted_override('run_dir', where)} {longer}", "train on"
    is_found = run.directory.is_relative_to(ROOT / "outputs")  # where `leyden runs` searches by default
    folder = "" if is_found else f" {shlex.quote(str(relative_path(run.directory.parent)))}"
    yield f"{leyden_command('runs')}{folder}", "all runs so far"


def print_result(run: Run, result: Result, *, show_next_steps: bool) -> None:
    """Print the metrics of an ended run, its directory, and, if requested, at most three suggested next commands."""
    rows = []
    if result.status == "fast_dev_run":
        rows.append(("status", "trial only (trainer.fast_dev_run): this is not a finished run"))
    if result.objective:
        number = "" if result.best_epoch is None else f"{result.best_epoch}, "
        rows.append(("best epoch", f"{number}by {result.objective.metric}"))
    for name, value in result.metrics.items():
        rows.append((name, f"{value:,}" if isinstance(value, int) else metric_text(value)))
    rows.append(("epochs", str(result.epochs)))
    if result.seconds is not None:
        rows.append(("time", f"{result.seconds:.1f} s"))
    if result.samples_per_second is not None:
        rows.append(("speed", f"{result.samples_per_second:,.0f} samples/s"))
    print_table([{"name": name, "value": text} for name, text in rows], header=False)
    show(f"run directory: {relative_path(run.directory)}")
    if result.is_tested and (line := count_line(run)):
        show(line)
    # A command has its own line, to be copied; zsh does not accept a trailing comment.
    steps = [f"  {purpose}:\n    {command}" for command, purpose in islice(_next_steps(run, result), 3)]
    if show_next_steps and steps and result.status == "finished":
        show("\n".join(["next steps:", *steps]))
